from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from damoyolo.prediction.flow import ahead, batches, in_parallel


def counted(count: int, made: list[int], ended: threading.Event | None = None) -> Iterator[int]:
    try:
        for number in range(count):
            made.append(number)
            yield number
    finally:
        if ended:
            ended.set()


@given(count=st.integers(0, 30), room=st.integers(1, 8), threads=st.integers(1, 4), size=st.integers(1, 7))
def test_everything_arrives_in_order(count: int, room: int, threads: int, size: int) -> None:
    assert list(ahead(range(count), room)) == list(range(count))
    assert list(in_parallel(str, range(count), threads, room)) == [str(n) for n in range(count)]
    parts = list(batches(iter(range(count)), size))
    assert [number for part in parts for number in part] == list(range(count))
    assert all(len(part) == size for part in parts[:-1])


@pytest.mark.parametrize("room", [1, 3])
def test_a_step_is_so_far_ahead_and_no_further(room: int) -> None:
    made: list[int] = []
    items = ahead(counted(100, made), room)
    next(items)
    deadline = time.monotonic() + 5
    while len(made) < room + 2 and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(0.02)
    assert len(made) == room + 2  # one taken, `room` waiting, one in its maker's hands
    items.close()


@pytest.mark.parametrize("room", [1, 3])
def test_parallel_work_is_so_far_ahead_and_no_further(room: int) -> None:
    made: list[int] = []
    items = in_parallel(str, counted(100, made), 2, room)
    next(items)
    assert len(made) == room + 1
    items.close()


def test_work_is_done_at_the_same_time() -> None:
    together = threading.Barrier(3, timeout=5)
    assert list(in_parallel(lambda _: together.wait() >= 0, range(3), 3, 3)) == [True] * 3


def test_the_newest_wait_and_older_ones_are_dropped() -> None:
    made: list[int] = []
    ended = threading.Event()
    items = ahead(counted(100, made, ended), 2, newest=True)
    first = next(items)
    assert ended.wait(5)
    arrived = [first, *items]
    assert arrived[-2:] == [98, 99]
    assert len(arrived) <= 3


def test_an_error_comes_after_what_was_made_before_it() -> None:
    def failing() -> Iterator[int]:
        yield 1
        yield 2
        raise OSError("the disk")

    arrived = []
    with pytest.raises(OSError, match="the disk"):
        arrived.extend(ahead(failing(), 5))
    items = ahead(failing(), 5)
    assert [next(items), next(items)] == [1, 2]
    with pytest.raises(OSError, match="the disk"):
        next(items)


def test_closing_the_end_of_a_chain_ends_all_of_it() -> None:
    ended = threading.Event()
    chain = ahead(batches(in_parallel(str, ahead(counted(10**9, [], ended), 2), 2, 2), 3), 2)
    assert next(chain) == ["0", "1", "2"]
    before = threading.active_count()
    chain.close()
    assert ended.wait(5)
    assert threading.active_count() < before
