"""Does the score foretell AP? Short trainings of three times twelve structures.

The first set is of equal latency and spread scores, the second of equal score and spread latencies, the third
of equal latency and depth and spread scores, as the score of MAE-NAS counts depth above all.

    python benchmarks/proxy.py FOLDER --profile here.json --data path/to/bccd [--epochs 12] [--seeds 0]

`here.json` is what `damoyolo profile --space k1kx --like benchmarks/dense.yaml --image-size 416` wrote. The
structures are chosen by it, measured on the device in turns, trained one after the other with equal epochs
and seeds, and judged on val and test. At last, Kendall's tau of AP with the scores and with plain costs, and
the ends of its 95 % interval by bootstrap over structures. FOLDER keeps everything; the same command goes on
after an interruption.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy.stats import kendalltau

import damoyolo as dy
from damoyolo.assemble.devices import open_device
from damoyolo.assemble.models import read_any_spec
from damoyolo.assemble.profiling import measure_detectors
from damoyolo.search.cost import CostModel
from damoyolo.search.entropy import DeepMad, MadNas
from damoyolo.search.mutate import Mutator
from damoyolo.search.profile import Profile
from damoyolo.search.space import SPACES

LIKE = Path(__file__).with_name("dense.yaml")
COUNT = 12
"""Structures of a set."""
BAND = 0.02
"""Two latencies or scores are called equal when they differ by less."""
STEPS = 6_000
"""Mutations on the way from one structure to the next."""
SETS = ("equal latency", "equal score", "equal latency and depth")
LADDER = tuple(np.geomspace(500, 2500, 40))
"""Scores that are tried to find which can be had."""
PREDICTORS = ("madnas", "deepmad", "layers", "gflops", "params_m", "latency_ms")


class Judge:
    """Scores and costs of a genome, by the profile of a device."""

    def __init__(self, profile: Profile) -> None:
        self.profile = profile
        self.like = read_any_spec(str(LIKE)).model_copy(update={"neck": profile.neck})
        space = SPACES[profile.space].activated(profile.activation)
        self.frame, self.mutate = space.frame, Mutator(space, profile.image_size)
        self.price = CostModel(
            self.frame, profile.image_size, "detector", self.like.neck, self.like.head,
            profile.num_classes, profile.table(),
        )  # fmt: skip
        self.madnas = MadNas(self.frame, space.stage_weights)
        self.deepmad = DeepMad(self.frame, profile.image_size // 2)

    def __call__(self, genome):
        """What may foretell AP, by name."""
        costs = self.price(genome)
        return {
            "madnas": self.madnas(genome),
            "deepmad": self.deepmad(genome),
            "layers": costs.layers,
            "gflops": costs.flops / 1e9,
            "params_m": costs.params / 1e6,
            "latency_ms": costs.latency_ms,
        }

    def walk(self, genome, aims, rng):
        """From a genome to a random one that is within a band around all that is aimed at; or not quite."""

        def off(each):
            facts = self(each)
            if not math.isfinite(facts["latency_ms"]):
                return math.inf
            return sum(abs(math.log(facts[name] / aim)) for name, aim in aims.items())

        distance = off(genome)
        for _ in range(STEPS):
            child = self.mutate(genome, rng)
            reached = off(child)
            if reached <= max(distance, BAND):
                genome, distance = child, reached
        return genome, distance <= BAND

    def spread(self, genome, aims, rng):
        """Genomes that meet the aims, of evenly spaced scores from about the lowest to the highest."""
        ladder = []
        for score in LADDER:
            genome, arrived = self.walk(genome, {**aims, "madnas": score}, rng)
            ladder += [genome] * arrived
        low, high = self.madnas(ladder[0]), self.madnas(ladder[-1])
        print(f"scores between {low:.0f} and {high:.0f} go with {aims}")
        wanted = [{**aims, "madnas": score} for score in np.linspace(low, high, COUNT)]
        return self.row_of(ladder[0], wanted, rng)

    def row_of(self, genome, wanted, rng):
        """Genomes that meet one list of aims after the other."""
        genomes = []
        for aims in wanted:
            genome, arrived = self.walk(genome, aims, rng)
            genomes += [genome] * arrived
        return genomes


def choose(judge, latency_ms, spread, layers):
    """The sets: name to genomes; fewer than wanted where some cannot be had."""
    rng, genome, equal = random.Random(0), judge.mutate.smallest(), {"latency_ms": latency_ms}
    by_score = judge.spread(genome, equal, rng)
    middle = float(np.exp(np.mean([math.log(judge.madnas(each)) for each in by_score])))
    times = latency_ms * np.geomspace(1 / spread, spread, COUNT)
    wanted = [{"latency_ms": ms, "madnas": middle} for ms in times]
    by_latency = judge.row_of(genome, wanted, rng)
    of_one_depth = judge.spread(genome, {**equal, "layers": layers}, rng)
    return dict(zip(SETS, (by_score, by_latency, of_one_depth), strict=True))


def prepare(folder, judge, args):
    """Choose, write a spec for each, measure; rows of facts, kept in the folder."""
    file = folder / "structures.json"
    if file.exists():
        return json.loads(file.read_text())
    folder.mkdir(parents=True, exist_ok=True)
    rows, specs = [], []
    for name, genomes in choose(judge, args.latency_ms, args.spread, args.layers).items():
        for number, genome in enumerate(genomes):
            spec = judge.like.model_copy(update={"structure": judge.frame.structure(genome)})
            path = folder / f"{name.replace(' ', '-')}-{number}.yaml"
            path.write_text(spec.to_yaml())
            specs.append(spec)
            rows.append({"set": name, "spec": str(path), **judge(genome)})
    profile = judge.profile
    device = open_device(profile.device, profile.threads)
    for row, ms in zip(
        rows, measure_detectors(device, specs, profile.num_classes, profile.image_size), strict=True
    ):
        row["measured_ms"] = ms
    file.write_text(json.dumps(rows, indent=1))
    return rows


def train(row, args, seed):
    """AP of a structure after a short training: the mean of val and test, of the last weights."""
    spec = Path(row["spec"])
    run = spec.with_suffix("").with_name(f"{spec.stem}-seed{seed}")
    result = run.with_suffix(".json")
    if not result.exists():
        settings = {"model": str(spec), "data": args.data, "image_size": args.train_size, "seed": seed}
        settings |= {"epochs": args.epochs, "precision": args.precision, "output": run, "report": False}
        with run.with_suffix(".log").open("a") as log, redirect_stdout(log), redirect_stderr(log):
            dy.train(dy.resolve(None, settings), resume=(run / "state.pt").exists())
        model = dy.load(str(run / "last.safetensors"))
        aps = [dy.evaluate(model, str(args.data), split=split).ap for split in ("val", "test")]
        result.write_text(json.dumps(aps))
    return float(np.mean(json.loads(result.read_text())))


def tau(values, aps, rng, draws=2000):
    """Kendall's tau, the ends of its 95 % interval, and the chance of so large a one without any relation."""
    values, aps = np.asarray(values, float), np.asarray(aps, float)
    found = kendalltau(values, aps)
    again = []
    for _ in range(draws):
        picked = rng.integers(len(aps), size=len(aps))
        again.append(kendalltau(values[picked], aps[picked]).statistic)
    low, high = np.nanquantile(again, (0.025, 0.975))
    return float(found.statistic), float(low), float(high), float(found.pvalue)


