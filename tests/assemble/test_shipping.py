"""Exporting with proof, and proving again."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from jaxtyping import config

from damoyolo.assemble import shipping
from damoyolo.assemble.shipping import export_model, sha256_of_weights, verify
from damoyolo.errors import RunError, UserError
from damoyolo.export import proof as export_proof
from damoyolo.export.bench import Timing
from damoyolo.export.proof import Proof, has_bytes_of, probe_images, proof_path, read_proof
from damoyolo.export.rewrite import Network
from damoyolo.export.runtime import Runtime, open_runtime
from damoyolo.zoo.weights import load_weights, save_weights
from exportable import lively, photograph, quick_exports  # noqa: F401 (a fixture)

DETECTOR = lively()
STEADY = lively()
"""Its boxes hang less on the last digits, which differ more between runtimes on larger images."""
for regress in STEADY.head.regress:
    regress.weight.data.mul_(0.25)


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


@pytest.mark.parametrize("precision", ["fp16", pytest.param("bf16", marks=pytest.mark.slow)])
def test_openvino_files_of_half_precision_are_proved_and_half_as_large(
    tmp_path: Path, precision: Any
) -> None:
    calm = lively()
    with torch.no_grad():
        for each in (*calm.head.classify, *calm.head.regress):
            each.weight.mul_(0.2)
    result = export_model(calm, tmp_path / "half.xml", precision=precision)
    assert result.proof.passed
    assert result.proof.comparison is not None
    assert result.proof.comparison.score > 1e-5
    floats = 4 * sum(each.numel() for each in Network(calm).parameters())
    assert result.file.with_suffix(".bin").stat().st_size < 0.8 * floats
    assert verify(result.file).passed


def test_of_a_tiny_input_the_head_topk_gives_every_pair_of_point_and_class(tmp_path: Path) -> None:
    result = export_model(DETECTOR, tmp_path / "model.onnx", head="topk", image_size=64, nms_iou=1.0)
    assert result.proof.passed
    outputs = open_runtime(result.file).session.run(np.zeros((1, 3, 64, 64), np.float32))
    assert outputs[1].shape == (1, 84 * 3, 4)


def test_a_proof_tells_what_was_compared_where_and_how_fast(exported: Path) -> None:
    proof = json.loads(proof_path(exported).read_bytes())
    assert proof["card"]["weights_sha256"] == sha256_of_weights(DETECTOR)
    assert proof["sha256"] == {"model.onnx": hashlib.sha256(exported.read_bytes()).hexdigest()}
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
    (tmp_path / "model.onnx").write_bytes(b"older")
    proof_path(tmp_path / "model.onnx").write_bytes(b"its proof")
    with pytest.raises(
        RunError, match=r"model.onnx: does not compute what the model does: .* first at neck.fuse_t5.mix"
    ):
        export_model(DETECTOR, tmp_path / "model.onnx")
    contents = {each.name: each.read_bytes() for each in tmp_path.iterdir()}
    assert not json.loads(contents.pop("model.onnx.failed.json"))["passed"]
    assert contents == {"model.onnx": b"older", "model.onnx.proof.json": b"its proof"}
    monkeypatch.setattr(shipping, "write", write)
    export_model(DETECTOR, tmp_path / "model.onnx")
    assert {each.name for each in tmp_path.iterdir()} == contents.keys()


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


Spoil = Callable[[int, list[np.ndarray]], list[np.ndarray]]


def opened_spoilt(spoil: Spoil, path: Path) -> Runtime:
    """As if the file gave other numbers at its first, second ... run."""
    runtime = open_runtime(path)
    run, calls = runtime.session.run, count()
    runtime.session.run = lambda images: spoil(next(calls), run(images))
    return runtime


def changed(outputs: list[np.ndarray], which: int, place: Any, value: float) -> list[np.ndarray]:
    outputs = [each.copy() for each in outputs]
    outputs[which][place] = value
    return outputs


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file for two images at once."""
    return export_model(DETECTOR, tmp_path_factory.mktemp("pair") / "pair.onnx", batch=2).file


@pytest.mark.parametrize("model", [None, DETECTOR])
def test_every_place_of_a_batch_is_compared(pair: Path, monkeypatch: pytest.MonkeyPatch, model: Any) -> None:
    assert verify(pair, model).passed
    for place in (0, 1):
        spoil = partial(lambda place, _, outputs: changed(outputs, 0, place, 0.0), place)
        monkeypatch.setattr(shipping, "open_runtime", partial(opened_spoilt, spoil))
        assert not verify(pair, model).passed


@pytest.mark.parametrize("model", [None, DETECTOR])
def test_numbers_that_are_none_fail_wherever_they_come(
    exported: Path, monkeypatch: pytest.MonkeyPatch, model: Any
) -> None:
    images = len(probe_images((64, 96)))
    spoil = lambda call, outputs: changed(outputs, 1, (0, 7, 2), np.nan) if call % images == 2 else outputs  # noqa: E731
    monkeypatch.setattr(shipping, "open_runtime", partial(opened_spoilt, spoil))
    result = verify(exported, model)
    assert not result.passed
    assert result.comparison.not_finite == 1
    assert "1 numbers are not finite" in result.lines()[0]


