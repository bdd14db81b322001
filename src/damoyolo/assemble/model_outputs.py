"""What a model computes, in the terms in which its exported files are compared with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from damoyolo.boxes.select import TOP_K, select
from damoyolo.data.resize import Resize, size_of, to_original
from damoyolo.detections import Detections
from damoyolo.errors import UserError
from damoyolo.export.card import ExportCard
from damoyolo.export.comparison import Raw, Results
from damoyolo.export.proof import Image, Trial
from damoyolo.nn.detector import Detector, fuse


def reference_of(model: Detector) -> Detector:
    """As PyTorch runs it fastest on a CPU."""
    return fuse(model).to("cpu", memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


@torch.inference_mode()
def detected(reference: Detector, picture: Image, card: ExportCard) -> Detections:
    """As `prediction.detect`, from no more candidates than a file with the head `topk` has."""
    resize = Resize(card.resize, card.image_size)
    predictions = reference(torch.from_numpy(floats([resize.image(picture)])))
    top_k = card.max_detections if card.head == "topk" else TOP_K
    (found,) = select(predictions, card.score_threshold, card.nms_iou, card.max_detections, top_k)
    boxes, scores, labels = (each.numpy() for each in (found.boxes, found.scores, found.labels))
    return to_original(boxes, scores, labels, resize, size_of(picture), card.class_names)


@torch.inference_mode()
def given(reference: Detector, picture: Image, card: ExportCard) -> Raw | Detections:
    """All that a file with that card is to give for an image, in pixels of its input."""
    picture = Resize(card.resize, card.image_size).image(picture)
    predictions = reference(torch.from_numpy(floats([picture])))
    if not (predictions.scores.isfinite().all() and predictions.boxes.isfinite().all()):
        raise UserError("the model gives numbers that are not finite; its weights are broken, train it again")
    if card.head == "raw":
        return predictions.scores[0].numpy(), predictions.boxes[0].numpy()
    most = card.max_detections
    if card.head == "topk":  # whatever their scores and overlaps are
        (found,) = select(predictions, 0.0, 2.0, most, most)
    else:
        (found,) = select(predictions, card.score_threshold, card.nms_iou, most)
    boxes, scores, labels = (each.numpy() for each in (found.boxes, found.scores, found.labels))
    return Detections(boxes, scores, labels, card.class_names)


def computed(reference: Detector, trial: Trial) -> Results:
    """What a file is to give in a trial."""
    detections = [detected(reference, image, trial.card) for image in trial.images]
    outputs: Any = [given(reference, image, trial.card) for image in trial.images]
    return Results(detections, outputs).filling(trial.count)


def floats(pictures: Sequence[Image]) -> np.ndarray:
    """As a network takes them."""
    return np.ascontiguousarray(np.stack(pictures).transpose(0, 3, 1, 2), dtype=np.float32)
