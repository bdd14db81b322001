"""The page about a data set that was looked over: HTML that needs nothing from outside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from damoyolo.assemble.report_page import PAGE_HEAD, STYLE, Picture, show_figure
from damoyolo.data.doctor.advice import Advice
from damoyolo.data.doctor.findings import Finding
from damoyolo.data.draw import colour_of


@dataclass(frozen=True)
class ClassCounts:
    """Boxes of one class in every split."""

    name: str
    label: int
    boxes: tuple[int, ...]


_STYLE = """h3 { font-size: 1.05rem; margin: 1.6rem 0 .2rem; overflow-wrap: anywhere }
h3 b { font-size: .75rem; text-transform: uppercase; letter-spacing: .04em; padding: .12rem .5rem;
  border-radius: .4rem; margin-right: .5rem; color: #fff }
h3 .error { background: #b3261e } h3 .warning { background: #8a5a00 } h3 .note { background: #4a5a6a }
.numbers div.error b { color: #b3261e } .numbers div.warning b { color: #8a5a00 }
@media (prefers-color-scheme: dark) { .numbers div.error b { color: #ff8a80 }
  .numbers div.warning b { color: #e8b64c } }
.shown { columns: auto; margin: .3rem 0 .6rem; padding-left: 1.2rem; overflow-wrap: anywhere }
.reason td { text-align: left; white-space: normal; padding: .25rem .5rem }
.reason td:nth-child(-n+2) { white-space: nowrap; overflow-wrap: normal; vertical-align: top }
.reason td:last-child { min-width: 12rem }
"""

_PAGE = """<nav><a href="#found">Found</a><a href="#advice">Advice</a><a href="#labels">Labels</a>
<a href="#classes">Classes</a></nav>
<div class="numbers">{numbers}</div>
<h2 id="found">Found</h2>
<p>An error stops a training or makes its numbers wrong; a warning may cost accuracy; a note does neither.
Boxes at fault are yellow on black in the pictures; what is outside an image is shown at its border.</p>
{findings}
<h2 id="advice">Advice</h2>
<p>Rules of thumb, computed from the training boxes and the device.</p>
<div class="scroll"><table class="reason">
{advice}
</table></div>
<pre>{command}</pre>
<h2 id="labels">Labels</h2>
<p>Sizes and places are those of the training boxes, without augmentation.</p>
{statistics}
<h2 id="classes">Classes</h2>
<p>Boxes of each class in each split.</p>
<div class="scroll"><table>
{classes}
</table></div>
</body>
</html>
"""


def doctor_page(
    title: str,
    facts: Sequence[str],
    numbers: Sequence[tuple[str, int]],
    findings: Sequence[Finding],
    shown: Mapping[str, Sequence[Picture]],
    advice: Sequence[Advice],
    command: str,
    splits: Sequence[str],
    classes: Sequence[ClassCounts],
    statistics: Picture,
) -> str:
    """The whole page.

    Args:
        title: heading.
        facts: what there is to say in a line.
        numbers: how many findings of each level there are.
        findings: what was found, in its order.
        shown: pictures by title of a finding.
        advice: settings with their reasons.
        command: trains as advised.
        splits: columns of the table.
        classes: rows of the table.
        statistics: of the labels.
    """
    return (PAGE_HEAD + _PAGE).format(
        title=escape(title),
        style=STYLE + _STYLE,
        facts=escape("; ".join(facts)),
        numbers="".join(_number(*each) for each in numbers),
        findings="".join(_finding(each, shown.get(each.title, ())) for each in findings)
        or "<p>Nothing to complain of.</p>",
        advice="".join(
            f"<tr><td>{escape(each.setting)}</td><td>{escape(each.value)}</td><td>{escape(each.reason)}</td></tr>\n"
            for each in advice
        ),
        command=escape(command),
        statistics=show_figure(statistics, alone=True),
        classes=_head(splits) + "".join(map(_row, classes)),
    )


def _number(level: str, count: int) -> str:
    """How many findings of a level, in its colour where there are any."""
    colour = f' class="{level}"' if count else ""
    return f"<div{colour}><b>{count}</b><span>{level}{'s' * (count != 1)}</span></div>"


def _finding(finding: Finding, shown: Sequence[Picture]) -> str:
    examples = "".join(f"<li>{escape(text)}</li>" for text in finding.shown)
    figures = "".join(show_figure(picture, alone=False) for picture in shown)
    return (
        f'<h3><b class="{finding.level}">{finding.level}</b>{escape(finding.title)}: {finding.count}</h3>'
        f'<ul class="shown">{examples}</ul><p>What to do: {escape(finding.remedy)}.</p>'
        + (f'<div class="many">{figures}</div>' if figures else "")
        + "\n"
    )


def _head(splits: Sequence[str]) -> str:
    return "<tr><th>class</th>" + "".join(f"<th>{escape(split)}</th>" for split in splits) + "</tr>\n"


def _row(row: ClassCounts) -> str:
    swatch = f'<i style="background:rgb{colour_of(row.label)}"></i>'
    counts = "".join(f"<td>{count}</td>" for count in row.boxes)
    return f"<tr><td>{swatch}{escape(row.name)}</td>{counts}</tr>\n"
