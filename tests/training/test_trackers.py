from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from damoyolo.errors import UserError
from damoyolo.training.trackers import NAMES, Trackers, open_trackers

RECORD = {"epoch": 1, "step": 3, "ap": 0.5, "ap/cat": -1.0, "note": "text", "flag": True, "bad": math.nan}
CONFIG = {"model": "Ns", "optim": {"lr": 0.1}}


class Recorder:
    """Remembers what it was sent; fails when `broken`."""

    where = "nowhere"

    def __init__(self, broken: bool = False) -> None:
        self.broken = broken
        self.sent: list[tuple[dict[str, float], int]] = []
        self.closed = False

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        print("chatter")
        if self.broken:
            raise ConnectionError("no route\nto host")
        self.sent.append((dict(numbers), step))

    def close(self) -> None:
        self.closed = True


def test_finite_numbers_go_to_every_tracker_and_its_chatter_nowhere(
    capsys: pytest.CaptureFixture[str],
) -> None:
    first, second = Recorder(), Recorder()
    trackers = Trackers(pytest.fail)
    trackers.add("first", lambda: first)
    trackers.add("second", lambda: second)
    trackers.log(RECORD, 3)
    trackers.close()
    assert first.sent == second.sent == [({"epoch": 1.0, "ap": 0.5, "ap/cat": -1.0}, 3)]
    assert first.closed
    assert second.closed
    assert capsys.readouterr() == ("", "")


def test_a_tracker_that_fails_is_reported_once_and_the_others_go_on() -> None:
    warnings: list[str] = []
    good = Recorder()
    trackers = Trackers(warnings.append)
    trackers.add("bad", lambda: Recorder(broken=True))
    trackers.add("good", lambda: good)
    for step in (1, 2, 3):
        trackers.log({"ap": 0.1}, step)
    trackers.close()
    assert [step for _, step in good.sent] == [1, 2, 3]
    (warning,) = warnings
    assert warning.startswith("bad is left out from now on (no route to host)")


def test_a_tracker_that_cannot_be_opened_stops_nothing() -> None:
    warnings: list[str] = []
    trackers = Trackers(warnings.append)
    trackers.add("bad", lambda: (_ for _ in ()).throw(TimeoutError()))
    trackers.log(RECORD, 3)
    trackers.close()
    assert warnings == ["bad is left out from now on (TimeoutError); metrics.jsonl has all numbers"]
    assert trackers.where == ()


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_package_is_named_with_its_remedy(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard" if name == "tensorboard" else name, None)
    with pytest.raises(UserError, match=rf"log_to: '{name}' needs .*pip install 'damoyolo\[{name}\]'"):
        open_trackers([name], tmp_path, CONFIG)
    assert not list(tmp_path.iterdir())


def test_an_unknown_name_is_refused_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'tensorbord' is no tracker; did you mean 'tensorboard'"):
        open_trackers(["tensorbord"], tmp_path, CONFIG)


def test_without_names_nothing_is_written(tmp_path: Path) -> None:
    trackers = open_trackers([], tmp_path, CONFIG)
    trackers.log(RECORD, 3)
    trackers.close()
    assert not list(tmp_path.iterdir())


def run_twice(name: str, folder: Path) -> tuple[str, ...]:
    """Three records, of which a crash takes the last one back, and two more after the resume."""
    for step, values in ((0, (0.1, 0.2, 0.9)), (6, (0.3, 0.4))):
        trackers = open_trackers([name], folder, CONFIG, step=step, warn=pytest.fail)
        assert len(trackers.where) == 1
        for number, value in enumerate(values, start=1):
            trackers.log({"ap": value}, step + 3 * number)
        where = trackers.where
        trackers.close()
    return where


def test_tensorboard_reads_one_run_back(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert str(tmp_path / "tensorboard") in run_twice("tensorboard", tmp_path)[0]
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    found = {event.step: event.value for event in events.Scalars("ap")}
    assert found == pytest.approx({3: 0.1, 6: 0.2, 9: 0.3, 12: 0.4})


def test_trackio_keeps_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = pytest.importorskip("trackio.sqlite_storage", reason="trackio is not installed")
    for module in ("utils", "sqlite_storage"):
        monkeypatch.setattr(f"trackio.{module}.TRACKIO_DIR", tmp_path / "database")
    folder = tmp_path / "cells"
    folder.mkdir()
    run_twice("trackio", folder)
    (name,) = storage.SQLiteStorage.get_runs("damoyolo")
    assert name.startswith("cells-")
    found = {entry["step"]: entry["ap"] for entry in storage.SQLiteStorage.get_logs("damoyolo", name)}
    assert found == {3: 0.1, 6: 0.2, 9: 0.3, 12: 0.4}


def test_wandb_records_offline_under_one_identity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    (where,) = run_twice("wandb", tmp_path)
    identity = (tmp_path / "tracking.id").read_text()
    recorded = sorted((tmp_path / "wandb").glob(f"offline-run-*-{identity}/run-{identity}.wandb"))
    assert recorded
    assert where.startswith("wandb sync ")
    assert b"optim" in recorded[0].read_bytes()
