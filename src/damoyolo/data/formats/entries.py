"""What annotations say, in COCO's form, checked item by item (cocodataset.org, "Data format")."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32

from damoyolo.data.dataset import Crowd, Dataset, Record, Report, find_faults, refusal
from damoyolo.data.resize import clip
from damoyolo.errors import UserError, listing, nearest

ABSENT = -1
"""Category id of a class that the annotations lack."""

LARGEST_PX = 1e9
"""Beyond this, a coordinate counts as infinite."""


@dataclass(frozen=True)
class Annotated:
    """The annotations of one split in COCO's form, whatever they were read from; not checked yet.

    `where` is what messages call them; `content` has the lists `images`, `annotations` and `categories`;
    image files are in `folder`; `faults` are the bad items that were found on the way, `marred` the ids of
    images that lost boxes by them, `unread` the image files that could not be read; `is_file` tells that
    `where` is a COCO file with the same content.
    """

    where: Path
    content: Mapping[str, list[Any]]
    folder: Path
    faults: tuple[str, ...] = ()
    marred: frozenset[int] = frozenset()
    unread: tuple[Path, ...] = ()
    is_file: bool = False

    def named_images(self) -> list[Path]:
        """The image files that are meant, good or bad."""
        names = [each.get("file_name") for each in self.content["images"] if isinstance(each, dict)]
        return [
            *(self.folder / name for name in names if isinstance(name, str) and "\0" not in name),
            *self.unread,
        ]


class Box(NamedTuple):
    """A box as annotated: x, y, width, height in pixels, not clipped to its image."""

    label: int
    xywh: list[float]


@dataclass(frozen=True)
class Entries:
    """The good items of annotations, by image id, and one sentence for each of the others.

    `marred` are the images that lost boxes among those; `split_from` says how the images were chosen where
    the data have no split of their own.
    """

    annotated: Annotated
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    images: Mapping[int, Mapping[str, Any]]
    boxes: Mapping[int, list[Box]]
    crowds: Mapping[int, list[Box]]
    faults: tuple[str, ...]
    marred: frozenset[int] = frozenset()
    split_from: str = ""

    def path(self, image_id: int) -> Path:
        """The image's file."""
        return self.annotated.folder / str(self.images[image_id]["file_name"])

    def narrowed(self, image_ids: set[int], split_from: str) -> Entries:
        """These images only."""
        return replace(
            self,
            images={key: value for key, value in self.images.items() if key in image_ids},
            split_from=split_from,
        )

    def with_classes(self, class_names: tuple[str, ...]) -> Entries:
        """The same with labels that follow `class_names`."""
        return check_entries(self.annotated, class_names).narrowed(set(self.images), self.split_from)

    def records(self) -> list[Record]:
        """By image id; boxes clipped to their image, without those that are empty then."""
        return list(self._records)

    @cached_property
    def _records(self) -> tuple[Record, ...]:
        return tuple(self._record(image_id) for image_id in sorted(self.images))

    def hollow(self) -> set[int]:
        """The images with boxes of which none can be used: what they show is no background."""
        return {
            record.image_id
            for record in self.records()
            if (self.boxes[record.image_id] or record.image_id in self.marred)
            and not (len(record.labels) or self.crowds.get(record.image_id))
        }

    def dataset(self, skip_bad: bool = False) -> Dataset:
        """What training and evaluation work with; see `read_dataset`."""
        records, hollow = self.records(), self.hollow() if skip_bad else set()
        if self.faults and not skip_bad:
            raise refusal([*self.faults, *filter(None, find_faults(records))])
        records = [record for record in records if record.image_id not in hollow]
        where = self.annotated.where
        emptied = [f"{self.path(number)}: none of its boxes can be used" for number in sorted(hollow)]
        left_out = (*self.faults, *emptied)
        if not records:
            raise UserError(f"{where}: none of its images can be used; the first: {left_out[0]}")
        boxes = sum(len(self.boxes[image_id]) for image_id in self.images)
        crowds = tuple(
            Crowd(image_id, crowd.label, _xyxy([crowd])[0])
            for image_id in sorted(self.images)
            for crowd in self.crowds.get(image_id, ())
        )
        report = Report(len(crowds), boxes - sum(len(each.labels) for each in records), left_out)
        return Dataset(
            tuple(records),
            self.class_names,
            self.category_ids,
            where,
            report,
            truth=None if self.annotated.is_file else self.annotated.content,
            crowds=crowds,
            split_from=self.split_from,
        )

    def _record(self, image_id: int) -> Record:
        image, items = self.images[image_id], self.boxes[image_id]
        boxes = clip(_xyxy(items), (image["height"], image["width"]))
        keep = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
        return Record(
            image_id=image_id,
            path=self.path(image_id),
            width=image["width"],
            height=image["height"],
            boxes=boxes[keep],
            labels=np.array([item.label for item in items], dtype=np.int64)[keep],
        )


def check_entries(annotated: Annotated, class_names: tuple[str, ...] | None = None) -> Entries:
    """The good items, with labels that follow `class_names`, matched by name, or else the categories by id.

    Raises:
        UserError: if a category is wrong or none of `class_names`, or there are no images.
    """
    where, content = annotated.where, annotated.content
    names, category_ids = _classes(where, content["categories"], class_names)
    if not content["images"] and not annotated.faults:
        raise UserError(f"{where}: has no images; add some to 'images'")
    faults = list(annotated.faults)
    images, refused = _images(where, content["images"], faults)
    labels = {category: label for label, category in enumerate(category_ids) if category != ABSENT}
    marred = set(annotated.marred)
    boxes, crowds = _boxes(where, content["annotations"], images, refused, labels, faults, marred)
    return Entries(
        annotated,
        names,
        category_ids,
        images,
        boxes,
        crowds,
        tuple(faults),
        frozenset(marred & images.keys()),
    )


