"""Islands of a search on the machines of a ray cluster; what is found is the same as with local processes."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import socket
from collections.abc import Iterator
from typing import Any

from damoyolo.errors import RunError, UserError
from damoyolo.search.evolve import Advance, Island, Problem

PATIENCE_S = 5.0
"""For the machine of a cluster to answer."""


@contextlib.contextmanager
def ray_workers(problem: Problem, count: int, address: str = "auto") -> Iterator[Advance]:
    """Something that advances all islands by their shares, each in a worker process of the cluster.

    Args:
        problem: what is searched for; sent once to each worker.
        count: islands, hence workers; the cluster must have as many free CPU cores.
        address: `auto` for the cluster this machine is in, `local` for one on this machine that ends with the
            search, or `ray://host:port`.

    Raises:
        UserError: if ray is not installed, or the cluster cannot be reached or is too small.
        RunError: if a worker is lost.
    """
    ray = _connected(address, count)
    try:
        actor = ray.remote(num_cpus=1)(_Worker)
        workers = [actor.remote(problem) for _ in range(count)]

        def advance(islands: list[Island], shares: list[int]) -> list[Island]:
            parts = zip(workers, islands, shares, strict=True)
            try:
                advanced: list[Island] = ray.get([each.advance.remote(*part) for each, *part in parts])
            except ray.exceptions.RayError as error:
                raise RunError(
                    f"cluster: {address} lost a worker ({_first_line(error)}); go on with --resume"
                ) from error
            return advanced

        yield advance
    finally:
        ray.shutdown()


def check_cluster(address: str, count: int) -> None:
    """What `ray_workers` would raise, before anything is measured; on this machine it needs only ray."""
    if address == "local":
        _ray()
    else:
        _connected(address, count).shutdown()


class _Worker:
    """One process; it keeps the prices that it remembers between rounds."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem

    def advance(self, island: Island, candidates: int) -> Island:
        island.advance(self._problem, candidates)
        return island


def _ray() -> Any:
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise UserError("cluster: ray is not installed; pip install -e '.[ray]' brings it") from error


def _answers(address: str) -> None:
    """`ConnectionError` unless a `host:port` can be reached: ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not (host and port.isdecimal()):
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), PATIENCE_S).close()
    except (OSError, OverflowError) as error:
        raise ConnectionError(str(error)) from error


def _connected(address: str, count: int) -> Any:
    ray = _ray()
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if address == "local":
            ray.init(num_cpus=count, include_dashboard=False, **quiet)
        else:
            _answers(address)
            ray.init(address=address, **quiet)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise UserError(
            f"cluster: no ray cluster answers at '{address}' ({_first_line(error)}); start one with "
            "`ray start --head`, or take local"
        ) from error
    cores = int(ray.cluster_resources().get("CPU", 0))
    if cores < count:
        ray.shutdown()
        raise UserError(f"workers: {count} need as many cores, and the cluster at '{address}' has {cores}")
    return ray


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
