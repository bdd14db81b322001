"""What to train with, computed from a data set's boxes and the device: rules of thumb with their reasons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from damoyolo.data.dataset import Record
from damoyolo.data.doctor.annotations import DISTORTED, SMALL_SHARE, distortions, thinnest_sides
from damoyolo.spec import STRIDES
from damoyolo.zoo import read_spec

SIDES_PX = (320, 416, 512, 640, 800, 960, 1280)
"""Inputs that are considered, the cheapest first."""
ON_CPU = ((0, "Ns"), (5_000, "Nm"), (50_000, "Nl"))
ON_GPU = ((0, "T"), (2_000, "S"), (20_000, "M"))
"""Model size from a number of training images on: a larger one learns too much by heart from fewer."""
MANY = 20_000
"""Training images from which on the published recipe is worth its time."""


@dataclass(frozen=True)
class Advice:
    """A setting of a training, and why."""

    setting: str
    value: str
    reason: str


def advise(records: Sequence[Record], device: str) -> list[Advice]:
    """Image size, how to resize, model size and recipe for training images on a kind of device."""
    side, reason = choose_side(records)
    return [
        Advice("image_size", str(side), reason),
        _resize(records, side),
        _model(records, device),
        _recipe(records),
    ]


def choose_side(records: Sequence[Record]) -> tuple[int, str]:
    """The smallest input at which few boxes are thinner than a stride, none larger than the images; why."""
    longest = int(np.median([max(record.size) for record in records])) if records else SIDES_PX[0]
    largest = next((side for side in SIDES_PX if side >= longest), SIDES_PX[-1])
    shares = {}
    for side in SIDES_PX:
        sides = thinnest_sides(records, (side, side))
        shares[side] = float((sides < STRIDES[0]).mean()) if len(sides) else 0.0
        if shares[side] <= SMALL_SHARE or side >= largest:
            break
    text = f"{shares[side]:.1%} of the boxes are thinner than the finest stride, {STRIDES[0]} px, there"
    if shares[side] > SMALL_SHARE:
        text += (
            f"; a larger input adds no detail to images of {longest} px"
            if side >= longest
            else f"; cut images of {longest} px into tiles to see them"
        )
    elif side > SIDES_PX[0]:
        below = max(other for other in shares if other < side)
        text += f", but {shares[below]:.1%} at {below}"
    return side, text


def _resize(records: Sequence[Record], side: int) -> Advice:
    changes = distortions(records, (side, side))
    share = float((changes > DISTORTED).mean()) if len(changes) else 0.0
    text = f"stretching to a square changes the shape of {share:.0%} of the images by more than {DISTORTED}"
    return Advice("resize", "letterbox" if share > SMALL_SHARE else "stretch", text)


def _model(records: Sequence[Record], device: str) -> Advice:
    steps = ON_CPU if device == "cpu" else ON_GPU
    size = next(name for least, name in reversed(steps) if len(records) >= least)
    published = read_spec(size).published
    assert published is not None
    return Advice(
        "model",
        size,
        f"for {len(records)} training images and inference like here, on {device}: {published.params_m} M "
        f"parameters, {published.latency_ms} ms as published ({published.latency_on})",
    )


def _recipe(records: Sequence[Record]) -> Advice:
    if len(records) >= MANY:
        return Advice("recipe", "coco", f"{len(records)} training images are worth the published recipe")
    return Advice(
        "recipe",
        "quick",
        f"{len(records)} training images, from scratch; with trained weights as --model, finetune",
    )
