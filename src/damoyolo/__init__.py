"""DAMO-YOLO as real software: search, train, distil and ship real-time object detectors.

Importing the package is cheap; torch is imported when something is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from damoyolo.assemble import build, evaluate, export_model, load, resolve, train
    from damoyolo.boxes.assign import AlignedOTA
    from damoyolo.config import TrainConfig
    from damoyolo.detections import Detections
    from damoyolo.errors import RunError, UserError
    from damoyolo.export.runtime import open_runtime
    from damoyolo.nn.detector import Detector
    from damoyolo.prediction import predict
    from damoyolo.spec import ModelSpec, Structure

_HOMES = {
    "AlignedOTA": "boxes.assign",
    "Detections": "detections",
    "Detector": "nn.detector",
    "ModelSpec": "spec",
    "RunError": "errors",
    "Structure": "spec",
    "TrainConfig": "config",
    "UserError": "errors",
    "build": "assemble",
    "evaluate": "assemble",
    "export_model": "assemble",
    "load": "assemble",
    "open_runtime": "export.runtime",
    "predict": "prediction",
    "resolve": "assemble",
    "train": "assemble",
}

__all__ = [
    "AlignedOTA",
    "Detections",
    "Detector",
    "ModelSpec",
    "RunError",
    "Structure",
    "TrainConfig",
    "UserError",
    "build",
    "evaluate",
    "export_model",
    "load",
    "open_runtime",
    "predict",
    "resolve",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'damoyolo' has no attribute '{name}'")
    return getattr(importlib.import_module(f"damoyolo.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
