"""Our exported graphs against a plain export of the same networks, and other ONNX files, in one run.

    python benchmarks/latency.py [--sizes Ns Nm Nl T S M L] [--compare other.onnx ...] [--threads 2]

Medians in ms at batch 1, weights random. `raw` gives all scores and boxes, as the plain export does; `topk`
gives the 300 best. OpenVINO takes bf16 by itself where the processor has it: each column says its precision.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import onnx
from rich.console import Console
from rich.table import Table

from damoyolo.export.card import ExportCard
from damoyolo.export.onnx import to_onnx
from damoyolo.machine import describe_machine
from plain_export import ENGINES, Plain, export_plainly, measure, trained_like

FORMS = ("plain", "raw", "topk")


def export_forms(size, folder):
    """Files by (size, form)."""
    detector = trained_like(size)
    card = detector.card
    files = {(size, form): folder / f"{size}-{form}.onnx" for form in FORMS}
    export_plainly(Plain(detector), card.image_size, files[size, "plain"])
    for head in FORMS[1:]:
        export_card = ExportCard(
            class_names=card.class_names, image_size=card.image_size, head=head, max_detections=300
        )
        onnx.save(to_onnx(detector, export_card), files[size, head])
    return files


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--sizes", nargs="*", default=["Ns", "Nm", "Nl", "T", "S", "M", "L"])
    parser.add_argument("--compare", nargs="*", type=Path, default=[])
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--calls", type=int, default=48)
    args = parser.parse_args()
    table = Table(title=f"ms (and relative to plain), {args.threads} threads, {describe_machine()}")
    table.add_column("size", justify="right")
    table.add_column("form")
    for engine in args.engines:
        table.add_column(ENGINES[engine], justify="right")
    with tempfile.TemporaryDirectory() as folder:
        files = {(str(path), "other"): path for path in args.compare}
        for size in args.sizes:
            files |= export_forms(size, Path(folder))
        found = {engine: measure(files, engine, args.threads, args.calls) for engine in args.engines}
    for name, form in files:
        cells = []
        for timings in found.values():
            ms = timings[name, form].p50
            plain = timings.get((name, "plain"))
            cells.append(f"{ms:.1f} ({ms / plain.p50:.3f})" if plain else f"{ms:.1f}")
        table.add_row(name, form, *cells)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
