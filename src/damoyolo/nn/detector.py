"""The detector, composed in one visible place."""

from __future__ import annotations

import copy

import torch
from jaxtyping import Float
from torch import Tensor, nn

from damoyolo.boxes.types import Predictions
from damoyolo.nn.backbone import build_backbone
from damoyolo.nn.blocks import RepConv
from damoyolo.nn.head import ZeroHead
from damoyolo.nn.neck import build_neck
from damoyolo.spec import STRIDES, ModelCard, ModelSpec


class Detector(nn.Module):
    """Images in, raw `Predictions` out; `card` says what it is and what its classes are called."""

    def __init__(self, backbone: nn.Module, neck: nn.Module, head: nn.Module, card: ModelCard) -> None:
        super().__init__()
        self.backbone = backbone
        self.neck = neck
        self.head = head
        self.card = card

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Predictions:
        """Images are float RGB 0..255; height and width are multiples of 32."""
        predictions: Predictions = self.head(*self.features(images))
        return predictions

    def features(self, images: Float[Tensor, "b 3 h w"]) -> tuple[Tensor, ...]:
        """The neck's maps P3, P4, P5 (strides 8, 16, 32): what the head and distillation see."""
        maps: tuple[Tensor, ...] = self.neck(*self.backbone(images))
        return maps


def build_detector(card: ModelCard) -> Detector:
    """A detector with fresh random weights."""
    spec: ModelSpec = card.spec
    return Detector(
        backbone=build_backbone(spec.structure),
        neck=build_neck(spec.structure.out_channels, spec.neck),
        head=ZeroHead(spec.neck.out, len(card.class_names), spec.head.bins, spec.head.kernel, STRIDES),
        card=card,
    )


def fuse(detector: Detector) -> Detector:
    """A copy for inference, in eval mode, whose RepConv branches are merged; the original is untouched."""
    fused = copy.deepcopy(detector).eval()
    for module in fused.modules():
        if isinstance(module, RepConv):
            module.fuse()
    return fused


def as_if_trained(detector: Detector) -> Detector:
    """Give its norms statistics, scales and shifts such as training leaves, in place; to be timed, not used.

    Fresh norms make the bias of every convolution zero, and exporters drop what adds nothing.
    """
    random = torch.Generator().manual_seed(0)
    for module in detector.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.7, 1.3, random)
            nn.init.normal_(module.bias, 0.0, 0.2, random)
            nn.init.normal_(module.running_mean, 0.0, 0.3, random)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 2.0, random)  # type: ignore[arg-type]
    return detector
