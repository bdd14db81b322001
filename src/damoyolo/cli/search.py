"""`damoyolo search`."""

from __future__ import annotations

import json
import sys
from functools import partial
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from damoyolo.config import SearchConfig

if TYPE_CHECKING:
    from rich.table import Table

    from damoyolo.assemble.searching import SearchResult


def search(
    *,
    resume: Annotated[bool, Parameter(negative="")] = False,
    settings: Annotated[
        SearchConfig | None,
        Parameter(name="*", negative_iterable=(), negative_bool=(), consume_multiple=True),
    ] = None,
    as_json: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> int:
    """Search a backbone within a budget, without training; found.yaml is what `train --model` reads.

    Parameters
    ----------
    resume
        Go on with the search in --output, by its settings, to what it would have found; or begin one.
    settings
        What is searched for.
    as_json
        Print the result as JSON and nothing else.
    """
    import rich

    from damoyolo.assemble.searching import keeps_budget, search_backbone, summary

    config = settings or SearchConfig()
    try:
        result = search_backbone(config, resume, say=partial(print, file=sys.stderr))
    except KeyboardInterrupt:  # before the first candidate; profiles that were complete are kept
        print(
            "stopped before the search; nothing is lost, go on with the same command and --resume",
            file=sys.stderr,
        )
        return 130
    if as_json:
        print(json.dumps(summary(result), indent=1))
    else:
        rich.print(_table(result))
        if result.remark:
            print(result.remark)
        if config.max_layers is None and not config.front:
            layers = result.found[0].costs.layers
            print(f"it has {layers} layers: the score counts depth above all, which --max-layers limits")
        print(f"train it with: damoyolo train DATA --model {result.found[0].file}")
    if result.stopped:
        print(f"stopped; go on with: damoyolo search --output {config.output} --resume", file=sys.stderr)
        return 130
    if not keeps_budget(result):
        print(
            f"none that was measured keeps {result.config.max_latency_ms:g} ms; the fastest is in found.yaml",
            file=sys.stderr,
        )
        return 1
    return 0


def _table(result: SearchResult) -> Table:
    from rich.table import Table

    config = result.config
    counted = "searched" if config.reference else config.counting
    fates = ", ".join(f"{name} {count:,}" for name, count in sorted(result.counts.items()))
    table = Table(
        title=f"{result.tried:,} candidates, {result.rate:,.0f}/s",
        caption=f"costs of the {counted}; {fates}",
    )
    table.add_column("file", no_wrap=True)
    times: dict[str, list[float | None]] = {
        "predicted ms": [each.costs.latency_ms for each in result.found],
        "measured ms": [each.measured_ms for each in result.found],
    }
    times = {heading: column for heading, column in times.items() if any(column)}
    for heading in ("score", "layers", "params M", "GFLOPs", *times):
        table.add_column(heading, justify="right")
    for number, each in enumerate(result.found):
        costs = each.costs
        table.add_row(
            *(each.file.name, f"{each.score:.1f}", str(costs.layers)),
            *(f"{costs.params / 1e6:.2f}", f"{costs.flops / 1e9:.2f}"),
            *(f"{column[number]:.3f}" if column[number] else "–" for column in times.values()),
        )
    return table
