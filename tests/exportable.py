"""Detectors for tests of export: tiny, with numbers that look trained, and sure of many things."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from damoyolo.nn.detector import Detector, build_detector
from damoyolo.spec import ModelCard, ModelSpec
from tiny_runs import SMALL_SPEC

CLASS_NAMES = ("dust", "cell", "leaf")


def lively(spec: ModelSpec = SMALL_SPEC, image_size: tuple[int, int] = (64, 96), **card: Any) -> Detector:
    """Statistics of random images, factors away from 1, and scores from 0 to 1."""
    torch.manual_seed(0)
    detector = build_detector(ModelCard(spec=spec, class_names=CLASS_NAMES, image_size=image_size, **card))
    norms = [module for module in detector.modules() if isinstance(module, nn.BatchNorm2d)]
    with torch.no_grad():
        for norm in norms:
            norm.momentum = 1.0
            nn.init.uniform_(norm.weight, 0.7, 1.3)
            nn.init.normal_(norm.bias, std=0.2)
        for scale in detector.head.scales:
            scale.fill_(1.3)
        for classify, regress in zip(detector.head.classify, detector.head.regress, strict=True):
            nn.init.normal_(classify.weight, std=0.2)
            nn.init.zeros_(classify.bias)
            nn.init.normal_(regress.weight, std=0.5)
        detector.train()(torch.randint(0, 256, (4, 3, *image_size)).float())
    return detector.eval()


def photograph(height: int = 50, width: int = 70, seed: int = 0) -> np.ndarray:
    """Soft noise, uint8 RGB (h w 3)."""
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 5 + 1, width // 5 + 1, 3))
    return np.kron(coarse, np.ones((5, 5, 1)))[:height, :width].astype(np.uint8)
