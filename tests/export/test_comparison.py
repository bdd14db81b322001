"""How far results are apart, and what passes."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from damoyolo.detections import Detections
from damoyolo.export.comparison import (
    TOLERANCES,
    Comparison,
    Results,
    compare,
    compare_detections,
    compare_raw,
)

SCORES = np.array([[0.9, 0.0], [0.1, 0.0]], np.float32)
BOXES = np.array([[0, 0, 10, 10], [0, 0, 10, 10]], np.float32)


def found(scores: list[float], lefts: list[float], labels: list[int] | None = None) -> Detections:
    """Boxes of 10 x 10 pixels."""
    boxes = np.array([[left, 0, left + 10, 10] for left in lefts], np.float32).reshape(-1, 4)
    known = np.array(labels or [0] * len(lefts), np.int64)
    return Detections(boxes, np.array(scores, np.float32), known, ("a", "b"))


def test_a_tolerance_counts_scores_boxes_lonely_detections_and_the_change() -> None:
    strict = TOLERANCES["fp32"]
    assert Comparison(score=1e-5, box_px=0.001, agree=100, only_file=1).passes(strict)
    assert not Comparison(score=1e-3).passes(strict)
    assert not Comparison(score=float("nan")).passes(strict)
    assert not Comparison(box_px=0.1).passes(strict)
    assert not Comparison(agree=9, only_model=1).passes(strict)
    assert Comparison(score=1.0, box_px=99.0, only_file=5, change=0.1).passes(TOLERANCES["int8"])
    assert not Comparison(change=0.2).passes(TOLERANCES["int8"])
    assert not Comparison(change=float("nan")).passes(TOLERANCES["int8"])


def test_the_change_of_points_grows_with_scores_and_boxes_that_count() -> None:
    moved_best, moved_other = BOXES.copy(), BOXES.copy()
    moved_best[0] += 2
    moved_other[1] += 2

    def change(scores: np.ndarray, boxes: np.ndarray) -> float:
        return compare_raw([(SCORES, BOXES)], [(scores, boxes)]).change

    assert change(SCORES, BOXES) == 0
    assert change(SCORES * 0.5, BOXES) == pytest.approx(0.5)
    assert change(SCORES, moved_best) == pytest.approx(0.18)
    assert change(SCORES, moved_other) == pytest.approx(0.02)


def test_the_same_detections_differ_by_score_and_place_and_the_others_are_counted() -> None:
    mine, other = found([0.9, 0.8, 0.3], [0, 100, 200]), found([0.8, 0.8, 0.2], [0, 100.5, 300])
    comparison = compare_detections([mine], [other])
    assert (comparison.agree, comparison.only_model, comparison.only_file) == (2, 1, 1)
    assert comparison.score == pytest.approx(0.1)
    assert comparison.box_px == 0.5
    moved = 0.1 + 0.8 * 0.25 / 10 + (0.3 + 0.2) / 2
    assert comparison.change == pytest.approx(moved / 2.0)


def test_detections_of_two_classes_are_never_the_same() -> None:
    comparison = compare_detections([found([0.9], [0], [0])], [found([0.9], [0], [1])])
    assert (comparison.agree, comparison.only_model, comparison.only_file) == (0, 1, 1)
    assert comparison.change == pytest.approx(1.0)


def test_near_things_that_are_not_the_same_count_by_how_far_they_moved() -> None:
    comparison = compare_detections([found([0.9], [0])], [found([0.9], [2])])
    assert (comparison.agree, comparison.only_file) == (0, 1)
    assert comparison.change == pytest.approx(0.1)  # half of the four sides moved by 2 of 10 px


def test_no_detections_are_equal_to_none() -> None:
    assert compare_detections([found([], [])], [found([], [])]) == Comparison()
    assert compare_detections([found([], [])], [found([0.5], [0])]).only_file == 1


@given(
    st.lists(st.tuples(st.floats(0.01, 1.0), st.integers(0, 40), st.integers(0, 1)), max_size=12),
    st.randoms(use_true_random=False),
)
def test_detections_agree_with_themselves_in_any_order(
    rows: list[tuple[float, int, int]], source: random.Random
) -> None:
    rows = sorted(set(rows), reverse=True)
    shuffled = list(rows)
    source.shuffle(shuffled)
    mine, other = (
        found(*([float(row[0]) for row in each], [11.0 * row[1] for row in each]), [row[2] for row in each])
        for each in (rows, shuffled)
    )
    comparison = compare_detections([mine], [other])
    assert comparison.agree == len(rows)
    assert comparison.only_model == comparison.only_file == 0


def test_where_both_have_all_points_differences_are_theirs() -> None:
    one, same = Results([found([0.9], [0])], [(SCORES, BOXES)]), Results([found([0.8], [0])])
    assert compare(one, same).score == pytest.approx(0.1)
    both = compare(one, Results([found([0.8], [0])], [(SCORES, BOXES)]))
    assert (both.score, both.agree) == (0, 1)
