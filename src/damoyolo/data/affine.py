"""Random rotation, zoom, shear and shift of boxes, and images drawn through such maps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from random import Random

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, UInt8

from damoyolo.data.resize import Size, Window

MIN_SIDE_PX = 2.0
MIN_AREA_SHARE = 0.1
MAX_ASPECT = 20.0
POLYGON_POINTS = 1000
SUBPIXEL_BITS = 4


def affine_matrix(
    rng: Random,
    canvas: Size,
    target: Size,
    degrees: float,
    translate: float,
    scale: tuple[float, float],
    shear: float,
) -> tuple[Float64[np.ndarray, "3 3"], float]:
    """A random map from pixels of a `canvas` to pixels of a `target`, both (height, width), and its zoom.

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
    matrix[:2, 2] = matrix[:2, :2] @ (-canvas[1] / 2, -canvas[0] / 2)
    matrix[0, 2] += rng.uniform(0.5 - translate, 0.5 + translate) * target[1]
    matrix[1, 2] += rng.uniform(0.5 - translate, 0.5 + translate) * target[0]
    return matrix, zoom


def scaling(before: Size, after: Size) -> Float64[np.ndarray, "3 3"]:
    """The map of pixel positions that resizes an image; its corners stay corners."""
    (height, width), (new_height, new_width) = before, after
    x, y = new_width / width, new_height / height
    return np.array([[x, 0, (x - 1) / 2], [0, y, (y - 1) / 2], [0, 0, 1]])


def shift(x: int, y: int) -> Float64[np.ndarray, "3 3"]:
    """The map of pixel positions that moves them."""
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1.0]])


def outline(window: Window, matrix: Float64[np.ndarray, "3 3"]) -> Float32[np.ndarray, "corners=4 xy=2"]:
    """The corners of a window, the outer ones of its pixels, as positions seen through `matrix`."""
    x1, y1, x2, y2 = (edge - 0.5 for edge in window)
    corners = np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]])
    moved: Float32[np.ndarray, "corners=4 xy=2"] = corners @ matrix[:2, :2].T + matrix[:2, 2]
    return moved.astype(np.float32)


def is_seen(corners: Float32[np.ndarray, "corners=4 xy=2"], size: Size) -> bool:
    """Whether any part of a convex outline lies within an image of that size."""
    height, width = size
    area, _ = cv2.intersectConvexConvex(corners, outline((0, 0, width, height), np.eye(3)))
    return bool(area > 0)


def warp(
    image: UInt8[np.ndarray, "h w 3"], matrix: Float64[np.ndarray, "3 3"], size: Size
) -> UInt8[np.ndarray, "h2 w2 3"]:
    """The image as seen through `matrix`, continued beyond its edges by their colours."""
    height, width = size
    wide = cv2.cvtColor(image, cv2.COLOR_RGB2RGBA)  # OpenCV warps four channels much faster than three
    wide = cv2.warpAffine(wide, matrix[:2], (width, height), borderMode=cv2.BORDER_REPLICATE)
    return cv2.cvtColor(wide, cv2.COLOR_RGBA2RGB)


def paint(
    canvas: UInt8[np.ndarray, "h w 3"],
    image: UInt8[np.ndarray, "h2 w2 3"],
    matrix: Float64[np.ndarray, "3 3"],
    corners: Float32[np.ndarray, "corners=4 xy=2"],
) -> None:
    """Draw the image as seen through `matrix` within a convex outline, some of it on the canvas."""
    x1, y1, x2, y2 = _bounds(corners, canvas.shape)
    seen = shift(-x1, -y1) @ matrix
    u1, v1, u2, v2 = _bounds(outline((0, 0, x2 - x1, y2 - y1), np.linalg.inv(seen)), image.shape)
    part = image[max(v1 - 1, 0) : v2 + 1, max(u1 - 1, 0) : u2 + 1]
    inside = np.zeros((y2 - y1, x2 - x1), dtype=np.uint8)
    points = np.rint((corners - [x1, y1]) * 2**SUBPIXEL_BITS).astype(np.int32)
    cv2.fillConvexPoly(inside, points, 255, cv2.LINE_8, SUBPIXEL_BITS)
    warped = warp(part, seen @ shift(max(u1 - 1, 0), max(v1 - 1, 0)), inside.shape)
    cv2.copyTo(warped, inside, canvas[y1:y2, x1:x2])


def _bounds(corners: Float32[np.ndarray, "corners=4 xy=2"], size: tuple[int, ...]) -> Window:
    """x1, y1, x2, y2 of the pixels of an image that an outline touches, the last column and row outside."""
    height, width = size[:2]
    x1, y1 = corners.min(axis=0).tolist()
    x2, y2 = corners.max(axis=0).tolist()
    return (
        max(math.floor(x1), 0),
        max(math.floor(y1), 0),
        min(math.ceil(x2) + 1, width),
        min(math.ceil(y2) + 1, height),
    )


def transform_boxes(
    boxes: Float[np.ndarray, "n 4"], matrix: Float64[np.ndarray, "3 3"], target: Size
) -> Float64[np.ndarray, "n 4"]:
    """Bounds of the transformed boxes' four corners, clipped to the target; they may become empty."""
    corners = boxes.astype(np.float64)
    centres = (corners[:, :2] + corners[:, 2:]) / 2 @ matrix[:2, :2].T + matrix[:2, 2]
    extents = (corners[:, 2:] - corners[:, :2]) / 2 @ np.abs(matrix[:2, :2]).T
    moved: Float64[np.ndarray, "n 4"] = np.concatenate([centres - extents, centres + extents], axis=1)
    return moved.clip(0, [*target[::-1], *target[::-1]])


def transform_polygons(
    polygons: Sequence[Float[np.ndarray, "k 2"]], matrix: Float64[np.ndarray, "3 3"], target: Size
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
        inside = points[((points >= 0) & (points <= target[::-1])).all(axis=1)]
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
