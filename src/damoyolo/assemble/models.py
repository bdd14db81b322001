"""From names, specs and weights to the detectors that a run begins with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from damoyolo.config import TrainConfig
from damoyolo.errors import UserError, listing
from damoyolo.nn.blocks import RepConv
from damoyolo.nn.detector import Detector, build_detector
from damoyolo.spec import ModelCard, ModelSpec, parse, read_image_size
from damoyolo.zoo import SIZES, coco_class_names, read_spec
from damoyolo.zoo.hub import is_hub_name
from damoyolo.zoo.transfer import with_classes
from damoyolo.zoo.weights import load_any

SPEC_SUFFIXES = (".yaml", ".yml", ".json")


def build(
    model: str | Path, num_classes: int | None = None, *, class_names: tuple[str, ...] | None = None
) -> Detector:
    """A detector with random weights, in eval mode, of a size or a spec file, by default for COCO."""
    if class_names is None:
        coco_names = coco_class_names()
        count = len(coco_names) if num_classes is None else num_classes
        class_names = coco_names if count == len(coco_names) else tuple(f"class{i}" for i in range(count))
    elif num_classes not in (None, len(class_names)):
        raise UserError(
            f"num_classes is {num_classes}, but class_names has {len(class_names)} names; make them agree"
        )
    spec = read_any_spec(model)
    card = {"spec": spec, "class_names": class_names, "image_size": (spec.image_size, spec.image_size)}
    return build_detector(parse(ModelCard, card, where="build")).eval()


def first_detector(config: TrainConfig, class_names: tuple[str, ...]) -> tuple[Detector, str]:
    """The detector a run begins with, and one line for people: where each class's weights come from."""
    trained = _load_trainable(config.model) if is_weights(config.model) else None
    spec = trained.card.spec if trained else read_any_spec(config.model)
    size = read_image_size(config.image_size or spec.image_size)
    lineage: dict[str, Any] = {"source": "trained", "data": config.data.name, "torch": torch.__version__}
    lineage |= {"epochs": config.epochs, "seed": config.seed}
    if config.teacher:
        lineage["teacher"] = config.teacher if is_hub_name(config.teacher) else Path(config.teacher).name
    if trained:
        lineage["from"] = trained.card.lineage
    card = ModelCard(
        spec=spec, class_names=class_names, image_size=size, resize=config.resize, lineage=lineage
    )
    if trained is None:
        return build_detector(card), f"{spec.name} with random weights"
    kept = [name for name in class_names if name in trained.card.class_names]
    new = [name for name in class_names if name not in trained.card.class_names]
    origin = f"{spec.name} from {config.model}; classes kept: {listing(kept)}; begun anew: {listing(new)}"
    if card.resize != trained.card.resize:
        origin += f"; trained with resize '{trained.card.resize}', goes on with '{card.resize}'"
    return with_classes(trained, card), origin


def load_teacher(config: TrainConfig, student: ModelCard) -> tuple[Detector, str] | None:
    """The teacher of a run and a line about it for people; None where none is wanted.

    `UserError` if it cannot be read, knows other classes, or saw images that were resized differently.
    """
    if config.teacher is None:
        return None
    try:
        teacher = load_any(config.teacher)
    except UserError as error:
        raise UserError(f"teacher: needs a file of trained weights, but {error}") from error
    card = teacher.card
    if set(card.class_names) != set(student.class_names):
        raise UserError(
            f"teacher: {config.teacher} knows the classes {listing(card.class_names)} but the data has "
            f"{listing(student.class_names)}; take a teacher that was trained on these classes"
        )
    if card.resize != student.resize:
        raise UserError(
            f"teacher: {config.teacher} was trained with resize '{card.resize}' and this run has "
            f"'{student.resize}'; make them agree"
        )
    line = f"learns from {card.spec.name}, {config.teacher}"
    if card.image_size != student.image_size:
        sizes = [" x ".join(map(str, each)) for each in (card.image_size, student.image_size)]
        line += f"; it was trained at {sizes[0]} pixels and is shown {sizes[1]}"
    return teacher, line


def is_weights(model: str) -> bool:
    """Whether this is a file of weights, here or on the Hugging Face Hub, rather than a size or a spec."""
    if is_hub_name(model):
        return True
    return _as_size(model) is None and Path(model).suffix.lower() not in (*SPEC_SUFFIXES, "")


def _load_trainable(path: str) -> Detector:
    detector = load_any(path)
    if any(isinstance(module, RepConv) and hasattr(module, "fused") for module in detector.modules()):
        raise UserError(
            f"model: {path} holds weights that were fused for inference and cannot be trained on; "
            "give the file they were made from"
        )
    return detector


def _as_size(model: str | Path) -> str | None:
    """The zoo's name of a size, or None for a path."""
    return next((size for size in SIZES if size.lower() == str(model).lower()), None)


def read_any_spec(model: str | Path) -> ModelSpec:
    """The spec of a size or in a file."""
    return ModelSpec.read(model) if Path(model).suffix.lower() in SPEC_SUFFIXES else read_spec(str(model))
