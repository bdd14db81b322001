"""The two ways a command fails that deserve a sentence instead of a traceback."""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Collection, Iterable


class UserError(Exception):
    """Bad input: the message names file, field, value and remedy in one sentence.

    The command line prints the message alone, without a traceback, and exits with code 2.
    """


class RunError(Exception):
    """A run that was set up rightly and failed on its way; the command line exits with code 1."""


def counted(number: int, noun: str, plural: str = "") -> str:
    """`1 image`, `2 images`; `plural` where it is not the noun with an s."""
    return f"{number} {noun if number == 1 else plural or f'{noun}s'}"


def listing(names: Collection[object], shown: int = 6) -> str:
    """`'a', 'b' and 3 more`: the first few, quoted where they are texts; `none` if there are none."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(map(repr, itertools.islice(names, shown))) + more or "none"


def nearest(word: str, known: Iterable[str], cutoff: float = 0.5) -> str:
    """`; did you mean 'x'?` for the known name closest to `word`, or an empty string."""
    match = difflib.get_close_matches(word, list(known), n=1, cutoff=cutoff)
    return f"; did you mean '{match[0]}'?" if match else ""
