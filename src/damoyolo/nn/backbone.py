"""A backbone is a stem and a list of stages; three of the stages are looked at."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from damoyolo.nn.blocks import SPP, ConvNorm, Focus
from damoyolo.nn.init import init_inverted_backbone
from damoyolo.nn.stages import BottleneckLayer, CspStage, InvertedLayer, ResidualLayer
from damoyolo.spec import Block, Stem, Structure


class Backbone(nn.Module):
    """Yields C3, C4, C5: the maps of strides 8, 16 and 32.

    `taps` are the positions in `stages` whose outputs are yielded.
    """

    def __init__(self, stem: nn.Module, stages: list[nn.Module], taps: tuple[int, int, int]) -> None:
        super().__init__()
        self.stem = stem
        self.stages = nn.ModuleList(stages)
        self.taps = taps

    def forward(
        self, images: Float[Tensor, "b 3 h w"]
    ) -> tuple[
        Float[Tensor, "b c3 h/8 w/8"], Float[Tensor, "b c4 h/16 w/16"], Float[Tensor, "b c5 h/32 w/32"]
    ]:
        """Images are RGB 0..255; height and width are multiples of 32."""
        x = self.stem(images)
        outputs = []
        for stage in self.stages:
            x = stage(x)
            outputs.append(x)
        c3, c4, c5 = (outputs[tap] for tap in self.taps)
        return c3, c4, c5


def build_backbone(structure: Structure) -> Backbone:
    """The network a `Structure` describes, freshly initialised (paper section 3.1)."""
    if structure.kind == "csp":
        return Backbone(_stem(structure.stem, structure), _csp_stages(structure), taps=(1, 2, 3))
    backbone = Backbone(
        _stem(structure.stem, structure), _plain_stages(structure), taps=_plain_taps(structure)
    )
    if structure.kind == "mob":
        init_inverted_backbone(backbone)
    return backbone


def _stem(stem: Stem, structure: Structure) -> nn.Module:
    if stem.type == "focus":
        return Focus(stem.out, stem.kernel, structure.activation)
    return ConvNorm(3, stem.out, stem.kernel, stride=2, act=structure.activation)


def _plain_stages(structure: Structure) -> list[nn.Module]:
    """One stage per super block; pyramid pooling follows the first layer of the last one."""
    stages: list[nn.Module] = []
    channels = structure.stem.out
    for block in structure.blocks:
        layers = [_layer(block, channels, block.stride, structure)]
        layers += [_layer(block, block.out, 1, structure) for _ in range(block.layers - 1)]
        channels = block.out
        if structure.spp and block is structure.blocks[-1]:
            layers.insert(1, SPP(channels, channels, structure.spp_activation))
        stages.append(nn.Sequential(*layers))
    return stages


def _plain_taps(structure: Structure) -> tuple[int, int, int]:
    """Positions of the last super block of each of the strides 8, 16, 32."""
    sizes = [len(stage) for stage in structure.stages]
    ends = [sum(sizes[: count + 1]) - 1 for count in range(4)]
    return ends[1], ends[2], ends[3]


def _csp_stages(structure: Structure) -> list[nn.Module]:
    """One stage per resolution; the stride-2 layer of its first super block becomes the downsampler."""
    stages: list[nn.Module] = []
    channels = structure.stem.out
    for blocks in structure.stages:
        first, last = blocks[0], blocks[-1]
        width = 2 * (first.out // 2)
        downsample = ConvNorm(channels, width, first.kernel, stride=2, act=structure.wrap_activation)
        pooled = structure.spp and last is structure.blocks[-1]
        spp = SPP(width, width, structure.spp_activation) if pooled else nn.Identity()
        layers, inner = [], first.out // 2
        for block in blocks:
            for _ in range(block.layers - (block.stride == 2)):
                layers.append(_layer(block, inner, 1, structure, out_channels=block.out // 2))
                inner = block.out // 2
        ends = (first.out // 2, inner)
        act = structure.wrap_activation
        stages.append(CspStage(downsample, spp, layers, width, ends, last.out, act) if layers else downsample)
        channels = last.out
    return stages


def _layer(
    block: Block, in_channels: int, stride: int, structure: Structure, out_channels: int | None = None
) -> nn.Module:
    out = out_channels or block.out
    act = structure.activation
    if block.type == "inverted":
        assert block.expansion is not None
        return InvertedLayer(in_channels, out, block.expansion, block.kernel, stride, act)
    assert block.bottleneck is not None
    if block.type == "k1kxk1":
        return BottleneckLayer(in_channels, out, block.bottleneck, block.kernel, stride, act, structure.rep)
    first_kernel = block.kernel if block.type == "kxkx" else 1
    return ResidualLayer(
        in_channels, out, block.bottleneck, block.kernel, stride, act, structure.rep, first_kernel
    )
