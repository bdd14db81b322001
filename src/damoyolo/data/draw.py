"""Pictures with boxes on them, for people. NumPy and OpenCV only."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from damoyolo.detections import Detections

Colour = tuple[int, int, int]

_FONT = cv2.FONT_HERSHEY_SIMPLEX
_GOLDEN_RATIO = 0.618034  # steps of this fraction of the colour circle never come close to each other


def colour_of(label: int) -> Colour:
    """The RGB colour of a class: always the same, bright, and far from those of neighbouring classes."""
    hue = (0.01 + label * _GOLDEN_RATIO) % 1
    saturation, value = ((0.85, 1.0), (0.6, 1.0), (1.0, 0.75))[label % 3]
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return round(red * 255), round(green * 255), round(blue * 255)


def draw(image: UInt8[np.ndarray, "h w 3"], detections: Detections) -> UInt8[np.ndarray, "h w 3"]:
    """A copy of the RGB image with every box in its class's colour, labelled "name score".

    Lines and letters grow with the image; a label stays inside it. Better boxes lie above worse ones.
    """
    picture = np.ascontiguousarray(image).copy()
    line = max(1, round(sum(image.shape[:2]) / 800))
    corners = [_whole_pixels(box, image.shape[:2]) for box in detections.boxes]
    colours = [colour_of(int(label)) for label in detections.labels]
    texts = [f"{name} {score:.2f}" for name, score in zip(detections.names, detections.scores, strict=True)]
    worst_first = range(len(detections) - 1, -1, -1)
    for i in worst_first:
        cv2.rectangle(picture, corners[i][:2], corners[i][2:], colours[i], line)
    for i in worst_first:
        _write(picture, texts[i], corners[i][:2], colours[i], line)
    return picture


def _write(
    picture: UInt8[np.ndarray, "h w 3"], text: str, corner: Sequence[int], colour: Colour, line: int
) -> None:
    """Text on a filled ground, above the corner (x, y) or, where that is outside, below it."""
    height, width = picture.shape[:2]
    scale = max(0.35, (height + width) / 2800)
    thickness = max(1, round(scale * 1.6))
    (text_width, text_height), below = cv2.getTextSize(text, _FONT, scale, thickness)
    pad = max(1, round(2 * scale))
    box_width, box_height = text_width + 2 * pad, text_height + below + 2 * pad
    x = max(0, min(corner[0] - line // 2, width - box_width))
    above = corner[1] - line // 2 - box_height
    y = max(0, min(above if above >= 0 else corner[1], height - box_height))
    cv2.rectangle(picture, (x, y), (x + box_width, y + box_height), colour, cv2.FILLED)
    ink = (0, 0, 0) if np.dot(colour, (0.299, 0.587, 0.114)) > 120 else (255, 255, 255)
    cv2.putText(picture, text, (x + pad, y + pad + text_height), _FONT, scale, ink, thickness, cv2.LINE_AA)


def _whole_pixels(box: Float32[np.ndarray, " 4"], size: tuple[int, ...]) -> list[int]:
    """The box on whole pixels inside the image."""
    height, width = size
    corners: list[int] = np.clip(np.round(box), 0, [width - 1, height - 1] * 2).astype(int).tolist()
    return corners
