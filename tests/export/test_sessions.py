"""What engines are told, and what is refused before they run or told when they fail."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
from jaxtyping import config

from damoyolo.errors import RunError, UserError
from damoyolo.export.card import FINAL_OUTPUTS, METADATA_KEY, RAW_OUTPUTS, ExportCard
from damoyolo.export.openvino import save_openvino, to_openvino
from damoyolo.export.runtime import Runtime, open_runtime
from damoyolo.export.sessions import open_session, why

POINTS = 84
"""Of an image of 64 x 64."""
RAW = {"output": [1, POINTS, 2], "boxes": [1, POINTS, 4]}
FINAL = dict(zip(FINAL_OUTPUTS, ([1, 1], [1, 20, 4], [1, 20], [1, 20]), strict=True))


@pytest.fixture(autouse=True)
def _unchecked() -> Iterator[None]:
    """Without the tests' own check of types, as for a user."""
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)


def card(**changes: Any) -> ExportCard:
    return ExportCard(**{"class_names": ("a", "b"), "image_size": (64, 64), **changes})


def graph(shapes: dict[str, list[Any]], about: ExportCard | None, images: list[Any]) -> onnx.ModelProto:
    """Zeros of these shapes, plus nothing of the images."""
    helper, real = onnx.helper, onnx.TensorProto.FLOAT
    nodes, outputs = [helper.make_node("ReduceMean", ["images"], ["mean"], keepdims=0)], []
    constants = [onnx.numpy_helper.from_array(np.zeros((), np.float32), "nothing")]
    nodes.append(helper.make_node("Mul", ["mean", "nothing"], ["zero"]))
    for name, shape in shapes.items():
        sizes = [size if isinstance(size, int) else 1 for size in shape]
        constants.append(onnx.numpy_helper.from_array(np.zeros(sizes, np.float32), f"{name}_0"))
        nodes.append(helper.make_node("Add", [f"{name}_0", "zero"], [name]))
        outputs.append(helper.make_tensor_value_info(name, real, shape))
    given = [helper.make_tensor_value_info("images", real, images)]
    model = helper.make_model(
        helper.make_graph(nodes, "zeros", given, outputs, constants),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=10,
    )
    if about:
        helper.set_model_props(model, {METADATA_KEY: about.to_json()})
    return model


def saved(
    folder: Path, about: ExportCard | None = None, shapes: Any = None, images: Any = (1, 3, 64, 64)
) -> Path:
    path = folder / "m.onnx"
    onnx.save(graph(shapes or RAW, about or card(), list(images)), path)
    return path


def saved_as_openvino(folder: Path, about: ExportCard) -> Path:
    save_openvino(to_openvino(graph(RAW, about, [1, 3, 64, 64])), folder / "m.xml")
    return folder / "m.xml"


@pytest.mark.parametrize(
    ("about", "shapes", "told"),
    [
        ({"class_names": ("a",)}, RAW, "output 1x84x2, boxes 1x84x4, .* head raw with 1 classes"),
        ({"image_size": (64, 96)}, RAW, "its images are 1x3x64x64, not 1x3x64x96"),
        ({"batch": 2}, RAW, "its images are 1x3x64x64, not 2x3x64x64"),
        ({"preprocess": "rgb"}, RAW, "its images are 1x3x64x64, not 1x64x64x3"),
        ({"head": "topk"}, RAW, "head topk"),
        ({}, FINAL, "num_dets 1x1, .* head raw"),
        ({"head": "nms", "max_detections": 30}, FINAL, "head nms"),
        ({}, {"output": [1, 21, 2], "boxes": [1, 21, 4]}, "at 64x64"),
    ],
)
def test_a_file_that_contradicts_what_it_says_of_itself_is_refused(
    tmp_path: Path, about: dict[str, Any], shapes: Any, told: str
) -> None:
    path = saved(tmp_path, card(**about), shapes)
    for engine in ("onnxruntime", "openvino"):
        with pytest.raises(UserError, match=rf"m\.onnx: what it says of itself .*{told}.*; export it again"):
            open_session(path, engine)


