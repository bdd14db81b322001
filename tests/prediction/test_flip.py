from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from colour_model import colour_model, photo
from damoyolo.detections import Detections
from damoyolo.prediction import detect
from damoyolo.prediction.flip import flipped

WIDTH = 96
NOTHING = ((), (), ())


def detections(boxes: object, scores: object, labels: object) -> Detections:
    return Detections(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(scores, np.float32),
        np.array(labels, np.int64),
        ("a", "b"),
    )


def seen(straight: tuple, mirrored: tuple, score: float = 0.1, **options: int) -> Detections:
    """What is made of what a finder says about both views."""
    views = [detections(*straight), detections(*mirrored)]
    (found,) = flipped(lambda images: views, score, **options)([np.zeros((64, WIDTH, 3), np.uint8)])
    return found


def in_the_mirror(box: tuple[float, ...]) -> tuple[float, ...]:
    return (WIDTH - box[2], box[1], WIDTH - box[0], box[3])


@given(row=st.integers(0, 7), column=st.integers(0, 11), rule=st.sampled_from(["stretch", "letterbox"]))
@settings(max_examples=15)
def test_a_finder_that_sees_the_same_in_the_mirror_is_left_as_it_is(row: int, column: int, rule: str) -> None:
    model, image = colour_model(rule), photo((64, 96), (8 * column, 8 * row, 8 * column + 8, 8 * row + 8))
    (plain,) = detect(model, [image])
    (found,) = flipped(lambda images: detect(model, images, score=0.2), 0.4)([image])
    np.testing.assert_allclose(found.boxes, plain.boxes, atol=1e-3)
    np.testing.assert_allclose(found.scores, plain.scores)
    assert found.names == plain.names


def test_two_views_of_a_thing_become_their_mean() -> None:
    mirrored = in_the_mirror((12, 10, 32, 30))
    found = seen(([(10, 10, 30, 30)], [0.9], [1]), ([mirrored], [0.3], [1]))
    assert found.scores.tolist() == pytest.approx([0.6])
    assert found.boxes.tolist()[0] == pytest.approx([10.5, 10, 30.5, 30])
    assert found.names == ["b"]


@pytest.mark.parametrize("first", [True, False])
def test_what_only_one_view_shows_counts_half(first: bool) -> None:
    box = (10.0, 10.0, 30.0, 30.0)
    views = (([box], [0.8], [0]), NOTHING) if first else (NOTHING, ([in_the_mirror(box)], [0.8], [0]))
    assert seen(*views).scores.tolist() == pytest.approx([0.4])
    assert seen(*views).boxes.tolist() == [list(box)]
    assert len(seen(*views, score=0.5)) == 0


def test_classes_are_kept_apart_and_a_box_has_one_partner() -> None:
    box = (10.0, 10.0, 30.0, 30.0)
    found = seen(([box, box], [0.8, 0.6], [0, 1]), ([in_the_mirror(box)], [0.4], [1]))
    assert found.names == ["b", "a"]
    assert found.scores.tolist() == pytest.approx([0.5, 0.4])
    near = (10.0, 10.0, 29.0, 30.0)
    found = seen(([box, near], [0.8, 0.6], [0, 0]), ([in_the_mirror(box)], [0.8], [0]))
    assert found.scores.tolist() == pytest.approx([0.8, 0.3])


def test_the_best_are_kept() -> None:
    boxes = [(8 * n, 0, 8 * n + 8, 8) for n in range(6)]
    found = seen((boxes, np.linspace(0.9, 0.4, 6), [0] * 6), NOTHING, most=2)
    assert found.scores.tolist() == pytest.approx([0.45, 0.4])


def test_every_image_gets_its_own_and_no_image_gives_nothing() -> None:
    model = colour_model()
    images = [photo((64, 96), (8 * n, 0, 8 * n + 8, 8)) for n in range(3)]
    found = flipped(lambda each: detect(model, each), 0.4)(images)
    assert [each.boxes[0, 0] for each in found] == [0, 8, 16]
    assert flipped(lambda each: detect(model, each), 0.4)([]) == []
