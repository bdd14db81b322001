"""A model as a server needs it: inputs that can wait, results in the frame of each photograph, facts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from damoyolo.assemble.inference import open_model
from damoyolo.data.resize import PAD, Resize, Size, size_of, to_original
from damoyolo.detections import Detections
from damoyolo.export.runtime import Runtime
from damoyolo.nn.detector import Detector
from damoyolo.prediction import Image, detect
from damoyolo.spec import ModelSpec
from damoyolo.zoo.known_ap import known_ap

LICENCE = "not recorded: that of the photographs it was trained on, and its owner's choice"
REFERENCE_LICENCE = "Apache-2.0, if these are the weights that the authors published"


class Prepared(NamedTuple):
    """A photograph at the size of the network's input (RGB 0..255), and the (height, width) it had."""

    pixels: Image
    original: Size


@dataclass(frozen=True)
class ServedModel:
    """Finds things in prepared photographs.

    `most` is how many a file takes at once, None where any number; `own_nms` says that a file suppresses
    overlaps by itself, at `nms_iou`.
    """

    detect: Callable[..., list[Detections]]
    resize: Resize
    class_names: tuple[str, ...]
    nms_iou: float
    own_nms: bool
    most: int | None
    facts: dict[str, Any]

    def prepare(self, image: Image) -> Prepared:
        """At most the size of the network's input, so that many can wait in little memory."""
        return Prepared(self.resize.image(image), size_of(image))

    def find(
        self, batch: Sequence[Prepared], *, score: float, nms_iou: float | None, max_detections: int
    ) -> list[Detections]:
        """What `prediction.detect` finds in the photographs, in their pixels; options as there."""
        limits = {"score": score, "nms_iou": nms_iou, "max_detections": max_detections}
        found = self.detect([each.pixels for each in batch], **limits)
        return [
            to_original(one.boxes, one.scores, one.labels, self.resize, each.original, self.class_names)
            for one, each in zip(found, batch, strict=True)
        ]

    def warm_up(self) -> None:
        """Look at a grey image, so that no real one waits for what engines do at first; tells what fails."""
        grey = Prepared(np.full((*self.resize.size, 3), PAD, dtype=np.uint8), self.resize.size)
        self.find([grey], score=1.0, nms_iou=None, max_detections=1)


def open_served(weights: str, *, device: str = "auto", image_size: int | str | None = None) -> ServedModel:
    """Whatever `damoyolo predict` takes, opened as it opens it; `UserError` if that is nothing."""
    model = open_model(weights, device=device, image_size=image_size)
    return _of_file(model, Path(weights)) if isinstance(model, Runtime) else _of_detector(model, weights)


def _of_detector(model: Detector, weights: str) -> ServedModel:
    card = model.card
    known = known_ap(card)
    facts = {
        **_common(weights, card.spec, card.class_names, Resize(card.resize, card.image_size)),
        "engine": f"PyTorch {torch.__version__} on {next(model.parameters()).device}",
        "precision": "fp32",
        "parameters": sum(each.numel() for each in model.parameters()),
        "ap": {"value": round(known.ap, 4), "of": known.of} if known else None,
        "licence": _licence_of(card.lineage),
        "lineage": card.lineage,
    }
    return ServedModel(
        partial(detect, model),
        Resize(card.resize, card.image_size),
        card.class_names,
        card.spec.nms_iou,
        own_nms=False,
        most=None,
        facts=facts,
    )


def _of_file(runtime: Runtime, path: Path) -> ServedModel:
    card = runtime.card
    facts = {
        **_common(str(path), card.spec, card.class_names, runtime.resize),
        "engine": type(runtime.session).__name__.removesuffix("Session"),
        "precision": card.precision,
        "parameters": None,
        "ap": None,
        "licence": LICENCE,
        "lineage": {"source": "exported", "head": card.head, "weights_sha256": card.weights_sha256},
    }
    return ServedModel(
        runtime.detect,
        runtime.resize,
        card.class_names,
        card.nms_iou,
        own_nms=card.head in ("nms", "trt_nms"),
        most=runtime.batch_size,
        facts=facts,
    )


def _common(
    weights: str, spec: ModelSpec | None, class_names: tuple[str, ...], resize: Resize
) -> dict[str, Any]:
    return {
        "name": spec.name if spec else Path(weights).stem,
        "weights": Path(weights).name,
        "image_size": list(resize.size),
        "resize": resize.rule,
        "class_names": list(class_names),
        "spec": spec.model_dump(mode="json", exclude={"published"}) if spec else None,
    }


def _licence_of(lineage: dict[str, Any]) -> str:
    recorded = lineage.get("licence")
    if isinstance(recorded, str):
        return recorded
    return REFERENCE_LICENCE if lineage.get("source") == "converted" else LICENCE
