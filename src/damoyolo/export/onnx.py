"""Writing ONNX, with PyTorch's own exporter."""

from __future__ import annotations

import ast
import contextlib
import io
import logging
import warnings
from collections import Counter
from collections.abc import Iterator
from typing import Any

import onnx
import torch
from torch.export import Dim

from damoyolo.export.card import INPUT, METADATA_KEY, ExportCard
from damoyolo.export.graph import Graph
from damoyolo.export.suppress import ONNX_OPERATORS
from damoyolo.nn.detector import Detector
from damoyolo.spec import STRIDES

OPSET = 18
_SCOPES = "pkg.torch.onnx.name_scopes"


def to_onnx(detector: Detector, card: ExportCard) -> onnx.ModelProto:
    """The graph that `card` describes, with the card in its metadata and nodes named by their place in it."""
    graph = Graph(detector, card).eval()
    images = torch.zeros(card.input_shape, dtype=torch.uint8 if card.preprocess else torch.float32)
    if card.dynamic:
        images = images.repeat(2, 1, 1, 1)  # the exporter takes a dimension of one for fixed
    with _quietly():
        program = torch.onnx.export(
            graph,
            (images,),
            dynamo=True,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=list(card.outputs),
            dynamic_shapes=_sides(card) if card.dynamic else None,
            custom_translation_table=ONNX_OPERATORS,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    _name_by_place(model)
    _give_own_biases(model)
    describe(model, card)
    onnx.checker.check_model(model, full_check=True)
    return model


def describe(model: onnx.ModelProto, card: ExportCard) -> None:
    """Put the card into the metadata, and under `names` what other tools look for."""
    names = dict(enumerate(card.class_names))
    onnx.helper.set_model_props(model, {METADATA_KEY: card.to_json(), "names": str(names)})


def _sides(card: ExportCard) -> dict[str, dict[int, Any]]:
    first = 1 if card.preprocess else 2
    step = STRIDES[-1]
    return {"images": {0: Dim("batch"), first: step * Dim("rows"), first + 1: step * Dim("columns")}}


def _name_by_place(model: onnx.ModelProto) -> None:
    """Call nodes and tensors by the modules they come from; drop the exporter's notes, which hold paths."""
    graph = model.graph
    names = {value.name: value.name for value in (*graph.input, *graph.output, *graph.initializer)}
    taken: Counter[str] = Counter()
    for node in graph.node:
        node.name = _unique(f"{_place(node)}/{node.op_type}", taken)
        for number, output in enumerate(node.output):
            names.setdefault(output, f"{node.name}.{number}" if number else node.name)
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
        del node.metadata_props[:]
        node.doc_string = ""
    del graph.metadata_props[:]
    del graph.value_info[:]
    for value in (*graph.input, *graph.output, *graph.initializer):
        del value.metadata_props[:]
    for value in graph.output:
        for size in value.type.tensor_type.shape.dim:
            if "*" in size.dim_param:  # a formula of the exporter's
                size.dim_param = "k" if size.dim_param.startswith("Min") else "points"


def _give_own_biases(model: onnx.ModelProto) -> None:
    """The exporter keeps equal constants once; OpenVINO merges no convolution with a bias that others share.

    Many are equal in an untrained network: its Ns took a fifth longer than a trained one.
    """
    biases = {each.name: each for each in model.graph.initializer}
    given: set[str] = set()
    for node in model.graph.node:
        if node.op_type != "Conv" or len(node.input) < 3:
            continue
        name = node.input[2]
        if name in given:
            own = onnx.TensorProto()
            own.CopyFrom(biases[name])
            own.name = node.input[2] = f"{node.name}.bias"
            model.graph.initializer.append(own)
        given.add(name)


def _place(node: onnx.NodeProto) -> str:
    """The path of the module that made a node, such as `backbone.stages.1.0.expand.conv`."""
    noted = next((each.value for each in node.metadata_props if each.key == _SCOPES), "[]")
    modules = ast.literal_eval(noted)[:-1]
    return str(modules[-1]).removeprefix("network.") if modules and modules[0] == "" else ""


def _unique(name: str, taken: Counter[str]) -> str:
    name = name.lstrip("/")
    taken[name] += 1
    return name if taken[name] == 1 else f"{name}_{taken[name]}"


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """The exporter prints, logs and warns of its own affairs."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
