from __future__ import annotations

from typing import get_args

import pytest
import torch
from torch import nn

from damoyolo.nn.detector import Detector, build_detector
from damoyolo.spec import ModelCard
from damoyolo.training.freeze import Part, freeze
from damoyolo.training.optim import build_optimizer, set_learning_rate
from tiny_runs import SMALL_SPEC

PARTS: tuple[Part, ...] = get_args(Part)


def new_detector() -> Detector:
    torch.manual_seed(0)
    card = ModelCard(spec=SMALL_SPEC, class_names=("a", "b"), image_size=(64, 64))
    return build_detector(card).eval()


def is_norm(module: nn.Module) -> bool:
    return isinstance(module, nn.BatchNorm2d)


def in_norms(detector: Detector) -> set[str]:
    return {
        f"{name}.{leaf}"
        for name, module in detector.named_modules()
        if is_norm(module)
        for leaf in module.state_dict()
    }


@pytest.mark.parametrize("parts", [(), *((part,) for part in PARTS), ("backbone", "norms")])
def test_a_step_changes_everything_but_what_is_frozen(parts: tuple[Part, ...]) -> None:
    detector = freeze(new_detector(), parts)
    before = {key: value.clone() for key, value in detector.state_dict().items()}
    optimizer = build_optimizer(detector, "adamw", weight_decay=0.1, momentum=0.9)
    predictions = detector(torch.randint(0, 256, (2, 3, 64, 64)).float())
    for out in (predictions.class_logits, predictions.side_logits):
        (out * torch.randn_like(out)).sum().backward(retain_graph=True)
    set_learning_rate(optimizer, 0.1)
    optimizer.step()
    norms = in_norms(detector)
    kept = {key for key in before if key.split(".")[0] in parts or ("norms" in parts and key in norms)}
    assert {key for key, value in detector.state_dict().items() if torch.equal(value, before[key])} == kept
    for name, parameter in detector.named_parameters():
        assert parameter.requires_grad == (name not in kept), name
        assert (parameter.grad is None) == (name in kept), name


def test_everything_else_is_in_training_mode() -> None:
    detector = freeze(new_detector(), ("neck",))
    assert detector.training
    assert all(not module.training for module in detector.neck.modules() if is_norm(module))
    assert all(module.training for module in detector.backbone.modules())
