from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest

from damoyolo.cli import main
from damoyolo.cli.bench import _short_names
from damoyolo.export import onnx as export_onnx
from damoyolo.export.card import ExportCard
from damoyolo.zoo.weights import save_weights
from exportable import CLASS_NAMES, lively, quick_exports  # noqa: F401 (a fixture)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported detector, and its weights beside it."""
    card = ExportCard(class_names=CLASS_NAMES, image_size=(64, 96))
    path = tmp_path_factory.mktemp("bench") / "tiny.onnx"
    onnx.save(export_onnx.to_onnx(lively(), card), path)
    save_weights(lively(), path.with_suffix(".safetensors"))
    return path


def test_the_table_fits_a_terminal_and_says_what_ran_where(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["bench", str(file), "--threads", "1", "--calls", "2"]) == 0
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80
    for word in ("tiny.onnx", "onnxruntime 1.", "fp32", "MiB", "p50  p90  p99", "1 threads", "cores"):
        assert word in shown


def test_the_json_puts_weights_run_by_torch_beside_the_file(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = str(file.with_suffix(".safetensors"))
    assert main(["bench", str(file), weights, "--threads", "1", "--calls", "2", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["threads"] == 1
    assert told["machine"]
    assert [each["name"] for each in told["files"]] == [str(file), weights]
    assert told["files"][1]["engine"].startswith("torch ")
    assert all(each["batches"][0]["network_ms"]["p50"] > 0 for each in told["files"])


def test_nothing_to_measure_is_the_user_s_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench"]) == 2
    assert "no files; name at least one" in capsys.readouterr().err
    assert main(["bench", "nowhere.onnx"]) == 2
    assert capsys.readouterr().err == "error: nowhere.onnx: no such file; check the path\n"


def test_files_of_one_name_are_told_apart_by_their_folders() -> None:
    assert _short_names(["a/x/m.onnx", "b/x/m.onnx", "n.onnx"]) == {
        "a/x/m.onnx": "a/x/m.onnx",
        "b/x/m.onnx": "b/x/m.onnx",
        "n.onnx": "n.onnx",
    }
    assert _short_names(["a/m.onnx", "a/n.onnx"]) == {"a/m.onnx": "m.onnx", "a/n.onnx": "n.onnx"}
    assert _short_names(["a/m.onnx", "./a/m.onnx"]) == {"a/m.onnx": "m.onnx", "./a/m.onnx": "m.onnx"}
