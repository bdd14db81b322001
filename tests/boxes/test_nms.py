from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from damoyolo.boxes import nms as module
from damoyolo.boxes.geometry import box_iou
from damoyolo.boxes.nms import nms_by_class


def candidates(seed: int, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes, some outside the image, with scores that descend, of three classes."""
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 2, generator=generator) * 100 - 20
    sizes = torch.rand(count, 2, generator=generator) * 60 + 1
    scores = torch.rand(count, generator=generator).sort(descending=True).values
    return (
        torch.cat([corners, corners + sizes], 1),
        scores,
        torch.randint(0, 3, (count,), generator=generator),
    )


def greedily(boxes: Tensor, labels: Tensor, iou: float) -> list[int]:
    """As the definition says, box by box."""
    kept: list[int] = []
    for index, label in enumerate(labels.tolist()):
        rivals = [each for each in kept if labels[each] == label]
        if not rivals or box_iou(boxes[index][None], boxes[rivals]).max() <= iou:
            kept.append(index)
    return kept


@given(seed=st.integers(0, 10_000), count=st.integers(0, 60), iou=st.sampled_from([0.2, 0.5, 0.7]))
def test_a_box_is_kept_that_overlaps_no_better_one_of_its_class(seed: int, count: int, iou: float) -> None:
    boxes, scores, labels = candidates(seed, count)
    assert nms_by_class(boxes, scores, labels, iou).tolist() == greedily(boxes, labels, iou)


def test_class_by_class_the_same_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    boxes, scores, labels = candidates(seed=3, count=300)
    at_once = nms_by_class(boxes, scores, labels, 0.5)
    monkeypatch.setattr(module, "AT_ONCE", 10)
    assert torch.equal(nms_by_class(boxes, scores, labels, 0.5), at_once)


def test_where_the_operator_cannot_be_loaded_alone_its_package_loads_it() -> None:
    program = """
import sys, torch
load = torch.ops.load_library
def fail(path):
    torch.ops.load_library = load
    raise OSError(path)
torch.ops.load_library = fail
from damoyolo.boxes.nms import nms
boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [20, 0, 30, 10]])
assert nms(boxes, torch.tensor([0.9, 0.8, 0.7]), 0.5).tolist() == [0, 2]
assert "torchvision" in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True)
