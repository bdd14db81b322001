"""New classes on old weights."""

from __future__ import annotations

import torch

from damoyolo.nn.detector import Detector, build_detector
from damoyolo.spec import ModelCard


@torch.no_grad()
def with_classes(trained: Detector, card: ModelCard) -> Detector:
    """A detector for `card`'s classes that begins with the weights of `trained`, which is not fused.

    Everything but the class projections is copied; of those, the rows of classes with the same name.
    """
    fresh = build_detector(card)
    old, new = trained.state_dict(), fresh.state_dict()
    known = [name for name in card.class_names if name in trained.card.class_names]
    rows = [card.class_names.index(name) for name in known]
    old_rows = [trained.card.class_names.index(name) for name in known]
    for key, value in new.items():
        if key.startswith("head.classify."):
            value[rows] = old[key][old_rows]
        else:
            value.copy_(old[key])
    return fresh
