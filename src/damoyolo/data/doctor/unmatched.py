"""Files that have lost each other: images that no split names, and labels of images that are gone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

from damoyolo.data.doctor.findings import Finding, finding
from damoyolo.data.formats.entries import Entries
from damoyolo.data.formats.yolo import labels_without_image
from damoyolo.data.image_files import is_image


def check_files(splits: Mapping[str, Entries]) -> list[Finding]:
    """What lies beside the files of all splits and belongs to none of them."""
    resolved: Callable[[Path], Path] = cache(Path.resolve)  # a folder may be spelt in many ways

    def place(path: Path) -> Path:
        return resolved(path.parent) / path.name

    named = {place(path) for entries in splits.values() for path in entries.annotated.named_images()}
    beside = {
        each
        for folder in {image.parent for image in named}
        for each in folder.glob("*")
        if is_image(each) and each not in named and each.is_file()
    }
    found = [
        finding(
            "warning",
            "label files without an image",
            [(f"{path}: holds boxes", ()) for path in labels_without_image(named)],
            "bring the images back, or delete these files; they are not read",
        ),
        finding(
            "note",
            "images that no split names",
            [(str(path), (path,)) for path in sorted(beside)],
            "annotate them, or add them to a split, if they are to be used; they are not read",
        ),
    ]
    return [each for each in found if each]
