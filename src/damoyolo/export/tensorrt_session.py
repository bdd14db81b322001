"""Running TensorRT engines on an NVIDIA GPU. No torch."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from damoyolo.errors import RunError, UserError
from damoyolo.export.extras import need
from damoyolo.export.sessions import card_beside, read_card
from damoyolo.export.tensorrt import complaints

PLAN_TAG = b"ftrt"
CUDA = "cuda.bindings.runtime"


class TensorRtSession:
    """An engine, with memory on the GPU for its inputs and outputs that grows with them."""

    def __init__(self, path: Path, class_names: Sequence[str] = ()) -> None:
        plan = path.read_bytes()
        if plan_version(plan) is None:
            raise UserError(f"{path}: is no TensorRT engine; export it again here")
        if reason := obstacle():
            raise UserError(f"{path}: a TensorRT engine cannot run here, because {reason}")
        trt = need("tensorrt", "tensorrt")
        self._log = complaints(trt)
        trt.init_libnvinfer_plugins(self._log, "")
        self._library = trt.Runtime(self._log)  # must outlive the engine
        engine = self._library.deserialize_cuda_engine(plan)
        if engine is None:
            raise UserError(
                f"{path}: was built by TensorRT {plan_version(plan)}, maybe for another GPU, and does not "
                f"run with TensorRT {trt.__version__}; export it again here"
            )
        self._engine, self._context = engine, engine.create_execution_context()
        names = [engine.get_tensor_name(number) for number in range(engine.num_io_tensors)]
        shapes = {
            name: [None if size < 0 else size for size in tuple(engine.get_tensor_shape(name))]
            for name in names
        }
        self._types = {name: np.dtype(trt.nptype(engine.get_tensor_dtype(name))) for name in names}
        given = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        inputs = {name: shapes[name] for name in given}
        outputs = {name: shapes[name] for name in names if name not in given}
        self.card = read_card(card_beside(path), inputs, outputs, class_names, str(path))
        order = self.card.outputs if set(self.card.outputs) == set(outputs) else outputs
        self._input, self._outputs = given[0], list(order)
        self._memory: dict[str, Memory] = {name: Memory() for name in names}
        self._stream = cuda("StreamCreate")

    def run(self, images: np.ndarray) -> list[np.ndarray]:
        """See `Session`.

        Raises:
            UserError: if the engine was built for other shapes.
            RunError: if CUDA fails.
        """
        images = np.ascontiguousarray(images, dtype=self._types[self._input])
        if not self._context.set_input_shape(self._input, images.shape):
            raise UserError(
                f"images {images.shape}: the engine was built for other shapes; build it again for these"
            )
        results = {
            name: np.empty(tuple(self._context.get_tensor_shape(name)), self._types[name])
            for name in self._outputs
        }
        for name, array in {self._input: images, **results}.items():
            self._context.set_tensor_address(name, self._memory[name].of(array.nbytes))
        self._copy(self._memory[self._input].address, images.ctypes.data, images.nbytes, "HostToDevice")
        if not self._context.execute_async_v3(int(self._stream)):
            raise RunError(f"TensorRT could not run the engine: {self._log.first}")
        for name, array in results.items():
            self._copy(array.ctypes.data, self._memory[name].address, array.nbytes, "DeviceToHost")
        cuda("StreamSynchronize", self._stream)
        return list(results.values())

    def _copy(self, target: int, source: int, size: int, direction: str) -> None:
        kind = getattr(need(CUDA, "tensorrt").cudaMemcpyKind, f"cudaMemcpy{direction}")
        cuda("MemcpyAsync", target, source, size, kind, self._stream)


class Memory:
    """A piece of the GPU's memory, freed with this object."""

    def __init__(self) -> None:
        self.address, self._size = 0, 0
        self._free: Callable[[], Any] = bool

    def of(self, size: int) -> int:
        """Where there is room for so many bytes."""
        if size > self._size:
            self._free()
            self.address, self._size = int(cuda("Malloc", size)), size
            self._free = weakref.finalize(self, need(CUDA, "tensorrt").cudaFree, self.address)
        return self.address


def cuda(function: str, *arguments: Any) -> Any:
    """Call a function of CUDA's runtime; what it returns, or `RunError` with its error's name."""
    error, *results = getattr(need(CUDA, "tensorrt"), f"cuda{function}")(*arguments)
    if int(error):
        raise RunError(f"cuda{function} failed with {error.name}")
    return results[0] if results else None


def obstacle() -> str:
    """Why no engine can be built or run here, in words; empty if one can."""
    try:
        need("tensorrt", "tensorrt")
        need(CUDA, "tensorrt")
        return "" if cuda("GetDeviceCount") else "there is no NVIDIA GPU"
    except UserError as error:
        return str(error)
    except RunError as error:
        return f"no NVIDIA GPU answers ({error})"


def plan_version(plan: bytes) -> str | None:
    """The version of TensorRT that an engine was built by; None if it is none.

    Source: `trtexec --getPlanVersionOnly`, in TensorRT's samples/common/sampleEngines.cpp.
    """
    if len(plan) < 28 or not plan.startswith(PLAN_TAG):
        return None
    return ".".join(str(number) for number in plan[24:28])
