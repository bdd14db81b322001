from __future__ import annotations

import random
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from damoyolo.search.mutate import Mutator, OriginalMutator, round8
from damoyolo.search.space import SPACES, Genes, Genome, Space, genome_of
from golden_search import as_genome, golden_search, image_size_of

FIELDS = {"out": "out", "btn": "width", "L": "layers", "k": "kernel"}


@pytest.mark.parametrize("entry", golden_search("mutations"))
def test_a_forced_draw_gives_the_original_s_child(entry: dict[str, Any]) -> None:
    frame, before = as_genome(entry["before"])
    _, after = as_genome(entry["after"])
    ranges = (entry["channel_range"] or [None] * len(before))[1:]
    widths = tuple((low, high) for low, high in (each or (8, 2048) for each in ranges))
    space = replace(SPACES[entry["space"].removeprefix("space_")], widths=widths)
    mutate = OriginalMutator(space, image_size_of(entry), entry["budget_layers"])
    child = mutate.changed(before, entry["block"], FIELDS[entry["field"]], entry["draw"])
    assert child == after
    assert (frame.layers(child) <= entry["budget_layers"]) == entry["within_layers"]


def descendants(mutate: Any, genome: Genome, seed: int, count: int) -> list[Genome]:
    rng = random.Random(seed)
    found = [genome]
    for _ in range(count):
        found.append(mutate(found[-1], rng))
    return found


def faults(space: Space, genome: Genome, image_size: int, max_layers: int | None) -> list[str]:
    """What makes a genome invalid; none for a valid one."""
    stem, *blocks = genome
    found = []
    if stem.out % 8 or not 8 <= stem.out <= space.widest_stem:
        found.append(f"stem {stem}")
    for number, (before, genes) in enumerate(pairwise(genome)):
        low, high = space.widths[number]
        if genes.out % 8 or not max(low, before.out) <= genes.out <= high:
            found.append(f"out of block {number}: {before} {genes}")
        if number and genes.out > space.most_growth * before.out:
            found.append(f"growth of block {number}: {before} {genes}")
        if space.expansions and genes.width not in space.expansions:
            found.append(f"expansion of block {number}: {genes}")
        if not space.expansions and (genes.width % 8 or not genes.out / 10 <= genes.width <= genes.out):
            found.append(f"bottleneck of block {number}: {genes}")
        if not space.fewest_layers[number] <= genes.layers <= space.most_layers[number]:
            found.append(f"layers of block {number}: {genes}")
        fitting = [k for k in space.kernels if 1.5 * k <= space.frame.sides(image_size)[number]]
        if genes.kernel not in (fitting or [1]):
            found.append(f"kernel of block {number}: {genes}")
    too_deep = max_layers is not None and space.frame.layers(genome) > max_layers
    spare = (genes.layers > least for genes, least in zip(blocks, space.fewest_layers, strict=True))
    if too_deep and any(spare):
        found.append("layers")
    return found


@settings(deadline=None, max_examples=25)
@given(
    name=st.sampled_from(sorted(SPACES)),
    seed=st.integers(0, 2**32),
    image_size=st.sampled_from([64, 96, 320, 640]),
    max_layers=st.one_of(st.none(), st.integers(1, 60)),
)
def test_every_child_is_valid(name: str, seed: int, image_size: int, max_layers: int | None) -> None:
    space = SPACES[name]
    mutate = Mutator(space, image_size, max_layers)
    for genome in descendants(mutate, mutate.smallest(), seed, 30):
        assert faults(space, genome, image_size, max_layers) == []
        assert space.frame.structure(genome)


@settings(deadline=None, max_examples=25)
@given(
    name=st.sampled_from(["k1kx", "kxkx", "csp", "k1kxk1"]),
    blocks=st.lists(
        st.builds(
            Genes,
            st.integers(1, 4000),
            st.integers(1, 4000),
            st.integers(-3, 20),
            st.sampled_from([1, 3, 5, 7]),
        ),
        min_size=6,
        max_size=6,
    ),
)
def test_whatever_is_repaired_is_valid_and_stays_as_it_is(name: str, blocks: list[Genes]) -> None:
    space = SPACES[name]
    mutate, rng = Mutator(space, 640, 31), random.Random(0)
    blocks[0] = Genes(blocks[0].out)
    repaired = mutate.repaired(blocks, rng)
    assert faults(space, repaired, 640, 31) == []
    assert mutate.repaired(repaired, rng) == repaired


def test_every_number_of_every_block_changes_in_time() -> None:
    for name in ("k1kx", "k1kxk1", "mob"):
        space = SPACES[name]
        mutate = Mutator(space, 640, 40)
        found = descendants(mutate, mutate.smallest(), seed=0, count=2000)
        for position in range(1, 6):
            for field in ("out", "width", "layers", *(("kernel",) if len(space.kernels) > 1 else ())):
                values = {getattr(genome[position], field) for genome in found}
                assert len(values) > 1, f"{field} of block {position} in {name}"


def test_in_the_original_the_last_block_never_changes() -> None:
    space = SPACES["k1kx"]
    start = genome_of(space.seed)
    found = descendants(OriginalMutator(space, 640, 20), start, seed=0, count=1000)
    assert {genome[-1]._replace(width=0) for genome in found} == {start[-1]._replace(width=0)}
    assert len(set(found)) > 100


def test_nothing_in_the_space_is_smaller_than_the_smallest() -> None:
    for space in SPACES.values():
        mutate = Mutator(space, 640)
        least = mutate.smallest()
        for genome in descendants(mutate, least, seed=1, count=300):
            assert all(
                small.out <= genes.out and small.layers <= genes.layers and small.kernel <= genes.kernel
                for small, genes in zip(least, genome, strict=True)
            )


def test_nothing_in_the_space_is_larger_than_the_largest() -> None:
    for space in SPACES.values():
        mutate = Mutator(space, 640)
        most = mutate.largest()
        for genome in descendants(mutate, most, seed=1, count=300):
            assert all(
                large.out >= genes.out and large.width >= genes.width and large.layers >= genes.layers
                for large, genes in zip(most, genome, strict=True)
            )


def test_widths_are_rounded_to_even_multiples_of_8_at_a_tie() -> None:
    assert [round8(width) for width in (1, 12, 20, 28, 2048.0)] == [8, 16, 16, 32, 2048]
