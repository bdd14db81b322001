"""Detectors for tests of export: tiny, with numbers that look trained, and sure of many things."""

from __future__ import annotations

import copy
import hashlib
import os
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from damoyolo.assemble import shipping
from damoyolo.export import onnx as export_onnx
from damoyolo.export.bench import time_calls
from damoyolo.export.card import ExportCard
from damoyolo.files import write_atomically
from damoyolo.nn.detector import Detector, build_detector
from damoyolo.spec import ModelCard, ModelSpec
from tiny_runs import SMALL_SPEC

CLASS_NAMES = ("dust", "cell", "leaf")
RES = {
    "name": "tiny",
    "structure": {
        "kind": "res",
        "stem": {"type": "focus", "out": 8},
        "blocks": [
            {"type": "k1kx", "out": 16, "bottleneck": 8, "stride": 2, "layers": 1},
            {"type": "k1kx", "out": 24, "bottleneck": 8, "stride": 2, "layers": 2},
            {"type": "k1kx", "out": 24, "bottleneck": 8, "stride": 2, "layers": 1},
            {"type": "k1kx", "out": 32, "bottleneck": 8, "stride": 2, "layers": 1},
        ],
        "activation": "relu",
        "rep": True,
        "spp": True,
    },
    "neck": {"out": [16, 24, 32], "depth": 1, "activation": "relu"},
    "head": {"bins": 8, "kernel": 3},
    "image_size": 64,
}
CSP = copy.deepcopy(RES)
CSP["structure"] |= {"kind": "csp", "activation": "silu", "wrap_activation": "relu"}
for block in CSP["structure"]["blocks"]:
    block["layers"] = 2
SPECS = {"mob": SMALL_SPEC, "res": ModelSpec.model_validate(RES), "csp": ModelSpec.model_validate(CSP)}
"""A detector of each kind of backbone; those of `res` and `csp` have activations that work in place."""


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
            nn.init.normal_(regress.weight, std=0.2)
        detector.train()(torch.randint(0, 256, (4, 3, *image_size)).float())
    return detector.eval()


def photograph(height: int = 50, width: int = 70, seed: int = 0) -> np.ndarray:
    """Soft noise, uint8 RGB (h w 3)."""
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 5 + 1, width // 5 + 1, 3))
    return np.kron(coarse, np.ones((5, 5, 1)))[:height, :width].astype(np.uint8)


@pytest.fixture(autouse=True, scope="module")
def quick_exports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """For a module that imports it: no graph is written twice in a run, and files are timed briefly."""
    write, own = export_onnx.to_onnx, tmp_path_factory.getbasetemp()
    folder = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own

    def to_onnx(detector: Detector, card: ExportCard) -> onnx.ModelProto:
        key = shipping.sha256_of_weights(detector) + _inside(card).to_json()
        path = folder / f"{hashlib.sha256(key.encode()).hexdigest()}.onnx"
        if not path.exists():
            write_atomically(path, write(detector, card).SerializeToString())
        model = onnx.load(path)
        export_onnx.describe(model, card)
        return model

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export_onnx, "to_onnx", to_onnx)
        patch.setattr(shipping, "time_calls", partial(time_calls, seconds=0.01, warm_up=1, least=2))
        yield


def _inside(card: ExportCard) -> ExportCard:
    """What of a card shapes the graph."""
    fields = {"head", "precision", "preprocess", "dynamic", "batch", "image_size"}
    if card.head != "raw":
        fields |= {"score_threshold", "nms_iou", "max_detections"}
    known = card.model_dump(include=fields)
    known["precision"] = {"bf16": "fp32"}.get(card.precision, card.precision)  # OpenVINO rounds to it later
    return ExportCard(class_names=("any",), **known)
