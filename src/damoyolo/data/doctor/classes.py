"""Whether the splits of a data set have the same classes, and enough boxes of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from itertools import combinations

from damoyolo.data.doctor.findings import Example, Finding, finding
from damoyolo.data.formats.entries import Entries

IMBALANCED = 10.0
"""Times as many boxes in one class as in another that are worth a warning."""
RARE = 20
"""Training boxes of a class below which it will hardly be learnt."""
SHIFTED = 2.0
"""Factor between the shares of a class in two splits that is worth a warning."""


def check_class_names(splits: Mapping[str, Entries]) -> list[Finding | None]:
    """Classes that training does not know, and names that may mean the same."""
    first, *others = splits
    known = splits[first].class_names
    unknown = [
        (f"{split} has '{name}', {first} does not", ())
        for split in others
        for name in splits[split].class_names
        if name not in known
    ]
    lacking = [
        (f"{split} lacks '{name}', which {first} has", ())
        for split in others
        for name in known
        if name not in splits[split].class_names
    ]
    names = sorted({name for entries in splits.values() for name in entries.class_names})
    alike = [(f"'{a}' and '{b}'", ()) for a, b in combinations(names, 2) if _plain(a) == _plain(b)]
    return [
        finding("error", f"classes that {first} does not have", unknown, "give all splits the same classes"),
        finding("warning", "classes missing from a split", lacking, "give all splits the same classes"),
        finding("error", "class names that may mean the same", alike, "give each class one name"),
    ]


def check_counts(splits: Mapping[str, Entries]) -> list[Finding | None]:
    """How many boxes each class has, and whether the splits agree in that."""
    counts = {split: box_counts(entries) for split, entries in splits.items()}
    first, *others = splits
    train = counts[first]
    rare: list[Example] = [
        (f"'{name}' has {train[name]} boxes in {first}", ()) for name in train if train[name] < RARE
    ]
    seen = {name: count for name, count in train.items() if count}
    most, least = (max(seen, key=seen.__getitem__), min(seen, key=seen.__getitem__)) if seen else ("", "")
    uneven = bool(seen) and seen[most] >= IMBALANCED * seen[least]
    imbalance: list[Example] = []
    if uneven:
        text = f"'{most}' has {seen[most]} boxes in {first}, '{least}' {seen[least]}"
        imbalance.append((f"{text}: {seen[most] / seen[least]:.0f} times as many", ()))
    unlearnt: list[Example] = [
        (f"'{name}' has {count} boxes in {split} and none in {first}", ())
        for split in others
        for name, count in counts[split].items()
        if count and name in splits[first].class_names and not train[name]
    ]
    shifted: list[Example] = []
    for split in others:
        for name, count in counts[split].items():
            here, there = count / max(1, counts[split].total()), train[name] / max(1, train.total())
            if max(count, train[name]) >= RARE and not 1 / SHIFTED < (here + 1e-9) / (there + 1e-9) < SHIFTED:
                shifted.append(
                    (f"'{name}' is {there:.1%} of the boxes in {first}, {here:.1%} in {split}", ())
                )
    return [
        finding(
            "warning",
            f"classes of which {first} has no box",
            unlearnt,
            "correct their names, or divide the images anew: their AP would be 0 whatever is learnt",
        ),
        finding(
            "warning", f"classes with fewer than {RARE} training boxes", rare, "label more, or merge them"
        ),
        finding(
            "warning",
            "classes of very different frequency",
            imbalance,
            "judge by the AP of each class; more images of the rare ones help most",
        ),
        finding(
            "warning",
            "class shares that differ between splits",
            shifted,
            "divide the images anew, so that val stands for what is trained on",
        ),
    ]


def box_counts(entries: Entries) -> Counter[str]:
    """Boxes by class, of every class, as training counts them: not those empty or outside their image."""
    labels = Counter(label for record in entries.records() for label in record.labels.tolist())
    return Counter({name: labels[label] for label, name in enumerate(entries.class_names)})


def _plain(name: str) -> str:
    """A class name without what people write differently."""
    return "".join(letter for letter in name.casefold() if letter.isalnum()).removesuffix("s")
