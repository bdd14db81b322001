"""Reading YOLO's text files: one line `class x y width height` per box, in shares of the image's sides.

Longer lines are read as their makers mean them: a sixth number is a confidence, more are the corners of a
polygon, or key points where the data file has `kpt_shape`; all of them become boxes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from damoyolo.data.formats.entries import Annotated
from damoyolo.data.formats.place import SPLITS, YAML_SUFFIXES, Place, other_names
from damoyolo.data.image_files import images_in, is_image, read_sizes
from damoyolo.errors import UserError, nearest
from damoyolo.spec import read_yaml

DATA_FILES = ("data.yaml", "data.yml", "dataset.yaml")
NAME_FILES = ("classes.txt", "labels/classes.txt", "obj.names", "data/obj.names")
FARTHEST = 1.0
"""How far outside its image, in shares of a side, a coordinate may be; beyond that it is in pixels."""


def find_yolo(source: Path, split: str | None) -> Place | None:
    """Where the images and labels of a split are; with None, images and labels without a split."""
    file = _data_file(source)
    images = _named_images(file, split) if file and split else None
    root = source if source.is_dir() else source.parent
    if images is None and not (file and _names_splits(file)):
        images = _usual_images(root, split)
    if not images:
        return None
    where = file or root
    return Place("yolo", where, partial(_read, where, root, file, images))


def is_data_file(path: Path) -> bool:
    """Whether a YAML file is YOLO's, and not one of ours with the paths of COCO files."""
    content = read_yaml(path)
    return bool({"names", "nc"} & content.keys()) or any(
        isinstance(content.get(split), str | list) for split in SPLITS
    )


def _data_file(source: Path) -> Path | None:
    if source.suffix in YAML_SUFFIXES:
        return source
    files = (source / name for name in DATA_FILES)
    return next((path for path in files if path.is_file() and is_data_file(path)), None)


def misspelt_splits(source: Path) -> list[str]:
    """A sentence for each entry of a data file that is no split and is called nearly as one."""
    file = _data_file(source)
    content = read_yaml(file) if file else {}
    known = [name for split in SPLITS for name in (split, *other_names(split))]
    found = []
    for key, value in content.items():
        hint = nearest(str(key), known, cutoff=0.7)
        if hint and key not in known and isinstance(value, str | list):
            found.append(f"{file}: '{key}' is no split and is not read{hint}")
    return found


def _names_splits(file: Path) -> bool:
    return any(read_yaml(file).get(name) for split in SPLITS for name in (split, *other_names(split)))


def _named_images(file: Path, split: str) -> list[Path] | None:
    """The images of a split that a data file names as folders, or as text files with a path a line."""
    content = read_yaml(file)
    value = next((content[name] for name in (split, *other_names(split)) if content.get(name)), None)
    if value is None:
        return None
    places = value if isinstance(value, list) else [value]
    if not all(isinstance(each, str) for each in places):
        raise UserError(f"{file}: {split}: is {str(value)[:80]}, expected the path of a folder of images")
    top = content.get("path")
    bases = [file.parent / top, file.parent] if isinstance(top, str) else [file.parent]
    images: list[Path] = []
    for place in places:
        path = _resolved(bases, place)
        if path is None:
            raise UserError(f"{file}: {split}: there is no {place}; correct the path, or 'path' above it")
        images += images_in(path) if path.is_dir() else _listed(path)
    if not images:
        raise UserError(f"{file}: {split}: no image in {value}; correct the path")
    return images


def _resolved(bases: Sequence[Path], place: str) -> Path | None:
    """The path from where it exists; Roboflow writes one `../` too many, Windows backslashes."""
    spellings = dict.fromkeys((place, place.replace("\\", "/")))
    names = [name for each in spellings for name in (each, each.removeprefix("../"))]
    choices = [base / name for name in names for base in bases]
    return next((choice for choice in choices if choice.exists()), None)


def _listed(file: Path) -> list[Path]:
    """The images that a text file names, a path a line, relative to that file."""
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: is no text file of image paths ({error}); correct it") from error
    names = [line.strip() for line in lines if line.strip()]
    return [_resolved([file.parent], name) or file.parent / name for name in names]


def _usual_images(root: Path, split: str | None) -> list[Path]:
    """The images in the first of the usual layouts that is there; in each, labels are beside."""
    for name in (split, *other_names(split)) if split else ("",):
        for folder, labels in (
            (root / "images" / name, root / "labels" / name),
            (root / name / "images", root / name / "labels"),
            (root / name, root / name),
        ):
            found = _images_with_labels(folder, labels, bool(split))
            if found:
                return found
        if split and (root / f"{name}.txt").is_file():
            return _listed(root / f"{name}.txt")
    return []


def _images_with_labels(folder: Path, labels: Path, is_split: bool) -> list[Path]:
    """The images of a folder, if it has any and the labels of at least one are there."""
    if not folder.is_dir() or not labels.is_dir():
        return []
    if is_split:
        images = images_in(folder)
    else:
        images = sorted(each for each in folder.iterdir() if is_image(each) and each.is_file())
    return images if any(_label_file(image).is_file() for image in images) else []


def _label_file(image: Path) -> Path:
    """The text file of an image: beside it, or in `labels` where the image is in `images`."""
    beside = image.with_suffix(".txt")
    parts = list(image.parts)
    if "images" not in parts[:-1] or beside.is_file():
        return beside
    parts[len(parts) - 1 - parts[::-1].index("images")] = "labels"
    return Path(*parts).with_suffix(".txt")


