"""One list of detections from several looks at the same image. NumPy only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32

from damoyolo.detections import Detections

SAME_IOU = 0.5
"""Boxes of one class, from different looks, that overlap more are the same thing."""
COVERED = 0.5
"""A piece of a thing, cut off by a look's border, is dropped if another look's box covers more of it."""


@dataclass(frozen=True)
class Look:
    """What was found in one look at an image, in its pixels; and which boxes the border of the look cuts."""

    detections: Detections
    cut: Bool[np.ndarray, " n"]


def merge(looks: Sequence[Look], most: int) -> Detections:
    """Each thing once, as the look that saw it best has it; the best `most`.

    Whole boxes come before cut ones, then better ones before worse. A box is dropped if another look's of
    its class, before it, is the same thing or, for a cut one, covers it. Boxes of one look have been through
    suppression and do not drop each other.
    """
    boxes = np.concatenate([each.detections.boxes for each in looks])
    scores = np.concatenate([each.detections.scores for each in looks])
    labels = np.concatenate([each.detections.labels for each in looks])
    cut = np.concatenate([each.cut for each in looks])
    source = np.repeat(np.arange(len(looks)), [len(each.cut) for each in looks])
    kept = np.zeros(len(boxes), dtype=bool)
    for i in np.lexsort((-areas(boxes), -scores, cut)):
        rivals = kept & (labels == labels[i]) & (source != source[i])
        shared = intersections(boxes[i], boxes[rivals])
        area, others = areas(boxes[i : i + 1])[0], areas(boxes[rivals])
        dropped = shared > SAME_IOU * (area + others - shared)
        if cut[i]:
            dropped |= shared > COVERED * area
        kept[i] = not dropped.any()
    order = np.flatnonzero(kept)[np.argsort(-scores[kept], kind="stable")][:most]
    return Detections(boxes[order], scores[order], labels[order], looks[0].detections.class_names)


def intersections(
    box: Float32[np.ndarray, "xyxy=4"], boxes: Float32[np.ndarray, "n 4"]
) -> Float32[np.ndarray, " n"]:
    """Pixels that a box has in common with each of others."""
    sides = np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2])
    shared: Float32[np.ndarray, " n"] = np.clip(sides, 0, None).prod(axis=1)
    return shared


def areas(boxes: Float32[np.ndarray, "n 4"]) -> Float32[np.ndarray, " n"]:
    """In pixels."""
    product: Float32[np.ndarray, " n"] = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    return product
