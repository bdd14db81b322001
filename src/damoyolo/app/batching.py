"""One network for many requests: what waits while it computes goes in together next time."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from damoyolo.app.metrics import Metrics
from damoyolo.assemble.serving import Prepared, ServedModel
from damoyolo.detections import Detections


@dataclass(frozen=True)
class Wish:
    """What one request wants to know: score 0..1, overlap 0..1 or the model's own, and how many boxes."""

    score: float
    nms_iou: float | None
    max_detections: int

    def goes_with(self, other: Wish) -> bool:
        """Whether both can be had from one batch."""
        return (self.nms_iou, self.max_detections) == (other.nms_iou, other.max_detections)


@dataclass(frozen=True)
class Answer:
    """What was found, and how many seconds it waited for the network, and the network took for its batch."""

    detections: Detections
    waited_s: float
    network_s: float
    batch: int


@dataclass(eq=False)
class _Job:
    image: Prepared
    wish: Wish
    answer: asyncio.Future[Answer]
    begun: float = field(default_factory=time.perf_counter)


class Batcher:
    """Runs the network in a thread of its own, on one batch after the other, the oldest request first.

    Nothing waits for a batch to fill: alone, a request is computed at once. Requests share a batch if they
    differ in nothing but their scores, which choose among the same boxes afterwards. A request that is
    cancelled before its turn is not computed.
    """

    def __init__(self, model: ServedModel, batch_size: int, metrics: Metrics) -> None:
        self._model, self._metrics = model, metrics
        self._most = min(batch_size, model.most or batch_size)
        self._waiting: deque[_Job] = deque()
        self._came = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="network")
        self._task: asyncio.Task[None] | None = None
        self._image_s = 0.1

    @property
    def alive(self) -> bool:
        """Whether requests are being computed."""
        return self._task is not None and not self._task.done()

    def start(self) -> None:
        """In the running event loop."""
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Requests that wait are cancelled; the batch at hand is waited for."""
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for job in self._waiting:
            job.answer.cancel()
        await asyncio.to_thread(self._thread.shutdown)

    async def find(self, image: Prepared, wish: Wish) -> Answer:
        """What is in the image. Raises what the network raises."""
        job = _Job(image, wish, asyncio.get_running_loop().create_future())
        self._waiting.append(job)
        self._came.set()
        return await job.answer

    def seconds_for(self, images: int) -> int:
        """About how long so many take, rounded up, from 1 to 60."""
        return min(60, max(1, math.ceil(images * self._image_s)))

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            batch = self._next_batch()
            if not batch:
                self._came.clear()
                await self._came.wait()
                continue
            begun = time.perf_counter()
            try:
                found = await loop.run_in_executor(self._thread, self._compute, batch)
            except Exception as error:
                for job in batch:
                    if not job.answer.done():
                        job.answer.set_exception(error)
                continue
            took = time.perf_counter() - begun
            self._image_s += 0.1 * (took / len(batch) - self._image_s)
            self._metrics.batch_images.observe(len(batch))
            self._metrics.stage_s.labels("network").observe(took)
            for job, detections in zip(batch, found, strict=True):
                if not job.answer.done():
                    job.answer.set_result(Answer(detections, begun - job.begun, took, len(batch)))

    def _next_batch(self) -> list[_Job]:
        """The oldest, and those that can go with it."""
        batch: list[_Job] = []
        left: deque[_Job] = deque()
        for job in self._waiting:
            if job.answer.done():  # cancelled
                continue
            fits = not batch or job.wish.goes_with(batch[0].wish)
            (batch if fits and len(batch) < self._most else left).append(job)
        self._waiting = left
        return batch

    def _compute(self, batch: Sequence[_Job]) -> list[Detections]:
        wishes = [job.wish for job in batch]
        found = self._model.find(
            [job.image for job in batch],
            score=min(wish.score for wish in wishes),
            nms_iou=wishes[0].nms_iou,
            max_detections=wishes[0].max_detections,
        )
        return [each.above(wish.score) for each, wish in zip(found, wishes, strict=True)]
