"""The runtime finds what the detector finds, and says what it cannot read."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from damoyolo.boxes.select import select_boxes
from damoyolo.detections import Detections
from damoyolo.errors import UserError
from damoyolo.export import onnx as export_onnx
from damoyolo.export.card import ExportCard
from damoyolo.export.comparison import compare_detections
from damoyolo.export.openvino import save_openvino, to_openvino
from damoyolo.export.runtime import Runtime, open_runtime, raw_candidates, suppress
from damoyolo.export.sessions import parts_of
from damoyolo.nn.detector import Detector
from damoyolo.prediction import detect
from exportable import lively, photograph, quick_exports  # noqa: F401 (a fixture)

DETECTOR = lively(resize="letterbox")


def written(folder: Path, detector: Detector = DETECTOR, suffix: str = ".onnx", **changes: Any) -> Path:
    card = detector.card
    about = {"spec": card.spec, "class_names": card.class_names, "image_size": card.image_size}
    model = export_onnx.to_onnx(detector, ExportCard(**about, resize=card.resize, **changes))
    path = folder / f"model{suffix}"
    if suffix == ".onnx":
        onnx.save(model, path)
    else:
        save_openvino(to_openvino(model), path)
    return path


@pytest.fixture(scope="module")
def onnx_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("onnx"))


@pytest.fixture(scope="module")
def openvino_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("openvino"), suffix=".xml")


@pytest.fixture(scope="module", params=["onnx", "openvino"])
def runtime(request: pytest.FixtureRequest) -> Runtime:
    return open_runtime(request.getfixturevalue(f"{request.param}_file"), threads=1)


def assert_same(expected: list[Detections], found: list[Detections]) -> None:
    comparison = compare_detections(expected, found)
    assert comparison.only_model == comparison.only_file == 0
    assert comparison.score <= 1e-4
    assert comparison.box_px <= 0.01


PHOTOGRAPHS = {
    "of the input's size": photograph(64, 96),
    "wide": photograph(31, 333, seed=1),
    "tall": photograph(201, 20, seed=2),
    "large": photograph(480, 640, seed=3),
    "grey": np.full((50, 70, 3), 114, dtype=np.uint8),
}


@pytest.mark.parametrize("photo", PHOTOGRAPHS)
@pytest.mark.parametrize("score", [0.4, 0.6])
def test_it_finds_what_the_detector_finds(runtime: Runtime, photo: str, score: float) -> None:
    (expected,) = detect(DETECTOR, [PHOTOGRAPHS[photo]], score=score)
    found = runtime(PHOTOGRAPHS[photo], score=score)
    assert len(expected) > 5
    assert found.class_names == DETECTOR.card.class_names
    assert_same([expected], [found])


def test_it_finds_nothing_where_the_detector_finds_nothing(runtime: Runtime) -> None:
    assert len(detect(DETECTOR, [PHOTOGRAPHS["grey"]], score=1.0)[0]) == 0
    assert len(runtime(PHOTOGRAPHS["grey"], score=1.0)) == 0
    assert runtime([]) == []


def test_many_detections_are_cut_at_the_same_place(runtime: Runtime) -> None:
    for most in (1, 7, 300):
        (expected,) = detect(DETECTOR, [PHOTOGRAPHS["large"]], score=0.0, nms_iou=1.0, max_detections=most)
        found = runtime(PHOTOGRAPHS["large"], score=0.0, nms_iou=1.0, max_detections=most)
        assert len(found) == len(expected) == most
        np.testing.assert_allclose(found.scores, expected.scores, rtol=0, atol=1e-4)


def test_a_list_and_files_give_what_single_images_give(runtime: Runtime, tmp_path: Path) -> None:
    photo = PHOTOGRAPHS["large"]
    cv2.imwrite(str(tmp_path / "photo.png"), photo[..., ::-1])
    from_file, from_pixels = runtime([tmp_path / "photo.png", photo])
    np.testing.assert_array_equal(from_file.boxes, from_pixels.boxes)
    np.testing.assert_array_equal(runtime(str(tmp_path / "photo.png")).boxes, from_pixels.boxes)


def test_a_fixed_batch_is_filled_up_and_the_filling_dropped(tmp_path: Path) -> None:
    runtime = open_runtime(written(tmp_path, batch=2))
    photos = [photograph(seed=seed) for seed in range(5)]
    found = runtime(photos, score=0.6)
    assert len(found) == 5
    assert_same([detect(DETECTOR, [photo], score=0.6)[0] for photo in photos], found)


@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
def test_several_threads_at_a_time_find_what_one_finds(tmp_path: Path, suffix: str) -> None:
    path = written(tmp_path, suffix=suffix)
    photos = [photograph(seed=seed) for seed in range(8)]
    one, many = open_runtime(path, threads=1), open_runtime(path, threads=2, streams=2)
    with ThreadPoolExecutor(4) as pool:  # more than there are streams
        found = list(pool.map(many, photos))
    assert_same(one(photos), found)


@given(
    seed=st.integers(0, 999), points=st.integers(0, 60), classes=st.integers(1, 4), most=st.integers(1, 30)
)
def test_its_selection_is_the_detector_s(seed: int, points: int, classes: int, most: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(points, classes, generator=generator).mul(8).round().div(8)  # many are equal
    corners = torch.rand(points, 2, generator=generator) * 20
    boxes = torch.cat([corners, corners + 5 + torch.rand(points, 2, generator=generator) * 20], dim=1)
    expected = select_boxes(scores, boxes, 0.3, 0.5, most)
    found = suppress(raw_candidates(scores.numpy(), boxes.numpy(), 0.3), 0.5, most)
    np.testing.assert_array_equal(found.boxes, expected.boxes.numpy())
    np.testing.assert_array_equal(found.scores, expected.scores.numpy())
    np.testing.assert_array_equal(found.labels, expected.labels.numpy())


def plain_onnx(path: Path, shapes: dict[str, list[int | str]], images: list[int | str]) -> Path:
    """A graph without metadata that gives zeros of these shapes."""
    helper, number = onnx.helper, onnx.TensorProto.FLOAT
    nodes, outputs = [], []
    for name, shape in shapes.items():
        zeros = onnx.numpy_helper.from_array(
            np.zeros([s if isinstance(s, int) else 1 for s in shape], np.float32)
        )
        nodes.append(helper.make_node("Constant", [], [f"{name}_0"], value=zeros))
        nodes.append(helper.make_node("Identity", [f"{name}_0"], [name]))
        outputs.append(helper.make_tensor_value_info(name, number, shape))
    inputs = [helper.make_tensor_value_info("images", number, images)]
    graph = helper.make_graph(nodes, "plain", inputs, outputs)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return path


def test_a_file_of_the_reference_is_read_without_metadata(tmp_path: Path) -> None:
    """Its converter called the scores `output` and gave the boxes a number for a name."""
    path = plain_onnx(tmp_path / "damoyolo.onnx", {"output": [1, 84, 80], "1234": [1, 84, 4]}, [1, 3, 64, 64])
    runtime = open_runtime(path)
    assert (runtime.card.image_size, runtime.card.head, len(runtime.card.class_names)) == (
        (64, 64),
        "raw",
        80,
    )
    assert len(runtime(photograph())) == 0
    named = open_runtime(path, class_names=[f"name{number}" for number in range(80)])
    assert named.card.class_names[79] == "name79"


def stripped(path: Path, onnx_file: Path) -> Path:
    """As the reference writes: no metadata."""
    model = onnx.load(onnx_file)
    del model.metadata_props[:]
    onnx.save(model, path)
    return path


def test_without_metadata_the_same_boxes_are_found(tmp_path: Path) -> None:
    detector = lively()  # stretches, as the reference does
    runtime = open_runtime(stripped(tmp_path / "bare.onnx", written(tmp_path, detector)))
    assert_same(detect(detector, [photograph()], score=0.6), [runtime(photograph(), score=0.6)])


@pytest.mark.parametrize(
    ("shapes", "images"),
    [
        ({"logits": [1, 1000]}, [1, 3, 224, 224]),
        ({"output0": [1, 84, 8400]}, [1, 3, 640, 640]),
        ({"boxes": [1, 84, 4], "scores": [1, 84, 80]}, [1, 3, 64, 64]),
    ],
)
def test_a_foreign_file_is_refused_by_its_outputs(
    tmp_path: Path, shapes: dict[str, list[int | str]], images: list[int | str]
) -> None:
    path = plain_onnx(tmp_path / "foreign.onnx", shapes, images)
    with pytest.raises(UserError, match=rf"foreign.onnx: is no file of damoyolo's .* {next(iter(shapes))} "):
        open_runtime(path)


@pytest.mark.parametrize(
    ("kind", "torn"), [("onnx", ".onnx"), ("openvino", ".xml"), ("openvino", ".bin")], ids=str
)
def test_a_truncated_file_is_one_sentence(
    tmp_path: Path, request: pytest.FixtureRequest, kind: str, torn: str
) -> None:
    whole: Path = request.getfixturevalue(f"{kind}_file")
    path = tmp_path / whole.name
    for each in parts_of(whole):
        content = each.read_bytes()
        size = len(content) // 2 if each.suffix == torn else len(content)
        (tmp_path / each.name).write_bytes(content[:size])
    with pytest.raises(UserError, match=r"cannot (load|compile) it .*; export it again") as caught:
        open_runtime(path)
    assert "\n" not in str(caught.value)
    assert "Exception from" not in str(caught.value)


def test_what_does_not_fit_a_file_is_refused(onnx_file: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="80 class names were given, but the model has 3 classes"):
        open_runtime(onnx_file, class_names=["x"] * 80)
    with pytest.raises(UserError, match="takes images of 64x96 only"):
        open_runtime(onnx_file, image_size=128)
    with pytest.raises(UserError, match="image_size: 100 px is no multiple of 32"):
        open_runtime(onnx_file, image_size=100)
    with pytest.raises(UserError, match="no such file"):
        open_runtime(tmp_path / "none.onnx")
    (tmp_path / "model.tflite").touch()
    with pytest.raises(UserError, match=r"'.tflite' is none of .onnx, "):
        open_runtime(tmp_path / "model.tflite")
    with pytest.raises(UserError, match="device 'cuda': this ONNX Runtime has no CUDAExecutionProvider"):
        open_runtime(onnx_file, device="cuda")


def test_a_file_with_suppression_inside_keeps_its_own_threshold_of_overlap(tmp_path: Path) -> None:
    limits = {"score_threshold": 0.6, "nms_iou": 0.4, "max_detections": 60}
    runtime = open_runtime(written(tmp_path, head="nms", batch=2, **limits))
    photo = PHOTOGRAPHS["large"]
    (expected,) = detect(DETECTOR, [photo], score=0.7, nms_iou=0.4)
    assert 3 < len(expected) < 60
    assert_same([expected], [runtime(photo, score=0.7)])
    with pytest.raises(UserError, match=r"nms_iou 0.7: this file suppresses by itself, at 0.4"):
        runtime(photo, nms_iou=0.7)


def test_the_card_of_a_newer_damoyolo_is_refused_by_field(tmp_path: Path, onnx_file: Path) -> None:
    model = onnx.load(onnx_file)
    (entry,) = (each for each in model.metadata_props if each.key == "damoyolo")
    entry.value = entry.value.replace('"head": "raw"', '"head": "odd"')
    onnx.save(model, tmp_path / "odd.onnx")
    with pytest.raises(UserError, match=r"odd.onnx: head: 'odd' is none of raw, .*; export it again"):
        open_runtime(tmp_path / "odd.onnx")


@pytest.mark.slow
def test_it_runs_where_there_is_no_torch(onnx_file: Path, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "photo.png"), photograph()[..., ::-1])
    code = f"""
import sys
for name in ("torch", "torchvision", "onnx", "onnxscript"):
    sys.modules[name] = None  # importing it raises ImportError
from damoyolo.export.comparison import compare_detections
from damoyolo.export.runtime import open_runtime
print(len(open_runtime({str(onnx_file)!r})({str(tmp_path / "photo.png")!r}, score=0.6)))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert int(done.stdout) == len(detect(DETECTOR, [photograph()], score=0.6)[0])
