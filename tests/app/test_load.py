"""Many, slow and vanishing clients."""

from __future__ import annotations

import dataclasses
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest

from damoyolo.app.limits import Limits
from damoyolo.assemble.serving import ServedModel
from damoyolo.detections import Detections
from live_server import encoded, running

HEAD = "POST /predict HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n"
QUICK = Limits(waiting=3, upload_s=1.5, head_s=1.0, all_uploads_mb=1.0, connections=12)


class Held:
    """The served, that waits until it may."""

    def __init__(self, served: ServedModel) -> None:
        self.go_on = threading.Event()
        self.images = 0
        self._detect = served.detect
        self.model = dataclasses.replace(served, detect=self.detect)

    def detect(self, images: Sequence[np.ndarray], **options: Any) -> list[Detections]:
        self.images += len(images)
        assert self.go_on.wait(20)
        return self._detect(images, **options)


@pytest.fixture(scope="module")
def quick(served: ServedModel) -> Iterator[str]:
    with running(served, QUICK) as address:
        yield address


def connect(address: str) -> socket.socket:
    where = urlsplit(address)
    return socket.create_connection((where.hostname, where.port), timeout=40)


def predict(address: str) -> httpx.Response:
    return httpx.post(f"{address}predict", content=encoded(), timeout=60)


def until(true: Any) -> None:
    end = time.monotonic() + 40
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def inside(address: str) -> int:
    return int(httpx.get(f"{address}health", timeout=60).json()["inside"])


def test_who_comes_when_all_places_are_taken_is_told_when_to_come_again(served: ServedModel) -> None:
    held = Held(served)
    with running(held.model, QUICK) as address, ThreadPoolExecutor(3) as pool:
        waiting = [pool.submit(predict, address) for _ in range(3)]
        until(lambda: inside(address) == 3)
        refused = predict(address)
        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) >= 1
        assert refused.json()["error"].startswith("the server is busy; try again in")
        held.go_on.set()
        assert [each.result().status_code for each in waiting] == [200] * 3
        assert predict(address).status_code == 200
        assert inside(address) == 0


def test_a_file_that_was_not_kept_is_refused_even_if_there_is_room_at_its_end(served: ServedModel) -> None:
    held, body = Held(served), encoded()
    with running(held.model, QUICK) as address, ThreadPoolExecutor(3) as pool:
        waiting = [pool.submit(predict, address) for _ in range(3)]
        until(lambda: inside(address) == 3)
        with connect(address) as late:
            late.sendall(HEAD.format(len(body)).encode() + body[:100])
            time.sleep(0.05)
            held.go_on.set()
            assert [each.result().status_code for each in waiting] == [200] * 3
            late.sendall(body[100:])
            assert late.recv(4096).startswith(b"HTTP/1.1 503")


def test_who_goes_away_gives_the_place_free_and_is_not_computed(served: ServedModel) -> None:
    held = Held(served)
    with running(held.model, QUICK) as address, ThreadPoolExecutor(1) as pool:
        first = pool.submit(predict, address)
        until(lambda: held.images == 1)
        body = encoded()
        for _ in range(4):  # more than there are places
            with connect(address) as client:
                client.sendall(HEAD.format(len(body)).encode() + body)
                until(lambda: inside(address) == 2)
            until(lambda: inside(address) == 1)
        held.go_on.set()
        assert first.result().status_code == 200
        assert predict(address).status_code == 200
        assert held.images == 2


def test_a_slow_body_is_ended_and_keeps_nobody_waiting(quick: str) -> None:
    with connect(quick) as slow:
        slow.sendall(HEAD.format(1000).encode() + b"\x89PNG")
        assert predict(quick).status_code == 200
        assert slow.recv(4096).startswith(b"HTTP/1.1 408")


def test_slow_heads_are_ended(quick: str) -> None:
    begun, slow = time.monotonic(), []
    for sent in (b"", b"POST /predict HTT", b"GET /health HTTP/1.1\r\nhost: localhost\r\nx-slow: "):
        slow.append(connect(quick))
        slow[-1].sendall(sent)
    for each in slow:
        assert each.recv(4096) == b""
        assert time.monotonic() - begun > 0.9 * QUICK.head_s
        each.close()


def test_a_second_slow_head_on_a_connection_is_ended_too(quick: str) -> None:
    with connect(quick) as slow:
        slow.sendall(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n")
        until(lambda: b'"ok"' in slow.recv(4096))
        slow.sendall(b"GET /hea")
        assert slow.recv(4096) == b""


def test_bytes_of_all_clients_together_are_limited(quick: str) -> None:
    half = bytes(600 * 1024)
    with connect(quick) as first, connect(quick) as second:
        first.sendall(HEAD.format(2**20).encode() + half)
        time.sleep(0.1)
        second.sendall(HEAD.format(2**20).encode() + half)
        answer = second.recv(4096)
        assert answer.startswith(b"HTTP/1.1 503")
        assert b"retry-after: 1" in answer
    until(lambda: predict(quick).status_code == 200)


def test_connections_are_limited_and_the_last_are_told(quick: str) -> None:
    idle = [connect(quick) for _ in range(QUICK.connections)]
    try:
        with connect(quick) as late:
            answer = late.recv(4096)
            assert answer.startswith(b"HTTP/1.1 503")
            assert b"retry-after: 1" in answer
    finally:
        for each in idle:
            each.close()
    until(lambda: predict(quick).status_code == 200)


def test_what_is_no_http_is_survived(quick: str) -> None:
    with connect(quick) as strange:
        strange.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 20)
        assert strange.recv(4096).startswith(b"HTTP/1.1 400")
    assert predict(quick).status_code == 200
