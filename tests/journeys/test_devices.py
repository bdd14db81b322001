"""Runs of several processes through the real command line: what they leave, say, and survive."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from damoyolo.cli import main
from damoyolo.nn.detector import build_detector
from damoyolo.spec import ModelCard
from damoyolo.zoo.weights import save_weights
from tiny_runs import SETTINGS, SMALL_SPEC, flags, metrics, spec_in, write_data

pytestmark = pytest.mark.slow

PATIENCE_S = 90
PROGRAM = (sys.executable, "-m", "damoyolo")
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "damoyolo")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("shapes"))


def arguments(data: Path, output: Path, **changes: Any) -> list[str]:
    """Of a run of twelve steps."""
    settings = {**SETTINGS, "model": spec_in(data), "epochs": 4, "output": output, **changes}
    return ["train", str(data), *flags(settings)]


def start(*command: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"},
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Exit code, output and messages."""
    out, err = process.communicate(timeout=PATIENCE_S)
    return process.returncode, out, err


def errors(messages: str) -> list[str]:
    """What is told as an error or a warning, or looks like a defect."""
    telling = ("error", "warning", "traceback")
    return [line for line in messages.splitlines() if any(word in line.lower() for word in telling)]


def ranks(launcher: int) -> list[int]:
    """Ids of the processes a launcher started, by rank."""
    children = Path(f"/proc/{launcher}/task/{launcher}/children")
    return [int(each) for each in children.read_text().split()] if children.exists() else []


def session(leader: int) -> list[int]:
    """Ids of all processes, alive, that descend from the one that began a session."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, _, _, its_session, *_ = (folder / "stat").read_text().rpartition(")")[2].split()
        except (OSError, ValueError):
            continue
        if int(its_session) == leader and state not in "ZX":
            found.append(int(folder.name))
    return found


def wait_for(condition: Any, seconds: float = PATIENCE_S) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return bool(condition())


needs_proc = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks processes up in /proc")


@needs_proc
def test_a_run_that_loses_a_process_tells_it_and_goes_on_with_any_number(data: Path, tmp_path: Path) -> None:
    alone, pair = tmp_path / "alone", tmp_path / "pair"
    assert main(arguments(data, alone, workers=0)) == 0

    process = start(*PROGRAM, *arguments(data, pair, devices=2, checkpoint_minutes=0, workers=1))
    assert wait_for((pair / "state.pt").exists)
    os.kill(ranks(process.pid)[1], signal.SIGKILL)
    code, out, err = finish(process)
    assert (code, out) == (1, "")
    (message,) = errors(err)
    assert message.startswith("error: process 1 of 2 was ended by SIGKILL, ")
    assert message.endswith("--resume")
    assert wait_for(lambda: not session(process.pid), seconds=30)  # data workers look every five
    step = torch.load(pair / "state.pt", weights_only=True)["step"]
    assert 0 < step < 12

    shutil.copytree(pair, tmp_path / "one")
    resume = ["train", "--resume", "--workers", "0", "--output"]
    code, out, err = finish(start(*PROGRAM, *resume, str(pair)))
    assert (code, out.count("best AP"), errors(err)) == (0, 1, [])
    assert f"{pair} goes on after step {step} of 12" in err
    assert main([*resume, str(tmp_path / "one"), "--devices", "1"]) == 0
    for folder in (pair, tmp_path / "one"):
        assert [record["step"] for record in metrics(folder)] == [3, 6, 9, 12]
        assert metrics(folder)[-1].keys() == metrics(alone)[-1].keys()
        assert {path.name for path in folder.iterdir()} == {path.name for path in alone.iterdir()}
        losses = [[record["loss_total"] for record in metrics(each)] for each in (folder, alone)]
        assert losses[0] == pytest.approx(losses[1], rel=0.1)  # norms see two images instead of four


def teacher_of_other_classes(folder: Path) -> Path:
    card = ModelCard(spec=SMALL_SPEC, class_names=("cat", "dog"), image_size=(64, 64))
    save_weights(build_detector(card), folder / "teacher.safetensors")
    return folder / "teacher.safetensors"


@pytest.mark.parametrize("mistake", ["data", "teacher"])
def test_a_mistake_is_told_once(mistake: str, data: Path, tmp_path: Path) -> None:
    command = arguments(data, tmp_path / "run", devices=2)
    if mistake == "data":
        command[1] = str(tmp_path)
    else:
        command += ["--teacher", str(teacher_of_other_classes(tmp_path))]
    code, out, err = finish(start(*PROGRAM, *command))
    assert (code, out) == (2, "")
    (message,) = errors(err)
    assert err.splitlines()[-1] == message
    assert message.startswith(f"error: {tmp_path}" if mistake == "data" else "error: --teacher: ")


def test_a_run_that_diverges_tells_it_once_and_each_process_its_images(data: Path, tmp_path: Path) -> None:
    command = arguments(data, tmp_path, devices=2, epochs=8)
    code, _, err = finish(start(*PROGRAM, *command, "--optim.lr", "1e12", "--optim.name", "sgd"))
    (message,) = errors(err)
    assert code == 1
    assert "start anew in another folder with a lower optim.lr" in message
    assert f"{tmp_path}/diverged*.json" in message
    told = sorted(tmp_path.glob("diverged*.json"))
    assert [path.name for path in told] == ["diverged-1.json", "diverged.json"]
    assert all(2 >= len(json.loads(path.read_text())["images"]) >= 1 for path in told)


def test_torchrun_trains_as_devices_do(data: Path, tmp_path: Path) -> None:
    code, out, err = finish(start(*TORCHRUN, *arguments(data, tmp_path, epochs=1)))
    assert code == 0, err
    assert errors(err) == []
    assert [record["step"] for record in metrics(tmp_path)] == [3]
    assert "best AP" in out
