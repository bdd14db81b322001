"""Candidates a second and best score against time, for the three published searches, on one core.

    python benchmarks/search.py --table v100-fp16-bs32.txt [--candidates 200000] [--seed 0]

Latencies and costs are counted as by the original code, so that scores compare with its own: it tries 49.6
candidates a second in the first search and reaches 1008.9 after 150 s. The last three rows search at the
latencies of the published T, S and M instead, and show what those score.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from damoyolo.search.cost import CostModel
from damoyolo.search.entropy import MadNas
from damoyolo.search.evolve import Problem, begin, evolve
from damoyolo.search.latency import OriginalTable, read_table
from damoyolo.search.mutate import Mutator
from damoyolo.search.space import SPACES, Frame, genome_of
from damoyolo.zoo import read_spec

TINY, LARGER = ((64, 128, 256), (96, 192, 384)), ((64, 128, 256), (128, 256, 512))
SEARCHES = {
    "tiny": ("k1kx", TINY, 20, 0.08),
    "small": ("k1kx", LARGER, 25, 0.12),
    "medium": ("kxkx", LARGER, 35, 0.4),
}
"""Space, ranges of C3 C4 C5, layers, milliseconds an image."""
SHIPPED = {"T": "tiny", "S": "small", "M": "medium"}
REFERENCE_SCORE = 1008.9
SECONDS = (0.25, 0.5, 1.0, 2.0, 4.0)


def problem(search, table, ms=None):
    name, widths, layers, most_ms = SEARCHES[search]
    space = SPACES[name].within(*widths)
    mutate = Mutator(space, 640, layers)
    return Problem(
        mutate=mutate,
        price=CostModel(space.frame, 640, "searched", latency=OriginalTable(table)),
        score=MadNas(space.frame),
        budgets={"layers": float(layers), "latency_ms": ms or most_ms},
        starts=(genome_of(space.seed), mutate.smallest()),
    )


def run(task, candidates, seed):
    """Best score against seconds with nothing remembered; candidates a second of wall and CPU time."""
    start, start_cpu = time.perf_counter(), time.process_time()
    state = begin(task, seed)
    history = []
    for _ in evolve(task, state, candidates):
        history.append((time.process_time() - start_cpu, state.members()[0].score))
    wall, cpu = time.perf_counter() - start, time.process_time() - start_cpu
    return state, history, candidates / wall, candidates / cpu


def shown(history, seconds):
    reached = [score for at, score in history if at <= seconds]
    return f"{reached[-1]:.1f}" if reached else "–"


def shipped_facts(size, table):
    structure = read_spec(size).structure
    frame, genome = Frame(structure), genome_of(structure)
    return MadNas(frame)(genome), CostModel(frame, 640, "searched", latency=OriginalTable(table))(genome)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    data = Path(os.environ.get("DAMOYOLO_DATA", "../shared/data"))
    parser.add_argument("--table", type=Path, default=data / "latency" / "v100-fp16-bs32.txt")
    parser.add_argument("--candidates", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if not args.table.exists():
        raise SystemExit(f"no table {args.table}; set DAMOYOLO_DATA to a folder with latency, or --table")
    rows = read_table(args.table)
    table = Table(
        title=f"{args.candidates:,} candidates, seed {args.seed}, Python {platform.python_version()}"
    )
    for column in ("search", "ms", "layers", "per s", "per CPU s", "new %"):
        table.add_column(column, justify="right")
    for seconds in SECONDS:
        table.add_column(f"{seconds:g} s", justify="right")
    for column in ("end", "shipped", "its ms"):
        table.add_column(column, justify="right")
    for search in [*SEARCHES, *SHIPPED]:
        published, costs = shipped_facts(search, rows) if search in SHIPPED else (None, None)
        task = problem(SHIPPED.get(search, search), rows, costs and costs.latency_ms)
        state, history, rate, cpu_rate = run(task, args.candidates, args.seed)
        if search == "tiny":
            passed = next((at for at, score in history if score > REFERENCE_SCORE), None)
        best = state.members()[0]
        table.add_row(
            *(
                search,
                f"{best.costs.latency_ms:.5f}",
                str(best.costs.layers),
                f"{rate:,.0f}",
                f"{cpu_rate:,.0f}",
            ),
            f"{100 * (1 - state.counts['seen before'] / state.tried):.0f}",
            *(shown(history, seconds) for seconds in SECONDS),
            f"{best.score:.2f}",
            *((f"{published:.2f}", f"{costs.latency_ms:.5f}") if costs else ("", "")),
        )
    Console(width=150).print(table)
    when = f"passed after {passed:.2f} s" if passed is not None else "not reached"
    print(f"seconds are of the CPU; {REFERENCE_SCORE} (the original after 150 s) {when}")


if __name__ == "__main__":
    main()
