from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from damoyolo.detections import Detections
from damoyolo.evaluation.judge import Judged, confusion, judge, working_point

NAMES = ("a", "b", "c")
Box = tuple[int, int, int, int]


def detections(*found: tuple[Box, int, float]) -> Detections:
    ordered = sorted(found, key=lambda each: -each[2])
    return Detections(
        np.array([box for box, _, _ in ordered], np.float32).reshape(-1, 4),
        np.array([score for _, _, score in ordered], np.float32),
        np.array([label for _, label, _ in ordered], np.int64),
        NAMES,
    )


def judged(true: list[tuple[Box, int]], *found: tuple[Box, int, float]) -> Judged:
    boxes = np.array([box for box, _ in true], np.float32).reshape(-1, 4)
    return judge(detections(*found), boxes, np.array([label for _, label in true], np.int64))


HERE, NEAR, FAR = (0, 0, 10, 10), (0, 0, 10, 8), (50, 50, 60, 60)


def test_a_box_is_found_once_and_by_the_best() -> None:
    one = judged([(HERE, 0)], (HERE, 0, 0.5), (NEAR, 0, 0.9))
    assert one.match.tolist() == [0, -1]
    assert (one.right.tolist(), one.missed.tolist(), one.mistakes) == ([True, False], [False], 1)
    assert one.f1 == pytest.approx(2 / 3)


def test_a_detection_takes_the_box_it_overlaps_most() -> None:
    one = judged([(NEAR, 0), (HERE, 0)], (HERE, 0, 0.9))
    assert one.match.tolist() == [1]
    assert one.missed.tolist() == [True, False]


def test_only_the_own_class_and_enough_overlap_count() -> None:
    assert judged([(HERE, 0)], (HERE, 1, 0.9)).match.tolist() == [-1]
    assert judged([((0, 0, 10, 4), 0)], (HERE, 0, 0.9)).match.tolist() == [-1]


def test_nothing_found_where_nothing_is_is_perfect() -> None:
    assert judged([]).f1 == 1
    assert judged([(HERE, 0)]).f1 == 0
    assert judged([], (HERE, 0, 0.9)).f1 == 0


def test_confusions_are_counted_by_truth_and_by_what_was_found() -> None:
    images = [
        judged([(HERE, 0), (FAR, 1)], (HERE, 0, 0.9), (FAR, 2, 0.8)),  # a as a, b as c
        judged([(HERE, 1)], (FAR, 2, 0.9)),  # b missed, c from nothing
    ]
    expected = np.zeros((4, 4), int)
    expected[0, 0] = expected[1, 2] = expected[1, 3] = expected[3, 2] = 1
    assert confusion(images, 3).tolist() == expected.tolist()


def test_the_own_class_comes_before_a_better_score_of_another() -> None:
    matrix = confusion([judged([(HERE, 0)], (HERE, 1, 0.9), (HERE, 0, 0.3))], 3)
    assert (matrix[0, 0], matrix[0, 1], matrix[3, 1]) == (1, 0, 1)


def test_the_working_point_has_the_best_f1() -> None:
    images = [
        judged([(HERE, 0), (FAR, 0)], (HERE, 0, 0.9), (FAR, 0, 0.6), ((80, 80, 90, 90), 0, 0.6)),
        judged([], (HERE, 0, 0.4), (FAR, 0, 0.3)),
    ]
    found = working_point(images)
    assert (found.score, found.precision, found.recall) == pytest.approx((0.6, 2 / 3, 1.0))
    assert found.f1 == pytest.approx(0.8)


@pytest.mark.parametrize("images", [[], [judged([(HERE, 0)])], [judged([], (HERE, 0, 0.9))]])
def test_where_nothing_is_right_there_still_is_a_working_point(images: list[Judged]) -> None:
    assert working_point(images).f1 == 0


boxes = st.tuples(st.integers(0, 3), st.integers(0, 3)).map(lambda at: (*at, at[0] + 4, at[1] + 4))
labels = st.integers(0, 2)
scores = st.integers(1, 9).map(lambda tenths: tenths / 10)


@given(
    true=st.lists(st.tuples(boxes, labels), max_size=6),
    found=st.lists(st.tuples(boxes, labels, scores), max_size=8),
    threshold=scores,
)
@settings(max_examples=60, deadline=None)
def test_thresholds_may_come_after_matching_and_the_matrix_counts_everything_once(
    true: list[tuple[Box, int]], found: list[tuple[Box, int, float]], threshold: float
) -> None:
    later = judged(true, *found).above(threshold)
    earlier = judged(true, *(each for each in found if each[2] >= threshold))
    assert later.match.tolist() == earlier.match.tolist()
    matrix = confusion([later], 3)
    assert matrix[:3].sum(axis=1).tolist() == np.bincount(later.labels, minlength=3).tolist()
    assert matrix[:, :3].sum(axis=0).tolist() == np.bincount(later.found.labels, minlength=3).tolist()
    assert matrix[3, 3] == 0
    assert np.trace(matrix[:3, :3]) == later.right.sum()
