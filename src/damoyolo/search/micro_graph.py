"""Operators as a graph of their own, so that an engine can be asked how long each takes.

All operators of a graph are independent: each has an input and weights of its own, so that its weights are as
cold as they are in a network. The activation and the added shortcut belong to the operator.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from damoyolo.search.ops import Op
from damoyolo.spec import Activation

OPSET = 17
_NAME = re.compile(r"\bop(\d+)_")


def micro_graph(ops: Sequence[Op], activation: Activation) -> bytes:
    """Serialised ONNX in which everything about the n-th operator has a name that begins with `op<n>_`."""
    import onnx  # an extra, which a search by a table does without
    from onnx import helper, numpy_helper

    nodes: list[Any] = []
    inputs, outputs, weights = [], [], []
    for number, op in enumerate(ops):
        name = f"op{number}_"
        inputs.append(_tensor(f"in{number}", op.cin, op.side))
        rng = np.random.default_rng(number)
        groups = 1 if op.kind == "conv" else op.cin
        shape = (op.cout, op.cin // groups, op.kernel, op.kernel)
        kernel = rng.normal(0, 0.05, shape).astype(np.float32)
        bias = rng.normal(0, 0.05, op.cout).astype(np.float32)
        weights += [numpy_helper.from_array(kernel, f"{name}w"), numpy_helper.from_array(bias, f"{name}b")]
        nodes.append(
            helper.make_node(
                "Conv",
                [f"in{number}", f"{name}w", f"{name}b"],
                [f"{name}conv"],
                f"{name}conv",
                group=groups,
                kernel_shape=[op.kernel] * 2,
                pads=[op.kernel // 2] * 4,
                strides=[op.stride] * 2,
            )
        )
        last = f"{name}conv"
        if op.fused:
            inputs.append(_tensor(f"shortcut{number}", op.cout, op.out_side))
            # pooled over one pixel, so that it comes in the engine's own layout, as in a network
            nodes.append(
                helper.make_node(
                    "MaxPool",
                    [f"shortcut{number}"],
                    [f"pooled{number}"],
                    f"pooled{number}",
                    kernel_shape=[1, 1],
                )
            )
            nodes.append(helper.make_node("Add", [last, f"pooled{number}"], [f"{name}sum"], f"{name}sum"))
            last = f"{name}sum"
        nodes += _activated(name, last, activation)
        outputs.append(_tensor(f"{name}out", op.cout, op.out_side))
    graph = helper.make_graph(nodes, "operators", inputs, outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def time_of_ops(times: Mapping[str, Sequence[float]], count: int) -> list[float]:
    """Milliseconds of each operator: of all nodes with its name, a quiet run of several.

    The lower quartile of the runs: whatever else the machine does only ever adds.

    Args:
        times: by the name of a node, of each run.
        count: operators in the graph.

    Raises:
        ValueError: if an operator is not among the nodes.
    """
    runs = max(map(len, times.values()), default=0)
    sums = np.zeros((count, runs))
    for name, values in times.items():
        if found := _NAME.search(name):
            sums[int(found[1])] += values
    if not (sums.sum(axis=1) > 0).all():
        missing = int(np.flatnonzero(sums.sum(axis=1) <= 0)[0])
        raise ValueError(f"the engine told no time for operator {missing}; its nodes are {list(times)[:8]}")
    return [float(value) for value in np.quantile(sums, 0.25, axis=1)]


def _activated(name: str, value: str, activation: Activation) -> list[Any]:
    from onnx import helper

    if activation == "relu":
        return [helper.make_node("Relu", [value], [f"{name}out"], f"{name}out")]
    return [
        helper.make_node("Sigmoid", [value], [f"{name}gate"], f"{name}gate"),
        helper.make_node("Mul", [value, f"{name}gate"], [f"{name}out"], f"{name}out"),
    ]


def _tensor(name: str, channels: int, side: int) -> Any:
    from onnx import TensorProto, helper

    return helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, channels, side, side])
