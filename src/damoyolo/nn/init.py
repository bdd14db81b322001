"""Initial weights where they differ from PyTorch's defaults.

Those of a network without numbers (meta device) are not drawn: to pretend that they were, PyTorch would
import its compiler.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


def init_inverted_backbone(backbone: nn.Module) -> None:
    """Nano backbones: convolution weights ~ N(0, 1/fan), fan = input channels per group; BN bias 1e-4.

    The standard deviation ignores the kernel's area; every convolution is followed by normalisation, so this
    sets the step size relative to the weights rather than the scale of the features.
    """
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d):
            _draw(nn.init.normal_, module.weight, std=module.groups / module.in_channels)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.constant_(module.bias, 1e-4)


def init_depthwise_downsample(module: nn.Module) -> None:
    """Depthwise downsamplers of the neck: Kaiming normal over the outputs."""
    for conv in module.modules():
        if isinstance(conv, nn.Conv2d):
            _draw(nn.init.kaiming_normal_, conv.weight, mode="fan_out", nonlinearity="relu")


def init_projection(conv: nn.Conv2d, prior: float | None = None) -> None:
    """A head projection: N(0, 0.01) weights; the bias gives probability `prior`, or logit 0.

    The small prior keeps thousands of background points from drowning the first steps (arXiv 1708.02002).
    """
    _draw(nn.init.normal_, conv.weight, std=0.01)
    assert conv.bias is not None
    with torch.no_grad():
        conv.bias.fill_(0.0 if prior is None else math.log(prior / (1 - prior)))


def _draw(initialise: Callable[..., Tensor], weight: Tensor, **how: Any) -> None:
    if not weight.is_meta:
        initialise(weight, **how)
