"""From a training configuration to a trained detector."""

from __future__ import annotations

import errno
import math
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch.amp.grad_scaler import GradScaler

from damoyolo.assemble.inference import choose_device, prepare
from damoyolo.assemble.loading import training_set
from damoyolo.assemble.models import first_detector, load_teacher
from damoyolo.assemble.report import PAGE_FILE, write_report
from damoyolo.assemble.settings import CONFIG_FILE, check_folder, choose_precision, to_yaml
from damoyolo.config import DistillConfig, TrainConfig
from damoyolo.data.dataset import Dataset, check_images
from damoyolo.data.formats import read_dataset
from damoyolo.data.loader import TrainLoader
from damoyolo.errors import RunError, UserError, nearest
from damoyolo.evaluation import coco
from damoyolo.files import locked, write_atomically
from damoyolo.losses.criterion import Criterion
from damoyolo.losses.distill import ChannelWise, Distillation, MaskedGeneration, Mimic
from damoyolo.nn.detector import Detector
from damoyolo.plan import Plan
from damoyolo.prediction import detect
from damoyolo.training.best import Best
from damoyolo.training.checkpoint import remove_unfinished
from damoyolo.training.distributed import World, check_count, is_launched, open_world
from damoyolo.training.ema import Ema
from damoyolo.training.freeze import freeze
from damoyolo.training.launch import launch
from damoyolo.training.log import METRICS_FILE, MetricsFile
from damoyolo.training.loop import BEST_FILE, LAST_FILE, Trainer
from damoyolo.training.memory import largest_batch, sensible_batch
from damoyolo.training.objective import (
    Amount,
    DistilledObjective,
    Objective,
    Teacher,
    cosine_weight,
    until_plain_weight,
)
from damoyolo.training.optim import Schedule, build_optimizer
from damoyolo.training.sync_norm import synchronise_norms
from damoyolo.training.time_limit import TimeLimit
from damoyolo.training.trackers import open_trackers

NUMBERS = ("ap", "ap50", "ap75", "ap_small", "ar100")
"""What the metrics file keeps of an evaluation, beside the AP of every class."""
LIMITED_PHASE = 0.25
"""With a time limit, warm-up and plain epochs take at most this share of the run each."""


@dataclass(frozen=True)
class TrainResult:
    """What a run left: weights of the best and the last evaluation, and metrics per epoch.

    `ap` and `value`, the number `best_by`, are those of the best evaluation.
    """

    folder: Path
    best: Path
    last: Path
    metrics: Path
    ap: float
    best_by: str = "ap"
    value: float = 0.0


def train(config: TrainConfig, *, resume: bool = False, quiet: bool = False) -> TrainResult:
    """Train a detector; everything the run leaves is in `config.output`.

    Args:
        config: what to do; `resolve` makes one from a recipe.
        resume: go on with the interrupted run in `config.output`; it ends as it would have.
        quiet: nothing on the terminal.

    Raises:
        UserError: if the model, the data or the folder cannot be used; before the first step.
        RunError: if the loss stops being a number, memory runs out, or another process of the run ends.
    """
    if config.output.exists() and not config.output.is_dir():
        raise UserError(f"output: {config.output} is a file; name a folder")
    if config.devices > 1 and not is_launched():
        config = check_folder(config, resume)
        check_count(config.devices, choose_device(config.device))
        write_atomically(config.output / CONFIG_FILE, to_yaml(config).encode())
        launch(config.devices, ["train", "--output", str(config.output), "--resume"], quiet=quiet)
    else:
        with open_world(choose_device(config.device)) as world, _alone(config.output, world):
            new = _train(config, world, resume, quiet or not world.is_first)
            world.barrier()  # until the first process has written everything
            if world.is_first and config.report and (new or not (config.output / PAGE_FILE).exists()):
                _report(config, world.device, quiet)
    return _result(config)


def _alone(folder: Path, world: World) -> AbstractContextManager[None]:
    """No other run writes into the folder meanwhile; the first process sees to it."""
    return locked(folder) if world.is_first else nullcontext()


