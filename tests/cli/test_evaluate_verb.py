from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from damoyolo.cli import main
from damoyolo.nn.detector import build_detector
from damoyolo.spec import ModelCard
from damoyolo.zoo import read_spec
from damoyolo.zoo.weights import save_weights


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained Ns with two classes."""
    torch.manual_seed(0)
    card = ModelCard(spec=read_spec("Ns"), class_names=("dust", "cell"), image_size=(64, 64))
    path = tmp_path_factory.mktemp("weights") / "ns.safetensors"
    save_weights(build_detector(card).eval(), path)
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two images of a split "val" with one box each."""
    content = {
        "images": [{"id": n, "file_name": f"{n}.png", "width": 80, "height": 60} for n in (1, 2)],
        "categories": [{"id": 4, "name": "cell"}, {"id": 7, "name": "dust"}],
        "annotations": [
            {"id": n, "image_id": n, "category_id": 4, "bbox": [10, 10, 40, 40], "area": 1600, "iscrowd": 0}
            for n in (1, 2)
        ],
    }
    (tmp_path / "val.json").write_text(json.dumps(content))
    (tmp_path / "images").mkdir()
    for n in (1, 2):
        assert cv2.imwrite(str(tmp_path / "images" / f"{n}.png"), np.full((60, 80, 3), 50 * n, np.uint8))
    return tmp_path


def test_a_model_is_evaluated_on_a_folder_and_json_is_all_that_is_printed(
    weights: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(data), "--weights", str(weights), "--json", "--device", "cpu"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["images"] == 2
    assert [(each["name"], each["boxes"]) for each in report["per_class"]] == [("cell", 2), ("dust", 0)]
    assert 0 <= report["ap"] < 0.5


def test_results_of_any_detector_are_compared_with_annotations(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = [{"image_id": n, "category_id": 7, "bbox": [10, 10, 40, 40], "score": 0.5} for n in (1, 2)]
    (tmp_path / "found.json").write_text(json.dumps(results))
    files = ["--annotations", str(data / "val.json"), "--detections", str(tmp_path / "found.json")]
    assert main(["evaluate", *files, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ap"] == 0
    assert main(["evaluate", *files, "--class-agnostic"]) == 0
    shown = capsys.readouterr().out
    assert "1.000" in shown
    assert "2 images" in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give either DATA and --weights, or"),
        (["DATA", "--annotations", "x.json"], "give either DATA and --weights, or"),
        (["DATA", "--weights", "WEIGHTS", "--class-agnostic"], "give either DATA and --weights, or"),
        (["DATA", "--weights", "Sx"], "'Sx' is neither a model size nor a weights file; did you mean"),
        (["DATA", "--weights", "absent.pth"], "absent.pth: cannot be read"),
        (["DATA", "--weights", "WEIGHTS", "--split", "vla"], "no annotations of split 'vla'; take val"),
        (
            ["DATA", "--weights", "WEIGHTS", "--image-size", "100"],
            "--image-size: 100 px is no multiple of 32",
        ),
        (["DATA", "--weights", "WEIGHTS", "--device", "gpu"], "--device: 'gpu' cannot be used"),
    ],
)
def test_a_wrong_request_is_answered_with_one_sentence(
    arguments: list[str], message: str, weights: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"DATA": str(data), "WEIGHTS": str(weights)}
    assert main(["evaluate", *(places.get(each, each) for each in arguments)]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("error: ")
    assert message in shown.err


def test_a_bad_image_stops_the_evaluation_unless_it_is_skipped(
    weights: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (data / "images" / "2.png").write_bytes(b"\x89PNG but not really")
    request = ["evaluate", str(data), "--weights", str(weights), "--device", "cpu", "--json"]
    assert main(request) == 2
    assert "2.png" in capsys.readouterr().err
    assert main([*request, "--skip-bad"]) == 0
    assert json.loads(capsys.readouterr().out)["images"] == 1


def test_an_ap_of_nothing_comes_with_what_to_do(
    weights: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(data), "--weights", str(weights), "--device", "cpu"]) == 0
    assert "train longer" in capsys.readouterr().err
