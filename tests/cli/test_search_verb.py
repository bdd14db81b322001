from __future__ import annotations

import json
from pathlib import Path

import pytest

from damoyolo.assemble import searching
from damoyolo.assemble.on_device import Found
from damoyolo.cli import main
from damoyolo.cli.search import _table
from damoyolo.config import SearchConfig
from damoyolo.search.cost import Costs
from damoyolo.spec import ModelSpec
from damoyolo.zoo import read_spec

QUICK = ["--image-size", "96", "--candidates", "150", "--max-layers", "19"]


def test_a_search_is_shown_as_a_table_and_says_how_to_train(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "run"
    assert main(["search", "--space", "k1kx", *QUICK, "--max-gflops", "2", "--output", str(output)]) == 0
    shown = capsys.readouterr().out
    assert "found.yaml" in shown
    assert "GFLOPs" in shown
    assert " ms" not in shown  # nothing is known of times
    assert f"damoyolo train DATA --model {output / 'found.yaml'}" in shown
    assert "--max-layers" not in shown
    assert ModelSpec.read(output / "found.yaml").image_size == 96


def test_where_nothing_limits_the_layers_the_score_s_taste_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ["--image-size", "96", "--candidates", "50", "--max-gflops", "2"]
    assert main(["search", *small, "--output", str(tmp_path / "run")]) == 0
    assert "the score counts depth above all, which --max-layers limits" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("times", "headings"),
    [
        ([(0.0, None)], []),
        ([(2.5, None)], ["predicted ms"]),
        ([(2.5, 2.25), (2.0, None)], ["predicted ms", "measured ms"]),
    ],
)
def test_the_table_has_the_times_that_are_known(
    times: list[tuple[float, float | None]], headings: list[str]
) -> None:
    spec = read_spec("Ns")
    found = tuple(
        Found(spec, 9.0, Costs(10**6, 10**9, 3, predicted), measured_ms=measured)
        for predicted, measured in times
    )
    result = searching.SearchResult(SearchConfig(), found, (), 1, 1.0, {}, "", stopped=False)
    assert [str(each.header) for each in _table(result).columns][5:] == headings


def test_the_result_is_json_on_request(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["search", *QUICK, "--front", "params", "--output", str(tmp_path / "run"), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert [each["file"] for each in shown["found"]] == ["found-1.yaml", "found-2.yaml", "found-3.yaml"]
    assert shown["tried"] == 150


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--space", "k1k"], "--space: 'k1k' is none of k1kx"),
        (["--max-gflop", "4"], "--max-gflop"),
        (["--max-gflops", "-4"], "--max-gflops: is -4; take more than 0"),
        (["--max-gflops", "4"], "--max-gflops: 4 cannot be reached"),
        ([], "nothing limits the search"),
        (["--front", "watts"], "--front: "),
        (["--max-latency-ms", "1", "--latency-table", "nowhere.txt"], "nowhere.txt cannot be read"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["search", *arguments, "--output", str(tmp_path / "run")]) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    assert message in told
    assert len(told.splitlines()) == 1


def test_a_broken_state_is_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "state.json").write_text("{")
    assert main(["search", *QUICK, "--resume", "--output", str(tmp_path)]) == 2
    assert "is no state of a search" in capsys.readouterr().err


def test_a_stopped_search_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(searching, "evolve", stop)
    assert main(["search", *QUICK, "--output", str(tmp_path / "run")]) == 130
    assert "--resume" in capsys.readouterr().err
    assert (tmp_path / "run" / "found.yaml").exists()


def test_one_that_is_interrupted_before_it_begins_says_how_to_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(searching, "open_device", interrupted)
    output = tmp_path / "run"
    assert (
        main(["search", *QUICK, "--device", "here", "--max-latency-ms", "9", "--output", str(output)]) == 130
    )
    assert "go on with the same command and --resume" in capsys.readouterr().err
    assert not output.exists()
