"""From a `SearchConfig` to the files of what was found."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import yaml

from damoyolo.assemble.devices import open_device
from damoyolo.assemble.on_device import Found, best_measured, found_of, profiled
from damoyolo.assemble.race import best_neck, with_best_size
from damoyolo.assemble.search_problem import (
    check,
    check_reachable,
    check_without_latency,
    latency_of,
    problem_of,
)
from damoyolo.config import SearchConfig
from damoyolo.errors import UserError
from damoyolo.files import locked, write_atomically
from damoyolo.search.cluster import check_cluster, ray_workers
from damoyolo.search.cost import CostModel
from damoyolo.search.evolve import Member, Problem, State, begin, evolve
from damoyolo.search.latency import MonotoneTable
from damoyolo.search.pareto import knees, pareto_front, plot_front
from damoyolo.search.profile import Profile
from damoyolo.search.space import genome_of
from damoyolo.search.state import load_state, save_state
from damoyolo.spec import parse, read_yaml

CONFIG_FILE, STATE_FILE, RESULT_FILE = "config.yaml", "state.json", "search.json"
FRONT_FILE, PICTURE_FILE = "front.json", "front.png"
SAVE_SECONDS = 5.0
SAY_SECONDS = 2.0
SIZES = 3
"""Chosen from a front unless told otherwise."""
FREE_TO_CHANGE = {"output", "candidates", "sizes", "cluster", "measured"}
"""Settings that a resumed search may change."""


@dataclass(frozen=True)
class SearchResult:
    """What a search ended with.

    `found` is by rising cost of a front, else with the pick first; `rate` is candidates per second, and
    `counts` says what became of them; `remark` says how far the latencies can be trusted; `stopped` tells
    that it was interrupted. `config` is what was searched for in the end, with what a resumed search began
    with.
    """

    config: SearchConfig
    found: tuple[Found, ...]
    front: tuple[Member, ...]
    tried: int
    rate: float
    counts: dict[str, int]
    remark: str
    stopped: bool


def search_backbone(
    config: SearchConfig, resume: bool = False, say: Callable[[str], None] = print
) -> SearchResult:
    """Search and write what was found; Ctrl-C ends the search early and keeps what there is.

    With a device the best are built and measured there, and what was measured decides.

    Args:
        config: what is searched for and where its files go.
        resume: go on with the search in the output folder, by its settings where none are given here; where
            none began, begin.
        say: told how far it is, every other second.

    Raises:
        UserError: for settings that contradict each other, a broken table or state, an impossible budget, or
            an output folder that another search is working in.
    """
    if config.image_size and config.image_sizes:
        raise UserError("image_sizes: --image-size is given, too; leave one of them out")
    anew = resume and not (config.output / CONFIG_FILE).exists()
    if resume:
        config = _as_begun(config)
    check(config)
    if anew:
        say(f"nothing to go on from in {config.output}: the search begins")
    if config.cluster:
        check_cluster(config.cluster, config.workers)
    with locked(config.output):
        return _search(config, resume, say)


def _search(config: SearchConfig, resume: bool, say: Callable[[str], None]) -> SearchResult:
    state_file = config.output / STATE_FILE
    if state_file.exists() and not resume:
        raise UserError(
            f"output: {config.output} holds a search; go on with --resume or choose another folder"
        )
    if config.device:
        check_without_latency(config)
    device = open_device(config.device, config.threads, config.precision) if config.device else None
    if config.image_sizes and config.image_size is None:
        config = with_best_size(config, device, say)
    if device and config.latency_table is None:
        config = config.model_copy(update={"latency_table": profiled(config, device, say)})
    latency = latency_of(config, device)
    neck = best_neck(config, latency, say)[0] if config.search_neck else None
    problem, spec = problem_of(config, latency, neck)
    check_reachable(config, problem)
    settings = _settings(config)
    if state_file.exists():
        state = load_state(state_file, settings, problem)
    else:
        state = begin(problem, config.seed, config.workers)
        text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
        write_atomically(config.output / CONFIG_FILE, text.encode())
        save_state(state, settings, state_file)
    before, start = state.tried, time.perf_counter()
    stopped = _run(config, problem, state, settings, say)
    rate = (state.tried - before) / (time.perf_counter() - start)
    members, front = _chosen(config, problem, state)
    found = [found_of(member, problem, spec) for member in members]
    remark = "; ".join(filter(None, (_short(config, front), _trust(config, problem.price, members))))
    if device and not stopped:
        try:
            found = best_measured(found, problem, spec, device, config, say)
        except KeyboardInterrupt:  # what was found is worth keeping unmeasured
            stopped = True
    return _write(config, problem, found, front, state, rate, remark, stopped)


def _as_begun(config: SearchConfig) -> SearchConfig:
    """The settings of the search in the output folder, with those that were given laid over them."""
    path = config.output / CONFIG_FILE
    if not path.exists():
        if config.model_fields_set <= FREE_TO_CHANGE:
            raise UserError(f"output: {config.output} holds no search; start one without --resume")
        return config
    before = parse(SearchConfig, read_yaml(path), where=str(path))
    return parse(SearchConfig, {**before.model_dump(), **config.model_dump(exclude_unset=True)}, "settings")


def _run(
    config: SearchConfig, problem: Problem, state: State, settings: dict[str, Any], say: Callable[[str], None]
) -> bool:
    """Search to the end, saving and telling now and then; whether it was interrupted."""
    start = saved = told = time.perf_counter()
    before = state.tried
    try:
        workers = partial(ray_workers, address=config.cluster) if config.cluster else None
        for _ in evolve(problem, state, config.candidates, workers):
            now = time.perf_counter()
            if now - saved > SAVE_SECONDS:
                save_state(state, settings, config.output / STATE_FILE)
                saved = now
            if now - told > SAY_SECONDS:
                say(_progress(state, config.candidates, (state.tried - before) / (now - start)))
                told = now
        save_state(state, settings, config.output / STATE_FILE)
    except KeyboardInterrupt:  # in the middle of a round; the last saved state is whole
        return True
    return False


def _progress(state: State, candidates: int, rate: float) -> str:
    best = state.members()[0]
    return (
        f"{state.tried:,} of {candidates:,} candidates, {rate:,.0f}/s, best score {best.score:.2f}; "
        + _fates(state.counts)
    )


def _fates(counts: dict[str, int]) -> str:
    """What became of the candidates, the most frequent first."""
    total = sum(counts.values()) or 1
    ordered = sorted(counts.items(), key=lambda each: -each[1])
    return ", ".join(f"{name} {count / total:.1%}" for name, count in ordered)


def _settings(config: SearchConfig) -> dict[str, Any]:
    """All that a search's result hangs on; of the table its content."""
    settings = config.model_dump(mode="json", exclude=FREE_TO_CHANGE)
    if config.latency_table is not None:
        settings["latency_table"] = hashlib.sha256(config.latency_table.read_bytes()).hexdigest()[:12]
    return settings


