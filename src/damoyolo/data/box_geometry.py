"""Boxes mirrored, turned, sheared or copied inside their image: the geometric operations of SADA."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from random import Random

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from damoyolo.data.affine import warp
from damoyolo.data.blending import cut, paste
from damoyolo.data.resize import Size, Window, clip
from damoyolo.data.sample import Sample

FILL = (102, 115, 122)
"""RGB where a turned or sheared crop has no content."""
MOST_DEGREES, MOST_SHEAR_DEGREES, MOST_SHIFT_PX = 30.0, 15.0, 120.0
"""What level 10 means."""
GEOMETRIC_OPS = ("mirror", "rotate", "shear_x", "shear_y", "translate_x", "translate_y")


def change_geometry(
    sample: Sample, chosen: Sequence[int], name: str, level: int, rng: Random, clip_copies: bool = True
) -> Sample:
    """The sample with one of `GEOMETRIC_OPS` applied to the chosen boxes, all in the same direction.

    Crops are taken from the image as it was. Only the translations change boxes: they append copies.
    """
    direction = -1 if name != "mirror" and rng.random() < 0.5 else 1
    if name.startswith("translate"):
        shift = direction * level / 10 * MOST_SHIFT_PX
        shifts = (shift, 0.0) if name == "translate_x" else (0.0, shift)
        return _append_copies(sample, chosen, shifts, clip_copies)
    image = sample.image.copy()
    for box in sample.boxes[list(chosen)].tolist():
        window = _window(box)
        crop = cut(sample.image, window)
        if crop.size == 0:
            continue
        changed = cv2.flip(crop, 1) if name == "mirror" else _turn(crop, name, direction * level / 10)
        paste(cut(image, window), changed)
    return replace(sample, image=image)


def _turn(crop: UInt8[np.ndarray, "h w 3"], name: str, amount: float) -> UInt8[np.ndarray, "h w 3"]:
    """The crop rotated or sheared around its middle, by a share of the most."""
    height, width = crop.shape[:2]
    middle = np.array([(width - 1) / 2, (height - 1) / 2])
    matrix = np.eye(3)
    if name == "rotate":
        matrix[:2] = cv2.getRotationMatrix2D(middle.tolist(), -amount * MOST_DEGREES, 1)
    else:
        position = (0, 1) if name == "shear_x" else (1, 0)
        matrix[position] = -math.tan(math.radians(amount * MOST_SHEAR_DEGREES))
        matrix[:2, 2] = middle - matrix[:2, :2] @ middle
    turned = warp(crop, matrix, (height, width))
    inside = np.ones((height, width), dtype=np.uint8)
    turned[cv2.warpAffine(inside, matrix[:2], (width, height), flags=cv2.INTER_NEAREST) == 0] = FILL
    return turned


def _append_copies(
    sample: Sample, chosen: Sequence[int], shift: tuple[float, float], clip_copies: bool
) -> Sample:
    """The sample with copies of boxes, that far (x, y) from the originals."""
    place = _place_clipped if clip_copies else _place_whole
    image, boxes, labels = sample.image.copy(), [], []
    for number in chosen:
        source, target, box = place(sample.boxes[number], shift, sample.size)
        if box is None:
            continue
        boxes.append(box)
        labels.append(sample.labels[number])
        if target[2] > target[0] and target[3] > target[1]:
            paste(cut(image, target), cut(sample.image, source))
    if not boxes:
        return sample
    return replace(
        sample,
        image=image,
        boxes=np.concatenate([sample.boxes, np.stack(boxes)]),
        labels=np.concatenate([sample.labels, labels]),
    )


Place = tuple[Window, Window, Float32[np.ndarray, "xyxy=4"] | None]
"""Where a copy is taken from, where it goes, and its box; None where there is none to append."""


def _place_clipped(box: Float32[np.ndarray, "xyxy=4"], shift: tuple[float, float], size: Size) -> Place:
    """What of the shifted box lies in the image."""
    moved = clip((box + np.array(shift * 2, dtype=np.float32))[None], size)[0]
    target = _window(moved.tolist())
    x, y = round(shift[0]), round(shift[1])
    source = (target[0] - x, target[1] - y, target[2] - x, target[3] - y)
    empty = target[2] <= target[0] or target[3] <= target[1]
    return source, target, None if empty else moved


def _place_whole(box: Float32[np.ndarray, "xyxy=4"], shift: tuple[float, float], size: Size) -> Place:
    """The original's rule: the box keeps its size, and its far edges stay within the image."""
    height, width = size
    x1, y1, x2, y2 = _window(box.tolist())
    across, down = (
        _limit(far + by, side) - far for far, by, side in ((x2, shift[0], width), (y2, shift[1], height))
    )
    left, right = (int(_limit(edge + shift[0], width)) for edge in (x1, x2))
    top, bottom = (int(_limit(edge + shift[1], height)) for edge in (y1, y2))
    source = (x1, y1, x1 + right - left, y1 + bottom - top)
    moved = box + np.array([across, down] * 2, dtype=np.float32)
    return source, (left, top, right, bottom), moved if across or down else None


def _limit(value: float, most: int) -> float:
    return float(min(max(value, 0), most))


def _window(box: Sequence[float]) -> Window:
    """The box in whole pixels, truncated."""
    x1, y1, x2, y2 = (int(edge) for edge in box)
    return x1, y1, x2, y2
