"""Measuring weights with PyTorch beside exported files."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import torch

from damoyolo.assemble.inference import load
from damoyolo.assemble.model_outputs import reference_of
from damoyolo.export.bench import Subject
from damoyolo.export.card import ExportCard
from damoyolo.export.runtime import Runtime
from damoyolo.nn.detector import Detector


def weights_subject(path: Path, *, threads: int | None = None) -> Subject:
    """A weights file, run by PyTorch in float32 on the CPU."""
    return Subject(str(path), f"torch {torch.__version__}", partial(_open, path, threads), "fp32")


class TorchSession:
    """PyTorch behind the face of an engine; images of the model's size, any number of them."""

    def __init__(self, detector: Detector) -> None:
        card = detector.card
        self.card = ExportCard(
            spec=card.spec,
            class_names=card.class_names,
            image_size=card.image_size,
            resize=card.resize,
            dynamic=True,
            score_threshold=card.spec.score_threshold,
            nms_iou=card.spec.nms_iou,
        )
        self._detector = reference_of(detector)

    @torch.inference_mode()
    def run(self, images: np.ndarray) -> list[np.ndarray]:
        """See `export.sessions.Session`."""
        predictions = self._detector(torch.from_numpy(images))
        return [predictions.scores.numpy(), predictions.boxes.numpy()]


def _open(path: Path, threads: int | None) -> Runtime:
    if threads:
        torch.set_num_threads(threads)
    session = TorchSession(load(str(path)))
    return Runtime(session, session.card)
