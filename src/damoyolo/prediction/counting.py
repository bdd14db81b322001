"""How many tracked things cross a line, or are in a zone."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import cv2
import numpy as np
from jaxtyping import Float32

from damoyolo.data.draw import Outline
from damoyolo.data.resize import Size
from damoyolo.errors import UserError
from damoyolo.prediction.tracking import NO_ID, Tracked

Point = tuple[float, float]
"""x, y in pixels of the video."""

MARGIN = 0.05
"""Of a box's smaller side: so far from a line its middle must be to be on a side, lest it trembles across."""
FORGET_S = 60.0
"""A number that was not seen for so long does not come back."""


@runtime_checkable
class Counting(Protocol):
    """Something in the picture that counts."""

    def update(self, tracked: Tracked, time_s: float) -> None:
        """See the next frame."""

    def to_record(self) -> dict[str, Any]:
        """JSON-ready: what was counted up to now, by class."""

    def outline(self) -> Outline:
        """How it is drawn."""


@dataclass
class Line:
    """Counts what crosses the line from `start` to `end`, by the side it goes to as one looks along it."""

    start: Point
    end: Point
    to_left: Counter[str] = field(default_factory=Counter)
    to_right: Counter[str] = field(default_factory=Counter)
    _places: dict[int, tuple[Point, float]] = field(default_factory=dict)

    def update(self, tracked: Tracked, time_s: float) -> None:
        """See the next frame."""
        for box, name, number in zip(
            tracked.detections.boxes, tracked.detections.names, tracked.ids, strict=True
        ):
            here = middle(box)
            distance = self._distance(here)
            if number == NO_ID or abs(distance) <= MARGIN * min(box[2] - box[0], box[3] - box[1]):
                continue
            before, _ = self._places.get(int(number), (here, 0.0))
            self._places[int(number)] = (here, time_s)
            if self._distance(before) * distance < 0 and _cross(self.start, self.end, before, here):
                (self.to_right if distance > 0 else self.to_left)[name] += 1
        self._places = {key: each for key, each in self._places.items() if time_s - each[1] <= FORGET_S}

    def to_record(self) -> dict[str, Any]:
        """JSON-ready: what was counted up to now, by class."""
        counts = {"to_left": dict(self.to_left), "to_right": dict(self.to_right)}
        return {"line": [*self.start, *self.end], **counts}

    def outline(self) -> Outline:
        """How it is drawn."""
        text = f"left {_told(self.to_left)} | right {_told(self.to_right)}"
        return Outline((self.start, self.end), text, closed=False)

    def _distance(self, point: Point) -> float:
        """Pixels from the endless line, positive on its right as one looks along it (y goes down)."""
        (x1, y1), (x2, y2), (x, y) = self.start, self.end, point
        return ((x2 - x1) * (y - y1) - (y2 - y1) * (x - x1)) / float(np.hypot(x2 - x1, y2 - y1))


@dataclass
class Zone:
    """Counts what has its middle in a polygon: `now`, and all that ever had it there, each once."""

    corners: tuple[Point, ...]
    now: Counter[str] = field(default_factory=Counter)
    ever: Counter[str] = field(default_factory=Counter)
    _known: dict[int, float] = field(default_factory=dict)

    def update(self, tracked: Tracked, time_s: float) -> None:
        """See the next frame."""
        self.now.clear()
        polygon = _polygon(self.corners)
        for box, name, number in zip(
            tracked.detections.boxes, tracked.detections.names, tracked.ids, strict=True
        ):
            if number == NO_ID or not _holds(polygon, middle(box)):
                continue
            self.now[name] += 1
            if int(number) not in self._known:
                self.ever[name] += 1
            self._known[int(number)] = time_s
        self._known = {key: seen for key, seen in self._known.items() if time_s - seen <= FORGET_S}

    def to_record(self) -> dict[str, Any]:
        """JSON-ready: what was counted up to now, by class."""
        corners = [number for corner in self.corners for number in corner]
        return {"zone": corners, "now": dict(self.now), "ever": dict(self.ever)}

    def outline(self) -> Outline:
        """How it is drawn."""
        return Outline(self.corners, f"now {_told(self.now)} | ever {_told(self.ever)}", closed=True)


