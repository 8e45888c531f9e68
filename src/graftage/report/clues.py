"""The table of shortcuts that a check and a training run share: what each clue alone names, and what to think of it."""

from collections.abc import Sequence
from dataclasses import dataclass

from graftage.report import markup
from graftage.report.markup import text


@dataclass(frozen=True)
class ClueRow:
    """A clue: its name, its accuracy in words, what to think of it ("" for nothing), and whether that is serious."""

    clue: str
    accuracy: str
    verdict: str
    serious: bool = False


def clue_table(rows: Sequence[ClueRow], compared: str) -> str:
    """The table below a sentence on what the clues are compared with; without rows the sentence alone."""
    if not rows:
        return f'<p class="quiet">{text(compared) or "Nothing could be compared."}</p>'
    heads = ("Clue alone", "Accuracy, held out", "Verdict")
    return f'<p class="lead">{text(compared)}</p>' + markup.table("Shortcuts", heads, map(_row, rows))


def _row(row: ClueRow) -> str:
    css = ' class="serious"' if row.serious else ""
    accuracy = markup.estimate(row.accuracy)
    return f'<th scope="row">{text(row.clue)}</th><td>{accuracy}</td><td{css}>{text(row.verdict or "–")}</td>'
