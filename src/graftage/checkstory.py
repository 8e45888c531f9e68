"""What `graftage check` found, told: in a few lines for the terminal, as a page, as a csv to act upon."""

import shlex
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from graftage.checking import PROBLEMS, Asked, Checked, compared_with, shortcut_rows
from graftage.data.catalog import Catalog
from graftage.data.findings import KINDS, Finding, write_findings
from graftage.data.listing import title_of
from graftage.features.engine import cores
from graftage.looking import limits_of
from graftage.progress import Journal
from graftage.report.check import SHOWN, Card, CheckPage, Group, render
from graftage.report.clues import ClueRow
from graftage.settings import Settings
from graftage.shown import thumbnail
from graftage.writing import unwritable, write_json, write_text

REPORT, SUMMARY = "report.html", "check.json"

_THUMBNAILS = 600
_THUMBNAIL_BYTES = 3_600_000  # of the page, so that it stays under 5 MB


def finished(
    folder: Path | None,
    settings: Settings,
    catalog: Catalog,
    found: tuple[Finding, ...],
    asked: Asked | None,
    journal: Journal,
) -> Checked:
    """Writes page, csv and numbers into `folder`, if there is one."""
    checked = Checked(found, catalog, asked, (), tuple(journal.notes), folder)
    if folder is not None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with journal.stage("page"):
                page = render(_page(checked, settings))
                write_text(page, folder / REPORT)
            write_findings(found, folder / PROBLEMS)
            write_json(to_json(checked), folder / SUMMARY)
        except OSError as error:
            raise unwritable(folder, error) from error
    return replace(checked, summary=summary(checked), notes=tuple(journal.notes))


def to_json(checked: Checked) -> dict[str, object]:
    """Counts and numbers, for a program to read."""
    kinds = Counter(finding.kind for finding in checked.findings)
    asked = checked.asked
    return {
        "serious": checked.serious,
        "pictures": checked.catalog.counts(),
        "problems": {kind: kinds[kind] for kind in KINDS if kinds[kind]},
        "expected_wrong_labels": None if asked is None else vars(asked.suspects.wrong),
        "shortcuts": [] if asked is None else [each.to_json() for each in asked.shortcuts],
    }


def summary(checked: Checked) -> tuple[str, ...]:
    """Lines for the terminal."""
    counts, catalog = checked.catalog.counts(), checked.catalog
    used = counts["used"] + counts["repaired"]
    lines = [f"{used:,} pictures of {len(catalog.classes):,} classes checked, {counts['rejected']:,} cannot be used"]
    kinds = Counter((finding.severity, finding.kind) for finding in checked.findings)
    for severity, kind in dict.fromkeys((finding.severity, finding.kind) for finding in checked.findings):
        lines.append(f"{severity:<9} {kind:<22} {kinds[severity, kind]:,}{_beside(checked, kind)}")
    if not checked.findings:
        lines.append("no problem found")
    if checked.asked is not None and checked.asked.shortcuts:
        best = checked.asked.shortcuts[0]
        lines.append(f"best clue without the content: {best.clue}, {best.words()}")
    lines.append("something serious was found" if checked.serious else "nothing serious was found")
    if checked.folder is not None:
        lines += [f"page      {checked.folder / REPORT}", f"problems  {checked.folder / PROBLEMS}"]
    return tuple(lines)


def _beside(checked: Checked, kind: str) -> str:
    return f"; {expected(checked.asked)}" if kind == "likely wrong label" and checked.asked is not None else ""


def expected(asked: Asked) -> str:
    """How many labels are probably wrong, in words."""
    wrong = asked.suspects.wrong
    among = f"{wrong.value:,.0f} ({wrong.low:,.0f} to {wrong.high:,.0f}) of {len(asked.rows):,}"
    return f"about {among} expected wrong or open to doubt"


def _page(checked: Checked, settings: Settings) -> CheckPage:
    counts = checked.catalog.counts()
    asked = checked.asked
    compared = "There are no two classes to tell apart." if asked is None else "No clue varies within this set."
    rows: tuple[ClueRow, ...] = ()
    if asked is not None and asked.shortcuts:
        compared = compared_with(asked.shortcuts, content="by its network's features")
        rows = shortcut_rows(asked.shortcuts)
    return CheckPage(
        title=title_of(settings.data) or "pictures",
        verdict=_verdict(checked),
        notes=checked.notes,
        facts={
            "table" if checked.catalog.table else "folder": str(settings.data),
            "usable pictures": f"{counts['used'] + counts['repaired']:,}",
            "unusable files": f"{counts['rejected']:,}",
            "classes": f"{len(checked.catalog.classes):,}",
            "problems": f"{len(checked.findings):,}",
        },
        groups=_groups(checked, settings),
        clues=rows,
        compared=compared,
        usage=(
            (
                "Look at what would be changed",
                f"graftage clean {settings.data} {PROBLEMS}{_columns(settings)} --dry-run",
            ),
            ("Carry it out", f"graftage clean {settings.data} {PROBLEMS}{_columns(settings)}"),
            ("Take the last clean back", f"graftage clean {settings.data} --undo"),
        ),
        how=_how(checked),
    )


