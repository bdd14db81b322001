"""A run that is killed again and again, through the real command line in a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from random import Random

import pytest
import torch

from damoyolo.data.shapes import write_shapes
from tiny_runs import SETTINGS, SMALL_SPEC, flags, metrics, outcome, spec_in

IMAGES, BATCH, EPOCHS = 14, 4, 4
STEPS = EPOCHS * 4
KILLS = 2
PATIENCE_S = 60
RUN = {**SETTINGS, "batch_size": BATCH, "epochs": EPOCHS, "evaluate_every": 2, "workers": 1}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shapes")
    write_shapes(folder, train=IMAGES, val=4, image_size=64)
    spec_in(folder).write_text(SMALL_SPEC.to_yaml())
    return folder


def start(*arguments: str) -> subprocess.Popen[str]:
    """`damoyolo train` in a process group of its own."""
    code = "import sys; from damoyolo.cli import main; sys.exit(main())"
    return subprocess.Popen(
        [sys.executable, "-c", code, "train", *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"},
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> str:
    shown, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, shown
    return shown


def kill_after(process: subprocess.Popen[str], file: Path, changes: int, seconds: float) -> None:
    """`kill -9` the group a while after the file has been written so many times."""
    seen, deadline = stamp(file), time.monotonic() + PATIENCE_S
    while changes and process.poll() is None and time.monotonic() < deadline:
        if (now := stamp(file)) != seen:
            seen, changes = now, changes - 1
        time.sleep(0.001)
    time.sleep(seconds)
    os.killpg(process.pid, signal.SIGKILL)
    shown, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == -signal.SIGKILL, shown


def stamp(file: Path) -> int:
    return file.stat().st_mtime_ns if file.exists() else 0


@pytest.mark.slow
def test_a_run_killed_at_random_moments_ends_bit_identical_to_one_that_was_not(
    data: Path, tmp_path: Path
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    begin = [str(data), *flags({**RUN, "model": spec_in(data)}), "--output"]
    assert "random weights" in finish(start(*begin, str(whole), "--checkpoint-minutes", "0"))

    kill_after(start(*begin, str(parts)), parts / "config.yaml", changes=1, seconds=0.0)
    assert not (parts / "state.pt").exists()

    rng, positions = Random(0), []
    resume = ["--resume", "--output", str(parts), "--checkpoint-minutes", "0"]
    for _ in range(KILLS):
        process = start(*resume)
        kill_after(process, parts / "state.pt", changes=rng.randint(1, 4), seconds=rng.uniform(0, 0.2))
        positions.append(torch.load(parts / "state.pt", weights_only=True)["step"])
    assert 0 < positions[0] < positions[1] < STEPS

    shown = finish(start(*resume))
    assert f"goes on after step {positions[-1]} of {STEPS}" in shown
    assert "random weights" not in shown
    assert outcome(parts) == outcome(whole)
    assert [record["step"] for record in metrics(parts)] == [4, 8, 12, 16]
    assert {path.name for path in parts.iterdir()} == {path.name for path in whole.iterdir()}
