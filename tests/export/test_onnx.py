"""What is written as ONNX, run by ONNX Runtime and compared with the detector."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from damoyolo.assemble import build
from damoyolo.boxes.select import select
from damoyolo.export import onnx as export_onnx
from damoyolo.export.card import METADATA_KEY, ExportCard
from damoyolo.export.graph import Graph
from damoyolo.nn.detector import fuse
from exportable import lively, quick_exports  # noqa: F401 (a fixture)

DETECTOR = lively()
FUSED = fuse(DETECTOR)


def card(**changes: Any) -> ExportCard:
    fields = {"spec": DETECTOR.card.spec, "class_names": DETECTOR.card.class_names, "image_size": (64, 96)}
    return ExportCard(**{**fields, "max_detections": 20, **changes})


def run(model: onnx.ModelProto, images: np.ndarray) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_outputs()]
    return dict(zip(names, session.run(None, {"images": images}), strict=True))


def pixels(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)


@torch.no_grad()
def assert_raw_equal(found: dict[str, np.ndarray], images: np.ndarray, score: float, box_px: float) -> None:
    expected = FUSED(torch.from_numpy(images).float())
    assert list(found) == ["output", "boxes"]
    np.testing.assert_allclose(found["output"], expected.scores.numpy(), rtol=0, atol=score)
    np.testing.assert_allclose(found["boxes"], expected.boxes.numpy(), rtol=0, atol=box_px)


@pytest.fixture(scope="module")
def raw() -> onnx.ModelProto:
    return export_onnx.to_onnx(DETECTOR, card())


def test_the_raw_head_gives_scores_and_boxes_in_the_reference_s_order(raw: onnx.ModelProto) -> None:
    images = pixels(1, 3, 64, 96).astype(np.float32)
    assert_raw_equal(run(raw, images), images, 1e-4, 1e-2)


def test_nodes_are_named_by_their_modules_and_nothing_tells_of_the_machine(raw: onnx.ModelProto) -> None:
    names = [node.name for node in raw.graph.node]
    assert "backbone.stem.conv/Conv" in names
    assert any(name.startswith("neck.fuse_t4.bypass.coarse/") for name in names)
    assert len(set(names)) == len(names)
    assert b".py" not in raw.SerializeToString()
    assert raw.opset_import[0].version >= 17


def test_no_convolutions_share_a_bias_though_an_untrained_network_has_equal_ones() -> None:
    untrained = build("Ns", 3)
    model = export_onnx.to_onnx(untrained, card(spec=untrained.card.spec))
    biases = [node.input[2] for node in model.graph.node if node.op_type == "Conv" and len(node.input) > 2]
    assert len(set(biases)) == len(biases) > 20
    values = {each.name: onnx.numpy_helper.to_array(each).tobytes() for each in model.graph.initializer}
    assert len({values[bias] for bias in biases}) < len(biases)


def test_the_metadata_hold_the_whole_card_and_the_names_for_other_tools(raw: onnx.ModelProto) -> None:
    told = {each.key: each.value for each in raw.metadata_props}
    assert ExportCard.from_json(told[METADATA_KEY], "x") == card()
    assert told["names"] == "{0: 'dust', 1: 'cell', 2: 'leaf'}"


def test_top_k_gives_the_best_pairs_of_point_and_class() -> None:
    images = pixels(2, 3, 64, 96).astype(np.float32)
    found = run(export_onnx.to_onnx(DETECTOR, card(head="topk", batch=2, score_threshold=0.9)), images)
    assert list(found) == ["num_dets", "det_boxes", "det_scores", "det_classes"]
    with torch.no_grad():
        expected = FUSED(torch.from_numpy(images))
    for image in range(2):
        values, places = expected.scores[image].flatten().topk(20)
        points, labels = places // 3, places % 3
        np.testing.assert_allclose(found["det_scores"][image], values.numpy(), atol=1e-4)
        np.testing.assert_array_equal(found["det_classes"][image], labels.numpy())
        np.testing.assert_allclose(
            found["det_boxes"][image], expected.boxes[image, points].numpy(), atol=1e-2
        )
        assert found["num_dets"][image] == (values > 0.9).sum()


def test_suppression_in_the_graph_leaves_what_selection_does() -> None:
    images = pixels(2, 3, 64, 96).astype(np.float32)
    settings = {"score_threshold": 0.6, "nms_iou": 0.4, "max_detections": 60}
    found = run(export_onnx.to_onnx(DETECTOR, card(head="nms", batch=2, **settings)), images)
    with torch.no_grad():
        expected = select(FUSED(torch.from_numpy(images)), 0.6, 0.4, 60)
    for image, each in enumerate(expected):
        count = len(each.scores)
        assert 3 < count < 60
        assert found["num_dets"][image] == count
        np.testing.assert_allclose(found["det_scores"][image, :count], each.scores.numpy(), atol=1e-4)
        np.testing.assert_array_equal(found["det_classes"][image, :count], each.labels.numpy())
        np.testing.assert_allclose(found["det_boxes"][image, :count], each.boxes.numpy(), atol=1e-2)
        assert (found["det_scores"][image, count:] == 0).all()


def test_with_preprocessing_the_graph_takes_bytes_in_either_order_of_colours() -> None:
    images = pixels(1, 64, 96, 3)
    found = run(export_onnx.to_onnx(DETECTOR, card(preprocess="bgr")), images)
    assert_raw_equal(found, images[..., ::-1].transpose(0, 3, 1, 2).copy(), 1e-4, 1e-2)
    with torch.no_grad():
        scores, boxes = Graph(DETECTOR, card(preprocess="rgb"))(torch.from_numpy(images[..., ::-1].copy()))
    np.testing.assert_allclose(found["output"], scores.numpy(), rtol=0, atol=1e-4)
    np.testing.assert_allclose(found["boxes"], boxes.numpy(), rtol=0, atol=1e-2)


@pytest.mark.slow  # with types checked at run time, the exporter's symbols are no integers
@pytest.mark.parametrize("head", ["raw", "topk", "nms"])
def test_a_dynamic_graph_takes_any_batch_and_size(head: str) -> None:
    model = export_onnx.to_onnx(DETECTOR, card(head=head, dynamic=True, max_detections=500))
    for shape in ((1, 3, 64, 64), (3, 3, 96, 160)):
        images = pixels(*shape).astype(np.float32)
        found = run(model, images)
        if head == "raw":
            assert_raw_equal(found, images, 1e-4, 1e-2)
        else:
            pairs = 3 * 21 * shape[2] * shape[3] // 32**2
            assert found["det_boxes"].shape == (shape[0], min(500, pairs), 4)


def test_half_precision_is_inside_and_single_precision_outside() -> None:
    model = export_onnx.to_onnx(DETECTOR, card(precision="fp16"))
    images = pixels(1, 3, 64, 96).astype(np.float32)
    assert_raw_equal(run(model, images), images, 0.02, 1.0)
    kinds = {each.name: each.data_type for each in model.graph.initializer}
    assert kinds["network.backbone.stem.conv.weight"] == onnx.TensorProto.FLOAT16
