"""What a data set is once its annotations have been read: records, classes, and what was left out."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64

from damoyolo.data.images import check_image
from damoyolo.data.resize import Size
from damoyolo.errors import UserError, counted

LISTED = 20
"""How many bad items an error names one by one."""


@dataclass(frozen=True)
class Record:
    """One image and its boxes, xyxy in pixels, within `height` and `width`, none empty; labels from 0."""

    image_id: int
    path: Path
    width: int
    height: int
    boxes: Float32[np.ndarray, "n 4"]
    labels: Int64[np.ndarray, " n"]

    @property
    def size(self) -> Size:
        """(height, width) in pixels."""
        return self.height, self.width


@dataclass(frozen=True)
class Report:
    """What was left out: counts of crowd and of empty boxes, and one sentence per bad item."""

    crowd: int = 0
    degenerate: int = 0
    skipped: tuple[str, ...] = ()

    def __str__(self) -> str:
        counts = (
            (self.crowd, "crowd boxes"),
            (self.degenerate, "empty boxes"),
            (len(self.skipped), "bad images or annotations"),
        )
        parts = [f"{what} {count}" for count, what in counts if count]
        return f"left out: {', '.join(parts)}" if parts else "nothing left out"


@dataclass(frozen=True)
class Crowd:
    """A region with many objects of one class; xyxy in pixels of its image, not clipped to it."""

    image_id: int
    label: int
    box: Float32[np.ndarray, "xyxy=4"]


@dataclass(frozen=True)
class Dataset:
    """One split, by image id.

    `category_ids[label]` is the class's id in `annotations`, or -1 where that file lacks the class.
    `annotations` is the file or folder as given; the ground truth of an evaluation, crowds included, is
    `truth`, in COCO's form, or where that is None the COCO file `annotations`. `split_from` says how the
    images were chosen where the data have no split of their own.
    """

    records: tuple[Record, ...]
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    annotations: Path
    report: Report
    truth: Mapping[str, Any] | None = None
    crowds: tuple[Crowd, ...] = ()
    split_from: str = ""

    def __len__(self) -> int:
        return len(self.records)

    def summary(self) -> str:
        """One line for people: how much there is and what was left out."""
        boxes = sum(len(record.labels) for record in self.records)
        empty = sum(len(record.labels) == 0 for record in self.records)
        return (
            f"{self.annotations}: {counted(len(self), 'image')} ({empty} without boxes), "
            f"{counted(boxes, 'box', 'boxes')}, {counted(len(self.class_names), 'class', 'classes')}; "
            f"{self.report}{self.split_from and '; '}{self.split_from}"
        )


def check_images(dataset: Dataset, skip_bad: bool = False) -> Dataset:
    """The data set whose image files all exist, can be decoded and have the stated size.

    Those that do not are a `UserError`, see `refusal`; with `skip_bad` they are left out and reported.
    """
    faults = find_faults(dataset.records)
    found = list(filter(None, faults))
    if found and not skip_bad:
        raise refusal(found)
    good = tuple(record for record, fault in zip(dataset.records, faults, strict=True) if not fault)
    if not good:
        raise UserError(f"{dataset.annotations}: none of its images can be used; the first: {found[0]}")
    report = replace(dataset.report, skipped=(*dataset.report.skipped, *found))
    return replace(dataset, records=good, report=report)


def find_faults(records: Sequence[Record]) -> list[str]:
    """What is wrong with the image file of each, an empty string where nothing is."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(_fault, records))


def refusal(found: Sequence[str]) -> UserError:
    """The error for bad items, one sentence each: it names the first, and its notes list up to `LISTED`."""
    more = len(found) - 1
    if not more:
        return UserError(f"{found[0]}, or leave bad items out with --skip-bad")
    items = f"{counted(more, 'more bad item')} (`damoyolo doctor` shows all)"
    error = UserError(f"{found[0]}, and see to {items}, or leave them all out with --skip-bad")
    for sentence in found[:LISTED]:
        error.add_note(sentence)
    if len(found) > LISTED:
        error.add_note(f"and {len(found) - LISTED} more")
    return error


def _fault(record: Record) -> str:
    """What is wrong with the image file, or an empty string."""
    try:
        check_image(record.path, record.size)
    except UserError as error:
        return str(error)
    return ""
