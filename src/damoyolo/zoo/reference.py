"""The reference's names for our parameters: the only place where they appear.

`reference_keys` names every entry of a detector's state; `convert_reference` turns a state dict of the
reference into ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor, nn

from damoyolo.errors import UserError
from damoyolo.nn.backbone import Backbone
from damoyolo.nn.blocks import SPP, ConvNorm, RepConv
from damoyolo.nn.detector import Detector
from damoyolo.nn.head import ZeroHead
from damoyolo.nn.neck import DepthwiseDownsample, Fusion, FusionLayer, RepGFPN
from damoyolo.nn.stages import CspStage, InvertedLayer, ResidualLayer
from damoyolo.spec import ModelCard, ModelSpec
from damoyolo.zoo import SIZES, read_spec
from damoyolo.zoo.layout import Layout, disagreement, hollow_detector, layout_of

Names = dict[type[nn.Module], dict[str, str]]
"""For each kind of module, what the reference calls its children; unlisted children keep their names."""


def _kxbn(ours: str, theirs: str) -> dict[str, str]:
    """Names of a ConvNorm that the reference calls ConvKXBN."""
    return {f"{ours}.conv": f"{theirs}.conv1", f"{ours}.norm": f"{theirs}.bn1"}


def _inverted(sequence: str, *positions: int) -> dict[str, str]:
    """Names of an inverted residual: positions of its three convolutions; a norm follows each."""
    names: dict[str, str] = {}
    for layer, position in zip(("expand", "depthwise", "project"), positions, strict=True):
        names |= {f"{layer}.conv": f"{sequence}.{position}", f"{layer}.norm": f"{sequence}.{position + 1}"}
    return names


_BACKBONE: Names = {
    ConvNorm: {"norm": "bn"},
    RepConv: {"dense": "rbr_dense", "pointwise": "rbr_1x1", "fused": "rbr_reparam"},
    SPP: {"reduce": "conv1", "expand": "conv2"},
    ResidualLayer: {
        **_kxbn("reduce", "conv1"),
        "expand": "conv2",
        **_kxbn("expand", "conv2"),
        **_kxbn("shortcut", "residual_proj"),
    },
    InvertedLayer: _inverted("conv", 0, 3, 7),
    CspStage: {
        **_kxbn("downsample", "downsampler.conv"),
        **_kxbn("enter", "conv_start.conv"),
        **_kxbn("bypass", "conv_shortcut.conv"),
        **_kxbn("fuse", "conv_fuse.conv"),
        "layers": "convstem",
    },
}

_NECK: Names = {
    ConvNorm: {"norm": "bn"},
    RepConv: _BACKBONE[RepConv],
    RepGFPN: {
        "down_c4": "bu_conv13",
        "down_c3": "bu_conv24",
        "down_p3": "bu_conv57",
        "down_t4": "bu_conv46",
        "down_p4": "bu_conv76",
        "fuse_t5": "merge_3",
        "fuse_t4": "merge_4",
        "fuse_p3": "merge_5",
        "fuse_p4": "merge_7",
        "fuse_p5": "merge_6",
    },
    DepthwiseDownsample: {
        "depthwise.conv": "depthwise",
        "depthwise.norm": "dwnorm",
        "pointwise.conv": "pointwise",
        "pointwise.norm": "pwnorm",
    },
    Fusion: {"bypass": "conv1", "enter": "conv2", "mix": "conv3", "layers": "convs"},
    FusionLayer: {"rep": "conv2", "conv": "conv1"},
    InvertedLayer: _inverted("conv.conv", 0, 3, 6),
}

_HEAD: Names = {
    ZeroHead: {
        "classify": "gfl_cls",
        "regress": "gfl_reg",
        **{f"scales.{level}": f"scales.{level}.scale" for level in range(3)},
    },
}


def reference_keys(detector: Detector) -> dict[str, str]:
    """Our key -> the reference's key, for every entry of the detector's state, fused or not."""
    names: Names = {Backbone: _stage_names(detector.backbone), **_BACKBONE}
    parts = {"backbone": names, "neck": _NECK, "head": _HEAD}
    keys = {}
    for key in detector.state_dict():
        part, rest = key.split(".", 1)
        keys[key] = f"{part}.{_renamed(rest, detector.get_submodule(part), parts[part])}"
    return keys


def _stage_names(backbone: nn.Module) -> dict[str, str]:
    """Names of the stem and the stages, which the reference counts together."""
    assert isinstance(backbone, Backbone)
    csp = any(isinstance(stage, CspStage) for stage in backbone.stages)
    stem = "csp_stage.0" if csp else "block_list.0"
    stage = "csp_stage.{}" if csp else "block_list.{}.block_list"
    plain = _kxbn("stem", f"{stem}.conv") if isinstance(backbone.stem, ConvNorm) else {}
    stages = {f"stages.{i}": stage.format(i + 1) for i in range(len(backbone.stages))}
    return {"stem": stem, **plain, **stages}


def _renamed(key: str, module: nn.Module, names: Names) -> str:
    """`key` of the module's state as the reference spells it: the longest listed prefix is replaced first."""
    table = names.get(type(module), {})
    parts = key.split(".")
    for end in range(len(parts), 0, -1):
        prefix = ".".join(parts[:end])
        if end == len(parts) and prefix in table:
            return table[prefix]
        if end < len(parts) and (prefix in table or end == 1):
            child = module.get_submodule(prefix)
            return f"{table.get(prefix, prefix)}.{_renamed('.'.join(parts[end:]), child, names)}"
    return key


