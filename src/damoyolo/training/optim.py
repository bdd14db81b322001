"""Optimizer and learning-rate schedule."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from torch import nn
from torch.optim import SGD, AdamW, Optimizer


def build_optimizer(
    model: nn.Module, name: Literal["sgd", "adamw"], weight_decay: float, momentum: float
) -> Optimizer:
    """An optimizer over two groups: biases and norms without decay, everything else with it.

    Few groups let one fused kernel update all tensors. The schedule sets the learning rate before every step.
    """
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for module in model.modules():
        is_norm = isinstance(module, nn.modules.batchnorm._BatchNorm)
        for leaf, parameter in module.named_parameters(recurse=False):
            (plain if is_norm or leaf == "bias" else decayed).append(parameter)
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
    if name == "adamw":
        return AdamW(groups, lr=0.0, fused=True)
    return SGD(groups, lr=0.0, momentum=momentum, nesterov=momentum > 0, fused=True)


@dataclass(frozen=True)
class Schedule:
    """Quadratic warm-up, cosine, then a flat floor for the epochs without augmentation.

    Args:
        peak: learning rate at the end of the warm-up.
        total: steps of the whole run.
        warmup: steps of the rise.
        flat: steps at the floor, at the end.
        floor_ratio: floor as a share of the peak.
    """

    peak: float
    total: int
    warmup: int
    flat: int
    floor_ratio: float

    def __call__(self, step: int) -> float:
        """Learning rate for the step with this number, counted from 0."""
        floor = self.peak * self.floor_ratio
        if step < self.warmup:
            return self.peak * (step / self.warmup) ** 2
        if step >= self.total - self.flat:
            return floor
        progress = (step - self.warmup) / (self.total - self.warmup - self.flat)
        return floor + (self.peak - floor) * (1 + math.cos(math.pi * progress)) / 2
