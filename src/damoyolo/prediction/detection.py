"""From images to the things found in them, with a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8

from damoyolo.boxes.select import select
from damoyolo.data.images import read_image
from damoyolo.data.resize import Resize, size_of, to_original
from damoyolo.detections import MAX_DETECTIONS, PICTURE_SCORE, Detections
from damoyolo.errors import UserError
from damoyolo.nn.detector import Detector

Image = UInt8[np.ndarray, "_ _ 3"]
Finder = Callable[[Sequence[Image]], list[Detections]]
"""What is in each image: `detect` with a model, or the runtime of an exported file."""


@torch.inference_mode()
def detect(
    model: Detector,
    images: Sequence[Image],
    *,
    score: float = PICTURE_SCORE,
    nms_iou: float | None = None,
    max_detections: int = MAX_DETECTIONS,
) -> list[Detections]:
    """What is in each image (RGB 0..255, any sizes), as one batch on the model's device.

    Args:
        model: in eval mode; `nn.detector.fuse` and `channels_last` make it faster, not different.
        images: not changed.
        score: lowest score, 0..1.
        nms_iou: two boxes of a class that overlap more are one thing; default the model's own.
        max_detections: the best so many are kept in each image.
    """
    if not isinstance(model, Detector):
        raise UserError(f"model: a {type(model).__name__} is no detector; get one from damoyolo.load(...)")
    if model.training:
        raise UserError("the model is in training mode, which gives wrong boxes; call model.eval() first")
    if not images:
        return []
    card = model.card
    resize = Resize(card.resize, card.image_size)
    pixels = torch.from_numpy(np.stack([resize.image(image) for image in images]))
    batch = pixels.to(next(model.parameters()).device).permute(0, 3, 1, 2).float()
    selected = select(model(batch), score, card.spec.nms_iou if nms_iou is None else nms_iou, max_detections)
    return [
        to_original(
            found.boxes.cpu().numpy(),
            found.scores.cpu().numpy(),
            found.labels.cpu().numpy(),
            resize,
            size_of(image),
            card.class_names,
        )
        for found, image in zip(selected, images, strict=True)
    ]


def predict(
    model: Detector,
    image: str | Path | Image,
    *,
    score: float = PICTURE_SCORE,
    nms_iou: float | None = None,
    max_detections: int = MAX_DETECTIONS,
) -> Detections:
    """What is in one image, given as a file or as RGB pixels; see `detect`."""
    pixels = image if isinstance(image, np.ndarray) else read_image(image)
    return detect(model, [pixels], score=score, nms_iou=nms_iou, max_detections=max_detections)[0]
