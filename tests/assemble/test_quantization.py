"""INT8 within a limit: which layers stay in float, what is told, and what is refused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from damoyolo.assemble import Exported, export_model, quantization, shipping
from damoyolo.assemble.quantization import Int8, Photographs, Trials, fewest
from damoyolo.assemble.shipping import evaluate_runtime, verify
from damoyolo.cli import main
from damoyolo.errors import RunError, UserError
from damoyolo.export.bench import in_turns
from damoyolo.export.int8 import Measured, Quantization
from damoyolo.export.proof import Proof, proof_path
from damoyolo.export.runtime import Runtime, open_runtime
from damoyolo.nn.detector import Detector
from damoyolo.prediction import detect
from damoyolo.zoo.weights import save_weights
from exportable import CLASS_NAMES, lively, photograph, quick_exports  # noqa: F401 (a fixture)

TRAIN, VAL = 8, 4
OUTLIER = 3000.0


@pytest.fixture(autouse=True, scope="module")
def _quick() -> Iterator[None]:
    """Little is timed, and parts are compared on one image."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quantization, "RANKED_ON", 1)
        patch.setattr(quantization, "in_turns", partial(in_turns, calls=2, block=2))
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


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Exported]:
    """Files wholly in INT8, by suffix."""
    folder, settings = tmp_path_factory.mktemp("whole"), Int8(data, max_drop=100.0)
    return {
        suffix: export_model(lively(), folder / f"m{suffix}", int8=settings) for suffix in (".onnx", ".xml")
    }


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
def test_where_everything_in_int8_is_good_enough_nothing_stays_in_float(
    data: Path, whole: dict[str, Exported], suffix: str
) -> None:
    result = whole[suffix]
    told = result.proof.quantization
    assert told is not None
    assert (told.data, told.calibration_images) == ("photographs", TRAIN)
    assert (told.in_float, told.partial) == ((), None)
    assert told.fp32.ap > 0.99
    assert told.whole.ap < told.fp32.ap
    assert evaluate_runtime(open_runtime(result.file), data).ap == pytest.approx(told.whole.ap, abs=1e-9)
    assert open_runtime(result.file).card.precision == "int8"
    assert Proof.model_validate_json(proof_path(result.file).read_bytes()) == result.proof


def copied(whole: dict[str, Exported], folder: Path, **changes: Any) -> Path:
    """The .onnx with its proof, some fields of which are changed."""
    result = whole[".onnx"]
    path = folder / "renamed.onnx"
    path.write_bytes(result.file.read_bytes())
    proof_path(path).write_text(result.proof.model_copy(update=changes).model_dump_json())
    return path


def shaken(factor: float, path: Path) -> Runtime:
    """As if kernels of another machine gave other scores."""
    runtime = open_runtime(path)
    run = runtime.session.run

    def run_otherwise(images: np.ndarray) -> list[np.ndarray]:
        scores, boxes = run(images)
        return [factor * scores, boxes]

    runtime.session.run = run_otherwise
    return runtime


def tampered(path: Path, factor: float) -> Path:
    """All weights of the stem's convolution are larger by a factor."""
    model = onnx.load(path)
    model.doc_string = "tampered with"
    makers = {name: node for node in model.graph.node for name in node.output}
    stem = next(node for node in model.graph.node if node.op_type == "Conv")
    (scale,) = (each for each in model.graph.initializer if each.name == makers[stem.input[1]].input[1])
    values = onnx.numpy_helper.to_array(scale) * np.float32(factor)
    scale.CopyFrom(onnx.numpy_helper.from_array(values, scale.name))
    onnx.save(model, path)
    return path


