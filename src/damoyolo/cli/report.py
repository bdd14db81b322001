"""`damoyolo report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number


def report(
    folder: Path,
    /,
    *,
    batch_size: Annotated[int, Parameter(validator=Number(gte=1))] = 8,
    device: str = "auto",
) -> None:
    """Write report.html into FOLDER, the output of a training run.

    Parameters
    ----------
    folder
        What `damoyolo train` was given as --output; its data must be where it was then.
    batch_size
        Images detected at once.
    device
        auto, cpu, cuda, cuda:1 or mps.
    """
    from rich.console import Console
    from rich.progress import Progress

    from damoyolo import assemble

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("detect", total=None)
        page = assemble.write_report(
            folder,
            device=device,
            batch_size=batch_size,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    print(page)
