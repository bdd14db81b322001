from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
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
    """An untrained Ns that is sure of what it sees, right or wrong."""
    torch.manual_seed(0)
    card = ModelCard(spec=read_spec("Ns"), class_names=("dust", "cell"), image_size=(64, 64))
    detector = build_detector(card).eval()
    with torch.no_grad():
        for layer in detector.head.classify:
            layer.bias.copy_(torch.tensor([-9.0, 3.0]))
    path = tmp_path_factory.mktemp("weights") / "ns.safetensors"
    save_weights(detector, path)
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a.jpg", "b.png"):
        assert cv2.imwrite(str(folder / name), np.full((60, 80, 3), 90, np.uint8))
    (folder / "broken.jpg").write_bytes(b"")
    return folder


def test_a_folder_is_predicted_in_a_real_process(weights: Path, photos: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import sys; from damoyolo.cli import main; sys.exit(main())", "predict"]
    options = ["--weights", str(weights), "--output", "out", "--device", "cpu", "--max-detections", "3"]
    done = subprocess.run(
        [*command, str(photos), *options], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    first, second, last = done.stdout.splitlines()
    assert first == f"{photos}/a.jpg: 3 cell"
    assert second == f"{photos}/b.png: 3 cell"
    assert last == "2 pictures, detections.json and detections.csv in out; 1 could not be read"
    assert done.stderr == f"error: {photos}/broken.jpg: is empty; replace the file\n"
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("a.jpg", "b.png", "detections.json", "detections.csv")
    }


def test_json_is_all_that_is_printed(
    weights: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    request = ["predict", str(photos / "a.jpg"), "--weights", str(weights), "--device", "cpu", "--json"]
    assert main([*request, "--output", str(tmp_path / "out"), "--max-detections", "2"]) == 0
    (record,) = json.loads(capsys.readouterr().out)
    assert len(record["detections"]) == 2
    assert record == json.loads((tmp_path / "out" / "detections.json").read_text())[0]


@pytest.mark.parametrize("options", [["--json"], []])
def test_a_name_that_the_terminal_cannot_show_stops_nothing(
    weights: Path, photos: Path, tmp_path: Path, options: list[str]
) -> None:
    for path in photos.iterdir():
        path.unlink()
    assert cv2.imwrite(str(photos / "é.png"), np.full((60, 80, 3), 90, np.uint8))
    shutil.copy(photos / "é.png", os.fsencode(photos) + b"/\xff.png")
    command = [sys.executable, "-c", "import sys; from damoyolo.cli import main; sys.exit(main())", "predict"]
    done = subprocess.run(
        [*command, str(photos), "--weights", str(weights), "--output", str(tmp_path / "out"), *options],
        env={**os.environ, "PYTHONIOENCODING": "ascii", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads((tmp_path / "out" / "detections.json").read_text(encoding="utf-8"))
    names = [os.fsencode(Path(record["image"]).name) for record in told]
    assert names == ["é.png".encode(), b"\xff.png"]
    if options:
        assert json.loads(done.stdout) == told


def test_nothing_but_broken_files_is_the_user_s_mistake(
    weights: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    request = ["predict", str(photos / "broken.jpg"), "--weights", str(weights), "--device", "cpu"]
    assert main([*request, "--output", str(tmp_path / "out")]) == 2
    assert "broken.jpg: is empty" in capsys.readouterr().err


def test_a_source_that_is_not_there_is_named(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    request = ["predict", str(tmp_path / "absent.jpg"), "--weights", str(weights), "--device", "cpu"]
    assert main([*request, "--output", str(tmp_path / "out")]) == 2
    assert "absent.jpg: no such file or folder; check the path" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
