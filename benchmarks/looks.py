"""What more looks at an image are worth: AP of weights on a validation split, plain, in tiles, and mirrored.

python benchmarks/looks.py DATA --weights W [--tile 256 ...]
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from damoyolo.assemble import load, open_finder
from damoyolo.data.formats import read_dataset
from damoyolo.evaluation import coco


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--split", default="val")
    parser.add_argument("--tile", type=int, nargs="*", default=[])
    args = parser.parse_args()
    card = load(args.weights).card
    dataset = read_dataset(args.data, args.split, class_names=card.class_names)
    ways = {"plain": {}, "--ensemble-flip": {"ensemble_flip": True}}
    ways |= {f"--tile {side}": {"tile": side} for side in args.tile}
    table = Table("looks", "AP", "AP50", "AP small", "ms an image", title=f"{len(dataset)} images")
    for name, options in ways.items():
        finder = open_finder(args.weights, device="cpu", score=card.spec.score_threshold, **options)
        begin = time.perf_counter()
        report = coco.evaluate(finder, dataset, batch_size=4)
        ms = 1e3 * (time.perf_counter() - begin) / len(dataset)
        numbers = (f"{each:.3f}" for each in (report.ap, report.ap50, report.ap_small))
        table.add_row(name, *numbers, f"{ms:.0f}")
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
