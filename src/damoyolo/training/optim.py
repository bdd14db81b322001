"""Optimizer and learning-rate schedule."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from damoyolo.plan import Plan


def build_optimizer(
    model: nn.Module,
    name: Literal["sgd", "adamw"],
    weight_decay: float,
    momentum: float,
    slow: nn.Module | None = None,
    slow_lr: float = 1.0,
) -> Optimizer:
    """An optimizer over groups of parameters: biases and norms without decay, everything else with it.

    Few groups let one fused kernel update all tensors. The learning rate is set before every step by
    `set_learning_rate`; the parameters of the part `slow` get `slow_lr` times that. What is frozen
    (`requires_grad` False) is left out.
    """
    slow_parameters = set(slow.parameters()) if slow is not None else set()
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for module in model.modules():
        is_norm = isinstance(module, nn.modules.batchnorm._BatchNorm)
        for leaf, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad:
                kind = (parameter in slow_parameters, is_norm or leaf == "bias")
                groups.setdefault(kind, []).append(parameter)
    options = [
        {
            "params": groups[is_slow, is_plain],
            "weight_decay": 0.0 if is_plain else weight_decay,
            "share": slow_lr if is_slow else 1.0,
        }
        for is_slow, is_plain in sorted(groups)
    ]
    if name == "adamw":
        return AdamW(options, lr=0.0, fused=True)
    return SGD(options, lr=0.0, momentum=momentum, nesterov=momentum > 0, fused=True)


def set_learning_rate(optimizer: Optimizer, lr: float) -> None:
    """For the next step; each group has its share of it."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["share"]


@dataclass(frozen=True)
class Schedule:
    """Quadratic warm-up, cosine, then a flat floor for the steps without augmentation.

    Args:
        peak: learning rate at the end of the warm-up.
        floor_ratio: floor as a share of the peak.
        plan: length of the run and of its phases; it may change while the run goes on.
    """

    peak: float
    floor_ratio: float
    plan: Plan

    def __call__(self, step: int) -> float:
        """Learning rate for the step with this number, counted from 0."""
        floor, warmup = self.peak * self.floor_ratio, self.plan.first_phase
        if step < warmup:
            return self.peak * (step / warmup) ** 2
        if self.plan.is_plain(step):
            return floor
        progress = (step - warmup) / (self.plan.steps - warmup - self.plan.last_phase)
        return floor + (self.peak - floor) * (1 + math.cos(math.pi * progress)) / 2
