"""Names and shapes of a network's state, and how two of them differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from damoyolo.nn.detector import Detector, build_detector, fuse
from damoyolo.spec import ModelCard

Layout = dict[str, tuple[int, ...]]
"""Shape of every entry of a state dict."""

_LISTED = 10


def hollow_detector(card: ModelCard, fused: bool) -> Detector:
    """A detector in eval mode with names and shapes but no numbers (meta device); draws nothing at random."""
    with torch.device("meta"):
        detector = build_detector(card).eval()
        return fuse(detector) if fused else detector


def layout_of(state: Mapping[str, Tensor]) -> Layout:
    """Shapes by name."""
    return {key: tuple(tensor.shape) for key, tensor in state.items()}


def disagreement(expected: Layout, found: Layout) -> str:
    """What is missing, unexpected and misshapen in `found`: count and first ten of each; empty if nothing."""
    missing = [key for key in expected if key not in found]
    unexpected = [key for key in found if key not in expected]
    misshapen = [
        f"{key} {list(found[key])} instead of {list(shape)}"
        for key, shape in expected.items()
        if key in found and found[key] != shape
    ]
    parts = {"missing": missing, "unexpected": unexpected, "misshapen": misshapen}
    return "; ".join(f"{len(keys)} {kind} ({_listing(keys)})" for kind, keys in parts.items() if keys)


def _listing(keys: Sequence[str]) -> str:
    return ", ".join(keys[:_LISTED]) + (", ..." if len(keys) > _LISTED else "")
