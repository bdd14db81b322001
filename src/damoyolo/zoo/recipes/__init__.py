"""Recipes: training configurations that are known to work, as data.

A recipe is a part of a `TrainConfig` in YAML; its `by_size` holds what differs between model sizes.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import Field

from damoyolo.config import TrainConfig
from damoyolo.errors import UserError, nearest
from damoyolo.spec import parse, read_yaml

RECIPES = ("coco", "finetune", "quick")


class Settings(TrainConfig):
    """A part of a training configuration: what was set counts, the rest is left to others."""

    data: Path | None = None  # type: ignore[assignment] # what to train on is no recipe's business


class _Recipe(Settings):
    by_size: dict[str, Settings] = Field(default_factory=dict)


def read_recipe(recipe: str, size: str | None) -> dict[str, Any]:
    """Settings of a recipe, by name or by path of a YAML file, for a model size if one is given."""
    if Path(recipe).suffix in (".yaml", ".yml"):
        path = Path(recipe)
    elif recipe in RECIPES:
        path = Path(str(resources.files(__name__) / f"{recipe}.yaml"))
    else:
        hint = nearest(recipe, RECIPES)
        raise UserError(f"recipe '{recipe}' is unknown{hint}; known: {', '.join(RECIPES)}, or a .yaml file")
    settings = read_yaml(path)
    parse(_Recipe, settings, where=str(path))
    by_size = settings.pop("by_size", {})
    return overlay(settings, by_size.get(size, {}))


def overlay(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`base` with `changes` laid over it, section by section."""
    merged = dict(base)
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = overlay(merged[key], value) if both else value
    return merged