def test_a_file_that_gives_numbers_that_are_none_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil = lambda call, outputs: changed(outputs, 0, (0, 3, 1), np.inf)  # noqa: E731
    monkeypatch.setattr(shipping, "open_runtime", partial(opened_spoilt, spoil))
    with pytest.raises(RunError, match="gives 4 numbers that are not finite"):
        export_model(DETECTOR, tmp_path / "model.onnx")
    assert [each.name for each in tmp_path.iterdir()] == ["model.onnx.failed.json"]


def test_a_model_whose_numbers_are_none_is_refused(tmp_path: Path) -> None:
    broken = lively()
    with torch.no_grad():
        broken.head.regress[0].weight[0, 0] = float("nan")
    with pytest.raises(UserError, match="the model gives numbers that are not finite; its weights are"):
        export_model(broken, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_the_best_few_are_compared_even_where_nothing_is_sure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sure = {"score_threshold": 1.0, "head": "topk"}
    result = export_model(DETECTOR, tmp_path / "model.onnx", **sure)
    assert result.proof.comparison is not None
    assert result.proof.comparison.compared == 4 * 300
    spoil = lambda _, outputs: changed(outputs, 1, (0, slice(200, 300)), 5.0)  # noqa: E731
    monkeypatch.setattr(shipping, "open_runtime", partial(opened_spoilt, spoil))
    for model in (None, DETECTOR):
        assert not verify(result.file, model).passed


@pytest.mark.slow
def test_more_detections_than_the_usual_limit_are_compared_with_their_proof(tmp_path: Path) -> None:
    file = export_model(DETECTOR, tmp_path / "m.onnx", head="topk", image_size=128, max_detections=600).file
    result = verify(file)
    assert result.passed
    assert result.comparison.agree == 4 * 600


def test_where_suppression_leaves_nothing_there_is_no_proof(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"score_threshold 1\.0: the model finds nothing so sure .*--images"):
        export_model(DETECTOR, tmp_path / "model.onnx", head="nms", score_threshold=1.0)
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def dynamic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("dynamic") / "any.onnx"
    config.update("jaxtyping_disable", True)  # while it is traced, a dynamic size is no int
    try:
        return export_model(STEADY, path, dynamic=True).file
    finally:
        config.update("jaxtyping_disable", False)


@pytest.mark.slow
@pytest.mark.parametrize("model", [None, STEADY])
@pytest.mark.parametrize("wrong", ["size", "batch"])
def test_a_dynamic_file_is_compared_in_two_sizes_and_batches(
    dynamic: Path, monkeypatch: pytest.MonkeyPatch, wrong: str, model: Any
) -> None:
    def spoil(_: int, outputs: list[np.ndarray]) -> list[np.ndarray]:
        if wrong == "batch":
            return changed(outputs, 0, slice(1, None), 0.0)
        return changed(outputs, 0, (0, slice(126, None)), 0.0)  # which a 64x96 image has not

    assert verify(dynamic, model).passed
    assert len(read_proof(dynamic).expected) == 2 * 4
    monkeypatch.setattr(shipping, "open_runtime", partial(opened_spoilt, spoil))
    assert not verify(dynamic, model).passed


def test_dynamic_shapes_and_a_batch_exclude_each_other(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot hold both dynamic shapes and a batch of 4"):
        export_model(DETECTOR, tmp_path / "model.onnx", dynamic=True, batch=4)


def altered(exported: Path, folder: Path, **changes: Any) -> Path:
    """A copy, without a proof, that says other things of itself."""
    model = onnx.load(exported)
    shipping_card = open_runtime(exported).card.model_copy(update=changes)
    onnx.helper.set_model_props(model, {"damoyolo": shipping_card.to_json()})
    path = folder / exported.name
    onnx.save(model, path)
    return path


@pytest.mark.parametrize(
    "changes", [{"class_names": ("leaf", "cell", "dust")}, {"resize": "letterbox"}, {"spec": None}]
)
def test_a_file_that_says_other_things_than_its_model_is_refused(
    exported: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    path = altered(exported, tmp_path, **changes)
    with pytest.raises(UserError, match=f"its '{next(iter(changes))}' is not the model's"):
        verify(path, DETECTOR)
    proof_path(path).write_bytes(proof_path(exported).read_bytes())
    with pytest.raises(UserError, match="is of another file"):
        verify(path)


def test_a_file_that_passes_for_a_coarser_one_is_told_by_its_proof(exported: Path, tmp_path: Path) -> None:
    path = altered(exported, tmp_path, precision="bf16")
    proof_path(path).write_bytes(proof_path(exported).read_bytes())
    for model in (None, DETECTOR):
        with pytest.raises(UserError, match="is of another file"):
            verify(path, model)


@pytest.mark.parametrize("model", [None, DETECTOR])
def test_other_bytes_than_those_proved_do_not_pass_though_the_numbers_are_equal(
    exported: Path, tmp_path: Path, model: Any
) -> None:
    path = spoilt(exported, tmp_path, "head.project.1", factor=1.0)
    assert verify(path, model).passed
    altered_model = onnx.load(path)
    altered_model.doc_string = "changed"
    onnx.save(altered_model, path)
    result = verify(path, model)
    assert not result.passed
    assert result.comparison.passes(result.tolerance)
    assert "its bytes are not those that were proved" in result.lines()


def test_a_proof_of_other_images_or_without_numbers_is_refused(exported: Path, tmp_path: Path) -> None:
    path, proof = tmp_path / exported.name, read_proof(exported)
    path.write_bytes(exported.read_bytes())
    for change in ({"images_sha256": "0"}, {"expected": []}):
        proof_path(path).write_text(proof.model_copy(update=change).model_dump_json())
        with pytest.raises(UserError, match="has no numbers for the images that are drawn here"):
            verify(path)
    proof_path(path).write_text("{}")
    with pytest.raises(UserError, match=r"is no proof of this version .*; export the model again"):
        verify(path)


def test_only_what_belongs_to_a_file_is_hashed_whatever_its_name(exported: Path, tmp_path: Path) -> None:
    path = tmp_path / "m[1].onnx"
    path.write_bytes(exported.read_bytes())
    (tmp_path / "m[1].txt").write_text("mine")
    proof = read_proof(exported)
    assert export_proof.sha256_of_files(path) == {"m[1].onnx": proof.sha256["model.onnx"]}
    assert has_bytes_of(proof, path)
    (tmp_path / "x.xml").write_text("a")
    (tmp_path / "x.bin").write_text("b")
    assert export_proof.sha256_of_files(tmp_path / "x.xml").keys() == {"x.xml", "x.bin"}


def test_each_latency_is_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []

    def timed(call: Callable[[], Any]) -> Timing:
        called.append(type(call()).__name__)
        return Timing(float(len(called)), 0.0, float(len(called)), 0.0, 1)

    monkeypatch.setattr(shipping, "time_calls", timed)
    latency = export_model(DETECTOR, tmp_path / "m.onnx").proof.latency_ms
    assert called == ["Predictions", "list"]
    assert [latency[name]["p50"] for name in ("torch", "file")] == [1, 2]


def test_two_exports_do_not_write_the_same_file_at_once(tmp_path: Path) -> None:
    code = (
        "import pathlib, sys; from damoyolo.files import locked\n"
        f"with locked(pathlib.Path({str(tmp_path)!r}, '.m.xml.export')): print('locked', flush=True); input()"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code], text=True, **pipes) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "locked\n"
        with pytest.raises(UserError, match=r"m\.xml: is being written by another process; wait for it"):
            export_model(DETECTOR, tmp_path / "m.xml")
        other.communicate("\n")
    assert not list(tmp_path.iterdir())


def test_the_proof_is_put_in_place_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(part: Path, output: Path) -> None:
        if output.suffix == ".xml":
            raise UserError("no space")
        put_in_place(part, output)

    put_in_place = shipping.put_in_place
    monkeypatch.setattr(shipping, "put_in_place", fail)
    with pytest.raises(UserError, match="no space"):
        export_model(DETECTOR, tmp_path / "m.xml")
    assert [each.name for each in tmp_path.iterdir()] == ["m.bin"]


def test_a_place_that_cannot_be_written_is_told_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shipping, "write", lambda *_: pytest.fail("the work was begun"))
    (tmp_path / "folder.onnx").mkdir()
    (tmp_path / "m.bin").mkdir()
    (tmp_path / "file").touch()
    package = tmp_path / "mine.mlpackage"
    package.mkdir()
    (package / "mine.txt").write_text("mine")
    for name, told in (
        ("folder.onnx", r"folder\.onnx: is a folder"),
        ("m.xml", r"m\.bin: is a folder"),
        ("file/m.onnx", r"m\.onnx: cannot be written"),
        ("mine.mlpackage", r"mine\.mlpackage: is there already and is no Core ML package"),
    ):
        with pytest.raises(UserError, match=told):
            export_model(DETECTOR, tmp_path / name)
    assert (package / "mine.txt").read_text() == "mine"
    if os.getuid():  # who may write everywhere
        tmp_path.chmod(0o500)
        with pytest.raises(UserError, match="cannot be written"):
            export_model(DETECTOR, tmp_path / "m.onnx")


def test_images_to_compare_with_that_are_none_are_refused_before_the_work(tmp_path: Path) -> None:
    config.update("jaxtyping_disable", True)
    try:
        with pytest.raises(UserError, match=r"image 2 of 2: is uint8 \(9, 9\)"):
            export_model(DETECTOR, tmp_path / "m.onnx", images=[photograph(), np.zeros((9, 9), np.uint8)])
    finally:
        config.update("jaxtyping_disable", False)
