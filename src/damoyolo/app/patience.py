"""Connections that keep the server waiting are closed: uvicorn alone would keep them for ever."""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from damoyolo.app.limits import Limits

FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 1\r\n"
    b"connection: close\r\ncontent-length: 52\r\n\r\n"
    b'{"error": "too many connections; try again shortly"}'
)


def impatient(limits: Limits) -> type[asyncio.Protocol]:
    """Uvicorn's protocol with limits on connections, and on how long each may take for what it owes.

    That is the head of a request, the rest of a body after its answer, and the reading of answers.
    """

    class Impatient(H11Protocol):
        """See `impatient`."""

        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            self._timers: dict[str, asyncio.TimerHandle] = {}

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            if len(self.connections) > limits.connections:
                transport.write(FULL)
                transport.close()
            else:
                self._expect("head", limits.head_s)

        def data_received(self, data: bytes) -> None:
            if self.conn.their_state is h11.IDLE:
                self._expect("head", limits.head_s)
            super().data_received(data)
            if self.conn.their_state is not h11.SEND_BODY:
                self._have("rest")
            if self.conn.their_state is not h11.IDLE:
                self._have("head")
            elif self.timeout_keep_alive_task is None:  # uvicorn forgets it after the rest of a body
                self._expect("head", limits.head_s)

        def on_response_complete(self) -> None:
            if self.conn.their_state is h11.SEND_BODY:
                self._expect("rest", limits.upload_s)
            super().on_response_complete()

        def pause_writing(self) -> None:
            super().pause_writing()
            self._expect("reading", limits.upload_s)

        def resume_writing(self) -> None:
            super().resume_writing()
            self._have("reading")

        def timeout_keep_alive_handler(self) -> None:
            super().timeout_keep_alive_handler()
            self._give_up()

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            for what in tuple(self._timers):
                self._have(what)

        def _expect(self, what: str, seconds: float) -> None:
            if what not in self._timers:
                self._timers[what] = self.loop.call_later(seconds, self._give_up)

        def _have(self, what: str) -> None:
            if timer := self._timers.pop(what, None):
                timer.cancel()

        def _give_up(self) -> None:
            """Without waiting until what was written is read."""
            self.transport.abort()

    return Impatient
