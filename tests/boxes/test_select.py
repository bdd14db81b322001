from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import golden, goldens
from damoyolo.boxes import select as module
from damoyolo.boxes.geometry import box_iou
from damoyolo.boxes.points import Pyramid
from damoyolo.boxes.select import Selected, select, select_boxes
from damoyolo.boxes.types import Predictions

NMS_CASES = sorted({int(key.split("/")[0]) for key in np.load(golden("golden-nms.npz"))})


def random_scores_and_boxes(
    seed: int, points: int = 200, classes: int = 3
) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(points, 2, generator=generator) * 100
    sizes = torch.rand(points, 2, generator=generator) * 60 + 1
    scores = torch.rand(points, classes, generator=generator)
    return (scores * 20).round() / 20, torch.cat([corners, corners + sizes], dim=1)


def random_predictions(images: int = 2, classes: int = 4) -> Predictions:
    generator = torch.Generator().manual_seed(0)
    pyramid = Pyramid.of_image(64, 96)
    points = sum(pyramid.counts)
    return Predictions(
        torch.randn(images, points, classes, generator=generator),
        torch.randn(images, points, 4, 8, generator=generator),
        pyramid,
    )


def assert_same_set(found: Selected, boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray) -> None:
    """Equal as sets of (label, score, box), whatever the order of near ties."""
    assert len(found.scores) == len(scores)
    rows = np.concatenate([labels[:, None], scores[:, None], boxes], axis=1).astype(np.float64)
    ours = torch.cat([found.labels[:, None], found.scores[:, None], found.boxes], dim=1).double().numpy()
    unmatched = np.ones(len(rows), bool)
    for row in ours:
        close = unmatched & np.isclose(rows, row, rtol=1e-4, atol=1e-3).all(axis=1)
        assert close.any(), f"no reference box like {row}"
        unmatched[np.flatnonzero(close)[0]] = False


@pytest.mark.parametrize("case", NMS_CASES)
def test_the_reference_keeps_the_same_boxes(case: int) -> None:
    data = np.load(golden("golden-nms.npz"))
    found = select_boxes(
        torch.from_numpy(data[f"{case}/scores"]),
        torch.from_numpy(data[f"{case}/boxes"]),
        float(data[f"{case}/thr"]),
        float(data[f"{case}/iou"]),
    )
    expected = (data[f"{case}/out_{name}"] for name in ("boxes", "scores", "labels"))
    assert_same_set(found, *expected)


@pytest.mark.parametrize("path", goldens("golden-[NTSML]*.npz"), ids=lambda path: path.stem)
def test_the_reference_post_processes_its_own_networks_the_same(path: Path) -> None:
    data = np.load(path)
    found = select_boxes(
        torch.from_numpy(data["scores"][0]),
        torch.from_numpy(data["boxes"][0]),
        float(data["nms/conf"]),
        float(data["nms/iou"]),
    )
    assert_same_set(found, data["nms/boxes"], data["nms/scores"], data["nms/labels"])


@given(seed=st.integers(0, 10_000), threshold=st.floats(0, 0.9), iou=st.floats(0.1, 0.9))
@settings(max_examples=25, deadline=None)
def test_what_is_kept_is_above_the_threshold_sorted_and_does_not_overlap_within_a_class(
    seed: int, threshold: float, iou: float
) -> None:
    scores, boxes = random_scores_and_boxes(seed)
    found = select_boxes(scores, boxes, threshold, iou)
    assert (found.scores > threshold).all()
    assert (found.scores.diff() <= 0).all()
    for label in range(3):
        mine = found.boxes[found.labels == label]
        overlaps = box_iou(mine[:, None], mine[None]).fill_diagonal_(0)
        assert (overlaps <= iou + 1e-4).all()


@given(seed=st.integers(0, 10_000))
@settings(max_examples=15, deadline=None)
def test_equal_scores_are_ordered_by_point(seed: int) -> None:
    scores, boxes = random_scores_and_boxes(seed)
    found = select_boxes(scores, boxes, 0.3, 1.0)
    order = [
        (-score.item(), (boxes == box).all(dim=1).nonzero()[0, 0].item(), label.item())
        for score, box, label in zip(found.scores, found.boxes, found.labels, strict=True)
    ]
    assert order == sorted(order)


def test_looking_first_at_the_best_candidates_does_not_change_the_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scores, boxes = random_scores_and_boxes(seed=1)
    everything = {limit: select_boxes(scores, boxes, 0.1, 0.5, limit) for limit in (5, 20, 500)}
    monkeypatch.setattr(module, "FIRST_LOOK", 30)
    for limit, expected in everything.items():
        found = select_boxes(scores, boxes, 0.1, 0.5, limit)
        assert torch.equal(found.boxes, expected.boxes)
        assert torch.equal(found.labels, expected.labels)


def test_top_k_limits_the_candidates_not_the_boxes() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 10.5], [50, 50, 60, 60]])
    scores = torch.tensor([[0.9], [0.8], [0.7]])
    assert len(select_boxes(scores, boxes, 0.1, 0.5).scores) == 2
    assert len(select_boxes(scores, boxes, 0.1, 0.5, top_k=2).scores) == 1


def test_a_point_may_carry_two_classes_and_classes_do_not_suppress_each_other() -> None:
    found = select_boxes(torch.tensor([[0.9, 0.6]]), torch.tensor([[0.0, 0, 10, 10]]), 0.5, 0.5)
    assert found.labels.tolist() == [0, 1]


def test_the_threshold_itself_is_not_enough() -> None:
    found = select_boxes(
        torch.tensor([[0.5], [0.25]]), torch.tensor([[0.0, 0, 9, 9], [50, 0, 60, 9]]), 0.25, 0.5
    )
    assert found.scores.tolist() == [0.5]


def test_a_batch_gives_what_each_image_gives_alone() -> None:
    predictions = random_predictions()
    for image, found in enumerate(select(predictions, 0.4, 0.6, max_detections=50)):
        alone = select_boxes(predictions.scores[image], predictions.boxes[image], 0.4, 0.6, max_detections=50)
        torch.testing.assert_close(found.boxes, alone.boxes)
        assert torch.equal(found.scores, alone.scores)
        assert torch.equal(found.labels, alone.labels)
        assert len(found.scores) == 50


def test_nothing_above_the_threshold_gives_empty_tensors() -> None:
    for found in select(random_predictions(), 0.9999999, 0.6):
        assert found.boxes.shape == (0, 4)
        assert found.scores.shape == found.labels.shape == (0,)
