"""A data set looked over before a training: what is wrong with it, advice, a page, a corrected copy."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from damoyolo.assemble.data_sets import (
    Format,
    Progress,
    read_splits,
    refuse_filled,
    union_of_names,
    write_data,
)
from damoyolo.assemble.doctor_page import ClassCounts, doctor_page
from damoyolo.assemble.inference import choose_device
from damoyolo.assemble.report_page import Picture
from damoyolo.data.dataset import Dataset, Record, check_images
from damoyolo.data.doctor.advice import Advice, advise, choose_side
from damoyolo.data.doctor.annotations import check_annotations, repeated_boxes
from damoyolo.data.doctor.classes import box_counts
from damoyolo.data.doctor.findings import Finding, Xyxy, finding
from damoyolo.data.doctor.pixels import check_pixels, identical_pairs, look_at
from damoyolo.data.doctor.unmatched import check_files
from damoyolo.data.formats.entries import Entries
from damoyolo.data.formats.found import find_place, overlooked
from damoyolo.data.images import read_sized
from damoyolo.data.resize import Size
from damoyolo.errors import UserError
from damoyolo.evaluation import pictures, plots
from damoyolo.files import write_atomically
from damoyolo.spec import given_image_size

LEVELS = ("error", "warning", "note")
SHOWN_IMAGES = 4
"""Pictures of a finding on the page."""
PICTURE_SIDE_PX = 420
KEPT_FIRST = ("test", "val", "train")
"""The split that keeps an image which is in several, first choice first."""


@dataclass(frozen=True)
class Diagnosis:
    """What `doctor` found, errors first, and what it advises; `summaries` are a line per split."""

    data: str
    image_size: Size
    summaries: dict[str, str]
    boxes: dict[str, dict[str, int]]
    findings: tuple[Finding, ...]
    advice: tuple[Advice, ...]
    command: str
    with_pixels: bool

    @property
    def is_sound(self) -> bool:
        """Whether there are no errors; warnings do not count."""
        return not self.count("error")

    def count(self, level: str) -> int:
        """Findings of a level."""
        return sum(finding.level == level for finding in self.findings)

    def to_json(self) -> str:
        """All fields as a JSON object; images of findings as paths, without the boxes that the page marks."""
        fields = dataclasses.asdict(self) | {"is_sound": self.is_sound}
        for each in fields["findings"]:
            del each["faulty"]
        return json.dumps(fields, indent=2, default=str)


def doctor(
    data: str | Path,
    *,
    image_size: int | str | None = None,
    device: str = "auto",
    pixels: bool = True,
    html: Path | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Diagnosis:
    """Look a data set over: its annotations, its images, and what to train with.

    Args:
        data: a folder or a YAML file in any known format.
        image_size: of the network's input in pixels, a side or "HEIGHTxWIDTH"; default the advised one.
        device: what the model shall run on, for the advice: `auto`, `cpu`, `cuda`, `mps`.
        pixels: read the images, too.
        html: a page to write, which needs no other file.
        seed: draws `train` and `val` where the data have no `val`.
        progress: called with the numbers of images read and in all.

    Raises:
        UserError: if the data set cannot be found, or its annotations cannot be read at all.
    """
    splits = read_splits(Path(data), seed)
    names = union_of_names(splits.values())
    records = {split: entries.with_classes(names).records() for split, entries in splits.items()}
    training = next(iter(records.values()))
    kind = choose_device(device).type
    advice = advise(training, kind)
    side, _ = choose_side(training)
    size = given_image_size(image_size) if image_size is not None else (side, side)
    findings = _left_out(Path(data)) + check_files(splits) + check_annotations(splits, size)
    if pixels:
        total = sum(map(len, records.values()))
        findings += check_pixels(records, (lambda done: progress(done, total)) if progress else None)
    boxes = {split: dict(box_counts(entries)) for split, entries in splits.items()}
    diagnosis = Diagnosis(
        data=str(data),
        image_size=size,
        summaries={split: _summary(splits[split], sum(boxes[split].values())) for split in splits},
        boxes=boxes,
        findings=tuple(sorted(findings, key=lambda finding: LEVELS.index(finding.level))),
        advice=tuple(advice),
        command=_command(data, advice, size),
        with_pixels=pixels,
    )
    if html is not None:
        write_atomically(html, _page(diagnosis, records, names).encode())
    return diagnosis


def _left_out(data: Path) -> list[Finding]:
    """Splits that are named and not read."""
    remedy = "correct the name or the path if these images are to be used, else take the entry out"
    found = finding("note", "splits left out", [(text, ()) for text in overlooked(data)], remedy)
    return [found] if found else []


def fix_data(
    data: str | Path, output: str | Path, *, seed: int = 0, progress: Progress | None = None
) -> dict[str, str]:
    """Write a corrected copy of a data set into a new folder; the original is only read.

    Left out are bad items, unreadable images, empty boxes, images of whose boxes none is left by that,
    boxes labelled twice, and images that another split has, too: a test image is in test only. Boxes are cut
    at the border of their image. All splits get all classes. The copy is YOLO's where the original is, and
    COCO's otherwise.

    Returns:
        What was changed, a sentence for each split.
    """
    refuse_filled(Path(output))
    source = Path(data)
    splits = read_splits(source, seed)
    names = union_of_names(splits.values())
    whole = {split: entries.with_classes(names).dataset(skip_bad=True) for split, entries in splits.items()}
    read = {split: check_images(dataset, skip_bad=True) for split, dataset in whole.items()}
    doubles = _doubles(read)
    fixed, told = {}, {}
    for split, dataset in read.items():
        kept = [record for record in dataset.records if (split, record.image_id) not in doubles]
        if not kept:
            raise UserError(f"{source}: every image of {split} is in another split, too; divide them anew")
        records = tuple(map(_without_repeated, kept))
        fixed[split] = dataclasses.replace(dataset, records=records)
        again = sum(len(old.labels) - len(new.labels) for old, new in zip(kept, records, strict=True))
        shared = len(dataset) - len(kept)
        told[split] = f"{dataset.report}; repeated boxes {again}; images that another split has {shared}"
    place = find_place(source, next(iter(splits))) or find_place(source, None)
    form: Format = "yolo" if place and place.format == "yolo" else "coco"
    write_data(fixed, Path(output), form, progress)
    return told


def _doubles(datasets: Mapping[str, Dataset]) -> set[tuple[str, int]]:
    """Images, by split and id, whose file is also in a split that comes first, or earlier in the same."""
    order = sorted(datasets, key=lambda split: KEPT_FIRST.index(split) if split in KEPT_FIRST else 0)
    items = [(split, record) for split in order for record in datasets[split].records]
    pairs = identical_pairs(look_at([record for _, record in items]))
    later = [items[second] for first, second in pairs if items[first][0] != items[second][0]]
    return {(split, record.image_id) for split, record in later}


def _without_repeated(record: Record) -> Record:
    keep = ~repeated_boxes(record)
    return dataclasses.replace(record, boxes=record.boxes[keep], labels=record.labels[keep])


def _summary(entries: Entries, boxes: int) -> str:
    empty = sum(not len(record.labels) for record in entries.records())
    drawn = f"; {entries.split_from}" if entries.split_from else ""
    return f"{len(entries.images)} images ({empty} without boxes), {boxes} boxes{drawn}"


def _command(data: str | Path, advice: list[Advice], size: Size) -> str:
    """Trains as advised, at the size that was looked at."""
    values = {each.setting: each.value for each in advice}
    values["image_size"] = str(size[0]) if size[0] == size[1] else f"{size[0]}x{size[1]}"
    order = ("model", "recipe", "image_size", "resize")
    flags = [part for key in order for part in (f"--{key.replace('_', '-')}", values[key])]
    return shlex.join(["damoyolo", "train", str(data), *flags])


def _page(diagnosis: Diagnosis, records: Mapping[str, list[Record]], names: tuple[str, ...]) -> str:
    train, *others = records.values()
    statistics = plots.label_statistics(train, others[0] if others else [], names, diagnosis.image_size)
    by_path = {record.path: record for each in records.values() for record in each}
    shown = {
        finding.title: tuple(
            _picture(by_path[path], names, [box for where, box in finding.faulty if where == path])
            for path in finding.images[:SHOWN_IMAGES]
            if _opens(by_path, path)
        )
        for finding in diagnosis.findings
    }
    counts = [
        ClassCounts(name, label, tuple(boxes.get(name, 0) for boxes in diagnosis.boxes.values()))
        for label, name in enumerate(names)
    ]
    return doctor_page(
        title=f"A look at {Path(diagnosis.data).resolve().name}",
        facts=[f"{split}: {text}" for split, text in diagnosis.summaries.items()],
        numbers=[(level, diagnosis.count(level)) for level in LEVELS],
        findings=diagnosis.findings,
        shown=shown,
        advice=diagnosis.advice,
        command=diagnosis.command,
        splits=tuple(diagnosis.boxes),
        classes=counts,
        statistics=Picture("labels.png", statistics, "statistics of the labels"),
    )


def _opens(records: Mapping[Path, Record], path: Path) -> bool:
    """Whether there is a picture to show."""
    try:
        read_sized(path, records[path].size)
    except (KeyError, UserError):
        return False
    return True


def _picture(record: Record, names: tuple[str, ...], faulty: list[Xyxy]) -> Picture:
    image = read_sized(record.path, record.size)
    picture = pictures.show_boxes(image, record.boxes, record.labels, names, PICTURE_SIDE_PX, faulty)
    return Picture(f"{record.path.stem}.jpg", pictures.as_jpeg(picture), record.path.name)
