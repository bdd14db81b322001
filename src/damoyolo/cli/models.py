"""`damoyolo models`."""

from __future__ import annotations

import json
from typing import Annotated, Any

import rich
from cyclopts import Parameter
from rich.console import Group
from rich.table import Table

from damoyolo.spec import ModelSpec
from damoyolo.zoo import SIZES, read_spec


def models(*, as_json: Annotated[bool, Parameter(name="--json", negative="")] = False) -> None:
    """List the model suite with its published facts.

    Parameters
    ----------
    as_json
        Print JSON instead of a table.
    """
    facts = [_facts(read_spec(size)) for size in SIZES]
    if as_json:
        print(json.dumps(facts, indent=2))
    else:
        rich.print(_table(facts))


def _facts(spec: ModelSpec) -> dict[str, Any]:
    assert spec.published is not None
    return {
        "name": spec.name,
        "kind": spec.structure.kind,
        "image_size": spec.image_size,
        **spec.published.model_dump(),
    }


def _table(facts: list[dict[str, Any]]) -> Group:
    table = Table("size", "kind", title="AP on COCO val2017; AP* with distillation")
    for heading in ("input", "params M", "GFLOPs", "AP", "AP*", "latency ms"):
        table.add_column(heading, justify="right")
    for each in facts:
        distilled = each["ap_distilled"]
        table.add_row(
            *(each["name"], each["kind"], str(each["image_size"])),
            *(f"{each['params_m']:.2f}", f"{each['gflops']:.2f}", f"{each['ap']:.1f}"),
            *("–" if distilled is None else f"{distilled:.1f}", f"{each['latency_ms']:.2f}"),
        )
    return Group(table, *_notes(facts, "latency_on", "Latency"), *_notes(facts, "source", "Source"))


def _notes(facts: list[dict[str, Any]], field: str, title: str) -> list[str]:
    """One line per value of a field, with the sizes that have it."""
    sizes: dict[str, list[str]] = {}
    for each in facts:
        sizes.setdefault(each[field], []).append(each["name"])
    return [f"{title} of {' '.join(names)}: {value}" for value, names in sizes.items()]
