from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from damoyolo.errors import UserError
from damoyolo.files import LOCK_FILE, check_writable, locked
from damoyolo.training.checkpoint import remove_unfinished

HOLD = """
import sys, time
from pathlib import Path
from damoyolo.files import locked
with locked(Path(sys.argv[1])):
    print("locked", flush=True)
    sys.stdin.read()
"""

COUNT = """
import sys, time
from pathlib import Path
from damoyolo.errors import UserError
from damoyolo.files import locked
folder, count = Path(sys.argv[1]), 0
while count < 50:
    try:
        with locked(folder):
            (folder / "inside").mkdir()  # fails where somebody else is in here
            (folder / "inside").rmdir()
            count += 1
    except UserError:
        time.sleep(0.0001)
"""


FORK = """
import multiprocessing, sys, time
from pathlib import Path
from damoyolo.files import locked
with locked(Path(sys.argv[1])):
    worker = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    worker.start()
    print(worker.pid, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that has locked `tmp_path` until its input ends."""
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "locked\n"
        yield process
        process.kill()


def test_another_process_is_kept_out_until_the_first_one_is_done(
    tmp_path: Path, holder: subprocess.Popen[str]
) -> None:
    message = f"^output: .* is being worked in by another process .number {holder.pid}.; wait for it or end"
    for _ in range(2):
        with pytest.raises(UserError, match=message), locked(tmp_path):
            pass
    remove_unfinished(tmp_path)
    assert (tmp_path / LOCK_FILE).exists()
    holder.communicate("")
    assert not list(tmp_path.iterdir())
    with locked(tmp_path):
        assert (tmp_path / LOCK_FILE).read_text() == str(os.getpid())


def test_a_killed_process_keeps_nobody_out(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (tmp_path / LOCK_FILE).exists()
    with locked(tmp_path):
        assert (tmp_path / LOCK_FILE).read_text() == str(os.getpid())
    assert not list(tmp_path.iterdir())


def test_a_forked_process_such_as_a_data_worker_does_not_hold_the_lock(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FORK, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        worker = int(process.stdout.readline())
        process.kill()
        process.wait()
        os.kill(worker, 0)  # is still there
        with locked(tmp_path):
            pass
        os.kill(worker, signal.SIGKILL)


def test_processes_that_take_turns_are_never_in_the_folder_together(tmp_path: Path) -> None:
    command = [sys.executable, "-c", COUNT, str(tmp_path / "run")]
    (tmp_path / "run").mkdir()
    runs = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    assert [run.communicate(timeout=60)[1] for run in runs] == ["", ""]
    assert not list((tmp_path / "run").iterdir())


def test_a_new_folder_is_left_only_where_something_is_in_it(tmp_path: Path) -> None:
    for name in ("empty", "full"):
        with locked(tmp_path / name):
            if name == "full":
                (tmp_path / name / "weights").touch()
    assert [path.name for path in tmp_path.iterdir()] == ["full"]


def test_the_lock_ends_with_an_error_too(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), locked(tmp_path):
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_is_the_user_s_mistake(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"), locked(tmp_path / "file" / "run"):
        pass


def test_a_place_that_cannot_be_written_is_told_beforehand(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for place, reason in (
        (tmp_path, "Is a directory"),
        (tmp_path / "file" / "deeper" / "x.json", "Not a directory"),
        (Path("/proc/x.json"), "No such file"),
    ):
        with pytest.raises(UserError, match=rf"cannot be written \({reason}.*\); choose another place"):
            check_writable(place)
    check_writable(tmp_path / "new" / "folder" / "x.json")
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_where_there_are_no_locks_nothing_is_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    with locked(tmp_path):
        assert not list(tmp_path.iterdir())
