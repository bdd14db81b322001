"""What a search for a device needs of it: a profile before, and measurements that decide afterwards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from damoyolo.assemble.devices import Device
from damoyolo.assemble.profiling import measure_detectors, profile_device, profile_path
from damoyolo.config import ProfileConfig, SearchConfig
from damoyolo.search.cost import Costs
from damoyolo.search.evolve import Axis, Member, Problem, begin, evolve
from damoyolo.spec import ModelSpec

CORRECTIONS = 2
"""Times that is searched again with a tighter budget because all that was found is too slow."""
SHARE = 4
"""A correction tries so many times fewer candidates than the search."""


@dataclass(frozen=True)
class Found:
    """A detector that was found, and the file that `damoyolo train --model` reads.

    `measured_ms` is of the whole detector on the device, None where none was given.
    """

    spec: ModelSpec
    score: float
    costs: Costs
    file: Path = Path()
    measured_ms: float | None = None


def found_of(member: Member, problem: Problem, like: ModelSpec) -> Found:
    """A member with the neck, head and thresholds of a spec."""
    structure = problem.price.frame.structure(member.genome)
    return Found(like.model_copy(update={"structure": structure}), member.score, member.costs)


def profiled(config: SearchConfig, device: Device, say: Callable[[str], None]) -> Path:
    """The file with the profile of the device for this search; it is measured unless it is there."""
    shared = ProfileConfig.model_fields.keys() & SearchConfig.model_fields.keys() - {"seed", "output"}
    wanted = ProfileConfig(**{name: getattr(config, name) for name in shared})
    path = profile_path(wanted, device)
    if not path.is_file():
        profile_device(wanted, say, device)
    say(f"latencies by {path}")
    return path


def best_measured(
    found: Sequence[Found],
    problem: Problem,
    like: ModelSpec,
    device: Device,
    config: SearchConfig,
    say: Callable[[str], None],
) -> list[Found]:
    """All with what they take on the device; of those for one budget the best that keeps it comes first.

    If none keeps it a shorter search follows, with a budget as much tighter as they were slower than
    predicted. If again none does, the fastest comes first.
    """
    measured = _measured(found, device, config, say)
    most = config.max_latency_ms
    if most is None or problem.front:
        return measured
    for _ in range(CORRECTIONS):
        times = [each.measured_ms or 0.0 for each in measured]
        if min(times) <= most:
            break
        slower = median(ms / each.costs.latency_ms for ms, each in zip(times, measured, strict=True))
        say(f"none keeps {most:g} ms, they take {slower:.2f} times what was predicted; searching again")
        tighter: dict[Axis, float] = {**problem.budgets, "latency_ms": most / slower}
        problem = replace(problem, budgets=tighter)
        if not problem.first_members():
            break
        members = _searched_again(problem, config)
        measured = _measured([found_of(each, problem, like) for each in members], device, config, say)
    return sorted(measured, key=lambda each: (max(each.measured_ms or 0.0, most), -each.score))


def _searched_again(problem: Problem, config: SearchConfig) -> list[Member]:
    state = begin(problem, config.seed)
    for _ in evolve(problem, state, -(-config.candidates // SHARE)):
        pass
    return state.members()[: config.measured]


def _measured(
    found: Sequence[Found], device: Device, config: SearchConfig, say: Callable[[str], None]
) -> list[Found]:
    say(f"measuring the best {len(found)} on {device.runtime}")
    specs = [each.spec for each in found]
    times = measure_detectors(device, specs, config.num_classes, specs[0].image_size)
    return [replace(each, measured_ms=ms) for each, ms in zip(found, times, strict=True)]
