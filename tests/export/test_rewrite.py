"""Each rewrite computes what it replaces; the largest differences seen are beside the tolerances."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from damoyolo.export.graph import Grid, decode
from damoyolo.export.rewrite import (
    JointHead,
    Network,
    SparseConvolution,
    SparseHead,
    fold_norms,
    merge_focus,
    upsample_late,
)
from damoyolo.nn.blocks import SPP, Focus
from damoyolo.nn.detector import Detector, fuse
from exportable import SPECS, lively

KINDS = pytest.mark.parametrize("kind", SPECS)


def detector_of(kind: str) -> Detector:
    return lively(SPECS[kind])


def images(seed: int = 1) -> Tensor:
    return torch.randint(0, 256, (2, 3, 64, 96), generator=torch.Generator().manual_seed(seed)).float()


def largest_difference(found: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> float:
    """Relative to the largest number of a map."""
    pairs = zip(found, expected, strict=True)
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in pairs)


@KINDS
@torch.no_grad()
def test_the_network_gives_the_detector_s_logits(kind: str) -> None:
    detector = detector_of(kind)
    expected = detector(images())
    class_logits, side_logits = Network(detector)(images())
    assert isinstance(side_logits, Tensor)
    found = (class_logits, side_logits.permute(0, 3, 1, 2))
    assert largest_difference(found, (expected.class_logits, expected.side_logits)) < 4e-5  # 1.1e-5


@KINDS
@torch.no_grad()
def test_the_sparse_network_gives_the_same_at_any_points(kind: str) -> None:
    detector = detector_of(kind)
    expected = detector(images())
    class_logits, side_logits_at = Network(detector, sparse=True)(images())
    assert not isinstance(side_logits_at, Tensor)
    points = torch.stack([torch.randperm(126), torch.arange(126)])  # on every map, and all borders
    sides = side_logits_at(points).permute(0, 3, 1, 2)
    chosen = expected.side_logits.gather(1, points[:, :, None, None].expand(-1, -1, 4, 8))
    assert largest_difference((class_logits, sides), (expected.class_logits, chosen)) < 4e-5  # 1.1e-5


def test_the_detector_itself_stays_as_it_was() -> None:
    detector = detector_of("res")
    before = {name: tensor.clone() for name, tensor in detector.state_dict().items()}
    Network(detector)
    after = detector.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


@KINDS
@torch.no_grad()
def test_norms_become_part_of_the_convolutions_before_them(kind: str) -> None:
    fused = fuse(detector_of(kind))
    expected = fused.features(images())
    fold_norms(fused)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fused.modules())
    assert largest_difference(fused.features(images()), expected) < 4e-5  # 1.5e-5


@pytest.mark.parametrize("kind", ["res", "csp"])
@torch.no_grad()
def test_focus_becomes_one_convolution(kind: str) -> None:
    fused = fuse(detector_of(kind))
    fold_norms(fused)
    expected = fused.backbone.stem(images())
    merge_focus(fused)
    assert not any(isinstance(module, Focus) for module in fused.modules())
    assert largest_difference((fused.backbone.stem(images()),), (expected,)) < 2e-6  # 4e-7


@KINDS
@torch.no_grad()
def test_fusions_convolve_before_they_upsample(kind: str) -> None:
    fused = fuse(detector_of(kind))
    fold_norms(fused)
    maps = fused.backbone(images())
    expected = fused.neck(*maps)
    upsample_late(fused.neck)
    assert isinstance(fused.neck.up, nn.Identity)
    assert largest_difference(fused.neck(*maps), expected) < 1e-5  # 1.6e-6


@torch.no_grad()
def test_chained_pools_are_the_wide_ones() -> None:
    spp = SPP(8, 8, "silu").eval()
    x = torch.randn(1, 8, 20, 30)
    reduced = spp.reduce(x)
    pools = [nn.functional.max_pool2d(reduced, size, 1, size // 2) for size in (5, 9, 13)]
    assert torch.equal(spp(x), spp.expand(torch.cat([reduced, *pools], dim=1)))


@KINDS
@torch.no_grad()
def test_the_joint_head_computes_both_tasks(kind: str) -> None:
    detector = detector_of(kind)
    maps = detector.features(images())
    expected = detector.head(*maps)
    class_logits, side_logits = JointHead(detector.head)(*maps)
    found = (class_logits, side_logits.permute(0, 3, 1, 2))
    assert largest_difference(found, (expected.class_logits, expected.side_logits)) < 2e-6  # 4e-7


@KINDS
@torch.no_grad()
def test_boxes_are_decoded_channel_by_channel(kind: str) -> None:
    predictions = detector_of(kind)(images())
    grid = Grid(64, 96)
    found = decode(predictions.side_logits.permute(0, 2, 3, 1), grid.origin, grid.step).transpose(1, 2)
    torch.testing.assert_close(found, predictions.boxes, rtol=0, atol=1e-4)  # 3e-5 px


@given(
    kernel=st.sampled_from([1, 3, 5]),
    height=st.integers(1, 6),
    width=st.integers(1, 6),
    seed=st.integers(0, 99),
)
@torch.no_grad()
def test_a_sparse_convolution_gives_the_cells_of_the_dense_one_and_zeros_elsewhere(
    kernel: int, height: int, width: int, seed: int
) -> None:
    torch.manual_seed(seed)
    dense = nn.Conv2d(5, 7, kernel, padding=kernel // 2)
    assert dense.bias is not None
    x = torch.randn(2, 5, height, width)
    cells = torch.arange(-width - 2, height * width + width + 2).expand(2, -1)
    found = SparseConvolution(dense.weight, dense.bias)(x, cells)
    expected = torch.zeros_like(found)
    expected[:, width + 2 : width + 2 + height * width] = dense(x).flatten(2).transpose(1, 2)
    torch.testing.assert_close(found, expected, rtol=0, atol=3e-6)  # 1e-6


@torch.no_grad()
def test_a_sparse_head_computes_no_sides_before_it_is_asked() -> None:
    head = SparseHead(detector_of("res").head)
    calls = []
    for regress in head.regress:
        regress.register_forward_hook(lambda _module, inputs, _output: calls.append(inputs[1].shape))
    maps = detector_of("res").features(images())
    _, side_logits_at = head(*maps)
    assert not calls
    assert side_logits_at(torch.zeros(2, 3, dtype=torch.int64)).shape == (2, 4, 8, 3)
    assert calls == [(2, 3)] * 3
