"""Recipes: training configurations that are known to work, as data.

A recipe is a part of a `TrainConfig` in YAML; its `by_size` holds what differs between model sizes.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from damoyolo.config import TrainConfig
from damoyolo.errors import UserError, nearest
from damoyolo.spec import parse, read_yaml
from damoyolo.zoo import SIZES

RECIPES = ("coco", "finetune", "quick")


class Settings(TrainConfig):
    """A part of a training configuration: what was set counts, the rest is left to others."""

    data: Path | None = None  # type: ignore[assignment] # what to train on is no recipe's business


class _Recipe(Settings):
    by_size: dict[str, Settings] = Field(default_factory=dict)

    @field_validator("by_size")
    @classmethod
    def _sizes_exist(cls, by_size: dict[str, Settings]) -> dict[str, Settings]:
        for size in by_size:
            if size not in SIZES:
                hint = nearest(size, SIZES) or f"; known sizes: {' '.join(SIZES)}"
                raise ValueError(f"'{size}' is no model size{hint}")
        return by_size


def read_recipe(recipe: str, model: str | None = None) -> dict[str, Any]:
    """Settings of a recipe, by name or by path of a YAML file, for a model: that one or the recipe's own."""
    if Path(recipe).suffix in (".yaml", ".yml"):
        path = Path(recipe)
    elif recipe in RECIPES:
        path = Path(str(resources.files(__name__) / f"{recipe}.yaml"))
    else:
        hint = nearest(recipe, RECIPES)
        raise UserError(f"recipe: '{recipe}' is unknown{hint}; known: {', '.join(RECIPES)}, or a .yaml file")
    settings = read_yaml(path)
    parse(_Recipe, settings, where=str(path))
    by_size = settings.pop("by_size", {})
    model = model or settings.get("model") or TrainConfig.model_fields["model"].default
    size = next((size for size in SIZES if size.lower() == str(model).lower()), None)
    return overlay(settings, by_size.get(size, {}))


def overlay(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`base` with `changes` laid over it, section by section."""
    merged = dict(base)
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = overlay(merged[key], value) if both else value
    return merged
