"""The COCO numbers: average precision and recall of boxes, as pycocotools computes them."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hotcoco
import numpy as np
from jaxtyping import Float64, Int64, UInt8
from rich.console import Group
from rich.table import Table

from damoyolo.data.dataset import Dataset
from damoyolo.data.images import read_sized
from damoyolo.detections import Detections
from damoyolo.errors import UserError, listing
from damoyolo.evaluation.coco_files import (
    Annotation,
    GroundTruth,
    Results,
    category_ids,
    read_content,
    truth_of,
)
from damoyolo.spec import parse

Detect = Callable[[list[UInt8[np.ndarray, "_ _ 3"]]], list[Detections]]

ABSENT = -1.0
"""In place of a number that cannot be measured, such as the AP of small boxes where there are none."""


@dataclass(frozen=True)
class ClassReport:
    """One class: AP at IoU .5:.95 and at .5, and how many boxes (without crowds) it has."""

    name: str
    ap: float
    ap50: float
    boxes: int


@dataclass(frozen=True)
class Report:
    """The 12 COCO numbers, 0..1 or `ABSENT`, over all classes, and the AP of each class.

    `ap` is the mean over IoU .5 to .95; `ar10` the recall with the best ten boxes per image and class;
    small, medium and large boxes are below 32 x 32, below 96 x 96 and above, in pixels of the original image.
    """

    ap: float
    ap50: float
    ap75: float
    ap_small: float
    ap_medium: float
    ap_large: float
    ar1: float
    ar10: float
    ar100: float
    ar_small: float
    ar_medium: float
    ar_large: float
    per_class: tuple[ClassReport, ...]
    images: int

    def to_json(self) -> str:
        """All fields as a JSON object."""
        return json.dumps(dataclasses.asdict(self), indent=2)

    def table(self) -> Group:
        """For the terminal, through `rich.print`."""
        summary = Table("", title=f"{self.images} images")
        for heading in ("all", "small", "medium", "large", "IoU .5", "IoU .75"):
            summary.add_column(heading, justify="right")
        precision = (self.ap, self.ap_small, self.ap_medium, self.ap_large, self.ap50, self.ap75)
        recall = (self.ar100, self.ar_small, self.ar_medium, self.ar_large)
        summary.add_row("AP", *map(_shown, precision))
        summary.add_row("AR", *map(_shown, recall))
        classes = Table("class")
        for heading in ("boxes", "AP", "AP50"):
            classes.add_column(heading, justify="right")
        for each in self.per_class:
            classes.add_row(each.name, str(each.boxes), _shown(each.ap), _shown(each.ap50))
        return Group(summary, classes) if self.per_class else Group(summary)


@dataclass(frozen=True)
class Curve:
    """Precision of one class at recall 0, .01 .. 1, at IoU .5; its mean is the class's AP50."""

    name: str
    precision: Float64[np.ndarray, "recalls=101"]


@dataclass(frozen=True)
class _Accumulated:
    """What matching gives, `ABSENT` where it cannot be measured; classes with their numbers of boxes.

    Axes: IoU .5 .55 .. .95; recall 0 .01 .. 1; class; size all, small, medium, large; best 1, 10, 100.
    """

    precision: Float64[np.ndarray, "10 101 c 4 3"]
    recall: Float64[np.ndarray, "10 c 4 3"]
    classes: list[tuple[str, int]]
    images: int


@dataclass(frozen=True)
class Found:
    """Detections of many images as columns; boxes are x, y, width, height in pixels of their image."""

    image_ids: list[int | str]
    category_ids: list[int | str]
    boxes: Float64[np.ndarray, "n 4"]
    scores: Float64[np.ndarray, " n"]

    @classmethod
    def concatenate(cls, parts: Sequence[Found]) -> Found:
        """One after the other."""
        return cls(
            [each for part in parts for each in part.image_ids],
            [each for part in parts for each in part.category_ids],
            np.concatenate([np.zeros((0, 4)), *(part.boxes for part in parts)]),
            np.concatenate([np.zeros(0), *(part.scores for part in parts)]),
        )


