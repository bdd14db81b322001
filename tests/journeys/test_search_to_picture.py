"""One toolchain: profile this machine, search for it, train what was found, export it, detect with it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from damoyolo.assemble import profiling
from damoyolo.cli import main
from damoyolo.search.profile import Profile
from damoyolo.spec import ModelSpec
from tiny_runs import spec_in, write_data

SMALL = ["--image-size", "64", "--num-classes", "3", "--space", "k1kx"]
EPOCHS = ["--epochs", "2", "--batch-size", "4", "--workers", "0", "--device", "cpu", "--image-size", "64"]


@pytest.mark.slow
def test_from_this_machine_to_a_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(profiling, "STRUCTURES", 100)
    data = write_data(tmp_path / "data")
    like = [*SMALL, "--like", str(spec_in(data))]
    table, found = str(tmp_path / "here.json"), tmp_path / "search"
    device = ["--device", "onnxruntime-cpu", "--threads", "1"]
    quick = ["--seconds", "0.5", "--detectors", "3", "--output", table]
    assert main(["profile", *like, *device, *quick]) == 0

    allowed = 10 * max(ms for _, ms in Profile.read(table).detectors)  # so much that a busy machine keeps it
    budget = ["--max-gflops", "0.02", "--max-layers", "25", "--candidates", "2000"]
    budget += ["--latency-table", table, "--max-latency-ms", str(allowed)]
    assert main(["search", *like, *device, *budget, "--measured", "2", "--output", str(found)]) == 0
    result = json.loads((found / "search.json").read_text())
    assert result["tried"] == 2000
    assert all(each["measured_ms"] > 0 for each in result["found"])
    assert 0 < result["found"][0]["latency_ms"] <= allowed

    run, exported = tmp_path / "run", str(tmp_path / "found.onnx")
    spec = found / "found.yaml"
    assert ModelSpec.read(spec).neck == ModelSpec.read(spec_in(data)).neck
    assert main(["train", str(data), "--model", str(spec), "--output", str(run), *EPOCHS]) == 0
    assert main(["export", exported, "--weights", str(run / "best.safetensors")]) == 0
    assert json.loads(Path(f"{exported}.proof.json").read_text())["passed"] is True

    pictures = [str(data / "images" / "val_*.jpg"), "--weights", exported, "--output", str(tmp_path / "seen")]
    capsys.readouterr()
    assert main(["predict", *pictures]) == 0
    assert len(json.loads((tmp_path / "seen" / "detections.json").read_text())) == 4
