from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from damoyolo.training.guard import EXPLODED, Guard


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_no_number_is_named(value: float) -> None:
    with pytest.raises(FloatingPointError, match=f"^the giou became {value}$"):
        Guard().check({"quality": 1.0, "giou": value}, 1.0)
    with pytest.raises(FloatingPointError, match=f"^the gradient's norm became {value}$"):
        Guard().check({"quality": 1.0, "giou": 2.0}, value)


def test_the_usual_loss_follows_slowly_and_not_a_step_that_is_refused() -> None:
    guard = Guard()
    guard.check({"quality": 1.0, "giou": 3.0}, 1.0)
    assert guard.usual == 4.0
    guard.check({"quality": 2.0, "giou": 4.0}, 1.0)
    assert guard.usual == pytest.approx(4.0 + 0.02 * 2.0)
    before = guard.usual
    with pytest.raises(FloatingPointError, match=r"^the loss exploded from 4.04 to 1e\+05$"):
        guard.check({"quality": 1e5, "giou": 0.0}, 1.0)
    assert guard.usual == before


@given(usual=st.floats(1e-3, 1e3), factor=st.floats(0, 2 * EXPLODED))
def test_only_more_than_a_thousand_times_the_usual_loss_is_an_explosion(usual: float, factor: float) -> None:
    guard = Guard(usual)
    if factor * usual > EXPLODED * max(usual, 1.0):
        with pytest.raises(FloatingPointError, match="exploded"):
            guard.check({"quality": factor * usual}, 1.0)
    else:
        guard.check({"quality": factor * usual}, 1.0)


def test_the_first_loss_of_a_run_may_be_anything_finite() -> None:
    Guard().check({"quality": 1e30}, 1e30)
