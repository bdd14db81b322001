"""From a `SearchConfig` to what is searched for; settings that cannot be are told."""

from __future__ import annotations

import math
import random
from typing import Any

from damoyolo.assemble.devices import Device
from damoyolo.assemble.models import read_any_spec
from damoyolo.config import ProfileConfig, SearchConfig
from damoyolo.errors import UserError
from damoyolo.search.cost import CostModel, LatencyModel
from damoyolo.search.entropy import DeepMad, MadNas, PaddedMadNas, Score
from damoyolo.search.evolve import Axis, Problem
from damoyolo.search.latency import MonotoneTable, OriginalTable, read_table
from damoyolo.search.mutate import Mutator, OriginalMutator
from damoyolo.search.neck import DetectorDeepMad, DetectorMadNas, smallest_neck
from damoyolo.search.profile import Profile
from damoyolo.search.space import SPACES, Space, genome_of
from damoyolo.spec import ModelSpec, NeckSpec

BUDGETS: dict[str, tuple[Axis, float]] = {
    "max_latency_ms": ("latency_ms", 1.0),
    "max_gflops": ("flops", 1e9),
    "max_params_m": ("params", 1e6),
    "max_layers": ("layers", 1.0),
}
"""By field: the cost that is limited, and the field's unit."""
FRONTS: dict[str, Axis] = {"latency": "latency_ms", "gflops": "flops", "params": "params"}


SMALLER = {
    "max_latency_ms": ", or take a smaller --like or --image-size",
    "max_gflops": ", or take a smaller --like or --image-size",
    "max_params_m": ", or take a smaller --like",
}
"""What helps beside a larger budget, by field."""


def check(config: SearchConfig) -> None:
    """Settings that do not go together."""
    told = config.latency_table is not None or config.device is not None
    if not told and (config.max_latency_ms or config.front == "latency"):
        raise UserError(
            "device: a latency needs a device; give --device here, or --latency-table with what was measured "
            "elsewhere"
        )
    if config.device is None and (config.threads or config.precision):
        raise UserError("device: --threads and --precision are a device's; give --device too")
    if config.device is not None and config.counting != "detector":
        raise UserError("counting: a device measures whole detectors; leave --counting out")
    if config.front is None and all(getattr(config, name) is None for name in BUDGETS):
        options = ", ".join("--" + name.replace("_", "-") for name in BUDGETS)
        raise UserError(f"budget: nothing limits the search; give one of {options}, or --front")
    if config.sizes is not None and config.front is None:
        raise UserError("sizes: several are chosen from a front; give --front latency, gflops or params")
    if config.reference and (config.device or config.search_neck or config.activation):
        raise UserError(
            "reference: the original knows neither devices nor necks nor activations; leave one of them out"
        )
    if config.search_neck and (config.front or config.score == "padded" or config.counting != "detector"):
        raise UserError(
            "search_neck: goes with budgets of the whole detector and --score madnas or deepmad, no --front"
        )
    if config.image_sizes is not None:
        _check_sizes(config)
    if config.space == "mob" and (config.reference or config.counting == "searched"):
        raise UserError(
            "counting: the original search knows no depthwise blocks; leave out --reference and count "
            "the detector or the backbone"
        )


def _check_sizes(config: SearchConfig) -> None:
    """Image sizes can be compared only by a score and within a budget that see resolution."""
    if not config.image_sizes:
        raise UserError("image_sizes: none is given; name some, such as 320 416 512, or leave it out")
    if config.front or config.reference or config.score != "deepmad":
        raise UserError(
            "image_sizes: only DeepMAD's score sees resolution; give --score deepmad, and neither --front "
            "nor --reference"
        )
    if config.max_latency_ms is None and config.max_gflops is None:
        raise UserError(
            "image_sizes: no budget limits resolution, the largest would always win; give --max-latency-ms "
            "or --max-gflops"
        )


def latency_of(config: SearchConfig, device: Device | None = None) -> LatencyModel | None:
    """The latencies that are asked for, if any; `UserError` for a profile of something else."""
    if config.latency_table is None:
        return None
    if config.latency_table.suffix == ".json":
        profile, like = Profile.read(config.latency_table), like_of(config)
        asked = {
            "space": config.space,
            "image_size": config.image_size or like.image_size,
            "num_classes": config.num_classes,
            "activation": space_of(config).seed.activation,
            "neck": like.neck,
            "head": like.head,
            **_facts(device),
        }
        for name, wanted in asked.items():
            if getattr(profile, name) != wanted:
                raise UserError(
                    f"latency_table: {config.latency_table} was measured for {name} "
                    f"{getattr(profile, name)}, not {wanted}; {_remedy(name, profile)}"
                )
        if config.search_neck and profile.necks == 1:
            raise UserError(
                f"latency_table: {config.latency_table} was measured with one neck; run damoyolo profile "
                "with --search-neck"
            )
        return profile.table()
    rows = read_table(config.latency_table)
    return (OriginalTable if config.reference else MonotoneTable)(rows, config.latency_batch)


