"""The operators that a network consists of, in order: blocks, stages, neck and head, as lists of `Op`.

Each function mirrors one of `damoyolo.nn`; the tests compare its sums with the modules that are built.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

from damoyolo.search.space import BlockType, Genes
from damoyolo.spec import HeadSpec, NeckSpec, Structure


class Op(NamedTuple):
    """An operator on a square map: all that its cost depends on.

    `side` is its input's, in pixels; `fused` says that a shortcut is added to what it yields; `bias` that it
    has a bias and no normalisation. A `pool` halves the resolution of a searched shortcut.
    """

    cin: int
    cout: int
    kernel: int
    stride: int
    side: int
    kind: Literal["conv", "depthwise", "pool"] = "conv"
    fused: bool = False
    bias: bool = False

    @property
    def out_side(self) -> int:
        """Of what it yields, in pixels."""
        return -(-self.side // self.stride)

    @property
    def weights(self) -> int:
        """Numbers in its kernel."""
        if self.kind == "pool":
            return 0
        return self.cout * self.kernel**2 * (self.cin if self.kind == "conv" else 1)

    @property
    def params(self) -> int:
        """What is learnt: the kernel, and a bias or the scale and shift of a normalisation."""
        return self.weights + self.cout * (1 if self.bias else 2) if self.weights else 0

    @property
    def flops(self) -> int:
        """Of the convolution alone, 2 for each multiply-add, as PyTorch and most papers count."""
        return 2 * self.weights * self.out_side**2

    @property
    def searched_flops(self) -> int:
        """As the original search counts: 1 a multiply-add, 3 an output of normalisation and ReLU."""
        if self.kind == "pool":
            return self.cin * self.side**2
        return (self.weights + 3 * self.cout) * self.out_side**2


def inverted_width(out: int, expansion: int | float) -> int:
    """Inner channels of an inverted layer, a multiple of 8; the same as `nn.stages.multiple_of_8`."""
    whole = math.ceil(out * expansion)
    rounded = max(8, (whole + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * whole else rounded


def main_branch(
    kind: BlockType, cin: int, genes: Genes, stride: int, side: int, *, adds: bool, rep: bool = False
) -> list[Op]:
    """The convolutions of one residual layer without its shortcut, added to the last if it `adds`."""
    out, k, smaller = genes.out, genes.kernel, -(-side // stride)
    if kind == "inverted":
        wide = inverted_width(out, genes.width)
        return [
            Op(cin, wide, 1, 1, side),
            Op(wide, wide, k, stride, side, "depthwise"),
            Op(wide, out, 1, 1, smaller, fused=adds),
        ]
    narrow = int(genes.width)
    if kind == "k1kxk1":
        return [
            Op(cin, narrow, 1, 1, side),
            Op(narrow, narrow, k, stride, side, bias=rep),
            Op(narrow, out, 1, 1, smaller, fused=adds),
        ]
    return [
        Op(cin, narrow, k if kind == "kxkx" else 1, 1, side),
        Op(narrow, out, k, stride, side, fused=adds, bias=rep),
    ]


def searched_block_ops(kind: BlockType, cin: int, genes: Genes, stride: int, side: int) -> list[Op]:
    """A super block as MAE-NAS counts it: all layers have a shortcut, pooled where one halves the map."""
    if kind == "inverted":
        raise ValueError("the original search knows no depthwise blocks; count what is built")
    ops: list[Op] = []
    for number in range(genes.layers):
        ops += main_branch(kind, cin, genes, stride, side, adds=True)
        if stride == 2:
            ops.append(Op(cin, cin, 2, 2, side, "pool"))
        side = -(-side // stride)
        if cin != genes.out or (kind == "k1kxk1" and number == 0):
            ops.append(Op(cin, genes.out, 1, 1, side))
        cin, stride = genes.out, 1
    return ops


def built_block_ops(
    kind: BlockType, cin: int, genes: Genes, stride: int, side: int, structure: Structure, is_last: bool
) -> list[Op]:
    """A super block of a backbone of kind res or mob; pyramid pooling follows the first layer of the last."""
    ops = _layer_ops(kind, cin, genes, stride, side, structure.rep)
    side = -(-side // stride)
    if structure.spp and is_last:
        ops += _spp_ops(genes.out, side)
    for _ in range(genes.layers - 1):
        ops += _layer_ops(kind, genes.out, genes, 1, side, structure.rep)
    return ops


def csp_stage_ops(
    kinds: Sequence[BlockType],
    cin: int,
    blocks: Sequence[Genes],
    side: int,
    structure: Structure,
    is_last: bool,
) -> list[Op]:
    """A stage of a backbone of kind csp: the super blocks of one resolution."""
    first, last = blocks[0], blocks[-1]
    width, inner = 2 * (first.out // 2), first.out // 2
    down = Op(cin, width, first.kernel, 2, side)
    side = down.out_side
    layers: list[Op] = []
    for number, (kind, genes) in enumerate(zip(kinds, blocks, strict=True)):
        half = genes._replace(out=genes.out // 2)
        for _ in range(genes.layers - (number == 0)):
            layers += _layer_ops(kind, inner, half, 1, side, structure.rep)
            inner = half.out
    if not layers:  # then nothing is wrapped, and nothing pooled
        return [down]
    branches = [Op(width, first.out // 2, 1, 1, side), Op(width, last.out // 2, 1, 1, side)]
    pooling = _spp_ops(width, side) if structure.spp and is_last else []
    return [down, *pooling, *branches, *layers, Op(inner + last.out // 2, last.out, 1, 1, side)]


def neck_ops(channels: tuple[int, int, int], neck: NeckSpec, sides: tuple[int, int, int]) -> list[Op]:
    """RepGFPN on C3 C4 C5 of these channels and sides, its RepConvs fused."""
    (c3, c4, c5), (p3, p4, p5), (fine, middle, coarse) = channels, neck.out, sides
    return [
        *_halving_ops(c4, middle, neck),
        *_fusion_ops(c5 + c4, c5, coarse, neck),
        *_halving_ops(c3, fine, neck),
        *_fusion_ops(c4 + c3 + c5, c4, middle, neck),
        *_fusion_ops(c3 + c4, p3, fine, neck),
        *_halving_ops(p3, fine, neck),
        *_fusion_ops(c4 + p3, p4, middle, neck),
        *_halving_ops(c4, middle, neck),
        *_halving_ops(p4, middle, neck),
        *_fusion_ops(c5 + c4 + p4, p5, coarse, neck),
    ]


def neck_path_ops(channels: tuple[int, int, int], neck: NeckSpec) -> tuple[list[Op], list[Op], list[Op]]:
    """Convolutions one after another on RepGFPN's longest way: from C5 to P3, on to P4, on to P5."""
    (c3, c4, c5), (p3, p4, p5) = channels, neck.out

    def through(cin: int, cout: int) -> list[Op]:
        return _fusion_ops(cin, cout, 1, neck)[1:]  # the first is the bypass

    return (
        [*through(c5 + c4, c5), *through(c4 + c3 + c5, c4), *through(c3 + c4, p3)],
        [*_halving_ops(p3, 1, neck), *through(c4 + p3, p4)],
        [*_halving_ops(p4, 1, neck), *through(c5 + c4 + p4, p5)],
    )


