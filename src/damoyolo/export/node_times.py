"""How long each node of a graph takes inside an engine, by the engine's own clock. No torch."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from damoyolo.errors import RunError, UserError
from damoyolo.export.extras import need
from damoyolo.export.sessions import Engine

WARM_UP = 2
"""Runs that do not count."""
LEAST, MOST, SECONDS = 5, 15, 1.0
"""Runs that do: at least, at most, and how long beyond the least."""

NodeTimes = dict[str, list[float]]
"""By a node's name in the engine: milliseconds of each run."""


def time_nodes(model: bytes, engine: Engine, threads: int | None = None, bf16: bool = False) -> NodeTimes:
    """Run a graph on random numbers and ask the engine how long its nodes took.

    Engines merge nodes and rename; the names of the graph are parts of the new ones. What an engine adds to
    change the layout of inputs and outputs is left out.

    Args:
        model: serialised ONNX with float32 inputs of fixed shapes.
        engine: `onnxruntime`, `openvino` or `tensorrt`.
        threads: of the first two; default their own choice.
        bf16: let OpenVINO compute in bfloat16.

    Raises:
        UserError: if the engine is not installed or tells no times.
        RunError: if it cannot run the graph.
    """
    if engine == "onnxruntime":
        return _onnxruntime(model, threads)
    if engine == "openvino":
        return _openvino(model, threads, bf16)
    if engine == "tensorrt":
        return _tensorrt(model)
    raise UserError(f"engine '{engine}': tells no times of single operators; take openvino or onnxruntime")


def _repeat(run: Callable[[], object]) -> int:
    """Call it some times, the fewer the longer it takes; how many counted."""
    for _ in range(WARM_UP):
        run()
    end, count = time.perf_counter() + SECONDS, 0
    while count < LEAST or (count < MOST and time.perf_counter() < end):
        run()
        count += 1
    return count


def _onnxruntime(model: bytes, threads: int | None) -> NodeTimes:
    ort = need("onnxruntime", "export")
    with tempfile.TemporaryDirectory() as folder:
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "times")
        if threads:
            options.intra_op_num_threads = threads
        session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        images = {each.name: _numbers(each.shape) for each in session.get_inputs()}
        count = _repeat(lambda: session.run(None, images))
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    nodes = (
        (each["name"], each["dur"] / 1e3)
        for each in events
        if each.get("cat") == "Node" and not each["name"].startswith("Reorder")
    )
    return _collected(nodes, count)


def _openvino(model: bytes, threads: int | None, bf16: bool) -> NodeTimes:
    openvino = need("openvino", "openvino")
    core = openvino.Core()
    settings: dict[str, Any] = {
        "PERF_COUNT": True,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "bf16" if bf16 else "f32",
    }
    if threads:
        settings["INFERENCE_NUM_THREADS"] = threads
    request = core.compile_model(core.read_model(model, b""), "CPU", settings).create_infer_request()
    for port in request.model_inputs:
        request.set_tensor(port, openvino.Tensor(_numbers(list(port.shape))))
    told: list[tuple[str, float]] = []

    def run() -> None:
        request.infer()
        told.extend(
            (each.node_name, each.real_time.total_seconds() * 1e3)
            for each in request.profiling_info
            if each.node_type != "Reorder"
        )

    count = _repeat(run)
    return _collected(told, count)


def _tensorrt(model: bytes) -> NodeTimes:
    """By TensorRT's profiler, which is told of every layer after each run."""
    from damoyolo.export.tensorrt import complaints
    from damoyolo.export.tensorrt_session import Memory, cuda, obstacle

    if why := obstacle():
        raise UserError(f"device tensorrt: {why}; measure where the engine is to run")
    trt = need("tensorrt", "tensorrt")
    log = complaints(trt)
    builder = trt.Builder(log)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, log)
    plan = builder.build_serialized_network(network, _half(trt, builder)) if parser.parse(model) else None
    if plan is None:
        raise RunError(f"tensorrt {trt.__version__} does not build the operators: {log.first}")
    engine = trt.Runtime(log).deserialize_cuda_engine(plan)
    context = engine.create_execution_context()
    told: list[tuple[str, float]] = []
    context.profiler = _profiler(trt, told)
    memory = []
    for number in range(engine.num_io_tensors):
        name = engine.get_tensor_name(number)
        memory.append(Memory())
        size = 4 * int(np.prod(tuple(engine.get_tensor_shape(name))))
        context.set_tensor_address(name, memory[-1].of(size))
    stream = cuda("StreamCreate")

    def run() -> None:
        if not context.execute_async_v3(int(stream)):
            raise RunError(f"TensorRT could not run the operators: {log.first}")
        cuda("StreamSynchronize", stream)

    count = _repeat(run)
    layers = ((name, ms) for name, ms in told if not name.startswith("Reformatting CopyNode"))
    return _collected(layers, count)


def _half(trt: Any, builder: Any) -> Any:
    """Settings for float16, in which detectors run on GPUs, where this version still chooses by flags."""
    settings = builder.create_builder_config()
    if hasattr(trt.BuilderFlag, "FP16"):
        settings.set_flag(trt.BuilderFlag.FP16)
    return settings


def _profiler(trt: Any, told: list[tuple[str, float]]) -> Any:
    class Profiler(trt.IProfiler):  # type: ignore[misc] # a base that is known at run time
        """Notes what TensorRT tells."""

        def __init__(self) -> None:
            trt.IProfiler.__init__(self)

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            """Called by the library after each run, once for each layer."""
            told.append((layer_name, ms))

    return Profiler()


def _collected(times: Iterable[tuple[str, float]], runs: int) -> NodeTimes:
    """By name, of the last so many runs; a name that comes several times in a run counts with the sum."""
    by_name: NodeTimes = {}
    for name, ms in times:
        by_name.setdefault(name, []).append(ms)
    return {
        name: np.reshape(values, (runs + WARM_UP, -1)).sum(axis=1)[WARM_UP:].tolist()
        for name, values in by_name.items()
    }


def _numbers(shape: list[int]) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
