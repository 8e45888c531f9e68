"""A finished run becomes one self-contained HTML page: no request to any network, nothing but this string to keep.

`page.html` holds the words and the order, `style.css` the style, `page.js` what moves; this module and its neighbours
`confusion`, `mistakes` and `footnotes` fill in what was measured, as `contents` has it. All that a user named (classes,
files) passes through `markup.text`, or as escaped JSON into the script.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping

from graftage.measure.interval import Estimate
from graftage.measure.scores import ClassScore
from graftage.report import curve, figures, markup
from graftage.report.clues import clue_table
from graftage.report.confusion import confusion
from graftage.report.contents import Baseline, Promised, Report
from graftage.report.footnotes import marked, methods, numbers
from graftage.report.frame import framed, template
from graftage.report.markup import text
from graftage.report.mistakes import mistakes, pictures
from graftage.report.scatter import scatter

TABLE_CLASSES = 200  # above, the table keeps the classes of lowest F1


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


def _headline(report: Report) -> str:
    accuracy = report.scores.accuracy
    return f"{markup.estimate(accuracy.percent())}{marked(report, [accuracy])}"


def _count(report: Report) -> str:
    scores = report.scores
    groups = f" (in {scores.groups} independent groups)" if scores.groups < scores.n else ""
    return f"{scores.n} pictures{groups}"


def _numbers(report: Report) -> str:
    items = (
        f"<div><dt>{name}</dt><dd>{markup.estimate(words)}{marked(report, [estimate])}</dd></div>"
        for name, estimate, words in numbers(report.scores)
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
    marks = [marked(report, estimates) for estimates in (accuracy, macro_f1, difference)]
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
    marks = ["", *([""] if learnt else []), "", *(marked(report, estimates) for estimates in columns)]
    names = ["Class", *(["Learnt from"] if learnt else []), "Held out", "Recall", "Precision", "F1"]
    heads = [f'<button type="button">{name}</button>{mark}' for name, mark in zip(names, marks, strict=True)]
    rows = [_class_row(s, learnt.get(s.name, 0) if learnt else None) for s in kept]
    left = len(scores) - len(kept)
    more = f'<p class="quiet">The {left} classes of higher F1 are in metrics.json.</p>' if left else ""
    css = "sortable long" if len(kept) > 16 else "sortable"
    return markup.table("Scores per class", heads, rows, css=css) + more


def _promised_row(report: Report, row: Promised) -> str:
    name = f'<th scope="row">{text(row.name)}</th>'
    if row.asked is None:
        return f'{name}<td colspan="2" class="quiet">not promised: {text(row.why)}</td>'
    if row.found is None:
        return f"{name}<td>{text(row.asked)}</td><td>–</td>"
    words = row.found.percent() if row.share else row.found.number(2)
    asked = text(row.asked).replace(" %", "&nbsp;%")
    return f"{name}<td>{asked}</td><td>{markup.estimate(words)}{marked(report, [row.found])}</td>"


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
    "confusion": confusion,
    "mistakes": mistakes,
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
    "footnotes": lambda report: markup.footnotes(methods(report)),
    "pictures": pictures,
}
