"""One way into data sets of every format."""

from __future__ import annotations

from pathlib import Path

from damoyolo.data.dataset import Dataset
from damoyolo.data.formats.coco import find_coco, missing
from damoyolo.data.formats.entries import Entries, check_entries
from damoyolo.data.formats.place import SPLITS, YAML_SUFFIXES, Place, check_source
from damoyolo.data.formats.voc import find_voc
from damoyolo.data.formats.yolo import find_yolo, is_data_file, misspelt_splits
from damoyolo.data.split import VAL_SHARE, draw_val
from damoyolo.errors import UserError

SEED = 0
DRAWN = ("train", "val")
"""What is drawn from the same images where the data have no `val`."""


def read_dataset(
    source: Path,
    split: str,
    *,
    class_names: tuple[str, ...] | None = None,
    skip_bad: bool = False,
    seed: int = SEED,
) -> Dataset:
    """One split of a data set in any known format; image files are opened only where a format needs them.

    Where there is no `val`, `train` and `val` are drawn from what there is, near-duplicates on one side: the
    same for the same images and `seed`. Labels follow `class_names`, matched by name, or else the classes
    as annotated. Crowd boxes and boxes that are empty within their image are left out and counted.

    Raises:
        UserError: for bad items (a wrong id or class, a malformed box, an unreadable label file), which then
            tells of bad image files, too; with `skip_bad` such items are left out and reported.
    """
    return read_entries(source, split, class_names, seed).dataset(skip_bad)


def read_entries(
    source: Path, split: str, class_names: tuple[str, ...] | None = None, seed: int = SEED
) -> Entries:
    """The items of one split, good and bad; see `read_dataset`."""
    check_source(source)
    whole = _undivided(source) if split in DRAWN else None
    if whole:
        return _draw(check_entries(whole.read(), class_names), split, seed)
    place = find_place(source, split)
    if place is None:
        raise missing(source, split, _readable(source))
    return check_entries(place.read(), class_names)


def splits_in(source: Path) -> tuple[str, ...]:
    """The splits that can be read; `UserError` if there is none.

    A `test` that a data file names, and that is not there, is left out: Roboflow names one in every export;
    see `overlooked`.
    """
    check_source(source)
    found = _readable(source)
    if not found:
        raise missing(source, "train")
    return found


def overlooked(source: Path) -> list[str]:
    """A sentence for what a data file names and `splits_in` leaves out: a slip of the hand, perhaps."""
    if source.suffix in YAML_SUFFIXES and not is_data_file(source):
        return []
    found = misspelt_splits(source)
    try:
        find_place(source, "test")
    except UserError as error:
        found.append(str(error))
    return found


def _readable(source: Path) -> tuple[str, ...]:
    drawn = DRAWN if _undivided(source) else ()
    return tuple(split for split in SPLITS if split in drawn or _is_there(source, split))


def _is_there(source: Path, split: str) -> bool:
    try:
        return find_place(source, split) is not None
    except UserError:
        if split != "test":
            raise
        return False


def find_place(source: Path, split: str | None) -> Place | None:
    """Where the annotations of a split are; with None, annotations without a split."""
    if source.suffix in YAML_SUFFIXES:
        return find_yolo(source, split) if is_data_file(source) else find_coco(source, split)
    return find_coco(source, split) or find_yolo(source, split) or find_voc(source, split)


def _undivided(source: Path) -> Place | None:
    """What `train` and `val` are drawn from: where there is no `val`, all but the test images."""
    if find_place(source, "val"):
        return None
    return find_place(source, "train") or find_place(source, None)


def _draw(entries: Entries, split: str, seed: int) -> Entries:
    """The part that a split gets of entries without one."""
    ids = sorted(entries.images, key=lambda image_id: str(entries.path(image_id)))
    chosen = draw_val([entries.path(image_id) for image_id in ids], seed)
    part = {image_id for image_id, is_val in zip(ids, chosen, strict=True) if is_val == (split == "val")}
    share = VAL_SHARE if split == "val" else 1 - VAL_SHARE
    return entries.narrowed(part, f"drawn by seed {seed}, about {share:.0%}, as the data have no val")
