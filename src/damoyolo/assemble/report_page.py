"""The page of a report: HTML that holds its pictures and needs nothing from outside."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from damoyolo.data.draw import Colour
from damoyolo.evaluation.coco import ABSENT


@dataclass(frozen=True)
class Picture:
    """A PNG or JPEG file and what it shows."""

    name: str
    content: bytes
    caption: str


@dataclass(frozen=True)
class Section:
    """A heading, a sentence or two, pictures, and a list of remarks."""

    title: str
    text: str
    pictures: tuple[Picture, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class ClassRow:
    """Numbers of one class, 0..1 or `ABSENT`; counts of training and of validation boxes."""

    name: str
    colour: Colour
    trained: int
    boxes: int
    ap: float
    ap50: float
    recall: float
    precision: float


STYLE = """:root { color-scheme: light dark; --ink: #1d232b; --soft: #5d6875; --paper: #ffffff;
  --card: #f4f6f8; --line: #dde2e8; --strong: #1f6fb4 }
@media (prefers-color-scheme: dark) { :root { --ink: #e7ebf0; --soft: #9aa6b4; --paper: #14181d;
  --card: #1e242b; --line: #333c46; --strong: #6db3ec } }
* { box-sizing: border-box }
body { font: 16px/1.55 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 76rem; margin: 0 auto; padding: 1.5rem 1.2rem 4rem }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .4rem; overflow-wrap: anywhere }
h2 { font-size: 1.25rem; margin: 2.6rem 0 .4rem; padding-top: .6rem; border-top: 1px solid var(--line) }
p { max-width: 60rem; margin: .3rem 0 .9rem; color: var(--soft); overflow-wrap: anywhere }
a { color: var(--strong) }
nav a { margin-right: 1rem; white-space: nowrap }
.numbers { display: grid; grid-template-columns: repeat(auto-fit, minmax(8rem, 1fr)); gap: .6rem;
  margin: 1.2rem 0 }
.numbers div { background: var(--card); border-radius: .6rem; padding: .6rem .9rem }
.numbers b { display: block; font-size: 1.5rem; font-variant-numeric: tabular-nums }
.numbers span { color: var(--soft); font-size: .85rem }
.numbers div:first-child b { color: var(--strong) }
figure { margin: 0 }
figure img { display: block; max-width: 100%; height: auto; background: #fff; border-radius: .4rem }
figcaption { color: var(--soft); font-size: .85rem; margin: .2rem 0 .8rem; overflow-wrap: anywhere }
.many { display: grid; gap: .4rem 1rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 32rem), 1fr)) }
.scroll { overflow-x: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .25rem .9rem; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--line) }
th { color: var(--soft); font-weight: 600; font-size: .85rem }
th:first-child, td:first-child { text-align: left }
td:first-child { white-space: normal; overflow-wrap: anywhere }
i { display: inline-block; width: .8em; height: .8em; border-radius: .2em; margin-right: .5em }
pre { background: var(--card); border-radius: .6rem; padding: .8rem 1rem; overflow-x: auto;
  font-size: .85rem }
ul { color: var(--soft); columns: 22rem; margin: .8rem 0 }
"""
"""Of every page: light or dark as the reader's system is, and as wide as the screen."""

PAGE_HEAD = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
{style}</style>
</head>
<body>
<h1>{title}</h1>
<p>{facts}.</p>
"""
"""Begins every page: what it is about, and its facts in a sentence."""

_PAGE = """<nav>{links}</nav>
<div class="numbers">{numbers}</div>
{sections}
<h2 id="classes">Classes</h2>
<p>AP and AP50 are COCO's, over all scores; recall and precision are those of the confusion matrix. A dash
stands for what cannot be measured.</p>
<div class="scroll"><table>
<tr><th>class</th><th>training boxes</th><th>validation boxes</th><th>AP</th><th>AP50</th><th>recall</th>
<th>precision</th></tr>
{classes}
</table></div>
<h2 id="settings">Settings</h2>
<p>Beside this page lies <code>config.yaml</code> with all of them; this trains again with the same:</p>
<pre>{command}</pre>
<pre>{settings}</pre>
</body>
</html>
"""


def page(
    title: str,
    facts: Sequence[str],
    numbers: Sequence[tuple[str, float]],
    sections: Sequence[Section],
    classes: Sequence[ClassRow],
    command: str,
    settings: str,
) -> str:
    """The whole page.

    Args:
        title: heading.
        facts: what there is to say in a line.
        numbers: what to see first, 0..1 or `ABSENT`.
        sections: pictures in their order.
        classes: rows of the table.
        command: trains again.
        settings: the configuration, as YAML.
    """
    links = [(_anchor(section.title), section.title) for section in sections if section.pictures]
    links += [("classes", "Classes"), ("settings", "Settings")]
    return (PAGE_HEAD + _PAGE).format(
        style=STYLE,
        title=escape(title),
        facts=escape("; ".join(facts)),
        links="".join(f'<a href="#{anchor}">{escape(text)}</a>' for anchor, text in links),
        numbers="".join(
            f"<div><b>{_number(value)}</b><span>{escape(name)}</span></div>" for name, value in numbers
        ),
        sections="".join(show_section(section) for section in sections if section.pictures),
        classes="".join(_row(row) for row in classes),
        command=escape(command),
        settings=escape(settings),
    )


def show_section(section: Section) -> str:
    """The section as HTML."""
    figures = "".join(show_figure(picture, alone=len(section.pictures) == 1) for picture in section.pictures)
    notes = "".join(f"<li>{escape(note)}</li>" for note in section.notes)
    return (
        f'<h2 id="{_anchor(section.title)}">{escape(section.title)}</h2><p>{escape(section.text)}</p>'
        + (figures if len(section.pictures) == 1 else f'<div class="many">{figures}</div>')
        + (f"<ul>{notes}</ul>" if notes else "")
        + "\n"
    )


def show_figure(picture: Picture, alone: bool) -> str:
    """The picture within the page; its caption is shown unless it stands alone."""
    kind = "png" if picture.name.endswith(".png") else "jpeg"
    data = base64.b64encode(picture.content).decode()
    image = f'<img src="data:image/{kind};base64,{data}" alt="{escape(picture.caption)}">'
    caption = "" if alone else f"<figcaption>{escape(picture.caption)}</figcaption>"
    return f"<figure>{image}{caption}</figure>"


def _row(row: ClassRow) -> str:
    swatch = f'<i style="background:rgb{row.colour}"></i>'
    counts = f"<td>{row.trained}</td><td>{row.boxes}</td>"
    numbers = "".join(f"<td>{_number(value)}</td>" for value in (row.ap, row.ap50, row.recall, row.precision))
    return f"<tr><td>{swatch}{escape(row.name)}</td>{counts}{numbers}</tr>\n"


def _number(value: float) -> str:
    return "–" if value == ABSENT else f"{value:.3f}"


def _anchor(title: str) -> str:
    return title.lower().replace(" ", "-")
