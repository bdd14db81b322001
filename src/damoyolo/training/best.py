"""The best evaluation of a run, and when to stop waiting for a better one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass
class Best:
    """Remembers the best evaluation by one of its numbers; of equal ones the latest.

    Args:
        by: name of the number, such as `ap`, `ap50` or `ap/cat`; higher is better.
        patience: epochs without a better one after which to stop; None waits for ever.
        value: the best so far.
        improved_at: epoch of the first evaluation with that value, which patience counts from.
        kept_at: epoch of the latest one, whose weights are kept.
    """

    by: str = "ap"
    patience: int | None = None
    value: float = -math.inf
    improved_at: int = 0
    kept_at: int = 0

    def update(self, epoch: int, numbers: Mapping[str, float]) -> bool:
        """Whether this evaluation is the best so far; a NaN (a class without a box) never is."""
        value = numbers[self.by]
        better = value >= self.value
        if better:
            self.improved_at = epoch if value > self.value else self.improved_at
            self.value, self.kept_at = value, epoch
        return better

    def gives_up(self, epoch: int) -> bool:
        """Whether the last improvement is `patience` epochs ago."""
        return self.patience is not None and epoch - self.improved_at >= self.patience
