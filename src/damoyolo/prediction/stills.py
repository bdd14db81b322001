"""From image files to what is in them, drawn and listed."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2

from damoyolo.data.draw import draw
from damoyolo.data.images import read_image
from damoyolo.detections import Detections
from damoyolo.errors import UserError
from damoyolo.files import write_atomically
from damoyolo.prediction.detection import Finder, Image
from damoyolo.prediction.flow import ahead, batches, closing, in_parallel
from damoyolo.prediction.sources import places

LONGEST_JPEG_PX = 65_500
"""Longest side that OpenCV writes as JPEG."""
READERS = min(8, os.cpu_count() or 1)
"""Files decoded at once, while the network is at work: a core that waits for nothing decodes."""


@dataclass(frozen=True)
class Found:
    """A file that could be read, its image (RGB, upright), what is in it, and where that is drawn, if it is.

    `picture` is relative to the output folder.
    """

    path: Path
    image: Image
    detections: Detections
    picture: Path | None = None

    def to_record(self) -> dict[str, Any]:
        """JSON-ready."""
        height, width = self.image.shape[:2]
        return {
            "image": str(self.path),
            **({"picture": str(self.picture)} if self.picture else {}),
            "width": width,
            "height": height,
            "detections": self.detections.to_records(),
        }


@dataclass(frozen=True)
class Opened:
    """A file that could be read."""

    path: Path
    image: Image


@dataclass(frozen=True)
class Broken:
    """A file that could not be read, and why."""

    path: Path
    error: str

    def to_record(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"image": str(self.path), "error": self.error}


def predict_files(finder: Finder, paths: Sequence[Path], batch_size: int = 8) -> Iterator[Found | Broken]:
    """What is in each file, in order; a file that cannot be read is reported as such and the rest goes on.

    Files are decoded, and the network is at work, in threads of their own: about three batches of images are
    in memory at once.
    """
    files = in_parallel(_open, paths, READERS, room=batch_size)
    with closing(ahead(_find(finder, files, batch_size), room=batch_size)) as results:
        yield from results


def _find(finder: Finder, files: Iterable[Opened | Broken], batch_size: int) -> Iterator[Found | Broken]:
    for batch in batches(files, batch_size):
        found = iter(finder([file.image for file in batch if isinstance(file, Opened)]))
        for file in batch:
            yield file if isinstance(file, Broken) else Found(file.path, file.image, next(found))


def predict_into(
    finder: Finder, paths: Sequence[Path], output: Path, batch_size: int = 8, *, drawn: bool = True
) -> Iterator[Found | Broken]:
    """`predict_files`, each image drawn into the folder `output`, if at all, before it is yielded.

    At the end, or where the caller stops, detections.json and detections.csv tell what was found so far, and
    pictures that an earlier detections.json there names, and this one does not, are removed.
    """
    pictures = places(paths, output, (".jpg", ".jpeg", ".png"), ".jpg") if drawn else {}
    earlier = _pictures_named(output)
    records = []
    try:
        for result in predict_files(finder, paths, batch_size):
            if drawn and isinstance(result, Found):
                picture = save_picture(result, pictures[result.path])
                result = replace(result, picture=picture.relative_to(output))
            records.append(result.to_record())
            yield result
    finally:
        named = {record.get("picture") for record in records}
        _remove(output, [name for name in earlier if name not in named], keep=paths)
        save_json(records, output / "detections.json")
        save_csv(records, output / "detections.csv")


def save_picture(found: Found, path: Path) -> Path:
    """Draw what was found and write it, in the format that the suffix names; as PNG if too long for JPEG.

    Returns:
        Where it was written.
    """
    picture = cv2.cvtColor(draw(found.image, found.detections), cv2.COLOR_RGB2BGR)
    if path.suffix.lower() != ".png" and max(picture.shape) > LONGEST_JPEG_PX:
        path = path.with_name(f"{path.name}.png")
    _, encoded = cv2.imencode(path.suffix, picture)
    write_atomically(path, encoded.tobytes())
    return path


def save_json(records: Sequence[dict[str, Any]], path: Path) -> None:
    """One list with a record per image, as `Found.to_record` and `Broken.to_record` make them."""
    write_atomically(path, json.dumps(records, indent=1).encode())  # ASCII: file names may be no valid text


def save_csv(records: Sequence[dict[str, Any]], path: Path) -> None:
    """One line per box, of the same records; x1 y1 x2 y2 in pixels."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(("image", "label", "name", "score", "x1", "y1", "x2", "y2"))
    for record in records:
        for each in record.get("detections", ()):
            writer.writerow((record["image"], each["label"], each["name"], each["score"], *each["box"]))
    write_atomically(path, text.getvalue().encode(errors="surrogateescape"))


def _pictures_named(output: Path) -> list[str]:
    """The pictures that an earlier run into the folder says it drew; none if it cannot be understood."""
    try:
        records = json.loads((output / "detections.json").read_bytes())
        names = [record["picture"] for record in records if "picture" in record]
    except (OSError, ValueError, TypeError):
        return []
    return [name for name in names if isinstance(name, str)]


def _remove(folder: Path, names: Sequence[str], keep: Sequence[Path]) -> None:
    """Remove files in the folder, except those to keep; a name that leads outside is left alone."""
    kept = {path.resolve() for path in keep}
    for name in names:
        path = (folder / name).resolve()
        if path.is_relative_to(folder.resolve()) and path not in kept:
            with contextlib.suppress(OSError):
                path.unlink()


def _open(path: Path) -> Opened | Broken:
    try:
        return Opened(path, read_image(path))
    except UserError as error:
        return Broken(path, str(error))
