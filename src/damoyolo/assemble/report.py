"""What a finished run looks like: a folder of pictures and one page that holds them all."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt8

from damoyolo.assemble.inference import load, prepare
from damoyolo.assemble.loading import training_set
from damoyolo.assemble.report_page import ClassRow, Picture, Section, page
from damoyolo.assemble.settings import CONFIG_FILE, read_config
from damoyolo.config import TrainConfig
from damoyolo.data.dataset import Dataset, check_images
from damoyolo.data.draw import colour_of
from damoyolo.data.formats import read_dataset
from damoyolo.data.images import read_sized
from damoyolo.data.loader import TrainLoader
from damoyolo.detections import Detections
from damoyolo.errors import UserError, counted
from damoyolo.evaluation import coco, pictures, plots
from damoyolo.evaluation.judge import Judged, Working, confusion, judge, working_point
from damoyolo.files import write_atomically
from damoyolo.nn.detector import Detector
from damoyolo.plan import Plan
from damoyolo.prediction import detect
from damoyolo.training.log import MetricsFile
from damoyolo.training.loop import BEST_FILE

PAGE_FILE, PICTURES_FOLDER = "report.html", "report"
SHOWN_IMAGES = 6
"""Best images on the page, and as many worst ones."""
SHOWN_SAMPLES = 12
"""Training images in the mosaic of them."""
SHOWN_CONFUSIONS = 10
PICTURE_SIDE_PX, SAMPLE_SIDE_PX = 520, 300


@dataclass(frozen=True)
class _Run:
    """What a finished run left, and what its best weights find in the validation images."""

    folder: Path
    config: TrainConfig
    records: Sequence[Mapping[str, Any]]
    model: Detector
    training: Dataset
    validation: Dataset
    report: coco.Report
    curves: tuple[coco.Curve, ...]
    judged: Sequence[Judged]
    working: Working

    @property
    def class_names(self) -> tuple[str, ...]:
        """Of the model, which the labels of both data sets follow."""
        return self.model.card.class_names

    @cached_property
    def at_work(self) -> list[Judged]:
        """What was found at the working point."""
        return [each.above(self.working.score) for each in self.judged]

    @cached_property
    def confusion(self) -> Int64[np.ndarray, "n n"]:
        """Of classes and background, at the working point."""
        return confusion(self.at_work, len(self.class_names))


def write_report(
    folder: Path,
    *,
    device: str = "auto",
    batch_size: int = 8,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write `report.html`, which needs no other file, and its pictures in `report/`, into a run's folder.

    Args:
        folder: of a run that has evaluated at least once; its data set must be where the run found it.
        device: `auto`, `cpu`, `cuda`, `cuda:1`, `mps`.
        batch_size: images detected at once.
        progress: called with the numbers of validation images done and in all.

    Raises:
        UserError: if the folder holds no such run, or its data cannot be read.
    """
    run = _read(folder, device, batch_size, progress)
    sections = [
        _training(run),
        *_precision(run),
        _labels(run),
        _samples(run),
        *_examples(run),
    ]
    for section in sections:
        for picture in section.pictures:
            write_atomically(folder / PICTURES_FOLDER / picture.name, picture.content)
    path = folder / PAGE_FILE
    settings = (folder / CONFIG_FILE).read_text(encoding="utf-8")
    content = page(
        title=f"{run.model.card.spec.name} on {run.config.data.name}",
        facts=_facts(run),
        numbers=_numbers(run),
        sections=sections,
        classes=_class_rows(run),
        command=shlex.join(
            ["damoyolo", "train", "--recipe", str(folder / CONFIG_FILE), "--output", f"{folder}-again"]
        ),
        settings=settings,
    )
    write_atomically(path, content.encode())
    return path


