"""Start the processes of a run on this machine and see them end.

Not torchrun's own launcher: it ends the others as soon as one has failed, before they can say why, which
would swallow or repeat a user's mistake; and its processes outlive a `kill -9` of the launcher. These here
hold a pipe of which only the launcher has the other end, and end when that end is closed.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import IO, NoReturn

from torch.distributed import TCPStore  # type: ignore[attr-defined]

from damoyolo.errors import RunError, UserError
from damoyolo.machine import usable_cores
from damoyolo.training.distributed import LAUNCHED, LOST_CODE, PEER_LOST

PROGRAM = (sys.executable, "-P", "-m", "damoyolo")
"""The command line in a process of its own, which finds no modules in the folder it is called from."""

POLL_S = 0.05
GRACE_S = 5.0
"""How long a process may take to end by itself once another one has, or once it was asked to."""

ADDRESS = "127.0.0.1"
LOG_TAIL_BYTES = 20_000
SAYS_WHY = (1, 2)
"""Exit codes with which the command line ends after it has printed the reason."""


def launch(
    devices: int, arguments: Sequence[str], *, quiet: bool = False, program: Sequence[str] = PROGRAM
) -> None:
    """Run the command line in several processes of this machine, as `torchrun --nproc-per-node` would.

    The first one has the terminal, but for its standard output: the result is the caller's to tell. Of the
    others only the last words are shown, and only if they fail. When one fails or on Ctrl-C none is left
    behind. They share this machine's cores unless OMP_NUM_THREADS is set.

    Args:
        devices: number of processes; on CUDA each has a device of its own.
        arguments: what follows `damoyolo`.
        quiet: the first one is treated like the others.
        program: what the arguments are given to.

    Raises:
        UserError: if a process ended with exit code 2 and the first one did not say why.
        SystemExit: if the first process failed and said why: with its exit code.
        RunError: if a process ended in any other way; the message says which one and how.
    """
    store = TCPStore(ADDRESS, 0, is_master=True, wait_for_workers=False)  # where the processes meet
    with contextlib.ExitStack() as stack:
        logs = [
            stack.enter_context(tempfile.TemporaryFile()) if rank or quiet else None
            for rank in range(devices)
        ]
        stack.enter_context(_sigterm_as_exit())
        pipe = stack.enter_context(_pipe())
        processes: list[subprocess.Popen[bytes]] = []
        stack.callback(_end, processes)
        try:
            for rank, log in enumerate(logs):
                environment = _environment(rank, devices, store.port, pipe)
                processes.append(_start([*program, *arguments], environment, log, pipe))
            order = _watch(processes)
        except KeyboardInterrupt:
            _interrupt(processes)
            raise
        codes = [process.poll() for process in processes]
        _end(processes)
        failed = [rank for rank in order if codes[rank]]
        if failed:
            _explain(failed, codes, [_tail(log) for log in logs])


def _environment(rank: int, size: int, port: int, pipe: int | None) -> dict[str, str]:
    """What torchrun would tell a process, and its end of the pipe."""
    return {
        "OMP_NUM_THREADS": str(max(1, usable_cores() // size)),
        **os.environ,
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(size),
        "LOCAL_WORLD_SIZE": str(size),
        "MASTER_ADDR": ADDRESS,
        "MASTER_PORT": str(port),
        LAUNCHED: "yes" if pipe is None else str(pipe),
        "TORCHELASTIC_USE_AGENT_STORE": "True",  # the store is ours; the first process need not open one
    }


@contextlib.contextmanager
def _pipe() -> Iterator[int | None]:
    """The end for processes to inherit of a pipe that closes with this one; None where they inherit none."""
    if os.name != "posix":
        yield None
        return
    ends = os.pipe()
    try:
        yield ends[0]
    finally:
        for end in ends:
            os.close(end)


def _start(
    command: Sequence[str], environment: dict[str, str], log: IO[bytes] | None, pipe: int | None
) -> subprocess.Popen[bytes]:
    """A process at the terminal, or with a log in its place."""
    stdin = None if log is None else subprocess.DEVNULL
    stdout = subprocess.DEVNULL if log is None else log
    inherited = () if pipe is None else (pipe,)
    return subprocess.Popen(
        command, env=environment, stdin=stdin, stdout=stdout, stderr=log, pass_fds=inherited
    )


def _watch(processes: Sequence[subprocess.Popen[bytes]]) -> list[int]:
    """Ranks in the order in which they ended; those that hang after another one has failed are missing."""
    order: list[int] = []
    deadline = float("inf")
    while len(order) < len(processes) and time.monotonic() < deadline:
        ended = [rank for rank, each in enumerate(processes) if rank not in order and each.poll() is not None]
        order += sorted(ended, key=lambda rank: (processes[rank].returncode, -rank))  # signals are negative
        if deadline == float("inf") and any(processes[rank].returncode for rank in ended):
            deadline = time.monotonic() + GRACE_S
        time.sleep(POLL_S)
    return order


def _interrupt(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Pass Ctrl-C on to those that did not get it from the terminal."""
    _wait(processes, GRACE_S / 5)
    for process in processes:
        process.send_signal(signal.SIGINT)
    _wait(processes, GRACE_S)


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """End whatever still runs, at the latest by force."""
    try:
        for process in processes:
            process.terminate()
        _wait(processes, GRACE_S)
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _wait(processes: Sequence[subprocess.Popen[bytes]], seconds: float) -> None:
    """Until all have ended, but not longer than that."""
    deadline = time.monotonic() + seconds
    while any(process.poll() is None for process in processes) and time.monotonic() < deadline:
        time.sleep(POLL_S)


@contextlib.contextmanager
def _sigterm_as_exit() -> Iterator[None]:
    """`kill` ends this process through its `finally` blocks; only the main thread may ask for that."""

    def leave(number: int, frame: FrameType | None) -> NoReturn:
        sys.exit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _tail(log: IO[bytes] | None) -> str | None:
    """The end of what a process said, None where that is on the terminal."""
    if log is None:
        return None
    log.seek(max(0, log.seek(0, os.SEEK_END) - LOG_TAIL_BYTES))
    return log.read().decode(errors="replace").strip()


def _explain(failed: Sequence[int], codes: Sequence[int | None], said: Sequence[str | None]) -> NoReturn:
    """Raise what tells the user why the run ended.

    Args:
        failed: ranks in the order in which they ended.
        codes: exit codes by rank, a signal's number negative, None where a process had to be ended.
        said: last words by rank, None where they are on the terminal already.
    """
    if said[0] is None and codes[0] in SAYS_WHY:
        raise SystemExit(codes[0])
    culprit = next((rank for rank in failed if codes[rank] != LOST_CODE), None)
    if culprit is None:
        raise RunError(f"{PEER_LOST}; go on from the last checkpoint with --resume")
    code, words = codes[culprit], said[culprit] or ""
    assert code
    last = words.rpartition("\n")[2]
    reason = last.removeprefix("error: ") if last.startswith("error: ") else None
    if reason and code == 2:
        raise UserError(reason)
    who = f"process {culprit} of {len(codes)}"
    if reason and code > 0:
        raise RunError(f"{who}: {reason}")
    if words:
        print(words, file=sys.stderr)
    how = f"was ended by {_name_signal(-code)}" if code < 0 else f"ended with exit code {code}"
    raise RunError(f"{who} {how}; go on from the last checkpoint with --resume")


def _name_signal(number: int) -> str:
    name = signal.Signals(number).name
    return f"{name}, which the system sends when memory runs out" if name == "SIGKILL" else name
