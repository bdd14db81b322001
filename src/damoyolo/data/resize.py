"""One resize with one inverse, for training, evaluation, prediction and the exported runtime. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from jaxtyping import Float32, Int64, UInt8

from damoyolo.detections import Detections

Rule = Literal["stretch", "letterbox"]
Size = tuple[int, int]
"""(height, width) in pixels."""
Window = tuple[int, int, int, int]
"""x1, y1, x2, y2 in whole pixels; the last column and row are outside."""

THINNEST_PX = 0.01
"""Less than that is left of a box outside the image, or in a letterbox's padding, when it is clipped."""
PAD = 114
"""Grey value wherever a training or network image shows no photograph."""


@dataclass(frozen=True)
class Resize:
    """How an image comes to the network's `size`.

    `stretch` ignores the aspect ratio. `letterbox` keeps it to the nearest pixel, places the image at the
    top left and pads right and bottom.
    """

    rule: Rule
    size: Size

    def fitted(self, original: Size) -> Size:
        """Size of an image of size `original` after resizing, before padding."""
        if self.rule == "stretch":
            return self.size
        ratio = min(side / before for side, before in zip(self.size, original, strict=True))
        height, width = (
            min(side, max(1, round(before * ratio))) for side, before in zip(self.size, original, strict=True)
        )
        return height, width

    def content(self, image: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h2 w2 3"]:
        """The image at its fitted size, not padded; `image` itself where it has that size already."""
        height, width = self.fitted(size_of(image))
        return image if image.shape[:2] == (height, width) else cv2.resize(image, (width, height))

    def image(self, image: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h2 w2 3"]:
        """The image at exactly `size`; `image` itself where it has that size already."""
        content = self.content(image)
        bottom, right = (side - used for side, used in zip(self.size, size_of(content), strict=True))
        if bottom == right == 0:
            return content
        return cv2.copyMakeBorder(content, 0, bottom, 0, right, cv2.BORDER_CONSTANT, value=(PAD,) * 3)

    def boxes(self, boxes: Float32[np.ndarray, "n 4"], original: Size) -> Float32[np.ndarray, "n 4"]:
        """Boxes of an image of size `original` in pixels of the resized image."""
        resized: Float32[np.ndarray, "n 4"] = boxes * self._scale(original)
        return resized

    def invert(self, boxes: Float32[np.ndarray, "n 4"], original: Size) -> Float32[np.ndarray, "n 4"]:
        """Boxes of the resized image in pixels of the image of size `original`; not clipped to it."""
        restored: Float32[np.ndarray, "n 4"] = boxes / self._scale(original)
        return restored

    def _scale(self, original: Size) -> Float32[np.ndarray, "xyxy=4"]:
        """(x, y, x, y) factors; from the whole pixels of the fitted size, so that the inverse is exact."""
        fitted = self.fitted(original)
        y, x = (after / before for after, before in zip(fitted, original, strict=True))
        return np.array([x, y, x, y], dtype=np.float32)


def clip(boxes: Float32[np.ndarray, "n 4"], size: Size) -> Float32[np.ndarray, "n 4"]:
    """Boxes cut at the border of an image of that size; one that lies outside becomes empty."""
    height, width = size
    border = np.array([width, height, width, height], dtype=np.float32)
    clipped: Float32[np.ndarray, "n 4"] = np.clip(boxes, 0, border)
    return clipped


def to_original(
    boxes: Float32[np.ndarray, "n 4"],
    scores: Float32[np.ndarray, " n"],
    labels: Int64[np.ndarray, " n"],
    resize: Resize,
    original: Size,
    class_names: tuple[str, ...],
) -> Detections:
    """Boxes of the resized image in the original, clipped to it; where nothing is left, none."""
    boxes = clip(resize.invert(boxes, original), original)
    keep = (boxes[:, 2:] - boxes[:, :2] > THINNEST_PX).all(axis=1)
    return Detections(boxes[keep], scores[keep], labels[keep], class_names)


def size_of(image: UInt8[np.ndarray, "h w 3"]) -> Size:
    """(height, width) in pixels."""
    return image.shape[0], image.shape[1]
