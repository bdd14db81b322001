"""What is no gene, the image's size and the neck, is chosen by a race of short searches in one budget."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from damoyolo.assemble.devices import Device
from damoyolo.assemble.on_device import profiled
from damoyolo.assemble.search_problem import latency_of, like_of, problem_of
from damoyolo.config import SearchConfig
from damoyolo.search.cost import LatencyModel
from damoyolo.search.evolve import begin, evolve
from damoyolo.search.neck import necks_like, smallest_neck
from damoyolo.spec import NeckSpec

RACE = 20_000
"""Candidates of the search by which a size of the image or a neck is judged."""

Say = Callable[[str], None]


def best_neck(config: SearchConfig, latency: LatencyModel | None, say: Say) -> tuple[NeckSpec, float | None]:
    """The neck with which a short search finds the highest score, and that score.

    It is the smallest neck, and None, if none is cheap enough.

    Args:
        config: what is searched for.
        latency: of the operators, as `latency_of` reads it.
        say: told which it is.
    """
    necks = necks_like(like_of(config).neck)
    raced = {neck: _score(config, latency, neck) for neck in necks}
    scores = {neck: score for neck, score in raced.items() if score is not None}
    if not scores:
        return smallest_neck(necks[0]), None
    best = max(scores, key=scores.__getitem__)
    say(f"of {len(necks)} necks one of depth {best.depth} with {best.out} channels: {scores[best]:.2f}")
    return best, scores[best]


def with_best_size(config: SearchConfig, device: Device | None, say: Say) -> SearchConfig:
    """The same search for the image size of the highest score; for the smallest if none is cheap enough.

    Args:
        config: with `image_sizes`; one of them is in `image_size` afterwards, with its profile.
        device: for which each size is profiled, unless a table is given.
        say: told what each size came to.

    Raises:
        UserError: for a profile that was measured at another size.
    """
    sized: dict[int, SearchConfig] = {}
    scores: dict[int, float] = {}
    for size in sorted(set(config.image_sizes or ())):
        asked = config.model_copy(update={"image_size": size})
        sized[size] = asked.model_copy(update={"latency_table": _table(asked, device, say)})
        latency = latency_of(sized[size], device)
        score = (
            best_neck(sized[size], latency, say)[1] if config.search_neck else _score(sized[size], latency)
        )
        say(f"{size} px: " + ("too expensive" if score is None else f"score {score:.2f}"))
        if score is not None:
            scores[size] = score
    return sized[max(scores, key=scores.__getitem__) if scores else min(sized)]


def _table(config: SearchConfig, device: Device | None, say: Say) -> Path | None:
    if device is None or config.latency_table is not None:
        return config.latency_table
    return profiled(config, device, say)


def _score(config: SearchConfig, latency: LatencyModel | None, neck: NeckSpec | None = None) -> float | None:
    """The highest that a short search finds; None if nothing it can begin with keeps the budget."""
    problem, _ = problem_of(config, latency, neck)
    if not problem.first_members():
        return None
    state = begin(problem, config.seed)
    for _ in evolve(problem, state, RACE):
        pass
    return state.members()[0].score
