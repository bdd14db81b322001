from __future__ import annotations

import csv
import mmap
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from damoyolo.errors import RunError, UserError
from damoyolo.training import log
from damoyolo.training.log import (
    METRICS_FILE,
    TABLE_FILE,
    MetricsFile,
    ProgressBar,
    Status,
    epoch_line,
    memory_used,
)

RECORDS = [{"epoch": n, "step": 3 * n, "ap/größe": 0.1 * n} for n in (1, 2, 3)]


@pytest.fixture
def metrics(tmp_path: Path) -> MetricsFile:
    file = MetricsFile(tmp_path)
    for record in RECORDS:
        file.append(record)
    return file


def test_records_are_read_as_they_were_appended(metrics: MetricsFile) -> None:
    assert metrics.read() == RECORDS
    assert metrics.path.name == METRICS_FILE


def test_a_file_that_is_not_there_holds_nothing(tmp_path: Path) -> None:
    assert MetricsFile(tmp_path).read() == []


@pytest.mark.parametrize("cut", [1, 5, 30])
def test_a_line_that_was_cut_off_does_not_count(cut: int, metrics: MetricsFile) -> None:
    metrics.path.write_bytes(metrics.path.read_bytes()[:-cut])
    assert metrics.read() == RECORDS[:2]
    metrics.keep_until(9)
    metrics.append(RECORDS[2])
    assert metrics.read() == RECORDS


@pytest.mark.parametrize(("step", "kept"), [(0, 0), (3, 1), (5, 1), (9, 3), (99, 3)])
def test_what_came_after_a_step_is_taken_back(step: int, kept: int, metrics: MetricsFile) -> None:
    metrics.keep_until(step)
    assert metrics.read() == RECORDS[:kept]


def test_taking_back_is_all_or_nothing(metrics: MetricsFile, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fail)
        with pytest.raises(RunError, match="No space left on device"):
            metrics.keep_until(3)
    assert metrics.read() == RECORDS
    assert {path.name for path in metrics.path.parent.iterdir()} == {METRICS_FILE, TABLE_FILE}


def test_a_damaged_line_is_told_with_its_file(metrics: MetricsFile) -> None:
    metrics.path.write_text('{"step": 1\n{"step": 2}\n')
    with pytest.raises(UserError, match=rf"{METRICS_FILE}: is damaged .*; remove it"):
        metrics.keep_until(5)


def rows(metrics: MetricsFile) -> list[dict[str, str]]:
    return list(csv.DictReader(metrics.path.with_name(TABLE_FILE).read_text(encoding="utf-8").splitlines()))


def test_the_table_has_a_column_for_every_name_and_a_gap_where_a_record_lacks_it(
    metrics: MetricsFile,
) -> None:
    metrics.append({"epoch": 4, "step": 12, "note": 'a "quoted", text'})
    first, *_, last = rows(metrics)
    assert list(first) == ["epoch", "step", "ap/größe", "note"]
    assert (first["ap/größe"], first["note"]) == ("0.1", "")
    assert (last["ap/größe"], last["note"]) == ("", 'a "quoted", text')


def test_the_table_is_right_after_a_resume_too(metrics: MetricsFile) -> None:
    metrics.keep_until(3)
    assert [row["step"] for row in rows(metrics)] == ["3"]
    metrics.append({"epoch": 2, "step": 6, "loss": 1.5})
    assert [(row["step"], row["loss"]) for row in rows(metrics)] == [("3", ""), ("6", "1.5")]


