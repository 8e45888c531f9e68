"""A finished run becomes one self-contained HTML page: no request to any network, nothing but this string to keep.

`page.html` holds the words and the order, `style.css` the style, `page.js` what moves; this module fills in what was
measured. All that a user named (classes, files) passes through `markup.text`, or as escaped JSON into the script.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from graftage.measure.interval import Estimate
from graftage.measure.scores import ClassScore, Scores
from graftage.report import curve, figures, markup
from graftage.report.clues import ClueRow, clue_table
from graftage.report.fan import Fan
from graftage.report.frame import framed, template
from graftage.report.markup import text
from graftage.report.scatter import Dot, scatter

MATRIX_CLASSES = 30  # above, the cells of a confusion matrix can neither be read nor hit with a finger
HEAT_CLASSES = 250  # above, a cell of the heat map is smaller than a pixel or two
TABLE_CLASSES = 200  # above, the table keeps the classes of lowest F1
PAIRS = 20  # most confused pairs shown when there is no readable matrix
DEEP = 0.75  # from this shade on, light figures read better than dark ones
GALLERY = 48  # most confident mistakes shown as pictures


@dataclass(frozen=True)
class Beside:
    """What stands beside a mistake.

    Attributes:
        heat: where the answer comes from, as a data URI to lie over the thumbnail.
        image: thumbnail of the most similar training picture as a data URI; empty when there is none.
        id: its file.
        label: its class.
        similarity: cosine, −1 to 1.
    """

    heat: str
    image: str = ""
    id: str = ""
    label: str = ""
    similarity: float = 0.0

    def __post_init__(self) -> None:
        assert all(not i or i.startswith("data:image/") for i in (self.heat, self.image)), "the page loads nothing"


@dataclass(frozen=True)
class Shot:
    """One held-out picture and what was said of it.

    Attributes:
        id: file name or path, as the ledger has it.
        true: class by label.
        predicted: class by model.
        confidence: probability given to the predicted class, 0 to 1.
        runner_up: second class; may be empty.
        image: thumbnail as a data URI, or empty when there is none.
        beside: its heat map and the training picture most like it, where it has them.
    """

    id: str
    true: str
    predicted: str
    confidence: float
    runner_up: str
    image: str
    beside: Beside | None = None

    def __post_init__(self) -> None:
        assert not self.image or self.image.startswith("data:image/"), (
            "thumbnails are data URIs: the page loads nothing"
        )
        assert -1e-6 <= self.confidence <= 1 + 1e-6, f"{self.confidence} is no probability"


@dataclass(frozen=True)
class Left:
    """An input that was not used: its id, its status in the ledger, and why."""

    id: str
    status: str
    reason: str


@dataclass(frozen=True)
class Baseline:
    """A simpler classifier on the same held-out pictures.

    Attributes:
        name: what it is.
        accuracy: its accuracy.
        macro_f1: its macro F1.
        difference: paired, our accuracy minus its accuracy, in the unit range.
        p: exact McNemar p-value of that difference.
    """

    name: str
    accuracy: Estimate
    macro_f1: Estimate
    difference: Estimate | None = None
    p: float | None = None


@dataclass(frozen=True)
class Promised:
    """A promise of the model, and what came of it on held-out pictures.

    Attributes:
        name: what is promised.
        asked: what was asked for, in a few words; None where it could not be promised.
        found: what was measured, None where nothing was.
        share: whether that is a share, to be written as percent.
        why: why it could not be promised.
    """

    name: str
    asked: str | None
    found: Estimate | None
    share: bool = True
    why: str = ""


@dataclass(frozen=True, eq=False)
class Report:
    """All that the page shows, as plain values; whatever is left empty leaves its section out.

    Attributes:
        title: name of the run.
        verdict: one sentence.
        scores: on held-out pictures.
        how_measured: a paragraph on what was held out and how often it was looked at; a blank line starts a new one.
        data: facts on the data, in order.
        class_counts: (class, pictures learnt from, pictures held out).
        baselines: simplest first.
        mistakes: most confident first.
        cells: (true, predicted), as class indices → its pictures, perhaps not all of them.
        left_out: inputs that were not used.
        problems: (severity, kind, id, detail), worst first.
        reliability: bins of confidence, see `figures.Bins`.
        calibration: a sentence or two on the calibration error.
        promised: promises beyond probabilities, and how they fared; how_decided: on what they were measured.
        curve: error against the share answered, see `figures.Curve`.
        trials: (name, log-loss, accuracy, chosen) of all that was tried.
        timing: (stage, seconds), in order.
        model: facts on the model file, in order.
        usage: (caption, code).
        notes: notices that belong on top.
        card: (heading, words) of the model card.
        dots: held-out pictures on a flat map, perhaps not all of them.
        growth: how the score grows with the pictures: the figure, and a sentence.
        clues: what clues beside the content name alone; compared: what that is compared with.
    """

    title: str
    verdict: str
    scores: Scores
    how_measured: str = ""
    data: Mapping[str, str] = field(default_factory=dict)
    class_counts: tuple[tuple[str, int, int], ...] = ()
    baselines: tuple[Baseline, ...] = ()
    mistakes: tuple[Shot, ...] = ()
    cells: Mapping[tuple[int, int], tuple[Shot, ...]] = field(default_factory=dict)
    left_out: tuple[Left, ...] = ()
    problems: tuple[tuple[str, str, str, str], ...] = ()
    reliability: figures.Bins | None = None
    calibration: str = ""
    promised: tuple[Promised, ...] = ()
    how_decided: str = ""
    curve: figures.Curve | None = None
    trials: tuple[tuple[str, float, float, bool], ...] = ()
    timing: tuple[tuple[str, float], ...] = ()
    model: Mapping[str, str] = field(default_factory=dict)
    usage: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    card: tuple[tuple[str, str], ...] = ()
    dots: tuple[Dot, ...] = ()
    growth: tuple[Fan, str] | None = None
    clues: tuple[ClueRow, ...] = ()
    compared: str = ""


def render(report: Report) -> str:
    """The whole page as one string that UTF-8 can hold.

    Raises:
        AssertionError: a cell has more pictures than the confusion matrix counts (our mistake).
    """
    parts = {name: part(report) for name, part in PARTS.items()} | {"script": template("page.js")}
    kept = re.sub(r"<section .*?</section>\n", lambda m: _section(m[0], parts), template("page.html"), flags=re.DOTALL)
    parts["contents"] = "".join(
        f'<li><a href="#{place}">{heading}</a></li>'
        for place, heading in re.findall(r'<section id="(\w+)".*?<h2>(.*?)</h2>', kept, flags=re.DOTALL)
    )
    return framed(kept, parts)


def _section(section: str, parts: Mapping[str, str]) -> str:
    """A section of the template, or nothing where nothing would stand in it."""
    names = re.findall(r"\{\{(\w+)\}\}", section)
    return section if not names or any(parts[name] for name in names) else ""


def _methods(report: Report) -> tuple[str, ...]:
    """Every way in which a number of the page was got, once, in order of appearance."""
    scores = report.scores
    shown = [scores.accuracy, *(estimate for _, estimate, _ in _beside(scores))]
    shown += [e for c in scores.per_class for e in (c.recall, c.precision, c.f1)]
    for baseline in report.baselines:
        shown += [e for e in (baseline.accuracy, baseline.macro_f1, baseline.difference) if e is not None]
    shown += [row.found for row in report.promised if row.found is not None]
    return tuple(dict.fromkeys(estimate.method for estimate in shown))


def _marks(report: Report, estimates: Iterable[Estimate]) -> str:
    """Footnote marks of the methods behind some numbers."""
    numbers = {method: i for i, method in enumerate(_methods(report), 1)}
    used = sorted({numbers[estimate.method] for estimate in estimates})
    links = ",".join(f'<a href="#method{i}" aria-label="method {i}">{i}</a>' for i in used)
    return f"<sup>{links}</sup>" if links else ""


def _beside(scores: Scores) -> list[tuple[str, Estimate, str]]:
    """What stands beside the accuracy: (name, estimate, how it is written)."""
    shares = [("Macro F1", scores.macro_f1), ("Balanced accuracy", scores.balanced_accuracy)]
    shares += [(f"Right class among the first {k}", e) for k, e in sorted(scores.top_k.items()) if k > 1]
    plain = [("AUROC", scores.auroc)] if scores.auroc is not None else []
    plain += [("Log-loss, lower is better", scores.log_loss), ("Brier score, lower is better", scores.brier)]
    return [(name, e, e.percent()) for name, e in shares] + [(name, e, e.number()) for name, e in plain]


def _headline(report: Report) -> str:
    accuracy = report.scores.accuracy
    return f"{markup.estimate(accuracy.percent())}{_marks(report, [accuracy])}"


def _count(report: Report) -> str:
    scores = report.scores
    groups = f" (in {scores.groups} independent groups)" if scores.groups < scores.n else ""
    return f"{scores.n} pictures{groups}"


def _numbers(report: Report) -> str:
    items = (
        f"<div><dt>{name}</dt><dd>{markup.estimate(words)}{_marks(report, [estimate])}</dd></div>"
        for name, estimate, words in _beside(report.scores)
    )
    return f'<dl class="numbers">{"".join(items)}</dl>'


def _chart(report: Report) -> str:
    others = [(baseline.name, baseline.accuracy) for baseline in report.baselines]
    return figures.baselines_chart(("this model", report.scores.accuracy), others)


def _counts(report: Report) -> str:
    if not report.class_counts:
        return ""
    legend = '<p class="legend"><span class="train">learnt from</span><span class="held">held out</span></p>'
    return f"<h3>Pictures per class</h3>{legend}{figures.class_bars(report.class_counts)}"


def _baseline_row(baseline: Baseline) -> str:
    shown = (markup.estimate(e.percent()) for e in (baseline.accuracy, baseline.macro_f1))
    values = [*shown, markup.points(baseline.difference), markup.p_value(baseline.p)]
    return f'<th scope="row">{text(baseline.name)}</th>' + "".join(f"<td>{value}</td>" for value in values)


def _baselines(report: Report) -> str:
    if not report.baselines:
        return ""
    accuracy, macro_f1 = ([getattr(b, name) for b in report.baselines] for name in ("accuracy", "macro_f1"))
    difference = [b.difference for b in report.baselines if b.difference is not None]
    marks = [_marks(report, estimates) for estimates in (accuracy, macro_f1, difference)]
    heads = [f"Accuracy{marks[0]}", f"Macro F1{marks[1]}", f"This model against it{marks[2]}", "p"]
    return markup.table("Baselines", ["Baseline", *heads], map(_baseline_row, report.baselines))


def _measured(estimate: Estimate) -> str:
    order = estimate.value if math.isfinite(estimate.value) else -1
    return f'<td data-v="{order:.6f}">{markup.estimate(estimate.percent())}{figures.interval_bar(estimate)}</td>'


def _class_row(score: ClassScore, learnt: int | None) -> str:
    tag = "" if score.measurable else markup.tag("too few to measure")
    name = f'<th scope="row" data-v="{text(score.name)}">{text(score.name)}{tag}</th>'
    count = "" if learnt is None else f'<td data-v="{learnt}">{learnt}</td>'
    held = f'<td data-v="{score.n}">{score.n}</td>'
    return name + count + held + "".join(_measured(e) for e in (score.recall, score.precision, score.f1))


def _classes(report: Report) -> str:
    scores, learnt = report.scores.per_class, {name: train for name, train, _ in report.class_counts}
    kept = sorted(scores, key=lambda s: s.f1.value)[:TABLE_CLASSES] if len(scores) > TABLE_CLASSES else scores
    columns = ([s.recall for s in kept], [s.precision for s in kept], [s.f1 for s in kept])
    marks = ["", *([""] if learnt else []), "", *(_marks(report, estimates) for estimates in columns)]
    names = ["Class", *(["Learnt from"] if learnt else []), "Held out", "Recall", "Precision", "F1"]
    heads = [f'<button type="button">{name}</button>{mark}' for name, mark in zip(names, marks, strict=True)]
    rows = [_class_row(s, learnt.get(s.name, 0) if learnt else None) for s in kept]
    left = len(scores) - len(kept)
    more = f'<p class="quiet">The {left} classes of higher F1 are in metrics.json.</p>' if left else ""
    css = "sortable long" if len(kept) > 16 else "sortable"
    return markup.table("Scores per class", heads, rows, css=css) + more


def _open_button(report: Report, row: int, column: int, *, words: str) -> str:
    """A button that opens the pictures of a cell, or the bare words where there are none to open."""
    if not report.cells.get((row, column)):
        return words
    count, total = report.scores.confusion[row, column], report.scores.confusion[row].sum()
    true, predicted = text(report.scores.classes[row]), text(report.scores.classes[column])
    label = f"{true} taken for {predicted}: {count} of {total}. Show pictures"
    if row == column:
        label = f"{true} recognised: {count} of {total}. Show pictures"
    return f'<button type="button" data-cell="{row},{column}" aria-label="{label}">{words}</button>'


def _matrix_cell(report: Report, row: int, column: int) -> str:
    count, total = int(report.scores.confusion[row, column]), int(report.scores.confusion[row].sum())
    kind = "right" if row == column else "wrong"
    if not count:
        return f'<td class="{kind}"></td>'
    shade = figures.shade(count, total)
    css = f"{kind} deep" if shade > DEEP else kind
    return f'<td class="{css}" style="--s:{shade:.2f}">{_open_button(report, row, column, words=str(count))}</td>'


def _matrix(report: Report) -> str:
    names, size = report.scores.classes, len(report.scores.classes)
    css = "few" if size <= 5 else "some" if size <= 14 else "many"
    top = "".join(f'<th scope="col" title="{text(name)}"><span>{text(name)}</span></th>' for name in names)
    rows = "".join(
        f'<tr><th scope="row" title="{text(name)}"><span>{text(name)}</span></th>'
        + "".join(_matrix_cell(report, i, j) for j in range(size))
        + "</tr>"
        for i, name in enumerate(names)
    )
    corner = '<td class="corner">true ↓ &nbsp; predicted →</td>'
    table = f"<table><thead><tr>{corner}{top}</tr></thead><tbody>{rows}</tbody></table>"
    hint = '<p class="quiet screen-only">Underlined numbers open their pictures; arrow keys move between them.</p>'
    box = f'<div class="scroll matrix {css}" role="region" aria-label="Confusion matrix" tabindex="0">{table}</div>'
    return box + hint if report.cells else box


def _pairs(report: Report) -> str:
    wrong = report.scores.confusion.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:PAIRS]
    pairs = [(int(i) // len(wrong), int(i) % len(wrong)) for i in order if wrong.flat[i] > 0]
    names, totals = report.scores.classes, report.scores.confusion.sum(axis=1)
    rows = (
        f"{markup.cells(names[i], names[j])}<td>{wrong[i, j]} of {totals[i]}</td>"
        f"<td>{_open_button(report, i, j, words='show') if report.cells.get((i, j)) else '–'}</td>"
        for i, j in pairs
    )
    return (
        markup.table("Most confused pairs", ("True class", "Taken for", "Pictures", "See them"), rows) if pairs else ""
    )


def _confusion(report: Report) -> str:
    if len(report.scores.classes) <= MATRIX_CLASSES:
        return _matrix(report)
    heat = figures.heat_map(report.scores.confusion) if len(report.scores.classes) <= HEAT_CLASSES else ""
    return f'<div class="beside">{heat}<div><h3>Most confused pairs</h3>{_pairs(report)}</div></div>'


_HEAT_WORDS = (
    f'<p class="lead">{markup.HEAT_KEY} What the model file makes of the picture, over it: where its log-odds for the '
    "answer come from. Beside it the picture that it learnt from that is most like it to the network. A heat map tells "
    'what was looked at, not that it was right to look there.</p><p class="strength screen-only"><label>Heat map '
    '<input type="range" min="0" max="100" value="80"></label></p>'
)


def _mistake(shot: Shot, number: int) -> str:
    alt = f"{text(shot.id)}: {text(shot.true)} taken for {text(shot.predicted)}"
    image = f'<img id="mistake{number}" src="{text(shot.image)}" alt="{alt}" loading="lazy">'
    said = f'<b class="said">{text(shot.predicted)}</b> {markup.number(100 * shot.confidence, ".1f", unit="&nbsp;%")}'
    truth = f"truly <b>{text(shot.true)}</b>{markup.file_name(shot.id)}"
    picture = image if shot.image else '<span class="blank"></span>'
    if shot.beside is not None and shot.image:
        heat = f'<img class="heat-map" src="{text(shot.beside.heat)}" alt="" loading="lazy">'
        return _explained(f'<span class="under">{picture}{heat}</span>', f"{said}<br>{truth}", shot.beside)
    return f"<figure>{picture}<figcaption>{said}<br>{truth}</figcaption></figure>"


def _explained(picture: str, caption: str, beside: Beside) -> str:
    """A mistake with its heat map, and the training picture most like it."""
    like = ""
    if beside.id:
        said = f"most like it <b>{text(beside.label)}</b><br>similarity {beside.similarity:.2f}"
        said += markup.file_name(beside.id)
        alt = f"{text(beside.id)}: {text(beside.label)}, learnt from"
        image = f'<img src="{text(beside.image)}" alt="{alt}" loading="lazy">'
        shown = image if beside.image else '<span class="blank"></span>'
        like = f"<div>{shown}<p>{said}</p></div>"
    return f'<figure class="pair"><div>{picture}<figcaption>{caption}</figcaption></div>{like}</figure>'


def _mistakes(report: Report) -> str:
    shots = report.mistakes[:GALLERY]
    if not shots:
        return ""
    figures_ = [_mistake(shot, number) for number, shot in enumerate(shots)]
    pairs = [f for f, shot in zip(figures_, shots, strict=True) if shot.beside and shot.image]
    others = [f for f, shot in zip(figures_, shots, strict=True) if not (shot.beside and shot.image)]
    rest = f'<div class="gallery">{"".join(others)}</div>' if others else ""
    return (_HEAT_WORDS + f'<div class="pairs">{"".join(pairs)}</div>' if pairs else "") + rest


def _pictures(report: Report) -> str:
    """The cells' pictures as JSON that is safe inside a script element.

    A thumbnail that the page shows already among the mistakes is named by its element instead of being sent twice, and
    one that a cell has by the cell and its number.
    """
    confusion, names = report.scores.confusion, [markup.clean(name) for name in report.scores.classes]
    shown = {"": "", **{shot.image: f"#mistake{i}" for i, shot in enumerate(report.mistakes[:GALLERY]) if shot.image}}
    cells = {}
    for (row, column), shots in report.cells.items():
        assert len(shots) <= confusion[row, column], f"cell {(row, column)} has more pictures than were counted"
        fields = [
            [markup.clean(s.id), round(s.confidence, 5), markup.clean(s.runner_up), shown.get(s.image, s.image)]
            for s in shots
        ]
        cells[f"{row},{column}"] = {"n": int(confusion[row, column]), "shots": fields}
    dots = _dots(report, shown)
    data = json.dumps({"classes": names, "cells": cells, "dots": dots}, separators=(",", ":"), allow_nan=False)
    return data.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _dots(report: Report, shown: Mapping[str, str]) -> list[list[object]]:
    """The map's pictures; `shown` names the thumbnails that the page has already."""
    known = {s.image: f"@{i},{j}:{k}" for (i, j), shots in report.cells.items() for k, s in enumerate(shots)}
    known.update(shown)
    return [
        [markup.clean(d.id), round(d.confidence, 5), d.true, d.predicted, known.get(d.image, d.image)]
        for d in report.dots
    ]


