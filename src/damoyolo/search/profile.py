"""Measuring the operators of a space on a device: few points first, then where the error is.

What is measured becomes a `Profile`, a file with the table and what was measured with what, from which
`MonotoneTable` tells the latency of any structure of the space.
"""

from __future__ import annotations

import json
import random
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from itertools import islice, product
from pathlib import Path
from typing import Annotated

import numpy as np
from jaxtyping import Float64
from pydantic import Field, PositiveInt, field_validator

from damoyolo.config import DeviceName
from damoyolo.files import write_atomically
from damoyolo.search.cost import CostModel
from damoyolo.search.latency import MonotoneTable, Row
from damoyolo.search.mutate import Mutator
from damoyolo.search.ops import Op
from damoyolo.spec import Activation, Frozen, HeadSpec, NeckSpec, parse, read_yaml

Floats = Float64[np.ndarray, " n"]
Measure = Callable[[Sequence[Op]], list[float]]
"""Milliseconds for one image of each of some operators, on a device."""

STRUCTURES = 3000
"""Random structures whose operators count as usual."""
BATCH = 24
"""Operators measured together."""
ROUND = 4 * BATCH
"""Operators measured before the table is looked at again."""
SURPRISE = 1.3
"""An operator so many times slower than expected is measured again: maybe it was disturbed."""


Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Profile(Frozen):
    """A latency table and where it comes from.

    A whole detector takes `scale` times the sum of its operators and `fixed_ms` for all else: both were
    fitted to the `detectors`, pairs of predicted and measured milliseconds of random ones. `median_error`
    and `p95_error` are of operators before they were measured.
    """

    device: DeviceName
    runtime: str
    precision: str
    machine: str
    threads: PositiveInt | None
    date: str
    space: str
    like: str
    neck: NeckSpec
    head: HeadSpec
    necks: PositiveInt = 1
    image_size: PositiveInt
    num_classes: PositiveInt
    activation: Activation
    median_error: NotNegative
    p95_error: NotNegative
    scale: Positive = 1.0
    fixed_ms: NotNegative = 0.0
    detectors: tuple[tuple[Positive, Positive], ...] = ()
    rows: tuple[Row, ...] = Field(min_length=1)

    @field_validator("rows")
    @classmethod
    def _are_measurements(cls, rows: tuple[Row, ...]) -> tuple[Row, ...]:
        for row in rows:
            sizes = (row.batch, row.cin, row.cout, row.side, row.kernel, row.stride)
            if row.kind not in ("conv", "depthwise") or min(sizes) < 1 or not 0 < row.ms < float("inf"):
                raise ValueError(f"{list(row)} is no measured operator; measure again")
        return rows

    @classmethod
    def read(cls, path: str | Path) -> Profile:
        """Read a file that `write` wrote; `UserError` names file and field of a mistake."""
        return parse(cls, read_yaml(path), where=str(path))

    def write(self, path: Path) -> None:
        """As JSON, a row a line."""
        facts = self.model_copy(update={"rows": ()}).model_dump_json(exclude={"rows"})
        rows = ",\n".join(_json(row) for row in self.rows)
        write_atomically(path, f'{facts[:-1]},\n"rows":[\n{rows}]}}\n'.encode())

    def trust(self) -> str:
        """How far it can be trusted, in words."""
        operators = f"an operator not yet measured was off by {self.median_error:.0%} at half of the trials"
        if not self.detectors:
            return operators
        off = max(abs(predicted / ms - 1) for predicted, ms in self.detectors)
        return (
            f"{operators}, whole detectors by {off:.0%} at most, {len(self.detectors)} that it was fitted to"
        )

    def table(self) -> MonotoneTable:
        """What tells latencies by it."""
        return MonotoneTable(self.rows, scale=self.scale, fixed_ms=self.fixed_ms)


def usual_ops(
    price: CostModel,
    mutator: Mutator,
    seed: int,
    structures: int = STRUCTURES,
    most_flops: int | None = None,
) -> list[Op]:
    """The operators of random structures of a space, the frequent ones often, and of its two extremes.

    Without those that have more FLOPs than `most_flops`: some spaces hold operators no device is asked for.
    """
    rng, genome = random.Random(seed), mutator.smallest()
    genomes = [genome, mutator.largest()]
    for _ in range(structures):
        genome = mutator(genome, rng)
        genomes.append(genome)
    ops = (op for genome in genomes for op in price.ops(genome))
    return [op for op in ops if op.kind != "pool" and (most_flops is None or op.flops <= most_flops)]