def _read(folder: Path, device: str, batch_size: int, progress: Callable[[int, int], None] | None) -> _Run:
    if not (folder / CONFIG_FILE).exists():
        raise UserError(f"{folder}: holds no run (no {CONFIG_FILE}); give the --output of a training run")
    config = read_config(folder)
    best = folder / BEST_FILE
    if not best.exists():
        raise UserError(f"{best}: is not there; let the run evaluate at least once, then ask for a report")
    model = load(best)
    names = model.card.class_names
    training, validation = (
        read_dataset(config.data, split, class_names=names, skip_bad=config.skip_bad)
        for split in ("train", "val")
    )
    if config.skip_bad:
        training, validation = check_images(training, True), check_images(validation, True)
    ready = prepare(model, device=device)
    detections: list[Detections] = []

    def look(images: list[UInt8[np.ndarray, "_ _ 3"]]) -> list[Detections]:
        found = detect(ready, images, score=model.card.spec.score_threshold)
        detections.extend(found)
        return found

    total = len(validation)
    found = coco.find(
        look, validation, batch_size, progress=(lambda done: progress(done, total)) if progress else None
    )
    judged = [
        judge(each, record.boxes, record.labels)
        for each, record in zip(detections, validation.records, strict=True)
    ]
    return _Run(
        folder=folder,
        config=config,
        records=MetricsFile(folder).read(),
        model=model,
        training=training,
        validation=validation,
        report=coco.compare(validation, found),
        curves=coco.curves(validation, found),
        judged=judged,
        working=working_point(judged),
    )


def _training(run: _Run) -> Section:
    return Section(
        "Training",
        "Losses are means over the steps of an epoch; AP is that of the averaged weights.",
        (
            Picture(
                "curves.png",
                plots.training_curves(run.records, run.config.best_by),
                "loss, AP and learning rate per epoch",
            ),
        ),
    )


def _precision(run: _Run) -> list[Section]:
    """Curves and confusions."""
    names = run.class_names
    curves = plots.precision_recall(run.curves, names, run.working)
    matrix = plots.confusion_matrix(run.confusion, names, run.working.score)
    why = "which gives the best F1 over all boxes" if run.working.f1 else "as none is right at any score"
    rule = (
        f"Detections with a score of at least {run.working.score:.2f}, {why}, are matched greedily, the best "
        "first: each takes the free box of its class that it overlaps most, with an IoU of at least .5. What "
        "is left over is compared in the same way across classes. What still is left was missed (right "
        "column) or is false (bottom row)."
    )
    crowds = run.validation.report.crowd
    if crowds:
        rule += f" The {crowds} crowd regions count as background here, while AP ignores them."
    return [
        Section(
            "Precision and recall",
            "Each class has the colour of its boxes; the area under its curve is its AP50.",
            (Picture("precision_recall.png", curves, "precision against recall"),),
        ),
        Section(
            "Confusions",
            rule,
            (Picture("confusion.png", matrix, "confusion matrix"),),
            notes=_confused_pairs(run),
        ),
    ]


def _confused_pairs(run: _Run) -> tuple[str, ...]:
    """The most frequent pairs of classes, in words."""
    count = len(run.class_names)
    pairs = [
        (int(run.confusion[true, found]), run.class_names[true], run.class_names[found])
        for true, found in zip(*np.nonzero(run.confusion[:count, :count]), strict=True)
        if true != found
    ]
    pairs.sort(key=lambda pair: (-pair[0], pair[1], pair[2]))
    return tuple(f"{number} × {true} taken for {found}" for number, true, found in pairs[:SHOWN_CONFUSIONS])


def _labels(run: _Run) -> Section:
    statistics = plots.label_statistics(
        run.training.records, run.validation.records, run.class_names, run.model.card.image_size
    )
    return Section(
        "Labels",
        f"Training: {run.training.summary()}. Validation: {run.validation.summary()}. "
        "Sizes and places are those of the training boxes, without augmentation.",
        (Picture("labels.png", statistics, "statistics of the labels"),),
    )


def _samples(run: _Run) -> Section:
    """The first images of the run, as the network saw them."""
    samples = training_set(run.config, run.training, run.model.card)
    loader = TrainLoader(samples, min(SHOWN_SAMPLES, len(samples)), workers=0)
    batch = next(loader.stream(0, _first_plan(run.config, loader.steps_per_epoch)))
    targets = batch.targets
    shown = [
        pictures.show_boxes(
            image.permute(1, 2, 0).contiguous().numpy(),
            boxes[mask].numpy(),
            labels[mask].numpy(),
            run.class_names,
            SAMPLE_SIDE_PX,
        )
        for image, boxes, labels, mask in zip(
            batch.images, targets.boxes, targets.labels, targets.mask, strict=True
        )
    ]
    return Section(
        "Training images",
        "The first images of the run as the network saw them, with the boxes it was to learn.",
        (Picture("training.jpg", pictures.as_jpeg(pictures.tile(shown, columns=4)), "training images"),),
    )


