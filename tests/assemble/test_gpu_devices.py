"""The devices with a GPU, by stand-ins: what is called in which order, not what a GPU computes."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from torch import nn

import fake_gpu
from damoyolo.assemble.devices import open_device
from damoyolo.assemble.profiling import measure_detectors
from damoyolo.errors import RunError, UserError
from damoyolo.export import tensorrt
from damoyolo.search.ops import Op
from damoyolo.zoo import read_spec

OPS = [
    Op(8, 8, 3, 1, 8),
    Op(64, 64, 3, 1, 8),
    Op(32, 32, 5, 2, 8, "depthwise"),
    Op(8, 16, 1, 1, 8, fused=True),
]


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> fake_gpu.Cuda:
    """A machine with TensorRT and a GPU, both fake."""
    cuda = fake_gpu.Cuda()
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", cuda)
    monkeypatch.setitem(sys.modules, "tensorrt", fake_gpu.TensorRt(cuda))
    monkeypatch.setattr(tensorrt, "build", lambda model, _: fake_gpu.plan(model))
    return cuda


def test_tensorrt_is_what_is_here_and_times_operators_by_its_profiler(gpu: fake_gpu.Cuda) -> None:
    device = open_device("here")
    assert (device.name, device.precision, device.threads) == ("tensorrt", "fp16", None)
    assert device.runtime == "tensorrt 11.4.0.106"
    small, large, depthwise, fused = device.time_ops(OPS, "relu")
    assert 0.001 < small < depthwise + large
    assert large > 0.001 + 1e-6 * 64 * 64 * 9
    assert min(depthwise, fused) > 0


def test_tensorrt_times_a_detector(gpu: fake_gpu.Cuda) -> None:
    (ms,) = measure_detectors(open_device("tensorrt"), [read_spec("Ns")], 3, 64, calls=4)
    assert ms > 0


def test_layers_under_unknown_names_are_told(gpu: fake_gpu.Cuda, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("damoyolo.assemble.devices.time_nodes", lambda *_: {"myelin": [1.0]})
    with pytest.raises(RunError, match="device tensorrt: the engine told no time for operator 0"):
        open_device("tensorrt").time_ops(OPS, "relu")


@pytest.mark.parametrize("missing", ["tensorrt", "cuda.bindings.runtime"])
def test_a_package_that_tensorrt_lacks_is_named(
    missing: str, gpu: fake_gpu.Cuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(UserError, match=rf"device tensorrt: .*{missing.split('.')[0]}.*pip install"):
        open_device("tensorrt")


def test_a_machine_without_a_gpu_is_told(gpu: fake_gpu.Cuda) -> None:
    gpu.gpus = 0
    with pytest.raises(UserError, match=r"device tensorrt: no NVIDIA GPU answers .*cudaErrorNoDevice"):
        open_device("tensorrt")


@pytest.mark.parametrize("name", ["tensorrt", "torch-cuda"])
def test_a_gpu_has_one_precision(name: Any) -> None:
    with pytest.raises(UserError, match=f"precision: 'bf16' does not suit: {name} is measured in fp"):
        open_device(name, precision="bf16")


def test_pytorch_waits_for_the_gpu_in_every_call(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[str] = []
    placed: set[str] = set()
    zeros = torch.zeros

    def zeros_on(*shape: int, device: torch.device | None = None, **others: Any) -> torch.Tensor:
        if device is not None:
            placed.add(device.type)
        return zeros(*shape, **others)

    def to(module: nn.Module, device: torch.device, **_: Any) -> nn.Module:
        placed.add(device.type)
        return module

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: waited.append(device.type))
    device = open_device("torch-cuda", threads=3)
    monkeypatch.setattr(torch, "zeros", zeros_on)
    monkeypatch.setattr(nn.Module, "to", to)
    assert (device.name, device.precision, device.threads) == ("torch-cuda", "fp32", None)
    assert min(device.time_ops(OPS, "silu")) > 0
    calls = len(waited)
    assert calls >= 15 * len(OPS)
    timer = device._timer(nn.Conv2d(3, 8, 3), (3, 16, 16))  # type: ignore[attr-defined]
    assert len(timer(5)) == 5
    assert len(waited) >= calls + 5
    assert placed == {"cuda"}


def test_pytorch_without_cuda_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(
        UserError, match="device torch-cuda: PyTorch sees no CUDA device here; take torch-cpu"
    ):
        open_device("torch-cuda")
