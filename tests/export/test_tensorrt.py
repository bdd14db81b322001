"""What is meant for TensorRT is read and built by TensorRT-RTX; engines are run on a fake GPU."""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

import fake_gpu
from damoyolo.assemble import build as build_model
from damoyolo.assemble import export_model, verify
from damoyolo.assemble.quantization import Int8, Photographs
from damoyolo.errors import RunError, UserError
from damoyolo.export import onnx as export_onnx
from damoyolo.export import tensorrt
from damoyolo.export.card import FINAL_OUTPUTS, ExportCard
from damoyolo.export.graph import Graph
from damoyolo.export.quantize import measure_ranges, quantize
from damoyolo.export.sessions import card_path, open_session
from damoyolo.export.tensorrt import build, shapes, trtexec
from damoyolo.export.tensorrt_session import TensorRtSession, obstacle, plan_version
from damoyolo.nn.detector import Detector
from exportable import lively, photograph, quick_exports  # noqa: F401 (a fixture)

rtx = pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is for Linux and Windows")
DETECTOR = lively()


def card(detector: Detector = DETECTOR, **changes: Any) -> ExportCard:
    known = detector.card
    fields = {"spec": known.spec, "class_names": known.class_names, "image_size": known.image_size}
    return ExportCard(**{**fields, "max_detections": 20, **changes})


@functools.cache
def written(**changes: Any) -> bytes:
    return export_onnx.to_onnx(DETECTOR, card(**changes)).SerializeToString()


def assert_rtx_builds(**changes: Any) -> None:
    assert len(build(written(**changes), card(**changes), "tensorrt_rtx")) > 100_000


def test_tensorrt_rtx_builds_a_small_network_in_single_precision() -> None:
    assert_rtx_builds()


def test_tensorrt_rtx_builds_a_small_network_in_half_precision_that_takes_bytes() -> None:
    assert_rtx_builds(head="topk", precision="fp16", preprocess="bgr")


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"head": "topk"},
        {"precision": "fp16"},
        {"dynamic": True},
        {"head": "topk", "dynamic": True, "max_detections": 500},
    ],
)
def test_tensorrt_rtx_builds_a_small_network_in_every_other_way(changes: dict[str, Any]) -> None:
    assert_rtx_builds(**changes)


@pytest.mark.slow
@pytest.mark.parametrize(("head", "precision"), [("raw", "fp32"), ("topk", "fp16")])
def test_tensorrt_rtx_builds_ns(head: str, precision: str) -> None:
    model = build_model("Ns", 3)
    about = card(model, head=head, precision=precision)
    assert build(export_onnx.to_onnx(model, about).SerializeToString(), about, "tensorrt_rtx")


@pytest.mark.parametrize("head", ["raw", pytest.param("topk", marks=pytest.mark.slow)])
def test_tensorrt_rtx_builds_the_quantised_network(head: str) -> None:
    model = onnx.load_from_string(written(head=head))
    images = photograph(64, 96)[None].transpose(0, 3, 1, 2).astype(np.float32)
    quantised = quantize(model, measure_ranges(model, [images]), "tensorrt")
    assert any(node.op_type == "QuantizeLinear" for node in quantised.graph.node)
    assert build(quantised.SerializeToString(), card(head=head, precision="int8"), "tensorrt_rtx")


@pytest.mark.slow
def test_of_the_quantised_graph_with_the_plug_in_tensorrt_rtx_misses_the_plug_in_alone() -> None:
    model, raw = (onnx.load_from_string(written(head=head)) for head in ("trt_nms", "raw"))
    images = photograph(64, 96)[None].transpose(0, 3, 1, 2).astype(np.float32)
    quantised = quantize(model, measure_ranges(raw, [images]), "tensorrt")
    with pytest.raises(RunError, match="Plugin not found"):
        build(quantised.SerializeToString(), card(head="trt_nms", precision="int8"), "tensorrt_rtx")


def test_what_tensorrt_rtx_does_not_build_is_told_in_its_words() -> None:
    value, real = onnx.helper.make_tensor_value_info, onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("NonMaxSuppression", ["boxes", "scores", "most"], ["kept"])],
        "suppression",
        [value("boxes", real, [1, 9, 4]), value("scores", real, [1, 2, 9])],
        [value("kept", onnx.TensorProto.INT64, ["n", 3])],
        [onnx.numpy_helper.from_array(np.array([5]), "most")],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    with pytest.raises(RunError, match=r"tensorrt_rtx .* does not build .*no runners"):
        build(model.SerializeToString(), card(), "tensorrt_rtx")
    with pytest.raises(RunError, match=r"tensorrt_rtx .* does not read the graph"):
        build(b"nonsense", card(), "tensorrt_rtx")


