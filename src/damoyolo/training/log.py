"""What a run tells: one JSON line per epoch in a file, and a progress bar for people."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from rich.text import Text

from damoyolo.errors import UserError
from damoyolo.files import write_atomically

METRICS_FILE, TABLE_FILE = "metrics.jsonl", "metrics.csv"
REDRAWN_EVERY_S = 0.25
"""Shortest time between two looks at the losses, which may wait for the device."""
TOLD_EVERY_S = 60.0
"""Seconds between two status lines where there is no terminal to draw a bar on."""


class MetricsFile:
    """Appends a record per epoch; after a crash, what came after the last checkpoint is taken back.

    Beside it, `metrics.csv` holds the same as a table with a column for every name that any record has. It is
    written anew where a name is new.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / METRICS_FILE
        self._table = folder / TABLE_FILE
        self._columns: list[str] = []

    def append(self, record: dict[str, Any]) -> None:
        """Write one line and see it on the disk."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
            file.flush()
            os.fsync(file.fileno())
        if record.keys() <= set(self._columns) and self._table.exists():
            with self._table.open("a", encoding="utf-8", newline="") as table:
                csv.DictWriter(table, self._columns).writerow(record)
        else:
            self._write_table()

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
        self._write_table()

    def _write_table(self) -> None:
        records = self.read()
        self._columns = list(dict.fromkeys(name for record in records for name in record))
        text = io.StringIO()
        table = csv.DictWriter(text, self._columns)
        table.writeheader()
        table.writerows(records)
        write_atomically(self._table, text.getvalue().encode())


@dataclass(frozen=True)
class Status:
    """How training goes at the moment.

    `losses` are means by name, `total` first; `images_per_s` counts training alone, without evaluations.
    """

    losses: Mapping[str, float]
    lr: float
    images_per_s: float

    def __str__(self) -> str:
        losses = " ".join(f"{name} {loss:.3f}" for name, loss in self.losses.items())
        return f"{losses}  lr {self.lr:.1e}  {_short(self.images_per_s)} images/s"


class _StatusColumn(ProgressColumn):
    """The one column that gives way where the terminal is narrow, and is cut off at its end."""

    def render(self, task: Task) -> Text:
        return Text(task.fields["status"], no_wrap=True, overflow="ellipsis")


class ProgressBar:
    """Position, losses, learning rate, speed, memory and time left while training; a line per epoch.

    On a terminal it is a bar that is redrawn in place. Elsewhere a line tells the same about once a minute,
    which only epochs longer than that will see. Silent when `quiet`.

    Args:
        total: steps of the run.
        done: steps done before.
        quiet: say nothing.
        device: whose memory is shown.
    """

    def __init__(
        self, total: int, done: int, quiet: bool = False, device: torch.device | str = "cpu"
    ) -> None:
        self._console = Console(stderr=True, quiet=quiet)
        self._quiet = quiet
        self._device = torch.device(device)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=12),
            MofNCompleteColumn(),
            _StatusColumn(table_column=Column()),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=self._console,
            disable=quiet or not self._console.is_terminal,
            transient=True,
            speed_estimate_period=300,
        )
        self._task = self._progress.add_task("training", total=total, completed=done, status="")
        self._told = time.monotonic() if self._progress.disable else -math.inf

    def __enter__(self) -> ProgressBar:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def step(self, epoch: str, status: Callable[[], Status], total: int | None = None) -> None:
        """One more step is done.

        Args:
            epoch: such as `3/28`.
            status: asked only when something is shown, a few times per second at most.
            total: steps of the run, where that has changed.
        """
        self._progress.update(self._task, advance=1, description=f"epoch {epoch}")
        if total is not None:
            self._progress.tasks[0].total = total  # `update` would forget the speed
        now = time.monotonic()
        wait = TOLD_EVERY_S if self._progress.disable else REDRAWN_EVERY_S
        if self._quiet or now - self._told < wait:
            return
        self._told = now
        text = f"{status()}  {memory_used(self._device) / 2**30:.1f} GiB"
        if self._progress.disable:
            self.line(f"epoch {epoch}  {self._position()}  {text}")
        else:
            self._progress.update(self._task, status=text)

    def line(self, text: str) -> None:
        """A line that stays; without a terminal, the next status line is due a minute later."""
        self._console.print(text, highlight=False, soft_wrap=True, markup=False)
        self._told = time.monotonic()

    def _position(self) -> str:
        task = self._progress.tasks[0]
        left = task.time_remaining
        position = f"step {int(task.completed)}/{int(task.total or 0)}"
        return position if left is None else f"{position}, {_duration(int(left))} left"


def epoch_line(record: Mapping[str, Any], epochs: int, best: bool = False) -> str:
    """What a record of the metrics file says, for people.

    Args:
        record: of one epoch.
        epochs: of the whole run.
        best: whether this evaluation is the best so far.
    """
    parts = {name.removeprefix("loss_"): value for name, value in record.items() if name.startswith("loss_")}
    total = parts.pop("total")
    line = (
        f"epoch {record['epoch']}/{epochs}  loss {total:.3f} ("
        + " ".join(f"{name} {value:.3f}" for name, value in parts.items())
        + f")  lr {record['lr']:.1e}  {_short(record['images_per_s'])} images/s"
    )
    if "ap" not in record:
        return line
    ap, ap50 = (f"{value:.3f}" if value >= 0 else "-" for value in (record["ap"], record["ap50"]))
    return f"{line}  AP {ap}  AP50 {ap50}{'  best so far' if best else ''}"


def memory_used(device: torch.device) -> int:
    """Bytes: on a CUDA device, what PyTorch holds there; else what this process has in main memory."""
    if device.type == "cuda":
        return torch.cuda.memory_reserved(device)
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    if sys.platform == "win32":
        return 0
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _short(speed: float) -> str:
    return f"{speed:.0f}" if speed >= 10 else f"{speed:.1f}"


def _duration(seconds: int) -> str:
    minutes = seconds // 60
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds % 60:02d}"
