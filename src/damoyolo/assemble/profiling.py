"""Measuring a device: the operators of a space, and whole detectors to set their sum right by."""

from __future__ import annotations

import datetime
import hashlib
import math
import random
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from damoyolo.assemble.devices import Device, open_device
from damoyolo.assemble.search_problem import like_of, space_of
from damoyolo.config import ProfileConfig
from damoyolo.errors import UserError
from damoyolo.export.bench import in_turns
from damoyolo.files import check_writable
from damoyolo.machine import describe_machine
from damoyolo.nn.detector import as_if_trained, build_detector
from damoyolo.search.cost import CostModel
from damoyolo.search.latency import MonotoneTable
from damoyolo.search.mutate import Mutator
from damoyolo.search.neck import necks_like
from damoyolo.search.profile import STRUCTURES, Profile, fit_overhead, measure_table, usual_ops
from damoyolo.search.space import Frame, Genome, genome_of
from damoyolo.spec import ModelCard, ModelSpec, NeckSpec
from damoyolo.zoo.shelf import default_folder

CALLS = 40
"""Of each whole detector."""
RANGE = 3.0
"""Random detectors have about so many times more, or fewer, FLOPs than the size they are like, at most."""
STEPS, NEAR = 300, 0.15
"""Mutations between two of them; those count that come nearer to the wanted FLOPs, or stay so near."""


def profile_device(
    config: ProfileConfig, say: Callable[[str], None] = print, device: Device | None = None
) -> tuple[Profile, Path]:
    """Measure and write; what was measured, and the file.

    Args:
        config: what is measured, and where the file goes.
        say: told how far it is.
        device: instead of the one that `config` names.

    Raises:
        UserError: if the device is not there, or the file cannot be written.
    """
    device = device or open_device(config.device, config.threads, config.precision)
    path = profile_path(config, device)
    check_writable(path)
    space, like = space_of(config), like_of(config)
    image_size = config.image_size or like.image_size
    mutator = Mutator(space, image_size)
    necks = necks_like(like.neck) if config.search_neck else [like.neck]

    def price(neck: NeckSpec, table: MonotoneTable | None = None) -> CostModel:
        return CostModel(space.frame, image_size, "detector", neck, like.head, config.num_classes, table)

    activation = space.seed.activation
    say(f"measuring operators with {device.runtime} on {describe_machine()}")
    most_flops = _flops(price(like.neck), like)
    structures = STRUCTURES // len(necks)
    usual = [
        op for neck in necks for op in usual_ops(price(neck), mutator, config.seed, structures, most_flops)
    ]
    time_ops = partial(device.time_ops, activation=activation)
    rows, errors = measure_table(time_ops, usual, config.seconds, config.seed, say)

    count = max(config.detectors, len(necks))
    say(f"measuring {count} whole detectors")
    table = MonotoneTable(rows)
    drawn = [
        random_genomes(price(neck, table), mutator, like, config.seed + n) for n, neck in enumerate(necks)
    ]
    chosen = [(necks[n % len(necks)], next(drawn[n % len(necks)])) for n in range(count)]
    specs = [
        like.model_copy(update={"structure": space.frame.structure(genome), "neck": neck})
        for neck, genome in chosen
    ]
    sums = [price(neck, table)(genome).latency_ms for neck, genome in chosen]
    measured = measure_detectors(device, specs, config.num_classes, image_size)
    scale, fixed_ms = fit_overhead(sums, measured)

    profile = Profile(
        device=device.name,
        runtime=device.runtime,
        precision=device.precision,
        machine=describe_machine(),
        threads=device.threads,
        date=datetime.date.today().isoformat(),
        space=config.space,
        like=like.name,
        neck=like.neck,
        head=like.head,
        necks=len(necks),
        image_size=image_size,
        num_classes=config.num_classes,
        activation=activation,
        median_error=float(np.median(errors)) if errors else 0.0,
        p95_error=float(np.quantile(errors, 0.95)) if errors else 0.0,
        scale=scale,
        fixed_ms=fixed_ms,
        detectors=tuple((scale * each + fixed_ms, ms) for each, ms in zip(sums, measured, strict=True)),
        rows=tuple(rows),
    )
    profile.write(path)
    return profile, path


def profile_path(config: ProfileConfig, device: Device) -> Path:
    """Where a profile lies: where it was told to, or in the cache by all that it depends on."""
    if config.output is not None:
        if config.output.suffix != ".json":
            raise UserError(f"output: {config.output} must end in .json, by which a search knows a profile")
        return config.output
    facts = (
        device.name,
        device.runtime,
        device.precision,
        device.threads,
        describe_machine(),
        config.space,
        config.image_size,
        config.num_classes,
        config.seconds,
        config.detectors,
        config.search_neck,
        space_of(config).seed.activation,
        like_of(config).model_dump_json(),
    )
    digest = hashlib.sha256(repr(facts).encode()).hexdigest()[:12]
    return default_folder() / "profiles" / f"{device.name}-{config.space}-{digest}.json"


def random_genomes(price: CostModel, mutator: Mutator, like: ModelSpec, seed: int) -> Iterator[Genome]:
    """Structures of a space, each far from the one before, of very different FLOPs around a size's.

    Those that hold an operator of unknown latency are left out.
    """
    middle = _flops(price, like)
    rng, genome = random.Random(f"detectors {seed}"), mutator.smallest()
    while True:
        wanted = middle * RANGE ** rng.uniform(-1, 1)
        off = _off(price, genome, wanted)
        for _ in range(STEPS):
            child = mutator(genome, rng)
            reached = _off(price, child, wanted)
            if reached <= max(off, NEAR):
                genome, off = child, reached
        if math.isfinite(price(genome).latency_ms):
            yield genome


def _flops(price: CostModel, like: ModelSpec) -> int:
    """Of a size, for the images and classes of others that are priced."""
    frame = Frame(like.structure)
    own = CostModel(frame, price.image_size, "detector", like.neck, like.head, price.num_classes)
    return own(genome_of(like.structure)).flops


def _off(price: CostModel, genome: Genome, wanted: float) -> float:
    return abs(math.log(price(genome).flops / wanted))


def measure_detectors(
    device: Device, specs: Sequence[ModelSpec], num_classes: int, image_size: int, calls: int = CALLS
) -> list[float]:
    """Milliseconds of whole detectors, as if trained, and one square image, measured in turns.

    The lower quartile of the calls: whatever else the machine does only ever adds.
    """
    names = tuple(f"class{number}" for number in range(num_classes))
    cards = [ModelCard(spec=spec, class_names=names, image_size=(image_size, image_size)) for spec in specs]
    timers = {number: device.opened(as_if_trained(build_detector(card))) for number, card in enumerate(cards)}
    times = in_turns(timers, calls)
    return [float(np.quantile(times[number], 0.25)) for number in timers]
