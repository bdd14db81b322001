"""From a training configuration to a trained detector."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml

from damoyolo.assemble.inference import choose_device, prepare
from damoyolo.config import TrainConfig
from damoyolo.data.augment import Augment
from damoyolo.data.dataset import Dataset, check_images
from damoyolo.data.formats import read_coco
from damoyolo.data.loader import TrainingSet, TrainLoader
from damoyolo.data.resize import Resize
from damoyolo.data.source import Source
from damoyolo.errors import RunError, UserError
from damoyolo.evaluation import coco
from damoyolo.files import write_atomically
from damoyolo.losses.criterion import Criterion
from damoyolo.nn.blocks import RepConv
from damoyolo.nn.detector import Detector, build_detector
from damoyolo.prediction import detect
from damoyolo.spec import ModelCard, ModelSpec, parse, read_yaml
from damoyolo.training.checkpoint import STATE_FILE, remove_unfinished
from damoyolo.training.ema import Ema
from damoyolo.training.log import METRICS_FILE
from damoyolo.training.loop import BEST_FILE, LAST_FILE, Trainer
from damoyolo.training.optim import Schedule, build_optimizer
from damoyolo.zoo import SIZES, coco_class_names, read_spec
from damoyolo.zoo.recipes import RECIPES, overlay, read_recipe
from damoyolo.zoo.transfer import with_classes
from damoyolo.zoo.weights import load_any

CONFIG_FILE = "config.yaml"
FREE_TO_CHANGE = ("output", "workers", "cache_mb", "device", "checkpoint_minutes")
"""Settings that a resumed run may change, because they do not change what is computed, only where."""
SPEC_SUFFIXES = (".yaml", ".yml", ".json")


@dataclass(frozen=True)
class TrainResult:
    """What a run left: weights of the best and of the last evaluation, metrics per epoch, and its best AP."""

    folder: Path
    best: Path
    last: Path
    metrics: Path
    ap: float


def build(
    model: str | Path, num_classes: int | None = None, *, class_names: tuple[str, ...] | None = None
) -> Detector:
    """A detector with random weights, in eval mode, of a size or a spec file, by default for COCO."""
    if class_names is None:
        coco_names = coco_class_names()
        count = len(coco_names) if num_classes is None else num_classes
        class_names = coco_names if count == len(coco_names) else tuple(f"class{i}" for i in range(count))
    elif num_classes not in (None, len(class_names)):
        raise UserError(
            f"num_classes is {num_classes}, but class_names has {len(class_names)} names; make them agree"
        )
    spec = _read_spec(model)
    card = {"spec": spec, "class_names": class_names, "image_size": (spec.image_size, spec.image_size)}
    return build_detector(parse(ModelCard, card, where="build")).eval()


def resolve(recipe: str | None, settings: dict[str, Any]) -> TrainConfig:
    """A whole configuration: a recipe's settings with the given ones laid over them.

    Without a recipe, weights are fine-tuned (`finetune`) and anything else is trained from scratch (`quick`).
    A run of few epochs gets a shorter warm-up and fewer epochs without augmentation than a named recipe says.
    """
    model = settings.get("model")
    if recipe is None:
        recipe = "finetune" if model and _is_weights(str(model)) else "quick"
    merged = overlay(read_recipe(recipe, model), settings)
    if merged.get("data") is None:
        raise UserError("data: nothing to train on; give a folder or a YAML file that names its paths")
    config = parse(TrainConfig, merged, where="settings")
    return _fit_phases(config, settings) if recipe in RECIPES else config


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


def train(config: TrainConfig, *, resume: bool = False, quiet: bool = False) -> TrainResult:
    """Train a detector; everything the run leaves is in `config.output`.

    Args:
        config: what to do; `resolve` makes one from a recipe.
        resume: go on with the interrupted run in `config.output`; it ends as it would have.
        quiet: nothing on the terminal.

    Raises:
        UserError: if the model, the data or the folder cannot be used; before the first step.
        RunError: if the loss stops being a number, or the device's memory is too small.
    """
    device = choose_device(config.device)
    config = config.model_copy(update={"precision": _choose_precision(config.precision, device)})
    _check_folder(config, resume)
    training = _read(config, "train")
    validation = _read(config, "val", training.class_names)
    if not quiet:
        for dataset in (training, validation):
            print(dataset.summary(), *dataset.report.skipped, sep="\n", file=sys.stderr)
    torch.manual_seed(config.seed)
    detector = _first_detector(config, training.class_names).train()
    detector.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    trainer = _trainer(config, detector, training, validation, quiet)
    remove_unfinished(config.output)
    write_atomically(config.output / CONFIG_FILE, _to_yaml(config).encode())
    if resume:
        trainer.restore()
    try:
        trainer.run()
    except torch.OutOfMemoryError as error:
        raise RunError(
            f"{device} ran out of memory; start anew with a smaller batch_size or image_size"
        ) from error
    folder = config.output
    return TrainResult(folder, folder / BEST_FILE, folder / LAST_FILE, folder / METRICS_FILE, trainer.best_ap)


def read_config(folder: Path, changes: dict[str, Any] | None = None) -> TrainConfig:
    """The resolved configuration of the run in a folder, with the changes laid over it."""
    path = folder / CONFIG_FILE
    if not path.exists():
        raise UserError(f"output: {folder} holds no run (no {CONFIG_FILE}); start one without --resume")
    before = parse(TrainConfig, read_yaml(path), where=str(path)).model_dump()
    return parse(TrainConfig, overlay(before, {**(changes or {}), "output": folder}), where="settings")


def _check_folder(config: TrainConfig, resume: bool) -> None:
    """A new run must not overwrite one, and a resumed one must be told what it was told before."""
    if config.output.exists() and not config.output.is_dir():
        raise UserError(f"output: {config.output} is a file; name a folder")
    if not resume:
        if any((config.output / name).exists() for name in (STATE_FILE, METRICS_FILE, BEST_FILE)):
            raise UserError(
                f"output: {config.output} holds a run already; take another folder, or --resume it"
            )
        return
    if not (config.output / CONFIG_FILE).exists():  # killed before it began
        return
    before, now = _leaves(read_config(config.output).model_dump()), _leaves(config.model_dump())
    for name, value in now.items():
        if value != before[name] and name not in FREE_TO_CHANGE:
            raise UserError(
                f"{name}: is {str(value)!r} now but was {str(before[name])!r} when the run in "
                f"{config.output} began; a resumed run keeps its settings"
            )


def _leaves(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings by the path of their names, such as `optim.lr`."""
    leaves: dict[str, Any] = {}
    for key, value in settings.items():
        leaves |= _leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return leaves


