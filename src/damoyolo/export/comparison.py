"""How far two sets of results are apart. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

import numpy as np
from jaxtyping import Float32

from damoyolo.detections import PICTURE_SCORE, Detections
from damoyolo.export.card import ExportCard, Precision
from damoyolo.spec import Frozen

Raw = tuple[Float32[np.ndarray, "_ _"], Float32[np.ndarray, "_ 4"]]
"""Scores and boxes, xyxy in pixels of the input, of points of one image."""

Outputs = Sequence[Raw] | Sequence[Detections]
"""What a file gives for some images: of a raw head, and of others without padding."""

SAME_IOU = 0.9
"""Two detections of a class that overlap so much are the same one."""
NEAR_IOU = 0.5
"""Two that overlap so much are of the same thing."""


class Tolerance(Frozen):
    """Largest differences that pass, the share of detections that one side may have alone, and the `change`.

    None where nothing is promised.
    """

    score: float | None = None
    box_px: float | None = None
    alone: float | None = None
    change: float | None = None


TOLERANCES: dict[Precision, Tolerance] = {
    "fp32": Tolerance(score=1e-4, box_px=0.01, alone=0.02),
    "fp16": Tolerance(score=0.02, box_px=2.0, alone=0.1),
    "bf16": Tolerance(score=0.1, box_px=16.0, alone=0.2),
    "int8": Tolerance(change=0.15),
}
"""Of a file and its model; but of an INT8 file and what it gave itself when it was exported.

