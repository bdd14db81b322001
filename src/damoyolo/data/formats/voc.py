"""Reading Pascal VOC's XML files, one per image (host.robots.ox.ac.uk/pascal/VOC, development kit).

Corners are whole pixels counted from 1, both inside the box: `xmin` and `ymin` are lowered by one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from damoyolo.data.formats.entries import Annotated
from damoyolo.data.formats.place import SPLITS, Place, other_names
from damoyolo.data.image_files import SUFFIXES, read_sizes
from damoyolo.data.resize import Size
from damoyolo.errors import UserError

YEARS = ("VOC*", "VOCdevkit/VOC*")
"""Where the development kit keeps a data set."""
XML_FOLDERS = ("Annotations", "annotations", "xml", "labels")
IMAGE_FOLDERS = ("JPEGImages", "images", "Images", ".")
LISTS = "ImageSets/Main"


def find_voc(source: Path, split: str | None) -> Place | None:
    """Where the XML files of a split are; with None, XML files without a split."""
    if not source.is_dir():
        return None
    for root in (source, *sorted(each for pattern in YEARS for each in source.glob(pattern))):
        files = _files(root, split)
        if files:
            return Place("voc", root, partial(_read, root, files))
    return None


def _files(root: Path, split: str | None) -> list[Path]:
    """The XML files of a split: listed in ImageSets, or all of a folder of that name, or of no name."""
    folder = _xml_folder(root)
    if split is None:
        return sorted(folder.glob("*.xml")) if folder else []
    for name in (split, *other_names(split)):
        listing = root / LISTS / f"{name}.txt"
        if folder and listing.is_file():
            lines = listing.read_text(encoding="utf-8", errors="replace").splitlines()
            return [folder / f"{line.split()[0]}.xml" for line in lines if line.strip()]
        inner = [_xml_folder(root / name), *(root / each / name for each in XML_FOLDERS)]
        found = next((found for each in inner if each and (found := sorted(each.glob("*.xml")))), None)
        if found:
            return found
    return []


def _xml_folder(root: Path) -> Path | None:
    """The folder that the XML files are in: one of the usual names, or the root itself."""
    folders = [*(root / name for name in XML_FOLDERS), root]
    return next((each for each in folders if each.is_dir() and next(each.glob("*.xml"), None)), None)


def _read(root: Path, files: Sequence[Path]) -> Annotated:
    """Everything in COCO's form; category ids count from 0 in the order of the names, in all splits alike."""
    faults: list[str] = []
    trees = [_parse(file, faults) for file in files]
    others = {file for split in (None, *SPLITS) for file in _files(root, split)} - set(files)
    every_tree = [*trees, *(_parse(file, []) for file in sorted(others))]
    names = sorted({_text(item, "name") for tree in every_tree for item in _objects(tree)} - {""})
    ids = {name: number for number, name in enumerate(names)}
    items = [
        (file, _image(file, tree), tree) for file, tree in zip(files, trees, strict=True) if tree is not None
    ]
    marred: set[int] = set()
    unread: list[Path] = []
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, ((file, path, tree), size) in enumerate(zip(items, _sizes(items), strict=True), start=1):
        if isinstance(size, UserError):
            faults.append(str(size))
            unread.append(path)
            continue
        images.append({"id": number, "file_name": str(path.absolute()), "width": size[1], "height": size[0]})
        for place, item in enumerate(_objects(tree)):
            try:
                category, box = _category(item, ids), _box(item)
            except ValueError as error:
                faults.append(f"{file}: object[{place}]: {error}; correct it")
                marred.add(number)
                continue
            annotations.append(
                {"id": len(annotations) + 1, "image_id": number, "category_id": category, "bbox": box}
            )
    categories = [{"id": number, "name": name} for name, number in ids.items()]
    lists = {"images": images, "annotations": annotations, "categories": categories}
    return Annotated(root, lists, root, tuple(faults), frozenset(marred), unread=tuple(unread))


def _parse(file: Path, faults: list[str]) -> Element | None:
    """The file's tree; None, and a sentence among the faults, where there is none."""
    try:
        return ElementTree.fromstring(file.read_bytes())
    except OSError as error:
        faults.append(f"{file}: cannot be read ({error.strerror}); check the path")
    except ElementTree.ParseError as error:
        faults.append(f"{file}: is not valid XML ({error}); replace the file")
    return None


def _objects(tree: Element | None) -> list[Element]:
    return [] if tree is None else tree.findall("object")


def _image(file: Path, tree: Element) -> Path:
    """The image of an XML file: of the name that it says or else of its own name, in a folder nearby."""
    said = Path(_text(tree, "filename").replace("\\", "/")).name
    names = [said] if said else []
    names += [file.stem + suffix for suffix in sorted(SUFFIXES)]
    top = file.parent.parent
    folders = [file.parent, *(top / each for each in IMAGE_FOLDERS)]
    folders += [top.parent / each / file.parent.name for each in IMAGE_FOLDERS]
    paths = (folder / name for name in names for folder in folders)
    return next((path for path in paths if path.is_file()), top / IMAGE_FOLDERS[0] / names[0])


def _sizes(items: Sequence[tuple[Path, Path, Element]]) -> list[Size | UserError]:
    """What the XML files say, or where they say nothing, the images themselves."""
    said = [_size(tree) for _, _, tree in items]
    unsaid = [path for (_, path, _), size in zip(items, said, strict=True) if size is None]
    measured = iter(read_sizes(unsaid))
    return [next(measured) if size is None else size for size in said]


def _size(tree: Element) -> Size | None:
    width, height = tree.findtext("size/width", "").strip(), tree.findtext("size/height", "").strip()
    if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        return None
    return int(height), int(width)


def _category(item: Element, ids: Mapping[str, int]) -> int:
    name = _text(item, "name")
    if not name:
        raise ValueError("lacks 'name'")
    return ids[name]


def _box(item: Element) -> list[float]:
    """x, y, width, height in pixels."""
    left, top, right, bottom = (_number(item, key) for key in ("xmin", "ymin", "xmax", "ymax"))
    return [left - 1, top - 1, right - left + 1, bottom - top + 1]


def _number(item: Element, key: str) -> float:
    text = _text(item, f"bndbox/{key}")
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"'{key}' of its bndbox is '{text}', expected a finite number")
    return value


def _text(item: Element, path: str) -> str:
    return " ".join((item.findtext(path) or "").split())
