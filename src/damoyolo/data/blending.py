"""Gaussians that fade a change out around a box, and blending by them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from damoyolo.data.resize import Size, Window

SIGMAS = 3.55
"""Where the Gaussian is below 1/512, so that not even a change of 255 is seen."""


def gaussians(
    boxes: Sequence[Sequence[float]], spreads: Sequence[float], size: Size
) -> tuple[Float32[np.ndarray, "rows columns"], Window]:
    """The sum, at most 1, of a Gaussian around each box, and the window out of which it is negligible.

    A Gaussian's area is `spread` times that of the box.
    """
    height, width = size
    curves = []
    for (x1, y1, x2, y2), spread in zip(boxes, spreads, strict=True):
        radius = math.sqrt(spread * height * width / (2 * math.pi))
        curves.append(
            (
                _curve(x1 + (x2 - x1) // 2, (x2 - x1) / width * radius, width),
                _curve(y1 + (y2 - y1) // 2, (y2 - y1) / height * radius, height),
            )
        )
    left, top = min(x for (x, _), _ in curves), min(y for _, (y, _) in curves)
    right = max(x + len(values) for (x, values), _ in curves)
    bottom = max(y + len(values) for _, (y, values) in curves)
    total = np.zeros((bottom - top, right - left), dtype=np.float32)
    for (x, across), (y, down) in curves:
        total[y - top : y - top + len(down), x - left : x - left + len(across)] += np.outer(down, across)
    return np.minimum(total, 1), (left, top, right, bottom)


def _curve(centre: float, sigma: float, side: int) -> tuple[int, Float32[np.ndarray, " n"]]:
    """First position and values of a Gaussian along a side, where it is not negligible."""
    first = max(0, math.floor(centre - SIGMAS * sigma))
    last = max(first + 1, min(side, math.ceil(centre + SIGMAS * sigma) + 1))
    distance = np.arange(first, last, dtype=np.float32) - np.float32(centre)
    return first, np.exp(-(distance**2) / np.float32(2 * max(sigma, 1e-3) ** 2))


def paste(part: UInt8[np.ndarray, "h w 3"], new: UInt8[np.ndarray, "h w 3"]) -> None:
    """Blend into a part of an image by a Gaussian whose area is that of the part."""
    height, width = part.shape[:2]
    sigma = math.sqrt(height * width / (2 * math.pi))
    left, across = _curve(float(width // 2), sigma, width)
    top, down = _curve(float(height // 2), sigma, height)
    seen = (left, top, left + len(across), top + len(down))
    blend(cut(part, seen), cut(new, seen), np.outer(down, across))


def blend(
    part: UInt8[np.ndarray, "h w 3"], new: UInt8[np.ndarray, "h w 3"], weights: Float32[np.ndarray, "h w"]
) -> None:
    """Move a part of an image towards `new`."""
    part[:] = cv2.blendLinear(part, new, 1 - weights, weights)


def cut(image: np.ndarray, window: Window) -> np.ndarray:
    """The part of an image in a window; a view."""
    x1, y1, x2, y2 = window
    return image[y1:y2, x1:x2]