Its numbers differ wherever another kernel rounds another way and that turns an integer. With float kernels in
place of integer ones, or another engine, those of two trained models moved by 2 to 11 %; with the weights of
one convolution half as large again, by 22 to 45 %.
"""


def tolerance_of(card: ExportCard) -> Tolerance:
    """Of a file with that card.

    Where it gives the float32 numbers of all points, they alone are judged: suppression is done outside, and
    of two candidates of nearly equal score the better one changes with the last bit.
    """
    tolerance = TOLERANCES[card.precision]
    if card.head == "raw" and card.precision == "fp32":
        return tolerance.model_copy(update={"alone": None})
    return tolerance


class Comparison(Frozen):
    """Largest differences, how far everything moved, and how many detections are in both or on one side.

    `change` is how far scores moved, as a share of all, and boxes, as a share of their size, by their scores.
    `compared` counts points and detections, `not_finite` differences that are no numbers, because a score or
    a box is none. `shown` is how many detections of the model and of the file people would see.
    """

    compared: int = 0
    not_finite: int = 0
    score: float = 0.0
    box_px: float = 0.0
    change: float = 0.0
    agree: int = 0
    only_model: int = 0
    only_file: int = 0
    shown: tuple[int, int] = (0, 0)

    def summary(self) -> str:
        """For people."""
        alone = self.only_model + self.only_file
        parts = [
            f"largest difference {self.score:.2g} in scores, {self.box_px:.2g} px in boxes",
            f"all in all {100 * self.change:.2g} %",
            *([f"{self.agree} of {self.agree + alone} detections agree"] if self.agree + alone else []),
            *([f"{self.not_finite} numbers are not finite"] if self.not_finite else []),
        ]
        return "; ".join(parts)

    @property
    def sound(self) -> bool:
        """Whether something was compared, and every number is one."""
        return self.compared > 0 and self.not_finite == 0

    def passes(self, tolerance: Tolerance) -> bool:
        """Whether it is sound and nothing differs by more."""
        pairs = (
            (self.score, tolerance.score),
            (self.box_px, tolerance.box_px),
            (self.alone, tolerance.alone),
            (self.change, tolerance.change),
        )
        return self.sound and all(limit is None or value <= limit for value, limit in pairs)

    @property
    def alone(self) -> float:
        """The share of detections that one side has alone."""
        alone = max(self.only_model, self.only_file)
        return alone / max(1, self.agree + alone)


@dataclass(frozen=True)
class Results:
    """Of some images: the final detections, and all that the file gives for them, in pixels of its input.

    That is the numbers of all points where the head is `raw`, else what is not padding.
    """

    detections: list[Detections]
    outputs: Outputs

    def filling(self, count: int) -> Results:
        """Those of so many images, which come again and again."""
        outputs: Any = list(islice(cycle(self.outputs), count))
        return Results(list(islice(cycle(self.detections), count)), outputs)


def joined(parts: Sequence[Results]) -> Results:
    """As if all images were of one size."""
    detections = [found for part in parts for found in part.detections]
    outputs: Any = [output for part in parts for output in part.outputs]
    return Results(detections, outputs)


def compare(expected: Results, found: Results) -> Comparison:
    """Differences are of all that the file gives; detections are the final ones, or all, if fewer agree."""
    detections = compare_detections(expected.detections, found.detections)
    numbers = compare_outputs(expected.outputs, found.outputs)
    counted = max(detections, numbers, key=lambda each: each.alone)
    counts = counted.model_dump(include={"agree", "only_model", "only_file"})
    return numbers.model_copy(update={**counts, "shown": detections.shown})


def compare_outputs(expected: Any, found: Any) -> Comparison:
    """The differences of two `Outputs` of the same head."""
    return (compare_detections if isinstance(expected[0], Detections) else compare_raw)(expected, found)


def compare_raw(expected: Sequence[Raw], found: Sequence[Raw]) -> Comparison:
    """The differences of all points."""
    score = box_px = moved = total = 0.0
    compared = not_finite = 0
    for (scores, boxes), (other_scores, other_boxes) in zip(expected, found, strict=True):
        (scores, other_scores), strange_scores = _numbers(scores, other_scores)
        (boxes, other_boxes), strange_boxes = _numbers(boxes, other_boxes)
        best = scores.max(axis=1)
        score = max(score, float(np.abs(scores - other_scores).max()))
        box_px = max(box_px, float(np.abs(boxes - other_boxes).max()))
        moved += float(np.abs(scores - other_scores).sum()) + _moved(best, boxes, other_boxes)
        total += float(best.sum())
        compared += len(scores)
        not_finite += strange_scores + strange_boxes
    change = _share(moved, total)
    return Comparison(compared=compared, not_finite=not_finite, score=score, box_px=box_px, change=change)


def compare_detections(expected: Sequence[Detections], found: Sequence[Detections]) -> Comparison:
    """The differences of those that are the same; in `change` each one alone counts half of its score."""
    score = box_px = moved = scores = 0.0
    agree = only_model = only_file = not_finite = shown_model = shown_file = 0
    for whole, other_whole in zip(expected, found, strict=True):
        (mine, strange), (other, other_strange) = _finite(whole), _finite(other_whole)
        i, j = _pairs(mine, other, SAME_IOU)
        score = max(score, float(np.abs(mine.scores[i] - other.scores[j]).max(initial=0)))
        box_px = max(box_px, float(np.abs(mine.boxes[i] - other.boxes[j]).max(initial=0)))
        agree += len(i)
        only_model += len(mine) - len(i)
        only_file += len(other) - len(i)
        not_finite += strange + other_strange
        shown_model += len(mine.above(PICTURE_SCORE))
        shown_file += len(other.above(PICTURE_SCORE))
        i, j = _pairs(mine, other, NEAR_IOU)
        alone = np.delete(mine.scores, i).sum() + np.delete(other.scores, j).sum()
        moved += float(np.abs(mine.scores[i] - other.scores[j]).sum() + alone / 2)
        moved += _moved(mine.scores[i], mine.boxes[i], other.boxes[j])
        scores += float(mine.scores.sum())
    return Comparison(
        compared=agree + only_model + only_file,
        not_finite=not_finite,
        score=score,
        box_px=box_px,
        change=_share(moved, scores),
        agree=agree,
        only_model=only_model,
        only_file=only_file,
        shown=(shown_model, shown_file),
    )


def _numbers(first: np.ndarray, second: np.ndarray) -> tuple[tuple[np.ndarray, np.ndarray], int]:
    """Both with 0 wherever one of them is not finite, and at how many places that is."""
    strange = ~(np.isfinite(first) & np.isfinite(second))
    return (np.where(strange, 0, first), np.where(strange, 0, second)), int(strange.sum())


def _finite(found: Detections) -> tuple[Detections, int]:
    """Those whose score and box are finite, and how many are not."""
    keep = np.isfinite(found.scores) & np.isfinite(found.boxes).all(axis=1)
    kept = Detections(found.boxes[keep], found.scores[keep], found.labels[keep], found.class_names)
    return kept, int((~keep).sum())


def _moved(scores: np.ndarray, boxes: np.ndarray, other: np.ndarray) -> float:
    """How far boxes are from others, as a share of their size, by score."""
    size = (boxes[:, 2:] - boxes[:, :2]).mean(axis=1).clip(1)
    return float((scores * np.abs(boxes - other).mean(axis=1) / size).sum())


def _share(part: float, whole: float) -> float:
    """0 of nothing."""
    return part / max(whole, 1e-9)


def _pairs(mine: Detections, other: Detections, iou: float) -> tuple[list[int], list[int]]:
    """Each of mine, best first, with the unused one of the other's of its class that is most like it.

    Alike are boxes that overlap by at least `iou`, the more the better, and the less their scores differ.
    """
    overlaps = _ious(mine.boxes, other.boxes)
    alike = overlaps - np.abs(mine.scores[:, None] - other.scores)
    alike[(mine.labels[:, None] != other.labels) | (overlaps < iou)] = -np.inf
    pairs = []
    for i, row in enumerate(alike):
        if len(row) and row[best := int(row.argmax())] > -np.inf:
            alike[:, best] = -np.inf
            pairs.append((i, best))
    return [i for i, _ in pairs], [j for _, j in pairs]


def _ious(first: Float32[np.ndarray, "n 4"], second: Float32[np.ndarray, "m 4"]) -> np.ndarray:
    """Of each pair (n m)."""
    sides = np.minimum(first[:, None, 2:], second[:, 2:]) - np.maximum(first[:, None, :2], second[:, :2])
    inter = np.maximum(sides, 0).prod(axis=2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(axis=1) for boxes in (first, second)]
    ious: np.ndarray = inter / np.maximum(areas[0][:, None] + areas[1] - inter, 1e-9)
    return ious
