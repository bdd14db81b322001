"""Where the time of one training step goes, in ms.

    python benchmarks/train_step.py [--models Ns T] [--image-size 320] [--batch-size 8] [--repeats 15]

Forward, assignment, loss, backward, optimizer and EMA on fixed random images with ten boxes each; medians, in
float32 and in bfloat16 (mixed precision).
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import defaultdict

import torch
from rich.console import Console
from rich.table import Table

from damoyolo.assemble import build
from damoyolo.boxes.assign import AlignedOTA
from damoyolo.boxes.types import Targets
from damoyolo.losses.criterion import Criterion
from damoyolo.training.ema import Ema
from damoyolo.training.optim import build_optimizer

PARTS = ("forward", "assignment", "loss", "backward", "optimizer", "EMA")


class Stopwatch:
    def __init__(self):
        self.ms = defaultdict(list)

    def __call__(self, part, run):
        start = time.perf_counter()
        result = run()
        self.ms[part].append((time.perf_counter() - start) * 1000)
        return result


class TimedAssigner(AlignedOTA):
    """AlignedOTA that tells how long it took."""

    def __call__(self, *args):
        start = time.perf_counter()
        assignment = super().__call__(*args)
        TimedAssigner.ms = (time.perf_counter() - start) * 1000
        return assignment


def measure(model, precision, image_size, batch_size, repeats):
    torch.manual_seed(0)
    detector = build(model).train().to(memory_format=torch.channels_last)
    optimizer = build_optimizer(detector, "sgd", weight_decay=5e-4, momentum=0.9)
    ema, criterion, watch = Ema(detector, 0.9998, 2000), Criterion(TimedAssigner()), Stopwatch()
    images = torch.rand(batch_size, 3, image_size, image_size).mul(255).to(memory_format=torch.channels_last)
    corner = torch.rand(batch_size, 10, 2) * image_size * 0.6
    boxes = torch.cat([corner, corner + 16 + torch.rand(batch_size, 10, 2) * image_size * 0.3], dim=2)
    targets = Targets.pad(list(boxes), list(torch.randint(80, (batch_size, 10))))
    for step in range(repeats + 3):
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            predictions = watch("forward", lambda: detector(images))
        losses = watch("loss", lambda predictions=predictions: criterion(predictions, targets))
        watch.ms["assignment"].append(TimedAssigner.ms)
        watch.ms["loss"][-1] -= TimedAssigner.ms
        optimizer.zero_grad(set_to_none=True)
        watch("backward", lambda losses=losses: losses.total.backward())
        watch("optimizer", optimizer.step)
        watch("EMA", lambda step=step: ema.update(step))
    return {part: statistics.median(watch.ms[part][3:]) for part in PARTS}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["Ns", "T"])
    parser.add_argument("--image-size", type=int, default=320)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=15)
    args = parser.parse_args()
    table = Table(
        title=f"One step in ms: {args.image_size} px, batch {args.batch_size}, channels_last, "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}"
    )
    for column in ("model", "precision", *PARTS, "together", "forward + backward"):
        table.add_column(column, justify="right")
    for model in args.models:
        for precision in ("float32", "bfloat16"):
            ms = measure(model, precision, args.image_size, args.batch_size, args.repeats)
            total = sum(ms.values())
            share = (ms["forward"] + ms["backward"]) / total
            numbers = (f"{ms[part]:.1f}" for part in PARTS)
            table.add_row(model, precision, *numbers, f"{total:.0f}", f"{share:.1%}")
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
