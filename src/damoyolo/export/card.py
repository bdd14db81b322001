"""What an exported file says about itself. No torch."""

from __future__ import annotations

import json
from typing import Any, Literal

from pydantic import Field, PositiveInt

from damoyolo.data.resize import Rule
from damoyolo.errors import UserError
from damoyolo.spec import Frozen, ModelSpec, parse

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
        return parse(cls, value, where=where)