def _first_plan(config: TrainConfig, steps_per_epoch: int) -> Plan:
    """What a run begins by; one with a time limit never begins with its plain epochs."""
    return Plan(
        steps=config.epochs * steps_per_epoch,
        steps_per_epoch=steps_per_epoch,
        plain=0 if config.max_minutes else config.no_augment_epochs * steps_per_epoch,
    )


def _examples(run: _Run) -> list[Section]:
    """The images with the lowest and the highest F1."""
    order = range(len(run.at_work))
    count = min(SHOWN_IMAGES, math.ceil(len(order) / 2))
    worst = sorted(order, key=lambda i: (run.at_work[i].f1, -run.at_work[i].mistakes))
    worst = [i for i in worst if run.at_work[i].mistakes][:count]
    best = sorted(order, key=lambda i: (-run.at_work[i].f1, -len(run.at_work[i].labels)))
    best = [i for i in best if run.at_work[i].right.any() and i not in worst][:count]
    how = (
        f"Left the truth, right what was found with a score of at least {run.working.score:.2f}. "
        "Bold boxes are mistakes: missed on the left, false on the right."
    )
    return [
        Section("Worst images", f"{how} Lowest F1 first, then most mistakes.", _pairs(run, "worst", worst)),
        Section("Best images", f"{how} Highest F1 first, then most boxes.", _pairs(run, "best", best)),
    ]


def _pairs(run: _Run, name: str, chosen: Sequence[int]) -> tuple[Picture, ...]:
    shown = []
    for number, i in enumerate(chosen, start=1):
        record, judged = run.validation.records[i], run.at_work[i]
        image = read_sized(record.path, record.size)
        picture = pictures.beside(image, judged, run.class_names, PICTURE_SIDE_PX)
        right, missed = int(judged.right.sum()), int(judged.missed.sum())
        caption = (
            f"{record.path.name}: F1 {judged.f1:.2f}, {right} right, {missed} missed, "
            f"{len(judged.found) - right} false"
        )
        shown.append(Picture(f"{name}_{number}.jpg", pictures.as_jpeg(picture), caption))
    return tuple(shown)


def _class_rows(run: _Run) -> list[ClassRow]:
    """One per class of the model; `None` where the validation images have no box of it."""
    evaluated = {each.name: each for each in run.report.per_class}
    trained = plots.count_labels(run.training.records, len(run.class_names))
    hits = np.diag(run.confusion)
    found = run.confusion.sum(axis=0)
    true = run.confusion.sum(axis=1)
    rows = []
    for label, name in enumerate(run.class_names):
        each = evaluated.get(name)
        rows.append(
            ClassRow(
                name=name,
                colour=colour_of(label),
                trained=int(trained[label]),
                boxes=int(true[label]),
                ap=each.ap if each else coco.ABSENT,
                ap50=each.ap50 if each else coco.ABSENT,
                recall=float(hits[label] / true[label]) if true[label] else coco.ABSENT,
                precision=float(hits[label] / found[label]) if found[label] else coco.ABSENT,
            )
        )
    return rows


def _numbers(run: _Run) -> list[tuple[str, float]]:
    """The first things to see."""
    report = run.report
    return [
        ("AP", report.ap),
        ("AP50", report.ap50),
        ("AP75", report.ap75),
        ("AP small", report.ap_small),
        ("AP medium", report.ap_medium),
        ("AP large", report.ap_large),
        ("best F1", run.working.f1),
    ]


def _facts(run: _Run) -> list[str]:
    """Sentences under the title."""
    card = run.model.card
    height, width = card.image_size
    weights = sum(weight.numel() for weight in run.model.parameters())
    by = run.config.best_by
    evaluated = [record for record in run.records if record.get(by, coco.ABSENT) >= 0]
    facts = [
        f"{weights / 1e6:.2f} M parameters, input {width} × {height} pixels, "
        f"{counted(len(card.class_names), 'class', 'classes')}",
        f"{len(run.training)} training and {counted(len(run.validation), 'validation image')}",
    ]
    if run.records:
        seconds = sum(record.get("seconds", 0.0) for record in run.records)
        last = run.records[-1]
        made = f"{counted(last['epoch'], 'epoch')}, {counted(last['step'], 'step')}"
        facts.append(f"{made}, {seconds / 60:.1f} minutes of training")
    if evaluated:
        best = max(evaluated, key=lambda record: (record[by], record["epoch"]))
        facts.append(f"these weights are of epoch {best['epoch']}, the best by {by}, {best[by]:.3f}")
    return facts
