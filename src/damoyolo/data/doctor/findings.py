"""What a check of a data set ends with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Level = Literal["error", "warning", "note"]
"""An error stops a training or makes its numbers wrong; a warning may cost accuracy; a note does neither."""
Example = tuple[str, tuple[Path, ...]]
"""A sentence and the images to look at."""
Xyxy = tuple[float, float, float, float]
"""A box in pixels of its image, as annotated: it may reach out of it, or be empty."""
SHOWN = 5
"""Examples of a finding that people are told."""


@dataclass(frozen=True)
class Finding:
    """One kind of thing that was found `count` times, with a sentence each, or one for all.

    `images` are those of the first few examples, to be looked at; `faulty` are the boxes in them that are
    meant.
    """

    level: Level
    title: str
    count: int
    examples: tuple[str, ...]
    remedy: str
    images: tuple[Path, ...] = field(default=(), compare=False)
    faulty: tuple[tuple[Path, Xyxy], ...] = field(default=(), compare=False)

    @property
    def shown(self) -> tuple[str, ...]:
        """The first few examples, and how many there are beside them."""
        more = len(self.examples) - SHOWN
        return (*self.examples[:SHOWN], *([f"and {more} more"] if more > 0 else []))


def finding(
    level: Level,
    title: str,
    examples: Sequence[Example],
    remedy: str,
    faulty: Mapping[Path, Sequence[Xyxy]] | None = None,
) -> Finding | None:
    """None where there is nothing."""
    if not examples:
        return None
    images = tuple(dict.fromkeys(path for _, paths in examples[:SHOWN] for path in paths))
    meant = tuple((path, box) for path in images for box in (faulty or {}).get(path, ()))
    return Finding(level, title, len(examples), tuple(text for text, _ in examples), remedy, images, meant)
