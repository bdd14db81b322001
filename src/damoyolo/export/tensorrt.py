"""Building TensorRT engines from ONNX, and the command that builds one elsewhere. No torch.

An engine runs on the kind of GPU and with the version of TensorRT it was built with. TensorRT-RTX, a sibling
for desktop GPUs, takes the same graphs and builds without a GPU: that is how tests know that TensorRT's
parser and builder accept ours.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any, Literal

from damoyolo.errors import RunError
from damoyolo.export.card import INPUT, ExportCard
from damoyolo.export.extras import need
from damoyolo.export.sessions import card_path
from damoyolo.files import write_atomically
from damoyolo.spec import STRIDES

Library = Literal["tensorrt", "tensorrt_rtx"]
LARGEST_BATCH = 8
LARGEST_SCALE = 2
"""An engine with dynamic shapes is tuned for the card's, and takes others up to these."""


def save_engine(model: bytes, card: ExportCard, path: Path) -> None:
    """Build an engine from ONNX, write it to `path`, and the card beside it, which an engine cannot hold."""
    engine = build(model, card)
    write_atomically(card_path(path), card.to_json().encode())
    write_atomically(path, engine)


def build(model: bytes, card: ExportCard, library: Library = "tensorrt") -> bytes:
    """An engine that computes in the types of an ONNX graph: TensorRT chooses none of its own.

    Args:
        model: serialised ONNX; int8 comes as QuantizeLinear and DequantizeLinear nodes.
        card: of the graph.
        library: TensorRT, or TensorRT-RTX, which needs no GPU to build.

    Raises:
        UserError: if the library is not installed.
        RunError: if it does not accept the graph; the message is its first complaint.
    """
    trt = need(library, "tensorrt" if library == "tensorrt" else "dev")
    log = complaints(trt)
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    if not parser.parse(model):
        told = next((str(parser.get_error(number).desc()) for number in range(parser.num_errors)), log.first)
        raise RunError(f"{library} {trt.__version__} does not read the graph: {_line(told)}")
    settings = builder.create_builder_config()
    if card.precision == "fp32":
        settings.clear_flag(trt.BuilderFlag.TF32)  # which has ten bits where float32 has 23
    if card.dynamic:
        profile = builder.create_optimization_profile()
        profile.set_shape(INPUT, *shapes(card))
        settings.add_optimization_profile(profile)
    engine = builder.build_serialized_network(network, settings)
    if engine is None:
        raise RunError(f"{library} {trt.__version__} does not build the graph: {_line(log.first)}")
    return bytes(engine)


def shapes(card: ExportCard) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """The smallest, the usual and the largest input of a dynamic engine."""
    height, width = card.image_size
    sizes = (
        (1, STRIDES[-1], STRIDES[-1]),
        (card.batch, height, width),
        (max(LARGEST_BATCH, card.batch), LARGEST_SCALE * height, LARGEST_SCALE * width),
    )
    smallest, usual, largest = ((b, h, w, 3) if card.preprocess else (b, 3, h, w) for b, h, w in sizes)
    return smallest, usual, largest


def trtexec(model: Path, engine: Path, card: ExportCard) -> str:
    """The command that builds `engine` from the ONNX file `model`, with TensorRT 10 and 11."""
    words = ["trtexec", f"--onnx={model}", f"--saveEngine={engine}", "--stronglyTyped"]
    if card.precision == "fp32":
        words.append("--noTF32")
    if card.dynamic:
        for name, shape in zip(("min", "opt", "max"), shapes(card), strict=True):
            words.append(f"--{name}Shapes={INPUT}:{'x'.join(map(str, shape))}")
    return shlex.join(words)


def complaints(trt: Any) -> Any:
    """A logger for the library that prints nothing and keeps the `first` error."""

    class Complaints(trt.ILogger):  # type: ignore[misc] # a base that is known at run time
        """Keeps what is wrong."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.first = ""

        def log(self, severity: Any, message: str) -> None:
            """Called by the library."""
            if int(severity) <= int(trt.ILogger.Severity.ERROR):
                self.first = self.first or message

    return Complaints()


def _line(text: str) -> str:
    """One line of a complaint."""
    return (text.strip() or "it gives no reason").splitlines()[0][:300]
