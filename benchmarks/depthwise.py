"""Gradients of depthwise convolutions: PyTorch's own against ours, in one run, on the CPU.

    python benchmarks/depthwise.py [--batch-size 8] [--repeats 7]

The layers are those of Ns at 320 px; forward and backward together, medians in ms, channels_last.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from damoyolo.nn.depthwise import DepthwiseConv2d

LAYERS = [(88, 160, 2), (160, 80, 2), (160, 40, 1), (288, 40, 2), (288, 20, 1), (400, 20, 1), (880, 20, 2)]
"""Channels, input side, stride; all 5x5."""


def step_ms(conv, images, repeats):
    times = []
    for _ in range(repeats + 2):
        x = images.detach().requires_grad_()
        start = time.perf_counter()
        out = conv(x)
        out.backward(out.detach())
        times.append((time.perf_counter() - start) * 1000)
    return statistics.median(times[2:])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    table = Table(title=f"5x5 depthwise, batch {args.batch_size}, {torch.get_num_threads()} threads")
    for column in ("channels", "side", "stride", "type", "PyTorch ms", "ours ms", "times faster"):
        table.add_column(column, justify="right")
    for channels, side, stride in LAYERS:
        for dtype in (torch.float32, torch.bfloat16):
            images = torch.randn(args.batch_size, channels, side, side, dtype=dtype)
            images = images.to(memory_format=torch.channels_last)
            ours = DepthwiseConv2d(channels, 5, stride).to(dtype)
            plain = nn.Conv2d(channels, channels, 5, stride, 2, groups=channels, bias=False).to(dtype)
            slow, fast = (step_ms(conv, images, args.repeats) for conv in (plain, ours))
            name = str(dtype).removeprefix("torch.")
            row = (channels, side, stride, name, f"{slow:.1f}", f"{fast:.1f}", f"{slow / fast:.1f}")
            table.add_row(*map(str, row))
    Console().print(table)


if __name__ == "__main__":
    main()