def measure_table(
    measure: Measure,
    usual: Sequence[Op],
    seconds: float,
    seed: int = 0,
    say: Callable[[str], None] = lambda line: None,
) -> tuple[list[Row], list[float]]:
    """The rows of a table, and the relative errors of the latest operators before they were measured.

    Each kind of operator is measured on a coarse grid over all that is usual; then, while time is left, more
    are drawn from the usual ones: those the more often that take long, and whose kind was told badly so far.

    Args:
        measure: times operators on the device.
        usual: operators that structures consist of, each as often as it occurs.
        seconds: to take at most, beyond the coarse grid.
        seed: of what is drawn.
        say: told how far it is.
    """
    rows: dict[Op, Row] = {}
    grid = list(coarse_grid(usual))
    for number, (op, ms) in enumerate(_measured(measure, grid), start=1):
        rows[op] = _row(op, ms)
        if number % ROUND == 0:
            say(f"{number} of {len(grid)} operators of the coarse grid")
    rng, end = np.random.default_rng(seed), time.perf_counter() + seconds
    errors: list[float] = []
    off: dict[Op, float] = defaultdict(lambda: 1.0)
    counts = Counter(map(_shape, usual))
    left = [op for op in counts if op not in rows]
    while left and time.perf_counter() < end:
        table = MonotoneTable(list(rows.values()))
        expected = {op: table.ms(op) for op in left}
        weights = np.array([counts[op] * expected[op] * off[_kind(op)] for op in left])
        drawn = rng.choice(len(left), min(ROUND, len(left)), replace=False, p=weights / weights.sum())
        asked = [left[place] for place in sorted(drawn)]
        latest: dict[Op, list[float]] = defaultdict(list)
        for op, ms in _measured(measure, asked, expected):
            rows[op] = _row(op, ms)
            latest[_kind(op)].append(abs(expected[op] / ms - 1))
        errors = [*errors, *(each for several in latest.values() for each in several)][-2 * ROUND :]
        off.update({kind: float(np.mean(several)) + 0.01 for kind, several in latest.items()})
        left = [op for op in left if op not in rows]
        say(f"{len(rows)} operators; the latest were told with a median error of {np.median(errors):.1%}")
    return list(rows.values()), errors


def coarse_grid(usual: Sequence[Op]) -> Iterator[Op]:
    """Of each kind and side: all pairs of widths from the least to the most, by factors of two.

    Pairs are left out that have so many FLOPs that no usual operator lies between them and the next smaller.
    """
    most_flops = 2 * 2 * max(op.flops for op in usual)
    widths: dict[Op, tuple[set[int], set[int]]] = defaultdict(lambda: (set(), set()))
    for op in map(_shape, usual):
        for seen, width in zip(widths[_kind(op)._replace(side=op.side)], (op.cin, op.cout), strict=True):
            seen.add(width)
    for kind, (entering, leaving) in widths.items():
        if kind.kind == "depthwise":
            yield from (kind._replace(cin=width, cout=width) for width in _octaves(leaving))
            continue
        for cin, cout in product(_octaves(entering), _octaves(leaving)):
            op = kind._replace(cin=cin, cout=cout)
            if op.flops <= most_flops:
                yield op


def fit_overhead(predicted: Sequence[float], measured: Sequence[float]) -> tuple[float, float]:
    """Factor and constant, neither negative, that bring predictions nearest to measurements, relatively.

    The constant is 0 unless with it each is told better from the others: few and noisy measurements can
    always be fitted by two numbers, and the next detector pays for it.
    """
    x, y = np.array(predicted), np.array(measured)
    return min((_fit_factor, _fit_both), key=lambda fit: _error_left_out(fit, x, y))(x, y)


def _fit_factor(x: Floats, y: Floats) -> tuple[float, float]:
    ratio = x / y
    return float(ratio.sum() / (ratio**2).sum()), 0.0


def _fit_both(x: Floats, y: Floats) -> tuple[float, float]:
    factor, constant = np.linalg.lstsq(np.stack([x / y, 1 / y], axis=1), np.ones_like(y), rcond=None)[0]
    return (float(factor), float(constant)) if factor > 0 and constant >= 0 else _fit_factor(x, y)


def _error_left_out(fit: Callable[[Floats, Floats], tuple[float, float]], x: Floats, y: Floats) -> float:
    """Mean square of the relative errors of each when it is left out of the fit."""
    errors = []
    for place in range(len(x)):
        factor, constant = fit(np.delete(x, place), np.delete(y, place))
        errors.append((factor * x[place] + constant) / y[place] - 1)
    return float(np.square(errors).mean())


def _octaves(widths: set[int]) -> list[int]:
    """Some of these widths, from the least to the most, each about twice the one before."""
    ordered, chosen = sorted(widths), [min(widths)]
    for width in ordered:
        if width >= 2 * chosen[-1]:
            chosen.append(width)
    return chosen if chosen[-1] == ordered[-1] else [*chosen, ordered[-1]]


def _measured(
    measure: Measure, ops: Sequence[Op], expected: dict[Op, float] | None = None
) -> Iterator[tuple[Op, float]]:
    """Each with its time, measured again if that is surprisingly long."""
    remaining = iter(ops)
    while batch := list(islice(remaining, BATCH)):
        times = dict(zip(batch, measure(batch), strict=True))
        slow = [op for op in batch if expected and times[op] > SURPRISE * expected[op]]
        if slow:
            again = zip(slow, measure(slow), strict=True)
            times.update({op: min(ms, times[op]) for op, ms in again})
        yield from times.items()


def _shape(op: Op) -> Op:
    """An operator as a table knows it."""
    return op._replace(bias=False)


def _kind(op: Op) -> Op:
    return op._replace(cin=0, cout=0, side=0)


def _row(op: Op, ms: float) -> Row:
    return Row(op.kind, 1, op.cin, op.side, op.cout, op.kernel, op.stride, op.fused, ms)


def _json(row: Row) -> str:
    return json.dumps(row, separators=(",", ":"))
