"""The whole journey on a small data set drawn on the spot: train, evaluate, detect, and a page to look at."""

from __future__ import annotations

import html
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from damoyolo.assemble.inference import evaluate, load, prepare
from damoyolo.assemble.settings import resolve
from damoyolo.assemble.training import TrainResult, train
from damoyolo.config import TrainConfig
from damoyolo.data.shapes import write_shapes
from damoyolo.errors import UserError
from damoyolo.evaluation.coco import Report
from damoyolo.files import write_atomically
from damoyolo.prediction import detect, predict_into

SETTINGS: dict[str, Any] = {
    "model": "Ns",
    "image_size": 160,
    "epochs": 15,
    "evaluate_every": 5,
    "augment": {"mosaic": 0.0},  # every drawing is different already
}


def demo(
    folder: Path,
    seed: int = 0,
    settings: dict[str, Any] | None = None,
    say: Callable[[str], None] = print,
    *,
    images: tuple[int, int] = (600, 100),
) -> Path:
    """Draw shapes, train Ns on them for about three minutes on two cores, and show what it finds.

    Args:
        folder: receives `data`, `run`, `pictures` and `index.html`; new or empty.
        seed: of the drawings and of the training.
        settings: laid over the demo's own training settings.
        say: told what happens.
        images: how many are drawn to train on and to validate with.

    Returns:
        The page to open in a browser.
    """
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise UserError(f"output: {folder} exists and is not an empty folder; take another or remove it")
    data = folder / "data"
    config = resolve(
        "quick", {**SETTINGS, "data": data, "output": folder / "run", "seed": seed, **(settings or {})}
    )
    train_images, val_images = images
    write_shapes(data, train_images, val_images, image_size=SETTINGS["image_size"], seed=seed)
    say(f"1. drew {train_images} training and {val_images} validation images of shapes in {data}")
    result = train(config)
    say(f"2. trained {config.model} for {config.epochs} epochs: {result.best}")
    model = load(result.best)
    report = evaluate(model, data, device=config.device)
    say(f"3. evaluated on the validation images: AP {report.ap:.3f}, AP50 {report.ap50:.3f}")
    some = sorted((data / "images").glob("val_000*.jpg"))
    found = list(
        predict_into(partial(detect, prepare(model, device=config.device)), some, folder / "pictures")
    )
    say(f"4. detected in {len(found)} of them: {folder / 'pictures'}")
    page = folder / "index.html"
    write_atomically(page, _page(config, result, report, [each.path.name for each in found]).encode())
    say(f"5. open {page}")
    return page


_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>damoyolo demo</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 64rem; margin: auto; padding: 1rem }}
table {{ border-collapse: collapse; margin: 1rem 0 }} td, th {{ padding: .2rem .8rem; text-align: right }}
th:first-child, td:first-child {{ text-align: left }} tr + tr {{ border-top: 1px solid #ddd }}
.pictures {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(11rem, 1fr)); gap: .6rem }}
.pictures img {{ width: 100% }} svg {{ width: 100%; max-width: 40rem; height: auto }}
code {{ background: #f3f3f3 }}
</style>
<h1>{model} on drawn shapes</h1>
<p>Trained for {epochs} epochs at {size} px; AP <b>{ap:.3f}</b>, AP50 <b>{ap50:.3f}</b> on {images} validation
images.</p>
<h2>Loss per epoch</h2>
{curve}
<h2>Classes</h2>
<table><tr><th>class</th><th>boxes</th><th>AP</th><th>AP50</th></tr>{classes}</table>
<h2>What it finds</h2>
<div class="pictures">{pictures}</div>
<h2>Go on</h2>
<p><code>damoyolo predict YOUR_IMAGES --weights {weights}</code> uses these weights;
<code>damoyolo train YOUR_DATA</code> trains on your own data.</p>
"""


def _page(config: TrainConfig, result: TrainResult, report: Report, pictures: list[str]) -> str:
    """The summary as HTML; pictures are linked relative to it."""
    losses = [json.loads(line)["loss_total"] for line in result.metrics.read_text().splitlines()]
    classes = "".join(
        f"<tr><td>{html.escape(each.name)}</td><td>{each.boxes}</td><td>{each.ap:.3f}</td><td>{each.ap50:.3f}</td></tr>"
        for each in report.per_class
    )
    return _PAGE.format(
        model=html.escape(config.model),
        epochs=config.epochs,
        size=config.image_size,
        ap=report.ap,
        ap50=report.ap50,
        images=report.images,
        curve=_curve(losses),
        classes=classes,
        pictures="".join(f'<img src="pictures/{html.escape(name)}" alt="detections">' for name in pictures),
        weights=html.escape(str(result.best)),
    )


def _curve(values: list[float]) -> str:
    """A line over epochs as SVG, its ends labelled."""
    width, height, margin, top = 600, 200, 30, max(values)
    step = (width - 2 * margin) / max(1, len(values) - 1)
    points = [
        (margin + i * step, height - margin - v / top * (height - 2 * margin)) for i, v in enumerate(values)
    ]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    labels = "".join(
        f'<text x="{x:.0f}" y="{y - 8:.0f}" text-anchor="{anchor}" font-size="13">{value:.2f}</text>'
        for (x, y), value, anchor in ((points[0], values[0], "start"), (points[-1], values[-1], "end"))
    )
    axis = f'<path d="M{margin} {margin}V{height - margin}H{width - margin}" fill="none" stroke="#aaa"/>'
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="loss per epoch">{axis}'
        f'<polyline points="{line}" fill="none" stroke="#2a6fdb" stroke-width="2"/>{labels}</svg>'
    )
