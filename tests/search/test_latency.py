from __future__ import annotations

import math
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import shared_data
from damoyolo.errors import UserError
from damoyolo.search.cost import CostModel
from damoyolo.search.latency import MonotoneTable, OriginalTable, Row, choose_batch, read_table
from damoyolo.search.ops import Op
from golden_search import as_genome, golden_search

CHANNELS, SIDES = (8, 16, 32, 64), (5, 10, 20, 40)


def v100() -> list[Row]:
    """The table of the original's authors; skips without it."""
    return _read_once(shared_data("latency") / "v100-fp16-bs32.txt")


@cache
def _read_once(path: Path) -> list[Row]:
    return read_table(path)


def row(cin: int, cout: int, side: int, ms: float, batch: int = 1, kernel: int = 3) -> Row:
    return Row("conv", batch, cin, side, cout, kernel, 1, False, ms)


def work(cin: int, cout: int, side: int) -> float:
    """A device that takes time for starting, for channels and for pixels."""
    return 0.01 + 1e-6 * cin * cout * side**2


def table(noise: float = 0.0, batch: int = 1) -> list[Row]:
    rng = np.random.default_rng(0)
    return [
        row(cin, cout, side, work(cin, cout, side) * float(np.exp(noise * rng.normal())), batch)
        for cin in CHANNELS
        for cout in CHANNELS
        for side in SIDES
    ]


def conv(cin: int, cout: int, side: int) -> Op:
    return Op(cin, cout, 3, 1, side)


def test_a_row_of_the_table_costs_what_was_measured() -> None:
    model = MonotoneTable(table(batch=4))
    assert model.ms(conv(16, 32, 20)) == pytest.approx(work(16, 32, 20) / 4)
    assert not model.is_bound(conv(16, 32, 20))


@given(cin=st.integers(8, 64), cout=st.integers(8, 64), side=st.integers(5, 40))
def test_between_rows_it_is_as_exact_as_the_device_is_linear(cin: int, cout: int, side: int) -> None:
    model = MonotoneTable(table())
    assert model.ms(conv(cin, cout, side)) == pytest.approx(work(cin, cout, side))
    assert not model.is_bound(conv(cin, cout, side))


@settings(deadline=None)
@given(
    small=st.tuples(st.integers(1, 70), st.integers(1, 70), st.integers(1, 50)),
    more=st.tuples(st.integers(0, 30), st.integers(0, 30), st.integers(0, 30)),
)
def test_a_larger_operator_never_takes_less_time(
    small: tuple[int, int, int], more: tuple[int, int, int]
) -> None:
    kept = [each for n, each in enumerate(table(noise=0.4)) if n % 3]  # with gaps and an uneven edge
    model = MonotoneTable(kept)
    large = tuple(a + b for a, b in zip(small, more, strict=True))
    assert model.ms(conv(*small)) <= model.ms(conv(*large)) * (1 + 1e-12)


def test_repeated_rows_count_with_their_median() -> None:
    rows = [row(8, 8, 10, ms) for ms in (1.0, 9.0, 2.0)]
    assert MonotoneTable(rows).ms(conv(8, 8, 10)) == 2.0


def test_below_the_table_the_next_larger_operator_is_a_bound() -> None:
    model = MonotoneTable(table())
    assert model.ms(conv(4, 16, 3)) == pytest.approx(work(8, 16, 5))
    assert model.is_bound(conv(4, 16, 3))


def test_beyond_the_table_nothing_is_told_and_the_reason_is() -> None:
    model = MonotoneTable(table())
    asked = [conv(16, 16, 20), conv(16, 128, 20), conv(16, 256, 20), Op(16, 16, 5, 1, 20)]
    assert [math.isinf(model.ms(op)) for op in asked] == [False, True, True, True]
    assert model.missing(asked) == [
        "3x3 conv of stride 1 is needed for 16 to 128 channels at 20 px, and the largest measured one has "
        "64 to 64 at 40 px",
        "it has no 5x5 conv of stride 1",
    ]


def test_its_error_is_that_of_rows_it_was_not_shown() -> None:
    exact, noisy = MonotoneTable(table()).errors(), MonotoneTable(table(noise=0.2)).errors()
    assert len(exact) > 20
    assert float(np.median(exact)) < 0.01 < 0.05 < float(np.median(noisy)) < 0.4


def test_a_table_with_several_batches_must_be_told_which() -> None:
    rows = table() + table(batch=8)
    with pytest.raises(UserError, match="latency_batch: no batch is chosen and the table holds 1, 8"):
        MonotoneTable(rows)
    with pytest.raises(UserError, match="has no batch 3"):
        choose_batch(rows, 3)
    assert MonotoneTable(rows, 8).ms(conv(8, 8, 10)) == pytest.approx(work(8, 8, 10) / 8)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{Regular,32,64,40,40,64,3,1,0} fast\n", "line 1.*no finite time"),
        ("{Regular,32,64,40,40,64,3,1,0} 0.1\nnonsense\n", "line 2: 'nonsense' is no row"),
        ("{Regular,32,64,40,20,64,3,1,0} 0.1\n", "square map"),
        ("{Grouped,32,64,40,40,64,3,1,0} 0.1\n", "is no row"),
        ("\n", "has no rows"),
    ],
)
def test_a_broken_table_is_told_by_line(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "table.txt"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        read_table(path)


def test_a_missing_table_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        read_table(tmp_path / "none.txt")


def test_rows_are_read_as_they_are_written(tmp_path: Path) -> None:
    path = tmp_path / "table.txt"
    path.write_text("{Regular,32,64,40,40,128,3,2,1} 0.25\n{Depthwise,1,64,40,40,64,5,1,0} 1e-2\n")
    assert read_table(path) == [
        Row("conv", 32, 64, 40, 128, 3, 2, True, 0.25),
        Row("depthwise", 1, 64, 40, 64, 5, 1, False, 0.01),
    ]


@cache
def original() -> OriginalTable:
    """Its surfaces take seconds each, and are kept."""
    return OriginalTable(v100())


@pytest.mark.parametrize("entry", golden_search("latency_ops"), ids=lambda entry: entry["kind"])
def test_the_original_s_reading_is_repeated(entry: dict[str, Any]) -> None:
    pytest.importorskip("scipy")
    op = Op(
        entry["cin"], entry["cout"], entry["k"], entry["stride"], entry["res"], fused=bool(entry["fused"])
    )
    assert original().ms(op) * entry["batch"] == pytest.approx(entry["ms"], rel=1e-9)


def test_structures_take_as_long_as_the_original_says_and_about_as_long_by_ours() -> None:
    pytest.importorskip("scipy")
    ours = MonotoneTable(v100())
    checked = 0
    for entry in golden_search("structures"):
        if (seconds := entry["latency"].get("FP16_DAMOYOLO_b32_r320")) is None:
            continue
        frame, genome = as_genome(entry["structure"])
        of_original, of_ours = (
            CostModel(frame, 640, "searched", latency=model)(genome).latency_ms
            for model in (original(), ours)
        )
        assert of_original == pytest.approx(seconds * 1000, rel=1e-9)
        assert of_ours == pytest.approx(seconds * 1000, rel=0.12)
        checked += 1
    assert checked >= 10


def test_the_original_answers_beyond_its_table_and_not_for_another_kernel() -> None:
    pytest.importorskip("scipy")
    model = OriginalTable(table())
    assert model.ms(conv(512, 512, 400)) < math.inf
    assert model.ms(Op(16, 16, 5, 1, 20)) == math.inf
