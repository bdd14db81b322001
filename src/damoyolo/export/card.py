"""What an exported file says about itself. No torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field, PositiveInt, ValidationError

from damoyolo.data.resize import Rule
from damoyolo.errors import UserError
from damoyolo.spec import STRIDES, Frozen, ModelSpec, first_mistake

Head = Literal["raw", "topk", "nms", "trt_nms"]
"""What a file gives: all scores and boxes; the best k of them; what survives suppression, by ONNX's operator
or TensorRT's plug-in."""
Precision = Literal["fp32", "fp16", "bf16", "int8"]
ColourOrder = Literal["rgb", "bgr"]

METADATA_KEY = "damoyolo"
INPUT = "images"
RAW_OUTPUTS = ("output", "boxes")
"""Scores (b p c) and boxes (b p 4), xyxy in pixels of the input: the reference's order and first name."""
FINAL_OUTPUTS = ("num_dets", "det_boxes", "det_scores", "det_classes")
"""(b 1), (b k 4), (b k), (b k): how many boxes are meant, and k of them, best first; the rest is padding."""


class ExportCard(Frozen):
    """Travels as JSON in the metadata of every exported file.

    `image_size` is (height, width) in pixels. `preprocess` names the colour order of a graph that takes
    uint8 images (b h w 3) of the input size; without it a graph takes float32 RGB 0..255 (b 3 h w).
    `max_detections` is the k of the final heads; the thresholds are those of the heads with suppression, and
    the runtime's.
    """

    spec: ModelSpec | None = None
    class_names: tuple[str, ...] = Field(min_length=1)
    image_size: tuple[PositiveInt, PositiveInt]
    resize: Rule = "stretch"
    head: Head = "raw"
    precision: Precision = "fp32"
    preprocess: ColourOrder | None = None
    dynamic: bool = False
    batch: PositiveInt = 1
    score_threshold: float = Field(default=0.05, ge=0, le=1)
    nms_iou: float = Field(default=0.7, gt=0, le=1)
    max_detections: PositiveInt = 500
    weights_sha256: str = ""
    version: str = Field(default="", description="of the damoyolo that wrote the file")

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the graph's outputs, in order."""
        return RAW_OUTPUTS if self.head == "raw" else FINAL_OUTPUTS

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        """Of the input; with `dynamic` only an example."""
        height, width = self.image_size
        return (self.batch, height, width, 3) if self.preprocess else (self.batch, 3, height, width)

    def mismatch(self, images: Sequence[Any], outputs: Mapping[str, Sequence[Any]]) -> str:
        """What of a graph's shapes contradicts this, in words; empty if nothing does.

        Args:
            images: the shape of the input, empty if unknown; a size that is no number is not fixed.
            outputs: shapes by name, of all outputs.
        """
        height, width = self.image_size
        rows = (None, None) if self.dynamic else (height, width)
        wanted = (None, *rows, 3) if self.preprocess else (None, 3, *rows)
        batch = None if self.dynamic else self.batch
        if images and not _fits(images, (batch, *wanted[1:])):
            return f"its images are {_told(images)}, not {_told(self.input_shape)}"
        ordered = self.outputs if set(self.outputs) <= set(outputs) else tuple(outputs)
        shapes = self._output_shapes(batch)
        if len(ordered) != len(shapes) or not all(
            _fits(outputs[name], shape) for name, shape in zip(ordered, shapes, strict=True)
        ):
            given = ", ".join(f"{name} {_told(shape)}" for name, shape in outputs.items())
            return (
                f"its outputs are {given}, which does not fit the head {self.head} with "
                f"{len(self.class_names)} classes at {height}x{width}"
            )
        return ""

    def _output_shapes(self, batch: int | None) -> tuple[tuple[int | None, ...], ...]:
        """In the order of `outputs`; None is anything."""
        height, width = self.image_size
        whole = not self.dynamic and height % STRIDES[-1] == width % STRIDES[-1] == 0
        points = sum(height * width // stride**2 for stride in STRIDES) if whole else None
        if self.head == "raw":
            return (batch, points, len(self.class_names)), (batch, points, 4)
        most = None if self.dynamic or self.head == "trt_nms" else self.max_detections
        if most and points:
            most = min(most, points * len(self.class_names))
        return (batch, 1), (batch, most, 4), (batch, most), (batch, most)

    def to_json(self) -> str:
        """One line, equal for equal cards."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True)

    @classmethod
    def from_json(cls, text: str, where: str) -> ExportCard:
        """The card in a file's metadata; `UserError` names the file and what is wrong."""
        try:
            value: Any = json.loads(text)
        except json.JSONDecodeError as error:
            raise UserError(
                f"{where}: metadata '{METADATA_KEY}' is not JSON ({error}); export it again"
            ) from error
        try:
            return cls.model_validate(value)
        except ValidationError as error:
            mistake = first_mistake(cls, error)
            raise UserError(
                f"{where}: {mistake}, in its metadata '{METADATA_KEY}'; export it again with this version"
            ) from None


def _fits(shape: Sequence[Any], wanted: Sequence[int | None]) -> bool:
    """Whether the numbers in both are equal."""
    pairs = zip(shape, wanted, strict=False)
    return len(shape) == len(wanted) and all(
        not isinstance(size, int) or other is None or size == other for size, other in pairs
    )


def _told(shape: Sequence[Any]) -> str:
    """A shape with ? for what is not fixed."""
    return "x".join(str(size) if isinstance(size, int) else "?" for size in shape) or "a single number"
