"""One file over HTTP, with a limit on everything a server can do to us."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator
from contextlib import closing
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

Progress = Callable[[int, int | None], None]
"""Called with the bytes received so far and, if the server told, in all."""

LARGEST_BYTES = 1 << 30
"""No file of weights is larger; what is, is not downloaded."""
_OFFLINE_VARIABLES = ("DAMOYOLO_OFFLINE", "HF_HUB_OFFLINE")
_CHUNK = 1 << 18
_SLOWEST_BYTES_PER_S = 10 * 1024


class DownloadError(Exception):
    """Why a download failed, in a few words."""


def is_offline() -> bool:
    """Whether DAMOYOLO_OFFLINE or HF_HUB_OFFLINE forbids downloads."""
    return any(
        os.environ.get(name, "").lower() not in ("", "0", "false", "no") for name in _OFFLINE_VARIABLES
    )


def download(url: str, target: Path, *, timeout_s: float, progress: Progress | None = None) -> None:
    """Write what `url` serves to `target`.

    `DownloadError` if the server refuses, is silent for `timeout_s` seconds, sends less than 10 KiB/s or more
    than 1 GiB, or ends early; `target` is then incomplete.
    """
    with target.open("wb") as file, closing(_stream(url, timeout_s, progress)) as chunks:
        for chunk in chunks:
            file.write(chunk)


def _stream(url: str, timeout_s: float, progress: Progress | None) -> Generator[bytes]:
    try:
        with urlopen(Request(url, headers={"User-Agent": "damoyolo"}), timeout=timeout_s) as response:
            length = response.headers.get("Content-Length", "")
            total = int(length) if length.isdigit() else None
            received, started = 0, time.monotonic()
            while chunk := response.read1(_CHUNK):
                received += len(chunk)
                _check_limits(received, total, time.monotonic() - started - timeout_s)
                if progress is not None:
                    progress(received, total)
                yield chunk
    except HTTPError as error:
        error.close()
        raise DownloadError(f"HTTP {error.code} {error.reason}") from error
    except TimeoutError as error:
        raise DownloadError(f"silent for {timeout_s:g} s") from error
    except URLError as error:
        silent = isinstance(error.reason, TimeoutError)
        raise DownloadError(f"silent for {timeout_s:g} s" if silent else str(error.reason)) from error
    except (HTTPException, OSError) as error:
        raise DownloadError(f"{type(error).__name__}: {error}") from error
    if total is not None and received != total:
        raise DownloadError(f"ended after {received} of {total} bytes")


def _check_limits(received: int, total: int | None, seconds_after_grace: float) -> None:
    if max(received, total or 0) > LARGEST_BYTES:
        raise DownloadError(f"larger than {LARGEST_BYTES >> 20} MiB")
    if received < _SLOWEST_BYTES_PER_S * seconds_after_grace:
        raise DownloadError(f"slower than {_SLOWEST_BYTES_PER_S >> 10} KiB/s")
