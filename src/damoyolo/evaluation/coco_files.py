"""COCO's annotation and results files, as far as metrics need them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, RootModel, ValidationError

from damoyolo.data.dataset import Dataset
from damoyolo.errors import UserError

Id = int | str
Finite = Annotated[float, Field(allow_inf_nan=False)]
Length = Annotated[float, Field(allow_inf_nan=False, ge=0)]
BoxXywh = Annotated[tuple[Finite, Finite, Length, Length], Field(strict=False)]


def _area_or_none(value: Any) -> float | None:
    """Tools write nothing, null or nonsense for an area they do not know."""
    known = isinstance(value, int | float) and math.isfinite(value) and value >= 0
    return float(value) if known else None


class _Entry(BaseModel):
    """One entry of a COCO file; fields that the metrics do not need are skipped."""

    model_config = ConfigDict(frozen=True, strict=True)


class Image(_Entry):
    """An entry of `images`."""

    id: Id


class Category(_Entry):
    """An entry of `categories`."""

    id: Id
    name: str


class Annotation(_Entry):
    """An entry of `annotations`: a box x, y, width, height in pixels, or a crowd."""

    image_id: Id
    category_id: Id
    bbox: BoxXywh
    area: Annotated[float | None, BeforeValidator(_area_or_none)] = None
    iscrowd: Annotated[bool, BeforeValidator(bool)] = False

    @property
    def measured_area(self) -> float:
        """`area` (of the object's outline, where it is known), else the area of the box."""
        return self.bbox[2] * self.bbox[3] if self.area is None else self.area


class Numbered(_Entry):
    """What makes an entry of a data set's `annotations` unique; results files do without."""

    id: int


class GroundTruth(_Entry):
    """A COCO annotation file."""

    images: list[Image]
    categories: list[Category]
    annotations: list[Annotation]


class Result(_Entry):
    """An entry of a COCO results file."""

    image_id: Id
    category_id: Id
    bbox: BoxXywh
    score: Finite


class Results(RootModel[list[Result]]):
    """A COCO results file."""


def read_content(source: str | Path | Any, name: str) -> tuple[Any, str]:
    """What a JSON file, or the value itself, holds, and what to call it in messages."""
    if not isinstance(source, str | Path):
        return source, name
    try:
        return json.loads(Path(source).read_bytes()), str(source)
    except OSError as error:
        raise UserError(f"{source}: cannot be read ({error.strerror}); check the path") from error
    except ValueError as error:
        raise UserError(f"{source}: is not valid JSON ({error}); replace the file") from error


def truth_of(dataset: Dataset) -> GroundTruth:
    """The annotations' entries, crowds too, of the images and classes that the dataset holds."""
    content, _ = read_content(dataset.truth or dataset.annotations, "annotations")
    categories = {id_: name for name, id_ in category_ids(dataset).items()}
    images = {record.image_id for record in dataset.records}
    annotations, seen = [], set()
    for entry in content["annotations"]:
        try:
            identity, annotation = Numbered.model_validate(entry).id, Annotation.model_validate(entry)
        except ValidationError:
            continue  # reading the dataset has reported it
        if identity in seen:
            continue  # likewise
        seen.add(identity)
        if annotation.image_id in images and annotation.category_id in categories:
            annotations.append(annotation)
    return GroundTruth(
        images=[Image(id=record.image_id) for record in dataset.records],
        categories=[Category(id=id_, name=name) for id_, name in categories.items()],
        annotations=annotations,
    )


def category_ids(dataset: Dataset) -> dict[str, int]:
    """By class, of the classes that the annotation file has."""
    both = zip(dataset.class_names, dataset.category_ids, strict=True)
    return {name: id_ for name, id_ in both if id_ >= 0}
