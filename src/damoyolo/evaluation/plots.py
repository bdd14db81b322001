"""Figures of a run, as PNG: curves, confusion matrix, statistics of labels; no global state of Matplotlib's.

Classes have the colours that `data.draw` draws their boxes in, darker where those would vanish on white.
"""

from __future__ import annotations

import functools
import io
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ParamSpec

import numpy as np
from jaxtyping import Float64, Int64

from damoyolo.data.dataset import Record
from damoyolo.data.draw import colour_of
from damoyolo.data.resize import Size
from damoyolo.evaluation.coco import Curve
from damoyolo.evaluation.judge import Working

Figured = ParamSpec("Figured")

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

DPI = 110
WIDTH_IN = 11.0
MOST_NAMED = 12
"""Classes up to which every one has its own legend entry; above, the best and the worst have."""
MOST_COUNTED = 25
"""Rows up to which the cells of a confusion matrix have their numbers written in them."""
LONGEST_NAME = 20
LEGEND_ROOM = 1.5
"""Height of the plots of losses and AP over what curves may use, so that legends lie above them."""

_STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.edgecolor": "#999999",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "legend.frameon": False,
    "text.parse_math": False,
}
_LOSSES = ("#222222", "#1f77b4", "#2ca02c", "#ff7f0e", "#9467bd", "#8c564b")
_BLUE, _GREEN, _GREY, _RED = "#1f77b4", "#2ca02c", "#8a8a8a", "#d62728"


def _styled(plot: Callable[Figured, bytes]) -> Callable[Figured, bytes]:
    """Everything in a figure is made under one style."""

    @functools.wraps(plot)
    def styled(*args: Figured.args, **kwargs: Figured.kwargs) -> bytes:
        import matplotlib as mpl

        with mpl.rc_context(_STYLE):
            return plot(*args, **kwargs)

    return styled


@_styled
def training_curves(records: Sequence[Mapping[str, Any]], best_by: str = "ap") -> bytes:
    """Losses, AP and learning rate over epochs, from the records of a metrics file.

    A star is at the best evaluation by the number of that name, of equal ones at the latest; none is at 0.
    """
    figure = _figure(3.4)
    losses, precision, rate = figure.subplots(1, 3, width_ratios=(1.2, 1.2, 0.8))
    epochs = [record["epoch"] for record in records]
    _losses_over_epochs(losses, records)
    rate.plot(epochs, [record.get("lr", math.nan) for record in records], color=_GREY, **_marked(len(epochs)))
    rate.set(title="learning rate", xlabel="epoch", ylim=(0, None))
    rate.ticklabel_format(axis="y", style="sci", scilimits=(-2, 2))
    _precision_over_epochs(precision, [record for record in records if "ap" in record], best_by)
    for axes in (losses, precision, rate):
        axes.set_xlim(min(epochs, default=1) - 0.5, max(epochs, default=1) + 0.5)
        _whole_numbers(axes.xaxis)
    return _png(figure)


def _losses_over_epochs(axes: Axes, records: Sequence[Mapping[str, Any]]) -> None:
    names = list(dict.fromkeys(name for record in records for name in record if name.startswith("loss_")))
    names.sort(key=lambda name: name != "loss_total")
    axes.set(title="loss per step", xlabel="epoch", ylim=(0, None))
    highest = 0.0
    for name, colour in zip(names, _LOSSES * math.ceil(len(names) / len(_LOSSES)), strict=False):
        told = [(record["epoch"], record.get(name)) for record in records]
        points = [(epoch, value) for epoch, value in told if value is not None and math.isfinite(value)]
        epochs, values = zip(*points, strict=True) if points else ((), ())
        highest = max([highest, *values])
        axes.plot(epochs, values, color=colour, label=name.removeprefix("loss_"), **_marked(len(epochs)))
    if names:
        ticks = _ticks_up_to(highest)
        axes.set(ylim=(0, ticks[-1] * LEGEND_ROOM), yticks=ticks)
        axes.legend(loc="upper left", fontsize=8, ncols=math.ceil(len(names) / 4))


