"""A run that is told when to end rather than after how many epochs."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field

from damoyolo.plan import Plan

SURE_AFTER_STEPS = 3
"""Steps after which the speed is known well enough to plan by it."""
UNKNOWN_EVALUATION = 0.2
"""Share of the limit kept free for the evaluation at the end before one has been timed."""
ONLY_SHORTER = 0.9
"""Share of the run after which it is only made shorter, no longer longer."""


@dataclass
class TimeLimit:
    """Fits the plan of a run to the time that is left.

    Args:
        longest: steps of the run if time does not matter.
        seconds: the limit, for steps, evaluations and checkpoints together.
        spent: seconds used up before this process began (a resumed run).
        last_evaluation: seconds the latest evaluation took, None before the first; the last needs as many.
    """

    longest: int
    seconds: float = math.inf
    spent: float = 0.0
    last_evaluation: float | None = None
    _start: float = field(default_factory=time.monotonic)

    @property
    def is_set(self) -> bool:
        """Whether there is a limit."""
        return math.isfinite(self.seconds)

    @property
    def elapsed(self) -> float:
        """Seconds used up."""
        return self.spent + time.monotonic() - self._start

    def steps(self, plan: Plan, step: int) -> int:
        """How many steps the run has if it goes on as fast as it did up to this one."""
        if not self.is_set or step < SURE_AFTER_STEPS:
            return plan.steps
        elapsed = self.elapsed
        evaluation = self.last_evaluation
        if evaluation is None:
            evaluation = UNKNOWN_EVALUATION * self.seconds
        left = max(0.0, self.seconds - elapsed - evaluation)
        steps = min(self.longest, step + int(left * step / elapsed))
        return min(steps, plan.steps) if plan.progress(step) > ONLY_SHORTER else steps
