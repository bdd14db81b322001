"""Files that are there whole or not at all, and folders that one process works in at a time."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from damoyolo.errors import RunError, UserError

if sys.platform != "win32":
    import fcntl

LOCK_FILE = ".lock"
"""In a folder that is being worked in; holds the number of the process."""


def write_atomically(path: str | Path, content: bytes) -> None:
    """Write beside `path`, then take its place: a reader or a crash sees the old file or the new one.

    Folders on the way are created. `UserError` if the place cannot be written, `RunError` if the disk is
    full.
    """
    path = Path(path)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise RunError(f"{path}: cannot be written ({error.strerror}); make room and go on") from error
        raise UserError(f"{path}: cannot be written ({error.strerror}); choose another place") from error
    finally:
        with contextlib.suppress(OSError):  # where the folder itself is none
            part.unlink(missing_ok=True)


def check_writable(path: Path) -> None:
    """`UserError` where `write_atomically` could not write, before the work whose result goes there.

    Folders on the way are not created.
    """
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        there = next(folder for folder in path.absolute().parents if folder.exists())
        tempfile.TemporaryFile(dir=there).close()
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); choose another place") from error


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes out of a run's folder, which is created if need be, and removed if it stays empty.

    The system lifts the lock when this process ends, however it ends; the processes it forks do not hold it.
    Nothing is locked on Windows, which has no `fcntl`, and where the file system has no locks. The same
    process may lock a folder twice; the first lock to end is then the end of both.

    Raises:
        UserError: if another process holds the lock, or the folder cannot be written.
    """
    if sys.platform == "win32":
        yield
        return
    path, is_new = folder / LOCK_FILE, not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = _take(path)
    except BlockingIOError as error:
        raise UserError(
            f"output: {folder} is being worked in by another process (number {error}); wait for it or end it"
        ) from None
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror}); choose another place") from error
    try:
        yield
    finally:
        path.unlink(missing_ok=True)  # while it is locked: who waits for it sees that it is gone
        os.close(lock)
        if is_new:
            with contextlib.suppress(OSError):  # not empty
                folder.rmdir()


def _take(path: Path) -> int:
    """The open lock file, with this process's number in it; `BlockingIOError` tells another's number."""
    while True:
        lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # unlike flock's, not inherited by a fork
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                number = os.read(lock, 20).decode(errors="replace") or "unknown"
                os.close(lock)
                raise BlockingIOError(number) from error
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(lock), path.stat()):
                os.ftruncate(lock, 0)
                os.write(lock, str(os.getpid()).encode())
                return lock
        os.close(lock)  # of one that has just ended and removed it
