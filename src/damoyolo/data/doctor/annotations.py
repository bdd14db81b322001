"""What is wrong with annotations, or likely to spoil a training; no image is opened."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Float64

from damoyolo.data.dataset import Record
from damoyolo.data.doctor.classes import check_class_names, check_counts
from damoyolo.data.doctor.findings import Example, Finding, Level, Xyxy, finding
from damoyolo.data.formats.entries import Entries
from damoyolo.data.resize import Size
from damoyolo.spec import STRIDES

ROUNDING_PX = 1.0
"""How far a box may reach over the border of its image before that is worth a word."""
SAME_IOU = 0.95
"""IoU from which two boxes of one class are one object labelled twice."""
SMALL_SHARE = 0.05
"""Share of boxes thinner than the finest stride that is worth a warning."""
DISTORTED = 1.5
"""Change of width against height, by resizing, that is worth a warning."""


def check_annotations(splits: Mapping[str, Entries], image_size: Size) -> list[Finding]:
    """Everything that can be said without opening an image; `image_size` is that of the network's input."""
    found = [
        _bad_items(splits),
        *check_class_names(splits),
        *check_counts(splits),
        *_outside(splits),
        _repeated(splits),
        _hollow_images(splits),
        _empty_images(splits),
        *_at_size(splits, image_size),
    ]
    return [each for each in found if each]


def repeated_boxes(record: Record) -> Bool[np.ndarray, " n"]:
    """Which boxes of an image label an object again that an earlier box of the same class labels."""
    boxes = record.boxes.astype(np.float64)
    low, high = (
        np.maximum(boxes[:, None, :2], boxes[None, :, :2]),
        np.minimum(boxes[:, None, 2:], boxes[None, :, 2:]),
    )
    shared = np.clip(high - low, 0, None).prod(axis=2)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    same = shared >= SAME_IOU * (areas[:, None] + areas - shared)
    same &= record.labels[:, None] == record.labels
    repeated: Bool[np.ndarray, " n"] = np.tril(same, -1).any(axis=1)
    return repeated


def thinnest_sides(records: Sequence[Record], image_size: Size) -> Float64[np.ndarray, " n"]:
    """The shorter side of every box once its image is stretched to `image_size`, in pixels of that."""
    sides = [np.zeros(0)]
    for record in records:
        scale = np.array(image_size[::-1]) / np.array((record.width, record.height))
        sides.append(((record.boxes[:, 2:] - record.boxes[:, :2]).astype(np.float64) * scale).min(axis=1))
    return np.concatenate(sides)


def distortions(records: Sequence[Record], image_size: Size) -> Float64[np.ndarray, " n"]:
    """By which factor stretching to `image_size` changes width against height, at least 1, per image."""
    aspects = np.array([record.width / record.height for record in records], dtype=np.float64)
    ratios = aspects * image_size[0] / image_size[1]
    return np.maximum(ratios, 1 / ratios)


def _bad_items(splits: Mapping[str, Entries]) -> Finding | None:
    faults = dict.fromkeys(fault for entries in splits.values() for fault in entries.faults)
    return finding(
        "error",
        "bad items in the annotations",
        [(fault, ()) for fault in faults],
        "correct them, or leave them out with --skip-bad or --fix",
    )