def evaluate(
    detect: Detect,
    dataset: Dataset,
    batch_size: int = 8,
    progress: Callable[[int], None] | None = None,
) -> Report:
    """Detect in every image of a dataset and compare with its annotations.

    Classes are matched by name; boxes of a class that the dataset lacks are left out.

    Args:
        detect: images as they were read in, boxes in their pixels out.
        dataset: what to look at; images and annotations that were skipped when it was read stay out.
        batch_size: images given to `detect` at once.
        progress: called with the number of images done, after each batch.
    """
    return compare(dataset, find(detect, dataset, batch_size, progress))


def find(
    detect: Detect,
    dataset: Dataset,
    batch_size: int = 8,
    progress: Callable[[int], None] | None = None,
) -> Found:
    """The first half of `evaluate`: what is in every image, of the classes that the dataset has."""
    ids = category_ids(dataset)
    found = []
    for start in range(0, len(dataset.records), batch_size):
        records = dataset.records[start : start + batch_size]
        images = [read_sized(record.path, record.size) for record in records]
        for record, detections in zip(records, detect(images), strict=True):
            found.append(_as_columns(detections, record.image_id, ids))
        if progress:
            progress(start + len(records))
    return Found.concatenate(found)


def compare(dataset: Dataset, found: Found) -> Report:
    """The second half of `evaluate`: what was found in all images, compared with the annotations."""
    return _report(truth_of(dataset), found)


def curves(dataset: Dataset, found: Found) -> tuple[Curve, ...]:
    """Precision against recall of every class that the dataset has a box of."""
    result = _accumulate(truth_of(dataset), found)
    return tuple(
        Curve(name, result.precision[0, :, number, 0, 2])
        for number, (name, boxes) in enumerate(result.classes)
        if boxes
    )


def evaluate_records(
    ground_truth: str | Path | Mapping[str, Any],
    detections: str | Path | Sequence[Mapping[str, Any]],
    class_agnostic: bool = False,
) -> Report:
    """Compare detections of any detector with annotations, in COCO's formats, in memory or in JSON files.

    Args:
        ground_truth: `images`, `categories` and `annotations`.
        detections: records with `image_id`, `category_id`, `bbox` (x, y, width, height) and `score`.
        class_agnostic: only places count; a box of the wrong class is right. Leaves `per_class` empty.
    """
    truth = parse(GroundTruth, *read_content(ground_truth, "ground truth"))
    content, where = read_content(detections, "detections")
    results = parse(Results, content, where).root
    found = Found(
        [each.image_id for each in results],
        [each.category_id for each in results],
        np.array([each.bbox for each in results], dtype=np.float64).reshape(-1, 4),
        np.array([each.score for each in results], dtype=np.float64),
    )
    return _report(truth, found, class_agnostic, where)


def _as_columns(detections: Detections, image_id: int | str, ids: Mapping[str, int | str]) -> Found:
    """Those detections of one image whose class has a category id."""
    if ids.keys().isdisjoint(detections.class_names):
        raise UserError(
            f"the model knows {listing(detections.class_names)} but the data has {listing(ids)}; "
            "classes are matched by name, so at least one must be the same"
        )
    keep = np.array([name in ids for name in detections.names], dtype=bool)
    boxes = detections.boxes[keep].astype(np.float64)
    return Found(
        [image_id] * int(keep.sum()),
        [ids[name] for name in detections.names if name in ids],
        np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1),
        detections.scores[keep].astype(np.float64),
    )


def _report(
    truth: GroundTruth, found: Found, class_agnostic: bool = False, where: str = "detections"
) -> Report:
    """Match and summarize."""
    return _summarize(_accumulate(truth, found, class_agnostic, where))


