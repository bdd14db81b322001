"""Every command and every snippet of the pages and the README runs, page by page, in a small world."""

from __future__ import annotations

import faulthandler
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from contextlib import ExitStack
from functools import cache, partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from conftest import ROOT
from damoyolo.assemble import devices, profiling, searching
from damoyolo.cli import VERBS, build_app, main
from doc_pages import PAGES, Step, steps
from doc_world import ONCE, WEIGHTS, furnish, quickened, reduced, why_not
from exportable import quick_exports  # noqa: F401 (a fixture)
from fake_device import FakeDevice
from fake_hub import FakeHub, Repository, standing_in
from live_server import running_verb

RUN = {page: found for page in PAGES if (found := steps(page))}
SERVED_AT = "http://127.0.0.1:8000/"
"""Where pages say that `damoyolo app` listens."""
PATIENCE_S = 180
"""With a script that hangs."""
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return furnish(tmp_path_factory.mktemp("world"))


@pytest.fixture
def _searchable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The device that pages search for is one whose times are a formula: measuring takes minutes."""
    monkeypatch.setenv("DAMOYOLO_HOME", str(tmp_path / "home"))
    for module in (devices, searching, profiling):
        monkeypatch.setattr(module, "open_device", lambda *_: FakeDevice(factor=0.3))
    monkeypatch.setattr(profiling, "STRUCTURES", 100)
    monkeypatch.setattr(profiling, "STEPS", 40)
    monkeypatch.setattr(profiling, "measure_table", partial(_coarsely, profiling.measure_table))


def _coarsely(measure_table: Any, measure: Any, usual: Any, seconds: float, *rest: Any) -> Any:
    return measure_table(measure, usual, 0.0, *rest)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # within huggingface_hub
@pytest.mark.filterwarnings("ignore:All-NaN slice:RuntimeWarning")  # tau of networks that learnt nothing
@pytest.mark.usefixtures("_searchable")
@pytest.mark.parametrize("page", RUN)
def test_what_a_page_tells_to_type_works(
    page: str, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = shutil.copytree(world, tmp_path / "here", symlinks=True)
    monkeypatch.chdir(here)
    monkeypatch.setenv("DAMOYOLO_DATA", str(here))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv("DAMOYOLO_TOKEN", raising=False)
    names: dict[str, Any] = {"__name__": "__main__", "pixels": np.zeros((90, 150, 3), np.uint8)}
    with ExitStack() as open_until_the_end:
        if page == "hub.md":
            _shelve(open_until_the_end.enter_context(standing_in(monkeypatch, tmp_path)), here / WEIGHTS)
        address = SERVED_AT
        for step in RUN[page]:
            text = step.text.replace(SERVED_AT, address)
            if why_not(page, step):
                continue
            if step.language == "python":
                exec(compile(reduced(text), f"{page}:{step.line}", "exec"), names)
            elif text.startswith("damoyolo app "):
                server = running_verb(quickened(text), monkeypatch)
                started = open_until_the_end.enter_context(server)
                address = started if address == SERVED_AT else address
            else:
                assert _run(text) == step.exit_code, f"{page}:{step.line}: {text}"


def _run(command: str) -> int:
    """The exit code of a command."""
    program, *words = shlex.split(command)
    if program == "damoyolo":
        return main(quickened(command))
    if program == "curl":
        return subprocess.run([program, "--fail", *words], check=False, timeout=20).returncode
    assert program == "python"
    return _run_script(quickened(command))


def _run_script(words: list[str]) -> int:
    """The same of a script, which runs in this process, as starting another takes seconds."""
    script = Path(words[0]).absolute()
    threads = torch.get_num_threads(), cv2.getNumThreads()
    others = [path for path in sys.path if path not in map(str, (ROOT / "tests", ROOT / "benchmarks"))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", words)
        patch.setattr(sys, "path", [str(script.parent), *others])
        faulthandler.dump_traceback_later(PATIENCE_S, exit=True)
        try:
            code = compile(reduced(script.read_text()), str(script), "exec")
            exec(code, {"__name__": "__main__", "__file__": str(script)})
        except SystemExit as end:
            print(end.code)
            return int(end.code not in (None, 0))
        finally:
            faulthandler.cancel_dump_traceback_later()
            torch.set_num_threads(threads[0])
            cv2.setNumThreads(threads[1])
    return 0


def _shelve(hub: FakeHub, weights: Path) -> None:
    """Put the repository there that the page reads from."""
    repository = hub.repositories["owner/name"] = Repository(private=True)
    repository.tags["v1.0"] = repository.commit({"model.safetensors": weights.read_bytes()})


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
        pinned = set(re.findall(r"^([\w-]+)==", (ROOT / "constraints.txt").read_text().lower(), re.MULTILINE))
        named = {word.lower() for word in words[1:] if re.fullmatch(r"[A-Za-z][\w-]+", word)}
        assert named <= pinned
    elif program == "python":
        text = (ROOT / words[0]).read_text()
        assert all(f'"{word}"' in text for word in words if word.startswith("--"))
    else:
        assert program in ("make", "curl", "hf")


@pytest.mark.parametrize(("word", "page"), [(word, page) for word, (page, _) in ONCE.items()])
def test_what_is_left_out_on_other_pages_runs_on_its_own(word: str, page: str) -> None:
    assert any(word in step.text and not why_not(page, step) for step in RUN[page])


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
