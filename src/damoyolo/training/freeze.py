"""Parts of a detector that a run leaves as they are."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from torch import nn

from damoyolo.nn.detector import Detector

Part = Literal["backbone", "neck", "head", "norms"]


def freeze(detector: Detector, parts: Iterable[Part]) -> Detector:
    """The same detector in training mode, with those parts without gradients and running statistics kept.

    `norms` are all normalisations, wherever they are: they compute with what they have learnt before, so
    that a small batch cannot spoil it.
    """
    detector.train()
    for part in parts:
        for module in detector.modules() if part == "norms" else getattr(detector, part).modules():
            is_norm = isinstance(module, nn.modules.batchnorm._BatchNorm)
            if is_norm:
                module.eval()
            if is_norm or part != "norms":
                for parameter in module.parameters(recurse=False):
                    parameter.requires_grad_(False)
    return detector
