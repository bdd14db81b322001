"""The criterion: every golden case, terms and gradients, and its edge cases."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from conftest import goldens
from damoyolo.boxes.points import Pyramid
from damoyolo.boxes.types import Predictions, Targets
from damoyolo.losses.criterion import Criterion

GOLDEN_FILES = goldens("golden-loss*.npz")
CASES = [
    (path, case)
    for path in GOLDEN_FILES
    for case in sorted({key.split("/")[0] for key in np.load(path).files})
]


def read_case(path, case):
    numbers = {
        key.split("/", 1)[1]: torch.from_numpy(np.asarray(value))
        for key, value in np.load(path).items()
        if key.startswith(f"{case}/")
    }
    images = len(numbers["cls_logits"])
    targets = Targets.pad(
        [numbers[f"gt_boxes{image}"] for image in range(images)],
        [numbers[f"gt_labels{image}"] for image in range(images)],
    )
    class_logits = numbers["cls_logits"].clone().requires_grad_()
    side_logits = numbers["reg_logits"].clone().requires_grad_()
    pyramid = Pyramid.of_image(*numbers["hw"].tolist())
    return numbers, Predictions(class_logits, side_logits, pyramid), targets


@pytest.mark.parametrize(("path", "case"), CASES, ids=[case for _, case in CASES])
def test_terms_and_gradients_equal_every_golden_case(path, case):
    numbers, predictions, targets = read_case(path, case)
    losses = Criterion()(predictions, targets)
    ties = bool(numbers.get("tie_sensitive", torch.tensor(False)))
    prefix = "lowidx_" if ties else ""
    found = {
        "total_loss": losses.total,
        "loss_cls": losses.quality,
        "loss_bbox": losses.giou,
        "loss_dfl": losses.sides,
    }
    for name, value in found.items():
        assert value.item() == pytest.approx(numbers[prefix + name].item(), abs=3.1e-5, rel=1e-5), name
    assert torch.allclose(predictions.boxes, numbers["decoded"], atol=1e-4)
    if ties:
        return
    losses.total.backward()
    for name, logits in (("cls", predictions.class_logits), ("reg", predictions.side_logits)):
        gradient = logits.grad
        torch.testing.assert_close(gradient.double().norm(), numbers[f"grad_{name}_l2"], rtol=1e-5, atol=1e-8)
        torch.testing.assert_close(
            gradient.flatten()[::37], numbers[f"grad_{name}_slice"], rtol=1e-4, atol=1e-7
        )
        per_point = gradient.double().abs().flatten(2).sum(dim=2)
        torch.testing.assert_close(per_point, numbers[f"grad_{name}_l1"], rtol=1e-4, atol=1e-7)


def random_predictions(images=2, classes=3, bins=8):
    generator = torch.Generator().manual_seed(0)
    pyramid = Pyramid.of_image(64, 96)
    points = sum(pyramid.counts)
    class_logits = torch.randn(images, points, classes, generator=generator) - 4
    side_logits = torch.randn(images, points, 4, bins, generator=generator)
    return Predictions(class_logits.requires_grad_(), side_logits.requires_grad_(), pyramid)


def test_a_batch_without_boxes_has_no_box_loss_and_gradients_everywhere():
    predictions = random_predictions()
    empty = Targets.pad([torch.zeros(0, 4)] * 2, [torch.zeros(0, dtype=torch.int64)] * 2)
    losses = Criterion()(predictions, empty)
    losses.total.backward()
    assert losses.quality > 0
    assert losses.giou == 0
    assert losses.sides == 0
    assert predictions.class_logits.grad.abs().sum() > 0
    assert predictions.side_logits.grad is not None


def test_extreme_logits_stay_finite():
    predictions = random_predictions()
    with torch.no_grad():
        predictions.class_logits.mul_(1e3)
        predictions.side_logits.mul_(1e3)
    targets = Targets.pad([torch.tensor([[8.0, 8, 50, 50]])] * 2, [torch.tensor([1])] * 2)
    losses = Criterion()(predictions, targets)
    losses.total.backward()
    assert torch.isfinite(losses.total)
    assert torch.isfinite(predictions.class_logits.grad).all()
    assert torch.isfinite(predictions.side_logits.grad).all()
