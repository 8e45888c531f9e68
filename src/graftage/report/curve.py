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
    """One class: its name, pictures, recall now, and what twice the pictures of all classes bring it."""

    name: str
    pictures: int
    recall: Estimate
    gain: str


@dataclass(frozen=True)
class RivalRow:
    """A training from scratch: its pictures, both scores on the same held-out ones, what lies between, epochs, loss."""

    pictures: int
    scratch: Estimate
    pretrained: Estimate
    gain: Estimate
    epochs: str
    loss: str


@dataclass(frozen=True)
class Rival:
    """The same network trained from random weights.

    Attributes:
        verdict: sentences.
        notes: what makes the comparison unfair or incomplete.
        fan: both curves, the pretrained network's as measured, the other's as other.
        metric: what is scored, in words.
        rows: one per training from scratch.
        exchanges: (pictures pretrained, score, pictures from scratch in words).
        how: paragraphs on how it was got.
    """

    verdict: str
    notes: tuple[str, ...]
    fan: Fan
    metric: str
    rows: tuple[RivalRow, ...]
    exchanges: tuple[tuple[int, Estimate, str], ...]
    how: str


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
        classes: least often right first.
        how: paragraphs on how it was got.
        rival: what the curve is held against, or None.
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
    rival: "Rival | None" = None


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
        "rival": "" if growth.rival is None else _rival(growth.rival),
    }
    return framed(template("curve.html"), parts)


def _rival(rival: Rival) -> str:
    """The section on training from scratch."""
    notes = "".join(f"<li>{text(note)}</li>" for note in rival.notes)
    names = (("measured", "pretrained, a ridge head on frozen features"), ("other", "from random weights"))
    key = "".join(f'<span class="{css}">{text(words)}</span>' for css, words in names)
    heads = ("Pictures", "From scratch", "Pretrained", "Pretrained is better by", "Epochs", "Loss on its own pictures")
    rows = (
        f'<td class="number">{r.pictures:,}</td><td>{markup.estimate(r.scratch.percent())}</td>'
        f"<td>{markup.estimate(r.pretrained.percent())}</td><td>{markup.points(r.gain)}</td>"
        f"{markup.cells(r.epochs, r.loss)}"
        for r in rival.rows
    )
    other = (
        f'<td class="number">{m:,}</td><td>{markup.estimate(score.percent())}</td><td>{text(words)}</td>'
        for m, score, words in rival.exchanges
    )
    swapped = ("Pictures", f"{rival.metric.capitalize()}, pretrained", "As good from scratch")
    return (
        '<section id="scratch">\n<h2>What pretraining is worth</h2>\n'
        '<p class="lead">The same network, trained from random weights on the pictures of this set alone. Both are '
        "asked the same pictures, which none of them learnt from.</p>\n"
        + (f'<ul class="notices">{notes}</ul>' if notes else "")
        + f'<p>{text(rival.verdict)}</p><p class="legend">{key}</p>{fan_chart(rival.fan)}'
        + markup.table("Trainings from scratch", heads, rows)
        + (f"<h3>In pictures</h3>{markup.table('In pictures', swapped, other)}" if rival.exchanges else "")
        + f'<div class="how">{markup.paragraphs(rival.how)}</div>\n</section>\n'
    )


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
        f'<th scope="row">{text(row.name)}</th><td>{row.pictures:,}</td>'
        f"<td>{markup.estimate(row.recall.percent())}</td><td>{text(row.gain)}</td>"
        for row in growth.classes[:CLASSES]
    ]
    heads = ("Class", "Pictures", "Right now", "Twice the pictures")
    more = len(growth.classes) - CLASSES
    rest = f'<p class="quiet">{more:,} more in the json file.</p>' if more > 0 else ""
    return markup.table("Classes, least often right first", heads, rows, css="long sortable") + rest
