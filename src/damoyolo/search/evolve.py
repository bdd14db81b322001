"""The search loop: mutate a random member, refuse what costs too much, keep what is worth most.

A search goes on in rounds. In a round each island, one for each worker, tries a number of candidates by
itself; then the islands exchange their members. What is found depends on the seed and the number of workers
alone.
"""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import os
import random
import signal
import threading
from bisect import insort
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from typing import Literal, NamedTuple, Protocol, runtime_checkable

from damoyolo.errors import RunError
from damoyolo.search.cost import CostModel, Costs
from damoyolo.search.entropy import Score
from damoyolo.search.mutate import Mutate
from damoyolo.search.space import Genome

Axis = Literal["params", "flops", "layers", "latency_ms"]
"""A cost by its name in `Costs`."""

SEEN, TOO_LOW, UNPRICED = "seen before", "score too low", "not in the latency table"
"""Why a candidate is refused, beside the budgets."""

ROUND = 2_000
"""Candidates of a round for one worker; several exchange more rarely, as that takes time."""
ROUND_OF_MANY = 20_000


class Member(NamedTuple):
    """A structure that was found good enough."""

    score: float
    genome: Genome
    costs: Costs


@runtime_checkable
class Population(Protocol):
    """Who may have children."""

    def offer(self, member: Member) -> bool:
        """Take it in, if it is good enough."""
        ...

    def parent(self, rng: random.Random) -> Member:
        """A member at random."""
        ...

    def members(self) -> list[Member]:
        """All of them, worst first where they are ordered."""
        ...


class Best:
    """The population of one objective: those of the highest score.

    Args:
        size: most members.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._members: list[Member] = []

    def offer(self, member: Member) -> bool:
        """Insert, and drop the worst when there are too many."""
        members = self._members
        if len(members) >= self.size:
            if member.score <= members[0].score:
                return False
            del members[0]
        insort(members, member)
        return True

    def parent(self, rng: random.Random) -> Member:
        """Each with the same chance."""
        return self._members[int(rng.random() * len(self._members))]

    def members(self) -> list[Member]:
        """By score."""
        return list(self._members)


class BestAtEveryCost:
    """The population of a Pareto front: the highest scores in each of many narrow ranges of a cost.

    Args:
        axis: the cost.
        width: of a range, as the ratio of its ends.
        depth: most members in a range.
    """

    def __init__(self, axis: Axis, width: float = 1.02, depth: int = 4) -> None:
        self.axis, self.depth = axis, depth
        self._position = Costs._fields.index(axis)
        self._step = math.log(width)
        self._ranges: dict[int, Best] = {}
        self._keys: list[int] = []

    def offer(self, member: Member) -> bool:
        """Compete with those that cost about as much."""
        key = int(math.log(member.costs[self._position]) / self._step)
        if key not in self._ranges:
            self._ranges[key] = Best(self.depth)
            self._keys.append(key)
        return self._ranges[key].offer(member)

    def parent(self, rng: random.Random) -> Member:
        """Each range with the same chance."""
        return self._ranges[self._keys[int(rng.random() * len(self._keys))]].parent(rng)

    def members(self) -> list[Member]:
        """By the order in which ranges were first met."""
        return [member for key in self._keys for member in self._ranges[key].members()]


@dataclass(frozen=True)
class Problem:
    """What is searched for.

    Args:
        mutate: makes a candidate of a structure.
        price: says what it costs.
        score: says what it is worth.
        budgets: most that it may cost, by name in `Costs`.
        starts: structures to begin with; those that are within the budgets count.
        front: the cost against which a Pareto front is wanted; None for the highest score.
        size: of the population.
    """

    mutate: Mutate
    price: CostModel
    score: Score
    budgets: dict[Axis, float]
    starts: tuple[Genome, ...]
    front: Axis | None = None
    size: int = 512

    def refusal(self, costs: Costs) -> str | None:
        """The first budget that is exceeded, for people; None where all hold."""
        if costs.latency_ms == math.inf:
            return UNPRICED
        for name, most in self.budgets.items():
            if getattr(costs, name) > most:
                return _REFUSALS[name]
        return None

    def population(self, members: Iterable[Member] = ()) -> Population:
        """One of the kind that is wanted, with these in it."""
        population: Population = BestAtEveryCost(self.front) if self.front else Best(self.size)
        for member in members:
            population.offer(member)
        return population

    def first_members(self) -> list[Member]:
        """Those of the starts that are within the budgets."""
        priced = [(genome, self.price(genome)) for genome in dict.fromkeys(self.starts)]
        return [
            Member(self.score(genome), genome, costs)
            for genome, costs in priced
            if self.refusal(costs) is None
        ]


_REFUSALS: dict[Axis, str] = {
    "params": "too many parameters",
    "flops": "too many FLOPs",
    "layers": "too many layers",
    "latency_ms": "too slow",
}


@dataclass
class Island:
    """One worker's share of a search; `counts` says what became of the candidates."""

    rng: random.Random
    population: Population
    seen: set[int]
    counts: Counter[str] = field(default_factory=Counter)

    def advance(self, problem: Problem, candidates: int) -> None:
        """Try so many candidates. This is the whole algorithm."""
        rng, population, seen, counts = self.rng, self.population, self.seen, self.counts
        for _ in range(candidates):
            genome = problem.mutate(population.parent(rng).genome, rng)
            fingerprint = hash(genome)  # of numbers, hence the same in every process
            if fingerprint in seen:
                counts[SEEN] += 1
                continue
            seen.add(fingerprint)
            costs = problem.price(genome)
            refusal = problem.refusal(costs)
            if refusal is None and not population.offer(Member(problem.score(genome), genome, costs)):
                refusal = TOO_LOW
            counts[refusal or "kept"] += 1