def _accumulate(
    truth: GroundTruth, found: Found, class_agnostic: bool = False, where: str = "detections"
) -> _Accumulated:
    """Match, under numbers of our own so that ids may be texts or have gaps."""
    images = _numbered(each.id for each in truth.images)
    categories = _numbered(each.id for each in truth.categories)
    _check_known(found.image_ids, images, f"{where}: image_id")
    _check_known(found.category_ids, categories, f"{where}: category_id")
    annotations = [
        each for each in truth.annotations if each.image_id in images and each.category_id in categories
    ]
    reference = _reference(annotations, images, categories)
    image_numbers = _column(images[each] for each in found.image_ids)
    category_numbers = _column(categories[each] for each in found.category_ids)
    results = np.column_stack([image_numbers, found.boxes, found.scores, category_numbers])
    matcher = hotcoco.COCOeval(reference, reference.load_res(results), "bbox")
    matcher.params.use_cats = not class_agnostic
    matcher.evaluate()
    matcher.accumulate()
    assert matcher.eval is not None
    counts = Counter(each.category_id for each in annotations if not each.iscrowd)
    names = {each.id: each.name for each in truth.categories}
    classes = [] if class_agnostic else [(names[each], counts[each]) for each in categories]
    return _Accumulated(matcher.eval["precision"], matcher.eval["recall"], classes, len(images))


def _reference(
    annotations: Sequence[Annotation], images: Mapping[int | str, int], categories: Mapping[int | str, int]
) -> hotcoco.COCO:
    return hotcoco.COCO.from_arrays(
        images=[{"id": number} for number in images.values()],
        categories=[{"id": number, "name": str(number)} for number in categories.values()],
        image_ids=_column(images[each.image_id] for each in annotations),
        category_ids=_column(categories[each.category_id] for each in annotations),
        boxes=np.array([each.bbox for each in annotations], dtype=np.float64).reshape(-1, 4),
        area=np.array([each.measured_area for each in annotations], dtype=np.float64),
        iscrowd=_column(each.iscrowd for each in annotations),
    )


def _summarize(result: _Accumulated) -> Report:
    """Means of what could be measured."""
    precision, recall = result.precision, result.recall
    return Report(
        ap=_mean(precision[:, :, :, 0, 2]),
        ap50=_mean(precision[0, :, :, 0, 2]),
        ap75=_mean(precision[5, :, :, 0, 2]),
        ap_small=_mean(precision[:, :, :, 1, 2]),
        ap_medium=_mean(precision[:, :, :, 2, 2]),
        ap_large=_mean(precision[:, :, :, 3, 2]),
        ar1=_mean(recall[:, :, 0, 0]),
        ar10=_mean(recall[:, :, 0, 1]),
        ar100=_mean(recall[:, :, 0, 2]),
        ar_small=_mean(recall[:, :, 1, 2]),
        ar_medium=_mean(recall[:, :, 2, 2]),
        ar_large=_mean(recall[:, :, 3, 2]),
        per_class=tuple(
            ClassReport(
                name, _mean(precision[:, :, number, 0, 2]), _mean(precision[0, :, number, 0, 2]), boxes
            )
            for number, (name, boxes) in enumerate(result.classes)
        ),
        images=result.images,
    )


def _mean(values: Float64[np.ndarray, "*axes"]) -> float:
    measured = values[values > ABSENT]
    return float(measured.mean()) if measured.size else ABSENT


def _numbered(ids: Iterable[int | str]) -> dict[int | str, int]:
    """Numbers 1, 2, ... for ids in ascending order."""
    ascending = sorted(set(ids), key=lambda each: (isinstance(each, str), each))
    return {each: number for number, each in enumerate(ascending, start=1)}


def _column(numbers: Iterable[int]) -> Int64[np.ndarray, " n"]:
    return np.fromiter(numbers, dtype=np.int64)


def _check_known(values: Iterable[int | str], known: Collection[int | str], where: str) -> None:
    if unknown := set(values).difference(known):
        raise UserError(
            f"{where} {listing(_numbered(unknown))} is not in the ground truth, "
            f"which has {listing(known)}; give detections and annotations of the same data"
        )


def _shown(value: float) -> str:
    return "–" if value == ABSENT else f"{value:.3f}"
