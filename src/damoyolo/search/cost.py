"""What a structure costs: parameters, FLOPs, layers, milliseconds.

Two networks can be counted. `searched` is the one that MAE-NAS scores, with a pooled shortcut at stride 2, by
the original code's rules. `backbone` and `detector` are what is built and shipped: no shortcut at stride 2,
stages wrapped as in CSPNet, pyramid pooling, RepConv fused; the latter with neck and head.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Literal, NamedTuple, Protocol, runtime_checkable

from damoyolo.search.ops import (
    Op,
    built_block_ops,
    csp_stage_ops,
    head_ops,
    neck_ops,
    searched_block_ops,
)
from damoyolo.search.space import CONVS_PER_LAYER, Frame, Genes, Genome
from damoyolo.spec import HeadSpec, NeckSpec

Scope = Literal["detector", "backbone", "searched"]


@runtime_checkable
class LatencyModel(Protocol):
    """Knows how long an operator takes on a device, and all that is none in a detector."""

    fixed_ms: float

    def ms(self, op: Op) -> float:
        """Milliseconds for one image; infinity where it cannot tell."""
        ...


class Costs(NamedTuple):
    """Of one structure; `latency_ms` is for one image, and 0 where there is no latency model."""

    params: int
    flops: int
    layers: int
    latency_ms: float


class CostModel:
    """Prices genomes of one frame; a part is priced once and remembered.

    Args:
        frame: of the structures.
        image_size: side in pixels of the square image.
        scope: which network is counted.
        neck: for the scope `detector`, like `head` and `num_classes`.
        latency: prices operators; without it latencies are 0.
    """

    def __init__(
        self,
        frame: Frame,
        image_size: int,
        scope: Scope = "detector",
        neck: NeckSpec | None = None,
        head: HeadSpec | None = None,
        num_classes: int = 80,
        latency: LatencyModel | None = None,
    ) -> None:
        if scope == "detector" and (neck is None or head is None):
            raise ValueError("the cost of a detector needs its neck and head")
        self.frame, self.image_size, self.scope = frame, image_size, scope
        self.neck, self.head, self.num_classes = neck, head, num_classes
        self.latency = latency
        self._sides = frame.sides(image_size)
        self._wrapped = frame.template.kind == "csp" and scope != "searched"
        self._parts = self._spans()
        self._per_layer = tuple(CONVS_PER_LAYER[kind] for kind in frame.types)
        self._prices: dict[tuple[object, ...], tuple[int, int, float]] = {}
        self._ms: dict[Op, float] = {}

    def __call__(self, genome: Genome) -> Costs:
        """The sum over its parts."""
        prices = self._prices
        params, flops, ms = self._price_of_ends(genome)
        for first, end in self._parts:
            key = (first, genome[first - 1].out, *genome[first:end])
            price = prices.get(key) or self._remember(key, self._part_ops(first, end, genome))
            params += price[0]
            flops += price[1]
            ms += price[2]
        layers = 1
        for each, genes in zip(self._per_layer, genome[1:], strict=True):
            layers += each * genes.layers
        return Costs(params, flops, layers, ms)

    def ops(self, genome: Genome) -> list[Op]:
        """All operators: stem, blocks, neck, head."""
        blocks = [op for first, end in self._parts for op in self._part_ops(first, end, genome)]
        return [self._stem_op(genome[0]), *blocks, *self._neck_and_head_ops(self.frame.out_channels(genome))]

    def _spans(self) -> tuple[tuple[int, int], ...]:
        """First and end position in the genome of each part with a price of its own: a block or a stage."""
        if self._wrapped:
            ends = self.frame.stage_ends
            return tuple((before + 1, end + 1) for before, end in pairwise(ends))
        return tuple((position, position + 1) for position in range(1, len(self.frame.types) + 1))

    def _part_ops(self, first: int, end: int, genome: Genome) -> list[Op]:
        cin, side, structure = genome[first - 1].out, self._sides[first - 1], self.frame.template
        is_last = end == len(genome)
        if self._wrapped:
            kinds = self.frame.types[first - 1 : end - 1]
            return csp_stage_ops(kinds, cin, genome[first:end], side, structure, is_last)
        kind, stride = self.frame.types[first - 1], self.frame.strides[first - 1]
        if self.scope == "searched":
            return searched_block_ops(kind, cin, genome[first], stride, side)
        return built_block_ops(kind, cin, genome[first], stride, side, structure, is_last)

    def _stem_op(self, stem: Genes) -> Op:
        if self.frame.template.stem.type == "focus":
            return Op(12, stem.out, stem.kernel, 1, self.image_size // 2)
        return Op(3, stem.out, stem.kernel, 2, self.image_size)

    def _neck_and_head_ops(self, channels: tuple[int, int, int]) -> list[Op]:
        if self.scope != "detector" or self.neck is None or self.head is None:
            return []
        sides = (self.image_size // 8, self.image_size // 16, self.image_size // 32)
        return neck_ops(channels, self.neck, sides) + head_ops(
            self.neck.out, self.head, self.num_classes, sides
        )

    def _price_of_ends(self, genome: Genome) -> tuple[int, int, float]:
        """Of stem, neck and head, which depend on the stem and three widths only."""
        channels = self.frame.out_channels(genome)
        key = (genome[0], *channels)
        return self._prices.get(key) or self._remember(
            key,
            [self._stem_op(genome[0]), *self._neck_and_head_ops(channels)],
            self._head_scales(),
            self._fixed_ms(),
        )

    def _head_scales(self) -> int:
        """The head learns one factor for each of its maps."""
        return 3 if self.scope == "detector" else 0

    def _fixed_ms(self) -> float:
        return self.latency.fixed_ms if self.latency and self.scope == "detector" else 0.0

    def _remember(
        self, key: tuple[object, ...], ops: Iterable[Op], params: int = 0, ms: float = 0.0
    ) -> tuple[int, int, float]:
        flops = 0
        for op in ops:
            params += op.params
            flops += op.searched_flops if self.scope == "searched" else op.flops
            ms += self._latency(op)
        self._prices[key] = params, flops, ms
        return params, flops, ms

    def _latency(self, op: Op) -> float:
        if self.latency is None or op.kind == "pool":
            return 0.0
        if op not in self._ms:
            self._ms[op] = self.latency.ms(op)
        return self._ms[op]