def test_a_row_is_appended_without_reading_the_others_again(
    metrics: MetricsFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[MetricsFile] = []
    monkeypatch.setattr(
        MetricsFile, "read", lambda self, original=MetricsFile.read: (read.append(self), original(self))[1]
    )
    metrics.append({"step": 12, "epoch": 4})
    assert not read
    metrics.append({"epoch": 5, "step": 15, "ap/größe": 0.5, "lr": 0.1})
    assert len(read) == 1
    metrics.append({"lr": 0.2, "epoch": 6})
    assert [tuple(row.values()) for row in rows(metrics)[2:]] == [
        ("3", "9", "0.30000000000000004", ""),
        ("4", "12", "", ""),
        ("5", "15", "0.5", "0.1"),
        ("6", "", "", "0.2"),
    ]


def test_another_process_goes_on_with_the_table(metrics: MetricsFile) -> None:
    other = MetricsFile(metrics.path.parent)
    other.append({"epoch": 4, "step": 12, "lr": 0.1})
    other.append({"epoch": 5, "step": 15, "lr": 0.2})
    assert [row["lr"] for row in rows(metrics)] == ["", "", "", "0.1", "0.2"]


def test_a_table_that_was_taken_away_comes_back_whole(metrics: MetricsFile) -> None:
    metrics.path.with_name(TABLE_FILE).unlink()
    metrics.append({"epoch": 4, "step": 12})
    assert [row["epoch"] for row in rows(metrics)] == ["1", "2", "3", "4"]


def status() -> Status:
    return Status({"total": 0.5, "distill": 0.25}, lr=1e-3, images_per_s=123.4)


class Clock:
    """Stands for the clock that the bar looks at, and only the bar: a server's loop may run beside it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(log, "time", SimpleNamespace(monotonic=lambda: self.now))


def test_without_a_terminal_only_lines_are_shown_and_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressBar(4, 0) as bar:
        bar.step("1/2", lambda: pytest.fail("nobody looks at the losses"))
        bar.line("epoch 1/2  loss 0.5 [bold]")
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("", "epoch 1/2  loss 0.5 [bold]\n")


def test_without_a_terminal_a_long_epoch_tells_once_a_minute_how_it_goes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    with ProgressBar(100, 40) as bar:
        for _ in range(25):
            clock.now += 5.0
            bar.step("2/5", status)
        clock.now += 55.0
        bar.line("epoch 2/5 is done")
        clock.now += 55.0
        bar.step("3/5", status)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("epoch 2/5  step 52/100")
    assert "total 0.500 distill 0.250  lr 1.0e-03  123 images/s" in lines[0]
    assert lines[1].startswith("epoch 2/5  step 64/100")
    assert lines[2] == "epoch 2/5 is done"


def test_the_bar_shows_epoch_position_and_losses_on_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "160")
    with ProgressBar(4, 1) as bar:
        bar.step("1/2", status)
        bar._progress.refresh()
    shown = capsys.readouterr().err
    for part in ("epoch 1/2", "2/4", "total 0.500 distill 0.250", "lr 1.0e-03", "images/s", "GiB", "left"):
        assert part in shown


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_on_a_narrow_terminal_the_status_gives_way(
    columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", str(columns))
    with ProgressBar(728, 100) as bar:
        bar.step("10/280", lambda: Status({f"loss{n}": 0.5 for n in range(9)}, 1e-3, 10.0))
        bar._progress.refresh()
    shown = capsys.readouterr().err
    for part in ("epoch 10/280", "101/728", "…", "left"):
        assert part in shown


def test_the_bar_asks_for_losses_only_when_it_redraws(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    clock, asked = Clock(monkeypatch), []
    bar = ProgressBar(1000, 0)
    for number in range(1000):
        clock.now += 0.01
        bar.step("1/2", lambda number=number: asked.append(number) or status())
    assert 35 <= len(asked) <= 42


def test_the_bar_takes_a_new_total(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "160")
    with ProgressBar(4, 0) as bar:
        bar.step("1/2", status)
        bar.step("1/9", status, total=700)
        bar._progress.refresh()
    assert "2/700" in capsys.readouterr().err


def test_a_quiet_bar_says_nothing_and_looks_at_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    with ProgressBar(4, 0, quiet=True) as bar:
        bar.step("1/2", lambda: pytest.fail("nobody looks at the losses"))
        bar.line("epoch 1/2")
    assert capsys.readouterr() == ("", "")


def test_the_line_of_an_epoch_names_its_losses_and_what_was_evaluated() -> None:
    record = {"epoch": 2, "step": 6, "lr": 1e-3, "loss_total": 1.5, "loss_quality": 1.0, "loss_distill": 0.5}
    record |= {"images_per_s": 9.87, "seconds": 2.0}
    line = "epoch 2/5  loss 1.500 (quality 1.000 distill 0.500)  lr 1.0e-03  9.9 images/s"
    assert epoch_line(record, 5) == line
    record |= {"ap": 0.25, "ap50": 0.5}
    assert epoch_line(record, 5) == f"{line}  AP 0.250  AP50 0.500"
    assert epoch_line(record, 5, best=True) == f"{line}  AP 0.250  AP50 0.500  best so far"
    assert epoch_line(record | {"ap": -1.0, "ap50": -1.0}, 5) == f"{line}  AP -  AP50 -"


def test_memory_is_that_of_this_process() -> None:
    before = memory_used(torch.device("cpu"))
    with mmap.mmap(-1, 64 * 2**20) as fresh:  # an array might take what an earlier one has given back
        fresh[:: mmap.PAGESIZE] = b"x" * (len(fresh) // mmap.PAGESIZE)
        assert 48 * 2**20 < memory_used(torch.device("cpu")) - before < 128 * 2**20
