"""Where Q/DQ nodes go in INT8 graphs, and where not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

import numpy as np
import onnx
import onnxruntime
import pytest

from damoyolo.export import onnx as export_onnx
from damoyolo.export.card import METADATA_KEY, ExportCard
from damoyolo.export.quantize import Ranges, Style, measure_ranges, part_of, parts, quantize
from exportable import lively, quick_exports  # noqa: F401 (a fixture)

DETECTOR = lively()
STYLES = get_args(Style)
PART = "neck.fuse_p3"


def graph(**changes: Any) -> onnx.ModelProto:
    known = DETECTOR.card
    fields = {"spec": known.spec, "class_names": known.class_names, "image_size": known.image_size}
    return export_onnx.to_onnx(DETECTOR, ExportCard(**{**fields, "max_detections": 20, **changes}))


def inputs(count: int = 4) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(0)
    return (rng.integers(0, 256, (1, 3, 64, 96)).astype(np.float32) for _ in range(count))


def run(model: onnx.ModelProto, images: np.ndarray) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    outputs: list[np.ndarray] = session.run(None, {"images": images})
    return outputs


def values(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {each.name: onnx.numpy_helper.to_array(each) for each in model.graph.initializer}


def sources(model: onnx.ModelProto, node: onnx.NodeProto) -> list[str]:
    """Which kinds of nodes its inputs come from."""
    makers = {name: each.op_type for each in model.graph.node for name in each.output}
    return [makers.get(name, "weights") for name in node.input]


def nodes(model: onnx.ModelProto, kind: str) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if node.op_type == kind]


@pytest.fixture(scope="module")
def raw() -> onnx.ModelProto:
    return graph()


@pytest.fixture(scope="module")
def ranges(raw: onnx.ModelProto) -> Ranges:
    return measure_ranges(raw, inputs())


@pytest.mark.parametrize(
    ("node", "part"),
    [
        ("backbone.stem.conv/Conv", "backbone.stem"),
        ("backbone.stages.1.0.expand.conv/Conv", "backbone.stages.1.0"),
        ("neck.fuse_p3.mix.conv/Conv", "neck.fuse_p3"),
        ("neck.fuse_p3.layers.0.rep.fused/Conv", "neck.fuse_p3.layers.0"),
        ("neck.down_c4.depthwise.act/Mul_2", "neck.down_c4"),
        ("head.project.2/Conv", "head.2"),
        ("head.classify.1/Conv", "head.1"),
        ("head/Concat", None),
        ("Sigmoid", None),
    ],
)
def test_a_node_belongs_to_a_part_of_the_network_or_comes_after_it(node: str, part: str | None) -> None:
    assert part_of(node) == part


def test_the_parts_hold_every_convolution_once_from_stem_to_head(raw: onnx.ModelProto) -> None:
    found = parts(raw)
    assert found[0] == "backbone.stem"
    assert found[-3:] == ("head.0", "head.1", "head.2")
    assert {part_of(node.name) for node in nodes(raw, "Conv")} == set(found)
    assert len(set(found)) == len(found)


@pytest.mark.parametrize("style", STYLES)
def test_every_convolution_reads_integers_and_nothing_after_the_network_does(
    raw: onnx.ModelProto, ranges: Ranges, style: Style
) -> None:
    before = raw.SerializeToString()
    model = quantize(raw, ranges, style)
    onnx.checker.check_model(model, full_check=True)
    assert raw.SerializeToString() == before
    assert all(sources(model, node)[:2] == ["DequantizeLinear"] * 2 for node in nodes(model, "Conv"))
    after = [node for node in model.graph.node if node.op_type in ("Exp", "Div", "ReduceSum", "Split", "Sub")]
    assert after
    assert not any("DequantizeLinear" in sources(model, node) for node in after)
    assert any(each.key == METADATA_KEY for each in model.metadata_props)


@pytest.mark.parametrize("style", STYLES)
def test_a_part_left_in_float_reads_floats_and_the_others_integers(
    raw: onnx.ModelProto, ranges: Ranges, style: Style
) -> None:
    model = quantize(raw, ranges, style, [PART])
    for node in nodes(model, "Conv"):
        assert (sources(model, node)[1] == "weights") == (part_of(node.name) == PART)


@pytest.mark.parametrize("style", STYLES)
def test_with_all_parts_in_float_it_is_the_same_function(
    raw: onnx.ModelProto, ranges: Ranges, style: Style
) -> None:
    (images,) = inputs(1)
    model = quantize(raw, ranges, style, parts(raw))
    for found, expected in zip(run(model, images), run(raw, images), strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("style", STYLES)
def test_eight_bits_give_nearly_the_same_scores(raw: onnx.ModelProto, ranges: Ranges, style: Style) -> None:
    (images,) = inputs(1)
    scores, expected = run(quantize(raw, ranges, style), images)[0], run(raw, images)[0]
    assert 0 < np.abs(scores - expected).mean() < 0.05
    assert np.corrcoef(scores.ravel(), expected.ravel())[0, 1] > 0.9


@pytest.mark.parametrize("style", ["openvino", "tensorrt"])
def test_openvino_and_tensorrt_get_no_zero_point_but_0_and_no_integer_bias(
    raw: onnx.ModelProto, ranges: Ranges, style: Style
) -> None:
    model = quantize(raw, ranges, style)
    known = values(model)
    points = [known[node.input[2]] for node in nodes(model, "DequantizeLinear")]
    assert not any(point.any() for point in points)
    kinds = {point.dtype.name for point in points}
    assert kinds == ({"int8"} if style == "tensorrt" else {"int8", "uint8"})


def test_openvino_gets_unsigned_numbers_only_where_nothing_is_negative(
    raw: onnx.ModelProto, ranges: Ranges
) -> None:
    model = quantize(raw, ranges, "openvino")
    known = values(model)
    for node in nodes(model, "QuantizeLinear"):
        lowest = ranges[node.input[0]].range_value[0]
        assert (known[node.input[2]].dtype == np.uint8) == (lowest >= 0)


def test_onnx_runtime_computes_the_convolutions_in_integers(
    raw: onnx.ModelProto, ranges: Ranges, tmp_path: Any
) -> None:
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
    model = quantize(raw, ranges, "onnxruntime")
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    optimized = onnx.load(tmp_path / "optimized.onnx")
    assert len(nodes(optimized, "QLinearConv")) == len(nodes(raw, "Conv"))


@pytest.mark.parametrize("style", STYLES)
def test_each_output_channel_has_a_scale_of_its_own(
    raw: onnx.ModelProto, ranges: Ranges, style: Style
) -> None:
    model = quantize(raw, ranges, style)
    makers = {name: node for node in model.graph.node for name in node.output}
    known = values(model)
    for node in nodes(model, "Conv"):
        weights, scale = (known[name] for name in makers[node.input[1]].input[:2])
        assert weights.dtype == np.int8
        assert scale.shape == weights.shape[:1]


@pytest.mark.parametrize(("style", "most"), [("onnxruntime", 64), ("openvino", 64), ("tensorrt", 127)])
def test_two_products_of_bytes_stay_within_16_bits_but_for_tensorrt(
    style: Style, most: int, raw: onnx.ModelProto, ranges: Ranges
) -> None:
    known = values(quantize(raw, ranges, style))
    weights = [each for each in known.values() if each.dtype == np.int8 and each.ndim == 4]
    assert max(int(np.abs(each.astype(int)).max()) for each in weights) == most


def test_ranges_of_the_raw_head_serve_suppression_and_other_batches(ranges: Ranges) -> None:
    model = quantize(
        graph(head="nms", batch=2, score_threshold=0.6, nms_iou=0.4, max_detections=60), ranges, "onnxruntime"
    )
    assert all(sources(model, node)[1] == "DequantizeLinear" for node in nodes(model, "Conv"))
    assert all(np.isfinite(each).all() for each in run(model, np.concatenate(list(inputs(2)))))


def test_of_the_head_topk_only_convolutions_become_integers() -> None:
    model = graph(head="topk", preprocess="bgr")
    images = np.random.default_rng(0).integers(0, 256, (1, 64, 96, 3)).astype(np.uint8)
    quantized = quantize(model, measure_ranges(model, [images]), "onnxruntime")
    in_head = [node for node in quantized.graph.node if part_of(node.name) in ("head.0", "head.1", "head.2")]
    reading = {node.op_type for node in in_head if "DequantizeLinear" in sources(quantized, node)}
    assert {node.op_type for node in in_head} > reading >= {"Conv"}
    assert all(np.isfinite(each).all() for each in run(quantized, images))