class Conversion(NamedTuple):
    """A reference state dict in our names, and what it says about its network."""

    state: dict[str, Tensor]
    spec: ModelSpec
    num_classes: int
    fused: bool


_LEGACY_COCO_CHANNELS = 81
_CLASSES = ("head.gfl_cls.0", "head.gfl_cls.1", "head.gfl_cls.2")
_BIN_VALUES = "head.integral.project"


def convert_reference(
    state: Mapping[str, Tensor], legacy_background: bool | None = None, where: str = "state dict"
) -> Conversion:
    """Our names for a state dict of the reference; the size is inferred from its shapes.

    Args:
        state: training or deploy layout, any number of classes; a `module.` before every key is dropped.
        legacy_background: whether the last class channel is background, as in models before v0.3, and to be
            cut off. Shapes cannot tell; by default 81 channels are taken as the 80 of COCO and background.
        where: the file, for messages.

    Raises:
        UserError: if keys are missing, unexpected or misshapen, with the count and first ten of each.
    """
    if state and all(key.startswith("module.") for key in state):
        state = {key.removeprefix("module."): tensor for key, tensor in state.items()}
    spec, fused = _identify(state, where)
    names, expected = _reference_layout(spec.name, fused)
    channels = _class_channels(state)
    if problem := disagreement(_with_channels(expected, channels), layout_of(state)):
        raise UserError(f"{where}: does not fit {spec.name}, the size nearest to it: {problem}")
    if not torch.equal(state[_BIN_VALUES].double(), torch.arange(spec.head.bins).double()):
        raise UserError(f"{where}: {_BIN_VALUES} is not 0 .. {spec.head.bins - 1}; fetch the file again")
    if legacy_background is None:
        legacy_background = channels == _LEGACY_COCO_CHANNELS
    num_classes = channels - legacy_background
    if num_classes < 1:
        raise UserError(f"{where}: has one class channel, so none is background; leave legacy_background out")
    converted = {
        ours: state[theirs][:num_classes] if theirs.startswith(_CLASSES) else state[theirs]
        for ours, theirs in names.items()
    }
    return Conversion(converted, spec, num_classes, fused)


def _identify(state: Mapping[str, Tensor], where: str) -> tuple[ModelSpec, bool]:
    """The spec that most keys and shapes agree with, and whether RepConv branches are fused."""
    fused = any(".rbr_reparam." in key for key in state)
    found, channels = layout_of(state), _class_channels(state)

    def agreement(size: str) -> float:
        expected = _with_channels(_reference_layout(size, fused)[1], channels)
        return sum(found.get(key) == shape for key, shape in expected.items()) / len(expected)

    size = max(SIZES, key=agreement)
    if agreement(size) < 0.5:
        first = ", ".join(list(state)[:3]) or "none"
        raise UserError(
            f"{where}: holds {len(state)} tensors (first: {first}) that fit no size of DAMO-YOLO; "
            f"known sizes: {' '.join(SIZES)}"
        )
    return read_spec(size), fused


@cache
def _reference_layout(size: str, fused: bool) -> tuple[dict[str, str], Layout]:
    """Our key -> the reference's key; and the reference's key -> shape, for one class."""
    spec = read_spec(size)
    card = ModelCard(spec=spec, class_names=("any",), image_size=(spec.image_size, spec.image_size))
    detector = hollow_detector(card, fused)
    names, shapes = reference_keys(detector), layout_of(detector.state_dict())
    return names, {**{names[key]: shape for key, shape in shapes.items()}, _BIN_VALUES: (spec.head.bins,)}


def _class_channels(state: Mapping[str, Tensor]) -> int:
    """Class channels of the head; 1 if it has none, which the comparison of layouts reports."""
    weight = state.get(f"{_CLASSES[0]}.weight")
    return weight.shape[0] if weight is not None and weight.ndim else 1


def _with_channels(layout: Layout, channels: int) -> Layout:
    """The same layout for a head with that many class channels."""
    return {
        key: (channels, *shape[1:]) if key.startswith(_CLASSES) else shape for key, shape in layout.items()
    }
