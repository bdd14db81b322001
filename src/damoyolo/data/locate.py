"""Where a data set keeps its annotations and images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from damoyolo.errors import UserError
from damoyolo.spec import Frozen, parse, read_yaml

ANNOTATIONS = (
    "{split}.json",
    "annotations/instances_{split}2017.json",
    "annotations/instances_{split}.json",
    "annotations/{split}.json",
    "instances_{split}.json",
)
IMAGES = ("images/{split}2017", "images/{split}", "{split}2017", "{split}", "images", ".")
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


def locate(source: Path, split: str) -> tuple[Path, tuple[Path, ...]]:
    """The annotation file of a split and the folders its images may be in.

    `source` is a folder in one of the known layouts or a YAML file that names the paths.
    """
    if source.is_dir():
        return _annotations_in(source, split), tuple(
            source / pattern.format(split=split) for pattern in IMAGES
        )
    if source.suffix not in (".yaml", ".yml"):
        state = "is neither a folder nor a .yaml file" if source.exists() else "does not exist"
        raise UserError(f"{source}: {state}; name a data folder or a YAML file with its paths")
    paths = getattr(parse(DataFile, read_yaml(source), where=str(source)), split, None)
    if paths is None:
        raise UserError(f"{source}: names no split '{split}'; add '{split}:' with 'annotations' and 'images'")
    annotations = source.parent / paths.annotations
    if not annotations.is_file():
        raise UserError(f"{source}: {split}.annotations: no file {annotations}; correct the path")
    return annotations, (source.parent / paths.images,)


def choose_folder(folders: Sequence[Path], names: Sequence[str]) -> Path:
    """The folder with the most of the first few of the images called `names`; if none, one that exists."""

    def found(folder: Path) -> tuple[int, bool]:
        return sum((folder / name).is_file() for name in names[:PROBED]), folder.is_dir()

    return max(folders, key=found)


def _annotations_in(folder: Path, split: str) -> Path:
    candidates = [pattern.format(split=split) for pattern in ANNOTATIONS]
    for name in candidates:
        if (folder / name).is_file():
            return folder / name
    raise UserError(
        f"{folder}: has no annotations of split '{split}'; expected one of {', '.join(candidates)}"
    )
