"""Changes of colour, of a window of an image, by a level 0..10: the colour operations of SADA."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from jaxtyping import Float32, Real

from damoyolo.data.blending import cut
from damoyolo.data.resize import Window

GREY = np.array([0.2989, 0.587, 0.114], dtype=np.float32)
"""Weights of red, green and blue in the brightness."""
BLUR = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], dtype=np.float32) / 13
MOST_SOLARIZED = 0.4296875 * 255
"""What level 10 adds."""

Image = Real[np.ndarray, "h w 3"]
Part = Float32[np.ndarray, "rows columns 3"]


def autocontrast(image: Image, window: Window, level: int) -> Part:
    """Each channel's values of the whole image stretched to 0..255; the level does nothing."""
    low = image.min(axis=(0, 1)).astype(np.float32)
    high = image.max(axis=(0, 1)).astype(np.float32)
    gain = np.where(high > low, 255 / np.maximum(high - low, 1e-6), 1).astype(np.float32)
    return (_part(image, window) - np.where(high > low, low, 0)) * gain


def equalize(image: Image, window: Window, level: int) -> Part:
    """The values of the whole image spread evenly, each channel by itself; the level does nothing."""
    tables = []
    for channel in np.moveaxis(image, 2, 0):
        counts, _ = np.histogram(channel, bins=256, range=(0, 255))
        step = (counts.sum() - counts[counts > 0][-1]) // 255
        before = np.concatenate([[0], counts.cumsum()[:-1]])
        tables.append((before + step // 2) // step if step else np.arange(256))
    table = np.stack(tables, axis=-1).clip(0, 255).astype(np.uint8)
    return cv2.LUT(cut(image, window).astype(np.uint8), table[None]).astype(np.float32)


def solarize_add(image: Image, window: Window, level: int) -> Part:
    """The darker half of the values made brighter."""
    part = _part(image, window)
    part[part <= 127.5] += level / 10 * MOST_SOLARIZED
    return part


def colour(image: Image, window: Window, level: int) -> Part:
    """Towards grey at low levels, away from it at high ones."""
    factor = _factor(level)
    mixing = factor * np.eye(3) + (1 - factor) * np.tile(GREY, (3, 1))
    return _limited(cv2.transform(_part(image, window), mixing.astype(np.float32)), factor)


def contrast(image: Image, window: Window, level: int) -> Part:
    """Towards the mean brightness of the whole image at low levels, away from it at high ones."""
    factor = _factor(level)
    mean = float(np.dot(cv2.mean(image)[:3], GREY))
    return _limited(_part(image, window) * np.float32(factor) + np.float32((1 - factor) * mean), factor)


def brightness(image: Image, window: Window, level: int) -> Part:
    """Darker at low levels, brighter at high ones."""
    factor = _factor(level)
    return _limited(_part(image, window) * np.float32(factor), factor)


def sharpness(image: Image, window: Window, level: int) -> Part:
    """Blurred at low levels, sharpened at high ones."""
    factor = _factor(level)
    x1, y1, x2, y2 = window
    left, top = min(x1, 1), min(y1, 1)
    wide = _part(image, (x1 - left, y1 - top, x2 + 1, y2 + 1))
    blurred = cv2.filter2D(wide, -1, BLUR, borderType=cv2.BORDER_REFLECT_101)
    mixed = cv2.addWeighted(wide, factor, blurred, 1 - factor, 0)
    return _limited(mixed[top : top + y2 - y1, left : left + x2 - x1], factor)


def _factor(level: int) -> float:
    """Share of the image itself, from 0.1 at level 0 to 1.9 at level 10."""
    return level / 10 * 1.8 + 0.1


def _limited(part: Part, factor: float) -> Part:
    """Only what is moved away from the neutral image can leave 0..255."""
    return part.clip(0, 255) if factor > 1 else part


COLOUR_OPS: dict[str, Callable[[Image, Window, int], Part]] = {
    "autocontrast": autocontrast,
    "equalize": equalize,
    "solarize_add": solarize_add,
    "colour": colour,
    "contrast": contrast,
    "brightness": brightness,
    "sharpness": sharpness,
}
"""Each gives a window of the changed image, 0..255, from the whole image and a level 0..10."""


def _part(image: Image, window: Window) -> Part:
    return cut(image, window).astype(np.float32)
