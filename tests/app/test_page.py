"""The page in a real browser: Chromium, if it is installed."""

from __future__ import annotations

import base64
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Error, Page, expect, sync_playwright

from damoyolo.app.guard import Access
from damoyolo.assemble.serving import ServedModel
from exportable import photograph
from live_server import encoded, running

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
DROP = """([files, target]) => {
  const transfer = new DataTransfer();
  for (const [name, content] of files) {
    const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
    transfer.items.add(new File([bytes], name, { type: "image/png" }));
  }
  const event = { bubbles: true, cancelable: true };
  if (target === "paste") dispatchEvent(new ClipboardEvent("paste", { ...event, clipboardData: transfer }));
  else for (const name of ["dragenter", "dragover", "drop"])
    document.querySelector("#view").dispatchEvent(new DragEvent(name, { ...event, dataTransfer: transfer }));
}"""
"""Evaluated outside the page's own scripts, which its policy keeps from evaluating anything."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium; apt-get install chromium"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as driver:
        try:
            found = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        except Error as error:
            pytest.skip(f"Chromium does not start: {error.message.splitlines()[0]}")
        yield found
        found.close()


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    """Open, and without an error or a request to another host at the end."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    opened = context.new_page()
    wrong: list[str] = []
    hosts: set[str] = set()
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    opened.on("request", lambda request: hosts.add(re.split("[:/]+", request.url)[1]))
    opened.goto(address)
    expect(opened.locator("#model-chip")).to_have_text("tiny · 3 classes")
    yield opened
    context.close()
    assert not wrong
    assert hosts <= {"127.0.0.1", "", *[host for host in hosts if host.startswith("null")]}


def give(page: Page, *names: str, by: str = "drop") -> None:
    """Drop or paste pictures."""
    files = [
        (name, base64.b64encode(encoded(photograph(120, 160, seed=number))).decode())
        for number, name in enumerate(names)
    ]
    page.evaluate(DROP, [files, by])
    expect(page.locator("#facts")).to_contain_text(names[-1])


def boxes(page: Page) -> int:
    """Those that are shown, by the summary."""
    return sum(map(int, re.findall(r"(\d+) \w+", page.inner_text("#summary"))))


def slide(page: Page, slider: str, value: float) -> None:
    page.locator(slider).fill(str(value))


def colours(page: Page) -> int:
    """Pixels of the canvas in the colour of the first class."""
    return int(
        page.evaluate(
            """() => {
          const canvas = document.querySelector("#canvas");
          const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
          let count = 0;
          for (let at = 0; at < data.length; at += 4)
            count += data[at] === 255 && data[at + 1] === 51 && data[at + 2] === 38;
          return count;
        }"""
        )
    )


def test_a_dropped_picture_shows_boxes_that_follow_the_sliders_at_once(page: Page) -> None:
    give(page, "noise.png")
    before, red = boxes(page), colours(page)
    assert before > 3
    assert red > 100
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    slide(page, "#score", 0.95)
    assert 0 < boxes(page) < before
    assert colours(page) < red
    expect(page.locator("#score-value")).to_have_text("0.95")
    slide(page, "#score", 0.05)
    many = boxes(page)
    slide(page, "#overlap", 0.1)
    assert boxes(page) < many
    assert not asked


def test_classes_are_chosen_by_the_keyboard(page: Page) -> None:
    give(page, "noise.png")
    first = page.locator("#classes input").first
    first.focus()
    page.keyboard.press("Space")
    expect(first).not_to_be_checked()
    assert "dust" not in page.inner_text("#summary")
    assert colours(page) == 0
    page.click("#none")
    expect(page.locator("#summary")).to_have_text("Nothing found")
    page.click("#all")
    assert "dust" in page.inner_text("#summary")


