"""`damoyolo report`."""

from __future__ import annotations

from pathlib import Path

from damoyolo.cli.ranges import Count


def report(
    folder: Path,
    /,
    *,
    batch_size: Count = 8,
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
