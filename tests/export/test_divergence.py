"""The first layer that differs is found, in all kinds of networks, precisions and heads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from damoyolo.export import onnx as export_onnx
from damoyolo.export.card import ExportCard
from damoyolo.export.divergence import LAST, first_divergence
from damoyolo.export.rewrite import Network
from damoyolo.nn.detector import Detector
from exportable import CLASS_NAMES, SPECS, lively, photograph, quick_exports  # noqa: F401 (a fixture)


def written(detector: Detector, folder: Path, spoilt: str = "", factor: float = 1.5, **about: Any) -> Path:
    """A file, one convolution of which has other weights."""
    card = ExportCard(class_names=CLASS_NAMES, image_size=(64, 96), **about)
    model = export_onnx.to_onnx(detector, card)
    for weights in model.graph.initializer:
        if weights.name == f"network.{spoilt}.weight":
            values = onnx.numpy_helper.to_array(weights)
            scaled = (values * factor).astype(values.dtype)
            weights.CopyFrom(onnx.numpy_helper.from_array(scaled, weights.name))
    onnx.save(model, folder / "m.onnx")
    return folder / "m.onnx"


def diverges(detector: Detector, file: Path, **options: Any) -> str:
    images = photograph(64, 96)[None].transpose(0, 3, 1, 2).astype(np.float32)
    sparse = options.pop("sparse", False)
    return first_divergence(Network(detector, sparse=sparse), file, images, images, **options)


@pytest.mark.parametrize(
    ("kind", "place"),
    [
        ("res", "backbone.stages.1.1.reduce.conv"),
        pytest.param("csp", "neck.fuse_p4.mix.conv", marks=pytest.mark.slow),
    ],
)
def test_activations_in_place_do_not_hide_the_layer(kind: str, place: str, tmp_path: Path) -> None:
    detector = lively(SPECS[kind])
    places = [name for name, _ in Network(detector).named_modules()]
    assert place in places
    assert diverges(detector, written(detector, tmp_path)) == LAST
    assert diverges(detector, written(detector, tmp_path, place)) == place


def test_rounding_to_half_precision_is_no_divergence(tmp_path: Path) -> None:
    detector, place, half = lively(), "neck.fuse_p3.bypass.coarse", "fp16"
    sound = written(detector, tmp_path, precision=half)
    assert diverges(detector, sound) != LAST
    assert diverges(detector, sound, precision=half) == LAST
    assert diverges(detector, written(detector, tmp_path, place, precision=half), precision=half) == place


@pytest.mark.slow
def test_a_layer_of_the_head_topk_is_found(tmp_path: Path) -> None:
    detector, place = lively(), "neck.fuse_p3.bypass.coarse"
    file = written(detector, tmp_path, place, head="topk", max_detections=300)
    assert diverges(detector, file, sparse=True) == place
