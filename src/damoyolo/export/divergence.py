"""Where an exported file and its model part."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from damoyolo.export.card import Precision
from damoyolo.export.rewrite import Network

NOTABLE: dict[Precision, float] = {"fp32": 1e-3, "fp16": 0.03, "bf16": 0.03, "int8": 0.5}
"""Difference, relative to the largest number of a map, from which on it counts; rounding alone stays below.

Files for bfloat16 have weights in float16 and are computed in float32 here.
"""
LAST = "the head's last steps"


def first_divergence(
    network: Network, file: Path, images: np.ndarray, given: np.ndarray, precision: Precision = "fp32"
) -> str:
    """The first module, in the order of computation, whose output differs in the file.

    Args:
        network: what the file was made from.
        file: .onnx or .xml, whose tensors are named by the modules they come from.
        images: a batch as the network takes it, float RGB (b 3 h w).
        given: the same batch as the file takes it.
        precision: of the file.
    """
    mine = _computed(network, images)
    other = (_computed_by_onnx if file.suffix == ".onnx" else _computed_by_openvino)(file, given)
    for place, tensor in mine.items():
        names = [name for name in other if name.startswith((f"{place}/", f"{place}."))]
        if not names or other[names[-1]].shape != tensor.shape:
            continue
        difference = np.abs(tensor - other[names[-1]]).max() / max(float(np.abs(tensor).max()), 1e-6)
        if not difference <= NOTABLE[precision]:  # true of NaN, too
            return place
    return LAST


def _computed(network: Network, images: np.ndarray) -> dict[str, np.ndarray]:
    """The output of every module of the network that gives one tensor, in the order they were done."""
    outputs: dict[str, np.ndarray] = {}

    def note(place: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                outputs[place] = output.numpy().copy()  # an activation may change it where it is

        return hook

    hooks = [module.register_forward_hook(note(place)) for place, module in network.named_modules() if place]
    with torch.inference_mode():
        network(torch.from_numpy(images))
    for hook in hooks:
        hook.remove()
    return outputs


def _computed_by_onnx(file: Path, images: np.ndarray) -> dict[str, np.ndarray]:
    """All tensors of a graph, by name, in the order of its nodes."""
    import onnx
    import onnxruntime

    model = onnx.load(file)
    names = [name for node in model.graph.node for name in node.output if "/" in name]
    present = {each.name for each in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in present)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    results = session.run(names, {session.get_inputs()[0].name: images})
    return dict(zip(names, results, strict=True))


def _computed_by_openvino(file: Path, images: np.ndarray) -> dict[str, np.ndarray]:
    """All named tensors of a graph, in the order of its nodes."""
    import openvino

    model = openvino.Core().read_model(file)
    names = [
        name
        for node in model.get_ordered_ops()
        for output in node.outputs()
        for name in sorted(output.get_names())
        if "/" in name
    ]
    model.add_outputs(names)
    compiled = openvino.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    results = compiled(images)
    return {name: results[name] for name in names}
