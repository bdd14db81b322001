"""Reading COCO's annotation files, in the layouts that tools write them in."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from damoyolo.data.dataset import Dataset
from damoyolo.data.formats.entries import Annotated, check_entries
from damoyolo.data.formats.place import SPLITS, YAML_SUFFIXES, Place, check_source, other_names
from damoyolo.data.image_files import images_in
from damoyolo.errors import UserError, counted, nearest
from damoyolo.spec import Frozen, parse, read_yaml

ANNOTATIONS = (
    "{split}.json",
    "annotations/instances_{split}2017.json",
    "annotations/instances_{split}.json",
    "annotations/{split}.json",
    "instances_{split}.json",
    "{split}/_annotations.coco.json",
)
WHOLE = (
    "annotations.json",
    "annotations/instances_default.json",
    "annotations/annotations.json",
    "instances_default.json",
    "instances.json",
    "_annotations.coco.json",
    "result.json",
)
"""Where tools put annotations without a split."""
IMAGES = ("images/{split}2017", "images/{split}", "{split}2017", "{split}", "images", ".")
WHOLE_IMAGES = ("images", "images/default", "data", ".")
PROBED = 20


class SplitPaths(Frozen):
    """Paths of one split, relative to the file that names them."""

    annotations: Path
    images: Path


class DataFile(Frozen):
    """A YAML file that says where a data set is."""

    train: SplitPaths | None = None
    val: SplitPaths | None = None
    test: SplitPaths | None = None


def read_coco(
    source: Path, split: str, *, class_names: tuple[str, ...] | None = None, skip_bad: bool = False
) -> Dataset:
    """One split as `read_dataset` gives it, of data in COCO's format that have this split of their own."""
    check_source(source)
    place = find_coco(source, split)
    if place is None:
        raise missing(source, split)
    return check_entries(place.read(), class_names).dataset(skip_bad)


def find_coco(source: Path, split: str | None) -> Place | None:
    """Where the COCO annotations of a split are; with None, annotations without a split.

    `source` is a folder in one of the known layouts or a YAML file that names the paths.
    """
    if source.suffix in YAML_SUFFIXES:
        return _named_in(source, split)
    for name in (split, *other_names(split)) if split else ("",):
        for pattern in ANNOTATIONS if split else WHOLE:
            path = source / pattern.format(split=name)
            if path.is_file():
                images = IMAGES if split else WHOLE_IMAGES
                folders = [path.parent] if path.name == "_annotations.coco.json" else []
                folders += [source / each.format(split=name) for each in images]
                return Place("coco", path, partial(_read, path, folders))
    return None


def missing(source: Path, split: str, there: Sequence[str] = ()) -> UserError:
    """The error for a split that is nowhere; `there` are those that the data have."""
    instead = f"take {' or '.join(there)}" if there else ""
    if instead and split not in SPLITS:
        return UserError(f"{source}: has no annotations of split '{split}'; {instead}")
    instead += ", or " if instead else ""
    if source.suffix in YAML_SUFFIXES:
        return UserError(
            f"{source}: names no split '{split}'; {instead}add '{split}:' with 'annotations' and 'images'"
        )
    expected = ", ".join(pattern.format(split=split) for pattern in ANNOTATIONS)
    return UserError(
        f"{source}: has {_images_but(source)}no annotations of split '{split}'; {instead}name a folder with "
        f"one of {expected} (COCO), labels/{split} and images (YOLO), or .xml files (VOC)"
    )


def _images_but(folder: Path) -> str:
    """For data without labels, which a person may take for data: that the images were seen."""
    count = len(images_in(folder))
    return f"{counted(count, 'image')} but " if count else ""


def _named_in(source: Path, split: str | None) -> Place | None:
    """A split that a YAML file names."""
    paths = getattr(parse(DataFile, read_yaml(source), where=str(source)), split or "", None)
    if paths is None:
        return None
    annotations = source.parent / paths.annotations
    if not annotations.is_file():
        raise UserError(f"{source}: {split}.annotations: no file {annotations}; correct the path")
    return Place("coco", annotations, partial(_read, annotations, [source.parent / paths.images]))


def _read(path: Path, folders: Sequence[Path]) -> Annotated:
    content = _read_json(path)
    named = (each.get("file_name") for each in content["images"][:PROBED] if isinstance(each, dict))
    folder = choose_folder(folders, [name for name in named if isinstance(name, str) and "\0" not in name])
    return Annotated(path, content, folder, is_file=True)


def choose_folder(folders: Sequence[Path], names: Sequence[str]) -> Path:
    """The folder with the most of the images called `names`; if none, one that exists."""

    def found(folder: Path) -> tuple[int, bool]:
        return sum((folder / name).is_file() for name in names), folder.is_dir()

    return max(folders, key=found)


def _read_json(path: Path) -> dict[str, list[Any]]:
    """The file's content, with the three lists that every reader needs."""
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    except (ValueError, RecursionError) as error:  # of JSON, of its encoding, or nested without end
        raise UserError(f"{path}: is not valid JSON ({error}); replace the file") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds a {type(content).__name__}, expected the object of a COCO file")
    lists = ("images", "annotations", "categories")
    for key in lists:
        if key not in content:
            raise UserError(f"{path}: lacks '{key}'{nearest(key, content)}; a COCO file has it at the top")
        if not isinstance(content[key], list):
            raise UserError(f"{path}: '{key}' is a {type(content[key]).__name__}, expected a list")
    return {key: content[key] for key in lists}
