"""What AlignedOTA gives to each object of some images, as pictures and numbers."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from damoyolo.assemble.inference import prepare
from damoyolo.boxes.types import Targets
from damoyolo.data.dataset import Record
from damoyolo.data.formats import read_dataset
from damoyolo.data.images import read_sized
from damoyolo.data.resize import Resize
from damoyolo.errors import UserError
from damoyolo.evaluation.assignment import Assigned, SizeSummary, draw_assignment, summarize
from damoyolo.evaluation.pictures import as_jpeg
from damoyolo.files import write_atomically
from damoyolo.losses.criterion import Criterion
from damoyolo.nn.detector import Detector

SUMMARY_FILE = "assignment.json"


def inspect_assignment(
    model: Detector,
    data: str | Path,
    output: Path,
    *,
    split: str = "train",
    images: int = 8,
    image_size: int | str | None = None,
    device: str = "auto",
) -> tuple[SizeSummary, ...]:
    """Draw, for some images with objects, which points the criterion's assigner gives to each object.

    The images are not augmented and the model is in eval mode, with the statistics it has learnt; in
    training, assignment sees augmented images and the statistics of the batch.

    Args:
        model: whose predictions the assignment goes by.
        data: a folder or YAML file of a data set: COCO JSON, YOLO text or Pascal VOC XML, found by looking.
        output: folder for a picture of each image and `assignment.json`; pictures that only an earlier
            `assignment.json` there tells of are removed.
        split: train, val or test.
        images: how many, spread evenly over the split.
        image_size: network input in pixels, a side or "HEIGHTxWIDTH"; default the model's own.
        device: `auto`, `cpu`, `cuda`, `cuda:1`, `mps`.

    Returns:
        A summary of the small, the medium and the large objects, and of all of them.
    """
    ready = prepare(model, device=device, image_size=image_size)
    names = model.card.class_names
    dataset = read_dataset(Path(data), split, class_names=names)
    records = _spread([record for record in dataset.records if len(record.labels)], images)
    if not records:
        raise UserError(f"{dataset.annotations}: has no boxes; take another --split")
    earlier = _pictures_named(output)
    inspected, pictures = [], []
    for record, assigned in zip(records, assign_images(ready, records), strict=True):
        name = f"{record.path.stem}_{record.image_id}.jpg"
        write_atomically(output / name, as_jpeg(draw_assignment(assigned, names)))
        inspected.append(assigned)
        pictures.append(name)
    for name in earlier - set(pictures):
        with contextlib.suppress(OSError):
            (output / name).unlink()
    summaries = summarize(inspected)
    content = {
        "summary": [dataclasses.asdict(summary) for summary in summaries],
        "images": [
            {"picture": picture, **assigned.to_record(names)}
            for picture, assigned in zip(pictures, inspected, strict=True)
        ],
    }
    write_atomically(output / SUMMARY_FILE, json.dumps(content, indent=1).encode())
    return summaries


@torch.inference_mode()
def assign_images(model: Detector, records: Sequence[Record]) -> Iterator[Assigned]:
    """The assignment in each image, at the input size of a model in eval mode."""
    card = model.card
    resize = Resize(card.resize, card.image_size)
    device = next(model.parameters()).device
    for record in records:
        image = np.ascontiguousarray(resize.image(read_sized(record.path, record.size)))
        boxes = resize.boxes(record.boxes, record.size)
        targets = Targets.pad([torch.from_numpy(boxes)], [torch.from_numpy(record.labels)]).to(device)
        predictions = model(torch.from_numpy(image).to(device)[None].permute(0, 3, 1, 2).float())
        assignment = Criterion().match(predictions, targets).assignment
        yield Assigned(
            name=record.path.name,
            image=image,
            boxes=boxes,
            labels=record.labels,
            owner=assignment.gt_index[0].cpu().numpy(),
            iou=assignment.iou[0].float().cpu().numpy(),
            pyramid=predictions.pyramid,
        )


def _pictures_named(output: Path) -> set[str]:
    """The pictures that an earlier inspection into the folder drew; none if it cannot be understood."""
    try:
        records = json.loads((output / SUMMARY_FILE).read_bytes())["images"]
        names = {record["picture"] for record in records}
    except (OSError, ValueError, TypeError, KeyError):
        return set()
    return {
        name
        for name in names
        if isinstance(name, str) and name == Path(name).name and Path(name).suffix == ".jpg"
    }


def _spread(records: Sequence[Record], count: int) -> list[Record]:
    """So many of them, from the first to the last, at equal distances."""
    places = np.linspace(0, len(records) - 1, min(count, len(records))).round().astype(int)
    return [records[place] for place in places.tolist()]
