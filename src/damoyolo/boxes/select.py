"""From scores to final boxes: threshold, class-aware non-maximum suppression, best few."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float, Int64
from torch import Tensor

from damoyolo.boxes.decode import decode_boxes
from damoyolo.boxes.nms import nms_by_class
from damoyolo.boxes.types import Predictions
from damoyolo.detections import MAX_DETECTIONS

TOP_K = 30_000
"""Candidates per image that suppression ever looks at; more appear only while a network is untrained."""
FIRST_LOOK = 4096
"""Candidates looked at first.

Greedy suppression of the best n is the beginning of the suppression of all, so where these already yield
the wanted number of boxes the answer is final (2 ms instead of 30 for 33,000 candidates).
"""


@dataclass(frozen=True)
class Selected:
    """Final boxes of one image in pixels of the network's input, not clipped; best first, then by point."""

    boxes: Float[Tensor, "n 4"]
    scores: Float[Tensor, " n"]
    labels: Int64[Tensor, " n"]


def select(
    predictions: Predictions,
    score_threshold: float,
    nms_iou: float,
    max_detections: int = MAX_DETECTIONS,
    top_k: int = TOP_K,
) -> list[Selected]:
    """`select_boxes` for every image of a batch; only points that pass the threshold are decoded."""
    points, strides = predictions.points, predictions.strides
    selected = []
    for scores, side_logits in zip(predictions.scores.float(), predictions.side_logits, strict=True):
        (hopeful,) = (scores.amax(dim=1) > score_threshold).nonzero(as_tuple=True)
        boxes = decode_boxes(side_logits[hopeful].float(), points[hopeful], strides[hopeful])
        selected.append(select_boxes(scores[hopeful], boxes, score_threshold, nms_iou, max_detections, top_k))
    return selected


def select_boxes(
    scores: Float[Tensor, "p c"],
    boxes: Float[Tensor, "p 4"],
    score_threshold: float,
    nms_iou: float,
    max_detections: int = MAX_DETECTIONS,
    top_k: int = TOP_K,
) -> Selected:
    """The best boxes of one image.

    Every class of a point whose score exceeds the threshold is a candidate of its own; within a class, a
    candidate that overlaps a better one by more than `nms_iou` is dropped.
    """
    points, labels = (scores > score_threshold).nonzero(as_tuple=True)
    order = scores[points, labels].sort(descending=True, stable=True).indices[:top_k]
    points, labels = points[order], labels[order]
    candidates = Selected(boxes[points], scores[points, labels], labels)
    for count in (FIRST_LOOK, top_k):
        first = candidates.boxes[:count], candidates.scores[:count], candidates.labels[:count]
        kept = nms_by_class(*first, nms_iou)[:max_detections]
        if len(kept) == max_detections or count >= len(order):
            break
    return Selected(candidates.boxes[kept], candidates.scores[kept], candidates.labels[kept])