def _remedy(name: str, profile: Profile) -> str:
    """What makes a search fit a profile, or a profile the search."""
    anew = "run damoyolo profile for this search"
    return f"give --activation {profile.activation}, or {anew}" if name == "activation" else anew


def _facts(device: Device | None) -> dict[str, Any]:
    if device is None:
        return {}
    names = {"device": "name", "runtime": "runtime", "precision": "precision", "threads": "threads"}
    return {name: getattr(device, attribute) for name, attribute in names.items()}


def problem_of(
    config: SearchConfig, latency: LatencyModel | None, neck: NeckSpec | None = None
) -> tuple[Problem, ModelSpec]:
    """What is searched for, and the spec that gives neck, head and thresholds to what is found.

    Args:
        config: what is asked.
        latency: as `latency_of` reads it.
        neck: instead of the one of the spec that the found one shall be like.
    """
    space = space_of(config).within(config.min_widths, config.max_widths)
    like = like_of(config)
    spec = like.model_copy(update={"neck": neck or like.neck})
    image_size = config.image_size or spec.image_size
    _check_widths(config, space)
    price = CostModel(
        space.frame,
        image_size,
        "searched" if config.reference else config.counting,
        spec.neck,
        spec.head,
        config.num_classes,
        latency,
    )
    mutator = Mutator(space, image_size, config.max_layers)
    smallest = mutator.smallest()
    problem = Problem(
        mutate=OriginalMutator(space, image_size, config.max_layers) if config.reference else mutator,
        price=price,
        score=_score(config, space, spec.neck, image_size),
        budgets={
            axis: getattr(config, name) * unit
            for name, (axis, unit) in BUDGETS.items()
            if getattr(config, name) is not None
        },
        starts=(mutator.repaired(genome_of(space.seed), random.Random(config.seed)), smallest),
        front=FRONTS[config.front] if config.front else None,
        size=config.population,
    )
    return problem, spec.model_copy(update={"image_size": image_size, "published": None})


def check_without_latency(config: SearchConfig) -> None:
    """What can be told before a device is measured, which takes minutes: widths, and all other budgets."""
    neck = smallest_neck(like_of(config).neck) if config.search_neck else None
    if config.image_sizes and config.image_size is None:  # nothing costs less in a larger image
        config = config.model_copy(update={"image_size": min(config.image_sizes)})
    check_reachable(config, problem_of(config, None, neck)[0])


def check_reachable(config: SearchConfig, problem: Problem) -> None:
    """`UserError` for a budget below the cheapest structure; it names the nearest that can be reached."""
    price, smallest = problem.price, problem.starts[-1]
    least = price(smallest)
    if isinstance(price.latency, MonotoneTable) and (missing := price.latency.missing(price.ops(smallest))):
        raise UserError(f"latency_table: {config.latency_table} cannot price this space: {missing[0]}")
    if math.isinf(least.latency_ms):
        raise UserError(
            f"latency_table: {config.latency_table} lacks operators of this space; choose another"
        )
    for name, (axis, unit) in BUDGETS.items():
        limit, cost = getattr(config, name), getattr(least, axis) / unit
        if limit is not None and cost > limit:
            raise UserError(
                f"{name}: {limit:g} cannot be reached, the least in space {config.space} counting the "
                f"{price.scope} at {price.image_size} px is {_rounded_up(cost):g}; "
                f"allow more{SMALLER.get(name, '')}"
            )


def _score(config: SearchConfig, space: Space, neck: NeckSpec, image_size: int) -> Score:
    seen = image_size // 2 if space.seed.stem.type == "focus" else image_size
    if config.search_neck and config.score == "deepmad":
        return DetectorDeepMad(space.frame, neck, seen, image_size)
    if config.search_neck:
        return DetectorMadNas(space.frame, neck, space.stage_weights)
    if config.score == "deepmad":
        return DeepMad(space.frame, seen)
    if config.score == "padded":
        return PaddedMadNas(space.frame, seen, space.stage_weights)
    return MadNas(space.frame, space.stage_weights)


def space_of(config: SearchConfig | ProfileConfig) -> Space:
    """The space, with the activation that is asked for."""
    space = SPACES[config.space]
    return space.activated(config.activation) if config.activation else space


def like_of(config: SearchConfig | ProfileConfig) -> ModelSpec:
    """The spec that gives what is found its neck and head, with the activation that is asked for."""
    like = read_any_spec(config.like or SPACES[config.space].like)
    if config.activation is None:
        return like
    return like.model_copy(update={"neck": like.neck.model_copy(update={"activation": config.activation})})


def _check_widths(config: SearchConfig, space: Space) -> None:
    """`UserError` where no widths lie in the ranges that were given."""
    if any(low > high for low, high in space.ranges):
        raise UserError(
            f"max_widths: no multiples of 8 that do not fall from C3 to C5 lie between "
            f"{config.min_widths or 'the least of the space'} and {config.max_widths or 'its most'}; "
            "lower --min-widths or raise --max-widths"
        )


def _rounded_up(cost: float) -> float:
    """Three digits that are enough."""
    unit = 10.0 ** (math.floor(math.log10(cost)) - 2)
    return math.ceil(round(cost / unit, 6)) * unit
