"""Files as they arrive: not too large, not too slowly, and not too many bytes at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.requests import Request

from damoyolo.app.limits import MIB, Limits, RefusedError, busy


class Uploads:
    """Reads the bodies of requests, and knows how many bytes it holds for all of them."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._most = int(limits.upload_mb * MIB)
        self._most_of_all = max(self._most, int(limits.all_uploads_mb * MIB))
        self.held = 0

    @asynccontextmanager
    async def body(self, request: Request, *, wanted: bool = True) -> AsyncIterator[bytes]:
        """The whole body; its bytes count as held until the block ends. Unless `wanted` it is thrown away.

        Raises:
            RefusedError: 413 if it is too large, 408 if it takes too long, 503 if all of them are too large,
                400 if it is empty or its length is no number.
            ClientDisconnect: if the client goes away.
        """
        self._check_promise(request)
        chunks: list[bytes] = []
        try:
            await self._read(request, chunks if wanted else None)
            if wanted and not chunks:
                raise RefusedError(
                    400, "empty", "body: is empty; send the bytes of an image file as the body"
                )
            yield b"".join(chunks)
        finally:
            self.held -= sum(map(len, chunks))

    async def _read(self, request: Request, chunks: list[bytes] | None) -> None:
        """Add what arrives to the list, if there is one."""
        size = 0
        try:
            async with asyncio.timeout(self._limits.upload_s):
                async for chunk in request.stream():
                    size += len(chunk)
                    if size > self._most:
                        raise self._too_large()
                    if chunks is None or not chunk:
                        continue
                    if self.held + len(chunk) > self._most_of_all:
                        raise busy("uploads", 1)
                    self.held += len(chunk)
                    chunks.append(chunk)
        except TimeoutError as error:
            seconds = self._limits.upload_s
            text = f"body: did not arrive within {seconds:g} s; send a smaller image"
            raise RefusedError(408, "slow", text) from error

    def _check_promise(self, request: Request) -> None:
        promised = request.headers.get("content-length", "0")
        if not promised.isdecimal():
            raise RefusedError(
                400, "length", f"content-length: '{promised[:20]}' is no number of bytes; correct it"
            )
        if int(promised[:18]) > self._most:
            raise self._too_large()

    def _too_large(self) -> RefusedError:
        most = self._limits.upload_mb
        return RefusedError(
            413, "bytes", f"body: has more than {most:g} MiB; send a smaller or compressed image"
        )
