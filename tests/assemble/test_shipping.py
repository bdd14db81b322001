"""Exporting with proof, and proving again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from damoyolo.assemble import shipping
from damoyolo.assemble.shipping import export_model, sha256_of_weights, verify
from damoyolo.errors import RunError, UserError
from damoyolo.export.proof import Proof, probe_images, proof_path
from damoyolo.export.runtime import open_runtime
from damoyolo.zoo.weights import load_weights, save_weights
from exportable import lively, photograph, quick_exports  # noqa: F401 (a fixture)

DETECTOR = lively()


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    return export_model(DETECTOR, folder / "model.onnx", images=[photograph()]).file


@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
@pytest.mark.parametrize("head", ["raw", "topk", "nms"])
def test_every_head_and_format_is_proved_equal(tmp_path: Path, head: Any, suffix: str) -> None:
    result = export_model(DETECTOR, tmp_path / f"model{suffix}", head=head, score_threshold=0.6)
    assert result.file.exists()
    assert result.proof.passed
    assert result.proof.comparison is not None
    assert result.proof.comparison.agree > 20
    assert result.proof == Proof.model_validate_json(proof_path(result.file).read_bytes())
    assert verify(result.file).passed


def test_of_a_tiny_input_the_head_topk_gives_every_pair_of_point_and_class(tmp_path: Path) -> None:
    result = export_model(DETECTOR, tmp_path / "model.onnx", head="topk", image_size=64, nms_iou=1.0)
    assert result.proof.passed
    outputs = open_runtime(result.file).session.run(np.zeros((1, 3, 64, 64), np.float32))
    assert outputs[1].shape == (1, 84 * 3, 4)


def test_a_proof_tells_what_was_compared_where_and_how_fast(exported: Path) -> None:
    proof = json.loads(proof_path(exported).read_bytes())
    assert proof["card"]["weights_sha256"] == sha256_of_weights(DETECTOR)
    assert proof["sha256"].keys() == {"model.onnx"}
    assert proof["versions"].keys() >= {"damoyolo", "torch", "onnxruntime"}
    assert proof["latency_ms"].keys() == {"torch", "file"}
    assert 0 < proof["latency_ms"]["file"]["p50"] <= proof["latency_ms"]["file"]["p95"]
    assert 0 < proof["comparison"]["score"] <= 1e-4
    assert len(proof["expected"]) == len(probe_images((64, 96)))


def test_the_same_weights_have_the_same_hash_in_a_file(tmp_path: Path) -> None:
    save_weights(DETECTOR, tmp_path / "weights.safetensors")
    assert sha256_of_weights(load_weights(tmp_path / "weights.safetensors")) == sha256_of_weights(DETECTOR)
    assert sha256_of_weights(lively(image_size=(64, 64))) != sha256_of_weights(DETECTOR)


def spoilt(exported: Path, folder: Path, place: str, factor: float = 1.5) -> Path:
    """A copy with one convolution's weights scaled."""
    model = onnx.load(exported)
    (weights,) = (each for each in model.graph.initializer if each.name == f"network.{place}.weight")
    values = onnx.numpy_helper.to_array(weights) * np.float32(factor)
    weights.CopyFrom(onnx.numpy_helper.from_array(values, weights.name))
    path = folder / exported.name
    onnx.save(model, path)
    proof_path(path).write_bytes(proof_path(exported).read_bytes())
    return path


@pytest.mark.parametrize(
    "place", ["backbone.stages.1.0.depthwise.conv", "neck.fuse_p3.bypass.coarse", "head.project.1"]
)
def test_verify_finds_where_a_changed_file_parts_from_its_model(
    exported: Path, tmp_path: Path, place: str
) -> None:
    path = spoilt(exported, tmp_path, place)
    assert not verify(path).passed
    result = verify(path, DETECTOR)
    assert not result.passed
    assert result.diverges_at == place


def test_verify_with_data_compares_the_ap_too(exported: Path, tmp_path: Path) -> None:
    from damoyolo.data.shapes import write_shapes

    write_shapes(tmp_path / "data", train=1, val=3, image_size=64)
    path = tmp_path / "data" / "val.json"
    coco = json.loads(path.read_text())
    coco["categories"] = [
        {"id": number, "name": name} for number, name in enumerate(DETECTOR.card.class_names, 1)
    ]
    for each in coco["annotations"]:
        each["category_id"] = min(each["category_id"], len(coco["categories"]))
    path.write_text(json.dumps(coco))
    result = verify(exported, DETECTOR, tmp_path / "data")
    assert result.ap["file"] == pytest.approx(result.ap["model"], abs=1e-4)
    assert result.ap["file"] > 0


def test_a_file_that_computes_something_else_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoil(kind: Any, detector: Any, card: Any, path: Path) -> None:
        other = lively()
        with torch.no_grad():
            other.neck.fuse_t5.mix.conv.weight.mul_(1.1)
        write(kind, other, card, path)

    write = shipping.write
    monkeypatch.setattr(shipping, "write", spoil)
    with pytest.raises(
        RunError, match=r"model.onnx: does not compute what the model does: .* first at neck.fuse_t5.mix"
    ):
        export_model(DETECTOR, tmp_path / "model.onnx")
    assert [each.name for each in tmp_path.iterdir()] == ["model.onnx.proof.json"]
    assert not json.loads((tmp_path / "model.onnx.proof.json").read_bytes())["passed"]


def test_an_export_that_breaks_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def break_off(kind: Any, detector: Any, card: Any, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError("disk")

    monkeypatch.setattr(shipping, "write", break_off)
    with pytest.raises(OSError, match="disk"):
        export_model(DETECTOR, tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_exported_or_verified_is_refused(exported: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"'.tflite' does not end the name of such a file; take .onnx, "):
        export_model(DETECTOR, tmp_path / "model.tflite")
    with pytest.raises(UserError, match=r"'.onnx' does not end the name of such a file; take .xml"):
        export_model(DETECTOR, tmp_path / "model.onnx", format="openvino")
    with pytest.raises(UserError, match="image_size: 100 px is no multiple of 32"):
        export_model(DETECTOR, tmp_path / "model.onnx", image_size=100)
    with pytest.raises(UserError, match="was not made from these weights"):
        verify(exported, lively(image_size=(64, 64)))
    with pytest.raises(UserError, match="comparing the AP needs the model"):
        verify(exported, data=tmp_path)
    alone = tmp_path / "alone.onnx"
    alone.write_bytes(exported.read_bytes())
    with pytest.raises(UserError, match=r"alone.onnx.proof.json: cannot be read .*; give --weights"):
        verify(alone)