def _columns(settings: Settings) -> str:
    """The flags by which a table was read, as they are typed."""
    return "".join(f" {shlex.quote(word)}" for word in settings.columns().flags())


def _verdict(checked: Checked) -> str:
    if not checked.findings:
        return "Nothing wrong was found with these pictures and labels."
    errors = dict.fromkeys(f.kind for f in checked.findings if f.severity == "error")
    if errors:
        return f"Mend this before you trust a score: {', '.join(errors)}."
    return "Nothing here makes a score wrong; what was found may make it worse."


def _how(checked: Checked) -> str:
    asked = checked.asked
    if asked is None:
        return "Every file was read and decoded once and compared with the rest of the set."
    n = len(asked.rows)
    return (
        f"Every file was read and decoded once. Labels: {n:,} pictures in 5 folds, copies kept together; two "
        "classifiers on the features of a pretrained network (ridge and logistic regression) answer for pictures that "
        "they have not seen, and so do the 10 nearest neighbours. A label is listed where confident learning "
        "(Northcutt, Jiang and Chuang 2021, pruning by noise rate) counts it as wrong and at least two of the three "
        "would give another one.\n\nThe expected number comes from the same joint count, its 95 % interval from a "
        "bootstrap over pictures. It counts pictures that could be of either class, too: classes that look alike raise "
        "it. Brightness, edges, entropy and shape are measured at 64 pixels with cleanvision's limits, and reported "
        "only where a picture is also far from the rest of its set."
    )


def _groups(checked: Checked, settings: Settings) -> tuple[Group, ...]:
    kinds = dict.fromkeys(finding.kind for finding in checked.findings)
    of = {kind: [f for f in checked.findings if f.kind == kind] for kind in kinds}
    shown = _shares({kind: len(some) for kind, some in of.items()}, SHOWN)
    pictures = _Thumbnails(checked.catalog, settings, [f for kind in kinds for f in of[kind][: shown[kind]]])
    groups = []
    for kind, some in of.items():
        cards = tuple(_card(finding, pictures) for finding in some[: shown[kind]])
        note = expected(checked.asked).capitalize() + "." if _beside(checked, kind) and checked.asked else ""
        groups.append(Group(kind, KINDS[kind], some[0].severity, len(some), cards, note))
    return tuple(groups)


def _shares(counts: dict[str, int], room: int) -> dict[str, int]:
    """How many of each kind are shown: all, or as many of every kind as there is room for."""
    shares: dict[str, int] = {}
    for left, kind in zip(range(len(counts), 0, -1), sorted(counts, key=lambda kind: counts[kind]), strict=True):
        shares[kind] = min(counts[kind], room // left)
        room -= shares[kind]
    return shares


class _Thumbnails:
    """Small pictures for the findings that are shown, made side by side, until the page has had enough."""

    def __init__(self, catalog: Catalog, settings: Settings, found: Sequence[Finding]) -> None:
        # a table may list a file twice: the row that is used comes last, and stays
        entries = {e.id: e for e in sorted(catalog.entries, key=lambda e: e.status != "rejected")}
        wanted = dict.fromkeys(name for f in found for name in (f.path, f.other) if name in entries)
        some = [entries[name] for name in wanted if entries[name].status != "rejected"][:_THUMBNAILS]
        limits = limits_of(settings)
        with ThreadPoolExecutor(settings.workers or cores()) as pool:
            made = pool.map(lambda e: thumbnail(e.path, limits=limits, repair=settings.repair), some)
            self._images = dict(zip([entry.id for entry in some], made, strict=True))
        self._left = _THUMBNAIL_BYTES

    def of(self, name: str) -> str:
        image = self._images.get(name, "")
        self._left -= len(image)
        return image if self._left >= 0 else ""


def _card(finding: Finding, pictures: _Thumbnails) -> Card:
    names = [name for name in (finding.path, finding.other) if name]
    return Card(
        finding.severity,
        finding.path,
        finding.other,
        finding.label,
        finding.suggested,
        finding.evidence,
        tuple(pictures.of(name) for name in names),
    )
