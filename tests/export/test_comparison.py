"""How far results are apart, and what passes."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from damoyolo.detections import Detections
from damoyolo.export.card import ExportCard, Head, Precision
from damoyolo.export.comparison import (
    TOLERANCES,
    Comparison,
    Results,
    compare,
    compare_detections,
    compare_raw,
    tolerance_of,
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
    assert Comparison(compared=9, score=1e-5, box_px=0.001, agree=100, only_file=1).passes(strict)
    assert not Comparison(compared=9, score=1e-3).passes(strict)
    assert not Comparison(compared=9, score=float("nan")).passes(strict)
    assert not Comparison(compared=9, box_px=0.1).passes(strict)
    assert not Comparison(compared=9, agree=9, only_model=1).passes(strict)
    assert Comparison(compared=9, score=1.0, box_px=99.0, only_file=5, change=0.1).passes(TOLERANCES["int8"])
    assert not Comparison(compared=9, change=0.2).passes(TOLERANCES["int8"])
    assert not Comparison(compared=9, change=float("nan")).passes(TOLERANCES["int8"])


@pytest.mark.parametrize(
    ("head", "precision", "passes"),
    [("raw", "fp32", True), ("raw", "fp16", False), ("nms", "fp32", False), ("topk", "fp32", False)],
)
def test_near_ties_in_suppression_outside_a_file_are_not_its_fault(
    head: Head, precision: Precision, passes: bool
) -> None:
    card = ExportCard(class_names=("a",), image_size=(64, 64), head=head, precision=precision)
    assert Comparison(compared=9, agree=7, only_model=3, only_file=3).passes(tolerance_of(card)) == passes
    assert not Comparison(compared=9, score=0.1).passes(tolerance_of(card))


@pytest.mark.parametrize("precision", TOLERANCES)
def test_where_nothing_was_compared_or_a_number_is_none_nothing_passes(precision: Precision) -> None:
    tolerance = TOLERANCES[precision]
    assert Comparison(compared=1).passes(tolerance)
    assert not Comparison().passes(tolerance)
    assert not Comparison(compared=1, not_finite=1).passes(tolerance)


@pytest.mark.parametrize(("precision", "score", "box_px"), [("fp16", 0.03, 3.0), ("bf16", 0.2, 20.0)])
def test_half_precision_has_limits_too(precision: Precision, score: float, box_px: float) -> None:
    tolerance = TOLERANCES[precision]
    assert Comparison(compared=1, score=score / 2, box_px=box_px / 2).passes(tolerance)
    assert not Comparison(compared=1, score=score).passes(tolerance)
    assert not Comparison(compared=1, box_px=box_px).passes(tolerance)
    assert not Comparison(compared=1, agree=7, only_file=3).passes(tolerance)


@pytest.mark.parametrize("strange", [np.nan, np.inf])
@pytest.mark.parametrize("where", ["scores", "boxes"])
def test_a_number_that_is_none_in_a_later_image_is_counted(where: str, strange: float) -> None:
    scores, boxes = SCORES.copy(), BOXES.copy()
    (scores if where == "scores" else boxes)[1, 0] = strange
    comparison = compare_raw([(SCORES, BOXES)] * 3, [(SCORES, BOXES), (SCORES, BOXES), (scores, boxes)])
    assert (comparison.not_finite, comparison.compared, comparison.score, comparison.box_px) == (1, 6, 0, 0)


def test_a_detection_that_is_none_is_counted_and_the_others_are_compared() -> None:
    comparison = compare_detections([found([0.9, 0.8], [0, 100])], [found([0.9, float("nan")], [0, 100])])
    assert (comparison.not_finite, comparison.agree, comparison.only_model) == (1, 1, 1)


def test_of_boxes_that_overlap_as_much_the_one_with_the_same_score_is_meant() -> None:
    comparison = compare_detections([found([0.9, 0.5], [0, 0])], [found([0.5, 0.9], [0, 0])])
    assert (comparison.agree, comparison.score) == (2, 0)


def test_it_is_told_what_people_would_see_of_both() -> None:
    comparison = compare_detections([found([0.9, 0.41], [0, 100])], [found([0.9, 0.39], [0, 100])])
    assert comparison.shown == (2, 1)


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
    assert compare_detections([found([], [])], [found([], [])]) == Comparison(compared=0)
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


def test_of_a_raw_head_differences_are_those_of_all_points() -> None:
    one = Results([found([0.9], [0])], [(SCORES, BOXES)])
    both = compare(one, Results([found([0.8], [0])], [(SCORES, BOXES)]))
    assert (both.score, both.agree, both.compared) == (0, 1, 2)


def test_of_other_heads_what_is_too_unsure_to_be_detected_counts_too() -> None:
    one = Results([found([], [])], [found([0.04, 0.03], [0, 100])])
    assert compare(one, one).compared == 2
    spoilt = compare(one, Results([found([], [])], [found([0.02, 0.01], [300, 400])]))
    assert (spoilt.agree, spoilt.only_model, spoilt.only_file) == (0, 2, 2)
    assert not spoilt.passes(TOLERANCES["fp32"])


def test_of_the_detections_and_of_all_the_less_alike_are_told() -> None:
    all_of_it = [found([0.9, 0.8], [0, 100])]
    comparison = compare(Results([found([0.9], [0])], all_of_it), Results([found([], [])], all_of_it))
    assert (comparison.agree, comparison.only_model) == (0, 1)


def test_images_of_a_batch_come_again_until_it_is_full() -> None:
    parts = Results([found([score], [0]) for score in (0.1, 0.2, 0.3)], [(SCORES, BOXES)] * 3).filling(8)
    assert [float(each.scores[0].round(1)) for each in parts.detections[:5]] == pytest.approx(
        [0.1, 0.2, 0.3, 0.1, 0.2]
    )
    assert len(parts.detections) == len(parts.outputs) == 8
