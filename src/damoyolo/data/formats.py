"""Reading annotations in COCO's format (cocodataset.org, "Data format")."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from damoyolo.data.dataset import Dataset, Record, Report, find_faults, refusal
from damoyolo.data.locate import choose_folder, locate
from damoyolo.data.resize import clip
from damoyolo.errors import UserError, nearest

Boxes = dict[int, list[tuple[int, list[float]]]]
"""(label, [x, y, width, height]) of every box, by image id."""

ABSENT = -1
"""Category id of a class that the file lacks."""

LARGEST_PX = 1e9
"""Beyond this, a coordinate counts as infinite."""


def read_coco(
    source: Path, split: str, *, class_names: tuple[str, ...] | None = None, skip_bad: bool = False
) -> Dataset:
    """The annotations of one split; no image file is opened (see `check_images`) unless there are bad items.

    Labels follow `class_names`, matched by name, or else the file's categories by id. Crowd boxes and boxes
    that are empty within their image are left out and counted. Bad items (wrong id, malformed or NaN box,
    duplicate id) are a `UserError`, which then tells of bad image files, too; with `skip_bad` such items are
    left out and reported.
    """
    path, folders = locate(source, split)
    content = _read_json(path)
    names, category_ids = _classes(path, content["categories"], class_names)
    if not content["images"]:
        raise UserError(f"{path}: has no images; add some to 'images'")
    faults: list[str] = []
    images, refused = _images(path, content["images"], faults)
    labels = {category: label for label, category in enumerate(category_ids) if category != ABSENT}
    boxes, crowd = _boxes(path, content["annotations"], images, refused, labels, faults)
    folder = choose_folder(folders, [image["file_name"] for image in images.values()])
    records = [_record(image, folder, boxes[image_id]) for image_id, image in sorted(images.items())]
    if faults and not skip_bad:
        raise refusal([*faults, *filter(None, find_faults(records))])
    if not records:
        raise UserError(f"{path}: none of its images can be used; the first: {faults[0]}")
    degenerate = sum(map(len, boxes.values())) - sum(len(record.labels) for record in records)
    return Dataset(tuple(records), names, category_ids, path, Report(crowd, degenerate, tuple(faults)))


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
    for name in ids:
        if name not in class_names:
            hint = nearest(name, class_names) or f"; its classes: {', '.join(class_names)[:200]}"
            raise UserError(f"{path}: the model has no class for category '{name}'{hint}")
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
) -> tuple[Boxes, int]:
    """The boxes of every image and the number of crowds left out."""
    boxes: Boxes = {image_id: [] for image_id in images}
    seen: set[int] = set()
    crowd = 0
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
                crowd += 1
            else:
                boxes[image_id].append((labels[category], _box(item)))
        except ValueError as error:
            faults.append(f"{path}: annotations[{number}]{_identify(item, images)}: {error}; correct it")
    return boxes, crowd


def _identify(item: Any, images: Mapping[int, Any]) -> str:
    """` (id 7 in a.jpg)`, as far as an annotation says so."""
    fields = item if isinstance(item, dict) else {}
    known = [f"id {str(fields['id'])[:20]}"] if "id" in fields else []
    image_id = fields.get("image_id")
    if isinstance(image_id, int) and image_id in images:
        known.append(f"in {images[image_id]['file_name']}")
    return f" ({' '.join(known)})" if known else ""


def _record(image: Mapping[str, Any], folder: Path, items: list[tuple[int, list[float]]]) -> Record:
    """Boxes as xyxy, clipped to the image, without those that are empty then."""
    xywh = np.array([box for _, box in items], dtype=np.float64).reshape(-1, 4)
    xyxy = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1).astype(np.float32)
    boxes = clip(xyxy, (image["height"], image["width"]))
    keep = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    return Record(
        image_id=image["id"],
        path=folder / image["file_name"],
        width=image["width"],
        height=image["height"],
        boxes=boxes[keep],
        labels=np.array([label for label, _ in items], dtype=np.int64)[keep],
    )


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
