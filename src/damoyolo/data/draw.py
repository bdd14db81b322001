"""Pictures with boxes on them, for people. NumPy and OpenCV only."""

from __future__ import annotations

import colorsys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from damoyolo.detections import Detections

Colour = tuple[int, int, int]
Area = tuple[int, int, int, int]
"""x1, y1, x2, y2 in whole pixels."""

_FONT = cv2.FONT_HERSHEY_SIMPLEX
_SMALLEST, _TINY = 0.35, 0.25
"""Scales below which letters are hard to read, and cannot be read, which small pictures come down to."""
_ROOMY = 480
"""Width and height together of a picture that has room for letters of the first."""
_BRIGHT, _DARK = (255, 230, 0), (0, 0, 0)
_GOLDEN_RATIO = 0.618034  # steps of this fraction of the colour circle never come close to each other


@dataclass(frozen=True)
class Mark:
    """A box, xyxy in pixels, in the colour of class `label`.

    `texts` are what it may be labelled with, the best first, shorter ones where there is little room; `bold`
    makes its lines thicker.
    """

    box: Float32[np.ndarray, "xyxy=4"]
    label: int
    texts: tuple[str, ...]
    bold: bool = False


def colour_of(label: int) -> Colour:
    """The RGB colour of a class: always the same, bright, and far from those of neighbouring classes."""
    hue = (0.01 + label * _GOLDEN_RATIO) % 1
    saturation, value = ((0.85, 1.0), (0.6, 1.0), (1.0, 0.75))[label % 3]
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return round(red * 255), round(green * 255), round(blue * 255)


@dataclass(frozen=True)
class Outline:
    """A line through points, x and y in pixels, closed or not, and what may be written at its beginning."""

    points: tuple[tuple[float, float], ...]
    text: str
    closed: bool


def draw(
    image: UInt8[np.ndarray, "h w 3"], detections: Detections, ids: Sequence[int | None] = ()
) -> UInt8[np.ndarray, "h w 3"]:
    """A copy of the RGB image with every box in its class's colour, labelled "name score"; see `draw_marks`.

    Better boxes lie above worse ones. In a crowd, a label loses its score before it is left out. Things that
    are numbered by `ids`, one for each box, are labelled "#id name score".
    """
    numbers = ids or [None] * len(detections)
    columns = (detections.boxes, detections.labels, detections.names, detections.scores, numbers)
    return draw_marks(
        image,
        [
            Mark(box, int(label), _texts(name, float(score), number))
            for box, label, name, score, number in zip(*columns, strict=True)
        ],
    )


def draw_marks(image: UInt8[np.ndarray, "h w 3"], marks: Sequence[Mark]) -> UInt8[np.ndarray, "h w 3"]:
    """A copy of the RGB image with boxes, the most important first.

    Lines and letters grow with the image. A label stays inside the image and covers no other: it is written
    above its box, or else inside, below, with a shorter text or in smaller letters; where nothing of that
    fits it is left out, except for the first of every class, which explains the colour.
    """
    picture = np.ascontiguousarray(image).copy()
    line = max(1, round(sum(image.shape[:2]) / 800))
    corners = [_whole_pixels(mark.box, image.shape[:2]) for mark in marks]
    for mark, area in reversed(list(zip(marks, corners, strict=True))):
        width = 2 * line + 1 if mark.bold else line
        cv2.rectangle(picture, area[:2], area[2:], colour_of(mark.label), width)
    for mark, label in reversed(_place(marks, corners, image.shape[:2], line)):
        label.write_on(picture, colour_of(mark.label))
    return picture


def draw_outlines(
    image: UInt8[np.ndarray, "h w 3"], outlines: Sequence[Outline]
) -> UInt8[np.ndarray, "h w 3"]:
    """A copy of the RGB image with lines in bright yellow on black, and their texts."""
    picture = np.ascontiguousarray(image).copy()
    height, width = image.shape[:2]
    line, (scale, smaller) = max(1, round((height + width) / 800)), _scales(height, width)
    for outline in outlines:
        points = np.round(np.array(outline.points, dtype=np.float64)).astype(np.int32)
        for colour, thickness in ((_DARK, 2 * line + 2), (_BRIGHT, line)):
            cv2.polylines(picture, [points], outline.closed, colour, thickness, cv2.LINE_AA)
        if not outline.text:
            continue
        chosen = scale if _room(outline.text, scale)[0] < width else smaller
        wide, high = _room(outline.text, chosen)
        x, y = (int(each) for each in points[0])
        x, y = max(0, min(x, width - 1 - wide)), max(0, min(y, height - 1 - high))
        _Label(outline.text, chosen, (x, y, x + wide, y + high)).write_on(picture, _BRIGHT)
    return picture


