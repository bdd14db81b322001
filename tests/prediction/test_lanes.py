from __future__ import annotations

import threading
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from colour_model import colour_model, photo
from damoyolo.detections import Detections
from damoyolo.errors import UserError
from damoyolo.prediction import detect, in_lanes

NOTHING = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64), ("thing",))


def grey(count: int) -> list[np.ndarray]:
    return [np.full((4, 4, 3), number, np.uint8) for number in range(count)]


@given(count=st.integers(0, 12), lanes=st.integers(1, 4), size=st.integers(1, 5))
@settings(max_examples=20)
def test_each_image_gets_its_own_result(count: int, lanes: int, size: int) -> None:
    parts = []

    def find(images: list[np.ndarray]) -> list[Detections]:
        parts.append(len(images))
        value = [image[0, 0, :1].astype(np.float32) for image in images]
        return [Detections(np.zeros((1, 4), np.float32), v, np.zeros(1, np.int64), ("it",)) for v in value]

    found = in_lanes(find, lanes, size=size)(grey(count))
    assert [each.scores.tolist() for each in found] == [[float(number)] for number in range(count)]
    assert lanes == 1 or max(parts, default=0) <= size


def test_images_are_looked_at_at_the_same_time() -> None:
    together = threading.Barrier(3, timeout=5)

    def find(images: list[np.ndarray]) -> list[Detections]:
        together.wait()
        return [NOTHING for _ in images]

    assert len(in_lanes(find, 3)(grey(6))) == 6


def test_a_model_finds_the_same_in_lanes() -> None:
    find = partial(detect, colour_model())
    images = [photo((64, 96), (8 * n, 8, 8 * n + 8, 16)) for n in range(7)]
    in_order = [find([image])[0].boxes.tolist() for image in images]
    assert [each.boxes.tolist() for each in in_lanes(find, 2)(images)] == in_order


def test_what_a_lane_raises_is_raised() -> None:
    def find(images: list[np.ndarray]) -> list[Detections]:
        raise UserError("image: is none")

    with pytest.raises(UserError, match="is none"):
        in_lanes(find, 2)(grey(3))