def _train(config: TrainConfig, world: World, resume: bool, quiet: bool) -> bool:
    """What each process of a run does; whether there was anything left to do."""
    anew = resume and not (config.output / CONFIG_FILE).exists()
    if world.is_first:
        config = check_folder(config, resume)
        config = config.model_copy(update={"precision": choose_precision(config.precision, world.device)})
    config = TrainConfig.model_validate_json(world.broadcast(config.model_dump_json()))
    training = _read(config, "train")
    validation = _read(config, "val", training.class_names)
    _check_metric(config.best_by, validation)
    torch.manual_seed(config.seed)
    detector, origin = first_detector(config, training.class_names)
    teacher, lesson = load_teacher(config, detector.card) or (None, "")
    training, validation = (check_images(each, config.skip_bad) for each in (training, validation))
    with _explained(config, world):
        _place(config, detector, world)
        config = _settle(config, detector, len(training), world)
        trainer = _trainer(config, detector, teacher, training, validation, world, quiet)
        restored = resume and trainer.restore()
        if not quiet:
            lines = [(dataset.summary(), *dataset.report.skipped) for dataset in (training, validation)]
            batches = f"batches of {config.batch_size} images, {config.precision}"
            told = [lesson] if restored else [origin, lesson]
            if anew:
                told.insert(0, f"nothing to go on from in {config.output}: the run begins")
            print(*lines[0], *lines[1], *filter(None, told), batches, sep="\n", file=sys.stderr)
        if world.is_first:
            remove_unfinished(config.output)
            write_atomically(config.output / CONFIG_FILE, to_yaml(config).encode())
        names = config.log_to if world.is_first else ()
        settings = config.model_dump(mode="json")
        trainer.trackers = open_trackers(names, config.output, settings, step=trainer.step)
        if not quiet and trainer.trackers.where:
            print(*trainer.trackers.where, sep="\n", file=sys.stderr)
        begun_at = trainer.step
        try:
            trainer.run()
        finally:
            trainer.trackers.close()
        return trainer.step > begun_at


def _report(config: TrainConfig, device: torch.device, quiet: bool) -> None:
    """Pictures of the finished run; a run is none the worse for a page that cannot be made."""
    try:
        page = write_report(config.output, device=str(device))
    except Exception as error:
        print(f"no {PAGE_FILE}: {error}; try damoyolo report {config.output}", file=sys.stderr)
    else:
        if not quiet:
            print(f"look at {page}", file=sys.stderr)


def _result(config: TrainConfig) -> TrainResult:
    """What the run in a folder has left so far."""
    folder = config.output
    evaluated = [record for record in MetricsFile(folder).read() if "ap" in record]
    best = max(evaluated, key=lambda record: (record[config.best_by], record["epoch"]))
    files = folder / BEST_FILE, folder / LAST_FILE, folder / METRICS_FILE
    return TrainResult(folder, *files, best["ap"], config.best_by, best[config.best_by])


@contextmanager
def _explained(config: TrainConfig, world: World) -> Iterator[None]:
    """A machine at its end is told in a sentence."""
    try:
        yield
    except (RuntimeError, MemoryError, OSError) as error:
        memory = isinstance(error, (torch.OutOfMemoryError, MemoryError))
        if memory or "can't allocate memory" in str(error):  # how PyTorch says it of a CPU
            raise RunError(
                f"{world.device} ran out of memory; start anew with a smaller batch_size or image_size, or a "
                "larger accumulate"
            ) from error
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise RunError(f"{config.output}: the disk is full; make room and go on with --resume") from error
        raise


def _check_metric(name: str, validation: Dataset) -> None:
    """That the number which makes an evaluation the best can be measured."""
    known = (*NUMBERS, *(f"ap/{each}" for each in validation.class_names))
    if name not in known:
        hint = nearest(name, known, cutoff=0.75) or f"; there are {', '.join(known)[:200]}"
        raise UserError(f"best_by: '{name}' is no number of an evaluation{hint}")
    if not name.startswith("ap/"):
        return
    label = validation.class_names.index(name.removeprefix("ap/"))
    if not any(label in record.labels for record in validation.records):
        raise UserError(f"best_by: '{name}' cannot be measured; {validation.annotations} has no such box")


def _read(config: TrainConfig, split: str, class_names: tuple[str, ...] | None = None) -> Dataset:
    dataset = read_dataset(config.data, split, class_names=class_names, skip_bad=config.skip_bad)
    if split == "train" and not any(len(record.labels) for record in dataset.records):
        raise UserError(
            f"{dataset.annotations}: has no boxes, so there is nothing to learn; label the images"
        )
    return dataset


def _place(config: TrainConfig, detector: Detector, world: World) -> None:
    """On its device, with what is frozen frozen."""
    detector.to(world.device, memory_format=_memory_format(config))  # type: ignore[call-overload]
    freeze(detector, config.freeze)
    if not any(parameter.requires_grad for parameter in detector.parameters()):
        raise UserError(f"freeze: {' '.join(config.freeze)} leaves nothing to train; leave a part out")
    if config.sync_norm:
        synchronise_norms(detector, world)


def _memory_format(config: TrainConfig) -> torch.memory_format:
    return torch.channels_last if config.channels_last else torch.contiguous_format


def _settle(config: TrainConfig, detector: Detector, images: int, world: World) -> TrainConfig:
    """The configuration with numbers in the place of `auto` and of the model's own size."""
    height, width = detector.card.image_size
    config = config.model_copy(update={"image_size": height if height == width else f"{height}x{width}"})
    if config.batch_size != "auto":
        return config
    fitting = largest_batch(detector, getattr(torch, config.precision), world.device)
    fitting = int(world.stack(torch.tensor(fitting)).min())  # of the process that has the least memory
    size = sensible_batch(fitting * config.accumulate, images, world.size)
    return config.model_copy(update={"batch_size": size})


