"""How long a run is and where its phases begin: what the learning rate and the augmentation go by."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass
class Plan:
    """A run in steps, counted from 0.

    A run with a time limit changes `steps` as it learns how fast it is; everything else follows from it, so
    ask anew instead of keeping an answer.

    Args:
        steps: steps of the whole run; the last epoch may be cut short.
        steps_per_epoch: steps of a whole epoch.
        warmup: steps of the learning rate's rise.
        plain: last steps, without mosaic, mixup, affine map and box-level augmentation.
        largest_phase: warm-up and plain steps take at most this share of the run each.
    """

    steps: int
    steps_per_epoch: int
    warmup: int = 0
    plain: int = 0
    largest_phase: float = 1.0

    @property
    def epochs(self) -> int:
        """Epochs, the last one whole or not."""
        return math.ceil(self.steps / self.steps_per_epoch)

    def progress(self, step: int) -> float:
        """Share of the run that lies before a step, 0..1."""
        return min(1.0, step / self.steps)

    def is_plain(self, step: int) -> bool:
        """Whether a step belongs to the last phase."""
        return step >= self.steps - self.last_phase

    @property
    def first_phase(self) -> int:
        """Steps of the warm-up."""
        return min(self.warmup, int(self.steps * self.largest_phase))

    @property
    def last_phase(self) -> int:
        """Plain steps."""
        return min(self.plain, int(self.steps * self.largest_phase))
