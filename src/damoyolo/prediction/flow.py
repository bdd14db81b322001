"""Steps of a pipeline that work at the same time, in order, on so many things at most."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Generic, TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")

PATIENCE_S = 3.0
"""How long a step that is no longer needed is waited for; one may be waiting for a stream itself."""


def ahead(items: Iterable[Item], room: int, *, newest: bool = False) -> Iterator[Item]:
    """The same items, made in a thread of their own, which is at most `room` items ahead.

    What the thread raises is raised here. When this iterator is closed, the thread closes `items` and ends.

    Args:
        items: only this thread touches them.
        room: items made and not yet taken.
        newest: where there is no room, drop the oldest item instead of waiting.
    """
    buffer: _Buffer[Item] = _Buffer(room, newest)
    thread = threading.Thread(target=buffer.fill, args=(items,), daemon=True)
    thread.start()
    try:
        yield from buffer.items()
    finally:
        buffer.close()
        thread.join(PATIENCE_S)


def in_parallel(
    function: Callable[[Item], Made], items: Iterable[Item], threads: int, room: int
) -> Iterator[Made]:
    """`map`, in so many threads, in order; up to `room` items ahead of the one that is taken."""
    waiting: deque[Future[Made]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > room:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """So many at once; the last batch may have fewer."""
    iterator = iter(items)
    with closing(items):
        while batch := list(islice(iterator, size)):
            yield batch


@contextlib.contextmanager
def closing(items: Iterable[Item]) -> Iterator[Iterable[Item]]:
    """Close an iterator at the end, if it can be closed: a generator's own ends may not wait."""
    try:
        yield items
    finally:
        if close := getattr(items, "close", None):
            close()


class _Buffer(Generic[Item]):
    """Between a thread that makes items and one that takes them."""

    def __init__(self, room: int, newest: bool) -> None:
        self._items: deque[Item] = deque()
        self._room, self._newest = room, newest
        self._changed = threading.Condition()
        self._error: BaseException | None = None
        self._ended = self._closed = False

    def fill(self, items: Iterable[Item]) -> None:
        """What the first thread does."""
        try:
            with closing(items):
                for item in items:
                    if not self._put(item):
                        break
        except BaseException as error:
            self._error = error
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def items(self) -> Iterator[Item]:
        """For the second thread."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._items or self._ended)
                if not self._items:
                    break
                item = self._items.popleft()
                self._changed.notify_all()
            yield item
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """No more items are wanted."""
        with self._changed:
            self._closed = True
            self._items.clear()
            self._changed.notify_all()

    def _put(self, item: Item) -> bool:
        """Wait for room; whether items are still wanted."""
        with self._changed:
            if self._newest and len(self._items) >= self._room:
                self._items.popleft()
            self._changed.wait_for(lambda: self._closed or len(self._items) < self._room)
            if not self._closed:
                self._items.append(item)
            self._changed.notify_all()
            return not self._closed
