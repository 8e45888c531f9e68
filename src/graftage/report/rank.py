"""A ranking of pretrained networks becomes one self-contained HTML page, in the look of the report."""

from collections.abc import Mapping
from dataclasses import dataclass

from graftage.measure.interval import Estimate
from graftage.report import markup
from graftage.report.frame import framed, template
from graftage.report.markup import text
from graftage.report.pareto import Spot, pareto_chart


@dataclass(frozen=True)
class Row:
    """One network that was ranked.

    Attributes:
        name: its id, with its way of use.
        score: expected accuracy.
        cells: in the order of the page's heads.
        mark: a word in a frame, such as "recommended".
    """

    name: str
    score: Estimate
    cells: tuple[str, ...]
    mark: str = ""


@dataclass(frozen=True)
class RankPage:
    """All that the page shows, as plain values.

    Attributes:
        title: name of the data.
        verdict: the recommendation and its reason.
        notes: notices that belong on top.
        spots: for the figure.
        heads: of the columns after the score.
        rows: best first.
        out: (name, probability of being the best or "", why) of those that are not ranked.
        facts: names and values.
        how: paragraphs on how it was got.
    """

    title: str
    verdict: str
    notes: tuple[str, ...]
    spots: tuple[Spot, ...]
    heads: tuple[str, ...]
    rows: tuple[Row, ...]
    out: tuple[tuple[str, str, str], ...]
    facts: Mapping[str, str]
    how: str


def render(page: RankPage) -> str:
    """The whole page as one string that UTF-8 can hold."""
    parts: Mapping[str, str] = {
        "title": text(page.title),
        "verdict": markup.prose(page.verdict),
        "notices": "".join(f"<li>{text(note)}</li>" for note in page.notes),
        "facts": markup.facts(page.facts),
        "figure": _figure(page),
        "rows": _rows(page),
        "out": _out(page),
        "how": markup.paragraphs(page.how),
    }
    return framed(template("rank.html"), parts)


def _figure(page: RankPage) -> str:
    names = (("chosen", "recommended"), ("fore", "beaten by none in both"), ("aft", "others"))
    key = "".join(f'<span class="{css}">{text(words)}</span>' for css, words in names)
    return f'<p class="legend">{key}</p>{pareto_chart(page.spots)}'


def _rows(page: RankPage) -> str:
    rows = (
        f'<th scope="row">{text(row.name)}{markup.tag(row.mark, "chosen") if row.mark else ""}</th>'
        f"<td>{markup.estimate(row.score.percent())}</td>{markup.cells(*row.cells)}"
        for row in page.rows
    )
    heads = ("Network", "Expected accuracy", *(text(head) for head in page.heads))
    return markup.table("Networks, best first", heads, rows, css="sortable")


def _out(page: RankPage) -> str:
    if not page.out:
        return ""
    rows = (f'<th scope="row">{text(name)}</th>{markup.cells(chance, why)}' for name, chance, why in page.out)
    heads = ("Network", "P(best)", "Why")
    return "<h3>Not ranked</h3>" + markup.table("Networks that are not ranked", heads, rows)
