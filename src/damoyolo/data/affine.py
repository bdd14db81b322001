"""Random rotation, zoom, shear and shift of an image and its boxes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from random import Random

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float64, UInt8

from damoyolo.data.resize import PAD

MIN_SIDE_PX = 2.0
MIN_AREA_SHARE = 0.1
MAX_ASPECT = 20.0
POLYGON_POINTS = 1000


def affine_matrix(
    rng: Random,
    canvas: int,
    target: int,
    degrees: float,
    translate: float,
    scale: tuple[float, float],
    shear: float,
) -> tuple[Float64[np.ndarray, "3 3"], float]:
    """A random map from pixels of a square `canvas` to pixels of a square `target`, and its zoom.

    The canvas is centred, rotated by -degrees .. degrees, zoomed by a factor in `scale`, sheared by
    -shear .. shear degrees on each axis, and its centre put at 0.5 - translate .. 0.5 + translate of the
    target's sides. The draws are angle, zoom, shear x, shear y, shift x, shift y, as in the reference.
    """
    angle = rng.uniform(-degrees, degrees)
    zoom = rng.uniform(*scale)
    shears = np.eye(3)
    shears[0, 1] = math.tan(math.radians(rng.uniform(-shear, shear)))
    shears[1, 0] = math.tan(math.radians(rng.uniform(-shear, shear)))
    rotation = np.eye(3)
    rotation[:2] = cv2.getRotationMatrix2D((0, 0), angle, zoom)
    matrix = shears @ rotation
    matrix[:2, 2] = matrix[:2, :2] @ (-canvas / 2, -canvas / 2)
    matrix[0, 2] += rng.uniform(0.5 - translate, 0.5 + translate) * target
    matrix[1, 2] += rng.uniform(0.5 - translate, 0.5 + translate) * target
    return matrix, zoom


def warp(
    image: UInt8[np.ndarray, "h w 3"], matrix: Float64[np.ndarray, "3 3"], target: int
) -> UInt8[np.ndarray, "t t 3"]:
    """The image as seen through `matrix` in a square of `target` pixels; grey where there is none."""
    return cv2.warpAffine(image, matrix[:2], (target, target), borderValue=(PAD,) * 3)


def transform_boxes(
    boxes: Float[np.ndarray, "n 4"], matrix: Float64[np.ndarray, "3 3"], target: int
) -> Float64[np.ndarray, "n 4"]:
    """Bounds of the transformed boxes' four corners, clipped to the target; they may become empty."""
    corners = boxes.astype(np.float64)
    centres = (corners[:, :2] + corners[:, 2:]) / 2 @ matrix[:2, :2].T + matrix[:2, 2]
    extents = (corners[:, 2:] - corners[:, :2]) / 2 @ np.abs(matrix[:2, :2]).T
    moved: Float64[np.ndarray, "n 4"] = np.concatenate([centres - extents, centres + extents], axis=1)
    return moved.clip(0, target)


def transform_polygons(
    polygons: Sequence[Float[np.ndarray, "k 2"]], matrix: Float64[np.ndarray, "3 3"], target: int
) -> Float64[np.ndarray, "n 4"]:
    """Bounds of what lies in the target of each transformed outline; zeros where nothing does.

    Each outline (x, y per row) is first resampled to 1000 points along its index. These boxes are tighter
    than those of `transform_boxes` where the masks of the objects are known.
    """
    boxes = np.zeros((len(polygons), 4))
    for box, polygon in zip(boxes, polygons, strict=True):
        position = np.linspace(0, len(polygon) - 1, POLYGON_POINTS)
        dense = np.stack([np.interp(position, np.arange(len(polygon)), axis) for axis in polygon.T], axis=1)
        points = dense @ matrix[:2, :2].T + matrix[:2, 2]
        inside = points[((points >= 0) & (points <= target)).all(axis=1)]
        if len(inside):
            box[:] = *inside.min(axis=0), *inside.max(axis=0)
    return boxes


def still_visible(
    before: Float[np.ndarray, "n 4"], after: Float[np.ndarray, "n 4"], zoom: float
) -> Bool[np.ndarray, " n"]:
    """Which boxes are worth keeping after an affine map with that zoom.

    Both sides over 2 px, more than a tenth of the zoomed area left, and sides within a ratio of 20.
    """
    width, height = (after[:, 2:] - after[:, :2]).T
    area = np.prod(before[:, 2:] - before[:, :2], axis=1) * zoom**2
    short, long = np.minimum(width, height), np.maximum(width, height)
    keep: Bool[np.ndarray, " n"] = (
        (short > MIN_SIDE_PX) & (long < MAX_ASPECT * short) & (width * height > MIN_AREA_SHARE * area)
    )
    return keep