def test_a_file_that_says_what_it_is_runs_with_both_engines(tmp_path: Path) -> None:
    path = saved(tmp_path, card(head="topk", max_detections=20), FINAL)
    for engine in ("onnxruntime", "openvino"):
        assert len(open_runtime(path, engine=engine)(np.zeros((9, 9, 3), np.uint8))) == 0
    anything = card(dynamic=True)
    sizes = {"output": ["b", "p", 2], "boxes": ["b", "p", 4]}
    assert open_session(saved(tmp_path, anything, sizes, ["b", 3, "h", "w"])).card == anything


def test_outputs_of_other_shapes_than_said_are_one_sentence() -> None:
    class Liar:
        def __init__(self) -> None:
            self.card = card()

        def run(self, _: np.ndarray) -> list[np.ndarray]:
            return [np.zeros((1, 7, 2), np.float32), np.zeros((1, 7, 4), np.float32)]

    with pytest.raises(RunError, match=r"does not give what it says: its outputs are output 1x7x2"):
        Runtime(Liar(), card())(np.zeros((9, 9, 3), np.uint8))


def test_threads_reach_onnx_runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    real = onnxruntime.InferenceSession
    monkeypatch.setattr(
        onnxruntime,
        "InferenceSession",
        lambda path, options, providers: (
            told.append((options.intra_op_num_threads, providers)) or real(path, options, providers=providers)
        ),
    )
    open_session(saved(tmp_path), threads=3)
    open_session(saved(tmp_path), threads=4, streams=4)
    assert told == [(3, ["CPUExecutionProvider"]), (1, ["CPUExecutionProvider"])]


@pytest.mark.parametrize(("precision", "hint"), [("fp32", "f32"), ("fp16", "f32"), ("bf16", "bf16")])
def test_threads_and_precision_reach_openvino(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: Any, hint: str
) -> None:
    told: list[Any] = []
    real = openvino.compile_model
    monkeypatch.setattr(
        openvino,
        "compile_model",
        lambda model, device, settings: told.append((device, settings)) or real(model, device),
    )
    open_session(saved_as_openvino(tmp_path, card(precision=precision)), threads=3)
    wanted = {"INFERENCE_PRECISION_HINT": hint, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": 3}
    assert told == [("CPU", wanted)]
    open_session(saved_as_openvino(tmp_path, card(precision=precision)), threads=3, streams=3)
    assert told[1] == ("CPU", wanted | {"PERFORMANCE_HINT": "THROUGHPUT", "NUM_STREAMS": 3})


def test_a_provider_comes_before_the_cpu_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    providers = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: providers)
    told: list[Any] = []

    def refuse(*_: Any, providers: list[str]) -> Any:
        told.append(providers)
        raise RuntimeError("no GPU here")

    monkeypatch.setattr(onnxruntime, "InferenceSession", refuse)
    for device in ("cuda", "tensorrt"):
        with pytest.raises(UserError, match="no GPU here"):
            open_session(saved(tmp_path), device=device)
    assert told == [[providers[1], providers[2]], [providers[0], providers[2]]]


def test_what_is_no_engine_no_device_or_does_not_fit_is_refused(tmp_path: Path) -> None:
    path: Any = saved(tmp_path)
    for options, told in (
        ({"engine": "ort"}, "engine 'ort': is none of onnxruntime, openvino"),
        ({"device": "gpu"}, "device 'gpu': is none of cpu, cuda, tensorrt"),
        ({"engine": "ncnn"}, r"m\.onnx: ncnn runs \.param; leave the engine out"),
        ({"engine": "openvino", "device": "cuda"}, "is for ONNX Runtime, not openvino"),
        ({"class_names": "ab"}, "class_names 'ab': is one string; give a list of names"),
    ):
        with pytest.raises(UserError, match=told):
            open_session(path, **options)
    xml = saved_as_openvino(tmp_path, card())
    with pytest.raises(UserError, match=r"m\.bin: '\.bin' is none of .*; name m\.xml$"):
        open_session(xml.with_suffix(".bin"))
    xml.with_suffix(".bin").unlink()
    with pytest.raises(UserError, match=r"m\.bin: is missing; put it beside m\.xml"):
        open_session(xml)


