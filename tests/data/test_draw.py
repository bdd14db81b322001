from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from damoyolo.data.draw import (
    Mark,
    Outline,
    _place,
    _whole_pixels,
    colour_of,
    draw,
    draw_marks,
    draw_outlines,
)
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


def test_letters_of_small_frames_are_smaller_down_to_what_can_be_read() -> None:
    heights = []
    for side in (16, 48, 120, 180, 300):
        text = Outline(((0.0, 0.0), (0.0, 0.0)), "g", closed=False)
        rows = changed(image := np.full((side, side, 3), 9, np.uint8), draw_outlines(image, [text])).any(
            axis=1
        )
        heights.append(int(rows.sum()))
    assert heights == sorted(heights)
    assert heights[0] == heights[1] >= 8
    assert heights[1] < 0.85 * heights[-1]


def test_a_text_of_an_outline_that_is_too_wide_is_written_smaller() -> None:
    image = np.full((1200, 1600, 3), 9, np.uint8)
    few, many = (
        changed(image, draw_outlines(image, [Outline(((0.0, 0.0), (0.0, 0.0)), text, closed=False)]))
        for text in ("left 1 person", "left 1 person" * 10)
    )
    assert many[:, 800:].any()
    assert many.any(axis=1).sum() < 0.9 * few.any(axis=1).sum()


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


def test_numbers_are_written_before_names() -> None:
    image, found = np.zeros((200, 300, 3), np.uint8), detections((50, 80, 250, 180))
    plain = draw(image, found)
    assert np.array_equal(draw(image, found, [None]), plain)
    numbered = draw(image, found, [12])
    assert changed(image, numbered).sum() > changed(image, plain).sum() * 1.1
    assert not np.array_equal(draw(image, found, [13]), numbered)


def test_outlines_are_drawn_with_a_text_that_is_whole() -> None:
    image = np.full((200, 300, 3), 10, np.uint8)
    square = ((40.0, 40.0), (250.0, 40.0), (250.0, 150.0))
    open_, closed = (
        changed(image, draw_outlines(image, [Outline(square, "", closed=closed)])) for closed in (False, True)
    )
    assert open_[40, 200]
    assert open_[100, 250]
    assert not open_[95, 145]
    assert closed[95, 145]
    inside, corner = (
        changed(image, draw_outlines(image, [Outline(((x, y), (x, y)), "now 3 person", closed=False)])).sum()
        for x, y in ((100.0, 100.0), (299.0, 199.0))
    )
    assert corner > 0.97 * inside
    assert (image == 10).all()


def marks(count: int, classes: int = 1, side: int = 60) -> list[Mark]:
    """A crowd of boxes, each a few pixels from the one before."""
    return [
        Mark(
            np.array([40 + 5 * n, 40 + 4 * n, 40 + side + 5 * n, 40 + side + 4 * n], np.float32),
            n % classes,
            (f"class {n % classes} 0.{n:02d}", f"class {n % classes}"),
        )
        for n in range(count)
    ]


def labels_of(crowd: list[Mark], size: tuple[int, int] = (240, 320)) -> list[tuple[str, tuple[int, ...]]]:
    placed = _place(crowd, [_whole_pixels(mark.box, size) for mark in crowd], size, line=1)
    return [(label.text, label.ground) for _, label in placed]


def overlap(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    return min(a[2], b[2]) > max(a[0], b[0]) and min(a[3], b[3]) > max(a[1], b[1])


def test_labels_of_a_crowd_do_not_cover_each_other() -> None:
    placed = labels_of(marks(30))
    assert 5 <= len(placed) <= 30
    for number, (_, ground) in enumerate(placed):
        assert not any(overlap(ground, other) for _, other in placed[:number])
        assert 0 <= ground[0] < ground[2] < 320
        assert 0 <= ground[1] < ground[3] < 240


def test_a_label_loses_its_score_before_it_is_left_out() -> None:
    same = [Mark(np.array([2, 2, 46, 40], np.float32), 0, ("cell 0.95", "cell")) for _ in range(12)]
    texts = [text for text, _ in labels_of(same, (42, 48))]
    assert texts[0] == "cell 0.95"
    assert "cell" in texts
    assert len(texts) < 12


def test_every_class_is_explained_even_where_there_is_no_room() -> None:
    tight = [Mark(np.array([0, 0, 30, 20], np.float32), n, (f"name {n}",)) for n in range(5)]
    assert {text for text, _ in labels_of(tight, (24, 40))} == {f"name {n}" for n in range(5)}


def test_a_lonely_label_stands_above_its_box() -> None:
    ((_, ground),) = labels_of([Mark(np.array([100, 100, 150, 150], np.float32), 0, ("cell 0.90",))])
    assert ground[0] == 100
    assert ground[3] == 100


def test_bold_boxes_have_thicker_lines_and_a_mark_needs_no_text() -> None:
    image = np.zeros((100, 100, 3), np.uint8)
    thin, bold = (
        draw_marks(image, [Mark(np.array([20, 20, 80, 80], np.float32), 0, (), bold=bold)])
        for bold in (False, True)
    )
    assert 0 < changed(image, thin).sum() < changed(image, bold).sum()


@given(
    crowd=st.lists(
        st.tuples(st.floats(-50, 350, width=32), st.floats(-50, 250, width=32)), min_size=1, max_size=25
    )
)
@settings(max_examples=15, deadline=None)
def test_any_crowd_of_a_class_keeps_its_labels_apart(crowd: list[tuple[float, float]]) -> None:
    boxes = [Mark(np.array([x, y, x + 40, y + 30], np.float32), 0, ("0 0.5", "0")) for x, y in crowd]
    grounds = [ground for _, ground in labels_of(boxes)]
    assert grounds
    assert not any(overlap(a, b) for i, a in enumerate(grounds) for b in grounds[:i])
