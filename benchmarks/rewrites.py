"""What each exact rewrite of the exported graph is worth, alone and together, in one run.

    python benchmarks/rewrites.py [--sizes Ns Nl T S] [--forms pools focus ...]
                                  [--engines onnxruntime openvino] [--threads 2]

Times relative to a plain export of the same network, medians. In `damoyolo.export` are:

    pools         SPP as chained 5x5 pools; the plain form has 5x5, 9x9 and 13x13 side by side
    focus         Focus and its convolution as one convolution of stride 2; plain: slices and a concatenation
    late          a fusion's 1x1 convolutions applied before the upsampling; plain: after it
    decode        boxes channel by channel, from sums over exponentials; plain: logits transposed, softmax
                  over the last axis, product with 0..bins-1
    joint         decode, and one convolution per scale for classes and sides; plain: two
    all           everything above: `--head raw`
    topk          all, but sides are computed, and boxes decoded, of the 300 best points only: `--head topk`

and, because they do not pay, these are not:

    merged late   late, with both paths' convolutions of the coarse map as one
    softmax       decode with the softmax over the bins' axis, instead of sums
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import onnx
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from damoyolo.boxes.decode import decode_boxes
from damoyolo.export.card import ExportCard
from damoyolo.export.graph import Grid, decode
from damoyolo.export.onnx import to_onnx
from damoyolo.export.rewrite import JointHead, fold_norms, merge_focus, upsample_late
from damoyolo.nn.detector import fuse
from plain_export import ENGINES, export_plainly, measure, trained_like, unchain_pools

FORMS = ("pools", "focus", "late", "decode", "joint", "merged late", "softmax")
"""One rewrite each; beside them are `plain`, which has none, and `all` and `topk`."""


class Form(nn.Module):
    """A detector with one of the rewrites."""

    def __init__(self, detector, form):
        super().__init__()
        self.form = form
        self.fused = fuse(detector)
        fold_norms(self.fused)
        if form != "pools":
            unchain_pools(self.fused)
        if form == "focus":
            merge_focus(self.fused)
        if form in ("late", "merged late"):
            upsample_late(self.fused.neck)
        if form == "merged late":
            for name in ("fuse_t4", "fuse_p3"):
                setattr(self.fused.neck, name, MergedLate(getattr(self.fused.neck, name)))
        self.joint = JointHead(self.fused.head) if form == "joint" else None
        self.grid = Grid(*detector.card.image_size)

    def forward(self, images):
        maps = self.fused.features(images)
        if self.form == "joint":
            class_logits, side_logits = self.joint(*maps)
        elif self.form in ("decode", "softmax"):
            class_logits, side_logits = channel_by_channel(self.fused.head, maps)
        else:
            predictions = self.fused.head(*maps)
            points, strides = predictions.points, predictions.strides
            return predictions.scores, decode_boxes(predictions.side_logits, points, strides)
        if self.form == "softmax":
            bins = torch.arange(side_logits.shape[2], dtype=torch.float32)
            boxes = self.grid.origin + self.grid.step * (bins @ side_logits.softmax(dim=2))
        else:
            boxes = decode(side_logits, self.grid.origin, self.grid.step)
        return class_logits.sigmoid(), boxes.transpose(1, 2)


class MergedLate(nn.Module):
    """`LateUpsampling` with one convolution of the coarse map, split afterwards."""

    def __init__(self, fusion):
        super().__init__()
        self.fusion = fusion
        coarse = [part.coarse.weight for part in (fusion.bypass, fusion.enter)]
        self.widths = [len(weight) for weight in coarse]
        self.both = nn.Conv2d(coarse[0].shape[1], sum(self.widths), 1, bias=False)
        self.both.weight = nn.Parameter(torch.cat(coarse))
        self.up = nn.Upsample(scale_factor=2, mode="nearest")

    def forward(self, *maps):
        fusion, x = self.fusion, torch.cat(maps[:-1], dim=1)
        parts = self.up(self.both(maps[-1])).split(self.widths, dim=1)
        bypass, y = (
            path.act(path.fine(x) + part)
            for path, part in zip((fusion.bypass, fusion.enter), parts, strict=True)
        )
        outputs = [bypass]
        for layer in fusion.layers:
            y = layer(y)
            outputs.append(y)
        return fusion.mix(torch.cat(outputs, dim=1))


def channel_by_channel(head, maps):
    """Logits as `JointHead` gives them, from two convolutions per scale."""
    class_logits, side_logits = [], []
    for x, classify, regress, scale in zip(maps, head.classify, head.regress, head.scales, strict=True):
        class_logits.append(classify(x).flatten(2).transpose(1, 2))
        side_logits.append((scale * regress(x)).flatten(2))
    return torch.cat(class_logits, dim=1), torch.cat(side_logits, dim=2).unflatten(1, (4, head.bins))


def export_forms(size, forms, folder):
    """A file for every form."""
    detector = trained_like(size)
    card = detector.card
    forms = ("plain", *forms)
    files = {form: folder / f"{form.replace(' ', '-')}.onnx" for form in (*forms, "all", "topk")}
    for form in forms:
        with torch.no_grad():
            export_plainly(Form(detector, form), card.image_size, files[form])
    for form, head in (("all", "raw"), ("topk", "topk")):
        export_card = ExportCard(
            class_names=card.class_names, image_size=card.image_size, head=head, max_detections=300
        )
        onnx.save(to_onnx(detector, export_card), files[form])
    return files


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["Ns", "Nl", "T", "S"])
    parser.add_argument("--forms", nargs="*", choices=FORMS, default=list(FORMS))
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=["onnxruntime", "openvino"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--calls", type=int, default=48)
    args = parser.parse_args()
    columns = (*args.forms, "all", "topk")
    table = Table(title=f"Time relative to the plain export, {args.threads} threads")
    for column in ("size", "engine", "plain ms", *columns):
        table.add_column(column, justify="right")
    for size in args.sizes:
        with tempfile.TemporaryDirectory() as folder:
            files = export_forms(size, args.forms, Path(folder))
            for engine in args.engines:
                timings = measure(files, engine, args.threads, args.calls)
                plain = timings["plain"].p50
                ratios = (f"{timings[form].p50 / plain:.3f}" for form in columns)
                table.add_row(size, ENGINES[engine], f"{plain:.1f}", *ratios)
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