def head_ops(
    channels: tuple[int, int, int], head: HeadSpec, num_classes: int, sides: tuple[int, int, int]
) -> list[Op]:
    """ZeroHead: two projections of each of P3 P4 P5."""
    return [
        Op(cin, cout, head.kernel, 1, side, bias=True)
        for cin, side in zip(channels, sides, strict=True)
        for cout in (num_classes, 4 * head.bins)
    ]


def _layer_ops(kind: BlockType, cin: int, genes: Genes, stride: int, side: int, rep: bool) -> list[Op]:
    """A residual layer as it is built: a shortcut at stride 1 only, projected where the widths differ."""
    same = cin == genes.out
    adds = stride == 1 and (same or kind != "inverted")
    ops = main_branch(kind, cin, genes, stride, side, adds=adds, rep=rep)
    return ops if same or not adds else [*ops, Op(cin, genes.out, 1, 1, side)]


def _spp_ops(channels: int, side: int) -> list[Op]:
    hidden = channels // 2
    return [Op(channels, hidden, 1, 1, side), Op(4 * hidden, channels, 1, 1, side)]


def _halving_ops(channels: int, side: int, neck: NeckSpec) -> list[Op]:
    if not neck.depthwise:
        return [Op(channels, channels, 3, 2, side)]
    return [Op(channels, channels, 3, 2, side, "depthwise"), Op(channels, channels, 1, 1, -(-side // 2))]


def _fusion_ops(cin: int, cout: int, side: int, neck: NeckSpec) -> list[Op]:
    bypass = cout // 2
    width = cout - bypass
    hidden = int(width * neck.hidden_ratio)
    ops = [Op(cin, bypass, 1, 1, side), Op(cin, width, 1, 1, side)]
    for _ in range(neck.depth):
        if neck.depthwise:
            ops += main_branch("inverted", width, Genes(width, 3.0, 1, 5), 1, side, adds=True)
        else:
            ops += [Op(width, hidden, 3, 1, side, bias=True), Op(hidden, width, 3, 1, side, fused=True)]
    return [*ops, Op(bypass + neck.depth * width, cout, 1, 1, side)]
