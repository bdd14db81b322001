from __future__ import annotations

import os
from pathlib import Path

import pytest

from damoyolo.errors import RunError, UserError
from damoyolo.training.log import METRICS_FILE, MetricsFile, ProgressBar

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
    assert list(metrics.path.parent.iterdir()) == [metrics.path]


def test_a_damaged_line_is_told_with_its_file(metrics: MetricsFile) -> None:
    metrics.path.write_text('{"step": 1\n{"step": 2}\n')
    with pytest.raises(UserError, match=rf"{METRICS_FILE}: is damaged .*; remove it"):
        metrics.keep_until(5)


def test_without_a_terminal_only_lines_are_shown_and_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressBar(4, 0) as bar:
        bar.step("1/2", lambda: pytest.fail("nobody looks at the losses"))
        bar.line("epoch 1/2  loss 0.5")
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("", "epoch 1/2  loss 0.5\n")


def test_the_bar_shows_epoch_position_and_losses_on_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    with ProgressBar(4, 1) as bar:
        bar.step("1/2", lambda: "total 0.500")
        bar._progress.refresh()
    shown = capsys.readouterr().err
    for part in ("epoch 1/2", "2/4", "total 0.500", "left"):
        assert part in shown


def test_a_quiet_bar_says_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    with ProgressBar(4, 0, quiet=True) as bar:
        bar.step("1/2", lambda: "total 0.500")
        bar.line("epoch 1/2")
    assert capsys.readouterr() == ("", "")
