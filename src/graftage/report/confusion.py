"""Which class is taken for which: a matrix whose cells open their pictures, or the most confused pairs beside a map."""

import numpy as np

from graftage.report import figures, markup
from graftage.report.contents import Report
from graftage.report.markup import text

MATRIX_CLASSES = 30  # above, the cells of a confusion matrix can neither be read nor hit with a finger
HEAT_CLASSES = 250  # above, a cell of the heat map is smaller than a pixel or two
PAIRS = 20  # most confused pairs shown when there is no readable matrix
DEEP = 0.75  # from this shade on, light figures read better than dark ones


def confusion(report: Report) -> str:
    """The matrix, or where there are too many classes for one, a heat map and the pairs."""
    if len(report.scores.classes) <= MATRIX_CLASSES:
        return _matrix(report)
    heat = figures.heat_map(report.scores.confusion) if len(report.scores.classes) <= HEAT_CLASSES else ""
    return f'<div class="beside">{heat}<div><h3>Most confused pairs</h3>{_pairs(report)}</div></div>'


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


def _matrix_cell(report: Report, row: int, column: int) -> str:
    count, total = int(report.scores.confusion[row, column]), int(report.scores.confusion[row].sum())
    kind = "right" if row == column else "wrong"
    if not count:
        return f'<td class="{kind}"></td>'
    shade = figures.shade(count, total)
    css = f"{kind} deep" if shade > DEEP else kind
    return f'<td class="{css}" style="--s:{shade:.2f}">{_open_button(report, row, column, words=str(count))}</td>'


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
