from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from damoyolo.assemble import resolve
from damoyolo.config import TrainConfig
from damoyolo.errors import UserError
from damoyolo.zoo import SIZES
from damoyolo.zoo.recipes import RECIPES, overlay, read_recipe

NANO = {"name": "adamw", "lr": 0.001, "weight_decay": 0.01}
BIG = {"name": "sgd", "lr": 0.01, "weight_decay": 0.0005, "momentum": 0.9}
PUBLISHED: dict[str, tuple[dict[str, Any], float, tuple[float, float], float]] = {
    "Ns": (NANO, 0.004, (0.75, 1.25), 0.2),
    "Nm": (NANO, 0.004, (0.1, 2.0), 0.2),
    "Nl": (NANO, 0.004, (0.1, 2.0), 0.2),
    "T": (BIG, 0.04, (0.1, 2.0), 0.2),
    "S": (BIG, 0.04, (0.1, 2.0), 2.0),
    "M": (BIG, 0.04, (0.1, 2.0), 2.0),
    "L": (BIG, 0.04, (0.1, 2.0), 2.0),
}
"""Optimizer, peak rate at 256 images per step, range of the zoom, shear in degrees; by size."""


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("size", SIZES)
def test_the_coco_recipe_is_the_published_one_for_every_size(size: str) -> None:
    config = resolve("coco", {"data": Path("coco"), "model": size})
    optimizer, peak, scale, shear = PUBLISHED[size]
    optim, augment = config.optim.model_dump(), config.augment
    assert {key: optim[key] for key in optimizer} == optimizer
    assert config.optim.lr * config.batch_size / 64 == pytest.approx(peak)
    assert (augment.scale, augment.shear) == (scale, shear)
    assert (augment.mosaic, augment.mosaic_size, augment.degrees, augment.translate) == (1.0, 640, 10.0, 0.2)
    assert (augment.mixup, augment.mixup_scale, augment.flip) == (0.15, (0.5, 1.5), 0.5)
    assert (augment.flip_vertical, augment.hue, augment.saturation, augment.value) == (0, 0, 0, 0)
    assert (config.epochs, config.batch_size, config.no_augment_epochs) == (300, 256, 16)
    assert (config.evaluate_every, config.resize, config.image_size) == (10, "stretch", None)
    assert (optim["warmup_epochs"], optim["min_lr_ratio"], optim["clip_norm"]) == (5, 0.05, None)
    assert (optim["ema_decay"], optim["ema_warmup_steps"]) == (0.9998, 2000)
    assert config.precision == "float32"


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_makes_a_configuration_for_every_size(recipe: str, size: str) -> None:
    config = resolve(recipe, {"data": Path("data"), "model": size})
    assert config.optim.warmup_epochs + config.no_augment_epochs < config.epochs
    assert (
        TrainConfig.model_validate(yaml.safe_load(yaml.safe_dump(config.model_dump(mode="json")))) == config
    )


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_says_nothing_of_model_data_and_output(recipe: str) -> None:
    assert not read_recipe(recipe).keys() & {"model", "data", "output"}


def test_what_differs_by_size_is_laid_over_section_by_section(tmp_path: Path) -> None:
    recipe = str(written(tmp_path, "optim: {lr: 0.5, momentum: 0.8}\nby_size: {T: {optim: {lr: 0.25}}}"))
    assert read_recipe(recipe, "T") == {"optim": {"lr": 0.25, "momentum": 0.8}}
    assert read_recipe(recipe, "t") == read_recipe(recipe, "T")
    assert read_recipe(recipe, "S") == read_recipe(recipe) == {"optim": {"lr": 0.5, "momentum": 0.8}}


def test_the_model_that_a_recipe_names_chooses_its_size_unless_another_is_given(tmp_path: Path) -> None:
    recipe = str(written(tmp_path, "model: T\nby_size: {T: {epochs: 3}, S: {epochs: 5}}"))
    assert resolve(recipe, {"data": Path("data")}).epochs == 3
    assert resolve(recipe, {"data": Path("data"), "model": "S"}).epochs == 5


def test_without_a_model_it_is_that_of_the_default_size(tmp_path: Path) -> None:
    recipe = str(written(tmp_path, "by_size: {Ns: {epochs: 3}}"))
    config = resolve(recipe, {"data": Path("data")})
    assert (config.model, config.epochs) == ("Ns", 3)


def test_overlay_changes_neither_of_its_arguments() -> None:
    base, changes = {"a": {"x": 1, "y": 2}, "b": 3}, {"a": {"y": 5}, "c": {"z": 6}}
    assert overlay(base, changes) == {"a": {"x": 1, "y": 5}, "b": 3, "c": {"z": 6}}
    assert (base, changes) == ({"a": {"x": 1, "y": 2}, "b": 3}, {"a": {"y": 5}, "c": {"z": 6}})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch: 3", "unknown field 'epoch'; did you mean 'epochs'?"),
        ("augment: {mosiac: 1}", "unknown field 'augment.mosiac'; did you mean 'mosaic'?"),
        ("optim: {learning_rate: 1}", "unknown field 'optim.learning_rate'"),
        ("by_sizes: {}", "unknown field 'by_sizes'; did you mean 'by_size'?"),
        ("by_size: {Ns: {epoch: 3}}", "unknown field 'by_size.Ns.epoch'; did you mean 'epochs'?"),
        (
            "by_size: {S: {augment: {shaer: 1}}}",
            "unknown field 'by_size.S.augment.shaer'; did you mean 'shear'?",
        ),
        ("by_size: {Nss: {epochs: 3}}", "by_size: 'Nss' is no model size; did you mean 'Ns'?"),
        ("by_size: {xl: {epochs: 3}}", "by_size: 'xl' is no model size"),
        ("by_size: {Ns: {epochs: 0}}", "by_size.Ns.epochs: is 0; take 1 or more"),
        ("optim: {lr: fast}", "optim.lr: must be a valid number"),
        ("augment:", "augment: must be a valid dictionary"),
        ("", "is empty; write its fields into it, a line"),
        ("- epochs", "holds a list, expected a mapping of fields"),
        ("epochs: [", "is not valid YAML (line 1, column 10: "),
    ],
)
def test_a_slip_in_a_recipe_file_is_named_with_file_and_place(
    text: str, message: str, tmp_path: Path
) -> None:
    path = written(tmp_path, text)
    with pytest.raises(UserError) as caught:
        read_recipe(str(path), "T")
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_recipe_that_does_not_exist_is_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"recipe: 'quik' is unknown; did you mean 'quick'\?; known: coco, "):
        read_recipe("quik")
    with pytest.raises(UserError, match=r"absent\.yaml: cannot be read"):
        read_recipe("absent.yaml")
