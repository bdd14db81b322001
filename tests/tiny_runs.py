"""A data set and settings so small that a training run takes a second, and ways to compare two runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from damoyolo.assemble import resolve
from damoyolo.config import TrainConfig
from damoyolo.data.shapes import write_shapes
from damoyolo.spec import ModelSpec
from damoyolo.zoo.recipes import overlay

SETTINGS: dict[str, Any] = {
    "image_size": 64,
    "batch_size": 4,
    "epochs": 2,
    "no_augment_epochs": 1,
    "evaluate_every": 1,
    "workers": 0,
    "device": "cpu",
    "precision": "float32",
    "report": False,
    "optim": {"warmup_epochs": 0.5},
}
SMALL_SPEC = ModelSpec.model_validate(
    {
        "name": "tiny",
        "structure": {
            "kind": "mob",
            "stem": {"type": "conv", "out": 8},
            "blocks": [
                {"type": "inverted", "out": 16, "stride": 2, "layers": 1, "kernel": 3, "expansion": 2}
                for _ in range(4)
            ],
            "activation": "silu",
        },
        "neck": {"out": [16, 16, 16], "depth": 1, "activation": "silu", "depthwise": True},
        "head": {"bins": 8, "kernel": 1},
        "image_size": 64,
    }
)
IMAGES, STEPS_PER_EPOCH = 10, 3
CLOCK = ("seconds", "images_per_s")


def write_data(folder: Path) -> Path:
    """Ten images to train on, so that the third batch of an epoch has two, four to validate with; a spec."""
    write_shapes(folder, train=IMAGES, val=4, image_size=64)
    spec_in(folder).write_text(SMALL_SPEC.to_yaml())
    return folder


def spec_in(data: Path) -> Path:
    """Where `write_data` puts the spec."""
    return data / "tiny.yaml"


def tiny(data: Path, output: Path, **changes: Any) -> TrainConfig:
    """The quick recipe with the settings above and then the changes laid over it."""
    base = {**SETTINGS, "model": str(spec_in(data)), "data": data, "output": output}
    return resolve("quick", overlay(base, changes))


def flags(settings: dict[str, Any], prefix: str = "--") -> list[str]:
    """Settings as the command line takes them."""
    found = []
    for key, value in settings.items():
        name = key.replace("_", "-")
        if isinstance(value, dict):
            found += flags(value, f"{prefix}{name}.")
        elif isinstance(value, bool):
            found.append(f"{prefix}{'' if value else 'no-'}{name}")
        else:
            found += [prefix + name, str(value)]
    return found


def metrics(folder: Path) -> list[dict[str, Any]]:
    """The records of a run without what the clock put in."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key not in CLOCK} for line in lines]


def outcome(folder: Path) -> dict[str, Any]:
    """Everything that two equal runs have in common, bytes of weights included."""
    weights = {name: (folder / name).read_bytes() for name in ("best.safetensors", "last.safetensors")}
    return {**weights, "metrics": metrics(folder)}
