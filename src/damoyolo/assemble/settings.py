"""From recipes, options and files to the configuration of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import yaml

from damoyolo.assemble.models import is_weights
from damoyolo.config import TrainConfig
from damoyolo.errors import UserError
from damoyolo.spec import parse, read_yaml
from damoyolo.training.checkpoint import STATE_FILE
from damoyolo.training.log import METRICS_FILE
from damoyolo.training.loop import BEST_FILE
from damoyolo.zoo.recipes import RECIPES, overlay, read_recipe

CONFIG_FILE = "config.yaml"
FREE_TO_CHANGE = (
    "output",
    "workers",
    "cache_mb",
    "device",
    "devices",
    "checkpoint_minutes",
    "log_to",
    "report",
)
"""Settings that a resumed run may change, because they do not change what is computed, only where."""
AUTOMATIC = ("precision", "batch_size", "image_size")
"""Settings whose `auto` or absence becomes a value when the run begins."""
DISTILLED_CLIP_NORM = 30.0
"""Of the gradient with a teacher, as in the reference, where nobody says otherwise."""


def resolve(recipe: str | None, settings: dict[str, Any]) -> TrainConfig:
    """A whole configuration: a recipe's settings with the given ones laid over them.

    Without a recipe, weights are fine-tuned (`finetune`) and anything else is trained from scratch (`quick`).
    A run of few epochs gets a shorter warm-up and fewer epochs without augmentation than a named recipe says.
    """
    model = settings.get("model")
    if recipe is None:
        recipe = "finetune" if model and is_weights(str(model)) else "quick"
    merged = overlay(read_recipe(recipe, model), settings)
    if merged.get("teacher") and "clip_norm" not in merged.get("optim", {}):
        merged = overlay(merged, {"optim": {"clip_norm": DISTILLED_CLIP_NORM}})
    if settings.get("distill") and not merged.get("teacher"):
        raise UserError("distill: nobody teaches; give a file of weights with --teacher, or leave it out")
    if merged.get("data") is None:
        raise UserError("data: nothing to train on; give a folder or a YAML file that names its paths")
    config = parse(TrainConfig, merged, where="settings")
    config = config.model_copy(update={"data": config.data.absolute()})  # means the same from anywhere
    return _fit_phases(config, settings) if recipe in RECIPES else config


def read_config(folder: Path, changes: dict[str, Any] | None = None) -> TrainConfig:
    """The resolved configuration of the run in a folder, with the changes laid over it."""
    path = folder / CONFIG_FILE
    if not path.exists():
        raise UserError(f"output: {folder} holds no run (no {CONFIG_FILE}); start one without --resume")
    before = parse(TrainConfig, read_yaml(path), where=str(path)).model_dump()
    config = parse(TrainConfig, overlay(before, {**(changes or {}), "output": folder}), where="settings")
    return config.model_copy(update={"data": config.data.absolute()})


def check_folder(config: TrainConfig, resume: bool) -> TrainConfig:
    """A new run must not overwrite one, and a resumed one must be told what it was told before.

    What was `auto` then has become a value; the configuration with those values is returned.
    """
    if not resume:
        if any((config.output / name).exists() for name in (STATE_FILE, METRICS_FILE, BEST_FILE)):
            raise UserError(
                f"output: {config.output} holds a run already; take another folder, or --resume it"
            )
        return config
    if not (config.output / CONFIG_FILE).exists():  # killed before it began
        return config
    begun = read_config(config.output)
    chosen = {name: getattr(begun, name) for name in AUTOMATIC if getattr(config, name) in ("auto", None)}
    config = config.model_copy(update=chosen)
    before, now = _leaves(begun.model_dump()), _leaves(config.model_dump())
    for name, value in now.items():
        if value != before[name] and name not in FREE_TO_CHANGE:
            raise UserError(
                f"{name}: is {str(value)!r} now but was {str(before[name])!r} when the run in "
                f"{config.output} began; leave it out, as a resumed run keeps its settings"
            )
    return config


def to_yaml(config: TrainConfig) -> str:
    """The text that `read_config` reads back."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def choose_precision(name: str, device: torch.device) -> str:
    """`auto` means bfloat16 where the processor computes it faster; a run keeps its choice."""
    if name != "auto":
        return name
    if device.type == "cpu":
        fast = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    else:
        fast = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bfloat16" if fast else "float32"


def _fit_phases(config: TrainConfig, given: dict[str, Any]) -> TrainConfig:
    """Warm-up and plain epochs, unless given, take at most a quarter of the run each."""
    quarter = config.epochs / 4
    optim = config.optim
    if "warmup_epochs" not in given.get("optim", {}):
        optim = optim.model_copy(update={"warmup_epochs": min(optim.warmup_epochs, quarter)})
    plain = config.no_augment_epochs
    if "no_augment_epochs" not in given:
        plain = min(plain, int(quarter))
    return config.model_copy(update={"optim": optim, "no_augment_epochs": plain})


def _leaves(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings by the path of their names, such as `optim.lr`."""
    leaves: dict[str, Any] = {}
    for key, value in settings.items():
        leaves |= _leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return leaves
