"""The kinds of files there are, by name and suffix."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from damoyolo.errors import UserError
from damoyolo.export.card import ExportCard
from damoyolo.export.onnx import to_onnx
from damoyolo.files import write_atomically
from damoyolo.nn.detector import Detector

Format = Literal["onnx", "openvino"]
SUFFIXES: dict[Format, str] = {"onnx": ".onnx", "openvino": ".xml"}


def format_of(output: Path, given: Format | None = None) -> Format:
    """What the suffix of a file says; `UserError` if that is nothing known, or not what was asked for."""
    by_suffix = {suffix: name for name, suffix in SUFFIXES.items()}
    told = by_suffix.get(output.suffix)
    if told is None or given not in (None, told):
        wanted = SUFFIXES[given] if given else ", ".join(by_suffix)
        raise UserError(f"{output}: '{output.suffix}' does not end the name of such a file; take {wanted}")
    return told


def write(kind: Format, detector: Detector, card: ExportCard, path: Path) -> None:
    """Write the graph that `card` describes to `path`, and beside it where a format has several files."""
    graph = to_onnx(detector, card)
    if kind == "onnx":
        write_atomically(path, graph.SerializeToString())
    else:
        from damoyolo.export.openvino import save_openvino, to_openvino

        save_openvino(to_openvino(graph), path, half=card.precision == "bf16")
