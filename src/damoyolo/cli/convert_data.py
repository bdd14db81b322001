"""`damoyolo convert-data`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from damoyolo.cli.ranges import Seed


def convert_data(
    data: Path,
    output: Path,
    /,
    *,
    to: Literal["coco", "yolo"],
    seed: Seed = 0,
    skip_bad: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Write a data set in another format, with copies of its images.

    Parameters
    ----------
    data
        A folder or YAML file of a data set: COCO JSON, YOLO text or Pascal VOC XML, found by looking.
    output
        A folder that is empty or not there yet.
    to
        coco (train.json, val.json and images/) or yolo (data.yaml, images/ and labels/).
    seed
        Draws train and val where the data have no val; near-duplicates stay on one side.
    skip_bad
        Leave bad images and annotations out instead of stopping.
    """
    from rich.console import Console
    from rich.progress import Progress

    from damoyolo import assemble
    from damoyolo.data.formats import overlooked

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("write", total=None)
        written = assemble.convert_data(
            data,
            output,
            to,
            seed=seed,
            skip_bad=skip_bad,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    for sentence in overlooked(data):
        print(f"left out: {sentence}", file=sys.stderr)
    for split, dataset in written.items():
        print(f"{output}: {split}: {dataset.summary()}")
