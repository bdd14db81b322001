from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from damoyolo.errors import UserError
from damoyolo.search import evolve as evolve_module
from damoyolo.search.cost import CostModel, Costs
from damoyolo.search.entropy import MadNas
from damoyolo.search.evolve import (
    SEEN,
    TOO_LOW,
    UNPRICED,
    Axis,
    Best,
    BestAtEveryCost,
    Member,
    Problem,
    begin,
    evolve,
)
from damoyolo.search.mutate import Mutator
from damoyolo.search.ops import Op
from damoyolo.search.space import SPACES, Genes, genome_of
from damoyolo.search.state import load_state, save_state


@pytest.fixture(autouse=True)
def _short_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evolve_module, "ROUND", 100)
    monkeypatch.setattr(evolve_module, "ROUND_OF_MANY", 250)


def problem(front: Axis | None = None, latency: Any = None, **budgets: float) -> Problem:
    space = SPACES["k1kx"]
    mutate = Mutator(space, 320, max_layers=19)
    return Problem(
        mutate=mutate,
        price=CostModel(space.frame, 320, "backbone", latency=latency),
        score=MadNas(space.frame),
        budgets={"layers": 19.0, "flops": 1e9, **budgets},
        starts=(genome_of(space.seed), mutate.smallest()),
        front=front,
        size=64,
    )


def run(task: Problem, candidates: int = 300, seed: int = 0, workers: int = 1) -> Any:
    state = begin(task, seed, workers)
    for _ in evolve(task, state, candidates):
        pass
    return state


def test_the_same_seed_finds_the_same_and_another_seed_goes_another_way() -> None:
    first, again, other = run(problem()), run(problem()), run(problem(), seed=1)
    assert first.members() == again.members()
    assert first.counts == again.counts
    assert first.members() != other.members()


def test_it_gets_better_and_stays_within_the_budgets() -> None:
    task = problem()
    start, end = run(task, 50), run(task, 600)
    assert end.members()[0].score > start.members()[0].score > begin(task, 0).members()[0].score
    for member in end.members():
        assert member.costs.flops <= 1e9
        assert member.costs.layers <= 19
        assert member.costs == task.price(member.genome)
        assert member.score == pytest.approx(task.score(member.genome))


def test_every_candidate_is_accounted_for_and_none_is_priced_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    priced: Counter[object] = Counter()
    task = problem()

    class Counting(CostModel):
        def __call__(self, genome: Any) -> Costs:
            priced[genome] += 1
            return super().__call__(genome)

    price = Counting(SPACES["k1kx"].frame, 320, "backbone")
    state = run(Problem(task.mutate, price, task.score, task.budgets, task.starts, size=64), 600)
    assert set(priced.values()) == {1}
    assert sum(state.counts.values()) == 600 == state.tried
    assert state.counts[SEEN] == 600 - (len(priced) - 2)
    assert set(state.counts) == {SEEN, TOO_LOW, "kept", "too many FLOPs"}


def test_it_may_be_interrupted_between_rounds_and_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    whole = run(problem(), 400)
    part, path = run(problem(), 200), tmp_path / "state.json"
    save_state(part, {"seed": 0}, path)
    task = problem()
    resumed = load_state(path, {"seed": 0}, task)
    for _ in evolve(task, resumed, 400):
        pass
    assert resumed.members() == whole.members()
    assert resumed.counts == whole.counts
    assert resumed.islands[0].rng.getstate() == whole.islands[0].rng.getstate()


def test_a_front_goes_on_to_the_same_bits_too(tmp_path: Path) -> None:
    whole, part, task = run(problem("flops"), 400), run(problem("flops"), 200), problem("flops")
    save_state(part, {}, tmp_path / "state.json")
    resumed = load_state(tmp_path / "state.json", {}, task)
    for _ in evolve(task, resumed, 400):
        pass
    assert resumed.members() == whole.members()


@pytest.mark.parametrize(
    "text",
    ["", "[]", '{"version": 9}', '{"version": 1, "settings": {}, "tried": 1, "islands": [{"rng": 3}]}'],
)
def test_a_broken_state_is_told(text: str, tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    path.write_text(text)
    with pytest.raises(UserError, match="is no state of a search"):
        load_state(path, {}, problem())


def test_a_state_with_its_memory_cut_off_is_told(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    save_state(run(problem(), 100), {}, path)
    content = json.loads(path.read_text())
    content["islands"][0]["seen"] = content["islands"][0]["seen"][:-5]
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match="is no state of a search"):
        load_state(path, {}, problem())


def test_a_state_of_other_settings_is_told(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    save_state(run(problem(), 100), {"seed": 0}, path)
    with pytest.raises(UserError, match="was made with seed 0, now it is 1"):
        load_state(path, {"seed": 1}, problem())


def test_starts_that_cost_too_much_are_no_members() -> None:
    task = problem(flops=2e8)
    assert [member.genome for member in begin(task, 0).members()] == [task.starts[-1]]
    with pytest.raises(ValueError, match="no start is within the budgets"):
        begin(problem(flops=1.0), 0)


class SmallMapsOnly:
    """A device that knows nothing of operators with many channels."""

    fixed_ms = 0.0

    def ms(self, op: Op) -> float:
        return float("inf") if op.cout > 200 else 0.01


def test_a_structure_of_unknown_latency_is_refused_by_name() -> None:
    state = run(problem(latency=SmallMapsOnly()), 300)
    assert state.counts[UNPRICED] > 0
    assert all(genes.out <= 200 for member in state.members() for genes in member.genome)


@pytest.mark.slow
def test_workers_find_the_same_for_the_same_seed_and_number() -> None:
    first, again = (run(problem(), 1_000, workers=2) for _ in range(2))
    assert first.members() == again.members()
    assert first.counts == again.counts
    assert sum(first.counts.values()) == 1_000 == first.tried
    assert first.islands[0].seen == first.islands[1].seen


def member(score: float, flops: int) -> Member:
    return Member(score, (Genes(8),), Costs(1, flops, 1, 0.0))


def test_a_full_population_drops_its_worst() -> None:
    population = Best(2)
    assert [population.offer(member(score, 1)) for score in (1.0, 3.0, 2.0, 1.5)] == [True, True, True, False]
    assert [each.score for each in population.members()] == [2.0, 3.0]


def test_the_population_of_a_front_keeps_cheap_ones_that_score_less() -> None:
    population = BestAtEveryCost("flops", depth=1)
    offered = [member(1.0, 1000), member(9.0, 5000), member(2.0, 1000), member(0.5, 1001)]
    assert [population.offer(each) for each in offered] == [True, True, True, False]
    assert [each.score for each in population.members()] == [2.0, 9.0]


WORKERS = """
import time
from damoyolo.search.cost import CostModel
from damoyolo.search.entropy import MadNas
from damoyolo.search.evolve import Problem, begin, local_workers
from damoyolo.search.mutate import Mutator
from damoyolo.search.space import SPACES

space = SPACES["k1kx"]
mutator, price = Mutator(space, 320, 19), CostModel(space.frame, 320, "backbone")
problem = Problem(mutator, price, MadNas(space.frame), {"flops": 1e9}, (mutator.smallest(),), size=32)
with local_workers(problem, 2) as advance:
    advance(begin(problem, 0, 2).islands, [10, 10])
    print("at work", flush=True)
    time.sleep(60)
"""


def test_workers_end_when_their_search_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", WORKERS], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "at work\n"
        process.kill()
        process.communicate(timeout=30)  # which ends when the last one that holds the pipe does
