"""The documentation becomes a site without a network, and the site asks for none."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import ROOT

SCRIPT = """
import socket, sys
def refuse(*_, **__):
    raise OSError("no network")
socket.socket.connect = socket.getaddrinfo = socket.create_connection = refuse
from mkdocs.__main__ import cli
cli(["build", "--strict", "--quiet", "--site-dir", sys.argv[1]])
"""
FOREIGN = re.compile(
    r"""<script[^>]+src=["']?(?:https?:)?//[^>]*>"""
    r"""|<link[^>]+rel=["']?(?:stylesheet|preconnect|preload|icon)[^>]*href=["']?(?:https?:)?//[^>]*>"""
    r"""|<(?:img|iframe)[^>]+src=["']?(?:https?:)?//[^>]*>"""
)
FOREIGN_STYLE = re.compile(r"""(?:@import\s+(?:url\()?|url\()["']?(?:https?:)?//[^;)]*""")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("mkdocs")
    folder = tmp_path_factory.mktemp("site")
    build = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(folder)],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT / "src"), "NO_MKDOCS_2_WARNING": "1", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert build.returncode == 0, build.stderr[-3000:]
    return folder


@pytest.mark.slow
def test_scripts_styles_fonts_and_pictures_are_its_own(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 40
    foreign = {found for page in pages for found in FOREIGN.findall(page.read_text())}
    foreign |= {found for style in site.rglob("*.css") for found in FOREIGN_STYLE.findall(style.read_text())}
    assert not foreign


@pytest.mark.slow
def test_the_reference_has_every_public_name_and_verb(site: Path) -> None:
    import damoyolo as dy
    from damoyolo.cli import VERBS

    reference = "".join(page.read_text() for page in (site / "reference").glob("*.html"))
    for name in dy.__all__:
        assert f'id="damoyolo.{dy._HOMES[name]}.{name}"' in reference
    command_line = (site / "reference" / "cli.html").read_text()
    assert all(f'id="damoyolo-{verb}"' in command_line for verb in VERBS)


@pytest.mark.slow
def test_a_linked_source_file_is_shown(site: Path) -> None:
    page = (site / "source/src/damoyolo/nn/neck.py.html").read_text()
    assert "class RepGFPN" in re.sub("<[^>]+>", "", page)
