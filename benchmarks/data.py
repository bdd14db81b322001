"""Images per second of the whole training pipeline: read, mosaic, mixup, affine map, SADA, mirror, collate.

    python benchmarks/data.py [--data path/to/coco-slice] [--images 400] [--size 640] [--threads 1 2]

The published settings of S, in one process without workers. Mosaic and affine map are also timed in the plain
way of `plain_mosaic.py`.
"""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import replace
from pathlib import Path
from random import Random

import cv2
from rich.console import Console
from rich.table import Table

from damoyolo.assemble.loading import augmentation
from damoyolo.config import AugmentConfig, TrainConfig
from damoyolo.data.augment import mirror
from damoyolo.data.formats import read_dataset
from damoyolo.data.images import read_sized
from damoyolo.data.loader import Batch, TrainingSet, TrainLoader
from damoyolo.data.resize import Resize
from damoyolo.data.source import Source
from damoyolo.plan import Plan
from plain_mosaic import plain_mosaic

EVERYTHING = augmentation(AugmentConfig(box_augment=0.3))
CACHE_MB = TrainConfig.model_fields["cache_mb"].default
BATCH = 16


def images_per_second(records, resize, augment, cache_mb, images):
    """The best of three runs after one that is not counted; late, when SADA is at its full strength."""
    loader = TrainLoader(TrainingSet(Source(records, cache_mb), resize, augment, seed=0), BATCH, workers=0)
    plan = Plan(steps=10**6, steps_per_epoch=loader.steps_per_epoch)
    best = 0.0
    for run in range(4):
        stream = loader.stream(plan.steps - 10**4, plan)
        start, done = time.perf_counter(), 0
        while done < images:
            done += len(next(stream).names)
        if run:
            best = max(best, done / (time.perf_counter() - start))
    return best


def milliseconds(work, times):
    """Mean time of `work`, called with 0, 1, 2 ...; the best of three runs after one that is not counted."""
    runs = []
    for _ in range(4):
        start = time.perf_counter()
        for number in range(times):
            work(number)
        runs.append((time.perf_counter() - start) / times * 1000)
    return min(runs[1:])


def parts(records, resize, times):
    """(what, milliseconds an image)."""
    source = Source(records, CACHE_MB)
    mosaic = replace(EVERYTHING, mixup=0.0, flip=0.0, boxes=None)
    sample = source.fitted(0, resize)
    samples = [
        mosaic(number % len(source), source, resize, Random(number), 1.0, False) for number in range(BATCH)
    ]
    yield (
        "read one image",
        lambda k: read_sized(records[k % len(records)].path, records[k % len(records)].size),
    )
    yield (
        "mosaic and affine map, cached",
        lambda k: mosaic(k % len(source), source, resize, Random(k), 1.0, False),
    )
    yield (
        "the same, canvas then warp",
        lambda k: plain_mosaic(mosaic, k % len(source), source, resize, Random(k)),
    )
    yield "SADA, at the end of a run", lambda k: EVERYTHING.boxes(samples[k % BATCH], 1.0, Random(k))
    yield "mirror, half of the time", lambda k: mirror(sample) if k % 2 else sample
    yield f"collate, batch of {BATCH} (per batch)", lambda k: Batch.collate(samples)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--data", type=Path, default=Path(os.environ.get("DAMOYOLO_DATA", ".")) / "coco-slice"
    )
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--size", type=int, default=640)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    args = parser.parse_args()
    if not args.data.exists():
        raise SystemExit(
            f"no data set in {args.data}; set DAMOYOLO_DATA to a folder with coco-slice, or --data"
        )
    records = read_dataset(args.data, "train").records
    resize = Resize("stretch", (args.size, args.size))
    table = Table(title=f"{len(records)} images, {args.size} px, OpenCV {cv2.__version__}: images per second")
    table.add_column("pipeline")
    for threads in args.threads:
        table.add_column(f"{threads} threads", justify="right")
    rows = (
        ("everything, no cache", EVERYTHING, 0),
        (f"everything, cache of {CACHE_MB} MiB", EVERYTHING, CACHE_MB),
        ("without SADA, no cache", replace(EVERYTHING, boxes=None), 0),
        (f"without SADA, cache of {CACHE_MB} MiB", replace(EVERYTHING, boxes=None), CACHE_MB),
    )
    for name, augment, cache_mb in rows:
        speeds = []
        for threads in args.threads:
            cv2.setNumThreads(threads)
            speeds.append(f"{images_per_second(records, resize, augment, cache_mb, args.images):.0f}")
        table.add_row(name, *speeds)
    Console().print(table)
    cv2.setNumThreads(args.threads[0])
    table = Table("part", "ms", title=f"parts, {args.threads[0]} threads")
    for name, work in parts(records, resize, args.images):
        table.add_row(name, f"{milliseconds(work, args.images):.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
