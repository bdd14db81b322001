"""Tables of measured operator latencies, and the two ways to read between their rows.

A table is a text file with one operator a line, `{Type,Batch,Cin,H,W,Cout,K,Stride,Fused} milliseconds`, for
the whole batch; Type is Regular or Depthwise. `MonotoneTable` is how this project reads it: more channels or
more pixels never take less time, and what lies outside the table is bounded from above or refused.
`OriginalTable` repeats the original code, faults included.
"""

from __future__ import annotations

import importlib
import math
import re
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64

from damoyolo.errors import UserError
from damoyolo.search.ops import Op

_TYPES = {"Regular": "conv", "Depthwise": "depthwise"}
_LINE = re.compile(r"\{(\w+),(\d+(?:,\d+){7})\}\s+(\S+)")

Group = tuple[str, int, int, bool]
"""Kind, kernel, stride, fused: operators that are interpolated between one another."""


class Row(NamedTuple):
    """One measurement; `ms` is for the whole batch."""

    kind: str
    batch: int
    cin: int
    side: int
    cout: int
    kernel: int
    stride: int
    fused: bool
    ms: float

    @property
    def group(self) -> Group:
        """Rows that differ in channels and pixels only."""
        return self.kind, self.kernel, self.stride, self.fused


def read_table(path: str | Path) -> list[Row]:
    """The rows of a table file; `UserError` names the line that cannot be read."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not text"
        raise UserError(f"latency_table: {path} cannot be read ({reason}); check the path") from error
    rows = [_row(line, f"{path}, line {n}") for n, line in enumerate(lines, start=1) if line.strip()]
    if not rows:
        raise UserError(f"latency_table: {path} has no rows; give a table with measured operators")
    return rows


def choose_batch(rows: Sequence[Row], batch: int | None) -> int:
    """The batch to read, by default the only one; `UserError` if the table has none or several."""
    known = sorted({row.batch for row in rows})
    if batch is None and len(known) == 1:
        return known[0]
    if batch not in known:
        said = "no batch is chosen" if batch is None else f"has no batch {batch}"
        raise UserError(f"latency_batch: {said} and the table holds {', '.join(map(str, known))}; give one")
    return batch


def _row(line: str, where: str) -> Row:
    matched = _LINE.fullmatch(line.strip())
    if not matched or matched[1] not in _TYPES:
        raise UserError(
            f"latency_table: {where}: '{line.strip()[:60]}' is no row; "
            "it looks like {Regular,32,64,40,40,64,3,1,0} 0.09"
        )
    batch, cin, height, width, cout, kernel, stride, fused = map(int, matched[2].split(","))
    try:
        ms = float(matched[3])
    except ValueError:
        ms = math.nan
    sizes = (batch, cin, height, cout, kernel, stride)
    if not math.isfinite(ms) or height != width or min(sizes) < 1 or fused > 1:
        raise UserError(
            f"latency_table: {where}: '{line.strip()[:60]}' has no finite time of a square map; "
            "correct or delete it"
        )
    return Row(_TYPES[matched[1]], batch, cin, height, cout, kernel, stride, bool(fused), ms)


class MonotoneTable:
    """Latencies of one batch of a table, interpolated so that a larger operator never takes less time.

    Repeated rows count with their median. Rows that contradict monotony are moved to the middle between the
    slowest smaller and the fastest larger one. Between rows it is linear in channels and in pixels. What lies
    outside costs as much as the fastest measured operator that is at least as large in everything, an upper
    bound; where there is none it costs infinity, and `missing` says why.

    Args:
        rows: of a table.
        batch: which to read; may be left out if the table has only one.
        scale: that the rows are multiplied by.
        fixed_ms: what a detector takes for all that is no operator of the table.
    """

    def __init__(
        self, rows: Sequence[Row], batch: int | None = None, *, scale: float = 1.0, fixed_ms: float = 0.0
    ) -> None:
        self.batch, self.fixed_ms = choose_batch(rows, batch), fixed_ms
        self._share = scale / self.batch
        groups: dict[Group, list[Row]] = defaultdict(list)
        for row in rows:
            if row.batch == self.batch and row.ms > 0:
                groups[row.group].append(row)
        self._groups = dict(groups)
        self._grids = {group: _Grid(members) for group, members in groups.items()}

    def ms(self, op: Op) -> float:
        """Milliseconds for one image; infinity for an operator that no row is as large as."""
        grid = self._grids.get(_group(op))
        return math.inf if grid is None else grid.at(_cin(op), op.cout, op.side)[0] * self._share

    def is_bound(self, op: Op) -> bool:
        """Whether `ms` is only an upper bound, because the operator lies outside what was measured."""
        grid = self._grids.get(_group(op))
        return grid is None or grid.at(_cin(op), op.cout, op.side)[1]

    def missing(self, ops: Iterable[Op]) -> list[str]:
        """What cannot be priced, one clause for each kind of operator."""
        reasons: dict[Group, str] = {}
        for op in ops:
            if op.kind != "pool" and math.isinf(self.ms(op)):
                reasons.setdefault(_group(op), self._shortfall(op))
        return list(reasons.values())

    def errors(self, parts: int = 5) -> Float64[np.ndarray, " n"]:
        """Relative errors at rows inside the table when each of these parts of it is left out in turn."""
        errors: list[float] = []
        for rows in self._groups.values():
            shuffled = [rows[i] for i in np.random.default_rng(0).permutation(len(rows))]
            for part in range(parts):
                kept = [row for n, row in enumerate(shuffled) if n % parts != part]
                if not kept:
                    continue
                grid = _Grid(kept)
                for row in shuffled[part::parts]:
                    predicted, is_bound = grid.at(_cin(row), row.cout, row.side)
                    if not is_bound:
                        errors.append(abs(predicted / row.ms - 1))
        return np.array(errors)

    def _shortfall(self, op: Op) -> str:
        kind, kernel, stride, fused = group = _group(op)
        name = f"{kernel}x{kernel} {kind} of stride {stride}" + (" with a shortcut added" if fused else "")
        if group not in self._groups:
            return f"it has no {name}"
        largest = max(self._groups[group], key=lambda row: (row.cin * row.cout, row.side))
        return (
            f"{name} is needed for {op.cin} to {op.cout} channels at {op.side} px, and the largest measured "
            f"one has {largest.cin} to {largest.cout} at {largest.side} px"
        )


class _Grid:
    """One group of a `MonotoneTable`: milliseconds on a grid of inputs, outputs and pixels."""

    def __init__(self, rows: Sequence[Row]) -> None:
        same: dict[tuple[int, int, int], list[float]] = defaultdict(list)
        for row in rows:
            same[_cin(row), row.cout, row.side].append(row.ms)
        self._axes: list[list[int]] = [sorted({key[axis] for key in same}) for axis in range(3)]
        places = [{value: n for n, value in enumerate(axis)} for axis in self._axes]
        measured = np.full([len(axis) for axis in self._axes], np.nan)
        for key, values in same.items():
            cell = tuple(place[value] for place, value in zip(places, key, strict=True))
            measured[cell] = median(values)
        for axis, power in enumerate((1, 1, 2)):  # time goes with channels and with the square of a side
            at = np.array(self._axes[axis], dtype=float) ** power
            measured = np.moveaxis(_filled(np.moveaxis(measured, axis, -1), at), -1, axis)
        known = np.isfinite(measured)
        even = np.full_like(measured, np.nan)
        even[known] = (_highest_before(measured)[known] + _lowest_after(measured)[known]) / 2
        bound = _lowest_after(even)
        self._values: list[list[list[float]]] = np.where(known, even, bound).tolist()
        self._known: list[list[list[bool]]] = known.tolist()

    def at(self, cin: int, cout: int, side: int) -> tuple[float, bool]:
        """Milliseconds of the batch, and whether they are only an upper bound."""
        if cin > self._axes[0][-1] or cout > self._axes[1][-1] or side > self._axes[2][-1]:
            return math.inf, True
        lowest = [axis[0] for axis in self._axes]
        total, is_bound = 0.0, cin < lowest[0] or cout < lowest[1] or side < lowest[2]
        around_cin, around_cout = _bracket(self._axes[0], cin), _bracket(self._axes[1], cout)
        around_side = _bracket(self._axes[2], side, by_area=True)
        for (i, u), (o, v), (s, w) in product(around_cin, around_cout, around_side):
            total += u * v * w * self._values[i][o][s]
            is_bound = is_bound or not self._known[i][o][s]
        return total, is_bound


def _bracket(axis: list[int], asked: int, by_area: bool = False) -> list[tuple[int, float]]:
    """Positions of the values around one, and its share in each; the first value for what lies before it."""
    position = bisect_left(axis, asked)
    if axis[position] == asked or not position:
        return [(position, 1.0)]
    power = 2 if by_area else 1
    low, high = axis[position - 1] ** power, axis[position] ** power
    share = (asked**power - low) / (high - low)
    return [(position - 1, 1 - share), (position, share)]


def _filled(
    values: Float64[np.ndarray, "a b n"], at: Float64[np.ndarray, " n"]
) -> Float64[np.ndarray, "a b n"]:
    """Gaps along the last axis interpolated; before the first and after the last known all stays unknown."""
    last = len(at) - 1
    known, places = np.isfinite(values), np.arange(len(at))
    before = np.maximum.accumulate(np.where(known, places, -1), axis=-1)
    after = np.minimum.accumulate(np.where(known, places, last + 1)[..., ::-1], axis=-1)[..., ::-1]
    inside = (before >= 0) & (after <= last) & ~known
    before, after = before.clip(0), after.clip(max=last)
    share = (at - at[before]) / np.where(inside, at[after] - at[before], 1)
    low, high = (np.take_along_axis(values, each, axis=-1) for each in (before, after))
    return np.where(inside, low + share * (high - low), values)


def _highest_before(values: Float64[np.ndarray, "i o s"]) -> Float64[np.ndarray, "i o s"]:
    """At each place the highest known value that is no larger in any coordinate; -inf without one."""
    filled = np.where(np.isnan(values), -np.inf, values)
    for axis in range(3):
        filled = np.maximum.accumulate(filled, axis=axis)
    return filled


def _lowest_after(values: Float64[np.ndarray, "i o s"]) -> Float64[np.ndarray, "i o s"]:
    """At each place the lowest known value that is no smaller in any coordinate; inf without one."""
    turned = slice(None, None, -1)
    return -_highest_before(-values[turned, turned, turned])[turned, turned, turned]


class OriginalTable:
    """Latencies as the original code reads them: piecewise linear and, outside, the nearest row. Needs scipy.

    Faults that come with it: it answers outside the measured range, larger operators may take less time, and
    an unknown kind of operator costs infinity without a reason. Batches not in the table are refused.

    Args:
        rows: of a table.
        batch: which to read; may be left out if the table has only one.
    """

    fixed_ms = 0.0

    def __init__(self, rows: Sequence[Row], batch: int | None = None) -> None:
        self.batch = choose_batch(rows, batch)
        groups: dict[Group, dict[float, list[Row]]] = defaultdict(lambda: defaultdict(list))
        for row in rows:
            if row.batch == self.batch and row.side != 4 and row.ms >= 0:
                # truncated, so that of the ratios only .25 .5 1 2 4 are ever met exactly
                ratio = 0.0 if row.cin == 3 else int(100 * row.cin / row.cout) / 100
                groups[row.group][ratio].append(row)
        self._groups = {group: dict(sorted(ratios.items())) for group, ratios in groups.items()}
        self._surfaces: dict[tuple[Group, float], tuple[Any, Any]] = {}

    def ms(self, op: Op) -> float:
        """Milliseconds for one image; infinity for an unknown kind of operator."""
        ratios = self._groups.get(_group(op))
        if ratios is None:
            return math.inf
        ratio = 0.0 if op.cin == 3 else op.cin / op.cout
        if ratio in ratios:
            return self._on_surface(op, ratio) / self.batch
        kept: list[tuple[float, float]] = []
        for each in ratios:
            value = self._on_surface(op, each)
            if each and (len(kept) < 2 or value > kept[-1][1]):
                kept.append((each, value))
        if len(kept) < 2:
            return math.inf
        upper = min(max(sum(each < ratio for each, _ in kept), 1), len(kept) - 1)
        (x0, y0), (x1, y1) = kept[upper - 1], kept[upper]
        value = y0 + (ratio - x0) / (x1 - x0) * (y1 - y0)
        return (value if value >= 0 else ratio / kept[0][0] * kept[0][1]) / self.batch

    def _on_surface(self, op: Op, ratio: float) -> float:
        key = (_group(op), ratio)
        if key not in self._surfaces:
            self._surfaces[key] = _surface(self._groups[key[0]][ratio])
        linear, nearest = self._surfaces[key]
        value = float(linear(op.cout, op.side))
        return value if value >= 0 else float(nearest(op.cout, op.side))


def _surface(rows: Sequence[Row]) -> tuple[Any, Any]:
    """Interpolator and fallback over output channels and side."""
    try:
        interpolate = importlib.import_module("scipy.interpolate")
    except ImportError:
        raise UserError(
            "reference: reading a latency table as the original does needs scipy; pip install scipy"
        ) from None
    places, values = [(row.cout, row.side) for row in rows], [row.ms for row in rows]
    try:
        linear = interpolate.LinearNDInterpolator(places, values)
    except RuntimeError as error:  # qhull's: too few points, or all in a line
        raise UserError(
            "reference: the latency table has too few rows of some operator to be read as the original does; "
            "leave --reference out"
        ) from error
    return linear, interpolate.NearestNDInterpolator(places, values, rescale=True)


def _cin(of: Op | Row) -> int:
    """Input channels; a depthwise operator has those of its output, which must not count twice."""
    return 0 if of.kind == "depthwise" else of.cin


def _group(op: Op) -> Group:
    return op.kind, op.kernel, op.stride, op.fused
