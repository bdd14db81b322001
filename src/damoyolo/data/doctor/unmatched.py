"""Files that have lost each other: images that nothing annotates, and labels of images that are gone."""

from __future__ import annotations

from collections.abc import Mapping

from damoyolo.data.doctor.findings import Finding, finding
from damoyolo.data.formats.entries import Entries
from damoyolo.data.formats.yolo import labels_without_image
from damoyolo.data.image_files import is_image


def check_files(splits: Mapping[str, Entries]) -> list[Finding]:
    """What lies beside the files of all splits and belongs to none of them."""
    images = {entries.path(each).absolute() for entries in splits.values() for each in entries.images}
    faults = [fault for entries in splits.values() for fault in entries.faults]
    beside = {
        each for folder in {image.parent for image in images} for each in folder.glob("*") if is_image(each)
    }
    alone = [
        path
        for path in sorted(beside - images)
        if not any(str(path) in fault for fault in faults)  # told there
    ]
    found = [
        finding(
            "warning",
            "label files without an image",
            [(f"{path}: holds boxes", ()) for path in labels_without_image(images)],
            "bring the images back, or delete these files; they are not read",
        ),
        finding(
            "note",
            "images that no annotation names",
            [(str(path), (path,)) for path in alone],
            "annotate them if they are to be used; they are not read",
        ),
    ]
    return [each for each in found if each]
