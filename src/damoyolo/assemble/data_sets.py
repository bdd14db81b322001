"""Data sets as a whole: all their splits, and the same in another format."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Literal, get_args

from damoyolo.data.dataset import Dataset, check_images
from damoyolo.data.formats import read_entries, splits_in
from damoyolo.data.formats.entries import Entries
from damoyolo.data.write import write_coco, write_yolo
from damoyolo.errors import UserError

Format = Literal["coco", "yolo"]
"""What data sets can be written in."""
Progress = Callable[[int, int], None]
"""Called with the numbers of images done and in all."""


def as_coco(
    data: str | Path,
    output: str | Path,
    *,
    seed: int = 0,
    skip_bad: bool = False,
    progress: Progress | None = None,
) -> dict[str, Dataset]:
    """Write a data set of any known format in COCO's; see `convert_data`."""
    return convert_data(data, output, "coco", seed=seed, skip_bad=skip_bad, progress=progress)


def as_yolo(
    data: str | Path,
    output: str | Path,
    *,
    seed: int = 0,
    skip_bad: bool = False,
    progress: Progress | None = None,
) -> dict[str, Dataset]:
    """Write a data set of any known format in YOLO's; see `convert_data`."""
    return convert_data(data, output, "yolo", seed=seed, skip_bad=skip_bad, progress=progress)


def convert_data(
    data: str | Path,
    output: str | Path,
    to: Format,
    *,
    seed: int = 0,
    skip_bad: bool = False,
    progress: Progress | None = None,
) -> dict[str, Dataset]:
    """Write all splits of a data set in another format, with copies of the images.

    Args:
        data: a folder or a YAML file in any known format.
        output: a folder that is empty or not there yet.
        to: `coco` or `yolo`.
        seed: draws `train` and `val` where the data have no `val`.
        skip_bad: leave bad images and annotations out instead of stopping.
        progress: called with the numbers of images written and in all.

    Returns:
        What was written, by split, as it was read.
    """
    if to not in get_args(Format):
        raise UserError(f"--to: '{to}' is none of {', '.join(get_args(Format))}")
    refuse_filled(Path(output))
    splits = read_splits(Path(data), seed)
    names = union_of_names(splits.values())
    datasets = {
        split: check_images(entries.with_classes(names).dataset(skip_bad), skip_bad)
        for split, entries in splits.items()
    }
    write_data(datasets, Path(output), to, progress)
    return datasets


def write_data(
    datasets: Mapping[str, Dataset], output: Path, to: Format, progress: Progress | None = None
) -> None:
    """Write splits that have the same classes into a folder of their own."""
    refuse_filled(output)
    done, total = 0, sum(map(len, datasets.values()))

    def told() -> None:
        nonlocal done
        done += 1
        if progress:
            progress(done, total)

    {"coco": write_coco, "yolo": write_yolo}[to](datasets, output, told)


def refuse_filled(output: Path) -> None:
    """That a folder to write into is new or empty; `UserError` otherwise."""
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"{output}: is there already and not an empty folder; name a new one")


def read_splits(data: Path, seed: int = 0) -> dict[str, Entries]:
    """All splits of a data set; the classes of each are those of its own annotations."""
    return {split: read_entries(data, split, seed=seed) for split in splits_in(data)}


def union_of_names(splits: Iterable[Entries]) -> tuple[str, ...]:
    """The classes of all splits in the order of the first, then of those after it."""
    return tuple(dict.fromkeys(name for entries in splits for name in entries.class_names))
