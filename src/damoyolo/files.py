"""Files that are there whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

from damoyolo.errors import RunError, UserError


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
