"""Connections that say nothing for long are closed: uvicorn alone would keep them for ever."""

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
    """Uvicorn's protocol with limits on connections, and on the time until a request's head is there."""

    class Impatient(H11Protocol):
        """See `impatient`."""

        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            self._head_timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            if len(self.connections) > limits.connections:
                transport.write(FULL)
                transport.close()
            else:
                self._expect_head()

        def data_received(self, data: bytes) -> None:
            if self._head_timer is None and self.conn.their_state is h11.IDLE:
                self._expect_head()
            super().data_received(data)
            if self.conn.their_state is not h11.IDLE:
                self._forget_timer()

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            self._forget_timer()

        def _expect_head(self) -> None:
            self._head_timer = self.loop.call_later(limits.head_s, self._give_up)

        def _forget_timer(self) -> None:
            if self._head_timer:
                self._head_timer.cancel()
            self._head_timer = None

        def _give_up(self) -> None:
            if self.conn.their_state is h11.IDLE and not self.transport.is_closing():
                self.transport.close()

    return Impatient
