"""Noticing that a run has gone wrong, before it is written down."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

EXPLODED = 1000.0
"""A loss that is so many times the usual one, or 1 where that is less, has exploded."""
MEMORY = 0.98
"""Share of the usual loss that a step keeps."""


@dataclass
class Guard:
    """Watches what every step computes; `usual` is the running mean of the loss, None before the first."""

    usual: float | None = None

    def check(self, losses: Mapping[str, float], gradient: float) -> None:
        """Raise `FloatingPointError` if a loss or the gradient's norm is no number, or the loss exploded."""
        for name, value in {**losses, "gradient's norm": gradient}.items():
            if not math.isfinite(value):
                raise FloatingPointError(f"the {name} became {value}")
        total = sum(losses.values())
        if self.usual is not None and total > EXPLODED * max(self.usual, 1.0):
            raise FloatingPointError(f"the loss exploded from {self.usual:.3g} to {total:.3g}")
        self.usual = total if self.usual is None else MEMORY * self.usual + (1 - MEMORY) * total
