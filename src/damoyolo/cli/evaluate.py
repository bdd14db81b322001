"""`damoyolo evaluate`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from damoyolo.cli.ranges import Count
from damoyolo.errors import UserError

if TYPE_CHECKING:
    from damoyolo.evaluation.coco import Report

Flag = Annotated[bool, Parameter(negative="")]


def evaluate(
    data: Path | None = None,
    /,
    *,
    weights: str | None = None,
    split: str = "val",
    image_size: str | None = None,
    batch_size: Count = 8,
    device: str = "auto",
    skip_bad: Flag = False,
    annotations: Path | None = None,
    detections: Path | None = None,
    class_agnostic: Flag = False,
    as_json: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> None:
    """Compute the COCO numbers of a model on DATA, or of any detector's results.

    Parameters
    ----------
    data
        A folder or YAML file of a data set: COCO JSON, YOLO text or Pascal VOC XML, found by looking.
    weights
        A model size (Ns Nm Nl T S M L) or a weights file (.safetensors, .pth, hf://owner/name).
    split
        Which part of DATA: train, val or test.
    image_size
        Network input in pixels, a side or HEIGHTxWIDTH, multiples of 32; default the model's own.
    batch_size
        Images detected at once.
    device
        auto, cpu, cuda, cuda:1 or mps.
    skip_bad
        Leave bad images and annotations out instead of stopping.
    annotations
        Instead of DATA and --weights: a COCO annotation file ...
    detections
        ... and a COCO results file of any detector.
    class_agnostic
        With --annotations and --detections: only places count, not classes.
    as_json
        Print JSON instead of tables.
    """
    if annotations and detections and not (data or weights):
        from damoyolo.evaluation.coco import evaluate_records

        report = evaluate_records(annotations, detections, class_agnostic)
    elif data and weights and not (annotations or detections or class_agnostic):
        report = _evaluate_model(weights, data, split, image_size, batch_size, device, skip_bad)
    else:
        raise UserError(
            "give either DATA and --weights, or --annotations and --detections (--class-agnostic)"
        )
    if as_json:
        print(report.to_json())
    else:
        import rich

        rich.print(report.table())
        if weights and 0 <= report.ap < 0.0005:
            print("nothing was found where it is; train longer, or begin from weights", file=sys.stderr)


def _evaluate_model(
    weights: str,
    data: Path,
    split: str,
    image_size: str | None,
    batch_size: int,
    device: str,
    skip_bad: bool,
) -> Report:
    """`assemble.evaluate` with a progress bar on stderr."""
    from rich.console import Console
    from rich.progress import Progress

    from damoyolo import assemble

    model = assemble.load(weights)
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("evaluate", total=None)
        return assemble.evaluate(
            model,
            data,
            split,
            image_size=image_size,
            batch_size=batch_size,
            device=device,
            skip_bad=skip_bad,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
