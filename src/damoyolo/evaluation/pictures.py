"""Photographs with boxes that show how training and detection go."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Float32, Int64, UInt8

from damoyolo.data.draw import Mark, Outline, draw_marks, draw_outlines
from damoyolo.evaluation.judge import Judged

Image = UInt8[np.ndarray, "_ _ 3"]

GAP_PX = 6
PAPER = 255
JPEG_QUALITY = 82
LEAST_OUTLINE_PX = 8
"""Side of the outline of a box that is empty, or wholly outside its image."""


def show_boxes(
    image: Image,
    boxes: Float32[np.ndarray, "n 4"],
    labels: Int64[np.ndarray, " n"],
    class_names: Sequence[str],
    side: int,
    faulty: Sequence[Sequence[float]] = (),
) -> Image:
    """An image, its longer side brought to `side`, with true boxes in its own pixels.

    Boxes (xyxy) that are `faulty` are outlined; what reaches out of the image is at its border.
    """
    picture, scale = _scaled(image, side)
    marks = [
        Mark(box * scale, int(label), (class_names[label],)) for box, label in zip(boxes, labels, strict=True)
    ]
    return draw_outlines(draw_marks(picture, marks), [_outline(box, scale, picture) for box in faulty])


def _outline(box: Sequence[float], scale: Float32[np.ndarray, "xyxy=4"], picture: Image) -> Outline:
    """A box in pixels of the unscaled image, without a text."""
    height, width = picture.shape[:2]
    low, high = np.split(np.array(box) * scale, 2)
    low, high = np.minimum(low, high), np.maximum(low, high)
    room = np.maximum(0, LEAST_OUTLINE_PX - (high - low)) / 2
    most = np.array([width - 1, height - 1])
    x1, y1 = np.clip(low - room, 0, np.maximum(0, most - LEAST_OUTLINE_PX)).tolist()
    x2, y2 = np.clip(high + room, np.minimum(most, LEAST_OUTLINE_PX), most).tolist()
    return Outline(((x1, y1), (x2, y1), (x2, y2), (x1, y2)), "", closed=True)


def beside(image: Image, judged: Judged, class_names: Sequence[str], side: int) -> Image:
    """The truth on the left and what was found on the right; missed and false boxes are bold."""
    picture, scale = _scaled(image, side)
    found = judged.found
    true = [
        Mark(box * scale, int(label), (class_names[label],), bold=bool(missed))
        for box, label, missed in zip(judged.boxes, judged.labels, judged.missed, strict=True)
    ]
    detected = [
        Mark(box * scale, int(label), (f"{name} {score:.2f}", name), bold=not right)
        for box, label, name, score, right in zip(
            found.boxes, found.labels, found.names, found.scores, judged.right, strict=True
        )
    ]
    panels = [
        draw_marks(picture, sorted(marks, key=lambda mark: not mark.bold)) for marks in (true, detected)
    ]
    return tile(panels, columns=2)


def tile(pictures: Sequence[Image], columns: int) -> Image:
    """Pictures in rows, each in a cell as large as the largest needs, at its top left."""
    height = max(picture.shape[0] for picture in pictures)
    width = max(picture.shape[1] for picture in pictures)
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    sheet = np.full(
        (rows * (height + GAP_PX) - GAP_PX, columns * (width + GAP_PX) - GAP_PX, 3), PAPER, np.uint8
    )
    for number, picture in enumerate(pictures):
        top, left = number // columns * (height + GAP_PX), number % columns * (width + GAP_PX)
        sheet[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return sheet


def as_jpeg(picture: Image) -> bytes:
    """An RGB picture as a JPEG file."""
    quality = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    _, encoded = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), quality)
    return encoded.tobytes()


def _scaled(image: Image, side: int) -> tuple[Image, Float32[np.ndarray, "xyxy=4"]]:
    """The image with its longer side brought to `side`, and the factors for its boxes."""
    height, width = image.shape[:2]
    factor = side / max(height, width)
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    resized = cv2.resize(image, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR)
    return resized, np.array([size[0] / width, size[1] / height] * 2, dtype=np.float32)