def _read(config: TrainConfig, split: str, class_names: tuple[str, ...] | None = None) -> Dataset:
    dataset = read_coco(config.data, split, class_names=class_names, skip_bad=config.skip_bad)
    return check_images(dataset, config.skip_bad)


def _first_detector(config: TrainConfig, class_names: tuple[str, ...]) -> Detector:
    """The detector a run begins with."""
    trained = _load_trainable(config.model) if _is_weights(config.model) else None
    spec = trained.card.spec if trained else _read_spec(config.model)
    side = config.image_size or spec.image_size
    lineage: dict[str, Any] = {"source": "trained", "data": config.data.name, "torch": torch.__version__}
    lineage |= {"epochs": config.epochs, "seed": config.seed}
    if trained:
        lineage["from"] = trained.card.lineage
    card = ModelCard(
        spec=spec, class_names=class_names, image_size=(side, side), resize=config.resize, lineage=lineage
    )
    return with_classes(trained, card) if trained else build_detector(card)


def _load_trainable(path: str) -> Detector:
    detector = load_any(path)
    if any(isinstance(module, RepConv) and hasattr(module, "fused") for module in detector.modules()):
        raise UserError(
            f"model: {path} holds weights that were fused for inference and cannot be trained on; "
            "give the file they were made from"
        )
    return detector


def _trainer(
    config: TrainConfig, detector: Detector, training: Dataset, validation: Dataset, quiet: bool
) -> Trainer:
    optim = config.optim
    loader = _loader(config, training, detector.card)
    per_epoch = loader.steps_per_epoch
    schedule = Schedule(
        peak=optim.lr * config.batch_size / 64,
        total=config.epochs * per_epoch,
        warmup=round(optim.warmup_epochs * per_epoch),
        flat=config.no_augment_epochs * per_epoch,
        floor_ratio=optim.min_lr_ratio,
    )
    return Trainer(
        detector=detector,
        ema=Ema(detector, optim.ema_decay, optim.ema_warmup_steps),
        optimizer=build_optimizer(detector, optim.name, optim.weight_decay, optim.momentum),
        schedule=schedule,
        criterion=Criterion(),
        loader=loader,
        evaluate=partial(_numbers_on, validation, config.device),
        folder=config.output,
        epochs=config.epochs,
        evaluate_every=config.evaluate_every,
        checkpoint_minutes=config.checkpoint_minutes,
        clip_norm=optim.clip_norm or math.inf,
        bfloat16=config.precision == "bfloat16",
        quiet=quiet,
    )


def _loader(config: TrainConfig, dataset: Dataset, card: ModelCard) -> TrainLoader:
    augment = config.augment.model_dump()
    augment["mosaic_size"] = config.augment.mosaic_size or max(card.image_size)
    samples = TrainingSet(
        source=Source(dataset.records, config.cache_mb),
        resize=Resize(card.resize, card.image_size),
        augment=Augment(**augment),
        plain_from_epoch=max(0, config.epochs - config.no_augment_epochs),
        seed=config.seed,
    )
    return TrainLoader(samples, config.batch_size, config.workers)


def _numbers_on(dataset: Dataset, device: str, model: Detector) -> dict[str, float]:
    """What the metrics file keeps of an evaluation."""
    ready = prepare(model, device=device)
    report = coco.evaluate(partial(detect, ready, score=model.card.spec.score_threshold), dataset)
    numbers = {name: round(getattr(report, name), 6) for name in ("ap", "ap50", "ap75", "ap_small", "ar100")}
    return numbers | {f"ap/{each.name}": round(each.ap, 6) for each in report.per_class}


def _choose_precision(name: str, device: torch.device) -> str:
    """`auto` means bfloat16 where matrix units make it faster; a run keeps what was chosen when it began."""
    if name != "auto":
        return name
    if device.type == "cpu":
        fast = torch.cpu._is_amx_tile_supported()
    else:
        fast = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bfloat16" if fast else "float32"


def _to_yaml(config: TrainConfig) -> str:
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def _as_size(model: str | Path) -> str | None:
    """The zoo's name of a size, or None for a path."""
    return next((size for size in SIZES if size.lower() == str(model).lower()), None)


def _is_weights(model: str) -> bool:
    """Whether this is a file of weights rather than a size or a spec."""
    return _as_size(model) is None and Path(model).suffix.lower() not in (*SPEC_SUFFIXES, "")


def _read_spec(model: str | Path) -> ModelSpec:
    """The spec of a size or in a file."""
    return ModelSpec.read(model) if Path(model).suffix.lower() in SPEC_SUFFIXES else read_spec(str(model))
