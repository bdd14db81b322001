from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from damoyolo.training.distributed import World
from damoyolo.training.sync_norm import SyncBatchNorm2d, synchronise_norms
from worlds import in_worlds

IMAGES, CHANNELS, SIDE = 6, 3, 5
PAIR = World(rank=0, size=2)


def net(momentum: float | None = 0.03, affine: bool = True) -> nn.Sequential:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(CHANNELS, eps=1e-3, momentum=momentum, affine=affine)
    if affine:
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    return nn.Sequential(nn.Conv2d(CHANNELS, CHANNELS, 3, bias=False), norm, nn.ReLU(inplace=True))


def images(dtype: torch.dtype = torch.float32, offset: float = 0.0) -> tuple[Tensor, Tensor]:
    """Images and the gradient of a loss by the network's output."""
    rng = torch.Generator().manual_seed(3)
    x = torch.randn(IMAGES, CHANNELS, SIDE + 2, SIDE + 2, generator=rng, dtype=torch.float64)
    grad = torch.randn(IMAGES, CHANNELS, SIDE, SIDE, generator=rng, dtype=torch.float64)
    x *= torch.arange(1, IMAGES + 1).view(-1, 1, 1, 1)  # processes see different statistics
    return (x + offset).to(dtype), grad.to(dtype)


def norm_of(model: nn.Module) -> nn.BatchNorm2d:
    return next(module for module in model.modules() if isinstance(module, nn.BatchNorm2d))


def step(world: World, shares: tuple[int, ...], case: dict[str, Any]) -> dict[str, Tensor]:
    """Two steps of this process's share: output, gradients summed over processes, running statistics."""
    dtype: torch.dtype = case.get("dtype", torch.float32)
    model = net(**case.get("net", {})).to(dtype)
    if case.get("channels_last"):
        model = model.to(memory_format=torch.channels_last)
    if world.size > 1:
        synchronise_norms(model, world)
    x, grad = (each.split(shares)[world.rank] for each in images(dtype, case.get("offset", 0.0)))
    x = x.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=case.get("autocast", False)):
        model(x.detach() + 1)
        out = model(x)
    out.backward(grad.to(out.dtype))
    summed = {
        f"grad of {name}": world.sum(p.grad) for name, p in model.named_parameters() if p.grad is not None
    }
    own = {"out": out.detach(), "grad of x": x.grad}
    return {**own, **summed, **{name: buffer.clone() for name, buffer in model.named_buffers()}}


CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "channels_last": {"channels_last": True},
    "without weight and bias": {"net": {"affine": False}},
    "cumulative average": {"net": {"momentum": None}},
    "float64": {"dtype": torch.float64},
    "large mean": {"offset": 300.0},
    "bfloat16": {"autocast": True},
}
TOLERANCES = {torch.float32: 2e-6, torch.float64: 1e-14, torch.bfloat16: 1e-2}
LOOSE = {"bfloat16": 1e-2, "large mean": 5e-4}


def all_steps(world: World, shares: tuple[int, ...]) -> dict[str, dict[str, Tensor]]:
    return {name: step(world, shares, case) for name, case in CASES.items()}


@pytest.mark.parametrize("shares", [(3, 3), (5, 1), (6, 0)])
def test_two_processes_equal_one_with_the_whole_batch(shares: tuple[int, int]) -> None:
    parts = in_worlds(2, all_steps, shares)
    for name, case in CASES.items():
        whole = step(World(), (IMAGES,), case)
        first, second = (each[name] for each in parts)
        assert first.keys() == second.keys() == whole.keys()
        for key, wanted in whole.items():
            if key in ("out", "grad of x"):
                found = torch.cat([first[key], second[key]])
            else:
                found = first[key]
                assert torch.equal(first[key], second[key]), (name, key)
            assert found.dtype == wanted.dtype
            tolerance = LOOSE.get(name, TOLERANCES.get(wanted.dtype, 0))
            largest = wanted.abs().max().clamp(min=1)
            error = float((found - wanted).abs().max() / largest)
            assert error <= tolerance, f"{name}, {key}: {error}"