def test_suppression_for_tensorrt_is_its_plug_in_with_corners_and_scores() -> None:
    model = onnx.load_from_string(written(head="trt_nms", score_threshold=0.25, nms_iou=0.5))
    (node,) = [node for node in model.graph.node if node.op_type == "EfficientNMS_TRT"]
    told = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
    assert told == {
        "plugin_version": b"1",
        "background_class": -1,
        "box_coding": 0,
        "score_activation": 0,
        "max_output_boxes": 20,
        "score_threshold": pytest.approx(0.25),
        "iou_threshold": pytest.approx(0.5),
    }
    assert list(node.output) == [each.name for each in model.graph.output] == list(FINAL_OUTPUTS)
    sizes = [[size.dim_value for size in each.type.tensor_type.shape.dim] for each in model.graph.output]
    assert sizes == [[1, 1], [1, 20, 4], [1, 20], [1, 20]]


@torch.no_grad()
def test_the_plug_in_s_stand_in_leaves_what_suppression_in_onnx_does() -> None:
    settings = {"score_threshold": 0.6, "nms_iou": 0.4, "max_detections": 300}
    images = torch.from_numpy(np.stack([photograph(64, 96, seed) for seed in (0, 1)]))
    images = images.permute(0, 3, 1, 2).float()
    mine = Graph(DETECTOR, card(head="trt_nms", **settings)).eval()(images)
    other = Graph(DETECTOR, card(head="nms", **settings)).eval()(images)
    assert torch.equal(mine[0], other[0])
    for image, count in enumerate(mine[0].flatten().tolist()):
        assert 3 < count < 300
        assert rows(mine, image, count) == rows(other, image, count)
        assert (mine[2][image, :count].diff() <= 0).all()
        assert not any(each[image, count:].any() for each in mine[1:])


def rows(outputs: Any, image: int, count: int) -> list[list[float]]:
    """Label, score and box of each detection, in one order of those with equal scores."""
    boxes, scores, labels = (each[image, :count] for each in outputs[1:])
    return sorted(torch.cat([labels[:, None], scores[:, None], boxes], dim=1).tolist())


def test_the_command_line_names_types_shapes_and_files() -> None:
    command = trtexec(Path("my model.onnx"), Path("my model.engine"), card())
    assert command == (
        "trtexec '--onnx=my model.onnx' '--saveEngine=my model.engine' --stronglyTyped --noTF32"
    )
    about = card(precision="fp16", dynamic=True, batch=2)
    assert trtexec(Path("x.onnx"), Path("x.engine"), about).endswith(
        "--stronglyTyped --minShapes=images:1x3x32x32 --optShapes=images:2x3x64x96 "
        "--maxShapes=images:8x3x128x192"
    )
    assert shapes(card(preprocess="rgb", batch=16))[2] == (16, 128, 192, 3)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> fake_gpu.Cuda:
    """A machine with TensorRT and a GPU, both fake; engines are ONNX behind an engine's first bytes."""
    cuda = fake_gpu.Cuda()
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", cuda)
    monkeypatch.setitem(sys.modules, "tensorrt", fake_gpu.TensorRt(cuda))
    monkeypatch.setattr(tensorrt, "build", lambda model, _: fake_gpu.plan(model))
    return cuda


def test_with_a_gpu_an_engine_is_built_proved_and_has_its_card_beside_it(
    gpu: fake_gpu.Cuda, tmp_path: Path
) -> None:
    exported = export_model(DETECTOR, tmp_path / "x.engine", head="topk", score_threshold=0.6)
    assert exported.proof.passed
    assert exported.proof.remark == ""
    names = ["x.engine", "x.engine.card.json", "x.engine.proof.json"]
    assert sorted(each.name for each in tmp_path.iterdir()) == names
    session = open_session(tmp_path / "x.engine", class_names=["a", "b", "c"])
    assert session.card == exported.card.model_copy(update={"class_names": ("a", "b", "c")})


def put_engine(folder: Path, content: bytes) -> Path:
    path = folder / "x.engine"
    path.write_bytes(content)
    card_path(path).write_text(card().to_json())
    return path


def test_a_session_gives_what_the_graph_does_and_frees_its_memory(gpu: fake_gpu.Cuda, tmp_path: Path) -> None:
    session = TensorRtSession(put_engine(tmp_path, fake_gpu.plan(written())))
    images = photograph(64, 96)[None].transpose(0, 3, 1, 2).astype(np.float32)
    with torch.no_grad():
        scores, boxes = Graph(DETECTOR, card()).eval()(torch.from_numpy(images))
    for _ in range(2):
        found = session.run(images)
        np.testing.assert_allclose(found[0], scores.numpy(), atol=1e-4)
        np.testing.assert_allclose(found[1], boxes.numpy(), atol=0.1)
    assert len(gpu.memory) == 3
    del session
    assert not gpu.memory