def _precision_over_epochs(axes: Axes, records: Sequence[Mapping[str, Any]], best_by: str) -> None:
    """AP50, AP and what the best is chosen by; what has no box to measure it on is left out."""
    axes.set(title="average precision on the validation images", xlabel="epoch", ylim=(0, 1))
    colours = {"ap50": _GREY, "ap": _BLUE} | ({} if best_by in ("ap50", "ap") else {best_by: _GREEN})
    highest = 0.0
    for size, (name, colour) in zip((6.5, 4.0, 2.5), colours.items(), strict=False):
        points = [(record["epoch"], record[name]) for record in records if record.get(name, -1) >= 0]
        if not points:
            continue
        epochs, values = zip(*points, strict=True)
        highest = max(highest, *values)
        label = f"{_title(name)}, {values[-1]:.3f} at last"
        axes.plot(epochs, values, "o-", color=colour, ms=size, lw=size / 2.5, label=label)
        if name == best_by and max(values) > 0:
            value, epoch = max(zip(values, epochs, strict=True))
            label = f"best {_title(name)}, {value:.3f} in epoch {epoch}"
            axes.plot(epoch, value, "*", color=_RED, mec="white", ms=12, zorder=3, label=label)
    if not axes.lines:
        _say(axes, "never evaluated, or no box to evaluate on")
        return
    ticks = _ticks_up_to(highest)
    axes.set(ylim=(-0.03 * ticks[-1], ticks[-1] * LEGEND_ROOM), yticks=ticks)
    axes.legend(loc="upper left", fontsize=8)


@_styled
def precision_recall(curves: Sequence[Curve], class_names: Sequence[str], working: Working) -> bytes:
    """Precision against recall at IoU .5: every class, their mean, and the working point over all classes."""
    figure = _figure(4.4, width=9.0)
    axes, key = figure.subplots(1, 2, width_ratios=(1.6, 1))
    recall = np.linspace(0, 1, 101)
    labels = {name: label for label, name in enumerate(class_names)}
    ranked = sorted(curves, key=lambda curve: -float(curve.precision.mean()))
    named = {curve.name for curve in (ranked if len(ranked) <= MOST_NAMED else ranked[:5] + ranked[-5:])}
    for curve in ranked:
        strong = curve.name in named
        colour = _ink(labels[curve.name]) if strong else "#cfcfcf"
        axes.plot(recall, curve.precision, color=colour, lw=1.4 if strong else 0.7, zorder=2 if strong else 1)
        if strong:
            key.plot([], [], color=colour, label=f"{curve.precision.mean():.3f}  {_short(curve.name)}")
    if len(curves) > 1:
        mean = np.mean([curve.precision for curve in curves], axis=0)
        axes.plot(recall, mean, color="#222222", lw=2.6, zorder=3)
        key.plot([], [], color="#222222", lw=2.6, label=f"{mean.mean():.3f}  mean of {len(curves)} classes")
    if curves and working.f1 > 0:
        axes.plot(working.recall, working.precision, "D", color=_RED, ms=6, zorder=4)
        found = f"best F1 {working.f1:.3f}, at score {working.score:.2f}"
        key.plot([], [], "D", color=_RED, ms=6, label=found)
    elif curves:
        key.plot([], [], " ", label="nothing right at any score")
    else:
        _say(axes, "no class has a box to find")
    axes.set(title="precision against recall at IoU .5", xlabel="recall", ylabel="precision")
    axes.set(xlim=(0, 1.01), ylim=(0, 1.02))
    title = "AP50  class" if len(named) == len(ranked) else "AP50  class (the five best and the five worst)"
    key.axis("off")
    if curves:
        key.legend(loc="center left", title=title, alignment="left", fontsize=9)
    return _png(figure)


@_styled
def confusion_matrix(matrix: Int64[np.ndarray, "n n"], class_names: Sequence[str], score: float) -> bytes:
    """Rows are true, columns are found; colours are shares of a row, numbers are counts of boxes."""
    from matplotlib.colors import PowerNorm

    names = [*map(_short, class_names), "background"]
    count = len(names)
    side = min(WIDTH_IN, 2.6 + max(2.4, 0.42 * count))
    figure = _figure(side * 0.88, width=side)
    axes = figure.subplots()
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    small_shown = PowerNorm(0.5 if count > MOST_COUNTED else 1.0, vmin=0, vmax=1)
    mesh = axes.imshow(shares, cmap="Blues", norm=small_shown, aspect="auto", interpolation="nearest")
    size = min(9.0, max(6.3, 300 / count))
    axes.set_xticks(range(count), names, fontsize=size, **_slanted(count))
    axes.set_yticks(range(count), names, fontsize=size)
    axes.set(xlabel="found as (background: missed)", ylabel="truth (background: false)")
    axes.set_title(f"boxes with score ≥ {score:.2f} at IoU .5")
    axes.grid(visible=False)
    for line in (axes.axhline, axes.axvline):
        line(count - 1.5, color="#666666", lw=0.8)
    if count <= MOST_COUNTED:
        for row, column in zip(*np.nonzero(matrix), strict=True):
            ink = "white" if shares[row, column] > 0.55 else "#222222"
            text = _counted(int(matrix[row, column]))
            axes.text(column, row, text, ha="center", va="center", color=ink, fontsize=size)
    figure.colorbar(mesh, ax=axes, label="share of the row", shrink=0.7, aspect=30)
    return _png(figure)