def _promised_row(report: Report, row: Promised) -> str:
    name = f'<th scope="row">{text(row.name)}</th>'
    if row.asked is None:
        return f'{name}<td colspan="2" class="quiet">not promised: {text(row.why)}</td>'
    if row.found is None:
        return f"{name}<td>{text(row.asked)}</td><td>–</td>"
    words = row.found.percent() if row.share else row.found.number(2)
    asked = text(row.asked).replace(" %", "&nbsp;%")
    return f"{name}<td>{asked}</td><td>{markup.estimate(words)}{_marks(report, [row.found])}</td>"


def _promised(report: Report) -> str:
    if not report.promised:
        return ""
    rows = (_promised_row(report, row) for row in report.promised)
    table = markup.table("Promises", ("", "Asked for", "On held-out pictures"), rows)
    return f'{table}<p class="quiet">{text(report.how_decided)}</p>'


def _trials(report: Report) -> str:
    rows = (
        f'<th scope="row">{text(name)}{markup.tag("chosen", "chosen") if chosen else ""}</th>'
        f"<td>{markup.number(loss, '.3f')}</td><td>{markup.number(100 * accuracy, '.1f', unit=' %')}</td>"
        for name, loss, accuracy, chosen in report.trials
    )
    return markup.table("What was tried", ("Candidate", "Log-loss", "Accuracy"), rows) if report.trials else ""