@pytest.mark.slow
def test_an_int8_file_gives_again_what_it_gave_at_its_export_or_nearly_so(
    whole: dict[str, Exported], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = copied(whole, tmp_path)
    again = verify(path)
    assert (again.passed, again.same_bytes, again.comparison.change) == (True, True, 0.0)
    assert verify(whole[".xml"].file).comparison.change == 0
    beside = verify(path, lively())
    assert beside.passed
    assert beside.beside_model is not None
    assert beside.beside_model.change == pytest.approx(whole[".onnx"].proof.comparison.change, abs=1e-6)
    for factor, passes in ((1.03, True), (1.5, False)):
        monkeypatch.setattr(shipping, "open_runtime", partial(shaken, factor))
        assert verify(path).passed == passes


@pytest.mark.slow
def test_a_tampered_int8_file_is_told_by_its_bytes_and_by_its_numbers(
    whole: dict[str, Exported], tmp_path: Path
) -> None:
    path = copied(whole, tmp_path)
    slightly = verify(tampered(path, 1.0))
    assert (slightly.passed, slightly.same_bytes, slightly.comparison.change) == (False, False, 0.0)
    tampered(path, 1.5)
    sha256 = {"m.onnx": hashlib.sha256(path.read_bytes()).hexdigest()}
    forged = whole[".onnx"].proof.model_copy(update={"sha256": sha256})
    proof_path(path).write_text(forged.model_dump_json())
    result = verify(path)
    assert (result.passed, result.same_bytes) == (False, True)
    assert not result.comparison.passes(result.tolerance)


@pytest.mark.slow
def test_a_proof_is_refused_beside_another_file(whole: dict[str, Exported], tmp_path: Path) -> None:
    path = copied(whole, tmp_path)
    for end in (".xml", ".bin"):
        path.with_suffix(end).write_bytes(whole[".xml"].file.with_suffix(end).read_bytes())
    proof_path(path.with_suffix(".xml")).write_bytes(proof_path(path).read_bytes())
    with pytest.raises(UserError, match=r"renamed\.xml\.proof\.json: is of another file"):
        verify(path.with_suffix(".xml"))
    other = copied(whole, tmp_path, card=whole[".onnx"].card.model_copy(update={"head": "topk"}))
    with pytest.raises(UserError, match=r"renamed\.onnx\.proof\.json: is of another file"):
        verify(other)


@pytest.mark.slow
def test_an_int8_file_may_lose_as_much_ap_as_it_was_exported_with(
    data: Path, whole: dict[str, Exported], tmp_path: Path
) -> None:
    told = whole[".onnx"].proof.quantization
    assert told is not None
    lost = 100 * (told.fp32.ap - told.whole.ap)
    for limit, passes in ((lost - 0.05, True), (lost - 0.2, False)):
        path = copied(whole, tmp_path, quantization=told.model_copy(update={"max_drop": limit}))
        result = verify(path, lively(), data)
        assert result.passed == passes
        assert result.ap["file"] == pytest.approx(told.whole.ap, abs=1e-9)
        assert f"{lost:.2f} points lost, {limit} and 0.1 allowed" in result.lines()[-1]


@pytest.mark.slow
def test_a_file_with_another_head_keeps_as_much_as_the_trials_did(data: Path, tmp_path: Path) -> None:
    head: Any = {"head": "topk", "max_detections": 100}
    float_file = export_model(lively(), tmp_path / "float.onnx", **head).file
    result = export_model(lively(), tmp_path / "m.onnx", **head, int8=Int8(data, max_drop=100.0))
    told = result.proof.quantization
    assert told is not None
    assert open_runtime(result.file).card.head == "topk"
    aps = [evaluate_runtime(open_runtime(file), data).ap for file in (result.file, float_file)]
    assert aps[0] / aps[1] == pytest.approx(told.whole.ap / told.fp32.ap, abs=0.15)


@pytest.mark.slow
def test_a_layer_that_eight_bits_cannot_hold_is_found_and_left_in_float(data: Path, tmp_path: Path) -> None:
    steps: list[str] = []
    result = export_model(
        with_outlier(), tmp_path / "m.onnx", int8=Int8(data, max_drop=40.0), announce=steps.append
    )
    told = result.proof.quantization
    assert told is not None
    assert told.partial is not None
    assert told.whole.ap < told.fp32.ap - 0.4 <= told.partial.ap
    stretched = ("backbone.stages.0.0", "backbone.stages.1.0")  # what writes the channel, what reads it
    assert set(stretched) <= set(told.in_float)
    assert len(told.in_float) <= 3
    assert evaluate_runtime(open_runtime(result.file), data).ap == pytest.approx(told.partial.ap, abs=1e-9)
    alone = [step.split()[0] for step in steps if "alone in INT8 moves scores and boxes by" in step]
    assert len(alone) == len(set(alone)) > 10
    assert steps[0].startswith("float: AP ")
    assert steps[1] == f"ranges measured on {TRAIN} images"
    assert steps[2].startswith("all in INT8: AP ")
    assert steps[-1].startswith(
        f"all but {len(told.in_float)} of {len(alone)} parts in INT8: AP {told.partial.ap:.4f} ("
    )


@pytest.mark.slow
def test_what_stays_in_float_has_float_weights_in_the_file(data: Path, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        aps = iter([0.9, 0.5, 0.9])  # of the float model, of all in INT8, of one part in float
        patch.setattr(Photographs, "ap", lambda *_: next(aps))
        patch.setattr(Trials, "ranking", property(lambda trials: trials.parts[3:]))
        result = export_model(lively(), tmp_path / "m.onnx", int8=Int8(data))
    assert result.proof.quantization is not None
    (part,) = result.proof.quantization.in_float
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
    monkeypatch.setattr(Trials, "ranking", property(lambda trials: trials.parts))
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
    with pytest.raises(UserError, match="no class for 'dusty'"):
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
    told, steps = capsys.readouterr()
    assert "m.onnx: 64x96 px, head raw, int8" in told
    assert f"photographs val, ONNX Runtime, calibrated on {TRAIN} images:" in told
    assert "nothing is left in float" in told
    assert [line.split(":")[0].split()[0] for line in steps.splitlines()] == ["float", "ranges", "all"]
    assert main([*command, "--data", str(data), "--max-drop", "100", "--json"]) == 0
    told, steps = capsys.readouterr()
    assert json.loads(told)["quantization"]["in_float"] == []
    assert not steps
    assert main(["verify", str(tmp_path / "m.onnx")]) == 0
    assert "m.onnx: as good as when it was exported" in capsys.readouterr().out


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
