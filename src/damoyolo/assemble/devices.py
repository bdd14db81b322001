"""Devices to search for: each times single operators and whole detectors.

A device is an engine on a processor: an exported file in an engine, or the detector itself in PyTorch.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from damoyolo.config import DeviceName
from damoyolo.errors import RunError, UserError
from damoyolo.export.bench import time_block
from damoyolo.export.card import ExportCard, Precision
from damoyolo.export.extras import need
from damoyolo.export.node_times import time_nodes
from damoyolo.export.sessions import Engine, OnnxSession, OpenVinoSession, Session
from damoyolo.export.tensorrt import save_engine
from damoyolo.export.tensorrt_session import TensorRtSession, obstacle
from damoyolo.machine import usable_cores
from damoyolo.nn.blocks import ConvNorm
from damoyolo.nn.detector import Detector, fuse
from damoyolo.search.micro_graph import micro_graph, time_of_ops
from damoyolo.search.ops import Op
from damoyolo.spec import Activation

ENGINES: dict[str, Engine] = {
    "openvino-cpu": "openvino",
    "onnxruntime-cpu": "onnxruntime",
    "tensorrt": "tensorrt",
}
"""What runs exported files on a device; on the others PyTorch runs the detector."""

CALLS = 15
"""Of each operator in PyTorch; the engines have their own number."""

TimeBlock = Callable[[int], list[float]]
"""Milliseconds of so many calls of a detector."""


@runtime_checkable
class Device(Protocol):
    """Something that runs detectors; `runtime` is the software and its version."""

    name: DeviceName
    runtime: str
    precision: Precision
    threads: int | None

    def time_ops(self, ops: Sequence[Op], activation: Activation) -> list[float]:
        """Milliseconds of each operator for one image."""

    def opened(self, detector: Detector) -> TimeBlock:
        """A detector, ready to be timed with one image."""


def open_device(name: DeviceName, threads: int | None = None, precision: Precision | None = None) -> Device:
    """The device of that name; `here` is the quickest that this machine has.

    Args:
        name: see `config.DeviceName`.
        threads: on a CPU; default as many as cores that this process may use.
        precision: `bf16` for OpenVINO; default float32, and float16 for TensorRT.

    Raises:
        UserError: if it is not there, names what is missing.
    """
    if name == "here":
        name = _quickest()
    usual: Precision = "fp16" if name == "tensorrt" else "fp32"
    if precision not in (None, usual) and not (name == "openvino-cpu" and precision == "bf16"):
        raise UserError(
            f"precision: '{precision}' does not suit: {name} is measured in {usual}; leave it out"
        )
    on_gpu = name in ("torch-cuda", "tensorrt")
    threads = None if on_gpu else threads or usable_cores()
    if name in ("torch-cpu", "torch-cuda"):
        return TorchDevice(name, threads)
    return EngineDevice(name, threads, precision or usual)


def _quickest() -> DeviceName:
    if not obstacle():
        return "tensorrt"
    if torch.cuda.is_available():
        return "torch-cuda"
    for name in ("openvino-cpu", "onnxruntime-cpu"):
        with contextlib.suppress(UserError):
            need("onnx", "export")
            need(ENGINES[name], "export")
            return name
    return "torch-cpu"


class EngineDevice:
    """An engine for exported files."""

    def __init__(self, name: DeviceName, threads: int | None, precision: Precision) -> None:
        self.name, self.threads, self.precision = name, threads, precision
        self.engine = ENGINES[name]
        if self.engine == "tensorrt" and (why := obstacle()):
            raise UserError(f"device tensorrt: {why}; profile and search where the engine is to run")
        package = need(self.engine, "export" if self.engine == "onnxruntime" else self.engine)
        need("onnx", "export")
        self.runtime = f"{self.engine} {package.__version__.partition('-')[0]}"

    def time_ops(self, ops: Sequence[Op], activation: Activation) -> list[float]:
        """See `Device`."""
        graph = micro_graph(ops, activation)
        times = time_nodes(graph, self.engine, self.threads, self.precision == "bf16")
        try:
            return time_of_ops(times, len(ops))
        except ValueError as error:  # layers under names that are not the graph's
            raise RunError(f"device {self.name}: {error}; take another device") from error

    def opened(self, detector: Detector) -> TimeBlock:
        """See `Device`."""
        from damoyolo.export.onnx import to_onnx  # an extra

        card = ExportCard(
            spec=detector.card.spec,
            class_names=detector.card.class_names,
            image_size=detector.card.image_size,
            precision=self.precision,
        )
        with tempfile.TemporaryDirectory() as folder:
            session = self._session(to_onnx(detector, card).SerializeToString(), card, Path(folder))
        images = np.full(card.input_shape, 114, np.float32)
        return lambda calls: time_block(lambda: session.run(images), calls)

    def _session(self, model: bytes, card: ExportCard, folder: Path) -> Session:
        if self.engine == "tensorrt":
            engine = folder / "model.engine"
            save_engine(model, card, engine)
            return TensorRtSession(engine)
        path = folder / "model.onnx"
        path.write_bytes(model)
        if self.engine == "onnxruntime":
            return OnnxSession(path, self.threads)
        return OpenVinoSession(path, self.threads)


class TorchDevice:
    """PyTorch, on the CPU or on a CUDA device; maps are in channels-last memory."""

    precision: Precision = "fp32"

    def __init__(self, name: DeviceName, threads: int | None) -> None:
        self.name, self.threads, self.runtime = name, threads, f"torch {torch.__version__}"
        self._on = torch.device("cuda" if name == "torch-cuda" else "cpu")
        if name == "torch-cuda" and not torch.cuda.is_available():
            raise UserError("device torch-cuda: PyTorch sees no CUDA device here; take torch-cpu")
        if threads and name == "torch-cpu":
            torch.set_num_threads(threads)

    def time_ops(self, ops: Sequence[Op], activation: Activation) -> list[float]:
        """See `Device`."""
        return [self._time_op(op, activation) for op in ops]

    def opened(self, detector: Detector) -> TimeBlock:
        """See `Device`."""
        height, width = detector.card.image_size
        return self._timer(fuse(detector), (3, height, width))

    def _time_op(self, op: Op, activation: Activation) -> float:
        shapes = [(op.cin, op.side, op.side)]
        if op.fused:
            shapes.append((op.cout, op.out_side, op.out_side))
        return float(np.quantile(self._timer(_Operator(op, activation), *shapes)(CALLS), 0.25))

    def _timer(self, module: nn.Module, *shapes: tuple[int, int, int]) -> TimeBlock:
        module = module.eval().to(self._on, memory_format=torch.channels_last)  # type: ignore[call-overload]
        inputs = [
            torch.zeros(1, *shape, device=self._on).to(memory_format=torch.channels_last) for shape in shapes
        ]

        @torch.inference_mode()
        def once() -> None:
            module(*inputs)
            if self._on.type == "cuda":
                torch.cuda.synchronize(self._on)

        return lambda calls: time_block(once, calls)


class _Operator(nn.Module):
    """A convolution as a network has it: normalised, activated, with a shortcut where one is added."""

    def __init__(self, op: Op, activation: Activation) -> None:
        super().__init__()
        self.conv = ConvNorm(
            op.cin, op.cout, op.kernel, op.stride, depthwise=op.kind == "depthwise", act=activation
        )

    def forward(self, features: Tensor, shortcut: Tensor | None = None) -> Tensor:
        features = self.conv(features)
        return features if shortcut is None else features + shortcut