@dataclass(frozen=True)
class _Label:
    """A text at its place; `ground` is the area that it fills."""

    text: str
    scale: float
    ground: Area

    def write_on(self, picture: UInt8[np.ndarray, "h w 3"], colour: Colour) -> None:
        """Text in black or white on the colour."""
        x1, y1, x2, y2 = self.ground
        cv2.rectangle(picture, (x1, y1), (x2, y2), colour, cv2.FILLED)
        ink = (0, 0, 0) if np.dot(colour, (0.299, 0.587, 0.114)) > 120 else (255, 255, 255)
        (_, height), _ = cv2.getTextSize(self.text, _FONT, self.scale, _thickness(self.scale))
        start = (x1 + _pad(self.scale), y1 + _pad(self.scale) + height)
        cv2.putText(picture, self.text, start, _FONT, self.scale, ink, _thickness(self.scale), cv2.LINE_AA)


def _texts(name: str, score: float, number: int | None) -> tuple[str, ...]:
    """For a label, the longest first."""
    if number is None:
        return f"{name} {score:.2f}", name
    return f"#{number} {name} {score:.2f}", f"#{number} {name}", f"#{number}"


def _place(
    marks: Sequence[Mark], corners: Sequence[Area], size: tuple[int, ...], line: int
) -> list[tuple[Mark, _Label]]:
    """Labels that do not cover each other; the first of every class has the first choice."""
    explaining = set({mark.label: i for i, mark in reversed(list(enumerate(marks)))}.values())
    order = sorted(range(len(marks)), key=lambda i: i not in explaining)
    taken = np.zeros((0, 4), dtype=np.int64)
    placed = []
    for i in order:
        choices = list(_choices(marks[i].texts, corners[i], size, line))
        best = next((choice for choice in choices if not _covered(choice.ground, taken)), None)
        if best is None and choices and i in explaining:
            best = choices[int(np.argmin([_covered(choice.ground, taken) for choice in choices]))]
        if best is not None:
            placed.append((marks[i], best))
            taken = np.vstack([taken, best.ground])
    return placed


def _choices(texts: Sequence[str], box: Area, size: tuple[int, ...], line: int) -> Iterator[_Label]:
    """Where and how a label may be written, the nicest first."""
    height, width = size
    for scale in dict.fromkeys(_scales(height, width)):
        for text in texts:
            wide, high = _room(text, scale)
            above, left, right = box[1] - line // 2 - high, box[0] - line // 2, box[2] + line // 2 - wide
            places = [(left, above), (left, box[1]), (right, above), (right, box[1])]
            places += [(left, box[3] + line // 2), (left, box[3] - high), (right, box[3] + line // 2)]
            if above < 0:
                places = places[1:2] + places[3:]
            for x, y in places:
                x, y = max(0, min(x, width - 1 - wide)), max(0, min(y, height - 1 - high))
                yield _Label(text, scale, (x, y, x + wide, y + high))


def _scales(height: int, width: int) -> tuple[float, float]:
    """Of letters in a picture of that size, and of those where there is little room."""
    least = max(_TINY, min(_SMALLEST, _SMALLEST * (height + width) / _ROOMY))
    full = max(least, (height + width) / 2800)
    return full, max(least, 0.7 * full)


def _room(text: str, scale: float) -> tuple[int, int]:
    """Width and height of a label with that text."""
    (wide, high), below = cv2.getTextSize(text, _FONT, scale, _thickness(scale))
    return wide + 2 * _pad(scale), high + below + 2 * _pad(scale)


def _covered(area: Area, others: np.ndarray) -> int:
    """Pixels that an area has in common with others."""
    sides = np.minimum(area[2:], others[:, 2:]) - np.maximum(area[:2], others[:, :2])
    return int(np.clip(sides, 0, None).prod(axis=1).sum())


def _thickness(scale: float) -> int:
    return max(1, round(scale * 1.6))


def _pad(scale: float) -> int:
    return max(1, round(2 * scale))


def _whole_pixels(box: Float32[np.ndarray, " 4"], size: tuple[int, ...]) -> Area:
    """The box on whole pixels inside the image."""
    height, width = size
    x1, y1, x2, y2 = np.clip(np.round(box), 0, [width - 1, height - 1] * 2).astype(int).tolist()
    return x1, y1, x2, y2
