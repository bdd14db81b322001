"""How far two sets of results are apart. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

from damoyolo.detections import Detections
from damoyolo.export.card import Precision
from damoyolo.spec import Frozen

Raw = tuple[Float32[np.ndarray, "p c"], Float32[np.ndarray, "p 4"]]
"""Scores and boxes, xyxy in pixels of the input, of points of one image."""

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


class Comparison(Frozen):
    """Largest differences, how far everything moved, and how many detections are in both or on one side.

    `change` is how far scores moved, as a share of all, and boxes, as a share of their size, by their scores.
    """

    score: float = 0.0
    box_px: float = 0.0
    change: float = 0.0
    agree: int = 0
    only_model: int = 0
    only_file: int = 0

    def summary(self) -> str:
        """For people."""
        alone = self.only_model + self.only_file
        parts = [
            f"largest difference {self.score:.2g} in scores, {self.box_px:.2g} px in boxes",
            f"all in all {100 * self.change:.2g} %",
            *([f"{self.agree} of {self.agree + alone} detections agree"] if self.agree + alone else []),
        ]
        return "; ".join(parts)

    def passes(self, tolerance: Tolerance) -> bool:
        """Whether nothing differs by more."""
        alone = max(self.only_model, self.only_file)
        pairs = (
            (self.score, tolerance.score),
            (self.box_px, tolerance.box_px),
            (alone / max(1, self.agree + alone), tolerance.alone),
            (self.change, tolerance.change),
        )
        return all(limit is None or value <= limit for value, limit in pairs)


@dataclass(frozen=True)
class Results:
    """Of some images: the detections and, where the head is `raw`, the numbers of all points."""

    detections: list[Detections]
    raw: list[Raw] | None = None


def compare(expected: Results, found: Results) -> Comparison:
    """Differences are of all points if both have them, else of the detections in both."""
    comparison = compare_detections(expected.detections, found.detections)
    if expected.raw is None or found.raw is None:
        return comparison
    raw = compare_raw(expected.raw, found.raw)
    return raw.model_copy(update=comparison.model_dump(include={"agree", "only_model", "only_file"}))


def compare_raw(expected: Sequence[Raw], found: Sequence[Raw]) -> Comparison:
    """The differences of all points."""
    score = max(float(np.abs(a - b).max()) for (a, _), (b, _) in zip(expected, found, strict=True))
    box_px = max(float(np.abs(a - b).max()) for (_, a), (_, b) in zip(expected, found, strict=True))
    moved = total = 0.0
    for (scores, boxes), (other_scores, other_boxes) in zip(expected, found, strict=True):
        best = scores.max(axis=1)
        moved += float(np.abs(scores - other_scores).sum()) + _moved(best, boxes, other_boxes)
        total += float(best.sum())
    return Comparison(score=score, box_px=box_px, change=_share(moved, total))


def compare_detections(expected: Sequence[Detections], found: Sequence[Detections]) -> Comparison:
    """The differences of those that are the same; in `change` each one alone counts half of its score."""
    total = Comparison()
    moved = scores = 0.0
    for mine, other in zip(expected, found, strict=True):
        i, j = _pairs(mine, other, SAME_IOU)
        total = Comparison(
            score=_largest(total.score, mine.scores[i] - other.scores[j]),
            box_px=_largest(total.box_px, mine.boxes[i] - other.boxes[j]),
            agree=total.agree + len(i),
            only_model=total.only_model + len(mine) - len(i),
            only_file=total.only_file + len(other) - len(i),
        )
        i, j = _pairs(mine, other, NEAR_IOU)
        alone = np.delete(mine.scores, i).sum() + np.delete(other.scores, j).sum()
        moved += float(np.abs(mine.scores[i] - other.scores[j]).sum() + alone / 2)
        moved += _moved(mine.scores[i], mine.boxes[i], other.boxes[j])
        scores += float(mine.scores.sum())
    return total.model_copy(update={"change": _share(moved, scores)})


def _moved(scores: np.ndarray, boxes: np.ndarray, other: np.ndarray) -> float:
    """How far boxes are from others, as a share of their size, by score."""
    size = (boxes[:, 2:] - boxes[:, :2]).mean(axis=1).clip(1)
    return float((scores * np.abs(boxes - other).mean(axis=1) / size).sum())


def _share(part: float, whole: float) -> float:
    """0 of nothing."""
    return part / max(whole, 1e-9)


def _largest(before: float, differences: np.ndarray) -> float:
    return max(before, float(np.abs(differences).max(initial=0)))


def _pairs(mine: Detections, other: Detections, iou: float) -> tuple[list[int], list[int]]:
    """Each of mine, best first, with the unused one of the other's of its class that it overlaps most."""
    overlaps = _ious(mine.boxes, other.boxes)
    overlaps[mine.labels[:, None] != other.labels] = -1
    pairs = []
    for i, row in enumerate(overlaps):
        if len(row) and row[best := int(row.argmax())] >= iou:
            overlaps[:, best] = -1
            pairs.append((i, best))
    return [i for i, _ in pairs], [j for _, j in pairs]


def _ious(first: Float32[np.ndarray, "n 4"], second: Float32[np.ndarray, "m 4"]) -> np.ndarray:
    """Of each pair (n m)."""
    sides = np.minimum(first[:, None, 2:], second[:, 2:]) - np.maximum(first[:, None, :2], second[:, :2])
    inter = np.maximum(sides, 0).prod(axis=2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(axis=1) for boxes in (first, second)]
    ious: np.ndarray = inter / np.maximum(areas[0][:, None] + areas[1] - inter, 1e-9)
    return ious
