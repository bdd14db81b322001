"""Published weights by size: from the shelf, else from the mirrors, else a sentence that says what to do."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

from pydantic import Field

from damoyolo.errors import UserError
from damoyolo.spec import Frozen, parse, read_yaml
from damoyolo.zoo import read_spec
from damoyolo.zoo.download import DownloadError, Progress, is_offline
from damoyolo.zoo.shelf import Shelf, default_folder


class Place(Frozen):
    """An address with weights of some sizes; `{size}` in it stands for the size in lower case."""

    name: str
    url: str = Field(pattern=r"^https?://")
    sizes: tuple[str, ...]

    def address(self, size: str) -> str:
        """The address for one size."""
        return self.url.format(size=size.lower())


class Mirrors(Frozen):
    """Files to download, in this order, and pages for people to look at."""

    files: tuple[Place, ...] = ()
    pages: tuple[Place, ...] = ()


@cache
def read_mirrors() -> Mirrors:
    """The list that comes with the package."""
    path = Path(__file__).with_name("mirrors.yaml")
    return parse(Mirrors, read_yaml(path), where=str(path))


def _to_stderr(message: str) -> None:
    print(message, file=sys.stderr)


def find_weights(
    size: str,
    *,
    folder: Path | None = None,
    mirrors: Mirrors | None = None,
    timeout_s: float = 20.0,
    offline: bool | None = None,
    accept_new_hash: bool = False,
    progress: Progress | None = None,
    announce: Callable[[str], None] = _to_stderr,
) -> Path:
    """A weights file of ours with the published model of that size, verified.

    Args:
        size: one of `zoo.SIZES`, in any case.
        folder: where they are kept; default `default_folder()`. A `<size>.pth` put there is used, too.
        mirrors: where to download from; default `read_mirrors()`.
        timeout_s: longest silence of a server, in seconds.
        offline: no downloads; default `is_offline()`.
        accept_new_hash: take weights that differ from those remembered.
        progress: told about the bytes of a download.
        announce: told where new weights came from and their SHA-256.

    Raises:
        UserError: there are none; the sentence says what was tried, why it failed, and what to do.
    """
    size = read_spec(size).name
    shelf = Shelf(folder or default_folder(), accept_new_hash, announce)
    if (found := shelf.find(size)) is not None:
        return found
    mirrors = mirrors or read_mirrors()
    tried = []
    for place in mirrors.files:
        url = place.address(size)
        if size not in place.sizes:
            continue
        if is_offline() if offline is None else offline:
            tried.append(f"{url} (not tried: offline)")
            continue
        try:
            return shelf.fetch(size, url, timeout_s, progress)
        except (DownloadError, UserError) as error:
            tried.append(f"{url} ({error})")
    raise UserError(_nothing_found(size, shelf.folder, tried, mirrors))


def _nothing_found(size: str, folder: Path, tried: list[str], mirrors: Mirrors) -> str:
    asked = f"and from {'; '.join(tried)}" if tried else "and no mirror is known"
    pages = [place.address(size) for place in mirrors.pages if size in place.sizes]
    look = f" (look at {', '.join(pages)})" if pages else ""
    make = "" if folder.exists() else ", a folder to be made,"
    return (
        f"no weights of {size} in {folder} {asked}; save a checkpoint of the original DAMO-YOLO{look} as "
        f"{size}.pth in {folder}{make} and run the same command again, or give the path of a .safetensors or "
        f".pth file instead of '{size}'"
    )
