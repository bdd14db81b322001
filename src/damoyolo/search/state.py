"""The state of a search as a file, so that one that was killed goes on and finds the same."""

from __future__ import annotations

import base64
import json
import random
from array import array
from collections import Counter
from pathlib import Path
from typing import Any

from damoyolo.errors import UserError
from damoyolo.files import write_atomically
from damoyolo.search.evolve import Island, Member, Problem, State
from damoyolo.search.space import Genes

VERSION = 1


def save_state(state: State, settings: dict[str, Any], path: Path) -> None:
    """Write the state and the settings that it hangs on."""
    islands = [_packed(island) for island in state.islands]
    content = {"version": VERSION, "settings": settings, "tried": state.tried, "islands": islands}
    write_atomically(path, json.dumps(content).encode())


def load_state(path: Path, settings: dict[str, Any], problem: Problem) -> State:
    """The state in a file, for the problem that it was saved for.

    Raises:
        UserError: if the file is broken, or was made with other settings.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["version"] != VERSION:
            raise ValueError(f"version {content['version']}")
        before = content["settings"]
        if not isinstance(before, dict) or not content["islands"] or not int(content["tried"]) >= 0:
            raise ValueError("settings, islands or tried")
        islands = [_unpacked(each, problem) for each in content["islands"]]
        state = State(islands, int(content["tried"]))
    except OSError as error:
        raise UserError(f"resume: {path} cannot be read ({error.strerror}); check the folder") from error
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError) as error:
        raise UserError(
            f"resume: {path} is no state of a search ({error!r}); delete it and begin anew"
        ) from error
    for name, value in settings.items():
        if before.get(name) != value:
            raise UserError(
                f"resume: {path} was made with {name} {before.get(name)}, now it is {value}; "
                "make them agree or choose another output"
            )
    return state


def _packed(island: Island) -> dict[str, Any]:
    version, numbers, normal = island.rng.getstate()
    return {
        "rng": [version, list(numbers), normal],
        "members": [list(member) for member in island.population.members()],
        "seen": base64.b64encode(array("q", sorted(island.seen)).tobytes()).decode(),
        "counts": dict(island.counts),
    }


def _unpacked(content: dict[str, Any], problem: Problem) -> Island:
    rng = random.Random()
    version, numbers, normal = content["rng"]
    rng.setstate((version, tuple(numbers), normal))
    genomes = [tuple(Genes(*genes) for genes in genome) for _, genome, _ in content["members"]]
    members = [Member(problem.score(genome), genome, problem.price(genome)) for genome in genomes]
    if not members or any(problem.refusal(member.costs) for member in members):
        raise ValueError("no members, or some beyond the budgets")
    seen = array("q")
    seen.frombytes(base64.b64decode(content["seen"], validate=True))
    return Island(
        rng,
        problem.population(members),
        set(seen),
        Counter({str(k): int(v) for k, v in content["counts"].items()}),
    )
