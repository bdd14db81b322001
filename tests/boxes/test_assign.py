"""AlignedOTA: golden parity, and the properties any assignment must have."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import goldens
from damoyolo.boxes.assign import AlignedOTA
from damoyolo.boxes.points import Pyramid
from damoyolo.boxes.types import Targets
from plain_assign import plain_aligned_ota

GOLDEN_FILES = goldens("golden-assign*.npz")
CASES = [
    (path, case)
    for path in GOLDEN_FILES
    for case in sorted({key.split("/")[0] for key in np.load(path).files})
]


@pytest.mark.parametrize(("path", "case"), CASES, ids=[case for _, case in CASES])
def test_equals_every_golden_case(path, case):
    numbers = {
        key.split("/", 1)[1]: torch.from_numpy(np.asarray(value))
        for key, value in np.load(path).items()
        if key.startswith(f"{case}/")
    }
    height, width = numbers["hw"].tolist()
    pyramid = Pyramid.of_image(height, width)
    targets = Targets.pad([numbers["gt_boxes"]], [numbers["gt_labels"]])
    found = AlignedOTA()(numbers["scores"][None], numbers["boxes"][None], pyramid, targets)
    suffix = "_lowidx" if "gt_inds_lowidx" in numbers else ""
    assert (found.gt_index[0] + 1).tolist() == numbers[f"gt_inds{suffix}"].tolist()
    assert found.iou[0].tolist() == numbers[f"iou_targets{suffix}"].tolist()


def random_batch(seed, *, images=3, boxes=6, classes=5, size=(96, 128), smallest=1.0, noise=8.0):
    generator = torch.Generator().manual_seed(seed)

    def rand(*shape):
        return torch.rand(*shape, generator=generator)

    height, width = size
    pyramid = Pyramid.of_image(height, width)
    truth, labels = [], []
    for image in range(images):
        count = boxes if image else 0
        corner = rand(count, 2) * torch.tensor([width, height]) * 1.2 - 10
        extent = smallest + rand(count, 2) ** 3 * torch.tensor([width, height])
        truth.append(torch.cat([corner, corner + extent], dim=1))
        labels.append(torch.randint(classes, (count,), generator=generator))
    targets = Targets.pad(truth, labels)
    points, strides = pyramid.points(), pyramid.point_strides()
    sides = rand(images, len(points), 4) * strides[:, None] * noise
    predicted = torch.cat([points - sides[..., :2], points + sides[..., 2:]], dim=2)
    return rand(images, len(points), classes) ** 3, predicted, pyramid, targets


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), boxes=st.integers(0, 12), smallest=st.sampled_from([0.5, 4.0, 30.0]))
def test_equals_the_plain_per_image_loop(seed, boxes, smallest):
    batch = random_batch(seed, boxes=boxes, smallest=smallest)
    fast, plain = AlignedOTA()(*batch), plain_aligned_ota(*batch)
    assert torch.equal(fast.gt_index, plain.gt_index)
    assert torch.equal(fast.iou, plain.iou)


@pytest.mark.parametrize(("overlap", "power"), [("linear", 1), ("log", 1), ("linear", 2)])
def test_paper_form_equals_the_plain_loop(overlap, power):
    batch = random_batch(3, boxes=9)
    rule = AlignedOTA(overlap=overlap, focal_power=power)
    plain = plain_aligned_ota(*batch, overlap=overlap, focal_power=power)
    assert torch.equal(rule(*batch).gt_index, plain.gt_index)
    assert not torch.equal(plain.gt_index, AlignedOTA()(*batch).gt_index)


def test_chunk_size_bounds_memory_without_changing_the_result():
    batch = random_batch(5, boxes=12, smallest=0.5)
    small, large = AlignedOTA(chunk=1)(*batch), AlignedOTA()(*batch)
    assert torch.equal(small.gt_index, large.gt_index)
    assert torch.equal(small.iou, large.iou)


def test_padding_an_image_with_others_does_not_change_it():
    scores, boxes, pyramid, targets = random_batch(7)
    together = AlignedOTA()(scores, boxes, pyramid, targets)
    for image in range(len(scores)):
        count = int(targets.mask[image].sum())
        alone = Targets.pad([targets.boxes[image, :count]], [targets.labels[image, :count]])
        single = AlignedOTA()(scores[image : image + 1], boxes[image : image + 1], pyramid, alone)
        assert torch.equal(single.gt_index[0], together.gt_index[image])


def test_all_images_empty_is_all_background():
    scores, boxes, pyramid, _ = random_batch(1)
    empty = Targets.pad([torch.zeros(0, 4)] * 3, [torch.zeros(0, dtype=torch.int64)] * 3)
    assert not AlignedOTA()(scores, boxes, pyramid, empty).positive.any()


def test_box_outside_the_image_gets_no_point_and_harms_no_other():
    scores, boxes, pyramid, _ = random_batch(2, images=1)
    inside, outside = torch.tensor([[20.0, 20, 60, 60]]), torch.tensor([[900.0, 900, 950, 950]])
    label = torch.tensor([1])
    alone = AlignedOTA()(scores, boxes, pyramid, Targets.pad([inside], [label]))
    both = AlignedOTA()(
        scores, boxes, pyramid, Targets.pad([torch.cat([inside, outside])], [torch.tensor([1, 1])])
    )
    lonely = AlignedOTA()(scores, boxes, pyramid, Targets.pad([outside], [label]))
    assert not lonely.positive.any()
    assert set(alone.gt_index[0].tolist()) == {-1, 0}
    assert (both.gt_index[alone.gt_index == 0] == 0).all()


def test_box_smaller_than_a_stride_still_gets_a_point():
    scores, boxes, pyramid, _ = random_batch(4, images=1)
    tiny = torch.tensor([[33.0, 33.0, 36.0, 36.0]])
    found = AlignedOTA()(scores, boxes, pyramid, Targets.pad([tiny], [torch.tensor([0])]))
    assert found.positive.sum() >= 1


def test_five_hundred_boxes_at_8400_points_stay_within_memory():
    batch = random_batch(6, images=2, boxes=500, size=(640, 640), classes=20)
    assert AlignedOTA()(*batch).positive.sum() > 500
