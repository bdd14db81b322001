from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from damoyolo.errors import RunError, UserError
from damoyolo.training import launch as launching
from damoyolo.training.distributed import LOST_CODE, STOPPED_CODE
from damoyolo.training.launch import PROGRAM, launch

ADD = """
import os, sys, torch
from pathlib import Path
from damoyolo.training.distributed import open_world
folder = Path(sys.argv[1])
with open_world(torch.device("cpu")) as world:
    total = world.sum(torch.tensor(1 + world.rank))
    (folder / str(world.rank)).write_text(f"{total} of {world.size} {os.environ['OMP_NUM_THREADS']}")
print("hello from", world.rank, file=sys.stderr)
print("result")
"""

LOSE = """
import os, signal, sys, time, torch
from damoyolo.training.distributed import open_world
with open_world(torch.device("cpu")) as world:
    world.barrier()
    if world.rank == int(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGKILL)
    while True:
        world.barrier()
"""

STOP = """
import os, signal, sys, time, torch
from damoyolo.training.distributed import open_world
try:
    with open_world(torch.device("cpu")) as world:
        world.barrier()
        if world.rank == 1:
            os.kill(os.getppid(), signal.SIGINT)
        time.sleep(60)
except SystemExit as error:
    print("code", error.code, file=sys.stderr)
    raise
"""

SLEEP = """
import os, signal, sys, time
from pathlib import Path
folder, asks, stubborn = Path(sys.argv[1]), sys.argv[2], len(sys.argv) > 3
(folder / os.environ["RANK"]).write_text(str(os.getpid()))
if stubborn:
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)
while not all((folder / rank).exists() for rank in "01"):
    time.sleep(0.01)
if os.environ["RANK"] == "1":
    os.kill(os.getppid(), int(asks))
time.sleep(60)
"""


ORPHAN = """
import os, sys, time, torch
from pathlib import Path
from damoyolo.training.distributed import open_world
with open_world(torch.device("cpu")) as world:
    (Path(sys.argv[1]) / str(world.rank)).write_text(str(os.getpid()))
    time.sleep(60)
"""

LAUNCHER = """
import signal, sys
from damoyolo.training import launch
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
launch.GRACE_S = float(sys.argv[1])
try:
    launch.launch(2, sys.argv[3:], program=(sys.executable, "-c", sys.argv[2]))
except KeyboardInterrupt:
    sys.exit("launcher: interrupted")
"""


def end_with(*endings: str) -> str:
    """A program that runs a statement by its rank."""
    cases = "\n".join(f"if rank == {rank}:\n    {ending}" for rank, ending in enumerate(endings))
    return f"import os, signal, sys, time\nrank = int(os.environ['RANK'])\n{cases}"


def failed(message: str, code: int) -> str:
    return (
        f"print('some words', file=sys.stderr); print('error: {message}', file=sys.stderr); sys.exit({code})"
    )


def run(program: str, *arguments: str, devices: int = 2) -> None:
    launch(devices, arguments, program=(sys.executable, "-c", program))


def run_apart(program: str, *arguments: str, grace_s: float = 5.0) -> subprocess.CompletedProcess[str]:
    """The launcher in a process of its own, which may be sent signals."""
    command = [sys.executable, "-c", LAUNCHER, str(grace_s), program, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=90)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return not is_zombie(pid)


