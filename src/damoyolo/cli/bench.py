"""`damoyolo bench`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from damoyolo.cli.ranges import Count
from damoyolo.errors import UserError

if TYPE_CHECKING:
    from rich.table import Table

    from damoyolo.export.bench import Result, Subject, Timing

WEIGHTS = (".safetensors", ".pth")


def bench(
    *files: Path,
    engine: Literal["onnxruntime", "openvino"] | None = None,
    precision: Literal["fp32", "bf16"] | None = None,
    threads: Count | None = None,
    batch_size: Count = 1,
    calls: Count = 80,
    as_json: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> None:
    """Measure exported files side by side: time, images per second and memory.

    Parameters
    ----------
    files
        What `damoyolo export` wrote, and weights (.safetensors, .pth), which PyTorch runs.
    engine
        What runs .onnx files; default ONNX Runtime.
    precision
        That OpenVINO computes in; default what the file was written for.
    threads
        Of each engine that lets one choose (not ExecuTorch, Core ML, TensorRT); default its own choice.
    batch_size
        Measure batches of 1, 2, 4 ... up to so many images, with files that take any.
    calls
        Of every measurement; the more, the more its last percentiles mean.
    as_json
        Print JSON instead of a table.
    """
    from damoyolo.export import bench as benchmark
    from damoyolo.machine import describe_machine

    if not files:
        raise UserError("no files; name at least one that `damoyolo export` wrote")
    subjects = [_subject(path, engine, precision, threads) for path in files]
    results = benchmark.bench(subjects, largest_batch=batch_size, calls=calls)
    machine = describe_machine()
    if as_json:
        records = [result.to_record() for result in results]
        print(json.dumps({"machine": machine, "threads": threads, "files": records}, indent=1))
        return
    from rich.console import Console

    console = Console()
    console.print(_table(results))
    chosen = f"{threads} threads where the engine lets one choose" if threads else "threads by each engine"
    console.print(
        f"{machine}; {chosen}. Times in ms; "
        "whole: from a drawn photograph of {}x{} to detections.".format(*benchmark.PHOTOGRAPH)
    )


def _subject(
    path: Path,
    engine: Literal["onnxruntime", "openvino"] | None,
    precision: Literal["fp32", "bf16"] | None,
    threads: int | None,
) -> Subject:
    from damoyolo.zoo.hub import is_hub_name

    if path.suffix in WEIGHTS or is_hub_name(path):
        from damoyolo.assemble.benchmarking import weights_subject

        return weights_subject(path, threads=threads)
    from damoyolo.export.bench import file_subject

    chosen = engine if path.suffix == ".onnx" else None
    return file_subject(path, engine=chosen, precision=precision, threads=threads)


def _table(results: Sequence[Result]) -> Table:
    from rich.table import Table

    table = Table("file")
    for heading in ("batch", "network ms\np50  p90  p99", "whole ms\np50  p90  p99", "images/s"):
        table.add_column(heading, justify="right", no_wrap=True)
    names = _short_names([result.name for result in results])
    for result in results:
        each = result.batches
        table.add_row(
            f"{names[result.name]}\n{result.engine}, {result.precision}\n{result.peak_memory_mib} MiB",
            "\n".join(str(batch.batch) for batch in each),
            "\n".join(_times(batch.network_ms) for batch in each),
            "\n".join(_times(batch.whole_ms) for batch in each),
            "\n".join(f"{batch.images_per_s:.1f}" for batch in each),
        )
    return table


def _short_names(paths: Sequence[str]) -> dict[str, str]:
    """Of each path its last parts, as many as tell them all apart."""
    parts, count = {path: Path(path).parts for path in paths}, 1
    while len({each[-count:] for each in parts.values()}) < len(set(parts.values())):
        count += 1
    return {path: str(Path(*each[-count:])) for path, each in parts.items()}


def _times(timing: Timing) -> str:
    """Three numbers of four letters."""
    values = (timing.p50, timing.p90, timing.p99)
    return " ".join(f"{value:.{int(value < 99.95)}f}".rjust(4) for value in values)
