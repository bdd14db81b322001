"""The folder in which published weights are kept, and the memory of their hashes.

Weights of a size lie there as `<size>.safetensors`. `hashes.json` holds the SHA-256 of what was received and
of what was stored, so that neither changes unnoticed.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

from pydantic import RootModel

from damoyolo.errors import UserError
from damoyolo.files import write_atomically
from damoyolo.nn.detector import Detector
from damoyolo.spec import Frozen, parse, read_yaml
from damoyolo.zoo import coco_class_names, read_spec
from damoyolo.zoo.download import Progress, download
from damoyolo.zoo.weights import load_reference, load_weights, save_weights, sha256_of


class Remembered(Frozen):
    """Where the weights of one size came from, and their SHA-256 before and after conversion."""

    origin: str
    received: str
    stored: str


class _Memory(RootModel[dict[str, Remembered]]):
    """By size."""


def default_folder() -> Path:
    """DAMOYOLO_HOME, or ~/.cache/damoyolo."""
    home = os.environ.get("DAMOYOLO_HOME")
    return Path(home).expanduser() if home else Path.home() / ".cache" / "damoyolo"


class Shelf:
    """Weights by size, each verified before it is handed out.

    Args:
        folder: where the files lie; made when the first one is stored.
        accept_new_hash: take weights that differ from those remembered.
        announce: told where new weights came from and their SHA-256.
    """

    def __init__(self, folder: Path, accept_new_hash: bool, announce: Callable[[str], None]) -> None:
        self.folder = folder
        self.accept_new_hash = accept_new_hash
        self.announce = announce

    def find(self, size: str) -> Path | None:
        """Verified weights in the folder; a reference checkpoint put there (.pth, .pt) is converted."""
        stored = self._stored(size)
        if stored.exists():
            self._verify(size, stored)
            return stored
        for given in (stored.with_suffix(".pth"), stored.with_suffix(".pt")):
            if given.exists():
                return self._convert(size, given, origin=given.name)
        return None

    def fetch(self, size: str, url: str, timeout_s: float, progress: Progress | None) -> Path:
        """Download, check and store; nothing stays behind on failure (`DownloadError`, `UserError`)."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with TemporaryDirectory(dir=self.folder, prefix=".download-") as fresh:
                received = Path(fresh) / (Path(urlsplit(url).path).name or size)
                download(url, received, timeout_s=timeout_s, progress=progress)
                return self._convert(size, received, origin=url)
        except UserError as error:
            raise UserError(str(error).replace(f"{fresh}{os.sep}", "")) from error
        except OSError as error:
            raise UserError(
                f"{self.folder}: cannot be written ({error.strerror}); set DAMOYOLO_HOME to another folder"
            ) from error

    def _stored(self, size: str) -> Path:
        return self.folder / f"{size}.safetensors"

    def _verify(self, size: str, stored: Path) -> None:
        digest, known = sha256_of(stored), self._memory().get(size)
        if known is not None and known.stored == digest:
            return
        if known is not None and not self.accept_new_hash:
            raise UserError(
                f"{stored}: SHA-256 is {digest}, but {known.stored} was stored; delete the file to fetch it "
                f"again; if you replaced it yourself, accept the new hash or delete {self._hashes}"
            )
        _check(size, load_weights(stored), str(stored))
        self._remember(size, Remembered(origin=stored.name, received=digest, stored=digest))

    def _convert(self, size: str, received: Path, origin: str) -> Path:
        digest, known = sha256_of(received), self._memory().get(size)
        if known is not None and known.received != digest and not self.accept_new_hash:
            raise UserError(
                f"{received}: SHA-256 is {digest}, but {known.received} came from {known.origin} before; "
                f"if you trust the new one, accept the new hash or delete {self._hashes}"
            )
        detector = load_reference(received)
        _check(size, detector, str(received))
        lineage = {**detector.card.lineage, "origin": origin}
        detector.card = detector.card.model_copy(update={"lineage": lineage})
        stored = self._stored(size)
        save_weights(detector, stored)
        self._remember(size, Remembered(origin=origin, received=digest, stored=sha256_of(stored)))
        return stored

    @property
    def _hashes(self) -> Path:
        return self.folder / "hashes.json"

    def _memory(self) -> dict[str, Remembered]:
        if not self._hashes.exists():
            return {}
        return parse(_Memory, read_yaml(self._hashes), where=str(self._hashes)).root

    def _remember(self, size: str, entry: Remembered) -> None:
        memory = _Memory({**self._memory(), size: entry})
        write_atomically(self._hashes, memory.model_dump_json(indent=2).encode())
        self.announce(f"{size}: {entry.origin}, SHA-256 {entry.received}, kept as {self._stored(size)}")


def _check(size: str, detector: Detector, where: str) -> None:
    """`UserError` unless these are weights of that size for the classes of COCO."""
    found, wanted = detector.card.spec, read_spec(size)
    if (found.structure, found.neck, found.head) != (wanted.structure, wanted.neck, wanted.head):
        raise UserError(f"{where}: holds the weights of {found.name}, which is not the {size} of the zoo")
    count, published = len(detector.card.class_names), len(coco_class_names())
    if count != published:
        raise UserError(f"{where}: has {count} classes, but the published {size} has {published}")
