"""`damoyolo convert`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from damoyolo.errors import UserError, counted


def convert(
    source: Path,
    output: Path,
    /,
    *,
    class_names: str | None = None,
    legacy_background: Annotated[bool | None, Parameter(negative="--no-legacy-background")] = None,
) -> None:
    """Turn a checkpoint of the original DAMO-YOLO into one file of ours.

    Parameters
    ----------
    source
        The checkpoint (.pth, or its tensors as .safetensors); nothing in it is executed.
    output
        The file to write (.safetensors).
    class_names
        Names separated by commas, or a text file with one per line; default COCO's for 80 classes.
    legacy_background
        Cut off the last class channel, which is background (models before v0.3); default: if there are 81.
    """
    from damoyolo import assemble

    names = None if class_names is None else _names(class_names)
    card = assemble.convert(source, output, names, legacy_background).card
    print(f"{output}: {card.spec.name}, {counted(len(card.class_names), 'class', 'classes')}")


def _names(given: str) -> list[str]:
    """The names in a file, if there is one, else in the text itself."""
    path = Path(given)
    if path.is_file():
        names = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    elif path.suffix == ".txt":
        raise UserError(f"--class-names: no file {given}; check the path, or give names separated by commas")
    else:
        names = [name.strip() for name in given.split(",")]
    return [name for name in names if name]
