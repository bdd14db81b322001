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
"""Examples of a finding that are told."""


@dataclass(frozen=True)
class Finding:
    """One kind of thing that was found `count` times, with a sentence each for the first few.

    `images` are those of the examples, to be looked at; `faulty` are the boxes in them that are meant.
    """

    level: Level
    title: str
    count: int
    examples: tuple[str, ...]
    remedy: str
    images: tuple[Path, ...] = field(default=(), compare=False)
    faulty: tuple[tuple[Path, Xyxy], ...] = field(default=(), compare=False)

    @property
    def more(self) -> int:
        """How many are like the examples and not told; 0 where the one example speaks for all."""
        return self.count - len(self.examples) if len(self.examples) > 1 else 0


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
    shown = examples[:SHOWN]
    images = tuple(dict.fromkeys(path for _, paths in shown for path in paths))
    meant = tuple((path, box) for path in images for box in (faulty or {}).get(path, ()))
    return Finding(level, title, len(examples), tuple(text for text, _ in shown), remedy, images, meant)
