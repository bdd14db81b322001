"""Writing OpenVINO's two files, .xml and .bin, from ONNX."""

from __future__ import annotations

import tempfile
from pathlib import Path

import onnx
import openvino

from damoyolo.export.card import METADATA_KEY, ExportCard
from damoyolo.files import write_atomically


def to_openvino(model: onnx.ModelProto) -> openvino.Model:
    """The same graph, with the card of its metadata as run-time information."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        onnx.save(model, path)
        converted = openvino.convert_model(path)
    card = next(each.value for each in model.metadata_props if each.key == METADATA_KEY)
    describe(converted, ExportCard.from_json(card, "ONNX"))
    return converted


def describe(model: openvino.Model, card: ExportCard) -> None:
    """Put the card where OpenVINO keeps what a model says of itself."""
    model.set_rt_info(card.to_json(), METADATA_KEY)


def save_openvino(model: openvino.Model, path: Path, *, half: bool = False) -> None:
    """Write `path` (.xml) and the .bin beside it; `half` stores float16 weights. The .xml comes last."""
    with tempfile.TemporaryDirectory() as folder:
        part = Path(folder) / "model.xml"
        openvino.save_model(model, part, compress_to_fp16=half)
        write_atomically(path.with_suffix(".bin"), part.with_suffix(".bin").read_bytes())
        write_atomically(path, part.read_bytes())