@_styled
def label_statistics(
    train: Sequence[Record], val: Sequence[Record], class_names: Sequence[str], input_size: Size
) -> bytes:
    """Boxes per class, sizes at the network's input, boxes per image, and where boxes are."""
    figure = _figure(6.4)
    grid = figure.add_gridspec(2, 3, height_ratios=(1, 1.1))
    _boxes_per_class(figure.add_subplot(grid[0, :]), train, val, class_names)
    _sizes(figure.add_subplot(grid[1, 0]), train, input_size)
    _boxes_per_image(figure.add_subplot(grid[1, 1]), train)
    _positions(figure.add_subplot(grid[1, 2]), train)
    return _png(figure)


def _boxes_per_class(
    axes: Axes, train: Sequence[Record], val: Sequence[Record], class_names: Sequence[str]
) -> None:
    places = np.arange(len(class_names))
    counts = count_labels(train, len(class_names))
    others = count_labels(val, len(class_names))
    colours = [_ink(label) for label in range(len(class_names))]
    axes.bar(places - 0.2, counts, 0.4, color=colours)
    axes.bar(places + 0.2, others, 0.4, color=colours, alpha=0.45)
    axes.bar(0, 0, color="#555555", label="training")
    axes.bar(0, 0, color="#555555", alpha=0.45, label="validation")
    seen = np.concatenate([counts, others])
    seen = seen[seen > 0]
    if len(seen) and seen.max() > 50 * seen.min():
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.set_ylim(0.7, 2.5 * seen.max())
    elif len(seen):
        axes.set_ylim(0, 1.18 * seen.max())
    size = 9 if len(class_names) <= 40 else 7
    axes.set_xticks(places, list(map(_short, class_names)), fontsize=size, **_slanted(len(class_names)))
    if len(class_names) <= MOST_NAMED:
        for place, count in zip(places, counts, strict=True):
            axes.annotate(f"{count}", (place - 0.2, max(count, 0.7)), ha="center", va="bottom", fontsize=8)
    axes.set_xlim(-0.6, len(class_names) - 0.4)
    axes.set_title("boxes per class")
    axes.grid(visible=False, axis="x")
    axes.legend(loc="upper right", ncols=2)


def _sizes(axes: Axes, records: Sequence[Record], input_size: Size) -> None:
    """Square roots of areas in network pixels."""
    sizes = np.concatenate([np.zeros(0), *(_side_lengths(record, input_size) for record in records)])
    height, width = input_size
    axes.set(title="box size", xlabel=f"√(w × h) in pixels at input {width} × {height}", ylabel="boxes")
    if not len(sizes):
        _say(axes, "no boxes")
        return
    largest = max(sizes.max(), 2.0)
    edges = np.geomspace(max(sizes.min() * 0.99, 0.5), largest * 1.01, 36)
    counts, *_ = axes.hist(sizes, bins=edges.tolist(), color=_BLUE)
    axes.set_ylim(0, 1.2 * float(np.max(counts)))
    axes.set_xscale("log")
    ticks = [tick for tick in (2, 4, 8, 16, 32, 64, 128, 256, 512, 1024) if sizes.min() <= tick <= largest]
    axes.set_xticks(ticks, map(str, ticks))
    axes.minorticks_off()
    for stride in (8, 16, 32):
        axes.axvline(stride, color=_RED, lw=0.8, ls=":")
    axes.plot([], [], color=_RED, lw=0.8, ls=":", label="strides 8 16 32")
    _legend(axes)