def test_many_pictures_are_walked_through_by_arrow_keys(page: Page) -> None:
    give(page, "one.png", "two.png", "three.png")
    expect(page.locator("#strip button")).to_have_count(3)
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#facts")).to_contain_text("two.png · 160 × 120 · network")
    expect(page.locator("#strip button[aria-current=true]")).to_have_attribute("title", "two.png")


def test_it_fits_a_phone_and_sharp_screens(browser: Browser, page: Page) -> None:
    give(page, "pasted.png", by="paste")
    page.set_viewport_size({"width": 390, "height": 844})
    expect(page.locator("#canvas")).to_have_js_property("clientWidth", 366)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    sharp = browser.new_context(device_scale_factor=3, viewport={"width": 390, "height": 844})
    phone = sharp.new_page()
    phone.goto(page.url)
    expect(phone.locator("#model-chip")).to_have_text("tiny · 3 classes")
    give(phone, "sharp.png")
    assert phone.evaluate("canvas.width / canvas.clientWidth") == pytest.approx(3, abs=0.01)
    sharp.close()


def test_what_is_shown_is_saved(page: Page, tmp_path: Path) -> None:
    give(page, "one.png")
    slide(page, "#score", 0.8)
    with page.expect_download() as download:
        page.click("#save-json")
    assert download.value.suggested_filename == "one.json"
    download.value.save_as(tmp_path / "one.json")
    (record,) = json.loads((tmp_path / "one.json").read_text())
    assert (record["image"], record["width"], record["height"]) == ("one.png", 160, 120)
    assert len(record["detections"]) == boxes(page) > 0
    assert min(each["score"] for each in record["detections"]) >= 0.8
    with page.expect_download() as download:
        page.click("#save-picture")
    assert download.value.suggested_filename == "one.boxes.png"
    assert download.value.path().read_bytes()[16:24] == (160).to_bytes(4) + (120).to_bytes(4)


def test_the_camera_is_looked_at_until_it_is_stopped(page: Page) -> None:
    page.click("#camera")
    expect(page.locator("#facts")).to_contain_text("camera-", timeout=15_000)
    page.keyboard.press("Escape")
    expect(page.locator("#camera")).to_have_text("Camera")


def test_what_goes_wrong_is_told(page: Page) -> None:
    page.evaluate(DROP, [[("text.png", base64.b64encode(b"no image").decode())], "drop"])
    expect(page.get_by_role("alert")).to_have_text(
        "text.png: is no image that this browser can show; take a JPEG, PNG or WebP"
    )


def test_the_card_and_the_theme_are_at_hand(page: Page) -> None:
    page.click("#model-chip")
    expect(page.get_by_role("dialog")).to_contain_text("tiny.safetensors")
    expect(page.get_by_role("dialog")).to_contain_text("dust, cell, leaf")
    page.keyboard.press("Escape")
    ground = "getComputedStyle(document.body).backgroundColor"
    bright = page.evaluate(ground)
    for _ in range(2):
        page.click("#theme")
    assert page.evaluate(ground) != bright
    page.reload()
    assert page.evaluate(ground) != bright


def test_the_api_is_explained_and_tried(page: Page, address: str) -> None:
    page.goto(f"{address}docs")
    expect(page.locator("section")).to_have_count(4)
    page.get_by_role("button", name="Try GET /health").click()
    expect(page.locator("pre:visible")).to_contain_text('"status": "ok"')


def test_a_token_is_asked_for_or_taken_from_the_address(browser: Browser, served: ServedModel) -> None:
    with running(served, access=Access("a-long-secret")) as address:
        context = browser.new_context()
        asked = context.new_page()
        asked.goto(address)
        asked.fill("#token", "a-long-secret")
        asked.keyboard.press("Enter")
        expect(asked.locator("#model-chip")).to_have_text("tiny · 3 classes")
        given = context.new_page()
        given.goto(f"{address}#token=a-long-secret")
        expect(given.locator("#model-chip")).to_have_text("tiny · 3 classes")
        assert given.url == address
        context.close()
