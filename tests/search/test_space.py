from __future__ import annotations

import subprocess
import sys

import pytest

from damoyolo.search.space import SPACES, Frame, genome_of
from damoyolo.zoo import SIZES, read_spec


@pytest.mark.parametrize("size", SIZES)
def test_a_structure_survives_the_way_through_frame_and_genome(size: str) -> None:
    structure = read_spec(size).structure
    assert Frame(structure).structure(genome_of(structure)) == structure


def test_a_frame_fills_in_another_genome() -> None:
    frame = Frame(read_spec("T").structure)
    other = frame.structure(genome_of(read_spec("S").structure))
    assert other == read_spec("S").structure


@pytest.mark.parametrize(("size", "layers"), [("T", 19), ("S", 25), ("M", 35), ("L", 45), ("Ns", 28)])
def test_layers_are_counted_along_the_main_branch(size: str, layers: int) -> None:
    structure = read_spec(size).structure
    assert Frame(structure).layers(genome_of(structure)) == layers


def test_stages_and_sides_follow_the_strides() -> None:
    frame = Frame(read_spec("T").structure)
    assert frame.stage_ends == (0, 1, 2, 4, 5)
    assert frame.sides(640) == (320, 160, 80, 40, 40, 20)
    assert frame.out_channels(genome_of(frame.template)) == frame.template.out_channels


def test_widths_are_bounded_where_c3_c4_and_c5_end() -> None:
    narrowed = SPACES["k1kx"].within(fewest=(64, 128, 256), most=(96, 192, 384))
    assert [narrowed.widths[block] for block in (1, 3, 4)] == [(64, 96), (128, 192), (256, 384)]
    assert narrowed.widths[0] == SPACES["k1kx"].widths[0]
    assert SPACES["k1kx"].within() == SPACES["k1kx"]


def test_a_search_needs_no_torch() -> None:
    code = (
        "import sys, damoyolo.search.state, damoyolo.search.mutate, damoyolo.search.latency; "
        "import damoyolo.search.pareto; print('torch' in sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60).stdout
    assert shown.strip() == "False"
