"""INT8: ranges of activations are measured once; then Q/DQ nodes are put where an engine wants them.

ONNX Runtime's quantiser puts them. Weights are symmetric, with one scale per output channel. Whatever comes
after the head's last convolutions stays in float.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, MinMaxCalibrater, QDQQuantizer, QuantType

from damoyolo.export.card import INPUT

Style = Literal["onnxruntime", "openvino", "tensorrt"]
"""Where Q/DQ nodes go, and what they make, by the engine that likes it so.

onnxruntime: uint8 with a zero point around every operator, because it computes in integers only what has
integers on all sides. openvino and tensorrt: on what convolutions read; they find the rest themselves. The
zero point is 0, which TensorRT requires and OpenVINO needs to be fast; OpenVINO, not TensorRT, takes uint8
where nothing is negative. Weights have 7 bits but for TensorRT: the other two have kernels for processors
without VNNI that add two products in 16 bits, which those of 8 bits overflow.
"""

Ranges = Any
"""Smallest and largest value of every activation, as ONNX Runtime's calibration gives them."""


_OPERATORS: dict[Style, tuple[str, ...]] = {
    "onnxruntime": ("Conv", "Add", "Concat", "MaxPool", "Resize", "Sigmoid", "Mul", "Relu"),
    "openvino": ("Conv", "MaxPool", "Resize"),
    "tensorrt": ("Conv", "MaxPool", "Resize"),
}


def measure_ranges(model: onnx.ModelProto, batches: Iterable[np.ndarray]) -> Ranges:
    """Run a float model on its inputs and note the extremes of all that any style quantises."""
    operators = sorted({name for each in _OPERATORS.values() for name in each})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        onnx.save(model, path)
        calibrater = MinMaxCalibrater(path, operators, str(path.with_name("augmented.onnx")))
        calibrater.augment_graph()
        calibrater.create_inference_session()
        calibrater.collect_data(_Reader(batches))
        return calibrater.compute_data()


def quantize(
    model: onnx.ModelProto, ranges: Ranges, style: Style, in_float: Collection[str] = ()
) -> onnx.ModelProto:
    """The model with Q/DQ nodes in all its `parts` but those left in float.

    Args:
        model: a float graph with any head, as `to_onnx` gives it; it is not changed.
        ranges: of a graph of the same network; those of the head `raw` serve all others but `topk`.
        style: see there.
        in_float: some of `parts`.
    """
    inferred = onnx.shape_inference.infer_shapes(model)
    quantizer = QDQQuantizer(
        inferred,
        per_channel=True,
        reduce_range=style != "tensorrt",
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QUInt8 if style == "onnxruntime" else QuantType.QInt8,
        tensors_range=ranges,
        nodes_to_quantize=[],
        nodes_to_exclude=[node.name for node in model.graph.node if _stays_float(node, in_float)],
        op_types_to_quantize=_OPERATORS[style],
        extra_options=_options(style, ranges),
    )
    quantized: onnx.ModelProto = quantizer.quantize_model()
    quantizer.model.topological_sort()
    del quantized.graph.value_info[:]
    return quantized


def parts(model: onnx.ModelProto) -> tuple[str, ...]:
    """The modules that can be left in float, each as a whole, in the order of computation."""
    convolutions = (node.name for node in model.graph.node if node.op_type == "Conv")
    return tuple(dict.fromkeys(part for name in convolutions if (part := part_of(name))))


def part_of(node: str) -> str | None:
    """The module that a node is counted to; None for what comes after the network.

    `backbone.stages.1.0.expand.conv/Conv` is of `backbone.stages.1.0`, and `neck.fuse_p3.mix.conv/Conv` of
    `neck.fuse_p3`: as far as the last number, or else two names. The head's are `head.0` and so on, one for
    each scale, however its convolutions are split.
    """
    place = node.partition("/")[0]
    if scale := re.match(r"head\.\w+\.(\d+)", place):
        return f"head.{scale[1]}"
    if not place.startswith(("backbone.", "neck.")):
        return None
    numbered = re.match(r".*\.\d+(?=\.|$)", place)
    return numbered[0] if numbered else ".".join(place.split(".")[:2])


def _stays_float(node: onnx.NodeProto, in_float: Collection[str]) -> bool:
    """Of the head, only convolutions may become integers."""
    part = part_of(node.name)
    return part is None or part in in_float or (part.startswith("head.") and node.op_type != "Conv")


def _options(style: Style, ranges: Ranges) -> dict[str, Any]:
    """What the quantiser is told beside."""
    if style == "onnxruntime":
        return {}
    options = {
        "ActivationSymmetric": True,
        "OpTypesToExcludeOutputQuantization": list(_OPERATORS[style]),
        "QuantizeBias": False,  # TensorRT refuses a bias of int32
    }
    if style == "openvino":
        unsigned = {"quant_type": QuantType.QUInt8, "symmetric": False}
        names = [name for name, each in ranges.items() if each.range_value[0] >= 0]
        options["TensorQuantOverrides"] = {name: [dict(unsigned)] for name in names}
    return options


class _Reader(CalibrationDataReader):  # type: ignore[misc] # it ships no types
    """The inputs one by one, as ONNX Runtime asks for them."""

    def __init__(self, batches: Iterable[np.ndarray]) -> None:
        self._batches: Iterator[np.ndarray] = iter(batches)

    def get_next(self) -> dict[str, np.ndarray] | None:
        """None at the end."""
        batch = next(self._batches, None)
        return None if batch is None else {INPUT: batch}
