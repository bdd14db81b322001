from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from damoyolo.assemble import TrainResult, read_config
from damoyolo.cli import main
from damoyolo.zoo.recipes import RECIPES, overlay
from tiny_runs import SETTINGS, flags, metrics, outcome, spec_in, tiny, write_data


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("shapes"))


def command(data: Path, output: Path, **changes: Any) -> list[str]:
    """The command that trains as `tiny(data, output, **changes)` does."""
    given = overlay({**SETTINGS, "model": str(spec_in(data)), "output": str(output)}, changes)
    return ["train", str(data), *flags(given)]


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "run"
    assert main(command(data, run)) == 0
    return run


def test_options_become_the_configuration_over_the_recipe(data: Path, finished: Path) -> None:
    assert read_config(finished) == tiny(data, finished)


def test_a_run_leaves_its_files_and_ends_with_the_best_result(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(data, tmp_path / "run", epochs=1)) == 0
    shown = capsys.readouterr()
    assert shown.out == f"best AP {metrics(tmp_path / 'run')[0]['ap']:.3f}: {tmp_path}/run/best.safetensors\n"
    assert "epoch 1/1  loss " in shown.err
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        "best.safetensors",
        "last.safetensors",
        "state.pt",
        "metrics.jsonl",
        "metrics.csv",
        "config.yaml",
    }


def test_sections_lists_and_switches_are_set_by_options_and_paths_by_a_recipe_file(
    data: Path, tmp_path: Path
) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(f"data: {data}\nmodel: {spec_in(data)}\nepochs: 9\nskip_bad: true\noptim: {{lr: 0.25}}")
    options = ["--epochs", "1", "--augment.scale", "0.8", "1.25", "--optim.momentum", "0.5", "--no-skip-bad"]
    small = ["--image-size", "64", "--device", "cpu", "--workers", "0", "--output", str(tmp_path / "run")]
    assert main(["train", "--recipe", str(recipe), *options, *small]) == 0
    config = read_config(tmp_path / "run")
    assert (config.data, config.model, config.epochs) == (data, str(spec_in(data)), 1)
    assert (config.augment.scale, config.skip_bad) == ((0.8, 1.25), False)
    assert (config.optim.lr, config.optim.momentum, config.optim.name) == (0.25, 0.5, "sgd")


def test_the_help_names_the_folder_of_the_recipes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "1000")
    assert main(["train", "--help"]) == 0
    (folder,) = re.findall(r"a file in `?(\S+?)`?;", capsys.readouterr().out)
    assert {path.stem for path in Path(folder).glob("*.yaml")} == set(RECIPES)


@pytest.mark.parametrize(
    "resume",
    [
        ["train", "--resume", "--output", "RUN"],
        ["train", "DATA", "--resume", "--output", "RUN", "--workers", "1", "--checkpoint-minutes", "3"],
        ["COMMAND", "--resume"],
        ["COMMAND", "--recipe", "quick", "--resume"],
    ],
)
def test_a_run_is_resumed_by_its_folder_or_by_its_own_command(
    resume: list[str], data: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    places = {"RUN": [str(run)], "DATA": [str(data)], "COMMAND": command(data, run)}
    assert main([part for each in resume for part in places.get(each, [each])]) == 0
    assert "is already finished" in capsys.readouterr().err
    assert outcome(run) == outcome(finished)


def test_a_run_to_be_resumed_that_never_began_is_told_to_begin(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command(data, tmp_path / "run"), "--resume"]) == 0
    assert f"nothing to go on from in {tmp_path / 'run'}: the run begins" in capsys.readouterr().err
    assert main([*command(data, tmp_path / "other")]) == 0
    assert "nothing to go on from" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train"], "data: nothing to train on; give a folder or a YAML file"),
        (["train", "DATA", "--epoch", "3"], "Did you mean --epochs?"),
        (["train", "DATA", "--optim.lrr", "3"], "Did you mean --optim.lr?"),
        (["train", "DATA", "--epochs", "many"], "--epochs"),
        (["train", "DATA", "--epochs", "0"], "--epochs: is 0; take 1 or more"),
        (["train", "DATA", "--optim.lr", "0"], "--optim.lr: is 0; take more than 0"),
        (["train", "DATA", "--image-size", "100"], "--image-size: 100 px is no multiple of 32"),
        (["train", "DATA", "--recipe", "quik"], "--recipe: 'quik' is unknown; did you mean 'quick'?"),
        (["train", "DATA", "--model", "Tx"], "'Tx' is no model size; did you mean 'T'?"),
        (["train", "DATA", "--device", "gpu"], "--device: 'gpu' cannot be used"),
        (["train", "absent", "--output", "NEW"], "absent: does not exist"),
        (
            ["train", "DATA", "--output", "RUN"],
            "RUN holds a run already; take another folder, or --resume it",
        ),
        (["train", "--resume", "--output", "NEW"], "NEW holds no run (no config.yaml); start one without"),
        (
            ["train", "--resume", "--output", "RUN", "--seed", "7"],
            "seed: is '7' now but was '0' when the run in",
        ),
        (["train", "other", "--resume", "--output", "RUN"], "other' now but was 'DATA' when"),
        (
            ["train", "--resume", "--output", "RUN", "--optim.lr", "0.5"],
            "optim.lr: is '0.5' now but was",
        ),
    ],
)
def test_a_wrong_request_is_answered_with_one_sentence_before_anything_is_trained(
    arguments: list[str],
    message: str,
    data: Path,
    finished: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = outcome(finished)
    places = {"DATA": str(data), "RUN": str(finished), "NEW": str(tmp_path / "new")}
    assert main([places.get(each, each) for each in arguments]) == 2
    shown = capsys.readouterr()
    for name, place in places.items():
        message = message.replace(name, place)
    assert shown.out == ""
    assert shown.err.splitlines()[-1].startswith("error: ")
    assert message in shown.err
    assert outcome(finished) == before
    assert not (tmp_path / "new").exists()


def test_a_loss_that_is_no_number_ends_the_run_with_code_1_step_and_images(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(data, tmp_path / "run", optim={"lr": 1e30})) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: the ")
    assert " became " in error
    assert " at step 2 (images in " in error
    assert json.loads((tmp_path / "run" / "diverged.json").read_text())["images"][0].startswith("train_")
    assert "start anew in another folder with a lower optim.lr" in error


@pytest.mark.parametrize(
    ("ap", "said"),
    [
        (-1.0, "val has no boxes"),
        (0.0, "nothing was learnt yet"),
        (0.0004, "more --epochs may help"),
        (0.01, ""),
    ],
)
def test_an_ap_of_nothing_comes_with_what_to_do(
    ap: float,
    said: str,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    paths = [tmp_path / name for name in ("best", "last", "metrics")]
    monkeypatch.setattr("damoyolo.assemble.train", lambda *_, **__: TrainResult(tmp_path, *paths, ap))
    assert main(command(data, tmp_path / "run")) == 0
    shown = capsys.readouterr().err
    assert said in shown
    assert bool(shown) == bool(said)
