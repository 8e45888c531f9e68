"""A learning curve becomes one self-contained HTML page, in the look of the report."""

from collections.abc import Mapping
from dataclasses import dataclass

from graftage.measure.interval import Estimate
from graftage.report import markup
from graftage.report.fan import Fan, fan_chart
from graftage.report.frame import framed, template
from graftage.report.markup import text

CLASSES = 200  # rows of the table of classes


@dataclass(frozen=True)
class ClassRow:
    """One class: its name, pictures, recall now, what twice the pictures bring, worth of 100 more, and a mark."""

    name: str
    pictures: int
    recall: Estimate
    gain: str
    worth: str
    mark: str = ""


@dataclass(frozen=True)
class Growth:
    """All that the page shows, as plain values.

    Attributes:
        title: name of the data.
        verdict: one or two sentences.
        notes: notices that belong on top.
        fan: the figure.
        metric: what is scored, in words.
        rows: (pictures, what it is, score) for the table beside the figure.
        facts: names and values.
        classes: most worth photographing first.
        how: paragraphs on how it was got.
    """

    title: str
    verdict: str
    notes: tuple[str, ...]
    fan: Fan
    metric: str
    rows: tuple[tuple[int, str, Estimate], ...]
    facts: Mapping[str, str]
    classes: tuple[ClassRow, ...]
    how: str


def render(growth: Growth) -> str:
    """The whole page as one string that UTF-8 can hold."""
    parts: Mapping[str, str] = {
        "title": text(growth.title),
        "verdict": text(growth.verdict),
        "notices": "".join(f"<li>{text(note)}</li>" for note in growth.notes),
        "figure": figure(growth.fan),
        "metric": text(growth.metric),
        "rows": _rows(growth),
        "facts": markup.facts(growth.facts),
        "classes": _classes(growth),
        "how": markup.paragraphs(growth.how),
    }
    return framed(template("curve.html"), parts)


def figure(fan: Fan, words: str = "") -> str:
    """The fan with its key and, below it, a sentence."""
    said = f"<p>{text(words)}</p>" if words else ""
    return f'<p class="legend">{_key(fan)}</p>{fan_chart(fan)}{said}'


def _key(fan: Fan) -> str:
    names = [("measured", "measured on refits")]
    if fan.foretold:
        names += [("expected", "expected"), ("band", "80 % interval")]
    if fan.target is not None:
        names.append(("target", f"target {100 * fan.target:g} %"))
    return "".join(f'<span class="{css}">{text(words)}</span>' for css, words in names)


def _rows(growth: Growth) -> str:
    rows = (
        f'<td class="number">{m:,}</td><td>{text(what)}</td><td>{markup.estimate(score.percent())}</td>'
        for m, what, score in growth.rows
    )
    return markup.table("Scores by number of pictures", ("Pictures", "", text(growth.metric.capitalize())), rows)


def _classes(growth: Growth) -> str:
    rows = [
        f'<th scope="row">{text(row.name)}{markup.tag(row.mark, "chosen") if row.mark else ""}</th>'
        f"<td>{row.pictures:,}</td><td>{markup.estimate(row.recall.percent())}</td>"
        f"<td>{text(row.gain)}</td><td>{text(row.worth)}</td>"
        for row in growth.classes[:CLASSES]
    ]
    heads = ("Class", "Pictures", "Right now", "Twice the pictures", "100 more of it")
    more = len(growth.classes) - CLASSES
    rest = f'<p class="quiet">{more:,} more in the json file.</p>' if more > 0 else ""
    return markup.table("Classes by what more pictures bring", heads, rows, css="long sortable") + rest
