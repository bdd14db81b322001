from __future__ import annotations

import types
from typing import Any

import pytest

from damoyolo.errors import UserError
from damoyolo.export import node_times
from damoyolo.export.node_times import LEAST, time_nodes
from damoyolo.export.sessions import Engine
from damoyolo.search.micro_graph import micro_graph, time_of_ops
from damoyolo.search.ops import Op

OPS = [Op(16, 32, 3, 1, 40), Op(32, 32, 5, 1, 40, "depthwise"), Op(32, 64, 1, 1, 40, fused=True)]


@pytest.fixture(autouse=True)
def _few_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_times, "SECONDS", 0.0)


@pytest.mark.parametrize("activation", ["relu", "silu"])
@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_an_engine_tells_the_times_of_our_operators(engine: Engine, activation: Any) -> None:
    times = time_nodes(micro_graph(OPS, activation), engine, threads=1)
    assert {len(each) for each in times.values()} == {LEAST}
    assert all(ms > 0 for ms in time_of_ops(times, len(OPS)))


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_a_much_larger_operator_takes_more_time(engine: Engine) -> None:
    small, large = Op(16, 16, 3, 1, 20), Op(128, 128, 3, 1, 40)  # 256 times the work
    times = time_of_ops(time_nodes(micro_graph([small, large], "relu"), engine, threads=1), 2)
    assert times[1] > 4 * times[0]


def test_changes_of_layout_do_not_count() -> None:
    names = " ".join(time_nodes(micro_graph(OPS, "relu"), "onnxruntime", threads=1))
    assert "Reorder" not in names
    assert "op2_" in names


def test_an_engine_that_tells_no_times_is_told() -> None:
    with pytest.raises(UserError, match="'ncnn': tells no times of single operators"):
        time_nodes(b"", "ncnn")


def test_without_a_gpu_tensorrt_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    from damoyolo.export import tensorrt_session

    monkeypatch.setattr(tensorrt_session, "obstacle", lambda: "there is no NVIDIA GPU")
    with pytest.raises(UserError, match=r"device tensorrt: there is no NVIDIA GPU; measure where"):
        time_nodes(micro_graph(OPS, "relu"), "tensorrt")


def test_tensorrt_s_profiler_is_told_of_every_layer_after_each_run() -> None:
    told: list[tuple[str, float]] = []
    trt = types.SimpleNamespace(IProfiler=object)
    profiler = node_times._profiler(trt, told)
    for ms in (9.0, 9.0, 1.0, 2.0):  # two runs of warm-up
        profiler.report_layer_time("op0_conv + op0_out", ms)
        profiler.report_layer_time("op1_conv", ms / 2)
    assert node_times._collected(told, 2) == {"op0_conv + op0_out": [1.0, 2.0], "op1_conv": [0.5, 1.0]}
