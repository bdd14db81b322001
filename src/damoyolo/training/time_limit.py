"""A run that is told when to end rather than after how many epochs."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field

from damoyolo.plan import Plan

SURE_AFTER_STEPS = 10
"""Steps after which the speed is known well enough to plan by it."""
ONLY_SHORTER = 0.9
"""Share of the run after which it is only made shorter, no longer longer."""


@dataclass
class TimeLimit:
    """Fits the plan of a run to the time that is left.

    Args:
        longest: steps of the run if time does not matter.
        seconds: the limit, for steps, evaluations and checkpoints together.
        spent: seconds used up before this process began (a resumed run).
        last_evaluation: seconds the latest evaluation took; the one at the end needs as many.
    """

    longest: int
    seconds: float = math.inf
    spent: float = 0.0
    last_evaluation: float = 0.0
    _start: float = field(default_factory=time.monotonic)

    @property
    def elapsed(self) -> float:
        """Seconds used up."""
        return self.spent + time.monotonic() - self._start

    def steps(self, plan: Plan, step: int) -> int:
        """How many steps the run has if it goes on as fast as it did up to this one."""
        if math.isinf(self.seconds) or step < SURE_AFTER_STEPS:
            return plan.steps
        elapsed = self.elapsed
        left = max(0.0, self.seconds - elapsed - self.last_evaluation)
        steps = min(self.longest, step + int(left * step / elapsed))
        return min(steps, plan.steps) if plan.progress(step) > ONLY_SHORTER else steps
