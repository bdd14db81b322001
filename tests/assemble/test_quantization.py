"""INT8 within a limit: which layers stay in float, what is told, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from damoyolo.assemble import export_model, quantization, shipping
from damoyolo.assemble.quantization import Int8, Photographs, change, fewest
from damoyolo.assemble.shipping import evaluate_runtime, verify
from damoyolo.cli import main
from damoyolo.errors import RunError, UserError
from damoyolo.export import onnx as export_onnx
from damoyolo.export.card import ExportCard
from damoyolo.export.int8 import Measured, Quantization
from damoyolo.export.proof import Proof, proof_path
from damoyolo.export.runtime import open_runtime
from damoyolo.nn.detector import Detector
from damoyolo.prediction import detect
from damoyolo.zoo.weights import save_weights
from exportable import CLASS_NAMES, lively, photograph

TRAIN, VAL = 8, 4
OUTLIER = 3000.0


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    calls, turns = shipping.time_calls, quantization.in_turns
    monkeypatch.setattr(shipping, "time_calls", lambda call: calls(call, seconds=0.01, warm_up=1, least=2))
    monkeypatch.setattr(quantization, "RANKED_ON", 1)
    monkeypatch.setattr(quantization, "in_turns", lambda blocks: turns(blocks, calls=2, block=2))


@pytest.fixture(autouse=True, scope="module")
def _written_once() -> Iterator[None]:
    """The same graph, asked for again, is not written again."""
    write = export_onnx.to_onnx
    known: dict[tuple[str, str], bytes] = {}

    def to_onnx(detector: Detector, card: ExportCard) -> onnx.ModelProto:
        key = (shipping.sha256_of_weights(detector), card.to_json())
        if key not in known:
            known[key] = write(detector, card).SerializeToString()
        return onnx.load_from_string(known[key])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export_onnx, "to_onnx", to_onnx)
        yield


def with_outlier() -> Detector:
    """The same function as `lively`, but one channel that `backbone.stages.0.0` leaves is thousands wide."""
    detector = lively()
    first, second = (detector.backbone.stages[number][0] for number in (0, 1))
    with torch.no_grad():
        for each in (first.project.norm.weight, first.project.norm.bias):
            each[0] *= OUTLIER
        second.expand.conv.weight[:, 0] /= OUTLIER
    return detector


def write_truth(folder: Path, detector: Detector) -> Path:
    """Photographs on which everything that the detector sees, it sees rightly."""
    (folder / "images").mkdir(parents=True)
    for split, count, first in (("train", TRAIN, 0), ("val", VAL, 100)):
        images, annotations = [], []
        for number in range(first, first + count):
            pixels = photograph(64, 96, seed=number)
            cv2.imwrite(str(folder / "images" / f"{number}.png"), pixels[..., ::-1])
            images.append({"id": number, "file_name": f"{number}.png", "width": 96, "height": 64})
            (found,) = detect(detector, [pixels], score=0.6)
            for (x1, y1, x2, y2), label in zip(found.boxes.tolist(), found.labels.tolist(), strict=True):
                box = {"bbox": [x1, y1, x2 - x1, y2 - y1], "category_id": label, "image_id": number}
                annotations.append(
                    {"id": len(annotations), "area": (x2 - x1) * (y2 - y1), "iscrowd": 0, **box}
                )
        categories = [{"id": number, "name": name} for number, name in enumerate(CLASS_NAMES)]
        truth = {"images": images, "annotations": annotations, "categories": categories}
        (folder / f"{split}.json").write_text(json.dumps(truth))
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_truth(tmp_path_factory.mktemp("truth") / "photographs", lively())


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
def test_where_everything_in_int8_is_good_enough_nothing_stays_in_float(
    data: Path, tmp_path: Path, suffix: str
) -> None:
    result = export_model(lively(), tmp_path / f"m{suffix}", int8=Int8(data, max_drop=100.0))
    told = result.quantization
    assert told is not None
    assert (told.data, told.calibration_images, told.in_float, told.partial) == (
        "photographs",
        TRAIN,
        (),
        None,
    )
    assert told.fp32.ap > 0.99
    assert told.whole.ap < told.fp32.ap
    assert evaluate_runtime(open_runtime(result.file), data).ap == pytest.approx(told.whole.ap, abs=1e-9)
    assert open_runtime(result.file).card.precision == "int8"
    assert verify(result.file).passed
    assert Proof.model_validate_json(proof_path(result.file).read_bytes()).quantization == told


@pytest.mark.slow
def test_a_file_with_another_head_keeps_as_much_as_the_trials_did(data: Path, tmp_path: Path) -> None:
    head: Any = {"head": "topk", "max_detections": 100}
    float_file = export_model(lively(), tmp_path / "float.onnx", **head).file
    result = export_model(lively(), tmp_path / "m.onnx", **head, int8=Int8(data, max_drop=100.0))
    told = result.quantization
    assert told is not None
    assert open_runtime(result.file).card.head == "topk"
    aps = [evaluate_runtime(open_runtime(file), data).ap for file in (result.file, float_file)]
    assert aps[0] / aps[1] == pytest.approx(told.whole.ap / told.fp32.ap, abs=0.15)


@pytest.mark.slow
def test_a_layer_that_eight_bits_cannot_hold_is_found_and_left_in_float(data: Path, tmp_path: Path) -> None:
    result = export_model(with_outlier(), tmp_path / "m.xml", int8=Int8(data, max_drop=40.0))
    told = result.quantization
    assert told is not None
    assert told.partial is not None
    assert told.whole.ap < told.fp32.ap - 0.4 <= told.partial.ap
    assert told.in_float == ("backbone.stages.1.0",)  # it reads what one channel has stretched
    assert evaluate_runtime(open_runtime(result.file), data).ap == pytest.approx(told.partial.ap, abs=1e-9)


@pytest.mark.slow
def test_what_stays_in_float_has_float_weights_in_the_file(data: Path, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        aps = iter([0.9, 0.5, 0.9])  # of the float model, of all in INT8, of one part in float
        patch.setattr(Photographs, "ap", lambda *_: next(aps))
        result = export_model(lively(), tmp_path / "m.onnx", int8=Int8(data))
    assert result.quantization is not None
    (part,) = result.quantization.in_float
    weights = {each.name: each.data_type for each in onnx.load(result.file).graph.initializer}
    floats = [name for name, kind in weights.items() if name.endswith("weight") and kind == 1]
    assert floats
    assert all(name.startswith(f"network.{part}.") for name in floats)


@pytest.mark.slow
def test_a_limit_that_cannot_be_kept_is_told_with_the_best_numbers_and_no_file_stays(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    aps = iter([0.9, 0.5, 0.6, 0.7, *[0.65] * 20])
    monkeypatch.setattr(Photographs, "ap", lambda *_: next(aps))
    expected = r"m\.onnx: .*loses 40\.00 AP points, and at best, with 2 of \d+ parts in float, 20\.00, more"
    with pytest.raises(RunError, match=expected):
        export_model(lively(), tmp_path / "m.onnx", int8=Int8(data))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("settings", "options", "message"),
    [
        ({"max_drop": -0.1}, {}, r"--max-drop -0\.1: is in AP points; give 0 or more"),
        ({"max_drop": float("nan")}, {}, r"--max-drop nan"),
        ({"calibration_images": 3}, {}, "3 images of 'train' are too few to calibrate with; use 8 or more"),
        ({"split": "test"}, {}, "test"),
        ({}, {"precision": "fp16"}, "--precision fp16: is not INT8"),
        ({}, {"suffix": ".pte"}, "cannot hold the precision 'int8'"),
    ],
    ids=str,
)
def test_what_cannot_be_quantised_so_is_refused_before_anything_is_written(
    data: Path, tmp_path: Path, settings: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    suffix = options.pop("suffix", ".onnx")
    with pytest.raises(UserError, match=message):
        export_model(lively(), tmp_path / f"m{suffix}", int8=Int8(data, **settings), **options)
    assert not list(tmp_path.iterdir())


def test_int8_needs_data(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="precision int8: needs photographs"):
        export_model(lively(), tmp_path / "m.onnx", precision="int8")


def test_data_of_other_classes_are_refused(data: Path, tmp_path: Path) -> None:
    content = json.loads((data / "train.json").read_text())
    content["categories"][0]["name"] = "dusty"
    (tmp_path / "train.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="no class for category 'dusty'"):
        Photographs(Int8(tmp_path), CLASS_NAMES)


@pytest.mark.slow
def test_the_command_tells_what_it_did_and_what_is_missing(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_weights(lively(), tmp_path / "w.safetensors")
    command = ["export", str(tmp_path / "m.onnx"), "--weights", str(tmp_path / "w.safetensors"), "--int8"]
    assert main(command) == 2
    assert "--int8 and --data: go together" in capsys.readouterr().err
    assert main([*command, "--data", str(data), "--max-drop", "100"]) == 0
    told = capsys.readouterr().out
    assert "m.onnx: 64x96 px, head raw, int8" in told
    assert f"photographs val, ONNX Runtime, calibrated on {TRAIN} images:" in told
    assert "nothing is left in float" in told


def measured(ap: float, p50: float) -> Measured:
    return Measured(ap=ap, p50=p50, p95=p50 + 1)


def test_the_report_names_the_layers_and_gives_loss_and_gain_beside_the_float_model() -> None:
    told = Quantization(
        data="bccd",
        split="val",
        engine="OpenVINO",
        calibration_images=205,
        max_drop=0.5,
        in_float=("backbone.stem", "head.2"),
        fp32=measured(0.58, 10.0),
        whole=measured(0.57, 4.0),
        partial=measured(0.578, 5.0),
    )
    lines = told.lines()
    assert lines[0] == "bccd val, OpenVINO, calibrated on 205 images:"
    assert lines[3] == "  partial INT8  AP 0.5780  5.00 ms (p95 6.00)  AP -0.20 points, 2.00 times as fast"
    assert lines[4:] == ["left in float: backbone.stem, head.2"]
    slow = told.model_copy(update={"partial": measured(0.578, 9.9)})
    assert slow.lines()[-1] == "INT8 is not faster here; take the float file"
    assert slow.model_copy(update={"stands_in": True}).lines()[-1] == lines[-1]


@given(st.integers(0, 40), st.integers(0, 40))
def test_the_fewest_that_are_enough_are_found_with_few_looks(needed: int, most: int) -> None:
    looked: list[int] = []

    def enough(count: int) -> bool:
        looked.append(count)
        return count >= needed

    assert fewest(enough, most) == (needed if needed <= most else None)
    assert len(looked) <= 14
    assert max(looked) <= most


@given(st.sets(st.integers(0, 20)), st.integers(0, 20))
def test_where_more_is_not_always_better_what_is_found_is_enough_and_one_less_is_not(
    good: set[int], most: int
) -> None:
    found = fewest(good.__contains__, most)
    if found is None:
        assert most not in good
    else:
        assert found in good
        assert found - 1 not in good


def test_the_change_of_outputs_grows_with_scores_and_boxes_that_count() -> None:
    scores = np.array([[0.9, 0.0], [0.1, 0.0]], np.float32)
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 10]], np.float32)
    moved_best, moved_other = boxes.copy(), boxes.copy()
    moved_best[0] += 2
    moved_other[1] += 2
    same = change([(scores, boxes)], [(scores, boxes)])
    assert same == 0
    assert change([(scores, boxes)], [(scores * 0.5, boxes)]) == pytest.approx(0.5)
    assert change([(scores, boxes)], [(scores, moved_best)]) == pytest.approx(0.18)
    assert change([(scores, boxes)], [(scores, moved_other)]) == pytest.approx(0.02)
