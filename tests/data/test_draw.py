from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from damoyolo.data.draw import colour_of, draw
from damoyolo.detections import Detections


def detections(*boxes: tuple[float, float, float, float], names: tuple[str, ...] = ("person",)) -> Detections:
    count = len(boxes)
    return Detections(
        np.array(boxes, dtype=np.float32).reshape(-1, 4),
        np.linspace(0.9, 0.5, count, dtype=np.float32),
        np.arange(count) % len(names),
        names,
    )


def changed(image: np.ndarray, picture: np.ndarray) -> np.ndarray:
    return (image != picture).any(axis=2)


def test_the_box_has_its_class_colour_and_the_given_image_is_left_alone() -> None:
    image = np.zeros((200, 300, 3), np.uint8)
    picture = draw(image, detections((50, 80, 250, 180)))
    assert tuple(picture[180, 150]) == colour_of(0)
    assert tuple(picture[130, 50]) == colour_of(0)
    assert not picture[130, 150].any()
    assert not image.any()


def test_without_detections_the_picture_is_a_copy() -> None:
    image = np.full((20, 30, 3), 7, np.uint8)
    picture = draw(image, detections())
    assert np.array_equal(picture, image)
    assert picture is not image


@pytest.mark.parametrize("corner", [(0, 0), (280, 0), (0, 150), (280, 150)])
def test_a_label_is_whole_in_every_corner(corner: tuple[int, int]) -> None:
    image = np.full((200, 300, 3), 10, np.uint8)
    x, y = corner
    middle = changed(image, draw(image, detections((120, 90, 121, 91))))
    here = changed(image, draw(image, detections((x, y, x + 1, y + 1))))
    assert here.sum() >= middle.sum() * 0.97  # not cut, as far as the box itself does not peep out elsewhere


def test_letters_grow_with_the_image() -> None:
    heights = []
    for side in (300, 3000):
        image = np.zeros((side, side, 3), np.uint8)
        rows = changed(image, draw(image, detections((side / 2, side / 2, side / 2 + 1, side / 2 + 1)))).any(
            axis=1
        )
        heights.append(int(rows.sum()))
    assert heights[0] >= 9
    assert heights[1] > 3 * heights[0]


def test_the_better_box_lies_above() -> None:
    image = np.zeros((200, 300, 3), np.uint8)
    both = detections((50, 80, 250, 180), (50, 80, 250, 180), names=("a", "b"))
    assert tuple(draw(image, both)[180, 150]) == colour_of(0)


def test_classes_have_fixed_colours_that_can_be_told_apart() -> None:
    colours = np.array([colour_of(label) for label in range(12)])
    distances = np.abs(colours[:, None] - colours[None]).sum(axis=2) + 999 * np.eye(12, dtype=int)
    assert distances.min() > 60


@given(
    size=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    box=st.tuples(*[st.floats(-1000, 1000, width=32)] * 4),
)
@settings(max_examples=40, deadline=None)
def test_any_box_on_any_image_can_be_drawn(
    size: tuple[int, int], box: tuple[float, float, float, float]
) -> None:
    image = np.zeros((*size, 3), np.uint8)
    assert draw(image, detections(box)).shape == image.shape
