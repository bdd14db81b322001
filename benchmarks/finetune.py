"""Fine-tuning to one class against training from scratch, equal epochs, in one run.

    python benchmarks/finetune.py --weights runs/aquarium/best.safetensors --data bccd --class-name WBC
                                  [--epochs 10] [--seeds 0 1 2] [--set freeze=[backbone] optim.lr=0.01]

Users of the reference reported 12 AP lost by fine-tuning to a single class. Here the weights know other
classes than the data, which are reduced to one: what fine-tuning brings must come from backbone and neck.
`--set` changes settings of the fine-tuned runs; it is how the recipe was chosen. Data are in DAMOYOLO_DATA.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from pathlib import Path

import yaml
from rich.console import Console
from rich.table import Table

from damoyolo.assemble import resolve, train
from damoyolo.zoo.recipes import overlay

DATA = Path(os.environ.get("DAMOYOLO_DATA", Path(__file__).parents[2] / "shared" / "data"))


def only_class(source, name, folder):
    """A YAML file that names the data set's annotations of one class, on all of its images."""
    paths = {}
    for split in ("train", "val"):
        content = json.loads((source / f"{split}.json").read_text())
        (kept,) = [each for each in content["categories"] if each["name"] == name]
        content["categories"] = [kept]
        content["annotations"] = [
            each for each in content["annotations"] if each["category_id"] == kept["id"]
        ]
        (folder / f"{split}.json").write_text(json.dumps(content))
        paths[split] = {"annotations": f"{split}.json", "images": str(source / "images")}
    (folder / "data.yaml").write_text(yaml.safe_dump(paths))
    return folder / "data.yaml"


def nested(assignment):
    """`optim.lr=0.01` as settings."""
    path, value = assignment.split("=", 1)
    settings = yaml.safe_load(value)
    for part in reversed(path.split(".")):
        settings = {part: settings}
    return settings


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--model", default="Ns", help="the weights' size, for the run from scratch")
    parser.add_argument("--data", default="bccd")
    parser.add_argument("--class-name", default="WBC")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--image-size", type=int, default=320)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--only", choices=("scratch", "finetune"))
    parser.add_argument("--set", nargs="*", default=[], metavar="SETTING=VALUE")
    args = parser.parse_args()
    table = Table(
        title=f"{args.data}, {args.class_name} alone, {args.epochs} epochs, {len(args.seeds)} seeds"
    )
    for column in ("begun from", "AP", "AP50", "AP of each seed"):
        table.add_column(column, justify="right")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = only_class(DATA / args.data, args.class_name, folder)
        for recipe, model in (("quick", args.model), ("finetune", args.weights)):
            kind = "scratch" if recipe == "quick" else "finetune"
            if args.only not in (None, kind):
                continue
            results = []
            for seed in args.seeds:
                settings = {
                    "model": model,
                    "data": data,
                    "epochs": args.epochs,
                    "image_size": args.image_size,
                }
                settings |= {"seed": seed, "output": folder / f"{kind}-{seed}", "evaluate_every": args.epochs}
                settings["report"] = False
                if kind == "finetune":
                    for assignment in args.set:
                        settings = overlay(settings, nested(assignment))
                metrics = train(resolve(recipe, settings)).metrics.read_text().splitlines()
                results.append(json.loads(metrics[-1]))
            ap, ap50 = ([each[number] for each in results] for number in ("ap", "ap50"))
            each = " ".join(f"{value:.3f}" for value in ap)
            table.add_row(
                f"{kind} ({recipe})", f"{statistics.mean(ap):.3f}", f"{statistics.mean(ap50):.3f}", each
            )
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
