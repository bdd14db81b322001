"""Parameters and FLOPs of the suite, against what was measured on the reference."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from damoyolo.nn.detector import build_detector, fuse
from damoyolo.spec import ModelCard
from damoyolo.zoo import coco_class_names, read_spec

# size: parameters in millions while training and fused; GFLOPs (2 per multiply-add) likewise
MEASURED = {
    "Ns": (1.4057, 1.4057, 1.498, 1.498),
    "Nm": (2.7072, 2.7072, 3.582, 3.582),
    "Nl": (5.6886, 5.6886, 5.909, 5.909),
    "T": (8.8757, 8.4796, 18.983, 18.010),
    "S": (16.9356, 16.2516, 39.655, 37.617),
    "M": (29.2417, 28.1782, 63.877, 61.623),
    "L": (43.8618, 42.0581, 101.285, 97.117),
}


@pytest.mark.parametrize("size", MEASURED)
def test_parameters_and_flops_are_the_reference_s(size):
    spec = read_spec(size)
    card = ModelCard(spec=spec, class_names=coco_class_names(), image_size=(spec.image_size,) * 2)
    with torch.device("meta"):
        detector = build_detector(card).eval()
        images = torch.empty(1, 3, *card.image_size)
        forms = [detector, fuse(detector)]
    parameters = [sum(p.numel() for p in form.parameters()) / 1e6 for form in forms]
    gflops = []
    for form in forms:
        with FlopCounterMode(display=False) as counter, torch.device("meta"):
            form(images)
        gflops.append(counter.get_total_flops() / 1e9)
    assert [*parameters, *gflops] == pytest.approx(MEASURED[size], rel=0.005)
