from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from damoyolo.nn.detector import build_detector
from damoyolo.search.entropy import DeepMad, stage_entropies
from damoyolo.search.neck import DetectorDeepMad, DetectorMadNas, necks_like
from damoyolo.search.ops import neck_ops, neck_path_ops
from damoyolo.search.space import SPACES, Frame, genome_of
from damoyolo.spec import ModelCard, ModelSpec, NeckSpec
from damoyolo.zoo import SIZES, read_spec


def test_necks_differ_in_widths_and_depth_and_the_own_comes_first() -> None:
    own = read_spec("T").neck
    necks = necks_like(own)
    assert necks[0] == own
    assert len(set(necks)) == len(necks) == 15
    assert {neck.depth for neck in necks} == {1, 2, 3}
    assert all(width % 8 == 0 for neck in necks for width in neck.out)
    assert {neck.model_copy(update={"out": own.out, "depth": own.depth}) for neck in necks} == {own}


@pytest.mark.parametrize("size", SIZES)
def test_the_longest_way_is_made_of_the_neck_s_own_convolutions(size: str) -> None:
    spec = read_spec(size)
    channels = spec.structure.out_channels
    all_ops = [op._replace(side=1) for op in neck_ops(channels, spec.neck, (4, 2, 1))]
    for way in neck_path_ops(channels, spec.neck):
        assert {op._replace(side=1) for op in way} <= set(all_ops)
    flat = [op for way in neck_path_ops(channels, spec.neck) for op in way]
    for before, after in pairwise(flat):  # what one gives the next one takes, alone or beside others
        assert after.cin >= before.cout or after.kind == "depthwise"


def entropy_by_forward_pass(spec: ModelSpec, trials: int = 3) -> float:
    """Of the longest way alone: log of the standard deviation of a chain of its convolutions."""
    torch.manual_seed(0)
    total = 0.0
    for _ in range(trials):
        maps, gained = torch.randn(1, spec.structure.out_channels[2], 12, 12), 0.0
        for op in (op for way in neck_path_ops(spec.structure.out_channels, spec.neck) for op in way):
            conv = nn.Conv2d(
                op.cin, op.cout, op.kernel, bias=False, groups=op.cin if op.kind != "conv" else 1
            )
            nn.init.normal_(conv.weight)
            maps = torch.randn(1, op.cin, 12, 12) if op.cin != maps.shape[1] else maps
            maps = conv(nn.functional.pad(maps, [op.kernel // 2] * 4, mode="circular"))
            gained += float(maps.std().log())
            maps = maps / maps.std()
        total += gained / trials
    return total


@pytest.mark.parametrize("size", ["Ns", "T"])
def test_the_score_of_the_neck_stands_for_a_forward_pass(size: str) -> None:
    spec = read_spec(size)
    frame, genome = Frame(spec.structure), genome_of(spec.structure)
    last_only = (0.0, 0.0, 0.0, 0.0, 1.0)
    score = DetectorMadNas(frame, spec.neck, last_only)
    narrow = NeckSpec(**{**spec.neck.model_dump(), "out": (8, 8, 8)})
    gained = score(genome) - DetectorMadNas(frame, narrow, last_only)(genome)
    assert gained > math.log(spec.neck.out[2] / 8)
    with torch.inference_mode():
        measured = entropy_by_forward_pass(spec) - entropy_by_forward_pass(
            spec.model_copy(update={"neck": narrow})
        )
    assert gained - math.log(spec.neck.out[2] / 8) == pytest.approx(measured, rel=0.05, abs=0.1)


def test_a_deeper_and_a_wider_neck_is_worth_more() -> None:
    frame, genome = SPACES["k1kx"].frame, genome_of(SPACES["k1kx"].seed)
    weights = SPACES["k1kx"].stage_weights
    scores = {neck: DetectorMadNas(frame, neck, weights)(genome) for neck in necks_like(read_spec("T").neck)}
    for neck in scores:
        same_width = sorted((each for each in scores if each.out == neck.out), key=lambda each: each.depth)
        assert [scores[each] for each in same_width] == sorted(scores[each] for each in same_width)
        same_depth = sorted((each for each in scores if each.depth == neck.depth), key=lambda each: each.out)
        assert [scores[each] for each in same_depth] == sorted(scores[each] for each in same_depth)


@pytest.mark.parametrize("size", ["Ns", "T"])
def test_deepmad_of_a_detector_has_the_head_s_maps_in_the_place_of_the_backbone_s(size: str) -> None:
    spec = read_spec(size)
    frame, genome = Frame(spec.structure), genome_of(spec.structure)
    entropies = stage_entropies(frame, genome)
    total, so_far = DeepMad(frame, 208, (1.0, 1.0, 0.0, 0.0, 0.0))(genome), entropies[4]
    ways = neck_path_ops(frame.out_channels(genome), spec.neck)
    for weight, way, out, side in zip((1, 1, 8), ways, spec.neck.out, (52, 26, 13), strict=True):
        so_far += sum(0.5 * math.log(op.weights // op.cout) for op in way)
        total += weight * so_far * (math.log(out) + 2 * math.log(side))
    assert DetectorDeepMad(frame, spec.neck, 208, 416)(genome) == pytest.approx(total)


def test_every_neck_can_be_built() -> None:
    spec = read_spec("Ns")
    for neck in necks_like(spec.neck)[::4]:
        card = ModelCard(spec=spec.model_copy(update={"neck": neck}), class_names=("a",), image_size=(64, 64))
        assert build_detector(card).eval()(torch.zeros(1, 3, 64, 64)).class_logits.shape[2] == 1
