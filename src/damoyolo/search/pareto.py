"""Which of many structures to choose: the Pareto front, its knees, and a picture of both."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Sequence

from damoyolo.search.evolve import Axis, Member

TITLES: dict[Axis, tuple[str, float]] = {
    "params": ("parameters, millions", 1e-6),
    "flops": ("GFLOPs", 1e-9),
    "layers": ("layers", 1.0),
    "latency_ms": ("latency, ms an image", 1.0),
}
"""How each cost is shown, and what its numbers are multiplied by."""


def pareto_front(members: Iterable[Member], axis: Axis) -> list[Member]:
    """Those that nothing cheaper scores as high as; by rising cost."""
    front: list[Member] = []
    for member in sorted(members, key=lambda each: (getattr(each.costs, axis), -each.score)):
        if not front or member.score > front[-1].score:
            front.append(member)
    return front


def knees(front: Sequence[Member], axis: Axis, count: int) -> list[Member]:
    """A family of `count` sizes, or the whole front if it is smaller; by rising cost.

    They are the knee of each of as many equal ranges of the logarithm of cost. A knee is the point farthest
    above the line between the ends of its range (Kneedle, Satopää et al. 2011), where a further rise of the
    score begins to cost more. Where a range is empty, the member whose cost is farthest from all that were
    chosen stands in.
    """
    if len(front) <= count:
        return list(front)
    costs = [math.log(getattr(member.costs, axis)) for member in front]
    width = (costs[-1] - costs[0]) / count
    chosen: list[int] = []
    for number in range(count):
        low, high = costs[0] + number * width, costs[0] + (number + 1) * width
        inside = [n for n, cost in enumerate(costs) if low <= cost <= high or (n == len(costs) - 1 == number)]
        if inside:
            first, last = inside[0], inside[-1]
            rise = front[last].score - front[first].score
            slope = rise / (costs[last] - costs[first]) if last > first else 0.0
            above = [(front[n].score - slope * (costs[n] - costs[first]), n) for n in inside]
            chosen.append(max(above)[1])
    return [front[n] for n in sorted(_filled_up(set(chosen), costs, count))]


def _filled_up(chosen: set[int], costs: Sequence[float], count: int) -> set[int]:
    """Places with more of them, each the farthest from those before; of two as far the cheaper."""
    while len(chosen) < count:
        left = (n for n in range(len(costs)) if n not in chosen)
        chosen = chosen | {max(left, key=lambda n: min(abs(costs[n] - costs[each]) for each in chosen))}
    return chosen


def plot_front(
    front: Sequence[Member], axis: Axis, marked: Sequence[Member], others: Sequence[Member] = ()
) -> bytes:
    """PNG of score against cost: the front, those marked numbered from the cheapest, others in grey."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    title, factor = TITLES[axis]

    def places(members: Sequence[Member]) -> tuple[list[float], list[float]]:
        return [getattr(each.costs, axis) * factor for each in members], [each.score for each in members]

    figure = Figure(figsize=(8.0, 5.0), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.scatter(*places(others), s=6, color="#c8c8c8", linewidths=0, label="tried and kept")
    axes.plot(
        *places(front), color="#1f77b4", linewidth=1.5, drawstyle="steps-post", label="best at this cost"
    )
    axes.scatter(*places(marked), s=46, color="#d62728", zorder=3, label="chosen: knees")
    for number, (cost, score) in enumerate(zip(*places(marked), strict=True), start=1):
        axes.annotate(
            f"{number}", (cost, score), xytext=(-6, 7), textcoords="offset points", ha="right", weight="bold"
        )
    axes.set(xlabel=title, ylabel="score", xscale="log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("{x:g}")
    axes.tick_params(axis="x", which="minor", labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e6e6e6")
    axes.set_axisbelow(True)
    axes.legend(frameon=False, loc="lower right")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
