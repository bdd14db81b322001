"""The steps after the network, against the plain way of doing them."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from damoyolo.boxes.decode import decode_boxes
from damoyolo.boxes.points import Pyramid
from damoyolo.export.graph import Grid, best, decode
from damoyolo.export.suppress import suppress


@given(seed=st.integers(0, 99), spread=st.floats(0.1, 30.0), bins=st.integers(2, 17))
def test_boxes_are_decoded_as_in_training_however_peaked_the_distributions(
    seed: int, spread: float, bins: int
) -> None:
    pyramid = Pyramid.of_image(64, 96)
    generator = torch.Generator().manual_seed(seed)
    logits = spread * torch.randn(2, sum(pyramid.counts), 4, bins, generator=generator)
    expected = decode_boxes(logits, pyramid.points(), pyramid.point_strides())
    grid = Grid(64, 96)
    found = decode(logits.permute(0, 2, 3, 1), grid.origin, grid.step)
    torch.testing.assert_close(found.transpose(1, 2), expected, rtol=0, atol=1e-3)


@given(
    seed=st.integers(0, 99), count=st.integers(1, 40), classes=st.integers(1, 5), points=st.integers(1, 30)
)
def test_the_best_pairs_are_found_by_looking_at_the_best_points_only_however_many_are_wanted(
    seed: int, count: int, classes: int, points: int
) -> None:
    scores = torch.rand(2, points, classes, generator=torch.Generator().manual_seed(seed))
    values, labels, places = best(scores, count)
    kept = min(count, points * classes)
    torch.testing.assert_close(values, scores.flatten(1).topk(kept).values)
    for image in range(2):
        torch.testing.assert_close(scores[image, places[image], labels[image]], values[image])


def test_suppression_keeps_the_score_of_survivors_and_classes_apart() -> None:
    boxes = torch.tensor([[[0.0, 0, 10, 10], [1, 0, 11, 10], [50, 50, 60, 60]]])
    scores = torch.tensor([[[0.9, 0.8, 0.03], [0.1, 0.7, 0.6]]])
    kept = suppress(boxes, scores, 0.05, 0.5, 10)
    assert torch.equal(kept, torch.tensor([[[0.9, 0, 0], [0, 0.7, 0.6]]]))
    one = suppress(boxes, scores, 0.05, 0.5, 1)
    assert torch.equal(one, torch.tensor([[[0.9, 0, 0], [0, 0.7, 0]]]))
