from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from damoyolo.training.best import Best

NAN = float("nan")


def updates(best: Best, *values: float) -> list[bool]:
    return [best.update(epoch, {best.by: value, "other": 9.0}) for epoch, value in enumerate(values, 1)]


def test_of_equal_evaluations_the_latest_is_kept_but_is_no_improvement() -> None:
    best = Best(patience=2)
    assert updates(best, 0.1, 0.3, 0.2, 0.3) == [True, True, False, True]
    assert (best.value, best.improved_at) == (0.3, 2)
    assert best.gives_up(4)


def test_a_nan_is_never_the_best() -> None:
    best = Best(by="ap/cat")
    assert updates(best, NAN, 0.0, NAN) == [False, True, False]
    assert (best.value, best.improved_at) == (0.0, 2)


def test_patience_counts_epochs_since_the_last_improvement() -> None:
    best = Best(patience=3)
    updates(best, 0.1, 0.2)
    assert [best.gives_up(epoch) for epoch in (2, 3, 4, 5, 6)] == [False, False, False, True, True]


def test_patience_also_ends_a_run_of_nothing_but_nans() -> None:
    best = Best(patience=2)
    updates(best, NAN, NAN)
    assert best.gives_up(2)


def test_without_patience_it_waits_for_ever() -> None:
    best = Best()
    updates(best, 0.5)
    assert not best.gives_up(10**9)


@given(st.lists(st.floats(0, 1) | st.just(NAN), min_size=1))
def test_the_value_is_the_largest_and_the_epoch_the_first_with_it(values: list[float]) -> None:
    best = Best()
    last = [number for number, better in enumerate(updates(best, *values)) if better]
    numbers = [value for value in values if not math.isnan(value)]
    assert best.value == max(numbers, default=-math.inf)
    if numbers:
        assert best.improved_at == values.index(best.value) + 1
        assert values[last[-1]] == best.value
        assert best.value not in values[last[-1] + 1 :]