def test_images_of_another_shape_than_the_engine_s_are_refused(gpu: fake_gpu.Cuda, tmp_path: Path) -> None:
    session = TensorRtSession(put_engine(tmp_path, fake_gpu.plan(written())))
    with pytest.raises(UserError, match="built for other shapes"):
        session.run(np.zeros((2, 3, 64, 96), np.float32))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (fake_gpu.plan(b"", (10, 3, 0, 26)), "was built by TensorRT 10.3.0.26, .* TensorRT 11.4.0.106"),
        (b"no engine at all, but long enough to be one", "is no TensorRT engine"),
    ],
)
def test_an_engine_that_does_not_fit_is_refused_in_a_sentence(
    content: bytes, reason: str, gpu: fake_gpu.Cuda, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=f"x.engine: {reason}.*; export it again here$"):
        open_session(put_engine(tmp_path, content))


def test_a_failing_gpu_is_told_by_the_name_of_its_error(gpu: fake_gpu.Cuda) -> None:
    assert obstacle() == ""
    gpu.gpus = 0
    assert obstacle() == "no NVIDIA GPU answers (cudaGetDeviceCount failed with cudaErrorNoDevice)"


def test_engines_are_built_by_tensorrt_s_own_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", rtx)  # which has the same interface
    tensorrt.save_engine(written(), card(), tmp_path / "x.engine")
    assert (tmp_path / "x.engine").stat().st_size > 100_000
    assert ExportCard.from_json(card_path(tmp_path / "x.engine").read_text(), "x") == card()


@pytest.mark.parametrize(
    ("owner", "fake"), [("ICudaEngine", fake_gpu.Engine), ("IExecutionContext", fake_gpu.Context)]
)
def test_the_fake_has_no_call_that_the_real_one_lacks(owner: str, fake: type) -> None:
    calls = {name for name in vars(fake) if not name.startswith("_")}
    assert calls <= set(dir(getattr(rtx, owner)))
    assert hasattr(rtx.Runtime, "deserialize_cuda_engine")


def test_the_version_of_an_engine_is_in_its_first_bytes() -> None:
    assert plan_version(fake_gpu.plan(b"", (10, 13, 2, 6))) == "10.13.2.6"
    assert plan_version(b"ftrt") is None


@pytest.mark.parametrize(
    ("head", "inside"), [pytest.param("raw", "raw", marks=pytest.mark.slow), ("nms", "trt_nms")]
)
def test_without_a_gpu_the_onnx_is_written_with_the_command_to_go_on(
    head: Any, inside: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    mine = {name: tmp_path / name for name in ("x.onnx", "x.engine", "x.engine.card.json")}
    for name, each in mine.items():
        each.write_text(name)
    exported = export_model(
        DETECTOR, tmp_path / "x.engine", head=head, score_threshold=0.25, nms_iou=0.5, max_detections=20
    )
    assert {name: each.read_text() for name, each in mine.items()} == {name: name for name in mine}
    file = tmp_path / "x.engine.onnx"
    model = onnx.load(file)
    assert exported.file == file
    assert exported.proof.passed == (True if head == "raw" else None)
    assert exported.card.head == inside
    assert "pip install 'damoyolo[tensorrt]'" in exported.proof.remark
    build_it, _, copy = exported.proof.remark.splitlines()[-1].strip().partition(" && ")
    assert build_it == trtexec(file, tmp_path / "x.engine", exported.card)
    assert copy == f"cp {card_path(file)} {card_path(tmp_path / 'x.engine')}"
    assert exported.card.to_json() in {each.value for each in model.metadata_props}
    assert card_path(file).read_text() == exported.card.to_json()
    if head == "nms":
        with pytest.raises(
            UserError, match=r"x\.engine\.onnx: cannot be run here, .* operator EfficientNMS_TRT"
        ):
            verify(exported.file)


def test_a_graph_that_is_not_built_leaves_nothing(
    gpu: fake_gpu.Cuda, tmp_path: Path, monkeypatch: Any
) -> None:
    def refuse(*_: Any) -> bytes:
        raise RunError("tensorrt does not build the graph")

    monkeypatch.setattr(tensorrt, "build", refuse)
    with pytest.raises(RunError, match="does not build"):
        export_model(DETECTOR, tmp_path / "x.engine")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_int8_for_an_engine_is_for_tensorrt_and_proved_by_its_onnx(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    aps = iter([0.9, 0.9])
    monkeypatch.setattr(Photographs, "__init__", lambda self, *_: setattr(self, "_paths", [None] * 8))
    monkeypatch.setattr(Photographs, "ap", lambda *_: next(aps))
    images = [photograph(64, 96, seed) for seed in range(8)]
    monkeypatch.setattr(Photographs, "inputs", lambda _, runtime: (runtime.batch([each]) for each in images))
    monkeypatch.setattr(Photographs, "few", lambda *_: images[:1])
    exported = export_model(DETECTOR, tmp_path / "x.engine", int8=Int8("nowhere"))
    assert exported.file == tmp_path / "x.engine.onnx"
    assert exported.proof.passed
    told = exported.proof.quantization
    assert told is not None
    assert (told.stands_in, told.engine) == (True, "ONNX Runtime")
    assert build(exported.file.read_bytes(), exported.card, "tensorrt_rtx")
    assert verify(exported.file).passed