def labels_without_image(images: Iterable[Path]) -> list[Path]:
    """The text files with boxes, where the labels of these images are, that are of no image at all."""
    labels = {_label_file(image) for image in images}
    lost = []
    for folder in sorted({label.parent for label in labels}):
        stems = {each.stem for home in _image_homes(folder) for each in home.glob("*") if is_image(each)}
        texts = sorted(set(folder.glob("*.txt")) - labels)
        lost += [text for text in texts if text.stem not in stems and _boxes(text, (), 0, [])]
    return lost


def _image_homes(labels: Path) -> set[Path]:
    """The folders where the images of a folder of labels may be."""
    parts = list(labels.parts)
    if "labels" in parts:
        parts[len(parts) - 1 - parts[::-1].index("labels")] = "images"
    return {labels, Path(*parts)}


def _read(where: Path, root: Path, file: Path | None, paths: Sequence[Path]) -> Annotated:
    """Everything in COCO's form: image ids count from 1, category ids are YOLO's numbers of classes."""
    labels = [_label_file(path) for path in paths]
    if not any(label.is_file() for label in labels):
        raise UserError(f"{where}: no image has a label file; expected for instance {labels[0]}")
    content = read_yaml(file) if file else {}
    names = _class_names(where, content, root)
    shape = content.get("kpt_shape")
    keypoints = math.prod(shape) if isinstance(shape, list) else 0
    faults: list[str] = []
    marred: set[int] = set()
    unread: list[Path] = []
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, (path, label, size) in enumerate(zip(paths, labels, read_sizes(paths), strict=True), 1):
        if isinstance(size, UserError):
            faults.append(str(size))
            unread.append(path)
            continue
        height, width = size
        images.append({"id": number, "file_name": str(path.absolute()), "width": width, "height": height})
        sound = len(faults)
        boxes = _boxes(label, names, keypoints, faults)
        if len(faults) > sound:
            marred.add(number)
        for category, (x, y, w, h) in boxes:
            box = [x * width, y * height, w * width, h * height]
            annotations.append(
                {"id": len(annotations) + 1, "image_id": number, "category_id": category, "bbox": box}
            )
    names = names or _numbered(annotations)
    categories = [{"id": number, "name": name} for number, name in enumerate(names)]
    lists = {"images": images, "annotations": annotations, "categories": categories}
    return Annotated(where, lists, root, tuple(faults), frozenset(marred), unread=tuple(unread))


def _class_names(where: Path, content: dict[str, Any], root: Path) -> list[str]:
    """The names of the classes in order; none where nothing tells them."""
    names = content.get("names")
    if isinstance(names, dict):
        if sorted(names, key=str) != sorted(range(len(names)), key=str):
            raise UserError(
                f"{where}: names: has the keys {list(names)[:9]}, expected 0, 1, 2 ...; correct it"
            )
        names = [names[number] for number in range(len(names))]
    if names is not None and not isinstance(names, list):
        raise UserError(f"{where}: names: is {str(names)[:80]}, expected a list of class names")
    if names is None:
        files = (root / name for name in NAME_FILES)
        file = next((path for path in files if path.is_file()), None)
        names = file.read_text(encoding="utf-8-sig", errors="replace").splitlines() if file else []
        names = [name.strip() for name in names if name.strip()]
    if not names and isinstance(content.get("nc"), int):
        names = [f"class{number}" for number in range(content["nc"])]
    return [str(name) for name in names]


def _numbered(annotations: Sequence[dict[str, Any]]) -> list[str]:
    """class0, class1 ... up to the highest number in use."""
    highest = max((each["category_id"] for each in annotations), default=0)
    return [f"class{number}" for number in range(highest + 1)]


def _boxes(
    file: Path, names: Sequence[str], keypoints: int, faults: list[str]
) -> list[tuple[int, tuple[float, float, float, float]]]:
    """(class, x, y, width, height) of every good line, in shares of the sides; no file, no boxes."""
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        faults.append(f"{file}: cannot be read as text ({error}); replace it")
        return []
    boxes = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            boxes.append(_box(line.split(), names, keypoints))
        except ValueError as error:
            faults.append(f"{file}: line {number}: {error}; correct it")
    return boxes


def _box(
    words: Sequence[str], names: Sequence[str], keypoints: int
) -> tuple[int, tuple[float, float, float, float]]:
    values = [_number(word) for word in words]
    if len(values) < 5:
        raise ValueError(f"has {len(values)} numbers, expected a class and x, y, width, height")
    category = values[0]
    if category < 0 or category != int(category):
        raise ValueError(f"class {words[0]} is no whole number from 0")
    if names and category >= len(names):
        raise ValueError(f"class {words[0]} has no name; there are {len(names)}, counted from 0")
    if len(values) <= 6 or (keypoints and len(values) == 5 + keypoints):
        x, y, width, height = values[1:5]
        box = (x - width / 2, y - height / 2, width, height)
    else:
        points = np.array(values[1 : len(values) - (len(values) + 1) % 2]).reshape(-1, 2)
        (left, top), (right, bottom) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
        box = (left, top, right - left, bottom - top)
    sides = (box[0], box[1], box[0] + box[2], box[1] + box[3])
    if min(sides) < -FARTHEST or max(sides) > 1 + FARTHEST:
        raise ValueError(
            f"'{' '.join(words[1:5])}' is far outside the image; coordinates are shares of its width and "
            "height, 0 to 1, and no pixels"
        )
    return int(category), box


def _number(word: str) -> float:
    try:
        value = float(word)
    except ValueError:
        raise ValueError(f"'{word[:40]}' is no number") from None
    if not math.isfinite(value):
        raise ValueError(f"'{word}' is no finite number")
    return value
