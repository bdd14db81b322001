"""States and checkpoints as the reference writes them, made from the golden key lists."""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch
from torch import Tensor

from conftest import golden


def shapes(size: str, layout: str = "train") -> dict[str, tuple[int, ...]]:
    listing = json.loads(golden(f"keys-{size}.json").read_text())[layout]
    return {key: tuple(shape) for key, (shape, _) in listing.items()}


def state(size: str, layout: str = "train", channels: int = 80) -> dict[str, Tensor]:
    """A state dict; entry number n is filled with n / 1000, without taking memory for it."""
    made = {}
    for number, (key, shape) in enumerate(shapes(size, layout).items()):
        shape = (channels, *shape[1:]) if ".gfl_cls." in key else shape
        counter = key.endswith("num_batches_tracked")
        made[key] = torch.tensor(number if counter else number / 1000).expand(shape)
    made["head.integral.project"] = torch.arange(len(made["head.integral.project"])).float()
    return made


def checkpoint(path: Path, size: str = "Ns", **wrapped: object) -> Path:
    torch.save({"model": {key: tensor.clone() for key, tensor in state(size).items()}, **wrapped}, path)
    return path


class Malice:
    """Unpickled carelessly, it makes a folder."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.trace),)
