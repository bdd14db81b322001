"""Many, slow and vanishing clients."""

from __future__ import annotations

import contextlib
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

from damoyolo.app import predicting
from damoyolo.app.limits import MIB, Limits
from damoyolo.app.pictures import read_picture
from damoyolo.assemble.serving import ServedModel
from damoyolo.detections import Detections
from live_server import encoded, running

HEAD = "POST /predict HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n"
QUICK = Limits(upload_mb=1.0, waiting=3, upload_s=1.5, head_s=1.0, all_uploads_mb=1.0, connections=12)


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


def test_a_file_is_held_until_its_decoder_has_done_with_it(
    served: ServedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = threading.Semaphore(0), threading.Event()

    def slowly(data: bytes, megapixels: float) -> np.ndarray:
        begun.release()
        assert go_on.wait(20)
        return read_picture(data, megapixels)

    monkeypatch.setattr(predicting, "read_picture", slowly)
    body = encoded()
    with running(served, QUICK) as address:
        for _ in range(predicting.DECODERS):
            with connect(address) as client:
                client.sendall(HEAD.format(len(body)).encode() + body)
                assert begun.acquire(timeout=20)
        time.sleep(0.2)
        assert inside(address) == predicting.DECODERS
        with connect(address) as client:  # waits for a decoder, and so holds nothing once it is gone
            client.sendall(HEAD.format(len(body)).encode() + body)
            until(lambda: inside(address) == predicting.DECODERS + 1)
        until(lambda: inside(address) == predicting.DECODERS)
        go_on.set()
        until(lambda: inside(address) == 0)
        assert predict(address).status_code == 200


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


@pytest.mark.parametrize("rest", [b"x" * 10, b"x"], ids=["all at once", "in drops"])
def test_who_was_answered_before_the_end_of_the_body_cannot_keep_the_connection(
    quick: str, rest: bytes
) -> None:
    with connect(quick) as lazy:
        lazy.sendall(b"POST /nothing HTTP/1.1\r\nhost: localhost\r\ncontent-length: 10\r\n\r\n")
        until(lambda: b"/docs tells what there is" in lazy.recv(4096))
        begun = time.monotonic()
        with contextlib.suppress(ConnectionError):
            while time.monotonic() < begun + 1.2 * QUICK.upload_s:
                lazy.sendall(rest)
                rest = rest[:1] * (len(rest) == 1)
                time.sleep(0.2)
            assert lazy.recv(4096) == b""
        assert time.monotonic() < begun + 3 * QUICK.upload_s


def test_who_does_not_read_answers_loses_the_connection(quick: str) -> None:
    where = urlsplit(quick)
    with socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.settimeout(10 * QUICK.upload_s)
        deaf.connect((where.hostname, where.port))
        asking = b"GET /static/app.js HTTP/1.1\r\nhost: localhost\r\n\r\n"
        with contextlib.suppress(ConnectionError):
            while True:
                deaf.sendall(asking)


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


def test_one_file_may_have_what_a_file_may_have(served: ServedModel) -> None:
    body = encoded(np.random.default_rng(0).integers(0, 256, (100, 100, 3), np.uint8))
    limits = Limits(all_uploads_mb=0.5 * len(body) / MIB)
    with running(served, limits) as address:
        assert httpx.post(f"{address}predict", content=body, timeout=60).status_code == 200


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
