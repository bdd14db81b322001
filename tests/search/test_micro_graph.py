from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest

from damoyolo.search.micro_graph import Activation, micro_graph, time_of_ops
from damoyolo.search.ops import Op

OPS = [
    Op(8, 16, 3, 2, 20),
    Op(16, 16, 5, 1, 10, "depthwise"),
    Op(8, 24, 1, 1, 12, fused=True),
    Op(3, 8, 3, 2, 9),
]


@pytest.mark.parametrize("activation", ["relu", "silu"])
def test_each_operator_maps_its_input_to_its_output(activation: Activation) -> None:
    graph = micro_graph(OPS, activation)
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    images = {each.name: np.ones(each.shape, np.float32) for each in session.get_inputs()}
    assert len(images) == len(OPS) + 1  # one shortcut
    shapes = [each.shape for each in session.run(None, images)]
    assert shapes == [(1, op.cout, op.out_side, op.out_side) for op in OPS]


def test_its_weights_are_those_of_the_operators() -> None:
    model = onnx.load_from_string(micro_graph(OPS, "relu"))
    kernels = [np.prod(each.dims) for each in model.graph.initializer if each.name.endswith("w")]
    assert kernels == [op.weights for op in OPS]


def test_the_time_of_an_operator_is_that_of_all_its_nodes_in_a_quiet_run() -> None:
    times = {
        "op0_conv_nchwc": [1.0, 1.0, 1.0, 9.0],
        "op0_out/fused": [0.5, 0.5, 0.5, 0.5],
        "[Conv] op1_conv": [2.0, 2.0, 2.0, 2.0],
        "in1_to_op0_layout": [50.0] * 4,
        "reorder": [70.0] * 4,
    }
    assert time_of_ops(times, 2) == [1.5, 2.0]


def test_an_operator_without_a_time_is_told() -> None:
    with pytest.raises(ValueError, match="no time for operator 1"):
        time_of_ops({"op0_conv": [1.0]}, 2)
