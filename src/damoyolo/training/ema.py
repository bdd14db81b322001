"""Exponential moving average of the weights: the model that is evaluated and shipped."""

from __future__ import annotations

import copy
import math
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

Model = TypeVar("Model", bound=nn.Module)


class Ema(Generic[Model]):
    """A second copy of the model that follows the first slowly.

    The decay at step i is `decay` (1 - exp(-i / warmup_steps)), so the first steps are followed closely.
    Parameters and running statistics are averaged; integer counters stay as they are.
    """

    def __init__(self, model: Model, decay: float, warmup_steps: float) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay, self.warmup_steps = decay, warmup_steps
        self._source, self._average = _floating(model), _floating(self.model)

    def decay_at(self, step: int) -> float:
        """Share of the old average that the step with this number keeps; 0 at step 0."""
        return self.decay * (1 - math.exp(-step / self.warmup_steps))

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move towards the model after the optimizer's step with this number, counted from 0."""
        torch._foreach_lerp_(self._average, self._source, 1 - self.decay_at(step))


def _floating(model: nn.Module) -> list[Tensor]:
    return [value for value in model.state_dict().values() if value.is_floating_point()]