def is_zombie(pid: int) -> bool:
    """Whether it has ended but stays listed, as orphans do in a container without an init process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:  # gone, or no Linux
        return False


def wait_until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_two_processes_meet_and_share_the_cores(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(6)), raising=False)
    run(ADD, str(tmp_path))
    assert [(tmp_path / rank).read_text() for rank in "01"] == ["3 of 2 3", "3 of 2 3"]
    shown = capfd.readouterr()
    assert shown.err == "hello from 0\n"
    assert shown.out == ""  # the result is the caller's to tell


def test_a_quiet_run_shows_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    launch(2, [str(tmp_path)], quiet=True, program=(sys.executable, "-c", ADD))
    assert capfd.readouterr() == ("", "")
    with pytest.raises(UserError, match=r"^no such data$"):
        launch(1, [], quiet=True, program=(sys.executable, "-c", end_with(failed("no such data", 2))))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_ends_the_run_within_seconds_and_is_named(
    victim: int, capfd: pytest.CaptureFixture[str]
) -> None:
    start = time.monotonic()
    with pytest.raises(RunError, match=f"process {victim} of 2 was ended by SIGKILL, .*--resume"):
        run(LOSE, str(victim))
    assert time.monotonic() - start < 30
    assert capfd.readouterr() == ("", "")  # the message is all that is told


def test_a_mistake_that_all_processes_find_is_told_once(capfd: pytest.CaptureFixture[str]) -> None:
    mistake = failed("no such data", 2)
    with pytest.raises(SystemExit) as caught:
        run(end_with(mistake, mistake, mistake), devices=3)
    assert caught.value.code == 2
    assert capfd.readouterr().err.count("no such data") == 1


def test_a_mistake_that_only_another_process_finds_is_told_too(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match=r"^no such file$"):
        run(end_with(f"time.sleep(0.3); sys.exit({LOST_CODE})", failed("no such file", 2)))
    assert "no such file" not in capfd.readouterr().err


def test_the_first_process_speaks_for_itself(capfd: pytest.CaptureFixture[str]) -> None:
    lost = f"sys.exit({LOST_CODE})"
    with pytest.raises(SystemExit) as caught:
        run(end_with("time.sleep(0.3); " + failed("the disk is full", 1), lost))
    assert caught.value.code == 1
    assert capfd.readouterr().err.count("error:") == 1


def test_another_process_that_says_why_it_fails_is_quoted() -> None:
    with pytest.raises(RunError, match=r"^process 1 of 2: the disk is full$"):
        run(end_with(f"time.sleep(0.3); sys.exit({LOST_CODE})", failed("the disk is full", 1)))


def test_processes_that_only_lost_one_another_are_told_once(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RunError, match=f"^{launching.PEER_LOST}; go on"):
        run(end_with(f"sys.exit({LOST_CODE})", f"sys.exit({LOST_CODE})"))
    assert capfd.readouterr() == ("", "")


def test_what_another_process_crashes_with_is_shown(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RunError, match="process 1 of 2 ended with exit code 1; go on"):
        run(end_with("time.sleep(0.3)", "raise ValueError('a defect')"))
    assert "ValueError: a defect" in capfd.readouterr().err


def test_a_process_that_hangs_when_another_has_failed_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launching, "GRACE_S", 0.3)
    hang = f"open('{tmp_path / 'pid'}', 'w').write(str(os.getpid())); time.sleep(60)"
    with pytest.raises(RunError, match="process 1 of 2 ended with exit code 7"):
        run(end_with(hang, "time.sleep(0.3); sys.exit(7)"))
    assert not is_alive(int((tmp_path / "pid").read_text()))


@pytest.mark.parametrize("stubborn", [False, True])
def test_ctrl_c_leaves_no_process(tmp_path: Path, stubborn: bool) -> None:
    ended = run_apart(SLEEP, str(tmp_path), "2", *(["stubborn"] * stubborn), grace_s=0.5)
    assert (ended.returncode, ended.stderr.splitlines()[-1]) == (1, "launcher: interrupted")
    for rank in "01":
        assert not is_alive(int((tmp_path / rank).read_text()))
    assert ("KeyboardInterrupt" in ended.stderr) != stubborn  # the first process was told


def test_a_world_that_is_stopped_by_ctrl_c_leaves_the_talking_to_the_launcher() -> None:
    assert run_apart(STOP).stderr == f"code {STOPPED_CODE}\nlauncher: interrupted\n"


def test_a_launcher_that_is_asked_to_end_takes_its_processes_along(tmp_path: Path) -> None:
    assert run_apart(SLEEP, str(tmp_path), "15").returncode == 128 + 15
    for rank in "01":
        assert not is_alive(int((tmp_path / rank).read_text()))


def test_a_launcher_that_is_killed_leaves_no_process(tmp_path: Path) -> None:
    places = [tmp_path / rank for rank in "01"]
    command = [sys.executable, "-c", LAUNCHER, "5", ORPHAN, str(tmp_path)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as launcher:
        wait_until(lambda: all(place.exists() and place.read_text() for place in places))
        launcher.kill()
    numbers = [int(place.read_text()) for place in places]
    wait_until(lambda: not any(map(is_alive, numbers)), seconds=10)


def test_the_command_line_is_what_is_started(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        launch(1, ["train", "--no-such-option"])
    assert caught.value.code == 2
    assert "error: " in capfd.readouterr().err
    assert PROGRAM[-1] == "damoyolo"