def test_text_that_is_called_an_engine_is_told_without_tensorrt(tmp_path: Path) -> None:
    (tmp_path / "m.engine").write_text("no engine")
    with pytest.raises(UserError, match=r"m\.engine: is no TensorRT engine; export it again"):
        open_session(tmp_path / "m.engine")


def test_an_engine_that_fails_is_one_sentence(tmp_path: Path) -> None:
    for engine, name in (("onnxruntime", "ONNX Runtime"), ("openvino", "OpenVINO")):
        session = open_session(saved(tmp_path), engine)
        with pytest.raises(
            RunError, match=rf"m\.onnx: {name} failed on images \(1, 3, 32, 32\) \("
        ) as caught:
            session.run(np.zeros((1, 3, 32, 32), np.float32))
        assert "\n" not in str(caught.value)


def test_openvino_s_reason_is_told_and_not_the_place_in_its_source() -> None:
    told = "Exception from src/core.cpp:84:\nCheck 'a' failed at src/x.cpp:3:\nEmpty weights data\n\n"
    assert why(RuntimeError(told)) == "Empty weights data"
    assert why(RuntimeError("")) == "RuntimeError"


def test_without_the_package_onnx_openvino_says_what_it_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(UserError, match=r"onnx cannot be imported .*damoyolo\[export\]"):
        open_session(path, "openvino")


@pytest.mark.parametrize(
    ("images", "told"),
    [
        (np.zeros((9, 9), np.uint8), r"image: is uint8 \(9, 9\)"),
        (np.zeros((9, 9, 4), np.uint8), r"image: is uint8 \(9, 9, 4\)"),
        (np.zeros((1, 9, 9, 3), np.uint8), r"\(1, 9, 9, 3\)"),
        (np.zeros((0, 9, 3), np.uint8), r"\(0, 9, 3\)"),
        (np.zeros((9, 9, 3), np.float32), r"image: is float32 \(9, 9, 3\); give RGB as uint8"),
        ([np.zeros((9, 9, 3), np.uint8), np.zeros((9, 9, 3), np.int64)], "image 2 of 2: is int64"),
        ([None], "image: is a NoneType; give RGB pixels"),
    ],
)
def test_what_is_no_image_is_refused(tmp_path: Path, images: Any, told: str) -> None:
    with pytest.raises(UserError, match=told):
        open_runtime(saved(tmp_path))(images)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"max_detections": -1}, "max_detections -1: give 1 or more"),
        ({"score": float("nan")}, "score nan: is a threshold from 0 to 1"),
        ({"nms_iou": 7.0}, r"nms_iou 7\.0: is an overlap from 0 to 1"),
    ],
)
def test_what_is_no_limit_is_refused(tmp_path: Path, options: Any, told: str) -> None:
    with pytest.raises(UserError, match=told):
        open_runtime(saved(tmp_path))(np.zeros((9, 9, 3), np.uint8), **options)


class Counting:
    """A session that notes how many images it gets."""

    def __init__(self, about: ExportCard) -> None:
        self.card, self.batches = about, []

    def run(self, images: np.ndarray) -> list[np.ndarray]:
        self.batches.append(len(images))
        count, points = len(images), POINTS
        return [np.zeros((count, points, 2), np.float32), np.zeros((count, points, 4), np.float32)]


def test_a_long_list_is_run_in_batches_of_the_stated_size() -> None:
    images = [np.zeros((9, 9, 3), np.uint8)] * 20
    for about, size, batches in (
        (card(dynamic=True), 8, [8, 8, 4]),
        (card(dynamic=True), 30, [20]),
        (card(batch=6), 8, [6, 6, 6, 6]),
    ):
        session = Counting(about)
        assert len(Runtime(session, about, size)(images)) == 20
        assert session.batches == batches
    with pytest.raises(UserError, match="batch_size 0: give 1 or more"):
        Runtime(Counting(card()), card(), 0)


def test_warming_up_runs_full_batches() -> None:
    for about, batches in ((card(batch=2), [2, 2, 2]), (card(dynamic=True), [8, 8, 8])):
        session = Counting(about)
        Runtime(session, about).warm_up()
        assert session.batches == batches
    assert tuple(RAW) == RAW_OUTPUTS
