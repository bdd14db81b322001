"""What may be searched, as data: genomes, the frames they fill, and the spaces.

A genome is what changes during a search, a tuple of numbers, cheap to copy, compare and hash. A `Frame` is
what does not change: kinds and strides of the blocks, activations, stem. Both together are a
`damoyolo.spec.Structure`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from typing import Literal, NamedTuple

from damoyolo.spec import Activation, Structure


class Genes(NamedTuple):
    """The numbers of one super block, or of the stem, which has only `out` and `kernel`.

    `width` is the bottleneck's channels of a dense block and the expansion of an inverted one.
    """

    out: int
    width: int | float = 0
    layers: int = 1
    kernel: int = 3


Genome = tuple[Genes, ...]
"""The stem, then the super blocks in order."""

BlockType = Literal["k1kx", "kxkx", "k1kxk1", "inverted"]

CONVS_PER_LAYER = {"k1kx": 2, "kxkx": 2, "k1kxk1": 3, "inverted": 3}
"""Convolutions one after another in a residual layer: what a budget of layers counts."""


@dataclass(frozen=True)
class Frame:
    """The part of a structure that a search leaves as it is; `template` says all of it."""

    template: Structure

    @cached_property
    def types(self) -> tuple[BlockType, ...]:
        """Of the super blocks, without the stem."""
        return tuple(block.type for block in self.template.blocks)

    @cached_property
    def strides(self) -> tuple[int, ...]:
        """Of the super blocks, without the stem."""
        return tuple(block.stride for block in self.template.blocks)

    @cached_property
    def stage_ends(self) -> tuple[int, ...]:
        """Position in the genome of the last block of each stage C1 (the stem) .. C5."""
        halving = [position for position, stride in enumerate(self.strides) if stride == 2]
        return (*halving, len(self.strides))

    def sides(self, image_size: int) -> tuple[int, ...]:
        """Side in pixels of the square map that each super block takes in, and last of what leaves them."""
        sides = [image_size // 2]
        for stride in self.strides:
            sides.append(-(-sides[-1] // stride))
        return tuple(sides)

    def inputs(self, genome: Genome) -> tuple[int, ...]:
        """Channels that each super block takes in."""
        return tuple(genes.out for genes in genome[:-1])

    def out_channels(self, genome: Genome) -> tuple[int, int, int]:
        """Channels of C3, C4, C5."""
        _, _, c3, c4, c5 = (genome[end].out for end in self.stage_ends)
        return c3, c4, c5

    def layers(self, genome: Genome) -> int:
        """Convolutions from the image to C5 as MAE-NAS counts them: no shortcuts, nothing that is wrapped."""
        per_layer = map(CONVS_PER_LAYER.__getitem__, self.types)
        return 1 + sum(each * genes.layers for each, genes in zip(per_layer, genome[1:], strict=True))

    def structure(self, genome: Genome) -> Structure:
        """What a detector is built from."""
        blocks = []
        for old, genes in zip(self.template.blocks, genome[1:], strict=True):
            width = {"expansion" if old.type == "inverted" else "bottleneck": genes.width}
            numbers = {"out": genes.out, "layers": genes.layers, "kernel": genes.kernel}
            blocks.append({"type": old.type, "stride": old.stride, **numbers, **width})
        stem = {"type": self.template.stem.type, "out": genome[0].out, "kernel": genome[0].kernel}
        fixed = self.template.model_dump(exclude={"stem", "blocks"})
        return Structure.model_validate({**fixed, "stem": stem, "blocks": blocks})


def genome_of(structure: Structure) -> Genome:
    """The genome that makes this structure in its own frame."""
    stem = Genes(structure.stem.out, kernel=structure.stem.kernel)
    blocks = (
        Genes(block.out, block.bottleneck or block.expansion or 0, block.layers, block.kernel)
        for block in structure.blocks
    )
    return (stem, *blocks)


@dataclass(frozen=True)
class Space:
    """A search space.

    Args:
        seed: where a search begins; its frame holds for every structure of the space.
        scales: what a width may be multiplied by in one mutation.
        widths: fewest and most channels of each super block.
        most_layers: of each super block.
        like: the size of the zoo whose neck, head and image size fit.
        kernels: that a super block may have.
        expansions: of inverted blocks; none elsewhere.
        fewest_layers: of each super block; in a csp stage the first layer only halves the map.
        most_growth: largest ratio of a block's output to its input, from the second block on.
        widest_stem: most channels of the stem.
        stage_weights: of C1 .. C5 in the score.
    """

    seed: Structure
    scales: tuple[float, ...]
    widths: tuple[tuple[int, int], ...]
    most_layers: tuple[int, ...]
    like: str
    kernels: tuple[int, ...] = (3,)
    expansions: tuple[float, ...] = ()
    fewest_layers: tuple[int, ...] = (1, 1, 1, 1, 1)
    most_growth: int = 2048
    stage_weights: tuple[float, ...] = (0.0, 0.0, 1.0, 1.0, 16.0)
    widest_stem: int = 32

    @cached_property
    def frame(self) -> Frame:
        """What all structures of the space share."""
        return Frame(self.seed)

    @cached_property
    def ranges(self) -> tuple[tuple[int, int], ...]:
        """Fewest and most channels of stem and blocks such that widths need never shrink, multiples of 8."""
        ranges = [(8, self.widest_stem), *self.widths]
        lows = list(accumulate((low for low, _ in ranges), max))
        highs = list(accumulate((high for _, high in reversed(ranges)), min))[::-1]
        return tuple((-(-low // 8) * 8, high // 8 * 8) for low, high in zip(lows, highs, strict=True))

    def activated(self, activation: Activation) -> Space:
        """The same space with that activation everywhere: after blocks, SPP and what wraps csp stages."""
        names = ("activation", "spp_activation", "wrap_activation")
        return replace(self, seed=self.seed.model_copy(update=dict.fromkeys(names, activation)))

    def within(
        self, fewest: tuple[int, int, int] | None = None, most: tuple[int, int, int] | None = None
    ) -> Space:
        """The same space with other bounds on the channels of C3, C4 and C5."""
        widths = list(self.widths)
        for position, end in enumerate(self.frame.stage_ends[2:]):
            low, high = widths[end - 1]
            widths[end - 1] = fewest[position] if fewest else low, most[position] if most else high
        return replace(self, widths=tuple(widths))


def _dense(kind: str, block: str, activation: str) -> Structure:
    """Where DAMO-YOLO's own searches begin."""
    shapes = ((48, 32, 2), (96, 48, 2), (96, 96, 2), (192, 96, 1), (384, 192, 2))
    blocks = [
        {"type": block, "out": out, "bottleneck": width, "stride": stride, "layers": 1}
        for out, width, stride in shapes
    ]
    stem = {"type": "focus", "out": 32}
    fixed = {"kind": kind, "activation": activation, "rep": True}
    return Structure.model_validate({**fixed, "stem": stem, "blocks": blocks})