def _left_out(report: Report) -> str:
    if not report.left_out:
        return ""
    reasons = Counter((left.status, left.reason) for left in report.left_out).most_common(8)
    summary = "".join(f"<li>{count} {text(status)}: {text(reason)}</li>" for (status, reason), count in reasons)
    rows = [markup.cells(left.id, left.status, left.reason) for left in report.left_out]
    table = markup.listing("What was left out", ("File", "Status", "Why"), rows, file="ledger.csv")
    return f'<ul class="reasons">{summary}</ul>{table}'


def _problems(report: Report) -> str:
    rows = [f"<td>{markup.tag(severity, severity)}</td>{markup.cells(*rest)}" for severity, *rest in report.problems]
    heads = ("Severity", "Kind", "File", "What was found")
    return markup.listing("Problems", heads, rows, file="problems.csv") if rows else ""


PARTS: Mapping[str, Callable[[Report], str]] = {
    "title": lambda report: text(report.title),
    "verdict": lambda report: text(report.verdict),
    "headline": _headline,
    "count": _count,
    "numbers": _numbers,
    "chart": _chart,
    "notices": lambda report: "".join(f"<li>{text(note)}</li>" for note in report.notes),
    "facts": lambda report: markup.facts(report.data),
    "counts": _counts,
    "baselines": _baselines,
    "classes": _classes,
    "confusion": _confusion,
    "mistakes": _mistakes,
    "reliability": lambda report: figures.reliability_diagram(report.reliability) if report.reliability else "",
    "growth": lambda report: curve.figure(*report.growth) if report.growth else "",
    "calibration": lambda report: f'<p class="quiet">{text(report.calibration)}</p>' if report.calibration else "",
    "clues": lambda report: clue_table(report.clues, report.compared) if report.clues else "",
    "promised": _promised,
    "curve": lambda report: figures.risk_coverage_figure(report.curve) if report.curve else "",
    "trials": _trials,
    "left_out": _left_out,
    "problems": _problems,
    "timing": lambda report: figures.timing_bars(report.timing) if report.timing else "",
    "usage": lambda report: "".join(markup.code(caption, source) for caption, source in report.usage),
    "model": lambda report: markup.facts(report.model),
    "map": lambda report: scatter(report.dots, report.scores.classes),
    "card": lambda report: markup.facts(dict(report.card)),
    "how_measured": lambda report: markup.paragraphs(report.how_measured),
    "footnotes": lambda report: markup.footnotes(_methods(report)),
    "pictures": _pictures,
}
