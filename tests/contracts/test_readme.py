"""What the README tells a stranger to type, read and look up exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import damoyolo as dy
from conftest import ROOT
from damoyolo.cli import build_app
from damoyolo.zoo import SIZES, read_spec
from doc_pages import PAGES

README = (ROOT / "README.md").read_text()
GUIDES = {
    "training.md": ("train",),
    "search.md": ("search", "profile", "train"),
    "predict.md": ("predict", "export"),
    "deploy.md": ("export", "verify", "bench", "predict"),
}
"""Pages beside the log, and the verbs whose options they mention."""
TEXTS = {name: (ROOT / "docs" / name).read_text() for name in GUIDES}
LINKS = [
    page.parent / link
    for page in PAGES.values()
    for link in re.findall(r"\]\(([^)#]+)\)", page.read_text())
    if not link.startswith("http")
]


def test_its_two_commands_are_targets_of_the_makefile() -> None:
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    commands = re.findall(r"^ {4}make ([\w-]+)", README, re.MULTILINE)
    assert commands == ["demo", "test"]
    assert set(commands) <= set(targets)


@pytest.mark.parametrize("guide", GUIDES)
def test_guides_mention_only_options_that_exist(guide: str) -> None:
    known = {"--help", "--weights"}
    for verb in GUIDES[guide]:
        arguments = build_app()[verb].assemble_argument_collection(parse_docstring=True)
        known |= {name for argument in arguments for name in argument.names}
    assert set(re.findall(r"`(--[a-z][a-z0-9.-]*)", TEXTS[guide])) <= known


@pytest.mark.parametrize("link", LINKS, ids=str)
def test_links_lead_to_files(link: Path) -> None:
    assert link.exists()


def test_its_python_uses_public_names() -> None:
    names = set(re.findall(r"\bdy\.(\w+)", README))
    assert {"load", "predict", "evaluate"} <= names <= set(dy.__all__)


def test_its_table_of_models_says_what_the_specs_say() -> None:
    rows = re.findall(rf"^\| ({'|'.join(SIZES)}) \|(.+)\|$", README, re.MULTILINE)
    assert [size for size, _ in rows] == list(SIZES)
    for size, row in rows:
        spec = read_spec(size)
        assert spec.published is not None
        params, gflops, side, ap, distilled, latency = (cell.strip() for cell in row.split("|"))
        assert float(params.split()[0]) == pytest.approx(spec.published.params_m, abs=0.05)
        assert float(gflops) == pytest.approx(spec.published.gflops, abs=0.05)
        assert (int(side), float(ap)) == (spec.image_size, spec.published.ap)
        assert (float(distilled) if distilled else None) == spec.published.ap_distilled
        assert float(latency.split()[0]) == spec.published.latency_ms