def _bottlenecks() -> Structure:
    """Where MAE-DET's searches begin, a ResNet of 16 layers."""
    shapes = ((256, 64, 2), (512, 128, 2), (768, 256, 2), (1024, 256, 1), (2048, 512, 2))
    blocks = [
        {"type": "k1kxk1", "out": out, "bottleneck": width, "stride": stride, "layers": 1}
        for out, width, stride in shapes
    ]
    return Structure.model_validate(
        {"kind": "res", "stem": {"type": "conv", "out": 32}, "blocks": blocks, "activation": "relu"}
    )


def _inverted() -> Structure:
    """A small relative of the nano models."""
    shapes = ((24, 3.5, 2, 1), (40, 4.0, 2, 2), (64, 4.5, 2, 2), (80, 5.0, 1, 2), (160, 5.5, 2, 2))
    blocks = [
        {"type": "inverted", "out": out, "expansion": wide, "stride": stride, "layers": layers, "kernel": 5}
        for out, wide, stride, layers in shapes
    ]
    return Structure.model_validate(
        {"kind": "mob", "stem": {"type": "conv", "out": 16}, "blocks": blocks, "activation": "silu"}
    )


_SCALES = (2.0, 1.5, 1.25, 0.8, 0.6, 0.5)
_DENSE_WIDTHS = ((8, 128), (32, 128), (32, 256), (64, 256), (128, 512))
_DEPTHS = (2, 6, 6, 6, 6)

SPACES = {
    "k1kx": Space(
        seed=_dense("res", "k1kx", "relu"),
        scales=_SCALES,
        widths=_DENSE_WIDTHS,
        most_layers=_DEPTHS,
        like="T",
    ),
    "kxkx": Space(
        seed=_dense("res", "kxkx", "relu"),
        scales=_SCALES,
        widths=_DENSE_WIDTHS,
        most_layers=_DEPTHS,
        like="M",
    ),
    "csp": Space(
        seed=_dense("csp", "kxkx", "silu"),
        scales=_SCALES,
        widths=_DENSE_WIDTHS,
        most_layers=_DEPTHS,
        like="M",
        fewest_layers=(2, 2, 2, 1, 2),
    ),
    "k1kxk1": Space(
        seed=_bottlenecks(),
        scales=(1.5, 1.25, 0.8, 0.6, 0.5),
        widths=((8, 2048),) * 5,
        most_layers=(3, 10, 10, 10, 10),
        kernels=(3, 5),
        most_growth=4,
        stage_weights=(0.0, 0.0, 1.0, 1.0, 6.0),
        like="T",
    ),
    "mob": Space(
        seed=_inverted(),
        scales=_SCALES,
        widths=((8, 64), (16, 128), (24, 256), (24, 256), (48, 512)),
        most_layers=(2, 6, 6, 6, 6),
        kernels=(3, 5),
        expansions=(1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0, 5.5, 6.0),
        like="Ns",
    ),
}
"""By name: dense with two convolutions a layer (`csp` wraps them in stages), with three, and depthwise."""
