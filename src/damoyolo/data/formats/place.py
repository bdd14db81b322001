"""Where annotations are: what looking for a data set's format ends with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from damoyolo.data.formats.entries import Annotated
from damoyolo.errors import UserError

SPLITS = ("train", "val", "test")
YAML_SUFFIXES = (".yaml", ".yml")
_OTHER_NAMES = {"train": ("training",), "val": ("valid", "validation"), "test": ("testing",)}


@dataclass(frozen=True)
class Place:
    """Annotations that were found: coco, yolo or voc, and how to read them."""

    format: str
    where: Path
    read: Callable[[], Annotated]


def other_names(split: str) -> tuple[str, ...]:
    """What tools also call a split."""
    return _OTHER_NAMES.get(split, ())


def check_source(source: Path) -> None:
    """That there is a folder or a YAML file; `UserError` otherwise."""
    if not source.is_dir() and source.suffix not in YAML_SUFFIXES:
        state = "is neither a folder nor a .yaml file" if source.exists() else "does not exist"
        raise UserError(f"{source}: {state}; name a data folder or a YAML file with its paths")
