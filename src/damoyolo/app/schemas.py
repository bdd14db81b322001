"""What the API says, as the OpenAPI page shows it."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from damoyolo.data.draw import colour_of


class Said(BaseModel):
    """Anything the API says."""

    model_config = ConfigDict(extra="forbid")


class Problem(Said):
    """Why there is no answer."""

    error: str = Field(description="one sentence: what is wrong, with which value, and what to do")


class Box(Said):
    """One thing."""

    label: int = Field(ge=0, description="number of the class")
    name: str = Field(description="name of the class")
    score: float = Field(ge=0, le=1)
    box: tuple[float, float, float, float] = Field(
        description="x1, y1, x2, y2 in pixels of the upright image"
    )


class Times(Said):
    """Milliseconds."""

    upload: float
    decode: float
    wait: float = Field(description="for the network to be free")
    network: float = Field(description="of the batch it was part of")
    total: float


class Prediction(Said):
    """What is in one image, best first."""

    width: int
    height: int
    detections: list[Box]
    ms: Times
    batch: int = Field(description="images in the batch")


class KnownClass(Said):
    """One class."""

    name: str
    colour: str = Field(description="of its boxes, as #rrggbb")


class Ap(Said):
    """Average precision, COCO's."""

    value: float = Field(ge=0, le=1)
    of: str = Field(description="what it was measured on")


class Model(Said):
    """The model card."""

    name: str
    weights: str = Field(description="name of the file, or size")
    engine: str
    precision: str
    image_size: tuple[int, int] = Field(description="(height, width) of the network's input in pixels")
    resize: str = Field(description="stretch or letterbox")
    parameters: int | None
    classes: list[KnownClass]
    ap: Ap | None
    licence: str
    lineage: dict[str, Any]
    nms_iou: float = Field(description="overlap above which two boxes of a class are one thing")
    nms_fixed: bool = Field(description="whether the file suppresses by itself, at nms_iou")
    spec: dict[str, Any] | None = Field(description="structure of the network")
    damoyolo: str = Field(description="version")


class Health(Said):
    """Whether the server works."""

    status: str
    inside: int = Field(description="images that are decoded, wait or are computed")
    most_inside: int = Field(description="that many at most; more are refused with 503")


def hex_colour(label: int) -> str:
    """The colour that `damoyolo predict` draws a class in."""
    return "#{:02x}{:02x}{:02x}".format(*colour_of(label))
