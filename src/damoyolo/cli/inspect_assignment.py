"""`damoyolo inspect-assignment`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from damoyolo.cli.ranges import Count

if TYPE_CHECKING:
    from rich.table import Table

    from damoyolo.evaluation.assignment import SizeSummary


def inspect_assignment(
    data: Path,
    /,
    *,
    weights: str,
    split: str = "train",
    images: Count = 8,
    output: Path = Path("runs/assignment"),
    image_size: str | None = None,
    device: str = "auto",
) -> None:
    """Show which points learn which objects of DATA, and the IoU they are to predict.

    Parameters
    ----------
    data
        A folder or YAML file of a data set: COCO JSON, YOLO text or Pascal VOC XML, found by looking.
    weights
        A model size (Ns Nm Nl T S M L) or a weights file (.safetensors, .pth, hf://owner/name).
    split
        Which part of DATA: train, val or test.
    images
        How many, spread evenly over the split.
    output
        Folder for the pictures and assignment.json.
    image_size
        Network input in pixels, a side or HEIGHTxWIDTH, multiples of 32; default the model's own.
    device
        auto, cpu, cuda, cuda:1 or mps.
    """
    import rich

    from damoyolo import assemble

    model = assemble.load(weights)
    summaries = assemble.inspect_assignment(
        model, data, output, split=split, images=images, image_size=image_size, device=device
    )
    rich.print(_table(summaries))
    print(f"pictures and assignment.json in {output}")


def _table(summaries: Sequence[SizeSummary]) -> Table:
    """Sizes in rows."""
    from rich.table import Table

    table = Table("", caption="sizes in pixels of the network's input: 32 x 32, 96 x 96")
    levels = [f"P{number + 3}" for number in range(len(summaries[0].points_per_level))]
    for heading in ("objects", "no point", "one", "mean", *levels, "IoU"):
        table.add_column(heading, justify="right")
    for each in summaries:
        points = sum(each.points_per_level)
        shares = [f"{count / points:.0%}" if points else "–" for count in each.points_per_level]
        counts = [str(each.objects), str(each.without), str(each.single)]
        iou = f"{each.mean_iou:.3f}" if points else "–"
        mean = f"{each.points_per_object:.1f}" if each.objects else "–"
        table.add_row(each.size, *counts, mean, *shares, iou)
    return table
