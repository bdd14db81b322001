"""What is wrong with the images of a data set: unreadable, or there more than once."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from damoyolo.data.dataset import Record
from damoyolo.data.doctor.findings import Example, Finding, finding
from damoyolo.data.image_files import READERS
from damoyolo.data.images import check_image
from damoyolo.data.likeness import Fingerprint, near_pairs, read_fingerprint, recording
from damoyolo.errors import UserError


@dataclass(frozen=True)
class Look:
    """An image file: what is wrong with it if anything, its content's digest, its fingerprint."""

    fault: str
    digest: bytes
    mark: Fingerprint | None


def check_pixels(
    splits: Mapping[str, Sequence[Record]], told: Callable[[int], None] | None = None
) -> list[Finding]:
    """What is found by reading the images; `told` is called with the number of images done."""
    records = [(split, record) for split, each in splits.items() for record in each]
    looks = look_at([record for _, record in records], told)
    faults = [(record, look.fault) for (_, record), look in zip(records, looks, strict=True) if look.fault]
    found = [
        finding(
            "error",
            "unreadable images, or not of the stated size",
            [(fault, (record.path,)) for record, fault in faults],
            "replace these files; --fix leaves them out",
        ),
        *_alike(records, looks),
    ]
    return [each for each in found if each]


def look_at(records: Sequence[Record], told: Callable[[int], None] | None = None) -> list[Look]:
    """Every image file, decoded at a fraction of its size where that is quicker."""
    looks = []
    with ThreadPoolExecutor(READERS) as pool:
        for look in pool.map(_look, records):
            looks.append(look)
            if told:
                told(len(looks))
    return looks


def identical_pairs(looks: Sequence[Look]) -> list[tuple[int, int]]:
    """Files with the same content: each with the first of them."""
    first: dict[bytes, int] = {}
    pairs = []
    for number, look in enumerate(looks):
        if look.digest and first.setdefault(look.digest, number) != number:
            pairs.append((first[look.digest], number))
    return pairs


def _look(record: Record) -> Look:
    try:
        check_image(record.path, record.size)
    except UserError as error:
        return Look(str(error), b"", None)
    digest = hashlib.blake2b(record.path.read_bytes(), digest_size=16).digest()
    return Look("", digest, read_fingerprint(record.path))


def _alike(records: Sequence[tuple[str, Record]], looks: Sequence[Look]) -> list[Finding | None]:
    """The same file, or nearly the same image, twice; between splits that makes the numbers too good."""
    same = identical_pairs(looks)
    near = [
        (first, second)
        for first, second in near_pairs([look.mark for look in looks])
        if looks[first].digest != looks[second].digest
    ]
    recordings: dict[str, list[int]] = {}
    for number, (_, record) in enumerate(records):
        if name := recording(record.path):
            recordings.setdefault(name, []).append(number)

    def told(pairs: Sequence[tuple[int, int]], between: bool) -> list[Example]:
        return [
            (
                f"{_named(records[first])} and {_named(records[second])}",
                (records[first][1].path, records[second][1].path),
            )
            for first, second in pairs
            if (records[first][0] != records[second][0]) == between
        ]

    videos: list[Example] = []
    for name, numbers in recordings.items():
        counts = Counter(records[number][0] for number in numbers)
        if len(counts) > 1:
            parts = ", ".join(f"{count} in {split}" for split, count in counts.items())
            videos.append((f"{name}: {parts}", ()))
    leak = "keep each on one side; "
    return [
        finding(
            "error",
            "images that are in two splits",
            told(same, True),
            f"{leak}--fix keeps it out of training",
        ),
        finding("warning", "near-duplicates in two splits", told(near, True), f"{leak}look at them first"),
        finding("warning", "videos with frames in two splits", videos, f"{leak}a video belongs to one split"),
        finding("warning", "images that are there twice", told(same, False), "remove one of the two"),
        finding("note", "near-duplicates within a split", told(near, False), "they count double"),
    ]


def _named(item: tuple[str, Record]) -> str:
    return f"{item[0]}: {item[1].path.name}"
