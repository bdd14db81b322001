"""One network, many requests."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from damoyolo.app.batching import Answer, Batcher, Wish
from damoyolo.app.metrics import Metrics
from damoyolo.assemble.serving import Prepared, ServedModel
from damoyolo.detections import Detections
from exportable import photograph

WISH = Wish(0.4, None, 100)


class Watched:
    """The served, whose first batch waits until it is told to go on."""

    def __init__(self, served: ServedModel) -> None:
        self.sizes: list[int] = []
        self.begun, self.go_on = threading.Event(), threading.Event()
        self._detect = served.detect
        self.model = dataclasses.replace(served, detect=self.detect)

    def detect(self, images: Sequence[np.ndarray], **options: Any) -> list[Detections]:
        self.sizes.append(len(images))
        self.begun.set()
        assert self.go_on.wait(20)
        return self._detect(images, **options)


async def _all_at_once(
    watched: Watched, wishes: Sequence[Wish], batch_size: int = 8, cancelled: Sequence[int] = ()
) -> list[Answer | BaseException]:
    """Their answers; all but the first came while the first was computed."""
    batcher = Batcher(watched.model, batch_size, Metrics())
    batcher.start()
    images = [watched.model.prepare(photograph(seed=number)) for number in range(len(wishes))]
    tasks = [asyncio.ensure_future(batcher.find(images[0], wishes[0]))]
    await asyncio.to_thread(watched.begun.wait)
    tasks += [asyncio.ensure_future(batcher.find(*each)) for each in zip(images[1:], wishes[1:], strict=True)]
    await asyncio.sleep(0)
    for number in cancelled:
        tasks[number].cancel()
    watched.go_on.set()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    await batcher.stop()
    return answers


def test_what_waits_goes_in_together(served: ServedModel) -> None:
    watched = Watched(served)
    answers = asyncio.run(_all_at_once(watched, [WISH] * 6, batch_size=4))
    assert watched.sizes == [1, 4, 1]
    assert [answer.batch for answer in answers if isinstance(answer, Answer)] == [1, 4, 4, 4, 4, 1]


def test_each_gets_its_own_image_and_score_whatever_is_beside_it(served: ServedModel) -> None:
    wishes = [Wish(score, None, 100) for score in (0.4, 0.9, 0.2, 0.6)]
    answers = asyncio.run(_all_at_once(Watched(served), wishes))
    for number, (answer, wish) in enumerate(zip(answers, wishes, strict=True)):
        assert isinstance(answer, Answer)
        prepared = [served.prepare(photograph(seed=number))]
        (alone,) = served.find(prepared, score=wish.score, nms_iou=None, max_detections=100)
        assert len(alone) == len(answer.detections) > 0
        np.testing.assert_allclose(answer.detections.scores, alone.scores, atol=1e-5)
        np.testing.assert_allclose(answer.detections.boxes, alone.boxes, atol=0.01)


def test_other_overlaps_and_numbers_of_boxes_are_computed_apart(served: ServedModel) -> None:
    watched = Watched(served)
    other, fewer = Wish(0.4, 0.3, 100), Wish(0.4, None, 5)
    asyncio.run(_all_at_once(watched, [WISH, other, WISH, fewer, other, WISH]))
    assert watched.sizes == [1, 2, 2, 1]


def test_a_file_of_a_fixed_batch_gets_no_more(served: ServedModel) -> None:
    watched = Watched(dataclasses.replace(served, most=2))
    asyncio.run(_all_at_once(watched, [WISH] * 4))
    assert watched.sizes == [1, 2, 1]


def test_who_has_gone_is_not_computed(served: ServedModel) -> None:
    watched = Watched(served)
    answers = asyncio.run(_all_at_once(watched, [WISH] * 4, cancelled=(1, 3)))
    assert watched.sizes == [1, 1]
    assert [isinstance(answer, Answer) for answer in answers] == [True, False, True, False]


def test_a_failure_is_raised_to_those_in_the_batch_only(served: ServedModel) -> None:
    calls = []

    def detect(images: Sequence[np.ndarray], **options: Any) -> list[Detections]:
        calls.append(images)
        if len(calls) == 1:
            raise MemoryError("too large")
        return served.detect(images, **options)

    async def run(image: Prepared) -> tuple[BaseException, Answer]:
        batcher = Batcher(dataclasses.replace(served, detect=detect), 8, Metrics())
        batcher.start()
        with pytest.raises(MemoryError) as caught:
            await batcher.find(image, WISH)
        answer = await batcher.find(image, WISH)
        assert batcher.alive
        await batcher.stop()
        assert not batcher.alive
        return caught.value, answer

    _, answer = asyncio.run(run(served.prepare(photograph())))
    assert answer.batch == 1
