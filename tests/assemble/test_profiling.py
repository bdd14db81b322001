from __future__ import annotations

import sys
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest
import torch
from onnx.numpy_helper import to_array

from damoyolo.assemble import profiling
from damoyolo.assemble.devices import Device, TorchDevice, open_device
from damoyolo.assemble.profiling import measure_detectors, profile_device, profile_path, random_genomes
from damoyolo.config import DeviceName, ProfileConfig
from damoyolo.errors import UserError
from damoyolo.export.card import ExportCard
from damoyolo.export.onnx import to_onnx
from damoyolo.nn.detector import Detector
from damoyolo.search.cost import CostModel
from damoyolo.search.mutate import Mutator
from damoyolo.search.ops import Op
from damoyolo.search.profile import Profile
from damoyolo.search.space import SPACES
from damoyolo.zoo import read_spec
from fake_device import FakeDevice


@pytest.fixture(autouse=True)
def _few_structures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profiling, "STRUCTURES", 200)


def config(output: Path, **settings: object) -> ProfileConfig:
    given = {"image_size": 96, "num_classes": 3, "seconds": 0.1, "output": output / "profile.json"}
    return ProfileConfig(**{**given, **settings})


def test_a_profile_says_what_was_measured_and_foretells_whole_detectors(tmp_path: Path) -> None:
    device = FakeDevice(factor=1.25, fixed_ms=0.5)
    lines: list[str] = []
    profile, path = profile_device(config(tmp_path), lines.append, device)
    assert Profile.read(path) == profile
    assert (profile.runtime, profile.threads, profile.space, profile.like) == ("formula 1.0", 1, "k1kx", "T")
    assert profile.scale == pytest.approx(1.25, rel=0.05)
    assert len(profile.detectors) == device.opens == 8
    assert max(abs(predicted / ms - 1) for predicted, ms in profile.detectors) < 0.03
    assert lines[0].startswith("measuring operators with formula 1.0 on ")

    like = read_spec("T")
    price = CostModel(SPACES["k1kx"].frame, 96, "detector", like.neck, like.head, 3, profile.table())
    (genome,) = islice(random_genomes(price, Mutator(SPACES["k1kx"], 96), like, seed=9), 1)
    spec = like.model_copy(update={"structure": SPACES["k1kx"].frame.structure(genome)})
    (measured,) = measure_detectors(device, [spec], 3, 96)
    assert price(genome).latency_ms == pytest.approx(measured, rel=0.05)


def test_a_detector_is_timed_as_if_trained_every_convolution_with_a_bias() -> None:
    class Exporting(FakeDevice):
        def opened(self, detector: Detector) -> Callable[[int], list[float]]:
            card = ExportCard(class_names=detector.card.class_names, image_size=(64, 64))
            self.graph = to_onnx(detector, card).graph
            return super().opened(detector)

    device = Exporting()
    measure_detectors(device, [read_spec("Ns")], 3, 64, calls=1)
    biases = {each.name: to_array(each) for each in device.graph.initializer}
    convs = {node.name: node.input[2:] for node in device.graph.node if node.op_type == "Conv"}
    biased = [names for names in convs.values() if names]
    assert len(biased) > 80
    assert all(biases[name].any() for (name,) in biased)
    # rewriting splits these off a convolution and adds them before its bias
    assert all(".coarse/" in name for name, names in convs.items() if not names)


def test_random_detectors_differ_widely_and_are_the_same_for_a_seed() -> None:
    like = read_spec("Ns")
    price = CostModel(SPACES["mob"].frame, 416, "detector", like.neck, like.head, 3)
    mutator = Mutator(SPACES["mob"], 416)
    drawn = list(islice(random_genomes(price, mutator, like, seed=1), 12))
    flops = [price(genome).flops for genome in drawn]
    assert max(flops) > 3 * min(flops)
    assert drawn == list(islice(random_genomes(price, mutator, like, seed=1), 12))


def test_the_place_of_a_profile_hangs_on_all_that_it_depends_on(tmp_path: Path) -> None:
    device = FakeDevice()
    first = profile_path(ProfileConfig(space="mob"), device)
    assert first == profile_path(ProfileConfig(space="mob"), device)
    others = [ProfileConfig(space="csp"), ProfileConfig(space="mob", image_size=320)]
    assert first not in [profile_path(each, device) for each in others]
    with pytest.raises(UserError, match=r"output: .*table.txt must end in .json"):
        profile_path(ProfileConfig(output=tmp_path / "table.txt"), device)


def test_pytorch_times_operators_and_detectors() -> None:
    device: Device = TorchDevice("torch-cpu", threads=1)
    ops = [
        Op(8, 8, 3, 1, 8),
        Op(64, 64, 3, 1, 64),
        Op(64, 64, 5, 2, 64, "depthwise"),
        Op(8, 16, 1, 1, 32, fused=True),
    ]
    small, large, *others = device.time_ops(ops, "silu")
    assert 0 < 4 * small < large
    assert min(others) > 0
    spec = read_spec("Ns")
    (ms,) = measure_detectors(device, [spec], 3, 64, calls=8)
    assert ms > large / 10


@pytest.mark.parametrize("name", ["onnxruntime-cpu", "openvino-cpu"])
def test_an_engine_times_an_exported_detector(name: DeviceName) -> None:
    device = open_device(name, threads=1)
    assert device.runtime.startswith(name.removesuffix("-cpu"))
    (ms,) = measure_detectors(device, [read_spec("Ns")], 3, 64, calls=8)
    assert ms > 0


@pytest.mark.parametrize(
    ("name", "precision", "message"),
    [
        ("torch-cpu", "bf16", "precision: 'bf16' does not suit: torch-cpu is measured in fp32"),
        ("tensorrt", None, "device tensorrt: "),
        ("torch-cuda", None, "device torch-cuda: PyTorch sees no CUDA device"),
    ],
)
def test_a_device_that_is_not_here_is_told(
    name: DeviceName, precision: str | None, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("damoyolo.assemble.devices.obstacle", lambda: "there is no NVIDIA GPU")
    with pytest.raises(UserError, match=message):
        open_device(name, precision=precision)


def test_here_is_the_quickest_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("damoyolo.assemble.devices.obstacle", lambda: "there is no NVIDIA GPU")
    assert open_device("here").name == "openvino-cpu"
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert open_device("here").name == "onnxruntime-cpu"
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert open_device("here").name == "torch-cpu"
