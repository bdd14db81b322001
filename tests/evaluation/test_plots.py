from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from damoyolo.data.dataset import Record
from damoyolo.evaluation import plots
from damoyolo.evaluation.coco import Curve
from damoyolo.evaluation.judge import Working

WORKING = Working(score=0.4, precision=0.7, recall=0.6, f1=0.65)
RECORDS = [
    {"epoch": n, "step": 3 * n, "lr": 0.1 / n, "loss_total": 3.0 / n, "loss_distill": 1.0 / n}
    | ({"ap": 0.1 * n, "ap50": 0.2 * n} if n % 2 == 0 else {})
    for n in range(1, 5)
]


def shown(png: bytes) -> np.ndarray:
    picture = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR_RGB)
    assert picture is not None
    return picture


def record(number: int, boxes: list[tuple[float, float, float, float]], labels: list[int]) -> Record:
    return Record(
        number, Path("x.jpg"), 100, 50, np.array(boxes, np.float32).reshape(-1, 4), np.array(labels, np.int64)
    )


@pytest.mark.parametrize("records", [RECORDS, RECORDS[:1], RECORDS[1:2], [], [{**RECORDS[1], "ap": -1.0}]])
def test_curves_are_drawn_of_any_part_of_a_run(records: list[dict[str, float]]) -> None:
    picture = shown(plots.training_curves(records))
    assert picture.shape[1] == plots.WIDTH_IN * plots.DPI
    assert (picture != 255).any()


def evaluated(
    numbers: list[dict[str, float]], best_by: str = "ap"
) -> tuple[dict[str, list[tuple[float, float]]], list[float], float]:
    """The points of every curve by its name, all their heights, and the legend's bottom; 1 is the top."""
    figure = plots._figure(3.4)
    axes = figure.subplots(1, 3)[1]
    plots._precision_over_epochs(axes, [{"epoch": n, **each} for n, each in enumerate(numbers, 1)], best_by)
    figure.canvas.draw()
    to_axes = axes.transAxes.inverted()
    points = {str(line.get_label()): [(x, y) for x, y in line.get_xydata().tolist()] for line in axes.lines}
    heights = [
        to_axes.transform(axes.transData.transform(point))[1] for each in points.values() for point in each
    ]
    return points, heights, to_axes.transform(axes.get_legend().get_window_extent())[0, 1]


@pytest.mark.parametrize("best_by", ["ap", "ap50", "ap/cat"])
@pytest.mark.parametrize("highest", [0.0, 0.001, 0.09, 0.22, 0.5, 0.501, 1.0])
def test_the_legend_lies_above_every_curve(highest: float, best_by: str) -> None:
    numbers = [{"ap": each * highest, "ap50": highest, "ap/cat": highest} for each in (0.2, 0.9, 1.0)]
    _, heights, legend = evaluated(numbers, best_by)
    assert 0 < min(heights) <= max(heights) < legend - 0.02


@pytest.mark.parametrize("epochs", [1, 2, 60])
@pytest.mark.parametrize("names", [("total",), ("total", "quality", "box", "sides", "distill")])
def test_the_legend_of_the_losses_lies_above_every_curve(names: tuple[str, ...], epochs: int) -> None:
    figure = plots._figure(3.4)
    axes = figure.subplots(1, 3)[0]
    records = [{"epoch": n, **{f"loss_{name}": 3.9 for name in names}} for n in range(1, epochs + 1)]
    plots._losses_over_epochs(axes, records)
    figure.canvas.draw()
    to_axes = axes.transAxes.inverted()
    highest = to_axes.transform(axes.transData.transform((1, 3.9)))[1]
    assert 0.5 < highest < to_axes.transform(axes.get_legend().get_window_extent())[0, 1] - 0.02


def test_where_nothing_was_found_there_is_no_best(monkeypatch: pytest.MonkeyPatch) -> None:
    points, *_ = evaluated([{"ap": 0.0, "ap50": 0.0}] * 2)
    assert list(points) == ["AP50, 0.000 at last", "AP, 0.000 at last"]
    figures: list[Any] = []
    monkeypatch.setattr(plots, "_png", lambda figure: figures.append(figure) or b"")
    for f1 in (0.0, 0.65):
        plots.precision_recall([Curve("cell", np.zeros(101))], ["cell"], Working(0.5, f1, f1, f1))
    marks = [[line.get_marker() for line in figure.axes[0].lines] for figure in figures]
    assert marks == [["None"], ["None", "D"]]
    (_, told), (_, best) = [figure.axes[1].get_legend().get_texts() for figure in figures]
    assert told.get_text() == "nothing right at any score"
    assert best.get_text() == "best F1 0.650, at score 0.50"


