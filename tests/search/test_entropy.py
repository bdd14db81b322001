from __future__ import annotations

import math
import random
from itertools import combinations, pairwise
from typing import Any

import pytest
import torch
from torch.nn.functional import conv2d

from damoyolo.search.entropy import DeepMad, MadNas, PaddedMadNas
from damoyolo.search.mutate import Mutator
from damoyolo.search.ops import main_branch
from damoyolo.search.space import SPACES, Frame, Genome, genome_of
from damoyolo.zoo import read_spec
from golden_search import as_genome, golden_search

GOLDEN = pytest.mark.parametrize("entry", golden_search("structures"), ids=lambda entry: entry["name"])


def floats(values: list[int]) -> list[float]:
    return [float(value) for value in values]


@GOLDEN
def test_the_score_of_the_paper_is_the_original_s(entry: dict[str, Any]) -> None:
    frame, genome = as_genome(entry["structure"])
    score = MadNas(frame, floats(entry["multi_block_ratio"]))
    assert score(genome) == pytest.approx(entry["madnas"], rel=1e-12)
    assert score.stages(genome) == pytest.approx(entry["madnas_stages"], rel=1e-12)


@GOLDEN
def test_deepmad_s_score_is_the_original_s(entry: dict[str, Any]) -> None:
    frame, genome = as_genome(entry["structure"])
    score = DeepMad(frame, 224, floats(entry["deepmad_ratio"]), penalty=0.0)
    assert score(genome) == pytest.approx(entry["deepmad_224_formula"], rel=1e-12)


@GOLDEN
def test_with_padding_the_score_is_what_a_forward_pass_gives_on_average(entry: dict[str, Any]) -> None:
    frame, genome = as_genome(entry["structure"])
    padded, forward = entry["madnas_padded_closed"], entry["madnas_forward"]
    score = PaddedMadNas(frame, padded["resolution"], floats(entry["multi_block_ratio"]))(genome)
    assert score == pytest.approx(padded["value"], rel=1e-12)
    assert abs(score - forward["mean"]) < 4 * forward["std"] / math.sqrt(forward["seeds"]) + 0.5


def forward_score(frame: Frame, genome: Genome, seed: int, side: int = 64) -> float:
    """MAE-NAS's score by a forward pass: unit Gaussians through the convolutions of the main branch alone."""
    generator = torch.Generator().manual_seed(seed)

    def through(
        x: torch.Tensor, cout: int, kernel: int, stride: int, groups: int = 1
    ) -> tuple[torch.Tensor, float]:
        weight = torch.randn(cout, x.shape[1] // groups, kernel, kernel, generator=generator)
        x = conv2d(x, weight, stride=stride, padding=kernel // 2, groups=groups)
        deviation = x.std()
        return x / deviation, float(deviation.log())

    focus = frame.template.stem.type == "focus"  # it sees the image with a quarter of the pixels
    image = torch.randn(1, 12 if focus else 3, *[side if focus else 2 * side] * 2, generator=generator)
    x, total = through(image, genome[0].out, genome[0].kernel, 1 if focus else 2)
    totals = [total]
    for kind, stride, (before, genes) in zip(frame.types, frame.strides, pairwise(genome), strict=True):
        cin = before.out
        for number in range(genes.layers):
            for op in main_branch(kind, cin, genes, stride if number == 0 else 1, 1, adds=True):
                groups = op.cin if op.kind == "depthwise" else 1
                x, gained = through(x, op.cout, op.kernel, op.stride, groups)
                total += gained
            cin = genes.out
        totals.append(total)
    weights = (0, 0, 1, 1, 16)
    return sum(
        weight * (totals[end] + math.log(genome[end].out))
        for weight, end in zip(weights, frame.stage_ends, strict=True)
    )


def kendall_tau(first: list[float], second: list[float]) -> float:
    signs = [
        math.copysign(1, (a - b) * (c - d))
        for (a, c), (b, d) in combinations(list(zip(first, second, strict=True)), 2)
    ]
    return sum(signs) / len(signs)


@pytest.mark.parametrize("name", ["k1kx", "kxkx", "csp", "k1kxk1", "mob"])
def test_the_closed_form_ranks_as_a_forward_pass_does(name: str) -> None:
    space, rng = SPACES[name], random.Random(0)
    frame = space.within(most=(64, 96, 128), fewest=(16, 32, 64)).frame
    mutate = Mutator(space.within(most=(64, 96, 128), fewest=(16, 32, 64)), 128)
    closed, forward = [], []
    closed_form = MadNas(frame)
    for _ in range(12):
        genome = mutate.smallest()
        for _ in range(10):
            genome = mutate(genome, rng)
        closed.append(closed_form(genome))
        forward.append(forward_score(frame, genome, seed=0))
    assert kendall_tau(closed, forward) > 0.9


def test_remembered_shares_add_up_to_the_stages() -> None:
    space, rng = SPACES["mob"], random.Random(0)
    mutate, score = Mutator(space, 416), MadNas(space.frame)
    genome = mutate.smallest()
    for _ in range(50):
        genome = mutate(genome, rng)
        assert score(genome) == pytest.approx(sum(score.stages(genome)))


def test_deepmad_prefers_even_depth() -> None:
    frame = SPACES["k1kx"].frame
    genome = genome_of(frame.template)
    uneven = (*genome[:3], genome[3]._replace(layers=5), *genome[4:])
    plain, penalised = DeepMad(frame, penalty=0.0), DeepMad(frame)
    assert plain(uneven) - penalised(uneven) > plain(genome) - penalised(genome) == 10.0


def test_published_structures_score_what_the_original_says() -> None:
    structure = read_spec("T").structure
    assert MadNas(Frame(structure))(genome_of(structure)) == pytest.approx(1015.1441063)
