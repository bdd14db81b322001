from __future__ import annotations

import os
import signal
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributed import TCPStore

from damoyolo.errors import RunError, UserError
from damoyolo.training import distributed
from damoyolo.training.distributed import VARIABLES, World, check_count, is_launched, open_world
from worlds import CONTEXT, CPU, PATIENCE_S, in_worlds, variables

SHARES = (3, 5)


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Without anything from torchrun."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def talk(world: World) -> dict[str, Any]:
    mine: dict[str, Any] = {
        "name": "é" * (1 + world.rank),
        "boxes": torch.full((world.rank, 4), 0.1),
        "found": [(world.rank, None)],
    }
    nan = torch.tensor(float("nan"))
    number = torch.tensor([1.5, world.rank], requires_grad=True)
    return {
        "rank": (world.rank, world.size, world.local_rank, world.is_first, is_launched()),
        "sum": world.sum(number).tolist(),
        "left alone": (number.tolist(), world.sum(number).requires_grad),
        "nan is told": world.sum(nan if world.rank else torch.tensor(1.0)).isnan().item(),
        "stack": world.stack(torch.tensor([[world.rank]])).tolist(),
        "gather": world.gather(mine),
        "broadcast": world.broadcast(mine if world.is_first else None),
        "barrier": world.barrier(),
    }


def test_processes_add_gather_and_tell() -> None:
    first, second = in_worlds(2, talk)
    assert first["rank"] == (0, 2, 0, True, True)
    assert second["rank"] == (1, 2, 1, False, True)
    for each, rank in ((first, 0), (second, 1)):
        assert each["sum"] == [3.0, 1.0]
        assert each["left alone"] == ([1.5, rank], False)
        assert each["nan is told"]
        assert each["stack"] == [[[0]], [[1]]]
        assert each["broadcast"]["name"] == "é"
        assert each["broadcast"]["boxes"].shape == (0, 4)
    assert [each["name"] for each in first["gather"]] == ["é", "éé"]
    assert torch.equal(first["gather"][1]["boxes"], torch.full((1, 4), 0.1))
    assert first["gather"][1]["found"] == [(1, None)]
    assert second["gather"] is None


class Harmful:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("true",)


def gather_harmful(world: World) -> str:
    try:
        world.gather(Harmful())
    except Exception as error:
        return str(error)
    return ""


def test_nothing_that_could_run_code_is_read() -> None:
    first, second = in_worlds(2, gather_harmful)
    assert "weights_only" in first
    assert second == ""


@dataclass(frozen=True)
class Parts:
    near: Float[Tensor, ""]
    far: Float[Tensor, ""]


