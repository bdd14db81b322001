"""`export`, `verify` and `predict` with what they write, through the command line."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from damoyolo.cli import main
from damoyolo.zoo.weights import save_weights
from exportable import lively, photograph, quick_exports  # noqa: F401 (a fixture)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_weights(lively(), path)
    return path


@pytest.fixture(scope="module")
def exported(weights: Path) -> Path:
    path = weights.with_name("tiny.onnx")
    assert main(["export", str(path), "--weights", str(weights)]) == 0
    return path


def test_a_file_is_written_with_its_proof_and_said_to_be_equal(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cv2.imwrite(str(tmp_path / "photo.png"), photograph())
    options = ["--head", "topk", "--preprocess", "bgr", "--max-detections", "20", "--images", str(tmp_path)]
    assert main(["export", str(tmp_path / "x.onnx"), "--weights", str(weights), *options]) == 0
    told = capsys.readouterr().out
    assert "x.onnx: 64x96 px, head topk, fp32" in told
    assert "detections agree" in told
    assert sorted(each.name for each in tmp_path.glob("x*")) == ["x.onnx", "x.onnx.proof.json"]


def test_verify_repeats_the_proof_with_and_without_the_weights(
    weights: Path, exported: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", str(exported)]) == 0
    assert "equal to the model in its proof" in capsys.readouterr().out
    assert main(["verify", str(exported), "--weights", str(weights), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["passed"]
    assert result["compared_with"] == "the model"


def test_predict_takes_an_exported_file_and_finds_the_same(
    weights: Path, exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cv2.imwrite(str(tmp_path / "photo.png"), photograph())
    records = []
    for model in (weights, exported):
        command = [
            "predict",
            str(tmp_path / "photo.png"),
            "--weights",
            str(model),
            "--json",
            "--score",
            "0.6",
        ]
        assert main([*command, "--output", str(tmp_path / "out")]) == 0
        (record,) = json.loads(capsys.readouterr().out)
        records.append(record["detections"])
    assert len(records[0]) == len(records[1]) > 5
    expected, found = (np.array([each["score"] for each in record]) for record in records)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["x.onnx", "--head", "best"], "--head"),
        (["x.onnx", "--image-size", "100"], "100 px is no multiple of 32; take 96"),
        (["x.pb"], "'.pb' does not end the name of such a file"),
        (["x.onnx", "--images", "nowhere"], "nowhere: no such file or folder"),
        (["x.onnx", "--dynamic", "--batch", "4"], "both dynamic shapes and a batch of 4"),
    ],
)
def test_bad_options_are_one_sentence_and_leave_nothing(
    weights: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    reason: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["export", *arguments, "--weights", str(weights)]) == 2
    told = capsys.readouterr().err
    assert reason in told
    assert told.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_differs_ends_with_exit_code_1(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import onnx

    model = onnx.load(exported)
    (weights,) = (each for each in model.graph.initializer if each.name == "network.head.project.0.weight")
    weights.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weights) + 0.1, weights.name))
    onnx.save(model, tmp_path / "tiny.onnx")
    proof = exported.with_name("tiny.onnx.proof.json")
    (tmp_path / proof.name).write_bytes(proof.read_bytes())
    assert main(["verify", str(tmp_path / "tiny.onnx")]) == 1
    assert "NOT equal" in capsys.readouterr().out


def test_a_file_that_cannot_be_verified_is_exit_code_2(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truncated = tmp_path / "tiny.onnx"
    truncated.write_bytes(exported.read_bytes()[:1000])
    assert main(["verify", str(truncated)]) == 2
    assert "cannot load it" in capsys.readouterr().err


def test_an_engine_that_was_not_built_is_exit_code_1_and_said(
    weights: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    assert main(["export", str(tmp_path / "x.engine"), "--weights", str(weights)]) == 1
    told = capsys.readouterr().out
    assert "x.engine: was not built, because tensorrt cannot be imported" in told
    assert "trtexec --onnx=" in told
    assert not (tmp_path / "x.engine").exists()
    names = ["x.engine.onnx", "x.engine.onnx.card.json", "x.engine.onnx.proof.json"]
    assert sorted(each.name for each in tmp_path.iterdir()) == names
