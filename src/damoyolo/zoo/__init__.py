"""The published models as data: one YAML file per size, the COCO class names, and where weights may be had.

Importing this package imports no torch; `zoo.weights`, `zoo.reference` and `zoo.mirrors` do.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from damoyolo.errors import UserError, nearest
from damoyolo.spec import ModelSpec, read_yaml

SIZES = ("Ns", "Nm", "Nl", "T", "S", "M", "L")
"""The suite, smallest first: three for CPUs, four for GPUs."""

_FOLDER = Path(__file__).parent


def read_spec(name: str) -> ModelSpec:
    """The spec of a size, whatever its case; `UserError` names the nearest size if there is none."""
    sizes = {size.lower(): size for size in SIZES}
    if name.lower() not in sizes:
        hint = nearest(name, SIZES) or f"; known sizes: {' '.join(SIZES)}"
        raise UserError(f"'{name}' is no model size{hint}")
    return _read(sizes[name.lower()])


@cache
def _read(size: str) -> ModelSpec:
    return ModelSpec.read(_FOLDER / f"{size.lower()}.yaml")


@cache
def coco_class_names() -> tuple[str, ...]:
    """The 80 classes of COCO in the order of the published heads."""
    return tuple(read_yaml(_FOLDER / "coco_classes.yaml")["class_names"])
