"""Predicted against measured latency of whole detectors that the prediction has not seen.

    python benchmarks/latency_model.py --device openvino-cpu --space mob --image-size 416 [--structures 24]

A profile of the device is taken (or read), random structures of the space are drawn with another seed, built,
exported and timed in turns. Prints a row for each, the median absolute error and Kendall's tau.

A machine is not equally fast all the time. The detectors that the profile was fitted to are timed again among
the others: their ratio to then is the drift of the machine, and the errors are told with and without it.
"""

from __future__ import annotations

import argparse
import json
from itertools import islice
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy.stats import kendalltau

from damoyolo.assemble.devices import open_device
from damoyolo.assemble.models import read_any_spec
from damoyolo.assemble.profiling import measure_detectors, profile_device, random_genomes
from damoyolo.config import ProfileConfig
from damoyolo.search.cost import CostModel
from damoyolo.search.mutate import Mutator
from damoyolo.search.profile import Profile
from damoyolo.search.space import SPACES

PROFILE_SEED = ProfileConfig().seed


def compare(profile, device, structures, seed):
    """Rows of FLOPs, predicted and measured milliseconds, and the drift of the machine since the profile."""
    space = SPACES[profile.space].activated(profile.activation)
    like = read_any_spec(profile.like).model_copy(update={"neck": profile.neck})
    price = CostModel(
        space.frame,
        profile.image_size,
        "detector",
        like.neck,
        like.head,
        profile.num_classes,
        profile.table(),
    )
    mutator = Mutator(space, profile.image_size)
    drawn = list(islice(random_genomes(price, mutator, like, seed), structures))
    fitted = list(islice(random_genomes(price, mutator, like, PROFILE_SEED), len(profile.detectors)))
    genomes = drawn + fitted
    specs = [like.model_copy(update={"structure": space.frame.structure(genome)}) for genome in genomes]
    measured = measure_detectors(device, specs, profile.num_classes, profile.image_size)
    then = [ms for _, ms in profile.detectors]
    drift = float(np.median(np.array(measured[structures:]) / then))
    rows = [
        (price(genome).flops / 1e9, price(genome).latency_ms, ms)
        for genome, ms in zip(drawn, measured, strict=False)
    ]
    return rows, drift


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--device", default="openvino-cpu")
    parser.add_argument("--space", default="mob")
    parser.add_argument("--image-size", type=int, default=416)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--profile", type=Path, help="read this one instead of measuring")
    parser.add_argument("--structures", type=int, default=24)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if args.profile:
        profile = Profile.read(args.profile)
    else:
        names = ("device", "space", "image_size", "threads", "seconds")
        profile, path = profile_device(ProfileConfig(**{name: getattr(args, name) for name in names}))
        print(f"profile: {path}")
    device = open_device(profile.device, profile.threads, "bf16" if profile.precision == "bf16" else None)
    rows, drift = compare(profile, device, args.structures, args.seed)
    rows.sort(key=lambda row: row[2])
    flops, predicted, measured = np.array(rows).T
    table = Table(title=f"{profile.runtime}, {profile.space}, {profile.image_size} px, {profile.machine}")
    for heading in ("GFLOPs", "predicted ms", "measured ms", "error"):
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(*(f"{value:.2f}" for value in row), f"{row[1] / row[2] - 1:+.1%}")
    Console(width=100).print(table)
    error, undrifted = np.abs(predicted / measured - 1), np.abs(drift * predicted / measured - 1)
    facts = {
        "median_error": float(np.median(error)),
        "drift": drift,
        "median_error_without_drift": float(np.median(undrifted)),
        "largest_error_without_drift": float(undrifted.max()),
        "tau": float(kendalltau(predicted, measured).statistic),
        "tau_of_flops": float(kendalltau(flops, measured).statistic),
    }
    print(", ".join(f"{name} {value:.3f}" for name, value in facts.items()))
    if args.json:
        args.json.write_text(json.dumps({**facts, "rows": rows}))


if __name__ == "__main__":
    main()