def _trainer(
    config: TrainConfig,
    detector: Detector,
    teacher: Detector | None,
    training: Dataset,
    validation: Dataset,
    world: World,
    quiet: bool,
) -> Trainer:
    optim = config.optim
    assert isinstance(config.batch_size, int)
    samples = training_set(config, training, detector.card)
    loader = TrainLoader(samples, config.batch_size, config.workers, world.rank, world.size)
    per_epoch = loader.steps_per_epoch
    plan = Plan(
        steps=config.epochs * per_epoch,
        steps_per_epoch=per_epoch,
        warmup=round(optim.warmup_epochs * per_epoch),
        plain=config.no_augment_epochs * per_epoch,
        largest_phase=LIMITED_PHASE if config.max_minutes else 1.0,
    )
    ema = Ema(detector, optim.ema_decay, optim.ema_warmup_steps)
    if config.compile:  # in place and after the copy, so that names of weights stay what they are
        detector.backbone.compile()
        detector.neck.compile()
    objective = _objective(config, detector, teacher, plan, world)
    images_per_step = min(config.batch_size, len(training))
    return Trainer(
        objective=objective,
        ema=ema,
        optimizer=build_optimizer(
            objective, optim.name, optim.weight_decay, optim.momentum, detector.backbone, optim.backbone_lr
        ),
        schedule=Schedule(optim.lr * images_per_step / 64, optim.min_lr_ratio, plan),
        plan=plan,
        loader=loader,
        evaluate=partial(_numbers_on, validation, world),
        folder=config.output,
        evaluate_every=config.evaluate_every,
        checkpoint_minutes=config.checkpoint_minutes,
        time_limit=TimeLimit(plan.steps, 60 * (config.max_minutes or math.inf)),
        best=Best(config.best_by, config.patience),
        accumulate=config.accumulate,
        memory_format=_memory_format(config),
        clip_norm=optim.clip_norm or math.inf,
        scaler=GradScaler(world.device.type, enabled=config.precision == "float16"),
        world=world,
        quiet=quiet,
    )


def _objective(
    config: TrainConfig, detector: Detector, teacher: Detector | None, plan: Plan, world: World
) -> Objective:
    """The losses; with a teacher, its features among them."""
    precision = getattr(torch, config.precision)
    share_amount = partial(_share_amount, world)
    if teacher is None:
        return Objective(detector, Criterion(), precision, share_amount)
    settings = config.distill
    distillation = Distillation(
        detector.card.spec.neck.out,
        teacher.card.spec.neck.out,
        partial(_comparison, settings, config.seed),
        settings.normalise,
    ).to(world.device)
    if config.sync_norm:
        synchronise_norms(distillation, world)
    teacher_precision = getattr(torch, choose_precision("auto", world.device))
    return DistilledObjective(
        detector,
        Criterion(),
        Teacher(teacher, world.device, teacher_precision),
        distillation,
        partial(_distillation_weight, settings, plan),
        precision,
        share_amount,
    )


def _comparison(settings: DistillConfig, seed: int, channels: int) -> nn.Module:
    """How a level of so many channels is compared."""
    if settings.method == "cwd":
        return ChannelWise(settings.temperature)
    return Mimic() if settings.method == "mimic" else MaskedGeneration(channels, seed=seed)


def _distillation_weight(settings: DistillConfig, plan: Plan, step: int) -> float:
    """Of the distillation loss at a step."""
    schedules = {"cosine": cosine_weight, "until_plain": until_plain_weight, "constant": lambda *_: 1.0}
    return settings.weight * schedules[settings.schedule](plan, step)


def _share_amount(world: World, amount: Amount) -> Amount:
    """All processes divide by the mean of what they have: then their mean gradient is that of the batch."""
    return world.sum(amount).clamp(min=1) / world.size


def _numbers_on(dataset: Dataset, world: World, model: Detector) -> dict[str, float]:
    """What the metrics file keeps of an evaluation; every process looks at its part of the images."""
    ready = prepare(model, device=str(world.device))
    part = replace(dataset, records=dataset.records[world.rank :: world.size])
    found = coco.find(partial(detect, ready, score=model.card.spec.score_threshold), part)
    numbers = torch.from_numpy(found.boxes), torch.from_numpy(found.scores)
    parts = world.gather([found.image_ids, found.category_ids, *numbers])
    if parts is None:
        return world.broadcast(None)  # type: ignore[no-any-return]
    everything = coco.Found.concatenate(
        [
            coco.Found(images, categories, boxes.numpy(), scores.numpy())
            for images, categories, boxes, scores in parts
        ]
    )
    report = coco.compare(dataset, everything)
    record = {name: round(getattr(report, name), 6) for name in NUMBERS}
    record |= {f"ap/{each.name}": round(each.ap, 6) for each in report.per_class}
    return world.broadcast(record)  # type: ignore[no-any-return]
