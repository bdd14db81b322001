"""Run a function in several processes that form one world, without the cost of importing torch each time."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import torch
from torch.distributed import TCPStore

from damoyolo.training.distributed import PEER_LOST, World, open_world

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["damoyolo.training.distributed", "pytest"])
PATIENCE_S = 60
CPU = torch.device("cpu")


def in_worlds(size: int, task: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What `task(world, *arguments)` gives in each process, by rank."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    with ProcessPoolExecutor(size, CONTEXT) as pool:
        runs = [pool.submit(_enter, rank, size, store.port, task, arguments) for rank in range(size)]
        try:
            errors = [error for run in runs if (error := run.exception(PATIENCE_S))]
        except TimeoutError:  # they wait for each other; so would the pool
            for process in list(pool._processes.values()):
                process.kill()
            raise
        for error in sorted(errors, key=lambda error: PEER_LOST in str(error)):  # causes before consequences
            raise error
        return [run.result() for run in runs]


def variables(rank: int, size: int, port: int) -> dict[str, str]:
    """The environment that torchrun would give."""
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }


def _enter(rank: int, size: int, port: int, task: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    os.environ |= variables(rank, size, port)
    torch.set_num_threads(1)
    with open_world(CPU) as world:
        assert isinstance(world, World)
        return task(world, *arguments)
