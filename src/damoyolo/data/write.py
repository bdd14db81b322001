"""Writing data sets in COCO's and in YOLO's format, with copies of their images."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import yaml

from damoyolo.data.dataset import Dataset, Record
from damoyolo.data.image_files import READERS, read_size
from damoyolo.errors import UserError
from damoyolo.files import write_atomically

Told = Callable[[], None]
"""Called when an image is done."""


def write_coco(datasets: Mapping[str, Dataset], output: Path, told: Told = lambda: None) -> None:
    """Write `SPLIT.json` and `images/SPLIT/` for every split, in COCO's format.

    Category ids count from 1 in the order of the classes. Crowds are kept, outlines are not.
    An annotation file appears once all of its images are there.
    """
    for split, dataset in datasets.items():
        names = _file_names(dataset)
        places = [output / "images" / split / names[record.image_id] for record in dataset.records]
        _for_all(_copy, dataset.records, places, told)
        content = coco_content(dataset, names)
        write_atomically(output / f"{split}.json", json.dumps(content).encode())


def write_yolo(datasets: Mapping[str, Dataset], output: Path, told: Told = lambda: None) -> None:
    """Write `images/SPLIT/`, `labels/SPLIT/` and last `data.yaml`, in YOLO's format, which has no crowds.

    Raises:
        UserError: if an image is not of the stated size once it is upright: shares of the sides would
            then mean something else.
    """
    for split, dataset in datasets.items():
        names = _file_names(dataset)
        labels = [output / "labels" / split / names[record.image_id] for record in dataset.records]
        places = [output / "images" / split / names[record.image_id] for record in dataset.records]
        _for_all(_write_lines, dataset.records, labels)
        _for_all(_copy, dataset.records, places, told)
    content = {
        "path": ".",
        **{split: f"images/{split}" for split in datasets},
        "names": dict(enumerate(next(iter(datasets.values())).class_names)),
    }
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    write_atomically(output / "data.yaml", text.encode())


def coco_content(dataset: Dataset, names: Mapping[int, str]) -> dict[str, list[dict[str, Any]]]:
    """What a COCO file of the data set says, with these names of image files by image id."""
    found = [
        (record.image_id, int(label), box, 0)
        for record in dataset.records
        for label, box in zip(record.labels, record.boxes.astype(float).tolist(), strict=True)
    ]
    kept = {record.image_id for record in dataset.records}
    found += [
        (crowd.image_id, crowd.label, crowd.box.astype(float).tolist(), 1)
        for crowd in dataset.crowds
        if crowd.image_id in kept
    ]
    return {
        "images": [
            {
                "id": record.image_id,
                "file_name": names[record.image_id],
                "width": record.width,
                "height": record.height,
            }
            for record in dataset.records
        ],
        "categories": [{"id": label + 1, "name": name} for label, name in enumerate(dataset.class_names)],
        "annotations": [
            {
                "id": number,
                "image_id": image_id,
                "category_id": label + 1,
                "bbox": [round(value, 3) for value in (x1, y1, x2 - x1, y2 - y1)],
                "area": round((x2 - x1) * (y2 - y1), 3),
                "iscrowd": crowd,
            }
            for number, (image_id, label, (x1, y1, x2, y2), crowd) in enumerate(found, start=1)
        ],
    }


def yolo_lines(record: Record) -> str:
    """`class x y width height` for every box, centres and sides as shares of the image's."""
    lines = []
    for label, (x1, y1, x2, y2) in zip(record.labels, record.boxes.astype(float).tolist(), strict=True):
        x, width = (x1 + x2) / 2 / record.width, (x2 - x1) / record.width
        y, height = (y1 + y2) / 2 / record.height, (y2 - y1) / record.height
        lines.append(f"{label} {x:.7f} {y:.7f} {width:.7f} {height:.7f}\n")
    return "".join(lines)


def _file_names(dataset: Dataset) -> dict[int, str]:
    """A name for every image, its own where no other has the same but for the suffix."""
    counts = Counter(record.path.stem.lower() for record in dataset.records)
    return {
        record.image_id: record.path.name
        if counts[record.path.stem.lower()] == 1
        else f"{record.path.stem}_{record.image_id}{record.path.suffix}"
        for record in dataset.records
    }


def _for_all(
    write: Callable[[Record, Path], None],
    records: Sequence[Record],
    places: Sequence[Path],
    told: Told = lambda: None,
) -> None:
    """Several at once, most of the time waiting for a disk."""
    with ThreadPoolExecutor(READERS) as pool:
        for _ in pool.map(write, records, places):
            told()


def _write_lines(record: Record, place: Path) -> None:
    if read_size(record.path) != record.size:
        raise UserError(
            f"{record.path}: is not {record.width} x {record.height} pixels once it is upright, as its "
            "annotations say; save it upright and without EXIF data first"
        )
    write_atomically(place.with_suffix(".txt"), yolo_lines(record).encode())


def _copy(record: Record, place: Path) -> None:
    try:
        content = record.path.read_bytes()
    except OSError as error:
        raise UserError(f"{record.path}: cannot be read ({error.strerror}); check the path") from error
    write_atomically(place, content)