def _chosen(
    config: SearchConfig, problem: Problem, state: State
) -> tuple[Sequence[Member], Sequence[Member]]:
    """The members to hand out, and the front they are from, if one was wanted."""
    members = state.members()
    if problem.front:
        front = pareto_front(members, problem.front)
        return knees(front, problem.front, config.sizes or SIZES), front
    return members[: config.measured if config.device else 1], ()


def _write(
    config: SearchConfig,
    problem: Problem,
    found: Sequence[Found],
    front: Sequence[Member],
    state: State,
    rate: float,
    remark: str,
    stopped: bool,
) -> SearchResult:
    named = []
    for number, each in enumerate(found, start=1):
        name = f"found-{number}" if problem.front or number > 1 else "found"
        spec = each.spec.model_copy(update={"name": f"{config.space}-{name}"})
        named.append(replace(each, spec=spec, file=config.output / f"{name}.yaml"))
        write_atomically(named[-1].file, spec.to_yaml().encode())
    counts = dict(state.counts)
    result = SearchResult(config, tuple(named), tuple(front), state.tried, rate, counts, remark, stopped)
    write_atomically(config.output / RESULT_FILE, json.dumps(summary(result), indent=1).encode())
    if problem.front:
        points = [{"score": member.score, **member.costs._asdict()} for member in front]
        write_atomically(config.output / FRONT_FILE, json.dumps(points, indent=1).encode())
        chosen = [Member(each.score, genome_of(each.spec.structure), each.costs) for each in named]
        picture = plot_front(front, problem.front, chosen, state.members())
        write_atomically(config.output / PICTURE_FILE, picture)
    return result


def _short(config: SearchConfig, front: Sequence[Member]) -> str:
    """That a front has fewer members than sizes were asked for."""
    if config.front is None or len(front) >= (wanted := config.sizes or SIZES):
        return ""
    return f"the front has {len(front)} of the {wanted} sizes asked for; raise --candidates or a budget"


def _trust(config: SearchConfig, price: CostModel, chosen: Sequence[Member]) -> str:
    """How exact the latencies are, and how much of what was chosen lies outside what was measured."""
    table = price.latency
    if config.latency_table is None or not isinstance(table, MonotoneTable):
        return ""
    said = []
    if config.latency_table.suffix == ".json":
        said.append(Profile.read(config.latency_table).trust())
    elif len(errors := table.errors()):
        said.append(
            f"the latency table errs by more than {np.median(errors):.0%} at half of its operators and by "
            f"more than {np.quantile(errors, 0.95):.0%} at one in twenty, when it is not shown them"
        )
    ops = [op for member in chosen for op in price.ops(member.genome) if op.kind != "pool"]
    if outside := sum(map(table.is_bound, ops)):
        said.append(
            f"{outside} of {len(ops)} operators found lie outside it and count as the next larger one"
        )
    return "; ".join(said)


def keeps_budget(result: SearchResult) -> bool:
    """Whether the pick takes no longer than it may, where that was measured and is asked."""
    most, measured = result.config.max_latency_ms, result.found[0].measured_ms
    return result.config.front is not None or most is None or measured is None or measured <= most


def summary(result: SearchResult) -> dict[str, Any]:
    """The result as plain values."""
    found = [
        {
            "file": each.file.name,
            "score": each.score,
            **each.costs._asdict(),
            "measured_ms": each.measured_ms,
        }
        for each in result.found
    ]
    return {
        "found": found,
        "tried": result.tried,
        "candidates_per_second": round(result.rate),
        "fates": result.counts,
        "keeps_budget": keeps_budget(result),
        "remark": result.remark,
        "stopped": result.stopped,
    }
