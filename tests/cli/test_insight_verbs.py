from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from damoyolo.assemble.settings import to_yaml
from damoyolo.cli import main
from damoyolo.nn.detector import build_detector
from damoyolo.spec import ModelCard
from damoyolo.zoo.weights import save_weights
from tiny_runs import SMALL_SPEC, tiny, write_data


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run of an untrained detector, and its data in `data`."""
    data, folder = write_data(tmp_path / "data"), tmp_path / "run"
    names = tuple(each["name"] for each in json.loads((data / "train.json").read_text())["categories"])
    torch.manual_seed(0)
    detector = build_detector(ModelCard(spec=SMALL_SPEC, class_names=names, image_size=(64, 64)))
    save_weights(detector.eval(), folder / "best.safetensors")
    (folder / "config.yaml").write_text(to_yaml(tiny(data, folder)))
    return folder


def test_report_prints_where_its_page_is(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(run), "--device", "cpu"]) == 0
    assert capsys.readouterr().out == f"{run / 'report.html'}\n"
    assert (run / "report.html").exists()


def test_report_on_something_else_is_the_user_s_mistake(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(tmp_path)]) == 2
    assert "holds no run (no config.yaml)" in capsys.readouterr().err


def test_inspect_assignment_prints_a_table_and_names_its_folder(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights, output = str(run / "best.safetensors"), tmp_path / "out"
    request = ["inspect-assignment", str(tmp_path / "data"), "--weights", weights, "--device", "cpu"]
    assert main([*request, "--images", "2", "--output", str(output)]) == 0
    shown = capsys.readouterr().out
    for word in ("small", "medium", "large", "all", "no point", "P3", "P5", "IoU"):
        assert word in shown
    assert f"pictures and assignment.json in {output}" in " ".join(shown.split())
    assert len(list(output.glob("*.jpg"))) == 2
