"""Right, false and missed boxes, image by image: what people ask once they have seen an AP."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int64

from damoyolo.boxes.geometry import box_iou
from damoyolo.detections import Detections

IOU = 0.5
"""Overlap from which on a box counts as found."""


@dataclass(frozen=True)
class Judged:
    """What was found in one image beside what is there.

    `match` is the position of the true box, of its own class, that each detection found, or -1. It does not
    depend on worse detections, so a threshold may be chosen afterwards (`above`).
    """

    found: Detections
    boxes: Float32[np.ndarray, "m 4"]
    labels: Int64[np.ndarray, " m"]
    match: Int64[np.ndarray, " n"]

    @property
    def right(self) -> Bool[np.ndarray, " n"]:
        """Detections that found something."""
        return self.match >= 0

    @property
    def missed(self) -> Bool[np.ndarray, " m"]:
        """True boxes that nothing found."""
        missed = np.ones(len(self.labels), dtype=bool)
        missed[self.match[self.right]] = False
        return missed

    @property
    def mistakes(self) -> int:
        """False and missed boxes together."""
        return int((~self.right).sum() + self.missed.sum())

    @property
    def f1(self) -> float:
        """Twice the right boxes over all boxes, found and true; 1 where there is and was found nothing."""
        boxes = len(self.found) + len(self.labels)
        return 2 * int(self.right.sum()) / boxes if boxes else 1.0

    def above(self, score: float) -> Judged:
        """The same without detections below a score."""
        return Judged(
            self.found.above(score), self.boxes, self.labels, self.match[self.found.scores >= score]
        )


@dataclass(frozen=True)
class Working:
    """The score threshold with the best F1 over all boxes of all classes, and what it gives."""

    score: float
    precision: float
    recall: float
    f1: float


def judge(
    found: Detections, boxes: Float32[np.ndarray, "m 4"], labels: Int64[np.ndarray, " m"], iou: float = IOU
) -> Judged:
    """Match greedily: the best detection first takes the free true box of its class it overlaps most."""
    overlaps = _overlaps(found.boxes, boxes)
    overlaps[found.labels[:, None] != labels] = 0
    return Judged(found, boxes, labels, _greedy(overlaps, iou))


def working_point(judged: Sequence[Judged]) -> Working:
    """Choose the score threshold; where nothing was found, every score is as good."""
    scores = np.concatenate([np.zeros(0, np.float32), *(each.found.scores for each in judged)])
    right = np.concatenate([np.zeros(0, bool), *(each.right for each in judged)])
    truth = sum(len(each.labels) for each in judged)
    order = np.argsort(-scores, kind="stable")
    scores, hits = scores[order], np.cumsum(right[order])
    f1 = 2 * hits / (np.arange(1, len(scores) + 1) + truth)
    last_of_equals = np.append(scores[1:] != scores[:-1], True)[: len(scores)]
    if not len(scores) or not hits[-1]:
        return Working(0.5, 0.0, 0.0, 0.0)
    best = int(np.argmax(np.where(last_of_equals, f1, -1)))
    return Working(
        float(scores[best]), float(hits[best] / (best + 1)), float(hits[best] / truth), float(f1[best])
    )


def confusion(judged: Sequence[Judged], classes: int, iou: float = IOU) -> Int64[np.ndarray, "rows columns"]:
    """How often a box of class `row` was found as class `column`; the last row and column are background.

    Detections are compared with boxes of their own class first (`judge`); what is left over on both sides
    is matched in the same way whatever its class. Then the rest of the boxes was taken for background, and
    background for the rest of the detections.
    """
    matrix = np.zeros((classes + 1, classes + 1), dtype=np.int64)
    for each in judged:
        labels = each.found.labels
        np.add.at(matrix, (labels[each.right], labels[each.right]), 1)
        false, missed = np.flatnonzero(~each.right), np.flatnonzero(each.missed)
        taken = _greedy(_overlaps(each.found.boxes[false], each.boxes[missed]), iou)
        confused = taken >= 0
        np.add.at(matrix, (each.labels[missed[taken[confused]]], labels[false[confused]]), 1)
        np.add.at(matrix[classes], labels[false[~confused]], 1)
        np.add.at(matrix[:, classes], each.labels[np.delete(missed, taken[confused])], 1)
    return matrix


def _overlaps(found: Float32[np.ndarray, "n 4"], boxes: Float32[np.ndarray, "m 4"]) -> np.ndarray:
    """IoU of every detection with every box."""
    pairs = box_iou(torch.from_numpy(found)[:, None], torch.from_numpy(boxes)[None])
    return pairs.numpy()


def _greedy(overlaps: np.ndarray, iou: float) -> Int64[np.ndarray, " n"]:
    """Row by row, the free column with the largest overlap of at least `iou`, or -1."""
    overlaps = overlaps.copy()
    match = np.full(len(overlaps), -1, dtype=np.int64)
    for row in np.flatnonzero((overlaps >= iou).any(axis=1)):
        column = int(overlaps[row].argmax())
        if overlaps[row, column] >= iou:
            match[row] = column
            overlaps[:, column] = -1
    return match