def _outside(splits: Mapping[str, Entries]) -> list[Finding | None]:
    """Boxes of which nothing is in their image, and boxes that reach over its border."""
    empty, crossing = [], []
    empty_boxes: dict[Path, list[Xyxy]] = defaultdict(list)
    crossing_boxes: dict[Path, list[Xyxy]] = defaultdict(list)
    for split, entries in splits.items():
        for image_id, image in entries.images.items():
            boxes = entries.boxes[image_id]
            if not boxes:
                continue
            xywh = np.array([box.xywh for box in boxes], dtype=np.float64)
            border = np.array([image["width"], image["height"]], dtype=np.float64)
            low, high = xywh[:, :2], xywh[:, :2] + xywh[:, 2:]
            is_empty = np.any(np.minimum(high, border) <= np.maximum(low, 0), axis=1)
            over = np.maximum(-low, high - border).max(axis=1)
            for number in np.flatnonzero(is_empty | (over > ROUNDING_PX)):
                shown = ", ".join(f"{value:g}" for value in np.round(xywh[number], 2))
                path = entries.path(image_id)
                size = f"{image['width']} x {image['height']}"
                text = f"{split}: {path.name} ({size}): x, y, width, height {shown}"
                box = _xyxy(np.concatenate([low[number], high[number]]))
                if is_empty[number]:
                    empty_boxes[path].append(box)
                    empty.append((text, (path,)))
                else:
                    crossing_boxes[path].append(box)
                    crossing.append((f"{text}: {over[number]:.1f} px over the border", (path,)))
    return [
        finding(
            "error",
            "boxes that are empty or wholly outside their image",
            empty,
            "draw them again; training leaves them out, and so does --fix",
            empty_boxes,
        ),
        finding(
            "warning",
            "boxes that reach over the border of their image",
            crossing,
            "check that boxes belong to these images; training cuts them, and so does --fix",
            crossing_boxes,
        ),
    ]


def _repeated(splits: Mapping[str, Entries]) -> Finding | None:
    found: list[Example] = []
    faulty: dict[Path, list[Xyxy]] = defaultdict(list)
    for split, entries in splits.items():
        for record in entries.records():
            again = repeated_boxes(record)
            if again.any():
                text = f"{split}: {record.path.name}: {again.sum()} of {len(record.labels)} boxes"
                found.append((text, (record.path,)))
                faulty[record.path] += [_xyxy(box) for box in record.boxes[again]]
    return finding(
        "warning",
        "images with an object labelled twice",
        found,
        f"keep one box (same class, IoU of {SAME_IOU} or more); --fix does",
        faulty,
    )


def _xyxy(box: Float[np.ndarray, "xyxy=4"]) -> Xyxy:
    x1, y1, x2, y2 = box.tolist()
    return x1, y1, x2, y2


def _hollow_images(splits: Mapping[str, Entries]) -> Finding | None:
    found = [
        (f"{split}: {entries.path(image_id).name}", (entries.path(image_id),))
        for split, entries in splits.items()
        for image_id in sorted(entries.hollow())
    ]
    return finding(
        "error",
        "images of whose boxes none can be used",
        found,
        "correct the boxes, or the images would be learnt as background; --skip-bad and --fix leave them out",
    )


def _empty_images(splits: Mapping[str, Entries]) -> Finding | None:
    hollow = {split: entries.hollow() for split, entries in splits.items()}
    found = [
        (f"{split}: {record.path.name}", (record.path,))
        for split, entries in splits.items()
        for record in entries.records()
        if not len(record.labels) and record.image_id not in hollow[split]
    ]
    return finding(
        "note", "images without boxes", found, "good as background, if there is really nothing in them"
    )


def _at_size(splits: Mapping[str, Entries], image_size: Size) -> list[Finding | None]:
    """What becomes of boxes and images at the network's input."""
    records = next(iter(splits.values())).records()
    sides = thinnest_sides(records, image_size)
    height, width = image_size
    stride = STRIDES[0]
    thin = int((sides < stride).sum())
    changes = distortions(records, image_size)
    changed = int((changes > DISTORTED).sum())
    size = f"{width} x {height}"
    found: list[Finding | None] = []
    if thin:
        text = f"{thin} of {len(sides)} training boxes ({thin / len(sides):.1%}) are thinner than that"
        level: Level = "warning" if thin > SMALL_SHARE * len(sides) else "note"
        title = f"boxes thinner than a stride ({stride} px) at an input of {size}"
        found.append(
            Finding(
                level,
                title,
                thin,
                (text,),
                "take a larger --image-size if the images have the pixels, or cut large images into tiles",
            )
        )
    if changed:
        worst = records[int(changes.argmax())]
        text = (
            f"stretching changes width against height by a factor of {np.median(changes):.2f} in the middle, "
            f"{changes.max():.2f} at most ({worst.path.name}, {worst.width} x {worst.height})"
        )
        remedy = "train with --resize letterbox, or an --image-size of the images' own shape"
        found.append(
            Finding(
                "warning", f"images far from the shape of {size}", changed, (text,), remedy, (worst.path,)
            )
        )
    return found
