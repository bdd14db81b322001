"""Parity with the reference: the same parameters, drawn by name, must give the same numbers.

Every `golden-<size>.npz` in the golden folder is run, so a size needs nothing but its file.

On the processor that made the numbers scores are equal to the bit. Elsewhere the convolution kernels round
differently, which the tolerances below allow for and not much more: with AVX-512, AVX2 and SSE kernels up
to 2.7e-5 in a logit, 5.1e-6 in a score and 2.9e-4 px of a box were seen; the numbers are as far from what
float64 gives. Nm, of which there is no file to look at, amplifies rounding most: from one kernel to another
of one machine (one or two threads, oneDNN or not) it moves by up to 4.8e-5, 7.3e-6 and 7.2e-4 px. Training
amplifies it more: a layer's gradient moves by up to 2 %, half of S's layers by .1 %.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
import pytest
import torch

from conftest import GOLDEN, goldens
from damoyolo.boxes.select import select
from damoyolo.boxes.types import Targets
from damoyolo.losses.criterion import Criterion
from damoyolo.nn.detector import build_detector, fuse
from damoyolo.spec import ModelCard
from damoyolo.zoo import SIZES, coco_class_names, read_spec
from damoyolo.zoo.reference import reference_keys
from golden_recipe import GAINS, make_input, make_tensor

FILES = {path.stem.removeprefix("golden-"): path for path in goldens("golden-[NTSML]*.npz")}
FOUND = [size for size in SIZES if size in FILES]
each_size = pytest.mark.parametrize("size", FOUND)


class Tolerance(NamedTuple):
    """Absolute; logits may differ by 1e-5 of themselves, too, and boxes by 3e-6."""

    logit: float
    score: float
    box_px: float


TOLERANCES = dict.fromkeys(SIZES, Tolerance(3.5e-5, 7e-6, 4e-4)) | {"Nm": Tolerance(5e-5, 1e-5, 1e-3)}

FUSIONS = {
    "merge_3": "fuse_t5",
    "merge_4": "fuse_t4",
    "merge_5": "fuse_p3",
    "merge_7": "fuse_p4",
    "merge_6": "fuse_p5",
}


@pytest.fixture(autouse=True)
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_there_are_golden_networks():
    assert FOUND, f"no golden-<size>.npz in {GOLDEN}"


def golden_detector(size):
    """A detector in eval mode whose every parameter is drawn from its reference name."""
    spec = read_spec(size)
    card = ModelCard(spec=spec, class_names=coco_class_names(), image_size=(spec.image_size,) * 2)
    detector = build_detector(card).eval()
    state = detector.state_dict()
    for ours, theirs in reference_keys(detector).items():
        value = make_tensor(theirs, tuple(state[ours].shape), GAINS[size])
        if value is not None:
            state[ours].copy_(torch.from_numpy(value))
    return detector


@cache
def evaluated(size):
    """Numbers of the file, the detector, its predictions on the golden image, and what passed its stages."""
    detector = golden_detector(size)
    seen = {}

    def record(name, module):
        module.register_forward_hook(lambda _module, _inputs, output: seen.__setitem__(name, output))

    record("stage0", detector.backbone.stem)
    for index, stage in enumerate(detector.backbone.stages):
        record(f"stage{index + 1}", stage)
    for theirs, ours in FUSIONS.items():
        record(theirs, detector.neck.get_submodule(ours))
    record("backbone", detector.backbone)
    record("neck", detector.neck)
    with torch.no_grad():
        predictions = detector(torch.from_numpy(make_input(1, 128, 160)))
    return np.load(FILES[size]), detector, predictions, dict(seen)


def close(found, expected, *, atol, rtol=0.0):
    np.testing.assert_allclose(np.asarray(found), expected, atol=atol, rtol=rtol)


@each_size
def test_feature_maps(size):
    numbers, _, _, seen = evaluated(size)
    for part in ("backbone", "neck"):
        for level in range(3):
            close(seen[part][level], numbers[f"{part}/{level}"], atol=2e-5, rtol=2e-5)


@each_size
def test_every_stage_and_fusion(size):
    numbers, _, _, seen = evaluated(size)
    for key in (key for key in numbers.files if key.startswith("shape/")):
        name = key.removeprefix("shape/")
        value = seen[name].double()
        assert list(value.shape) == numbers[key].tolist(), name
        flat = value.flatten()
        stats = [value.mean(), value.std(), value.min(), value.max(), value.abs().mean()]
        close(torch.stack(stats), numbers[f"stats/{name}"], atol=2e-5, rtol=2e-5)
        close(flat[:: max(1, flat.numel() // 64)][:64], numbers[f"slice/{name}"], atol=2e-5, rtol=2e-5)


@each_size
def test_logits_scores_and_boxes(size):
    numbers, _, predictions, _ = evaluated(size)
    close(predictions.class_logits, numbers["cls_logits"], atol=TOLERANCES[size].logit, rtol=1e-5)
    close(predictions.side_logits.flatten(2), numbers["reg_logits"], atol=TOLERANCES[size].logit, rtol=1e-5)
    close(predictions.scores, numbers["scores"], atol=TOLERANCES[size].score)
    close(predictions.boxes, numbers["boxes"], atol=TOLERANCES[size].box_px, rtol=3e-6)


@each_size
def test_second_input_shape(size):
    numbers, detector, _, _ = evaluated(size)
    with torch.no_grad():
        predictions = detector(torch.from_numpy(make_input(2, 96, 64)))
    close(predictions.scores[..., ::8], numbers["alt/scores"], atol=TOLERANCES[size].score)
    close(predictions.boxes, numbers["alt/boxes"], atol=TOLERANCES[size].box_px, rtol=3e-6)


@each_size
def test_selected_boxes(size):
    numbers, detector, predictions, _ = evaluated(size)
    spec = detector.card.spec
    assert (spec.score_threshold, spec.nms_iou) == (numbers["nms/conf"], numbers["nms/iou"])
    (found,) = select(predictions, spec.score_threshold, spec.nms_iou)
    assert len(found.scores) == len(numbers["nms/scores"])
    close(found.scores, np.sort(numbers["nms/scores"])[::-1], atol=TOLERANCES[size].score)
    # Scores are near-tied in places, so boxes are compared as a set: each has its partner nearby.
    distance = torch.cdist(found.boxes, torch.from_numpy(numbers["nms/boxes"]), p=torch.inf)
    different_label = found.labels[:, None] != torch.from_numpy(numbers["nms/labels"]).long()
    distance.masked_fill_(different_label, torch.inf)
    assert (distance.amin(dim=1) < 1e-3).float().mean() > 0.99
    assert (distance.amin(dim=0) < 1e-3).float().mean() > 0.99


@each_size
def test_deploy_form(size):
    numbers, detector, _, _ = evaluated(size)
    fused = fuse(detector)
    with torch.no_grad():
        images = torch.from_numpy(make_input(1, 128, 160))
        maps = fused.neck(*fused.backbone(images))
        predictions = fused(images)
    close(predictions.scores, numbers["deploy/scores"], atol=TOLERANCES[size].score)
    close(predictions.boxes, numbers["deploy/boxes"], atol=TOLERANCES[size].box_px, rtol=3e-6)
    for level, value in enumerate(each.double() for each in maps):
        stats = [value.mean(), value.std(), value.min(), value.max(), value.abs().mean()]
        close(torch.stack(stats), numbers[f"deploy/neck{level}_stats"], atol=2e-5, rtol=2e-5)
    if len(numbers["deploy/reparam_keys"]):
        ours = {theirs: key for key, theirs in reference_keys(fused).items()}
        state = fused.state_dict()
        norms = [state[ours[str(key)]].double().norm() for key in numbers["deploy/reparam_keys"]]
        close(torch.stack(norms), numbers["deploy/reparam_l2"], atol=1e-6, rtol=1e-5)


@each_size
def test_training_step(size):
    numbers = np.load(FILES[size])
    detector = golden_detector(size).train()
    boxes = [torch.from_numpy(numbers[f"train/gt_boxes{image}"]) for image in range(2)]
    labels = [torch.from_numpy(numbers[f"train/gt_labels{image}"]) for image in range(2)]
    losses = Criterion()(detector(torch.from_numpy(make_input(2, 128, 160))), Targets.pad(boxes, labels))
    found = {
        "total_loss": losses.total,
        "loss_cls": losses.quality,
        "loss_bbox": losses.giou,
        "loss_dfl": losses.sides,
    }
    for name, value in found.items():
        close(value.item(), numbers[f"train/{name}"], atol=3.1e-5, rtol=1e-5)
    losses.total.backward()
    names = reference_keys(detector)
    gradients = {names[key]: parameter.grad for key, parameter in detector.named_parameters()}
    buffers = {names[key]: buffer for key, buffer in detector.named_buffers() if key in names}
    assert sorted(gradients) == sorted(numbers["train/grad_keys"].tolist())
    norms = torch.stack([gradients[str(key)].double().norm() for key in numbers["train/grad_keys"]])
    close(norms, numbers["train/grad_l2"], atol=5e-6, rtol=3e-2)
    ratios = norms.numpy() / numbers["train/grad_l2"].clip(min=1e-6)
    assert np.median(np.abs(ratios - 1)) < 3e-3
    norms = [buffers[str(key)].double().norm() for key in numbers["train/buf_keys"]]
    close(torch.stack(norms), numbers["train/buf_l2"], atol=1e-6, rtol=1e-5)