def report(rows, aps):
    """Print both sets, and how well each predictor orders them."""
    console, rng = Console(width=120), np.random.default_rng(0)
    for name in dict.fromkeys(row["set"] for row in rows):
        members = [number for number, row in enumerate(rows) if row["set"] == name]
        table = Table(title=name)
        for heading in (*PREDICTORS, "measured_ms", "AP"):
            table.add_column(heading, justify="right")
        for number in members:
            row = rows[number]
            facts = [f"{row[key]:.4g}" for key in (*PREDICTORS, "measured_ms")]
            table.add_row(*facts, " ".join(f"{ap:.3f}" for ap in aps[number]))
        console.print(table)
        means = [float(np.mean(aps[number])) for number in members]
        for key in (*PREDICTORS, "measured_ms"):
            statistic, low, high, p = tau([rows[number][key] for number in members], means, rng)
            console.print(f"tau of {key} with AP: {statistic:+.2f} ({low:+.2f} to {high:+.2f}), p {p:.3f}")
        if len(aps[0]) > 1:
            first, second = ([aps[number][seed] for number in members] for seed in (0, 1))
            console.print(f"tau of the first two seeds: {tau(first, second, rng)[0]:+.2f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--profile", type=Path, required=True)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("DAMOYOLO_DATA", ".")) / "bccd")
    parser.add_argument("--latency-ms", type=float, default=10.0, help="of all in the first set")
    parser.add_argument("--spread", type=float, default=1.4, help="of latencies in the second, either way")
    parser.add_argument("--layers", type=int, default=25, help="of all in the third")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--train-size", type=int, default=320)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    args = parser.parse_args()
    rows = prepare(args.folder, Judge(Profile.read(args.profile)), args)
    rows = [row for row in rows if row["set"] in args.sets]
    aps = [[] for _ in rows]
    for seed in args.seeds:
        for number, row in enumerate(rows):
            aps[number].append(train(row, args, seed))
            print(f"{row['spec']} seed {seed}: AP {aps[number][-1]:.3f}", flush=True)
    report(rows, aps)


if __name__ == "__main__":
    main()
