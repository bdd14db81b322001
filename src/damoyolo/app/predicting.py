"""One request from its body to its boxes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import TypeVar

from starlette.requests import ClientDisconnect, Request

from damoyolo.app.batching import Batcher, Wish
from damoyolo.app.limits import Limits, busy
from damoyolo.app.metrics import Metrics
from damoyolo.app.pictures import read_picture
from damoyolo.app.schemas import Box, Prediction, Times
from damoyolo.app.uploads import Uploads
from damoyolo.assemble.serving import Prepared, ServedModel

Result = TypeVar("Result")

DECODERS = 2
"""Images decoded at once: each may need `Limits.megapixels` times 3 MB and more."""


class Predictor:
    """Reads, decodes, waits for the network, and answers; or refuses at once where there is no room.

    What waits between the steps is small: files within `Limits.all_uploads_mb`, and at most
    `Limits.waiting` images at the size of the network's input.
    """

    def __init__(self, model: ServedModel, batcher: Batcher, limits: Limits, metrics: Metrics) -> None:
        self._model, self._batcher, self.limits, self._metrics = model, batcher, limits, metrics
        self._uploads = Uploads(limits)
        self._decoders = ThreadPoolExecutor(DECODERS, thread_name_prefix="decoder")
        self._free_decoder = asyncio.Semaphore(DECODERS)
        self.inside = 0

    def close(self) -> None:
        """Ends the decoders."""
        self._decoders.shutdown(cancel_futures=True)

    async def predict(self, request: Request, wish: Wish) -> Prediction:
        """The answer; what it raises is told in `uploads`, `pictures` and `limits`."""
        begun = time.perf_counter()
        with ExitStack() as place:
            prepared, upload_s, decode_s = await self._take_in(request, place)
            answer = await _unless_gone(request, self._batcher.find(prepared, wish))
        total_s = time.perf_counter() - begun
        self._metrics.stage_s.labels("upload").observe(upload_s)
        self._metrics.stage_s.labels("decode").observe(decode_s)
        self._metrics.detections.inc(len(answer.detections))
        seconds = (upload_s, decode_s, answer.waited_s, answer.network_s, total_s)
        upload, decode, wait, network, total = (round(1e3 * each, 2) for each in seconds)
        times = Times(upload=upload, decode=decode, wait=wait, network=network, total=total)
        height, width = prepared.original
        boxes = [Box(**record) for record in answer.detections.to_records()]
        return Prediction(width=width, height=height, detections=boxes, ms=times, batch=answer.batch)

    async def _take_in(self, request: Request, place: ExitStack) -> tuple[Prepared, float, float]:
        """The image at the network's size, and seconds of upload and of decoding; nothing keeps the file."""
        begun, full = time.perf_counter(), self._is_full
        async with self._uploads.body(request, wanted=not full) as body:
            upload_s = time.perf_counter() - begun
            if full or self._is_full:
                raise busy("queue", self._batcher.seconds_for(self.inside))
            place.enter_context(self._place())
            prepared, decode_s = await _unless_gone(request, self._decoded(body))
        return prepared, upload_s, decode_s

    async def _decoded(self, body: bytes) -> tuple[Prepared, float]:
        """By a thread that is free; one that has begun is waited for, even if nobody wants it any more."""
        async with self._free_decoder:
            decoding = asyncio.get_running_loop().run_in_executor(self._decoders, self._decode, body)
            try:
                return await asyncio.shield(decoding)
            except asyncio.CancelledError:
                await asyncio.wait((decoding,))
                raise

    def _decode(self, body: bytes) -> tuple[Prepared, float]:
        begun = time.perf_counter()
        prepared = self._model.prepare(read_picture(body, self.limits.megapixels))
        return prepared, time.perf_counter() - begun

    @property
    def _is_full(self) -> bool:
        return self.inside >= self.limits.waiting

    @contextmanager
    def _place(self) -> Iterator[None]:
        """Among those that are decoded, wait or are computed."""
        self.inside += 1
        self._metrics.inside.set(self.inside)
        try:
            yield
        finally:
            self.inside -= 1
            self._metrics.inside.set(self.inside)


async def _unless_gone(request: Request, work: Awaitable[Result]) -> Result:
    """What the work gives; it is cancelled, and `ClientDisconnect` raised, if the client goes away.

    Work that no longer can be cancelled is waited for: it still holds what it was given.
    """
    working = asyncio.ensure_future(work)
    watching = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait((working, watching), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        watching.cancel()
        working.cancel()
        await asyncio.wait((working,))


async def _gone(request: Request) -> None:
    """Returns when the client has gone away; its body has been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
