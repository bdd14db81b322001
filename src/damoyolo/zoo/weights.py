"""Weights on disk: our one-file format, and the reference's checkpoints turned into it.

A file of ours is safetensors whose metadata holds, as JSON, the `ModelCard` and whether RepConv is fused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from safetensors.torch import save
from torch import Tensor

from damoyolo.errors import UserError
from damoyolo.files import write_atomically
from damoyolo.nn.blocks import RepConv
from damoyolo.nn.detector import Detector
from damoyolo.spec import Frozen, ModelCard, parse
from damoyolo.zoo import coco_class_names
from damoyolo.zoo.hub import fetch, is_hub_name
from damoyolo.zoo.layout import disagreement, hollow_detector, layout_of
from damoyolo.zoo.reference import Conversion, convert_reference
from damoyolo.zoo.tensor_file import kind_of, read_safetensors, read_torch

_METADATA_KEY = "damoyolo"  # a single key, because safetensors writes several in random order


class Description(Frozen):
    """What the metadata of a weights file says."""

    format: Literal[1] = 1
    fused: bool
    card: ModelCard


def save_weights(detector: Detector, path: str | Path) -> None:
    """Write a detector and its card to one file, atomically; equal detectors give equal bytes."""
    fused = any(isinstance(module, RepConv) and hasattr(module, "fused") for module in detector.modules())
    description = Description(fused=fused, card=detector.card).model_dump(mode="json")
    tensors = {key: tensor.cpu().contiguous() for key, tensor in detector.state_dict().items()}
    metadata = {_METADATA_KEY: json.dumps(description, sort_keys=True)}
    write_atomically(path, save(tensors, metadata))


def load_weights(path: str | Path) -> Detector:
    """The detector in a file that `save_weights` wrote, in eval mode on the CPU."""
    kind = kind_of(path)
    if kind != "safetensors":
        raise UserError(f"{path}: is a PyTorch checkpoint; {_how_to_convert(path)}")
    state, metadata = read_safetensors(path)
    description = _description(metadata, path)
    return _filled(description.card, description.fused, state, str(path))


def load_reference(
    path: str | Path, class_names: Sequence[str] | None = None, legacy_background: bool | None = None
) -> Detector:
    """The detector in a checkpoint of the reference, in eval mode on the CPU.

    Args:
        path: .pth with a state dict, bare or under `model`, or its tensors as safetensors; no code is run.
        class_names: one per class; by default COCO's for 80 classes, otherwise class0, class1, ...
        legacy_background: see `convert_reference`.
    """
    path = Path(path)
    state, metadata = (read_torch(path), {}) if kind_of(path) == "torch" else read_safetensors(path)
    if _METADATA_KEY in metadata:
        raise UserError(f"{path}: is a file of damoyolo's own already; use it as it is")
    conversion = convert_reference(state, legacy_background, where=str(path))
    side = conversion.spec.image_size
    card = ModelCard(
        spec=conversion.spec,
        class_names=_class_names(conversion, class_names, path),
        image_size=(side, side),
        lineage={"source": "converted", "file": path.name, "sha256": sha256_of(path)},
    )
    return _filled(card, conversion.fused, conversion.state, str(path))


def load_any(path: str | Path) -> Detector:
    """Our format or a checkpoint of the reference, told apart by content; in eval mode on the CPU.

    A name such as hf://owner/name is that of a file of ours on the Hugging Face Hub.
    """
    if is_hub_name(path):
        return load_from_hub(path)
    return load_weights(path) if kind_of(path) == "safetensors" else load_reference(path)


def load_from_hub(name: str | Path) -> Detector:
    """The detector in a file of ours on the Hub; its lineage tells the commit."""
    fetched = fetch(name)
    if kind_of(fetched.path) != "safetensors":
        raise UserError(
            f"{name}: calls itself safetensors and is something else, which is not read; take another"
        )
    detector = load_weights(fetched.path)
    lineage = {**detector.card.lineage, "origin": fetched.origin}
    detector.card = detector.card.model_copy(update={"lineage": lineage})
    return detector


def sha256_of(path: str | Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _how_to_convert(path: str | Path) -> str:
    return f"convert it with `damoyolo convert {path} OUT.safetensors`"


def _description(metadata: dict[str, str], path: str | Path) -> Description:
    if _METADATA_KEY not in metadata:
        raise UserError(
            f"{path}: was not written by damoyolo (its metadata has no '{_METADATA_KEY}'); if it holds "
            f"weights of the original DAMO-YOLO, {_how_to_convert(path)}"
        )
    try:
        value = json.loads(metadata[_METADATA_KEY])
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path}: metadata '{_METADATA_KEY}' is not JSON ({error}); write it again"
        ) from error
    if isinstance(value, dict) and isinstance(value.get("format"), int) and value["format"] > 1:
        raise UserError(f"{path}: has format {value['format']}, this damoyolo reads 1; update damoyolo")
    return parse(Description, value, where=str(path))


def _filled(card: ModelCard, fused: bool, state: dict[str, Tensor], where: str) -> Detector:
    """A detector with exactly these numbers, as float32."""
    detector = hollow_detector(card, fused)
    if problem := disagreement(layout_of(detector.state_dict()), layout_of(state)):
        raise UserError(f"{where}: does not fit the model it describes, {card.spec.name}: {problem}")
    detector.to_empty(device="cpu").load_state_dict(state)
    return detector


def _class_names(conversion: Conversion, given: Sequence[str] | None, path: Path) -> tuple[str, ...]:
    count = conversion.num_classes
    if given is None:
        coco = coco_class_names()
        return coco if count == len(coco) else tuple(f"class{number}" for number in range(count))
    if repeated := next((name for name in given if list(given).count(name) > 1), None):
        raise UserError(f"{path}: class_names repeats '{repeated}'; give every class a name of its own")
    if len(given) == count:
        return tuple(given)
    one_less = len(given) == count - 1
    hint = "; if the last is background, say so (legacy_background, --legacy-background)" if one_less else ""
    raise UserError(f"{path}: class_names has {len(given)} names, but the head has {count} classes{hint}")
