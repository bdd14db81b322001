from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from itertools import pairwise
from pathlib import Path

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import config

from damoyolo.errors import RunError, UserError
from damoyolo.export import onnx as export_onnx
from damoyolo.export.bench import (
    Subject,
    Timing,
    Worker,
    batch_sizes,
    bench,
    file_subject,
    in_turns,
    time_block,
)
from damoyolo.export.card import ExportCard
from exportable import CLASS_NAMES, lively, quick_exports  # noqa: F401 (a fixture)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A file for two images, one for any number of them."""
    folder, written = tmp_path_factory.mktemp("bench"), {}
    for name, fields in {"pair": {"batch": 2}, "any": {"dynamic": True}}.items():
        card = ExportCard(class_names=CLASS_NAMES, image_size=(64, 96), **fields)
        written[name] = folder / f"{name}.onnx"
        config.update("jaxtyping_disable", True)  # while it is traced, a dynamic size is no int
        try:
            onnx.save(export_onnx.to_onnx(lively(), card), written[name])
        finally:
            config.update("jaxtyping_disable", False)
    return written


def test_percentiles_are_of_all_calls() -> None:
    timing = Timing.of([float(number) for number in range(101)])
    assert (timing.p50, timing.p90, timing.p95, timing.p99, timing.calls) == (50.0, 90.0, 95.0, 99.0, 101)


def test_the_first_call_of_a_block_does_not_count() -> None:
    calls: list[int] = []
    measured = time_block(lambda: calls.append(0), 3)
    assert (len(calls), len(measured)) == (4, 3)


@given(calls=st.integers(1, 40), block=st.integers(1, 9), seed=st.integers(0, 9))
def test_all_take_turns_in_blocks_and_get_at_least_the_calls_asked_for(
    calls: int, block: int, seed: int
) -> None:
    turns: list[str] = []

    def run(name: str, count: int) -> list[float]:
        turns.append(name)
        return [1.0] * count

    measured = in_turns({name: partial(run, name) for name in "abc"}, calls, block=block, seed=seed)
    assert {calls <= len(each) < calls + block for each in measured.values()} == {True}
    rounds = [turns[start : start + 3] for start in range(0, len(turns), 3)]
    assert all(sorted(each) == list("abc") for each in rounds)


def test_the_order_changes_from_round_to_round() -> None:
    turns: list[str] = []

    def run(name: str, count: int) -> list[float]:
        turns.append(name)
        return [1.0] * count

    in_turns({name: partial(run, name) for name in "abc"}, calls=20, block=1)
    assert len({tuple(turns[start : start + 3]) for start in range(0, len(turns), 3)}) > 1


@given(largest=st.integers(1, 100))
def test_batches_double_up_to_the_largest_where_any_is_taken(largest: int) -> None:
    card = ExportCard(class_names=CLASS_NAMES, image_size=(64, 96), dynamic=True)
    sizes = batch_sizes(card, largest)
    assert (sizes[0], sizes[-1]) == (1, largest)
    assert all(b == 2 * a for a, b in pairwise(sizes[:-1]))
    assert sorted(set(sizes)) == list(sizes)


def test_files_are_measured_side_by_side_each_in_its_own_process(files: dict[str, Path]) -> None:
    subjects = [
        file_subject(files["pair"], threads=1),
        file_subject(files["any"], engine="openvino", threads=1),
    ]
    pair, several = bench(subjects, largest_batch=3, calls=3)
    assert [each.batch for each in pair.batches] == [2]
    assert [each.batch for each in several.batches] == [1, 2, 3]
    assert pair.engine.startswith("onnxruntime 1.")
    assert several.engine.startswith("openvino 20")
    assert (pair.precision, several.precision) == ("fp32", "fp32")
    for result in (pair, several):
        assert result.image_size == (64, 96)
        assert 20 < result.peak_memory_mib < _own_peak_mib()  # this process has torch in it, theirs do not
        for each in result.batches:
            assert each.network_ms.calls == each.whole_ms.calls == 8
    record = pair.to_record()["batches"][0]
    assert record["images_per_s"] == pytest.approx(2000 / record["network_ms"]["p50"], abs=0.1)


def test_a_file_that_cannot_be_opened_is_the_user_s_mistake(tmp_path: Path) -> None:
    torn = tmp_path / "torn.onnx"
    torn.write_bytes(b"\x08\x07")
    with (
        pytest.raises(UserError, match=r"torn\.onnx: ONNX Runtime cannot load it"),
        Worker(file_subject(torn)),
    ):
        pass


def test_what_an_engine_complains_of_is_one_sentence_without_a_traceback(
    capfd: pytest.CaptureFixture[str],
) -> None:
    subject = Subject("strange", "none", partial(int, "no number"))
    with (
        pytest.raises(RunError, match=r"^strange: ValueError: invalid literal .*'no number'$"),
        Worker(subject),
    ):
        pass
    assert "Traceback" not in capfd.readouterr().err


def test_a_process_that_dies_fails_the_run() -> None:
    subject = Subject("fragile", "none", partial(os._exit, 3))
    with pytest.raises(RunError, match="fragile: its process ended with code 3"), Worker(subject):
        pass


def test_a_precision_is_openvino_s_to_choose(files: dict[str, Path]) -> None:
    with pytest.raises(UserError, match="precision 'bf16' is OpenVINO's to choose; add --engine openvino"):
        file_subject(files["any"], precision="bf16")
    assert file_subject(files["any"], precision="fp32", engine="openvino").precision == "fp32"


def test_measuring_needs_no_torch() -> None:
    code = "import sys, damoyolo.export.bench, damoyolo.cli.bench; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0


def _own_peak_mib() -> int:
    (line,) = (
        line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:")
    )
    return int(line.split()[1]) // 1024
