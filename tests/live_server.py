"""A real server on a port of its own, in a thread, with a tiny model."""

from __future__ import annotations

import faulthandler
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import uvicorn

from damoyolo.app.guard import Access
from damoyolo.app.limits import Limits
from damoyolo.app.server import create_app
from damoyolo.app.serving import address_of, listen, server_for
from damoyolo.assemble.serving import ServedModel, open_served
from damoyolo.cli import main
from damoyolo.zoo.weights import save_weights
from exportable import lively, photograph


def tiny_model(folder: Path) -> ServedModel:
    """Three classes, and sure of many things, right or wrong."""
    path = folder / "tiny.safetensors"
    save_weights(lively(), path)
    return open_served(str(path), device="cpu")


def encoded(image: np.ndarray | None = None, suffix: str = ".png") -> bytes:
    """The bytes of an image file."""
    pixels = photograph() if image is None else image
    done, content = cv2.imencode(suffix, pixels[..., ::-1])
    assert done
    return content.tobytes()


@contextmanager
def running(model: ServedModel, limits: Limits | None = None, access: Access | None = None) -> Iterator[str]:
    """The address of a server, such as http://127.0.0.1:43210/."""
    limits = limits or Limits()
    with listen("127.0.0.1", 0) as listener:
        server = server_for(create_app(model, limits, access), limits)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        with _until_done(thread, [server]):
            yield address_of(listener)


@contextmanager
def running_verb(words: list[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The same of `damoyolo app` with these words, which are to hold `--port 0`."""
    servers: list[uvicorn.Server] = []

    def remembered(*facts: Any) -> uvicorn.Server:
        servers.append(server_for(*facts))
        return servers[0]

    monkeypatch.setattr("damoyolo.app.serving.server_for", remembered)
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(main(words)), daemon=True)
    thread.start()
    with _until_done(thread, servers):
        yield f"http://127.0.0.1:{servers[0].servers[0].sockets[0].getsockname()[1]}/"
    assert codes == [0]


@contextmanager
def _until_done(thread: threading.Thread, servers: list[uvicorn.Server]) -> Iterator[None]:
    """Waits until the thread's server serves, and at last until it has stopped."""
    try:
        until = time.monotonic() + 60
        while not (servers and servers[0].started):
            assert thread.is_alive()
            assert time.monotonic() < until
            time.sleep(0.01)
        yield
    finally:
        for server in servers:
            server.should_exit = True
        thread.join(20)
        if thread.is_alive():
            faulthandler.dump_traceback()  # where it hangs
        assert not thread.is_alive()
