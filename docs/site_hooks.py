"""What MkDocs adds to these pages: the command line's reference, and the source files that they link to.

Pages link to files of the repository, such as `../src/damoyolo/nn/neck.py`, so that the links work wherever
the repository is read. The site has no repository beside it, so each such file becomes a page of its own.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

LINK = re.compile(r"\]\(([^)#:\s]+)\)")
LANGUAGES = {".py": "python", ".yaml": "yaml", ".cpp": "cpp", ".toml": "toml"}
COMMAND_LINE = "reference/cli.md"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are written by nobody."""
    files.append(File.generated(config, COMMAND_LINE, content=_command_line()))
    root = Path(config.config_file_path).parent
    linked: set[str] = set()
    for file in files.documentation_pages():
        linked |= {
            path for link in LINK.findall(file.content_string) if (path := _outside(link, file.src_uri))
        }
    for path in sorted(linked):
        if (root / path).is_file():
            files.append(File.generated(config, _page_of(path), content=_shown(root / path, path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead links out of the pages to the copies of what they mean."""

    def led(match: re.Match[str]) -> str:
        path = _outside(match[1], page.file.src_uri)
        if path is None or files.get_file_from_path(_page_of(path)) is None:
            return match[0]
        return f"]({posixpath.relpath(_page_of(path), posixpath.dirname(page.file.src_uri) or '.')})"

    return LINK.sub(led, markdown)


def _outside(link: str, page: str) -> str | None:
    """The path in the repository that a link of a page means; None if it stays among the pages."""
    path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page), link))
    return None if path.startswith("docs/") else path


def _page_of(path: str) -> str:
    """Where a file of the repository is shown."""
    return f"source/{path}.md"


def _shown(file: Path, path: str) -> str:
    """A file as a page."""
    fence = "`" * 5
    front = "---\nsearch:\n  exclude: true\n---\n"
    language = LANGUAGES.get(file.suffix, "text")
    return f"{front}# {path}\n\n{fence}{language}\n{file.read_text()}{fence}\n"


def _command_line() -> str:
    """Every verb with its options, as `damoyolo VERB --help` tells them."""
    from damoyolo.cli import RECIPE_FOLDER, build_app

    pages = build_app().generate_docs(max_heading_level=3)
    return pages.replace(str(RECIPE_FOLDER), "damoyolo/zoo/recipes")
