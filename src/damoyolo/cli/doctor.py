"""`damoyolo doctor`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from damoyolo.cli.ranges import Seed
from damoyolo.errors import UserError, counted

if TYPE_CHECKING:
    from damoyolo.assemble import Diagnosis

COLOURS = {"error": "bold red", "warning": "yellow", "note": "dim"}


def doctor(
    data: Path,
    /,
    *,
    image_size: str | None = None,
    device: str = "auto",
    pixels: Annotated[bool, Parameter(negative="--no-pixels")] = True,
    fix: Path | None = None,
    html: Path | None = None,
    seed: Seed = 0,
    as_json: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> int:
    """Look a data set over before a training; the exit code is 1 if there are errors in it.

    Parameters
    ----------
    data
        A folder or YAML file of a data set: COCO JSON, YOLO text or Pascal VOC XML, found by looking.
    image_size
        Network input in pixels, a side or HEIGHTxWIDTH, multiples of 32; default the advised one.
    device
        What the model shall run on, for the advice: auto, cpu, cuda, cuda:1 or mps.
    pixels
        Read the images, too; without it only the annotations are looked at.
    fix
        Write a corrected copy into this new folder; the original is never touched.
    html
        Write a page with pictures into this file.
    seed
        Draws train and val where the data have no val.
    as_json
        Print JSON instead of text.
    """
    from rich.console import Console
    from rich.progress import Progress

    from damoyolo import assemble

    if fix and not pixels:
        raise UserError("--fix: needs to read the images; leave --no-pixels out")
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("write" if fix else "read", total=None)

        def told(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        changes = assemble.fix_data(data, fix, seed=seed, progress=told) if fix else {}
        bar.update(task, description="read", completed=0, total=None)
        diagnosis = assemble.doctor(
            data,
            image_size=image_size,
            device=device,
            pixels=pixels,
            html=html,
            seed=seed,
            progress=told,
        )
    if as_json:
        print(diagnosis.to_json())
    else:
        _show(diagnosis)
    for split, change in changes.items():
        print(f"{fix}: {split}: {change}", file=sys.stderr)
    if fix:
        print(f"train with {fix} in the place of {data}", file=sys.stderr)
    if html:
        print(f"look at {html}", file=sys.stderr)
    return 0 if diagnosis.is_sound else 1


def _show(diagnosis: Diagnosis) -> None:
    """For the terminal: what there is, what was found, what to do."""
    from rich.console import Console
    from rich.text import Text

    console = Console(soft_wrap=True, highlight=False)
    for split, summary in diagnosis.summaries.items():
        console.print(Text(f"{split}: {summary}"))
    for finding in diagnosis.findings:
        console.print()
        console.print(
            Text(finding.level, COLOURS[finding.level]) + Text(f"  {finding.title}: {finding.count}", "bold")
        )
        for example in finding.shown:
            console.print(Text(f"  {example}"))
        console.print(Text(f"  -> {finding.remedy}", "cyan"))
    console.print()
    for advice in diagnosis.advice:
        console.print(Text(f"{advice.setting} {advice.value}", "bold") + Text(f": {advice.reason}"))
    console.print(Text(diagnosis.command))
    counts = ", ".join(
        counted(count, level) for level in ("error", "warning", "note") if (count := diagnosis.count(level))
    )
    unread = "" if diagnosis.with_pixels else "; the images were not read"
    console.print(Text(f"\n{counts or 'nothing to complain of'}{unread}", "bold"))
