from __future__ import annotations

import json
from pathlib import Path

import pytest

from damoyolo.assemble import profiling
from damoyolo.cli import main
from damoyolo.search.profile import Profile
from fake_device import FakeDevice

QUICK = ["--image-size", "96", "--num-classes", "3", "--seconds", "0.1", "--detectors", "3"]


@pytest.fixture(autouse=True)
def _fake_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profiling, "open_device", lambda *_: FakeDevice())
    monkeypatch.setattr(profiling, "STRUCTURES", 100)


def test_a_profile_is_written_and_the_way_on_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "p.json"
    assert main(["profile", "--space", "mob", *QUICK, "--output", str(output)]) == 0
    shown = capsys.readouterr()
    assert (
        f"damoyolo search --space mob --image-size 96 --num-classes 3 --latency-table {output}" in shown.out
    )
    assert "measuring 3 whole detectors" in shown.err
    assert len(Profile.read(output).rows) > 100


def test_the_search_is_told_the_activation_that_was_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "p.json"
    assert main(["profile", "--activation", "silu", *QUICK, "--output", str(output)]) == 0
    assert f"--num-classes 3 --activation silu --latency-table {output}" in capsys.readouterr().out
    assert Profile.read(output).activation == "silu"


def test_the_facts_are_json_on_request(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profile", *QUICK, "--output", str(tmp_path / "p.json"), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["runtime"], shown["image_size"], len(shown["detectors"])) == ("formula 1.0", 96, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--device", "abacus"], "--device: 'abacus' is none of here"),
        (["--space", "k1k"], "--space: 'k1k' is none of k1kx"),
        (["--image-size", "100"], "100 px is no multiple of 32; take 96"),
        (["--seconds", "0"], "take more than 0, such as 60"),
        (["--output", "table.txt"], "must end in .json"),
        (["--like", "X"], "'X' is no model size"),
        (["--output", "/dev/null/x.json"], "/dev/null/x.json: cannot be written (Not a directory)"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["profile", *arguments]) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    assert message in told
    assert len(told.splitlines()) == 1


def test_one_that_is_interrupted_writes_nothing_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> list[float]:
        raise KeyboardInterrupt

    monkeypatch.setattr(FakeDevice, "time_ops", interrupted)
    assert main(["profile", *QUICK, "--output", str(tmp_path / "p.json")]) == 130
    assert "stopped; nothing was written" in capsys.readouterr().err
    assert not any(tmp_path.iterdir())
