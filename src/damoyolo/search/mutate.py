"""One step of the search: a structure's near relative.

`Mutator` changes any block, the last one too, and repairs what it breaks, so that every child is valid.
`OriginalMutator` repeats the original code, in which the last block never changes and a child may be invalid.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from damoyolo.search.space import CONVS_PER_LAYER, BlockType, Genes, Genome, Space

Mutate = Callable[[Genome, random.Random], Genome]

WIDEST = 2048
_DEPTH_STEPS = (-2, -1, 1, 2)


def round8(width: int | float) -> int:
    """The multiple of 8 nearest to a width, the even one of two that are as near; at least 8."""
    return max(8, 8 * round(width / 8))


class Mutator:
    """Random changes within a space.

    A valid structure has widths that are multiples of 8, lie in the space's ranges and never shrink from
    block to block; bottlenecks from a tenth of the block's output up to all of it; kernels that fit the maps;
    and no more layers than allowed, in each block and in all.

    Args:
        space: what may be searched.
        image_size: side in pixels.
        max_layers: of the whole structure, as `Frame.layers` counts; None for no limit.
        rounds: changes in one step.
    """

    def __init__(self, space: Space, image_size: int, max_layers: int | None = None, rounds: int = 2) -> None:
        self.space, self.max_layers, self.rounds = space, max_layers, rounds
        self._per_layer = CONVS_PER_LAYER[space.frame.types[0]]
        self._kernels = tuple(
            tuple(k for k in space.kernels if 1.5 * k <= side) or (1,)
            for side in space.frame.sides(image_size)[:-1]
        )
        self._ranges = space.ranges
        self._fewest = (1, *space.fewest_layers)
        self._fields = 3 if len(space.kernels) == 1 else 4
        self._fitted: dict[tuple[int, int, Genes], Genes] = {}

    def __call__(self, genome: Genome, rng: random.Random) -> Genome:
        """A valid relative; may be the same again."""
        blocks = list(genome)
        for _ in range(self.rounds):
            position = int(rng.random() * len(blocks))
            blocks[position] = self._changed(blocks[position], position, rng.random)
        return self.repaired(blocks, rng)

    def repaired(self, blocks: Sequence[Genes], rng: random.Random) -> Genome:
        """The valid structure nearest to these blocks, from the stem on; layers too many go at random."""
        fitted, repaired, before, layers = self._fitted, [], 8, 0
        for position, genes in enumerate(blocks):
            key = (position, before, genes)
            fit = fitted.get(key)
            if fit is None:
                fit = fitted[key] = self._fit(position, before, genes)
            repaired.append(fit)
            before = fit.out
            layers += fit.layers
        if self.max_layers is not None:  # the stem is one layer
            self._shorten(repaired, layers - 1 - (self.max_layers - 1) // self._per_layer, rng)
        return tuple(repaired)

    def smallest(self) -> Genome:
        """The cheapest structure of the space."""
        narrowest = self.space.expansions[0] if self.space.expansions else 8
        genes = Genes(8, narrowest, 1, self.space.kernels[0])
        stem = Genes(8, kernel=self.space.seed.stem.kernel)
        return self.repaired([stem, *[genes] * len(self._kernels)], random.Random(0))

    def largest(self) -> Genome:
        """The structure of the space that has the most of everything."""
        space = self.space
        shapes = zip(self._ranges[1:], space.most_layers, self._kernels, strict=True)
        blocks = [
            Genes(high, space.expansions[-1] if space.expansions else high, most, kernels[-1])
            for (_, high), most, kernels in shapes
        ]
        stem = Genes(self._ranges[0][1], kernel=space.seed.stem.kernel)
        return self.repaired([stem, *blocks], random.Random(0))

    def _changed(self, genes: Genes, position: int, draw: Callable[[], float]) -> Genes:
        """One number of a block drawn anew; `draw` yields 0 .. 1."""
        out, width, layers, kernel = genes
        scales = self.space.scales
        field = int(draw() * self._fields) if position else 0
        if field == 0:
            out = round8(out * scales[int(draw() * len(scales))])
        elif field == 1:
            layers += _DEPTH_STEPS[int(draw() * len(_DEPTH_STEPS))]
        elif field == 3:
            kernel = self.space.kernels[int(draw() * len(self.space.kernels))]
        elif self.space.expansions:
            width = self.space.expansions[int(draw() * len(self.space.expansions))]
        else:
            width = round8(width * scales[int(draw() * len(scales))])
        return Genes(out, width, layers, kernel)

    def _fit(self, position: int, before: int, genes: Genes) -> Genes:
        """The valid block nearest to this one, after a block of so many channels."""
        low, high = self._ranges[position]
        if position > 1:
            high = min(high, self.space.most_growth * before)
        out = max(min(round8(genes.out), high), low, before)
        if not position:
            return Genes(out, kernel=genes.kernel)
        kernels = self._kernels[position - 1]
        fewest, most = self.space.fewest_layers[position - 1], self.space.most_layers[position - 1]
        layers = min(max(fewest, genes.layers), most)
        kernel = genes.kernel if genes.kernel in kernels else kernels[-1]
        return Genes(out, self._fit_width(genes.width, out), layers, kernel)

    def _fit_width(self, width: int | float, out: int) -> int | float:
        """The bottleneck or expansion nearest to the one wanted."""
        if self.space.expansions:
            return min(self.space.expansions, key=lambda each: abs(each - width))
        return max(min(round8(width), out), -(-out // 80) * 8)

    def _shorten(self, blocks: list[Genes], surplus: int, rng: random.Random) -> None:
        """Take that many layers away from blocks drawn at random, while any can spare one."""
        for _ in range(surplus):
            deep = [n for n, genes in enumerate(blocks) if genes.layers > self._fewest[n]]
            if not deep:
                return
            position = deep[int(rng.random() * len(deep))]
            blocks[position] = blocks[position]._replace(layers=blocks[position].layers - 1)


class OriginalMutator:
    """Mutations as the original code makes them, for comparison with it; dense spaces only.

    Args:
        space: what may be searched; its `most_layers` is ignored for the original's own rule.
        image_size: side in pixels.
        max_layers: the budget of layers, None for none.
    """

    def __init__(self, space: Space, image_size: int, max_layers: int | None = None) -> None:
        self.space, self.max_layers = space, max_layers
        self._sides = space.frame.sides(image_size)

    def __call__(self, genome: Genome, rng: random.Random) -> Genome:
        """Two rounds of up to as many tries as there are blocks, each ended by a child short enough."""
        for _ in range(2):
            parent = genome
            for _ in range(len(parent)):
                position = rng.randrange(len(parent) - 1)  # the original's slip: never the last
                field, draw = self._drawn(parent, position, rng)
                genome = self.changed(parent, position, field, draw)
                if self.max_layers is None or self.space.frame.layers(genome) <= self.max_layers:
                    break
        return genome

    def changed(self, genome: Genome, position: int, field: str, draw: int | float) -> Genome:
        """One field of a block scaled by what was drawn, or moved by it (layers), or set to it (kernel)."""
        blocks = list(genome)
        genes, kind = blocks[position], self._kind(position)
        if position == 0:
            out = min(self.space.widest_stem, round8(draw * genes.out), blocks[1].out)
            blocks[0] = genes._replace(out=out)
            return self._with_fitting_kernels(blocks)
        if field == "out":
            self._set_out(blocks, position, draw)
        elif field == "width":
            width = min(genes.out, WIDEST, round8(draw * genes.width))
            blocks[position] = genes._replace(width=width)
        elif field == "layers":
            layers = min(max(1, genes.layers + int(draw)), self._most_layers(position, kind))
            blocks[position] = genes._replace(layers=layers)
        else:
            blocks[position] = genes._replace(kernel=int(draw))
        genes = blocks[position]
        if genes.width < genes.out / 10:
            blocks[position] = genes._replace(width=round8(genes.out / 10))
        return self._with_fitting_kernels(blocks)

    def _drawn(self, genome: Genome, position: int, rng: random.Random) -> tuple[str, int | float]:
        """Field and draw; what would change nothing is drawn again a few times."""
        kind, genes = self._kind(position), genome[position]
        if position == 0:
            return "out", rng.choice(self.space.scales)
        field = rng.choice(
            ("out", "kernel", "width", "layers") if kind == "k1kxk1" else ("out", "width", "layers")
        )
        if field == "kernel":
            draws = [rng.choice(self.space.kernels) for _ in range(3)]
            return field, next((draw for draw in draws if draw != genes.kernel), draws[-1])
        if field == "layers":
            most = self._most_layers(position, kind)
            steps = [rng.choice(_DEPTH_STEPS) for _ in range(5)]
            changes = (step for step in steps if min(max(1, genes.layers + step), most) != genes.layers)
            return field, next(changes, steps[-1])
        return field, rng.choice(self.space.scales)

    def _set_out(self, blocks: list[Genes], position: int, draw: int | float) -> None:
        genes, before = blocks[position], blocks[position - 1].out
        after = blocks[position + 1].out if position + 1 < len(blocks) else None
        out = min(WIDEST, round8(draw * genes.out))
        if self._kind(position) == "k1kxk1":
            out = max(min(out, 4 * before), before)
            if after is not None:
                out = max(min(out, after), round8(after / 4))
            blocks[position] = genes._replace(out=out)
            return
        low, high = self.space.widths[position - 1]
        out = max(min(max(out, low), high), before)
        if after is not None:
            out = min(out, after)
            blocks[position + 1] = blocks[position + 1]._replace(width=min(blocks[position + 1].width, out))
        blocks[position] = genes._replace(out=out)

    def _most_layers(self, position: int, kind: BlockType) -> int:
        """The original's rule: few in the first block, a share of the budget in the others."""
        if position == 1:
            return 3 if kind == "k1kxk1" else 2
        if self.max_layers is None:
            return WIDEST
        return self.max_layers // CONVS_PER_LAYER[kind] // (len(self._sides) - 2)

    def _kind(self, position: int) -> BlockType:
        return self.space.frame.types[max(0, position - 1)]

    def _with_fitting_kernels(self, blocks: list[Genes]) -> Genome:
        for position, side in enumerate(self._sides[:-1], start=1):
            kernel = blocks[position].kernel
            while 1.5 * kernel > side:
                kernel -= 2
            blocks[position] = blocks[position]._replace(kernel=kernel)
        return tuple(blocks)
