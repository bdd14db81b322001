"""From images, as arrays or in files, to the things found in them."""

from __future__ import annotations

import contextlib
import csv
import glob
import io
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from jaxtyping import UInt8

from damoyolo.boxes.select import select
from damoyolo.data.draw import draw
from damoyolo.data.image_files import SUFFIXES
from damoyolo.data.images import read_image
from damoyolo.data.resize import Resize, size_of, to_original
from damoyolo.detections import MAX_DETECTIONS, PICTURE_SCORE, Detections
from damoyolo.errors import UserError
from damoyolo.files import write_atomically
from damoyolo.nn.detector import Detector

Image = UInt8[np.ndarray, "_ _ 3"]
Finder = Callable[[Sequence[Image]], list[Detections]]
"""What is in each image: `detect` with a model, or the runtime of an exported file."""

LONGEST_JPEG_PX = 65_500
"""Longest side that OpenCV writes as JPEG."""


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
class Broken:
    """A file that could not be read, and why."""

    path: Path
    error: str

    def to_record(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"image": str(self.path), "error": self.error}


@torch.inference_mode()
def detect(
    model: Detector,
    images: Sequence[Image],
    *,
    score: float = PICTURE_SCORE,
    nms_iou: float | None = None,
    max_detections: int = MAX_DETECTIONS,
) -> list[Detections]:
    """What is in each image (RGB 0..255, any sizes), as one batch on the model's device.

    Args:
        model: in eval mode; `nn.detector.fuse` and `channels_last` make it faster, not different.
        images: not changed.
        score: lowest score, 0..1.
        nms_iou: two boxes of a class that overlap more are one thing; default the model's own.
        max_detections: the best so many are kept in each image.
    """
    if not isinstance(model, Detector):
        raise UserError(f"model: a {type(model).__name__} is no detector; get one from damoyolo.load(...)")
    if model.training:
        raise UserError("the model is in training mode, which gives wrong boxes; call model.eval() first")
    if not images:
        return []
    card = model.card
    resize = Resize(card.resize, card.image_size)
    pixels = torch.from_numpy(np.stack([resize.image(image) for image in images]))
    batch = pixels.to(next(model.parameters()).device).permute(0, 3, 1, 2).float()
    selected = select(model(batch), score, card.spec.nms_iou if nms_iou is None else nms_iou, max_detections)
    return [
        to_original(
            found.boxes.cpu().numpy(),
            found.scores.cpu().numpy(),
            found.labels.cpu().numpy(),
            resize,
            size_of(image),
            card.class_names,
        )
        for found, image in zip(selected, images, strict=True)
    ]


def predict(
    model: Detector,
    image: str | Path | Image,
    *,
    score: float = PICTURE_SCORE,
    nms_iou: float | None = None,
    max_detections: int = MAX_DETECTIONS,
) -> Detections:
    """What is in one image, given as a file or as RGB pixels; see `detect`."""
    pixels = image if isinstance(image, np.ndarray) else read_image(image)
    return detect(model, [pixels], score=score, nms_iou=nms_iou, max_detections=max_detections)[0]


def predict_files(finder: Finder, paths: Sequence[Path], batch_size: int = 8) -> Iterator[Found | Broken]:
    """What is in each file, in order; a file that cannot be read is reported as such and the rest goes on."""
    for start in range(0, len(paths), batch_size):
        files = [_open(path) for path in paths[start : start + batch_size]]
        images = [file for file in files if not isinstance(file, Broken)]
        found = iter(finder(images))
        for path, file in zip(paths[start:], files, strict=False):
            yield file if isinstance(file, Broken) else Found(path, file, next(found))


def predict_into(
    finder: Finder, source: str | Path, output: Path, batch_size: int = 8
) -> Iterator[Found | Broken]:
    """`predict_files` on the images of `source`, each drawn into the folder `output` before it is yielded.

    At the end, or where the caller stops, detections.json and detections.csv tell what was found so far, and
    pictures that an earlier detections.json there names, and this one does not, are removed.
    """
    paths = find_images(source)
    pictures = _pictures_of(paths, output)
    earlier = _pictures_named(output)
    records = []
    try:
        for result in predict_files(finder, paths, batch_size):
            if isinstance(result, Found):
                picture = save_picture(result, pictures[result.path])
                result = replace(result, picture=picture.relative_to(output))
            records.append(result.to_record())
            yield result
    finally:
        named = {record.get("picture") for record in records}
        _remove(output, [name for name in earlier if name not in named], keep=paths)
        save_json(records, output / "detections.json")
        save_csv(records, output / "detections.csv")


def find_images(source: str | Path) -> list[Path]:
    """The images of a file, a folder (not its subfolders) or a pattern such as `a/**/*.jpg`, sorted."""
    path = Path(source)
    if path.is_file():
        return [path]
    matches = glob.iglob(str(source), recursive=True)  # noqa: PTH207 (Path.glob takes no absolute pattern)
    entries = path.iterdir() if path.is_dir() else map(Path, matches)
    images = sorted(each for each in entries if each.suffix.lower() in SUFFIXES and each.is_file())
    if images:
        return images
    if path.is_dir():
        raise UserError(
            f"{source}: has no images; for those in subfolders give the pattern '{source}/**/*.jpg'"
        )
    if glob.has_magic(str(source)):
        raise UserError(f"{source}: the pattern matches no images; check it, and quote it in the shell")
    raise UserError(f"{source}: no such file or folder; check the path")


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


def _pictures_of(paths: Sequence[Path], output: Path) -> dict[Path, Path]:
    """Where under `output` the picture of each image goes: the same names and subfolders, as JPEG or PNG."""
    root = Path(os.path.commonpath([path.parent.absolute() for path in paths]))
    originals = {path.resolve() for path in paths}
    pictures = {}
    for path in paths:
        name = output / path.absolute().relative_to(root)
        writable = path.suffix.lower() in (".jpg", ".jpeg", ".png")
        pictures[path] = name if writable else name.with_name(f"{name.name}.jpg")
        if pictures[path].resolve() in originals:
            raise UserError(f"{pictures[path]}: would be overwritten; choose another output folder")
    return pictures


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


def _open(path: Path) -> Image | Broken:
    try:
        return read_image(path)
    except UserError as error:
        return Broken(path, str(error))