@dataclass
class State:
    """Where a search stands, between two rounds."""

    islands: list[Island]
    tried: int = 0

    @property
    def counts(self) -> Counter[str]:
        """What became of the candidates, over all islands."""
        return sum((island.counts for island in self.islands), Counter())

    def members(self) -> list[Member]:
        """Of all islands, each once, the best first."""
        unique = {member.genome: member for island in self.islands for member in island.population.members()}
        return sorted(unique.values(), reverse=True)


Advance = Callable[[list[Island], list[int]], list[Island]]
"""Lets each island try its share of candidates."""
Workers = Callable[[Problem, int], AbstractContextManager[Advance]]
"""Opens so many places for islands to advance in."""


def begin(problem: Problem, seed: int, workers: int = 1) -> State:
    """Before the first candidate; `ValueError` if no start is within the budgets."""
    members = problem.first_members()
    if not members:
        raise ValueError("no start is within the budgets")
    seen = {hash(genome) for genome in problem.starts}
    rngs = [
        random.Random(seed) if not number else random.Random(f"{seed}/{number}") for number in range(workers)
    ]
    return State([Island(rng, problem.population(members), set(seen)) for rng in rngs])


def evolve(
    problem: Problem, state: State, candidates: int, workers: Workers | None = None
) -> Iterator[State]:
    """Go on until so many candidates were tried in all; yields the state after every round.

    `workers` says where islands advance; by default in a process of this machine each.

    The state is changed in place. An interruption leaves in it what was found; only as it was yielded can it
    be gone on from to the bit.
    """
    with (workers or local_workers)(problem, len(state.islands)) as advance:
        while state.tried < candidates:
            shares = _shares(candidates - state.tried, len(state.islands))
            state.islands = advance(state.islands, shares)
            state.tried += sum(shares)
            if len(state.islands) > 1:
                _exchange(problem, state)
            yield state


@contextlib.contextmanager
def local_workers(problem: Problem, count: int) -> Iterator[Advance]:
    """Something that advances all islands by their shares: in this process, or in one for each."""
    if count == 1:
        yield lambda islands, shares: [_advanced(problem, islands[0], shares[0])]
        return
    context = multiprocessing.get_context("spawn")  # a fork would copy the threads' locks
    pool = ProcessPoolExecutor(count, context, initializer=_begin_worker, initargs=(problem,))
    try:
        yield lambda islands, shares: list(pool.map(_advanced_in_worker, islands, shares))
    except BrokenProcessPool as error:
        raise RunError("workers: one was killed, maybe for memory; go on with --resume") from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _shares(left: int, islands: int) -> list[int]:
    """Candidates of each island in the next round."""
    most = ROUND if islands == 1 else ROUND_OF_MANY
    each, more = divmod(min(left, most * islands), islands)
    return [each + (number < more) for number in range(islands)]


def _exchange(problem: Problem, state: State) -> None:
    """Give all islands the members and the memory of all."""
    members = state.members()
    seen = set().union(*(island.seen for island in state.islands))
    for island in state.islands:
        island.population, island.seen = problem.population(members), set(seen)


def _advanced(problem: Problem, island: Island, candidates: int) -> Island:
    island.advance(problem, candidates)
    return island


_problem: Problem | None = None
"""In a worker process: what it searches for, so that remembered prices are kept between rounds."""


def _begin_worker(problem: Problem) -> None:
    global _problem
    _problem = problem
    threading.Thread(target=_end_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process decides what Ctrl-C means


def _end_with_parent() -> None:
    """A worker whose parent was killed would otherwise wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _advanced_in_worker(island: Island, candidates: int) -> Island:
    assert _problem is not None
    return _advanced(_problem, island, candidates)
