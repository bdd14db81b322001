"""Numbers of a run sent to experiment trackers, each an optional extra that is imported when asked for.

Whatever a tracker does, training goes on: `metrics.jsonl` has everything anyway.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import math
import secrets
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, Protocol, get_args

from damoyolo.errors import UserError, nearest
from damoyolo.files import write_atomically

Name = Literal["tensorboard", "wandb", "trackio"]
NAMES: tuple[Name, ...] = get_args(Name)
PROJECT = "damoyolo"
FINISH_TIMEOUT_S = 120
"""Longest time that W&B may take at the end of a run to send what is left; `wandb sync` sends the rest."""
ID_FILE = "tracking.id"
"""Holds what makes this run the same one after a resume, wherever its folder is moved to."""


class Tracker(Protocol):
    """One place that numbers are sent to; any method may fail."""

    where: str
    """How to look at the run."""

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        """Send numbers that belong to a step."""

    def close(self) -> None:
        """Send what is left."""


class Trackers:
    """All trackers of a run as one; one that fails is reported once and then left out."""

    def __init__(self, warn: Callable[[str], None]) -> None:
        self._warn = warn
        self._open: dict[str, Tracker] = {}

    @property
    def where(self) -> tuple[str, ...]:
        """How to look at the run, for each tracker."""
        return tuple(tracker.where for tracker in self._open.values())

    def add(self, name: str, connect: Callable[[], Tracker]) -> None:
        """Open one more."""
        with self._guarded(name):
            self._open[name] = connect()

    def log(self, record: Mapping[str, Any], step: int) -> None:
        """Send the finite numbers among a record's values; the step itself goes beside them."""
        numbers = {
            name: float(value) for name, value in record.items() if name != "step" and _is_number(value)
        }
        for name, tracker in list(self._open.items()):
            with self._guarded(name):
                tracker.log(numbers, step)

    def close(self) -> None:
        """Send what is left; to be called however the run ends."""
        for name, tracker in list(self._open.items()):
            with self._guarded(name):
                tracker.close()
        self._open.clear()

    @contextlib.contextmanager
    def _guarded(self, name: str) -> Iterator[None]:
        """Silence on the terminal, and a warning instead of any failure of a library that is not ours."""
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                yield
        except Exception as error:
            self._open.pop(name, None)
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            self._warn(f"{name} is left out from now on ({reason}); metrics.jsonl has all numbers")


def open_trackers(
    names: Sequence[str],
    folder: Path,
    config: Mapping[str, Any],
    *,
    step: int = 0,
    warn: Callable[[str], None] = lambda text: print(text, file=sys.stderr),
) -> Trackers:
    """Trackers by name (`NAMES`) for the run in a folder; opened again, they go on with the same run.

    Args:
        names: which; none is fine.
        folder: of the run, for the files of TensorBoard and W&B.
        config: settings, JSON-ready, shown beside the numbers.
        step: where a resumed run goes on; what TensorBoard was told of later steps is taken back.
        warn: told once of each tracker that fails.

    Raises:
        UserError: for an unknown name, or a package that is not installed.
    """
    packages = {name: _import(name) for name in dict.fromkeys(names)}
    trackers = Trackers(warn)
    if not packages:
        return trackers
    run = _Run(folder, _identity(folder), config, step)
    for name, package in packages.items():
        trackers.add(name, partial(_KINDS[name], package, run))
    return trackers


@dataclass(frozen=True)
class _Run:
    """What the trackers are told about the run."""

    folder: Path
    identity: str
    config: Mapping[str, Any]
    step: int


class _TensorBoard:
    """Event files in the run's folder."""

    def __init__(self, package: ModuleType, run: _Run) -> None:
        folder = run.folder / "tensorboard"
        self._writer = package.SummaryWriter(str(folder), purge_step=run.step + 1 if run.step else None)
        if not run.step:
            self._writer.add_text("config", f"```json\n{json.dumps(run.config, indent=1)}\n```")
        self.where = f"tensorboard --logdir {folder}"

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class _Wandb:
    """Weights & Biases; `WANDB_MODE=offline` keeps everything in the run's folder."""

    def __init__(self, package: ModuleType, run: _Run) -> None:
        self._run = package.init(
            project=PROJECT,
            id=run.identity,
            name=run.folder.name,
            dir=str(run.folder),
            config=dict(run.config),
            resume="allow",
            settings=package.Settings(silent=True, console="off", finish_timeout=FINISH_TIMEOUT_S),
        )
        self.where = f"wandb sync {self._run.dir}" if self._run.offline else str(self._run.url)

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        self._run.log(dict(numbers), step=step)

    def close(self) -> None:
        self._run.finish()


class _Trackio:
    """Trackio, in the database that it keeps on this machine."""

    def __init__(self, package: ModuleType, run: _Run) -> None:
        name = f"{run.folder.name}-{run.identity}"  # by which Trackio knows it again
        self._run = package.init(
            project=PROJECT, name=name, config=dict(run.config), resume="allow", embed=False
        )
        self.where = f"trackio show --project {PROJECT}"

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        self._run.log(dict(numbers), step=step)

    def close(self) -> None:
        self._run.finish()


_KINDS: dict[str, Callable[[ModuleType, _Run], Tracker]] = {
    "tensorboard": _TensorBoard,
    "wandb": _Wandb,
    "trackio": _Trackio,
}


def _import(name: str) -> ModuleType:
    """The package of a tracker."""
    if name not in NAMES:
        hint = nearest(name, NAMES)
        raise UserError(f"log_to: '{name}' is no tracker{hint}; known: {', '.join(NAMES)}")
    try:
        return importlib.import_module("torch.utils.tensorboard" if name == "tensorboard" else name)
    except ImportError as error:
        raise UserError(
            f"log_to: '{name}' needs a package that is not installed ({error}); "
            f"pip install 'damoyolo[{name}]', or leave it out"
        ) from error


def _identity(folder: Path) -> str:
    """The run's own, made when it is first asked for."""
    path = folder / ID_FILE
    if not path.exists():
        write_atomically(path, secrets.token_hex(4).encode())
    return path.read_text().strip()


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
