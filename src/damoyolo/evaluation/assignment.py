"""Which points learn which objects: numbers and a picture of one image's assignment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float32, Int32, Int64, UInt8

from damoyolo.boxes.points import Pyramid
from damoyolo.data.draw import Colour, Mark, colour_of, draw_marks

Image = UInt8[np.ndarray, "_ _ 3"]

SIZES = ("small", "medium", "large")
"""Areas below 32 x 32, below 96 x 96 and above, in pixels of the network's input."""
MARKERS = ("circle", "square", "triangle")
"""Of the levels, from the finest."""
PICTURE_SIDE_PX = 1000
_LEGEND_PX, _FONT = 34, cv2.FONT_HERSHEY_SIMPLEX


@dataclass(frozen=True)
class Assigned:
    """One image in the network's frame and what its points are to learn.

    `owner` is the object of each point, -1 for background; `iou` is the target of its quality score.
    """

    name: str
    image: Image
    boxes: Float32[np.ndarray, "n 4"]
    labels: Int64[np.ndarray, " n"]
    owner: Int64[np.ndarray, " p"]
    iou: Float32[np.ndarray, " p"]
    pyramid: Pyramid

    @property
    def level(self) -> Int64[np.ndarray, " p"]:
        """Number of each point's level, from the finest."""
        return np.repeat(np.arange(len(self.pyramid.counts), dtype=np.int64), self.pyramid.counts)

    @property
    def counts(self) -> Int64[np.ndarray, "n levels"]:
        """Points that each object has on each level."""
        counts = np.zeros((len(self.boxes), len(self.pyramid.counts)), dtype=np.int64)
        positive = self.owner >= 0
        np.add.at(counts, (self.owner[positive], self.level[positive]), 1)
        return counts

    @property
    def mean_iou(self) -> Float32[np.ndarray, " n"]:
        """Mean target of each object's points; 0 without any."""
        positive = self.owner >= 0
        sums = np.zeros(len(self.boxes), dtype=np.float32)
        np.add.at(sums, self.owner[positive], self.iou[positive])
        means: Float32[np.ndarray, " n"] = sums / np.maximum(self.counts.sum(axis=1), 1).astype(np.float32)
        return means

    @property
    def size_class(self) -> Int64[np.ndarray, " n"]:
        """Position of each object's size in `SIZES`."""
        areas = (self.boxes[:, 2:] - self.boxes[:, :2]).prod(axis=1)
        classes: Int64[np.ndarray, " n"] = (areas >= 32.0**2).astype(np.int64) + (areas >= 96.0**2)
        return classes

    def to_record(self, class_names: Sequence[str]) -> dict[str, Any]:
        """JSON-ready; boxes xyxy in pixels of the network's input, points from the finest level on."""
        columns = zip(
            self.boxes, self.labels, self.size_class, self.counts, self.mean_iou.astype(float), strict=True
        )
        objects = [
            {
                "name": class_names[label],
                "box": np.round(box.astype(float), 2).tolist(),
                "size": SIZES[size],
                "points": counts.tolist(),
                "mean_iou": round(iou, 4),
            }
            for box, label, size, counts, iou in columns
        ]
        return {"image": self.name, "objects": objects}


@dataclass(frozen=True)
class SizeSummary:
    """Objects of one size: how many, how many of them have no and one point, and means over them."""

    size: str
    objects: int
    without: int
    single: int
    points_per_object: float
    points_per_level: tuple[int, ...]
    mean_iou: float


def summarize(images: Sequence[Assigned]) -> tuple[SizeSummary, ...]:
    """Small, medium and large objects, and all of them; the IoU is the mean over points."""
    sizes = np.concatenate([each.size_class for each in images])
    counts = np.concatenate([each.counts for each in images])
    sums = np.concatenate([each.mean_iou * each.counts.sum(axis=1) for each in images])
    chosen = [(name, sizes == number) for number, name in enumerate(SIZES)]
    chosen.append(("all", np.ones(len(sizes), dtype=bool)))
    return tuple(_summary(name, counts[those], sums[those]) for name, those in chosen)