def _boxes_per_image(axes: Axes, records: Sequence[Record]) -> None:
    counts = [len(record.labels) for record in records]
    most = max(counts, default=0)
    width = math.ceil(max(most, 1) / 40)
    axes.hist(counts, bins=[edge - 0.5 for edge in range(0, most + 1 + width, width)], color=_BLUE)
    axes.set(title="boxes per image", xlabel="boxes", ylabel="images")
    _whole_numbers(axes.xaxis)
    _whole_numbers(axes.yaxis)


def _positions(axes: Axes, records: Sequence[Record]) -> None:
    """How many boxes cover each place, as a share of the image's sides."""
    axes.imshow(coverage(records), cmap="magma", extent=(0, 1, 1, 0), interpolation="nearest")
    axes.set(title="where boxes are", xlabel="share of the width", ylabel="share of the height")
    axes.grid(visible=False)


def count_labels(records: Sequence[Record], classes: int) -> Int64[np.ndarray, " c"]:
    """Boxes of every class."""
    labels = np.concatenate([np.zeros(0, dtype=np.int64), *(record.labels for record in records)])
    return np.bincount(labels, minlength=classes).astype(np.int64)


def coverage(records: Sequence[Record], cells: int = 48) -> Float64[np.ndarray, "cells cells"]:
    """Boxes over each cell of a grid laid over all images, from the corners of the boxes."""
    corners = np.zeros((cells + 1, cells + 1))
    for record in records:
        scale = np.array([record.width, record.height] * 2) / cells
        x1, y1, x2, y2 = np.rint(record.boxes / scale).astype(int).T
        for x, y, sign in ((x1, y1, 1), (x2, y2, 1), (x1, y2, -1), (x2, y1, -1)):
            np.add.at(corners, (np.clip(y, 0, cells), np.clip(x, 0, cells)), sign)
    covered: Float64[np.ndarray, "cells+1 cells+1"] = corners.cumsum(axis=0).cumsum(axis=1)
    return covered[:-1, :-1]


def _side_lengths(record: Record, input_size: Size) -> Float64[np.ndarray, " n"]:
    """As if the image were stretched to the input."""
    height, width = input_size
    sides = (record.boxes[:, 2:] - record.boxes[:, :2]).astype(np.float64)
    lengths: Float64[np.ndarray, " n"] = np.sqrt(
        (sides * [width / record.width, height / record.height]).prod(axis=1)
    )
    return lengths


def _figure(height: float, width: float = WIDTH_IN) -> Figure:
    """An empty one, in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=DPI, layout="constrained")


def _slanted(names: int) -> dict[str, Any]:
    """How that many class names are written under an axis."""
    if names > MOST_NAMED:
        return {"rotation": 90}
    return {"rotation": 30, "ha": "right", "rotation_mode": "anchor"} if names > 5 else {}


def _png(figure: Figure) -> bytes:
    """A letter that the font lacks is a box in the picture, not a warning."""
    content = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(content, format="png")
    return content.getvalue()


def _ticks_up_to(value: float) -> list[float]:
    """Round numbers from 0 to the first that is at least `value`."""
    from matplotlib.ticker import MaxNLocator

    ticks = MaxNLocator(nbins=5, steps=[1, 2, 5, 10]).tick_values(0, value or 1.0)
    return [float(tick) for tick in ticks]


def _title(number: str) -> str:
    """How a number of an evaluation, such as `ap50` or `ap/cat`, is written in a figure."""
    kind, _, name = number.partition("/")
    kind = kind.upper() if kind.isalnum() else f"{kind[:2].upper()} {kind[3:]}"
    return f"{kind} of {_short(name)}" if name else kind


def _whole_numbers(axis: Axis) -> None:
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(nbins="auto", integer=True))


def _legend(axes: Axes) -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="upper right")


def _say(axes: Axes, text: str) -> None:
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=_GREY)


def _marked(points: int) -> dict[str, Any]:
    """A line of one point is seen only as a marker."""
    return {"marker": "o", "ms": 3} if points < 3 else {}


def _short(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"


def _counted(count: int) -> str:
    return str(count) if count < 10_000 else f"{count / 1000:.0f}k"


def _ink(label: int) -> tuple[float, float, float]:
    """The colour of a class, dark enough for a line on white."""
    colour = np.array(colour_of(label)) / 255
    brightness = float(colour @ (0.299, 0.587, 0.114))
    red, green, blue = (colour * min(1.0, 0.55 / max(brightness, 1e-6))).tolist()
    return red, green, blue