@pytest.mark.parametrize(
    ("best_by", "star"),
    [
        ("ap", {"best AP, 0.300 in epoch 3": [(3.0, 0.3)]}),
        ("ap50", {"best AP50, 0.600 in epoch 1": [(1.0, 0.6)]}),
        ("ap_small", {"best AP small, 0.100 in epoch 2": [(2.0, 0.1)]}),
        ("ap/cat", {"best AP of cat, 0.900 in epoch 2": [(2.0, 0.9)]}),
    ],
)
def test_the_star_is_at_the_latest_of_the_best_by_the_run_s_own_number(
    best_by: str, star: dict[str, list[tuple[float, float]]]
) -> None:
    numbers = [
        {"ap": 0.2, "ap50": 0.6, "ap_small": 0.1, "ap/cat": -1.0},
        {"ap": 0.3, "ap50": 0.5, "ap_small": 0.1, "ap/cat": 0.9},
        {"ap": 0.3, "ap50": 0.4, "ap_small": 0.0, "ap/cat": 0.8},
    ]
    points, *_ = evaluated(numbers, best_by)
    assert {name: each for name, each in points.items() if name.startswith("best")} == star


@pytest.mark.parametrize("count", [0, 1, 5, 40])
def test_every_number_of_classes_has_its_curves(count: int) -> None:
    names = [f"class {n}" for n in range(count)]
    curves = [Curve(name, np.linspace(1, n / 50, 101)) for n, name in enumerate(names)]
    assert shown(plots.precision_recall(curves, names, WORKING)).shape[0] > 300


def test_a_class_has_the_hue_of_its_boxes() -> None:
    curves = [Curve("cell", np.full(101, 0.5)), Curve("dust", np.full(101, 0.9))]
    picture = shown(plots.precision_recall(curves, ["dust", "dirt", "cell"], WORKING))
    colour = np.array(plots._ink(2)) * 255
    assert (np.abs(picture - colour).max(axis=2) < 4).sum() > 100


@pytest.mark.parametrize("classes", [1, 30, 80])
def test_a_confusion_matrix_stays_readable_and_on_the_screen(classes: int) -> None:
    matrix = np.eye(classes + 1, dtype=np.int64) * 12_345
    picture = shown(plots.confusion_matrix(matrix, [f"class {n}" for n in range(classes)], 0.5))
    height, width = picture.shape[:2]
    assert 300 < width <= 1210
    assert height < 1100


def test_an_empty_matrix_is_drawn() -> None:
    assert shown(plots.confusion_matrix(np.zeros((3, 3), np.int64), ["a", "b"], 0.5)).any()


def test_names_may_be_long_strange_or_look_like_formulas() -> None:
    names = ["x" * 200, "$\\frac{1}$", "größe_°", "猫", ""]
    matrix = np.ones((6, 6), np.int64)
    picture = shown(plots.confusion_matrix(matrix, names, 0.5))
    assert picture.shape[1] <= 1210
    curves = [Curve(name, np.full(101, 0.5)) for name in names]
    assert shown(plots.precision_recall(curves, names, WORKING)).any()


@pytest.mark.parametrize(
    "records",
    [
        [],
        [record(1, [], [])],
        [record(1, [(0, 0, 1, 1)], [0])],
        [record(n, [(n, n, n + 3 * n, n + 2)] * n, [n % 2] * n) for n in range(1, 20)],
    ],
)
def test_labels_of_any_data_set_are_drawn(records: list[Record]) -> None:
    names = [f"class {n}" for n in range(2 + len(records))]
    assert shown(plots.label_statistics(records, records[:1], names, (64, 96))).shape[1] == 1210


def test_coverage_counts_the_boxes_over_every_place() -> None:
    covered = plots.coverage([record(1, [(0, 0, 50, 50), (25, 0, 75, 25)], [0, 0])], cells=4)
    assert covered.tolist() == [[1, 2, 1, 0], [1, 2, 1, 0], [1, 1, 0, 0], [1, 1, 0, 0]]


def test_counts_are_by_label() -> None:
    records = [record(1, [(0, 0, 1, 1)] * 3, [0, 2, 2]), record(2, [], [])]
    assert plots.count_labels(records, 4).tolist() == [1, 0, 2, 0]


def test_matplotlib_is_imported_only_to_draw() -> None:
    code = "import sys, damoyolo.evaluation.plots; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0


def test_drawing_leaves_matplotlib_s_settings_alone() -> None:
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    plots.training_curves(RECORDS)
    assert dict(mpl.rcParams) == before
