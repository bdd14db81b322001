"""Every command and every snippet of the pages and the README runs, page by page, in a small world."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import ROOT
from damoyolo.assemble import profiling, searching
from damoyolo.cli import VERBS, build_app, main
from doc_pages import PAGES, Step, steps
from doc_world import furnish, quickened, reduced, why_not
from fake_device import FakeDevice

RUN = {page: found for page in PAGES if (found := steps(page))}
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return furnish(tmp_path_factory.mktemp("world"))


@pytest.fixture
def _searchable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The device that pages search for is one whose times are a formula: measuring takes minutes."""
    monkeypatch.setenv("DAMOYOLO_HOME", str(tmp_path / "home"))
    for module in (searching, profiling):
        monkeypatch.setattr(module, "open_device", lambda *_: FakeDevice(factor=0.3))
    monkeypatch.setattr(profiling, "STRUCTURES", 100)
    monkeypatch.setattr(profiling, "STEPS", 40)
    monkeypatch.setattr(profiling, "measure_table", partial(_coarsely, profiling.measure_table))


def _coarsely(measure_table: Any, measure: Any, usual: Any, seconds: float, *rest: Any) -> Any:
    return measure_table(measure, usual, 0.0, *rest)


@pytest.mark.slow
@pytest.mark.usefixtures("_searchable")
@pytest.mark.parametrize("page", RUN)
def test_what_a_page_tells_to_type_works(
    page: str, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = shutil.copytree(world, tmp_path / "here", symlinks=True)
    monkeypatch.chdir(here)
    names: dict[str, Any] = {"__name__": "__main__", "pixels": np.zeros((90, 150, 3), np.uint8)}
    for step in RUN[page]:
        if why_not(page, step):
            continue
        if step.language == "python":
            exec(compile(reduced(step.text), f"{page}:{step.line}", "exec"), names)
        else:
            assert _run(step.text) == step.exit_code, f"{page}:{step.line}: {step.text}"


def _run(command: str) -> int:
    """The exit code of a command."""
    words = shlex.split(command)
    if words[0] == "damoyolo":
        return main(quickened(command))
    assert words[0] == "python"
    return subprocess.run([sys.executable, *words[1:]], check=False, timeout=60).returncode


@pytest.mark.parametrize(
    "step",
    [step for page, found in RUN.items() for step in found if why_not(page, step)],
    ids=lambda step: step.text.splitlines()[0],
)
def test_what_cannot_run_here_is_known_to_what_would_run_it(step: Step) -> None:
    if step.language == "python":
        compile(step.text, "page", "exec")
        return
    program, *words = shlex.split(step.text)
    if "damoyolo" in (program, *words[-20:]) and program in ("damoyolo", "torchrun"):
        given = words[words.index("damoyolo") + 1 :] if program == "torchrun" else words
        build_app().parse_args(given, exit_on_error=False, print_error=False)
    elif program == "pip":
        asked = re.findall(r"\[([\w,]+)\]", step.text)
        assert {extra for extras in asked for extra in extras.split(",")} <= EXTRAS.keys()
    elif program == "python":
        text = (ROOT / words[0]).read_text()
        assert all(f'"{word}"' in text for word in words if word.startswith("--"))
    else:
        assert program in ("make", "curl", "hf")


@cache
def _options(verb: str) -> set[str]:
    arguments = build_app()[verb].assemble_argument_collection(parse_docstring=True)
    return {"--help", *(name for argument in arguments for name in argument.names)}


@pytest.mark.parametrize("page", PAGES)
def test_its_commands_have_verbs_and_options_that_exist(page: str) -> None:
    within = re.findall(r"`damoyolo ([^`\n]+)`", PAGES[page].read_text())
    alone = [
        step.text.removeprefix("damoyolo ") for step in RUN.get(page, ()) if "damoyolo " in step.text[:9]
    ]
    for command in (*within, *alone):
        verb, *words = command.split()
        if verb not in ("VERB", "--version"):
            assert verb in VERBS
            assert {word for word in words if word.startswith("--")} <= _options(verb)
