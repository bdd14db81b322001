from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from damoyolo.plan import Plan
from damoyolo.training import time_limit
from damoyolo.training.time_limit import ONLY_SHORTER, SURE_AFTER_STEPS, UNKNOWN_EVALUATION, TimeLimit


class Clock:
    """In the place of time.monotonic, for the limit alone: a server's loop may run beside it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time_limit, "time", SimpleNamespace(monotonic=clock))
    return clock


def begin_at(clock: Clock, longest: int, last_evaluation: float | None = 0.0, **settings: float) -> TimeLimit:
    return TimeLimit(longest, **settings, last_evaluation=last_evaluation, _start=clock.now)


def run(clock: Clock, limit: TimeLimit, seconds: Callable[[int], float], begin: int = 0) -> list[int]:
    """The plan's lengths after each step of a run that looks at the clock after every one."""
    plan = Plan(limit.longest, 10)
    lengths = []
    step = begin
    while step < plan.steps:
        clock.now += seconds(step)
        step += 1
        plan.steps = limit.steps(plan, step)
        lengths.append(plan.steps)
    return lengths


def test_at_an_even_speed_the_run_ends_at_the_limit(clock: Clock) -> None:
    lengths = run(clock, begin_at(clock, 1000, seconds=50.0), lambda _: 0.5)
    assert set(lengths[: SURE_AFTER_STEPS - 1]) == {1000}
    assert set(lengths[SURE_AFTER_STEPS - 1 :]) == {100}


@pytest.mark.parametrize("change", [0.25, 0.5, 2.0, 4.0])
@pytest.mark.parametrize("at", [20, 80])
def test_a_speed_that_changes_changes_the_length_and_the_limit_holds(
    clock: Clock, change: float, at: int
) -> None:
    limit = begin_at(clock, 10_000, seconds=50.0)
    lengths = run(clock, limit, lambda step: 0.5 * (1 if step < at else change))
    assert lengths[at - 1] == 100
    assert limit.elapsed <= 50.0 + 0.5 * max(1.0, change)
    assert (lengths[-1] > 100) == (change < 1)
    assert limit.elapsed > 0.85 * 50


def test_near_the_end_it_only_gets_shorter(clock: Clock) -> None:
    faster = run(clock, begin_at(clock, 10_000, seconds=50.0), lambda step: 0.5 if step < 95 else 0.05)
    late = faster[int(ONLY_SHORTER * 100) :]
    assert late == sorted(late, reverse=True)
    assert len(faster) == 100
    slower = run(clock, begin_at(clock, 10_000, seconds=50.0), lambda step: 0.5 if step < 92 else 2.0)
    assert 92 < len(slower) < 97


def test_it_is_never_longer_than_the_longest(clock: Clock) -> None:
    assert run(clock, begin_at(clock, 30, seconds=1e6), lambda _: 0.001) == [30] * 30


def test_without_a_limit_the_plan_stays(clock: Clock) -> None:
    assert run(clock, begin_at(clock, 30), lambda _: 1e6) == [30] * 30
    assert math.isinf(TimeLimit(30).seconds)


def test_the_evaluation_at_the_end_is_left_time_for(clock: Clock) -> None:
    limit = begin_at(clock, 1000, seconds=50.0, last_evaluation=10.0)
    assert len(run(clock, limit, lambda _: 0.5)) == 80
    unknown = begin_at(clock, 1000, seconds=50.0, last_evaluation=None)
    assert len(run(clock, unknown, lambda _: 0.5)) == 100 * (1 - UNKNOWN_EVALUATION)


def test_a_resumed_run_has_the_time_that_is_left(clock: Clock) -> None:
    limit = begin_at(clock, 1000, seconds=50.0)
    limit.spent = 30.0
    assert limit.elapsed == 30.0
    assert len(run(clock, limit, lambda _: 0.5, begin=60)) == 40


def test_time_that_is_over_ends_the_run_at_this_step(clock: Clock) -> None:
    limit = begin_at(clock, 1000, seconds=50.0)
    clock.now += 60
    assert limit.steps(Plan(1000, 10), 70) == 70
