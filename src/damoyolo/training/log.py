"""What a run tells: one JSON line per epoch in a file, and a progress bar for people."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from damoyolo.errors import UserError
from damoyolo.files import write_atomically

METRICS_FILE = "metrics.jsonl"


class MetricsFile:
    """Appends a record per epoch; after a crash, what came after the last checkpoint is taken back."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / METRICS_FILE

    def append(self, record: dict[str, Any]) -> None:
        """Write one line and see it on the disk."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def read(self) -> list[dict[str, Any]]:
        """All whole records."""
        if not self.path.exists():
            return []
        lines = self.path.read_text(encoding="utf-8").split("\n")
        try:
            return [json.loads(line) for line in lines[:-1]]
        except ValueError as error:
            raise UserError(f"{self.path}: is damaged ({error}); remove it to go on without it") from error

    def keep_until(self, step: int) -> None:
        """Forget records of later steps."""
        kept = [json.dumps(record) + "\n" for record in self.read() if record["step"] <= step]
        write_atomically(self.path, "".join(kept).encode())


class ProgressBar:
    """Steps, losses and time left while training; a line per epoch. Silent when `quiet`."""

    def __init__(self, total: int, done: int, quiet: bool = False) -> None:
        self._console = Console(stderr=True, quiet=quiet)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[losses]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self._console,
            disable=quiet or not self._console.is_terminal,
            transient=True,
        )
        self._task = self._progress.add_task("training", total=total, completed=done, losses="")

    def __enter__(self) -> ProgressBar:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def step(self, epoch: str, losses: Callable[[], str]) -> None:
        """One more step is done."""
        shown = {} if self._progress.disable else {"losses": losses()}
        self._progress.update(self._task, advance=1, description=f"epoch {epoch}", **shown)  # type: ignore[arg-type]

    def line(self, text: str) -> None:
        """A line that stays."""
        self._console.print(text, highlight=False, soft_wrap=True)
