from __future__ import annotations

import cv2
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from damoyolo.search.cost import Costs
from damoyolo.search.evolve import Member
from damoyolo.search.pareto import knees, pareto_front, plot_front
from damoyolo.search.space import Genes


def member(score: float, flops: int) -> Member:
    return Member(float(score), (Genes(8),), Costs(1000, flops, 9, 0.5))


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(1, 20)), min_size=1, max_size=30))
def test_the_front_is_what_nothing_beats(pairs: list[tuple[int, int]]) -> None:
    members = [member(score, flops) for score, flops in pairs]
    front = pareto_front(members, "flops")
    costs, scores = [each.costs.flops for each in front], [each.score for each in front]
    assert costs == sorted(set(costs))
    assert scores == sorted(set(scores))
    for each in members:
        assert any(best.score >= each.score and best.costs.flops <= each.costs.flops for best in front)


def test_the_knee_is_where_the_score_stops_rising_fast() -> None:
    front = [member(10.0 * n, 2**n) for n in range(6)] + [member(50.0 + n, 2 ** (5 + n)) for n in range(1, 6)]
    assert knees(front, "flops", 1) == [front[5]]


def test_a_family_has_one_of_every_range_of_cost() -> None:
    front = [member(float(n), 2**n) for n in range(1, 31)]
    chosen = knees(front, "flops", 3)
    assert len(chosen) == 3
    costs = [each.costs.flops for each in chosen]
    assert costs == sorted(costs)
    assert costs[0] <= 2**11 <= costs[1] + 2**11
    assert costs[2] >= 2**20


def test_a_short_front_is_taken_whole() -> None:
    front = [member(1.0, 10), member(2.0, 20)]
    assert knees(front, "flops", 3) == front


def test_where_a_range_of_cost_is_empty_the_family_is_filled_up_from_the_gaps() -> None:
    front = [member(float(n), flops) for n, flops in enumerate((100, 101, 102, 103, 9000, 10000))]
    for count in range(1, 7):
        chosen = knees(front, "flops", count)
        assert len(set(chosen)) == count
        assert chosen == [each for each in front if each in chosen]
    costs = [each.costs.flops for each in knees(front, "flops", 3)]
    assert min(costs) <= 103 < 9000 <= max(costs)


def test_the_picture_shows_the_front_and_what_was_chosen() -> None:
    front = [member(float(n), 10**9 * n) for n in range(1, 20)]
    plain = plot_front(front, "flops", front[:1])
    shown = plot_front(front, "flops", [front[0], front[9]], others=front)
    images = [cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR) for png in (plain, shown)]
    red = [int((abs(image.astype(int) - (40, 39, 214)).sum(axis=2) < 20).sum()) for image in images]
    assert red[1] > red[0] > 0
