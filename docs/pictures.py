"""Make the pictures of these pages with the tutorial's own commands: `python docs/pictures.py FOLDER`.

FOLDER is where the tutorial's commands were run, or a new one: what is missing there is made, the training
included. `COMMANDS` has for every picture what it comes from.
"""

from __future__ import annotations

import csv
import os
import shlex
import sys
from pathlib import Path

import cv2
import matplotlib
import numpy as np

from damoyolo.cli import main
from damoyolo.data.shapes import write_shapes

PICTURES = Path(__file__).parent.resolve() / "pictures"
WEIGHTS = "runs/shapes/best.safetensors"
COMMANDS = {
    "curves.png": (
        "train shapes --model Ns --image-size 160 --epochs 15 --evaluate-every 5 --augment.mosaic 0 "
        "--output runs/shapes"
    ),
    "predictions.jpg": f"predict 'shapes/images/val_000*.jpg' --weights {WEIGHTS} --output found",
    "assignment.jpg": f"inspect-assignment shapes --weights {WEIGHTS} --images 4 --output assigned",
    "front.png": (
        "search --space k1kx --front gflops --sizes 3 --max-gflops 8 --max-layers 28 --image-size 416 "
        "--num-classes 4 --candidates 100000 --output runs/front"
    ),
}
LEFT_BEHIND = {
    "curves.png": WEIGHTS,
    "predictions.jpg": "found/detections.json",
    "assignment.jpg": "assigned/assignment.json",
    "front.png": "runs/front/front.png",
}
"""What a command leaves when it has ended."""


def montage(files: list[Path], height: int) -> np.ndarray:
    """Pictures side by side, brought to a height in pixels."""
    rows = []
    for file in files:
        image = cv2.imread(str(file))
        width = round(image.shape[1] * height / image.shape[0])
        rows.append(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA))
    return np.hstack(rows)


def curves(metrics: Path, output: Path) -> None:
    """Loss of each epoch and AP of each evaluation, from a run's metrics.csv."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    with metrics.open() as file:
        records = list(csv.DictReader(file))
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(8, 2.6), layout="constrained")
    for part in ("total", "quality", "giou", "sides"):
        left.plot(
            [int(each["epoch"]) for each in records],
            [float(each[f"loss_{part}"]) for each in records],
            label=part,
        )
    measured = [each for each in records if each.get("ap")]
    for name in ("ap", "ap50"):
        right.plot(
            [int(each["epoch"]) for each in measured],
            [float(each[name]) for each in measured],
            marker="o",
            label=name.upper(),
        )
    left.set(title="loss", xlabel="epoch", ylim=(0, None))
    right.set(title="validation", xlabel="epoch", ylim=(0, 1))
    for axes in (left, right):
        axes.legend()
    figure.savefig(output, dpi=90)


def make(folder: Path) -> None:
    """All pictures, from what the commands leave in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    if not Path("shapes/val.json").exists():
        write_shapes("shapes", train=600, val=100, image_size=160)
    for name, command in COMMANDS.items():
        if not Path(LEFT_BEHIND[name]).exists() and main(shlex.split(command)):
            sys.exit(f"{name}: failed: damoyolo {command}")
    PICTURES.mkdir(exist_ok=True)
    curves(Path("runs/shapes/metrics.csv"), PICTURES / "curves.png")
    for name, pattern, count, height in (
        ("predictions", "found/val_*.jpg", 4, 220),
        ("assignment", "assigned/*.jpg", 2, 460),
    ):
        picture = montage(sorted(Path().glob(pattern))[:count], height)
        cv2.imwrite(str(PICTURES / f"{name}.jpg"), picture, [cv2.IMWRITE_JPEG_QUALITY, 85])
    front = cv2.imread("runs/front/front.png")
    cv2.imwrite(
        str(PICTURES / "front.png"), cv2.resize(front, None, fx=0.6, fy=0.6, interpolation=cv2.INTER_AREA)
    )


if __name__ == "__main__":
    make(Path(sys.argv[1]))
