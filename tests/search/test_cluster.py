from __future__ import annotations

import sys
from functools import partial

import pytest

from damoyolo.errors import UserError
from damoyolo.search import evolve as evolution
from damoyolo.search.cluster import check_cluster, ray_workers
from damoyolo.search.cost import CostModel
from damoyolo.search.entropy import MadNas
from damoyolo.search.evolve import Problem, State, begin, evolve
from damoyolo.search.mutate import Mutator
from damoyolo.search.space import SPACES


def problem() -> Problem:
    space = SPACES["k1kx"]
    mutator = Mutator(space, 320, 19)
    price = CostModel(space.frame, 320, "backbone")
    return Problem(mutator, price, MadNas(space.frame), {"flops": 1e9}, (mutator.smallest(),), size=32)


def found(workers: evolution.Workers | None) -> State:
    task = problem()
    state = begin(task, seed=3, workers=2)
    for _ in evolve(task, state, 400, workers):
        pass
    return state


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_cluster_finds_what_local_processes_find(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evolution, "ROUND_OF_MANY", 100)
    here, there = found(None), found(partial(ray_workers, address="local"))
    assert there.members() == here.members()
    assert (there.tried, there.counts) == (here.tried, here.counts)
    assert there.tried == 400


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_cluster_that_does_not_answer_is_told() -> None:
    with (
        pytest.raises(UserError, match=r"cluster: no ray cluster answers at 'auto' .*take local"),
        ray_workers(problem(), 2, "auto"),
    ):
        pass


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "nowhere.invalid:6379"])
def test_a_machine_that_does_not_answer_is_told_at_once(address: str) -> None:
    with pytest.raises(UserError, match=rf"cluster: no ray cluster answers at '{address}' .*take local"):
        check_cluster(address, 2)


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with (
        pytest.raises(UserError, match=r"ray is not installed; pip install -e '.\[ray\]'"),
        ray_workers(problem(), 2),
    ):
        pass
    with pytest.raises(UserError, match="ray is not installed"):
        check_cluster("local", 2)
