"""Stand-ins for TensorRT and CUDA's runtime, which compute with ONNX Runtime in the memory of the computer.

They have the calls, names and orders of the real ones and nothing else, so that a test that passes shows that
a session hands shapes, types, addresses and sizes about correctly; not that a GPU computes the same.
"""

from __future__ import annotations

import ctypes
import enum
import types
from typing import Any

import numpy as np
import onnx
import onnxruntime

VERSION = (11, 4, 0, 106)


Error = enum.IntEnum("Error", {"cudaSuccess": 0, "cudaErrorNoDevice": 100})


class Cuda(types.ModuleType):
    """`cuda.bindings.runtime`, with so many GPUs."""

    cudaMemcpyKind = enum.IntEnum(  # noqa: N815 (CUDA's name)
        "cudaMemcpyKind", {"cudaMemcpyHostToDevice": 1, "cudaMemcpyDeviceToHost": 2}
    )

    def __init__(self, gpus: int = 1) -> None:
        super().__init__("cuda.bindings.runtime")
        self.gpus, self.memory, self.pending = gpus, {}, []

    def cudaGetDeviceCount(self) -> Any:  # noqa: N802
        return (Error.cudaSuccess, self.gpus) if self.gpus else (Error.cudaErrorNoDevice, None)

    def cudaStreamCreate(self) -> Any:  # noqa: N802
        return Error.cudaSuccess, 7

    def cudaMalloc(self, size: int) -> Any:  # noqa: N802
        buffer = ctypes.create_string_buffer(size)
        self.memory[ctypes.addressof(buffer)] = buffer
        return Error.cudaSuccess, ctypes.addressof(buffer)

    def cudaFree(self, address: int) -> Any:  # noqa: N802
        del self.memory[address]
        return (Error.cudaSuccess,)

    def cudaMemcpyAsync(self, target: int, source: int, size: int, kind: Any, stream: int) -> Any:  # noqa: N802
        device = target if kind == self.cudaMemcpyKind.cudaMemcpyHostToDevice else source
        assert stream == 7
        assert size <= len(self.memory[device])
        self.pending.append(lambda: ctypes.memmove(target, source, size))
        return (Error.cudaSuccess,)

    def cudaStreamSynchronize(self, stream: int) -> Any:  # noqa: N802
        assert stream == 7
        for work in self.pending:
            work()
        self.pending.clear()
        return (Error.cudaSuccess,)


class Context:
    """`IExecutionContext`."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.addresses, self.profiler = engine, {}, None
        self.shapes = {name: engine.get_tensor_shape(name) for name in engine.tensors}

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        wanted = self.engine.get_tensor_shape(name)
        if any(size not in (-1, given) for size, given in zip(wanted, shape, strict=True)):
            return False
        zeros = np.zeros(shape, self.engine.get_tensor_dtype(name))
        outputs = self.engine.session.run(None, {name: zeros})
        self.shapes |= {name: shape} | {
            each.name: output.shape
            for each, output in zip(self.engine.session.get_outputs(), outputs, strict=True)
        }
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.shapes[name]

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        assert stream == 7
        self.engine.cuda.pending.append(self._execute)
        return True

    def _execute(self) -> None:
        given = {name: self._view(name).copy() for name in self.engine.given}
        outputs = self.engine.session.run(None, given)
        for each, output in zip(self.engine.session.get_outputs(), outputs, strict=True):
            self._view(each.name)[:] = output
        if self.profiler:
            for name, ms in self.engine.layers.items():
                self.profiler.report_layer_time(name, ms)

    def _view(self, name: str) -> np.ndarray:
        dtype, shape = self.engine.get_tensor_dtype(name), self.shapes[name]
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        buffer = (ctypes.c_char * size).from_address(self.addresses[name])
        return np.frombuffer(buffer, dtype).reshape(shape)


class Engine:
    """`ICudaEngine`, whose outputs are in another order than the graph's."""

    def __init__(self, model: bytes, cuda: Cuda) -> None:
        self.session, self.cuda = onnxruntime.InferenceSession(model), cuda
        graph = onnx.load_from_string(model).graph
        weights = {each.name: int(np.prod(each.dims)) for each in graph.initializer}
        self.layers = {
            f"{node.name} + more": 0.001 + 1e-6 * sum(weights.get(name, 0) for name in node.input)
            for node in graph.node
        }
        self.tensors = {each.name: each.type.tensor_type for each in (*graph.output[::-1], *graph.input)}
        self.num_io_tensors, self.given = len(self.tensors), {each.name for each in graph.input}

    def get_tensor_name(self, number: int) -> str:
        return list(self.tensors)[number]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(size.dim_value or -1 for size in self.tensors[name].shape.dim)

    def get_tensor_dtype(self, name: str) -> Any:
        return onnx.helper.tensor_dtype_to_np_dtype(self.tensors[name].elem_type)

    def get_tensor_mode(self, name: str) -> str:
        return "in" if name in self.given else "out"

    def create_execution_context(self) -> Context:
        return Context(self)


class Builder:
    """`IBuilder`, whose networks are what the parser was given."""

    def __init__(self, _log: Any) -> None:
        self.settings = types.SimpleNamespace(flags=set())
        self.settings.set_flag = self.settings.flags.add

    def create_network(self, _flags: int) -> Any:
        return types.SimpleNamespace(model=b"")

    def create_builder_config(self) -> Any:
        return self.settings

    def build_serialized_network(self, network: Any, settings: Any) -> bytes:
        assert settings.flags == {"half"}
        return plan(network.model)


class OnnxParser:
    """`IOnnxParser`."""

    def __init__(self, network: Any, _log: Any) -> None:
        self.network = network

    def parse(self, model: bytes) -> bool:
        self.network.model = model
        return True


class TensorRt(types.ModuleType):
    """`tensorrt`; engines are ONNX behind an engine's first bytes, as `plan` puts them there."""

    BuilderFlag = types.SimpleNamespace(FP16="half")
    Builder, OnnxParser = Builder, OnnxParser

    class IProfiler:
        """Is told of layers."""

    __version__ = ".".join(map(str, VERSION))
    TensorIOMode = types.SimpleNamespace(INPUT="in", OUTPUT="out")

    class ILogger:
        """Its severities."""

        Severity = enum.IntEnum("Severity", {"INTERNAL_ERROR": 0, "ERROR": 1, "WARNING": 2})

    def __init__(self, cuda: Cuda) -> None:
        super().__init__("tensorrt")
        self.cuda = cuda

    def init_libnvinfer_plugins(self, log: Any, namespace: str) -> bool:
        log.log(self.ILogger.Severity.WARNING, f"nothing is wrong in '{namespace}'")
        return True

    def nptype(self, dtype: Any) -> Any:
        return dtype

    def Runtime(self, _log: Any) -> Any:  # noqa: N802 (TensorRT's name)
        return types.SimpleNamespace(deserialize_cuda_engine=self._engine)

    def _engine(self, engine: bytes) -> Engine | None:
        return Engine(engine[28:], self.cuda) if engine[:28] == plan(b"") else None


def plan(model: bytes, version: tuple[int, ...] = VERSION) -> bytes:
    """An engine of that version of TensorRT."""
    return b"ftrt" + bytes(20) + bytes(version) + model
