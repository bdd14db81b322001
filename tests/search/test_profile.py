from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from damoyolo.errors import UserError
from damoyolo.search import profile as profiling
from damoyolo.search.cost import CostModel
from damoyolo.search.latency import MonotoneTable, Row
from damoyolo.search.mutate import Mutator
from damoyolo.search.ops import Op
from damoyolo.search.profile import Profile, coarse_grid, fit_overhead, measure_table, usual_ops
from damoyolo.search.space import SPACES
from damoyolo.zoo import read_spec
from fake_device import work


def usual(space: str = "k1kx", structures: int = 200) -> list[Op]:
    """The operators of some random structures at 96 px."""
    like = read_spec(SPACES[space].like)
    price = CostModel(SPACES[space].frame, 96, "detector", like.neck, like.head, 3)
    return usual_ops(price, Mutator(SPACES[space], 96), seed=0, structures=structures)


def times(ops: Sequence[Op]) -> list[float]:
    return [work(op) for op in ops]


def profile(**changes: Any) -> Profile:
    facts: dict[str, Any] = {
        "device": "openvino-cpu",
        "runtime": "formula 1.0",
        "precision": "fp32",
        "machine": "a desk",
        "threads": None,
        "date": "2026-11-22",
        "space": "k1kx",
        "like": "T",
        "neck": read_spec("T").neck,
        "head": read_spec("T").head,
        "image_size": 96,
        "num_classes": 3,
        "activation": "relu",
        "median_error": 0.05,
        "p95_error": 0.2,
        "scale": 2.0,
        "fixed_ms": 0.5,
        "detectors": ((9.0, 10.0), (4.0, 4.0)),
        "rows": (Row("conv", 1, 8, 20, 16, 3, 1, False, 0.25),),
    }
    return Profile(**(facts | changes))


@pytest.mark.parametrize("space", ["k1kx", "mob"])
def test_after_the_coarse_grid_every_usual_operator_has_a_time(space: str) -> None:
    ops = usual(space)
    rows, errors = measure_table(times, ops, seconds=0.0)
    table = MonotoneTable(rows)
    assert errors == []
    assert len(rows) < len(set(ops))
    off = [abs(table.ms(op) / work(op) - 1) for op in set(ops)]
    assert max(off) < 0.5  # nothing is missing and nothing merely bounded
    assert float(np.median(off)) < 0.02


def test_the_longer_it_measures_the_more_it_knows() -> None:
    ops = usual()
    rows, errors = measure_table(times, ops, seconds=60.0)
    assert {(row.cin, row.cout, row.kernel, row.stride, row.side, row.fused) for row in rows} >= {
        (op.cin, op.cout, op.kernel, op.stride, op.side, op.fused) for op in ops
    }
    assert 0 < len(errors) <= 2 * profiling.ROUND
    assert max(errors) < 0.5


def test_it_looks_where_it_was_wrong() -> None:
    """Where 1x1 convolutions take jumps that no coarse grid shows, more of them are measured."""
    ops = usual(structures=500)
    grid = len(list(coarse_grid(ops)))

    def share_of_1x1(jump: float) -> float:
        def device(asked: Sequence[Op]) -> list[float]:
            return [work(op) * (jump if op.kernel == 1 and op.cout % 24 == 0 else 1.0) for op in asked]

        ticks = itertools.count()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(profiling, "time", SimpleNamespace(perf_counter=lambda: float(next(ticks))))
            rows, _ = measure_table(device, ops, seconds=3.5)
        assert len(rows) == grid + 3 * profiling.ROUND
        return float(np.mean([row.kernel == 1 for row in rows[grid + profiling.ROUND :]]))

    assert share_of_1x1(jump=3.0) > 1.3 * share_of_1x1(jump=1.0)


def test_a_disturbed_measurement_is_made_again() -> None:
    ops, calls = usual(), itertools.count()

    def disturbed(asked: Sequence[Op]) -> list[float]:
        factor = 10.0 if next(calls) == calls_of_grid else 1.0
        return [factor * work(op) for op in asked]

    calls_of_grid = -(-len(list(coarse_grid(ops))) // profiling.BATCH)
    rows, _ = measure_table(disturbed, ops, seconds=60.0)
    assert next(calls) > calls_of_grid  # it came to the disturbed one
    worst = max(
        row.ms / work(Op(row.cin, row.cout, row.kernel, row.stride, row.side, row.kind, row.fused))
        for row in rows
    )
    assert worst < 1.5


@given(scale=st.floats(0.5, 3.0), fixed=st.floats(0.0, 5.0))
def test_scale_and_constant_are_found_again(scale: float, fixed: float) -> None:
    sums = [2.0, 5.0, 11.0, 30.0]
    found = fit_overhead(sums, [scale * each + fixed for each in sums])
    assert found == pytest.approx((scale, fixed), abs=1e-6)


def test_a_constant_is_never_negative() -> None:
    scale, fixed = fit_overhead([1.0, 2.0, 3.0], [1.0, 3.0, 5.0])
    assert fixed == 0
    assert 1 < scale < 1.6


def test_noise_is_not_taken_for_a_constant() -> None:
    """Measured with ONNX Runtime; two numbers fit these better and told 24 others worse."""
    sums = [13.0, 21.3, 12.0, 7.9, 10.4, 8.3]
    measured = [12.1, 20.2, 10.7, 10.2, 9.4, 8.2]
    scale, fixed = fit_overhead(sums, measured)
    assert fixed == 0
    assert 0.9 < scale < 1.05


def test_a_profile_is_read_as_it_was_written_and_tells_latencies(tmp_path: Path) -> None:
    profile().write(tmp_path / "p.json")
    read = Profile.read(tmp_path / "p.json")
    assert read == profile()
    table = read.table()
    assert (table.ms(Op(8, 16, 3, 1, 20)), table.fixed_ms) == (0.5, 0.5)
    assert "whole detectors by 10% at most" in read.trust()


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("scale", "NaN", "scale: "),
        ("scale", "-1", "scale: is -1; take more than 0"),
        ("fixed_ms", "-100", "fixed_ms: "),
        ("detectors", "[[1, 0]]", "detectors.0.1: "),
        ("rows", "[]", "rows: "),
        ("rows", '[["conv",1,8,20,16,3,1,false,-0.25]]', "rows: .* is no measured operator; measure again"),
        ("rows", '[["grouped",1,8,20,16,3,1,false,0.25]]', "rows: .* is no measured operator"),
        ("rows", '[["conv",0,8,20,16,3,1,false,0.25]]', "rows: .* is no measured operator"),
    ],
)
def test_a_profile_with_a_senseless_number_is_told(
    field: str, value: str, message: str, tmp_path: Path
) -> None:
    facts = json.loads(profile().model_dump_json())
    facts[field] = "HERE"
    (tmp_path / "p.json").write_text(json.dumps(facts).replace('"HERE"', value))
    with pytest.raises(UserError, match=message):
        Profile.read(tmp_path / "p.json")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "p.json: is not valid JSON"),
        ('{"device": "abacus"}', "device: 'abacus' is none of"),
        ("[]", "expected a mapping"),
    ],
)
def test_a_broken_profile_is_told(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text(text)
    with pytest.raises(UserError, match=message):
        Profile.read(tmp_path / "p.json")