def read_line(text: str) -> Line:
    """From `x1,y1,x2,y2` in pixels of the video."""
    points = _points(text, "count_line", "x1,y1,x2,y2")
    if len(points) != 2 or points[0] == points[1]:
        raise UserError(
            f"count_line: '{text}' is no line; give two points, x1,y1,x2,y2 in pixels of the video"
        )
    return Line(points[0], points[1])


def read_zone(text: str) -> Zone:
    """From `x1,y1,x2,y2,x3,y3,...` in pixels of the video."""
    points = _points(text, "count_zone", "x1,y1,x2,y2,x3,y3")
    if len(set(points)) < 3 or not _area(points):
        raise UserError(
            f"count_zone: '{text}' is no zone; give three corners or more around an area, x1,y1,x2,y2,x3,y3"
        )
    return Zone(tuple(points))


def check_inside(counting: Counting, size: Size, video: str) -> None:
    """`UserError` if nothing of a line or zone is in a video's picture, where it would count nothing."""
    outline = counting.outline()
    starts, ends = outline.points, outline.points[1:] + outline.points[:1]
    sides = list(zip(starts, ends, strict=True))[: None if outline.closed else -1]
    around = outline.closed and _holds(_polygon(outline.points), (0.0, 0.0))
    if around or any(_enters(*side, size) for side in sides):
        return
    option, (height, width) = "count_zone" if outline.closed else "count_line", size
    given = ",".join(f"{number:g}" for point in outline.points for number in point)
    raise UserError(
        f"{option}: no part of {given} is inside {video}, which has {width} x {height} pixels; give points "
        f"with x between 0 and {width} and y between 0 and {height}, not all on the border"
    )


def middle(box: Float32[np.ndarray, "xyxy=4"]) -> Point:
    """Of a box."""
    return float(box[0] + box[2]) / 2, float(box[1] + box[3]) / 2


def _points(text: str, option: str, example: str) -> Sequence[Point]:
    try:
        numbers = [float(each) for each in text.split(",")]
        if not all(map(math.isfinite, numbers)):
            raise ValueError(text)
        return list(zip(numbers[::2], numbers[1::2], strict=True))
    except ValueError:
        raise UserError(f"{option}: '{text}' is no list of points; write {example} in pixels") from None


def _area(corners: Sequence[Point]) -> float:
    """Of a polygon in square pixels, positive or negative by its direction; 0 where it is flat."""
    following = [*corners[1:], corners[0]]
    return sum(a[0] * b[1] - a[1] * b[0] for a, b in zip(corners, following, strict=True)) / 2


def _cross(a: Point, b: Point, c: Point, d: Point) -> bool:
    """Whether the way from c to d, which crosses the endless line through a and b, does so between them."""
    return _turn(c, d, a) * _turn(c, d, b) <= 0


def _enters(a: Point, b: Point, size: Size) -> bool:
    """Whether something of the way from a to b is in a picture: no axis and no side of it parts the two."""
    height, width = size
    axes = ((a[0], b[0], width), (a[1], b[1], height))
    apart = any(max(u, v) <= 0 or min(u, v) >= end for u, v, end in axes)
    turns = [_turn(a, b, (x, y)) for x in (0.0, float(width)) for y in (0.0, float(height))]
    return not apart and min(turns) <= 0 <= max(turns)


def _polygon(corners: Sequence[Point]) -> Float32[np.ndarray, "n xy=2"]:
    """As OpenCV takes it."""
    return np.array(corners, dtype=np.float32)


def _holds(polygon: Float32[np.ndarray, "n xy=2"], point: Point) -> bool:
    """Whether a point is in a polygon, or on its border."""
    return cv2.pointPolygonTest(polygon, point, False) >= 0


def _turn(a: Point, b: Point, c: Point) -> float:
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])


def _told(counts: Counter[str]) -> str:
    """Such as `3 person, 1 dog`."""
    return ", ".join(f"{count} {name}" for name, count in counts.most_common()) or "0"