def _summary(size: str, counts: np.ndarray, iou_sums: np.ndarray) -> SizeSummary:
    points = counts.sum(axis=1)
    return SizeSummary(
        size=size,
        objects=len(counts),
        without=int((points == 0).sum()),
        single=int((points == 1).sum()),
        points_per_object=float(points.mean()) if len(points) else 0.0,
        points_per_level=tuple(counts.sum(axis=0).tolist()),
        mean_iou=float(iou_sums.sum() / max(points.sum(), 1)),
    )


def draw_assignment(assigned: Assigned, class_names: Sequence[str]) -> Image:
    """The image with its objects, each in a colour of its own with its points, and a legend below.

    A point's form is its level, and it is the larger the higher its IoU. Objects without a point, or with
    only one, are bold and say so.
    """
    factor = PICTURE_SIDE_PX / max(assigned.image.shape[:2])
    height, width = (round(side * factor) for side in assigned.image.shape[:2])
    picture = cv2.resize(assigned.image, (width, height), interpolation=cv2.INTER_LINEAR)
    totals = assigned.counts.sum(axis=1)
    marks = [
        Mark(box * np.float32(factor), number, _texts(class_names[label], int(total)), bold=bool(total < 2))
        for number, (box, label, total) in enumerate(
            zip(assigned.boxes, assigned.labels, totals, strict=True)
        )
    ]
    picture = draw_marks(picture, sorted(marks, key=lambda mark: not mark.bold))
    points = assigned.pyramid.points().numpy() * factor
    for point in reversed(np.flatnonzero(assigned.owner >= 0)):  # the finest last: coarse forms are larger
        x, y = points[point].round().astype(int).tolist()
        colour = colour_of(int(assigned.owner[point]))
        _draw_point(picture, (x, y), int(assigned.level[point]), float(assigned.iou[point]), colour)
    return np.concatenate([picture, _legend(width, assigned.pyramid.strides)])


def _texts(name: str, points: int) -> tuple[str, ...]:
    if points == 0:
        return (f"{name} NO POINT", "NO POINT")
    return (f"{name} {points}", str(points))


def _draw_point(picture: Image, centre: tuple[int, int], level: int, iou: float, colour: Colour) -> None:
    """A filled form with a dark rim."""
    radius = round((4 + 2 * level) * (0.5 + iou))
    outline = _outline(centre, radius, MARKERS[min(level, len(MARKERS) - 1)])
    cv2.fillPoly(picture, [outline], colour, cv2.LINE_AA)
    cv2.polylines(picture, [outline], True, (0, 0, 0), 1, cv2.LINE_AA)


def _outline(centre: tuple[int, int], radius: int, form: str) -> Int32[np.ndarray, "corners 2"]:
    """As OpenCV takes it."""
    corners, turned = {"circle": (16, 0.0), "square": (4, np.pi / 4), "triangle": (3, -np.pi / 2)}[form]
    angles = turned + np.arange(corners) * 2 * np.pi / corners
    reach = radius if form == "circle" else 1.25 * radius
    offsets = np.stack([np.cos(angles), np.sin(angles)], axis=1) * reach
    return np.rint(np.array(centre) + offsets).astype(np.int32)


def _legend(width: int, strides: Sequence[int]) -> Image:
    strip = np.full((_LEGEND_PX, max(width, 1), 3), 255, np.uint8)
    middle, x, grey = _LEGEND_PX // 2, 16, (110, 110, 110)

    def write(text: str) -> None:
        nonlocal x
        cv2.putText(strip, text, (x, middle + 5), _FONT, 0.45, (30, 30, 30), 1, cv2.LINE_AA)
        x += cv2.getTextSize(text, _FONT, 0.45, 1)[0][0] + 26

    for level, stride in enumerate(strides):
        _draw_point(strip, (x, middle), level, 0.7, grey)
        x += 16
        write(f"P{level + 3}, stride {stride}")
    for iou in (0.2, 0.6, 1.0):
        _draw_point(strip, (x, middle), 0, iou, grey)
        x += 12
        write(f"IoU {iou:.1f}")
    write("number of points; bold: one or none")
    return strip