class Objective(nn.Module):
    """Sums of losses, as a dataclass, of a little network whose first layer is frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.net = nn.Linear(4, 2)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Float[Tensor, "b 4"], targets: Float[Tensor, "b 2"]) -> Parts:
        error = self.net(self.frozen(x)) - targets
        return Parts(near=error.abs().sum(), far=(error**2).sum())


def batch() -> tuple[Float[Tensor, "b 4"], Float[Tensor, "b 2"]]:
    rng = torch.Generator().manual_seed(1)
    return torch.randn(sum(SHARES), 4, generator=rng), torch.randn(sum(SHARES), 2, generator=rng)


def train(world: World) -> dict[str, Any]:
    """Three steps, each process with its share of the batch and weights of its own to begin with."""
    torch.manual_seed(world.rank)
    objective = Objective()
    objective.seen.fill_(world.rank + 7)
    wrapped = world.wrap(objective)
    began_with = float(objective.seen)
    optimizer = torch.optim.SGD([p for p in objective.parameters() if p.requires_grad], lr=0.1, momentum=0.9)
    x, targets = (each.split(SHARES)[world.rank] if world.size > 1 else each for each in batch())
    for _ in range(3):
        count = world.sum(torch.tensor(float(len(x))))
        parts = wrapped(x, targets)
        optimizer.zero_grad(set_to_none=True)
        ((parts.near + parts.far) * world.size / count).backward()
        optimizer.step()
    objective.seen.add_(world.rank)
    world.share_buffers(objective)
    assert float(objective.seen) == began_with == 7
    return objective.state_dict()


def test_two_processes_with_shares_of_a_batch_get_the_weights_of_one_with_all_of_it() -> None:
    alone = train(World())
    first, second = in_worlds(2, train)
    assert first.keys() == alone.keys()
    for name, value in alone.items():
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(first[name], value, rtol=1e-5, atol=1e-6)


def test_one_process_is_a_world_without_a_process_group(environment: pytest.MonkeyPatch) -> None:
    assert not is_launched()
    with open_world(CPU) as world:
        assert world == World()
        assert not dist.is_initialized()
        module, value = nn.Linear(2, 2), {"anything": object()}
        assert world.wrap(module) is module
        assert world.sum(torch.ones(2)).tolist() == [1.0, 1.0]
        assert world.stack(torch.ones(2)).tolist() == [[1.0, 1.0]]
        assert world.gather(value) == [value]
        assert world.broadcast(value) is value
        world.barrier()
    for name, text in variables(rank=0, size=1, port=1).items():
        environment.setenv(name, text)
    assert open_world(CPU) == World()
    assert not dist.is_initialized()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"MASTER_ADDR": None, "LOCAL_RANK": None}, "LOCAL_RANK, MASTER_ADDR: not set .* although RANK, W"),
        ({"RANK": "first"}, "RANK: 'first' in the environment is no number"),
        ({"RANK": "2"}, "RANK: 2 in the environment must be less than WORLD_SIZE, which is 2"),
    ],
)
def test_half_an_environment_is_explained(
    environment: pytest.MonkeyPatch, changes: dict[str, str | None], message: str
) -> None:
    for name, text in {**variables(rank=0, size=2, port=1), **changes}.items():
        if text is not None:
            environment.setenv(name, text)
    with pytest.raises(UserError, match=message):
        open_world(CPU)


def test_a_device_that_cannot_be_shared_is_explained(environment: pytest.MonkeyPatch) -> None:
    for name, text in variables(rank=1, size=2, port=1).items():
        environment.setenv(name, text)
    environment.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UserError, match="needs cuda:1, but there are only 1"):
        open_world(torch.device("cuda"))
    with pytest.raises(UserError, match="'mps' cannot be shared"):
        open_world(torch.device("mps"))


def test_more_processes_than_cores_or_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "usable_cores", lambda: 2)
    check_count(2, CPU)
    with pytest.raises(UserError, match=r"^devices: 99 processes cannot share 2 cores; take 2 or fewer$"):
        check_count(99, CPU)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UserError, match=r"^devices: 2 processes cannot share 1 GPU; take 1 or fewer$"):
        check_count(2, torch.device("cuda"))


def test_others_that_do_not_come_are_named(environment: pytest.MonkeyPatch) -> None:
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    for name, text in variables(rank=0, size=2, port=store.port).items():
        environment.setenv(name, text)
    environment.setattr(distributed, "TIMEOUT", distributed.timedelta(seconds=1))
    with pytest.raises(RunError, match=f"process 0 of 2 met no others at 127.0.0.1:{store.port}"):
        open_world(CPU)


def lose(rank: int, port: int, where: str) -> str:
    """The second process is killed while the first counts on it."""
    os.environ |= variables(rank, 2, port)
    torch.set_num_threads(1)
    try:
        with open_world(CPU) as world:
            model = world.wrap(nn.Linear(2, 2))
            model(torch.ones(1, 2)).sum().backward()
            if rank == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            if where == "sum":
                world.sum(torch.ones(1))
            else:
                model(torch.ones(1, 2)).sum().backward()
    except RunError as error:
        return str(error)
    return "nothing happened"


@pytest.mark.parametrize("where", ["sum", "backward"])
def test_a_process_that_is_gone_is_a_run_error_in_the_others(where: str) -> None:
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    with ProcessPoolExecutor(1, CONTEXT) as survivor, ProcessPoolExecutor(1, CONTEXT) as victim:
        message = survivor.submit(lose, 0, store.port, where)
        killed = victim.submit(lose, 1, store.port, where)
        assert "another process of the run has ended" in message.result(PATIENCE_S)
        assert "--resume" in message.result()
        with pytest.raises(BrokenProcessPool):
            killed.result(PATIENCE_S)


def test_errors_of_its_own_stay_what_they_are() -> None:
    for error in (
        RuntimeError("shape mismatch"),
        UserError("no"),
        torch.OutOfMemoryError("gloo"),
        KeyError("by"),
    ):
        with pytest.raises(type(error)) as caught, World(rank=0, size=2):
            raise error
        assert caught.value is error