def _xyxy(items: list[Box]) -> Float32[np.ndarray, "n 4"]:
    xywh = np.array([item.xywh for item in items], dtype=np.float64).reshape(-1, 4)
    xyxy: Float32[np.ndarray, "n 4"] = np.concatenate(
        [xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1, dtype=np.float32, casting="same_kind"
    )
    return xyxy


def _classes(
    path: Path, categories: list[Any], class_names: tuple[str, ...] | None
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Class names and the file's category id of each, -1 where it lacks the class."""
    ids: dict[str, int] = {}
    for number, category in enumerate(categories):
        try:
            identity, name = _whole(category, "id"), _text(category, "name")
            if identity < 0:
                raise ValueError(f"'id' is {identity}, expected 0 or more")
            if not name.strip() or name.splitlines() != [name]:
                raise ValueError(f"'name' is {name!r}, expected a text in one line")
            if name in ids:
                raise ValueError(f"repeats the name '{name}'")
            if identity in ids.values():
                raise ValueError(f"repeats the id {identity}")
        except ValueError as error:
            raise UserError(f"{path}: categories[{number}]: {error}; correct it") from None
        ids[name] = identity
    if not ids:
        raise UserError(f"{path}: has no categories; add the classes to 'categories'")
    if class_names is None:
        class_names = tuple(sorted(ids, key=ids.__getitem__))
    if unknown := [name for name in ids if name not in class_names]:
        known = f"it knows {listing(class_names)}"
        hint = nearest(unknown[0], class_names, cutoff=0.7) or "; take weights that were trained on them"
        raise UserError(f"{path}: the model has no class for {listing(unknown)}, {known}{hint}")
    return class_names, tuple(ids.get(name, ABSENT) for name in class_names)


def _images(path: Path, items: list[Any], faults: list[str]) -> tuple[dict[int, Mapping[str, Any]], set[int]]:
    """The image entries by id, and the ids of those left out."""
    images: dict[int, Mapping[str, Any]] = {}
    refused: set[int] = set()
    for number, item in enumerate(items):
        try:
            identity = _whole(item, "id")
            if identity in images:
                raise ValueError(f"repeats the id {identity}")
            refused.add(identity)
            if "\0" in _text(item, "file_name"):
                raise ValueError(f"'file_name' is {item['file_name']!r}, expected the name of a file")
            for key in ("width", "height"):
                if not 0 < _whole(item, key) < LARGEST_PX:
                    raise ValueError(f"'{key}' is {item[key]}, expected a positive number of pixels")
        except ValueError as error:
            faults.append(f"{path}: images[{number}]: {error}; correct it")
            continue
        refused.remove(identity)
        images[identity] = item
    return images, refused


def _boxes(
    path: Path,
    items: list[Any],
    images: Mapping[int, Any],
    refused: set[int],
    labels: Mapping[int, int],
    faults: list[str],
    marred: set[int],
) -> tuple[dict[int, list[Box]], dict[int, list[Box]]]:
    """The boxes of every image, and the crowds of those that have some."""
    boxes: dict[int, list[Box]] = {image_id: [] for image_id in images}
    crowds: dict[int, list[Box]] = {}
    seen: set[int] = set()
    for number, item in enumerate(items):
        try:
            identity, image_id, category = (_whole(item, key) for key in ("id", "image_id", "category_id"))
            if identity in seen:
                raise ValueError(f"repeats the id {identity}")
            seen.add(identity)
            if image_id in refused:
                continue
            if image_id not in images:
                raise ValueError(f"image_id {image_id} is not the id of an image")
            if category not in labels:
                raise ValueError(f"category_id {category} is not the id of a category")
            if item.get("iscrowd"):
                crowds.setdefault(image_id, []).append(Box(labels[category], _box(item)))
            else:
                boxes[image_id].append(Box(labels[category], _box(item)))
        except ValueError as error:
            faults.append(f"{path}: annotations[{number}]{_identify(item, images)}: {error}; correct it")
            if isinstance(item, dict) and isinstance(item.get("image_id"), int):
                marred.add(item["image_id"])
    return boxes, crowds


def _identify(item: Any, images: Mapping[int, Any]) -> str:
    """` (id 7 in a.jpg)`, as far as an annotation says so."""
    fields = item if isinstance(item, dict) else {}
    known = [f"id {str(fields['id'])[:20]}"] if "id" in fields else []
    image_id = fields.get("image_id")
    if isinstance(image_id, int) and image_id in images:
        known.append(f"in {images[image_id]['file_name']}")
    return f" ({' '.join(known)})" if known else ""


def _field(item: Any, key: str) -> Any:
    if not isinstance(item, dict):
        raise ValueError(f"is a {type(item).__name__}, expected an object")
    if key not in item:
        raise ValueError(f"lacks '{key}'")
    return item[key]


def _whole(item: Any, key: str) -> int:
    value = _field(item, key)
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"'{key}' is {value!r}, expected a whole number")
    return value


def _text(item: Any, key: str) -> str:
    value = _field(item, key)
    if not isinstance(value, str) or not value:
        raise ValueError(f"'{key}' is {value!r}, expected a text")
    return value


def _box(item: Any) -> list[float]:
    value = _field(item, "bbox")
    if not isinstance(value, list) or len(value) != 4 or not all(map(_finite, value)):
        raise ValueError(f"'bbox' is {str(value)[:80]}, expected four finite numbers x, y, width, height")
    return [float(each) for each in value]


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and -LARGEST_PX < value < LARGEST_PX
