from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from damoyolo.nn.detector import build_detector, fuse
from damoyolo.search.cost import CostModel
from damoyolo.search.mutate import Mutator
from damoyolo.search.ops import Op
from damoyolo.search.space import SPACES, Frame, genome_of
from damoyolo.spec import ModelCard, ModelSpec
from damoyolo.zoo import SIZES, read_spec
from golden_search import as_genome, golden_search, image_size_of


@pytest.mark.parametrize("entry", golden_search("structures"), ids=lambda entry: entry["name"])
def test_the_searched_network_costs_what_the_original_counts(entry: dict[str, Any]) -> None:
    frame, genome = as_genome(entry["structure"])
    price = CostModel(frame, image_size_of(entry), "searched")
    costs = price(genome)
    assert (costs.params, costs.flops, costs.layers) == (entry["params"], entry["flops"], entry["layers"])
    ops = [
        {
            "stride": op.stride,
            "fused": int(op.fused),
            "k": op.kernel,
            "cin": op.cin,
            "res": op.side,
            "cout": op.cout,
        }
        for op in price.ops(genome)
        if op.kind == "conv"
    ]
    assert ops == entry["conv_ops"]


def built_costs(spec: ModelSpec, part: str, num_classes: int) -> tuple[int, int]:
    """Parameters and FLOPs of the module that is built, RepConv fused."""
    card = ModelCard(
        spec=spec,
        class_names=tuple(f"class{n}" for n in range(num_classes)),
        image_size=(spec.image_size, spec.image_size),
    )
    with torch.device("meta"):
        detector = fuse(build_detector(card))
        module = detector.backbone if part == "backbone" else detector
        with FlopCounterMode(display=False) as counter:
            module(torch.empty(1, 3, *card.image_size))
    return sum(each.numel() for each in module.parameters()), counter.get_total_flops()


@pytest.mark.parametrize(
    ("size", "scope"),
    [(size, "detector") for size in SIZES] + [(size, "backbone") for size in ("M", "Ns")],
)
def test_the_sizes_cost_what_is_built(size: str, scope: Any) -> None:
    spec = read_spec(size)
    price = CostModel(Frame(spec.structure), spec.image_size, scope, spec.neck, spec.head)
    costs = price(genome_of(spec.structure))
    assert (costs.params, costs.flops) == built_costs(spec, scope, 80)


@pytest.mark.parametrize(
    ("name", "count"),
    [*((name, 1) for name in SPACES), *(pytest.param(name, 6, marks=pytest.mark.slow) for name in SPACES)],
)
def test_random_structures_of_every_space_cost_what_is_built(name: str, count: int) -> None:
    space, rng = SPACES[name], random.Random(1)
    like = read_spec(space.like).model_copy(update={"image_size": 96})
    mutate = Mutator(space, 96, max_layers=40)
    price = CostModel(space.frame, 96, "detector", like.neck, like.head, num_classes=3)
    genome = mutate.smallest()
    for _ in range(count):
        for _ in range(15):
            genome = mutate(genome, rng)
        costs = price(genome)
        spec = like.model_copy(update={"structure": space.frame.structure(genome)})
        assert (costs.params, costs.flops) == built_costs(spec, "detector", 3)


class MsPerChannel:
    """A device on which an operator takes as many milliseconds as it yields channels."""

    fixed_ms = 0.0

    def __init__(self) -> None:
        self.asked: list[Op] = []

    def ms(self, op: Op) -> float:
        self.asked.append(op)
        return float(op.cout)


def test_latency_is_the_sum_over_operators_and_each_is_asked_for_once() -> None:
    structure, device = read_spec("S").structure, MsPerChannel()
    price = CostModel(Frame(structure), 640, "backbone", latency=device)
    genome = genome_of(structure)
    assert price(genome).latency_ms == sum(op.cout for op in price.ops(genome))
    price((*genome[:-1], genome[-1]._replace(layers=3)))
    assert len(device.asked) == len(set(device.asked))


def test_a_csp_stage_without_layers_is_only_its_downsampling() -> None:
    spec = read_spec("M")
    genome = genome_of(spec.structure)
    shallow = (*genome[:-1], genome[-1]._replace(layers=1))
    price = CostModel(Frame(spec.structure), 640, "detector", spec.neck, spec.head)
    built = spec.model_copy(update={"structure": Frame(spec.structure).structure(shallow)})
    costs = price(shallow)
    assert (costs.params, costs.flops) == built_costs(built, "detector", 80)


def test_a_detector_cannot_be_priced_without_its_neck_and_head() -> None:
    with pytest.raises(ValueError, match="neck and head"):
        CostModel(Frame(read_spec("T").structure), 640, "detector")


def test_the_original_rules_know_no_depthwise_blocks() -> None:
    structure = read_spec("Ns").structure
    with pytest.raises(ValueError, match="depthwise"):
        CostModel(Frame(structure), 416, "searched")(genome_of(structure))
