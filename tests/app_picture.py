"""Draws docs/app.png: the page with the project's own shapes, in a light and a dark half.

python tests/app_picture.py --weights runs/demo/run/best.safetensors --output docs/app.png
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from playwright.sync_api import Page, expect, sync_playwright

from damoyolo.assemble.serving import open_served
from damoyolo.data.shapes import draw_shapes
from live_server import encoded, running

SIDE, PICTURES, SCREEN = 160, 4, {"width": 1180, "height": 760}


def open_pictures(page: Page, address: str, folder: Path) -> None:
    rng = np.random.default_rng(5)
    files = [folder / f"shapes-{number}.png" for number in range(PICTURES)]
    for file in files:
        file.write_bytes(encoded(draw_shapes(rng, SIDE).image))
    page.goto(address)
    page.set_input_files("#file", files)
    expect(page.locator("#strip button")).to_have_count(PICTURES)
    page.keyboard.press("ArrowLeft")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    with (
        running(open_served(options.weights, device="cpu")) as address,
        sync_playwright() as driver,
        tempfile.TemporaryDirectory() as folder,
    ):
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"))
        page = browser.new_page(viewport=SCREEN)
        open_pictures(page, address, Path(folder))
        halves = []
        for theme in ("light", "dark"):
            page.emulate_media(color_scheme=theme)
            shot = np.frombuffer(page.screenshot(), np.uint8)
            halves.append(cv2.imdecode(shot, cv2.IMREAD_COLOR))
        browser.close()
    middle = SCREEN["width"] * 11 // 20
    picture = np.hstack([halves[0][:, :middle], halves[1][:, middle:]])
    small = Image.fromarray(picture[..., ::-1].copy()).quantize(128, dither=Image.Dither.NONE)
    small.save(options.output, optimize=True)


if __name__ == "__main__":
    main()