def gradient_and_differences(world: World) -> tuple[Tensor, Tensor]:
    """The gradient of one loss over both processes, and what finite differences say of it."""
    norm = SyncBatchNorm2d(2, world, eps=1e-3).double()
    rng = torch.Generator().manual_seed(world.rank)
    share = 2 + world.rank
    x = torch.randn(share, 2, 2, 2, generator=rng, dtype=torch.float64)
    weights = torch.randn(share, 2, 2, 2, generator=rng, dtype=torch.float64)

    def loss(x: Tensor) -> Tensor:
        return (norm(x) ** 3 * weights).sum()

    x.requires_grad_()
    loss(x).backward()
    assert x.grad is not None
    differences = torch.zeros(2, x.numel(), dtype=torch.float64)
    for rank in range(2):  # both processes take part in each evaluation; one moves a value
        for i in range(8 * (2 + rank)):
            found = []
            for change in (1e-6, -1e-6):
                moved = x.detach().clone()
                if rank == world.rank:
                    moved.view(-1)[i] += change
                found.append(world.sum(loss(moved)))
            if rank == world.rank:
                differences[0, i] = (found[0] - found[1]) / 2e-6
    return x.grad.flatten(), differences[0]


def test_gradients_equal_finite_differences_through_the_other_process() -> None:
    for gradient, differences in in_worlds(2, gradient_and_differences):
        assert gradient.abs().max() > 0.1
        torch.testing.assert_close(gradient, differences, rtol=1e-6, atol=1e-7)


def test_conversion_keeps_objects_names_and_settings() -> None:
    model = nn.ModuleDict(
        {"inner": net(), "bare": nn.BatchNorm2d(2, affine=False, track_running_stats=False)}
    )
    model["inner"].eval()
    before = copy.deepcopy(model)
    tensors = dict(model.state_dict(keep_vars=True))
    converted = synchronise_norms(model, PAIR)
    assert converted is model
    assert isinstance(model["inner"][1], SyncBatchNorm2d)
    assert isinstance(model["bare"], SyncBatchNorm2d)
    after = model.state_dict(keep_vars=True)
    assert list(after) == list(tensors)
    assert all(after[name] is tensor for name, tensor in tensors.items())
    for old, new in ((before["inner"][1], model["inner"][1]), (before["bare"], model["bare"])):
        for name in ("num_features", "eps", "momentum", "affine", "track_running_stats", "training"):
            assert getattr(old, name) == getattr(new, name), name
    before.load_state_dict(model.state_dict())
    again = synchronise_norms(model, PAIR)
    assert again["inner"][1] is model["inner"][1]


def test_a_norm_at_the_top_is_replaced() -> None:
    assert type(synchronise_norms(nn.BatchNorm2d(2), PAIR)) is SyncBatchNorm2d


def test_a_world_of_one_converts_nothing() -> None:
    model = net()
    assert type(synchronise_norms(model, World())[1]) is nn.BatchNorm2d


@pytest.mark.parametrize("track", [True, False])
def test_it_is_an_ordinary_norm_in_eval_mode(track: bool) -> None:
    x, _ = images()
    plain = nn.BatchNorm2d(CHANNELS, track_running_stats=track).eval()
    ours = synchronise_norms(copy.deepcopy(plain), PAIR)
    assert torch.equal(ours(x), plain(x))


def test_it_can_be_copied_and_saved_as_the_average_of_the_weights_is() -> None:
    ours = synchronise_norms(net(), PAIR)
    twin = copy.deepcopy(ours).eval()
    buffer = io.BytesIO()
    torch.save(twin.state_dict(), buffer)
    buffer.seek(0)
    plain = net().eval()
    plain.load_state_dict(torch.load(buffer, weights_only=True))
    x, _ = images()
    assert torch.equal(plain(x), twin(x))
