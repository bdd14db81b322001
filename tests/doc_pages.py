"""What the documentation tells a reader to type: the commands and the Python of its pages, in order.

Commands stand in ```bash and ```console fences and in indented blocks, Python in ```python fences. A comment
in the line before a block says what is special: `<!-- not run: needs a GPU -->`, `<!-- exit code: 1 -->`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from conftest import ROOT

DOCS = ROOT / "docs"
PAGES = {
    "README.md": ROOT / "README.md",
    **{
        str(path.relative_to(DOCS)): path
        for path in sorted(DOCS.rglob("*.md"))
        if path.name != "LOG.md" and path.parent.name != "reference"
    },
}
"""All but the log, whose commands take hours, and the reference, which is generated."""
FENCE = re.compile(r"^(`{3,})(\w*).*?\n(.*?)^\1$", re.MULTILINE | re.DOTALL)
COMMENT = re.compile(r"<!-- (not run|exit code): (.+?) -->\n+$")
INDENTED = re.compile(r"(?:(?<=\n\n)|^)(?: {4}\S.*\n)+", re.MULTILINE)
PROGRAMS = ("curl", "damoyolo", "make", "pip", "python", "torchrun")


@dataclass(frozen=True)
class Step:
    """One command, or one snippet of Python.

    `not_run` is the page's own reason why it cannot run here; `line` is where its block begins.
    """

    line: int
    language: str
    text: str
    not_run: str = ""
    exit_code: int = 0


def steps(page: str) -> list[Step]:
    """What a page tells to type, from top to bottom."""
    text = PAGES[page].read_text()
    return sorted((*_fenced(text), *_indented(text)), key=lambda step: step.line)


def _fenced(text: str) -> Iterator[Step]:
    for block in FENCE.finditer(text):
        line = text.count("\n", 0, block.start()) + 1
        if block[2] == "python":
            yield Step(line, "python", block[3], **_special(text[: block.start()]))
        elif block[2] in ("bash", "console"):
            for command in _commands(block[3]):
                yield Step(line, "bash", command, **_special(text[: block.start()]))


def _indented(text: str) -> Iterator[Step]:
    plain = FENCE.sub(lambda block: "\n" * block[0].count("\n"), text)
    for block in INDENTED.finditer(plain):
        line = plain.count("\n", 0, block.start()) + 1
        for command in _commands(block[0]):
            if command.split()[0] in PROGRAMS:
                yield Step(line, "bash", command, **_special(plain[: block.start()]))


def _special(before: str) -> dict[str, Any]:
    """What a comment right before a block says about it."""
    comment = COMMENT.search(before)
    if comment is None:
        return {}
    return {"not_run": comment[2]} if comment[1] == "not run" else {"exit_code": int(comment[2])}


def _commands(block: str) -> Iterator[str]:
    """The lines of a block without prompts and what follows `#`."""
    for line in block.replace("\\\n", " ").splitlines():
        command = re.sub(r"(^|\s)#.*", "", line).strip().removeprefix("$ ")
        if command:
            yield command
