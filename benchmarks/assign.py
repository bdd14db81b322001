"""AlignedOTA against a straightforward per-image loop, in one run.

    python benchmarks/assign.py [--images 8] [--size 640] [--classes 80] [--repeats 5]

Both get the same predictions; the positives are compared before anything is timed.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from rich.console import Console
from rich.table import Table

from damoyolo.boxes.assign import AlignedOTA
from damoyolo.boxes.points import Pyramid
from damoyolo.boxes.types import Targets
from plain_assign import plain_aligned_ota


def batch(images, size, classes, boxes, seed=0):
    """Predictions of a half-trained detector: boxes near the truth, scores low except around it."""
    generator = torch.Generator().manual_seed(seed)

    def rand(*shape):
        return torch.rand(*shape, generator=generator)

    pyramid = Pyramid.of_image(size, size)
    points, strides = pyramid.points(), pyramid.point_strides()
    centre = rand(images, boxes, 2) * size
    extent = 8 + rand(images, boxes, 2) ** 2 * size * 0.4
    truth = torch.cat([centre - extent / 2, centre + extent / 2], dim=2)
    labels = torch.randint(classes, (images, boxes), generator=generator)
    nearest = torch.cdist(points.expand(images, -1, -1), centre).argmin(dim=2)
    aim = truth.gather(1, nearest[..., None].expand(-1, -1, 4))
    predicted = aim + (rand(images, len(points), 4) - 0.5) * 2 * strides[:, None]
    return rand(images, len(points), classes) ** 6, predicted, pyramid, Targets.pad(list(truth), list(labels))


def median_ms(run, repeats):
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append((time.perf_counter() - start) * 1000)
    return statistics.median(times)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--size", type=int, default=640)
    parser.add_argument("--classes", type=int, default=80)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    table = Table(
        title=f"AlignedOTA, {args.images} images of {args.size} px, {args.classes} classes, "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}"
    )
    for column in ("boxes per image", "loop ms", "ours ms", "times faster"):
        table.add_column(column, justify="right")
    assigner = AlignedOTA()
    for boxes in (20, 100):
        inputs = batch(args.images, args.size, args.classes, boxes)
        same = torch.equal(assigner(*inputs).gt_index, plain_aligned_ota(*inputs).gt_index)
        assert same, "the two assignments differ"
        ours = median_ms(lambda inputs=inputs: assigner(*inputs), 4 * args.repeats)
        loop = median_ms(lambda inputs=inputs: plain_aligned_ota(*inputs), args.repeats if boxes < 50 else 2)
        table.add_row(str(boxes), f"{loop:.1f}", f"{ours:.2f}", f"{loop / ours:.0f}")
    Console().print(table)


if __name__ == "__main__":
    main()
