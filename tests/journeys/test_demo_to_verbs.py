"""From the demo to one's own verbs: what it leaves is all that the others need."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from damoyolo.assemble import demo
from damoyolo.cli import main
from tiny_runs import SETTINGS


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A demo with few images and two epochs."""
    settings = {**SETTINGS, "no_augment_epochs": 1}
    page = demo(
        tmp_path_factory.mktemp("demos") / "demo", settings=settings, say=lambda _: None, images=(12, 6)
    )
    return page.parent


def test_its_weights_are_evaluated_to_the_numbers_on_its_page(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = str(folder / "run" / "best.safetensors")
    assert main(["evaluate", str(folder / "data"), "--weights", weights, "--device", "cpu", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["images"] == 6
    assert (
        f"AP <b>{report['ap']:.3f}</b>, AP50 <b>{report['ap50']:.3f}</b>"
        in (folder / "index.html").read_text()
    )


def test_its_weights_detect_the_same_in_its_images(folder: Path, tmp_path: Path) -> None:
    weights, images = str(folder / "run" / "best.safetensors"), str(folder / "data" / "images" / "val_*.jpg")
    assert main(["predict", images, "--weights", weights, "--device", "cpu", "--output", str(tmp_path)]) == 0
    found, shown = (
        json.loads((each / "detections.json").read_text()) for each in (tmp_path, folder / "pictures")
    )
    assert len(found) == 6
    assert [each["detections"] for each in found] == [each["detections"] for each in shown]


def test_training_goes_on_from_its_weights_with_the_finetune_recipe(folder: Path, tmp_path: Path) -> None:
    weights, run = str(folder / "run" / "best.safetensors"), tmp_path / "run"
    small = ["--epochs", "1", "--batch-size", "4", "--image-size", "64", "--workers", "0", "--device", "cpu"]
    assert main(["train", str(folder / "data"), "--model", weights, "--output", str(run), *small]) == 0
    assert (run / "best.safetensors").exists()
    assert "clip_norm: 30.0" in (run / "config.yaml").read_text()


def test_the_command_leaves_a_folder_alone_that_is_not_empty(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (folder / "index.html").read_bytes()
    assert main(["demo", "--output", str(folder)]) == 2
    assert (
        f"error: --output: {folder} exists and is not an empty folder; take another"
        in capsys.readouterr().err
    )
    assert (folder / "index.html").read_bytes() == page


def test_the_command_tells_a_wrong_number_before_it_draws(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", "--output", str(tmp_path / "demo"), "--epochs", "0"]) == 2
    assert "epochs: is 0; take 1 or more" in capsys.readouterr().err
    assert not (tmp_path / "demo").exists()
