"""Where the time of one training step goes, and how much faster it is than the plain form, in one run.

    python benchmarks/train_step.py [--models Ns T] [--forms plain float32 ...] [--image-size 320]
                                    [--batch-size 8] [--repeats 15] [--threads 2]

Forward, assignment, loss, backward, optimizer and EMA on fixed random images with ten boxes each: medians in
ms over steps that take turns, so that a busy moment hits all forms alike. The forms:

    plain          the straightforward way: a loop over images for assignment, a parameter group and an EMA
                   update per tensor, PyTorch's own depthwise convolution, maps in contiguous memory
    contiguous     ours, in contiguous memory
    float32        ours, in channels-last memory: the default
    bfloat16       with autocast; what `--precision auto` takes where the CPU has instructions for it
    float16        with autocast and gradient scaling
    compiled       float32 with torch.compile; minutes to compile, so only when asked for
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import defaultdict

import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.amp.grad_scaler import GradScaler

from damoyolo.assemble import build
from damoyolo.boxes.assign import AlignedOTA
from damoyolo.boxes.types import Targets
from damoyolo.losses.criterion import Criterion
from damoyolo.nn.depthwise import DepthwiseConv2d
from damoyolo.training.ema import Ema
from damoyolo.training.optim import build_optimizer, set_learning_rate
from plain_assign import plain_aligned_ota

PARTS = ("forward", "assignment", "loss", "backward", "optimizer", "EMA")
FORMS = ("plain", "contiguous", "float32", "bfloat16", "float16", "compiled")
WARM_UP = 3


class TimedAssigner(AlignedOTA):
    """AlignedOTA that tells how long it took."""

    assign = AlignedOTA.__call__

    def __call__(self, *args):
        start = time.perf_counter()
        assignment = type(self).assign(self, *args)
        TimedAssigner.ms = (time.perf_counter() - start) * 1000
        return assignment


class PlainAssigner(TimedAssigner):
    """The loop over images, timed."""

    def assign(self, *args):
        return plain_aligned_ota(*args)


class PlainEma(Ema):
    """One update per tensor."""

    @torch.no_grad()
    def update(self, step):
        decay = self.decay_at(step)
        for average, source in zip(self._average, self._source, strict=True):
            average.mul_(decay).add_(source, alpha=1 - decay)


def plain_optimizer(model):
    """One group per tensor, updated one after another."""
    groups = [
        {"params": [each], "weight_decay": 5e-4 * (each.ndim > 1), "share": 1.0}
        for each in model.parameters()
    ]
    return torch.optim.SGD(groups, lr=0.0, momentum=0.9, nesterov=True, foreach=False)


class Step:
    """Everything that a training step of one form needs, and the times it took."""

    def __init__(self, model, form):
        torch.manual_seed(0)
        self.form, self.ms, self.step = form, defaultdict(list), 0
        self.precision = getattr(torch, form) if form in ("bfloat16", "float16") else torch.float32
        self.detector = build(model).train()
        if form not in ("plain", "contiguous"):
            self.detector.to(memory_format=torch.channels_last)
        self.criterion = Criterion(PlainAssigner() if form == "plain" else TimedAssigner())
        if form == "plain":
            for module in self.detector.modules():
                if isinstance(module, DepthwiseConv2d):
                    module.__class__ = nn.Conv2d
            self.optimizer, self.ema = plain_optimizer(self.detector), PlainEma(self.detector, 0.9998, 2000)
        else:
            self.optimizer = build_optimizer(self.detector, "sgd", weight_decay=5e-4, momentum=0.9)
            self.ema = Ema(self.detector, 0.9998, 2000)
        self.scaler = GradScaler("cpu", enabled=form == "float16")
        if form == "compiled":
            self.detector.backbone.compile()
            self.detector.neck.compile()

    def timed(self, part, run):
        start = time.perf_counter()
        result = run()
        self.ms[part].append((time.perf_counter() - start) * 1000)
        return result

    def __call__(self, images, targets):
        images = (
            images if self.form in ("plain", "contiguous") else images.to(memory_format=torch.channels_last)
        )
        with torch.autocast("cpu", self.precision, enabled=self.precision != torch.float32):
            predictions = self.timed("forward", lambda: self.detector(images))
        losses = self.timed("loss", lambda: self.criterion(predictions, targets))
        self.ms["assignment"].append(TimedAssigner.ms)
        self.ms["loss"][-1] -= TimedAssigner.ms
        self.optimizer.zero_grad(set_to_none=True)
        self.timed("backward", lambda: self.scaler.scale(losses.total).backward())
        self.timed("optimizer", self.update)
        self.timed("EMA", lambda: self.ema.update(self.step))
        self.step += 1

    def update(self):
        set_learning_rate(self.optimizer, 1e-6)
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def medians(self):
        return {part: statistics.median(self.ms[part][WARM_UP:]) for part in PARTS}


def measure(model, forms, image_size, batch_size, repeats):
    steps = {form: Step(model, form) for form in forms}
    images = torch.rand(batch_size, 3, image_size, image_size).mul(255)
    corner = torch.rand(batch_size, 10, 2) * image_size * 0.6
    boxes = torch.cat([corner, corner + 16 + torch.rand(batch_size, 10, 2) * image_size * 0.3], dim=2)
    targets = Targets.pad(list(boxes), list(torch.randint(80, (batch_size, 10))))
    for _ in range(repeats + WARM_UP):
        for step in steps.values():
            step(images, targets)
    return {form: step.medians() for form, step in steps.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["Ns", "T"])
    parser.add_argument(
        "--forms", nargs="+", choices=FORMS, default=[each for each in FORMS if each != "compiled"]
    )
    parser.add_argument("--image-size", type=int, default=320)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    table = Table(
        title=f"One step in ms: {args.image_size} px, batch {args.batch_size}, "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}"
    )
    for column in ("model", "form", *PARTS, "together", "forward + backward", f"than {args.forms[0]}"):
        table.add_column(column, justify="right")
    for model in args.models:
        measured = measure(model, args.forms, args.image_size, args.batch_size, args.repeats)
        first = sum(measured[args.forms[0]].values())
        for form, ms in measured.items():
            total = sum(ms.values())
            share = (ms["forward"] + ms["backward"]) / total
            numbers = (f"{ms[part]:.1f}" for part in PARTS)
            table.add_row(model, form, *numbers, f"{total:.0f}", f"{share:.1%}", f"{first / total:.2f}x")
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
