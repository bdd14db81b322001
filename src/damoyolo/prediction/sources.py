"""What there is to predict: image files, video files, cameras and network streams; and where results go."""

from __future__ import annotations

import glob
import os
import re
import time
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from damoyolo.data.image_files import SUFFIXES
from damoyolo.errors import UserError

VIDEO_SUFFIXES = frozenset(
    (
        *(".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts"),
        *(".wmv", ".flv", ".3gp", ".ogv", ".gif"),
    )
)


class Media(NamedTuple):
    """What a source stands for: image files; and video files, cameras' numbers and streams' addresses."""

    images: list[Path]
    videos: list[str]

    @property
    def waits(self) -> bool:
        """Whether several images are there at once: of a folder or video file, not of a camera or stream."""
        return len(self.images) > 1 or any(not (is_camera(each) or is_stream(each)) for each in self.videos)


def find_media(source: str | Path) -> Media:
    """What is meant by a file, a folder (not its subfolders), a pattern, a camera's number or an address.

    Raises:
        UserError: if there is neither an image nor a video.
    """
    if is_camera(source) or is_stream(source):
        return Media([], [str(source)])
    path = Path(source)
    if path.is_file():
        return Media([], [str(path)]) if _has(path, VIDEO_SUFFIXES) else Media([path], [])
    files = [each for each in _entries(source) if each.is_file()]
    images = sorted(each for each in files if _has(each, SUFFIXES))
    videos = sorted(str(each) for each in files if _has(each, VIDEO_SUFFIXES))
    if not images and not videos:
        raise _nothing(source, "images or videos")
    return Media(images, videos)


def find_images(source: str | Path) -> list[Path]:
    """The images of a file, a folder (not its subfolders) or a pattern such as `a/**/*.jpg`, sorted."""
    path = Path(source)
    if path.is_file():
        return [path]
    images = sorted(each for each in _entries(source) if _has(each, SUFFIXES) and each.is_file())
    if not images:
        raise _nothing(source, "images")
    return images


def is_camera(source: str | Path) -> bool:
    """Whether it is the number of a camera: digits, and no file or folder of that name."""
    return re.fullmatch(r"\d{1,3}", str(source)) is not None and not Path(source).exists()


def is_stream(source: str | Path) -> bool:
    """Whether it is an address such as rtsp://host/path."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", str(source)) is not None


def without_password(source: str) -> str:
    """To be shown and written: an address may hold a user's name and password."""
    return re.sub(r"://[^/@]*@", "://", source)


def places(paths: Sequence[Path], output: Path, kept: Collection[str], suffix: str) -> dict[Path, Path]:
    """Where under `output` the picture of each file goes: the same names and subfolders.

    Args:
        paths: the originals.
        output: a folder.
        kept: suffixes that can be written; names with others get
        suffix: at their end.

    Raises:
        UserError: if an original would be overwritten.
    """
    root = Path(os.path.commonpath([path.parent.absolute() for path in paths]))
    originals = {path.resolve() for path in paths}
    pictures = {}
    for path in paths:
        name = output / path.absolute().relative_to(root)
        pictures[path] = name if _has(path, kept) else name.with_name(f"{name.name}{suffix}")
        if pictures[path].resolve() in originals:
            raise UserError(f"{pictures[path]}: would be overwritten; choose another output folder")
    return pictures


def video_places(videos: Sequence[str], output: Path) -> dict[str, Path]:
    """The same for videos, all as .mp4; a camera or stream gets a name with the date, which no other has."""
    files = [Path(each) for each in videos if not (is_camera(each) or is_stream(each))]
    found = (
        {str(path): place for path, place in places(files, output, (".mp4",), ".mp4").items()}
        if files
        else {}
    )
    now = time.strftime("%Y%m%d-%H%M%S")
    for video in videos:
        if video not in found:
            kind = "camera" if is_camera(video) else "stream-"
            words = re.sub(r"[^A-Za-z0-9]+", "-", re.sub(r"^.*?://", "", without_password(video))).strip("-")
            found[video] = output / f"{kind}{words[:60]}-{now}.mp4"
    return found


def _entries(source: str | Path) -> Iterable[Path]:
    path = Path(source)
    if path.is_dir():  # without hidden files, which some systems put beside each image
        return (each for each in path.iterdir() if not each.name.startswith("."))
    return map(Path, glob.iglob(str(source), recursive=True))  # noqa: PTH207 (Path.glob takes no absolute pattern)


def _has(path: Path, suffixes: Collection[str]) -> bool:
    return path.suffix.lower() in suffixes


def _nothing(source: str | Path, wanted: str) -> UserError:
    if Path(source).is_dir():
        return UserError(
            f"{source}: has no {wanted}; for those in subfolders give the pattern '{source}/**/*.jpg'"
        )
    if glob.has_magic(str(source)):
        return UserError(f"{source}: the pattern matches no {wanted}; check it, and quote it in the shell")
    return UserError(f"{source}: no such file or folder; check the path")
