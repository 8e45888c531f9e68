"""The steps of `graftage check`: looks at pictures, asks what was held out, and writes what a person should see."""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from graftage.data.catalog import Catalog, Entry
from graftage.data.checks import Problem, Severity
from graftage.data.findings import Finding, structural, worst_first
from graftage.data.quality import Look, Traits, look, oddities
from graftage.data.sources import read
from graftage.data.split import folds
from graftage.errors import OptionError, PictureError
from graftage.features.engine import cores
from graftage.gate import Gate
from graftage.learn.head import transform
from graftage.learn.search import FAMILIES, Family, Searched, logistic_pays, search
from graftage.learn.temperature import softmax
from graftage.looking import limits_of
from graftage.measure.shortcuts import NEARLY, Shortcut, clues, shortcuts
from graftage.measure.suspects import Suspects, neighbour_votes, suspects
from graftage.progress import Journal
from graftage.report.clues import ClueRow
from graftage.settings import Settings

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Looks = dict[int, Look]  # by catalog index

PROBLEMS = "problems.csv"

_FOLDS = 5
_MANY_WRONG = 0.1  # share of labels flagged from which scores suffer seriously; hard classes alone reach 5 %
_ASKED_AT_MOST = 20_000  # pictures of a training run whose labels are examined: the neighbours of more take minutes
_FAR = 3.0  # robust standard deviations of the log-distance to the neighbours: 0 to 2.4 % of five real sets lie beyond


@dataclass(frozen=True, eq=False)
class Asked:
    """What pictures held out say, of the pictures of `rows`.

    Attributes:
        rows: int64 (n,) catalog indices: usable pictures of classes that have two or more independent ones.
        suspects: of their labels.
        shortcuts: the best first.
        classes: the names that `suspects` speaks of.
    """

    rows: Ints
    suspects: Suspects
    shortcuts: tuple[Shortcut, ...]
    classes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Checked:
    """What `check` found.

    Attributes:
        findings: every problem, worst first.
        catalog: every file looked at.
        asked: what pictures held out say of labels and shortcuts; None where no two classes could be learnt.
        summary: a few lines for a person.
        notes: what to keep in mind.
        folder: where the files were written, or None.
    """

    findings: tuple[Finding, ...]
    catalog: Catalog
    asked: Asked | None
    summary: tuple[str, ...]
    notes: tuple[str, ...]
    folder: Path | None

    @property
    def serious(self) -> bool:
        """Whether anything found makes results wrong: the exit status is then 3."""
        return any(finding.severity == "error" for finding in self.findings)


def folder_for(output: str | Path | None, data: str) -> Path | None:
    """The folder to write into. Raises OptionError where something better kept lies there, or among the pictures."""
    if output is None:
        return None
    folder = Path(output)
    if folder.resolve().is_relative_to(Path(data).resolve()):
        raise OptionError(f"{folder} lies among the pictures of {data}; name a folder elsewhere with -o")
    if folder.exists() and not folder.is_dir():
        raise OptionError(f"{folder} is a file; name a folder with -o")
    if (folder / PROBLEMS).exists():
        raise OptionError(
            f"{folder / PROBLEMS} is there already and may hold actions that you have written; take another -o"
        )
    return folder


def looks_of(catalog: Catalog, settings: Settings, journal: Journal) -> tuple[Catalog, Looks]:
    """Every usable picture as a photograph, by catalog index; the catalog with those rejected that would not decode."""
    limits = limits_of(settings)

    def measure(entry: Entry) -> Look | str:
        try:
            return look(read(entry.path, limits=limits), limits=limits, repair=settings.repair)
        except PictureError as error:
            return str(error)

    entries = [catalog.entries[i] for i in catalog.usable]
    found: Looks = {}
    with journal.stage("look at every picture"), ThreadPoolExecutor(settings.workers or cores()) as pool:
        for done, (entry, answer) in enumerate(zip(entries, pool.map(measure, entries), strict=True), start=1):
            if isinstance(answer, str):
                catalog = catalog.reject(entry.index, answer)
            else:
                found[entry.index] = answer
            journal.watcher.progress(done, len(entries))
    return catalog, found


def ask(
    catalog: Catalog,
    rows: Ints,
    X: NDArray[np.float32],
    looks: Looks,
    groups: Ints,
    seed: int,
    journal: Journal,
) -> tuple[Asked | None, Floats]:
    """What held-out classifiers and neighbours say of the labels, and how well clues do without the content.

    Args:
        catalog: the pictures.
        rows: (n,) catalog indices of usable pictures.
        X: float32 (n, D) their features.
        looks: by catalog index.
        groups: over all entries: copies of one picture.
        seed: of the folds.
        journal: told how it goes on.

    Returns:
        What was found, or None where there are no two classes to tell apart; and the mean distance of every row to
        its neighbours, (n,).
    """
    own = groups[rows]
    unit = transform(X, "root")
    with journal.stage("nearest neighbours"):
        _, distance = neighbour_votes(unit, np.zeros(len(rows), np.int64), own, n_classes=1)
    chosen = _learnable(catalog.labels()[rows], own)
    names, y = np.unique(catalog.labels()[rows][chosen], return_inverse=True)
    y, own = y.astype(np.int64), own[chosen]
    k = min(_FOLDS, len(np.unique(own)))
    if len(names) < 2 or k < 2:
        journal.note("there are no two classes with two different pictures each: labels and shortcuts are not examined")
        return None, distance
    held = folds(y, own, k=k, repeats=1, rng=np.random.default_rng([seed, 2]))
    with journal.stage("labels"):
        classifiers = held_out(X[chosen], y, held, seed=seed)
        votes, _ = neighbour_votes(unit[chosen], y, own, n_classes=len(names))
        found = suspects(classifiers, votes, y, own, rng=np.random.default_rng([seed, 8]))
    content = np.asarray(np.add(*classifiers).argmax(axis=1), dtype=np.int64)
    classes = tuple(catalog.classes[label] for label in names)
    with journal.stage("shortcuts"):
        seen = [looks[int(i)] for i in rows[chosen]]
        files = [catalog.entries[i].path.name for i in rows[chosen]]
        tried = clues(seen, files, [classes[label] for label in y])
        rng = np.random.default_rng([seed, 9])
        compared = shortcuts(tried, y, held[0], own, content, rng=rng)
    return Asked(rows[chosen], found, compared, classes), distance


def held_out(X: NDArray[np.float32], y: Ints, held: Ints, *, seed: int) -> tuple[Floats, Floats]:
    """Calibrated held-out probabilities (n, K) of two classifiers: ridge, and logistic regression.

    Where logistic regression would take minutes, the gaussian kernel takes its place.
    """
    pays = logistic_pays(len(y), X.shape[1], int(y.max()) + 1, held)
    second: Family = "logistic" if pays else "gaussian"
    assert second in FAMILIES
    found = search(X, y, held, fit="squash", families=(second,), seed=seed)
    return _calibrated(found, "ridge"), _calibrated(found, second)


def _calibrated(found: Searched, family: Family) -> Floats:
    return softmax(found.logits[family] / found.trials[found.best[family]].temperature)


def likely_wrong(
    catalog: Catalog, rows: Ints, X: NDArray[np.float32], y: Ints, groups: Ints, searched: Searched, seed: int
) -> tuple[Problem, ...]:
    """Labels of a training run that look wrong, most doubtful first, by what its own search says of pictures held out.

    Args:
        catalog: the pictures.
        rows: (n,) catalog indices of the pictures learnt from.
        X: float32 (n, D) their features.
        y: int64 (n,) their classes.
        groups: int64 (n,) pictures that belong together.
        searched: with held-out logits of all n.
        seed: of the bootstrap.
    """
    others: tuple[Family, ...] = ("logistic", "gaussian")
    second = next((family for family in others if family in searched.logits), None)
    chosen = _learnable(y, groups)
    if second is None or len(rows) > _ASKED_AT_MOST or len(np.unique(y[chosen])) < 2:
        return ()
    first, other = (_calibrated(searched, family)[chosen] for family in ("ridge", second))
    unit = transform(X[chosen], "root")
    votes, _ = neighbour_votes(unit, y[chosen], groups[chosen], n_classes=len(catalog.classes))
    found = suspects((first, other), votes, y[chosen], groups[chosen], rng=np.random.default_rng([seed, 8]))
    return tuple(
        Problem(
            "likely wrong label",
            "warning",
            catalog.entries[rows[chosen[i]]].id,
            f"looks like {catalog.classes[found.suggested[i]]}: {found.agreeing[i]} of 3 signals disagree with the "
            f"label, whose probability is {found.probability[i]:.2f}",
        )
        for i in found.listed
    )


def _learnable(labels: Ints, groups: Ints) -> Ints:
    """Positions of the rows whose class has two or more independent pictures."""
    pairs = np.unique(np.stack([labels, groups]), axis=1)[0]
    known = [label for label in np.unique(labels) if label >= 0 and (pairs == label).sum() >= 2]
    return np.flatnonzero(np.isin(labels, known))


def findings(
    catalog: Catalog, groups: Ints, looks: Looks, asked: Asked | None, rows: Ints, distance: Floats
) -> tuple[Finding, ...]:
    """Everything in one list, worst first.

    Args:
        catalog: every file looked at.
        groups: int64, over all entries: copies of one picture.
        looks: usable pictures as photographs, by catalog index.
        asked: what pictures held out say; None where nothing could be learnt.
        rows: int64 (n,) catalog indices of the usable pictures.
        distance: float64 (n,) of each to its neighbours, inf where it has none.
    """
    return worst_first(
        [
            *structural(catalog, groups),
            *([] if asked is None else (*_label_findings(catalog, asked), *_shortcut_findings(asked))),
            *_outliers(catalog, rows, distance),
            *_odd(catalog, looks),
        ]
    )


def _label_findings(catalog: Catalog, asked: Asked) -> Iterator[Finding]:
    found = asked.suspects
    listed = found.listed
    labels = catalog.labels()[asked.rows]
    if len(listed) > _MANY_WRONG * len(asked.rows):
        share = (
            f"{len(listed):,} of {len(asked.rows):,} labels look wrong ({100 * len(listed) / len(asked.rows):.1f} %)"
        )
        yield Finding("many wrong labels", "error", evidence=share)
    for i in listed:
        yield Finding(
            "likely wrong label",
            "warning",
            catalog.entries[asked.rows[i]].id,
            label=catalog.classes[labels[i]],
            suggested=asked.classes[found.suggested[i]],
            evidence=f"{found.agreeing[i]} of 3 signals disagree; probability of the label {found.probability[i]:.2f}",
        )


def _shortcut_findings(asked: Asked) -> Iterator[Finding]:
    for each in asked.shortcuts:
        if each.verdict:
            yield Finding("shortcut", severity_of(each), evidence=f"{each.clue}: {each.words()}")


def severity_of(each: Shortcut) -> Severity:
    """How much a shortcut with a verdict matters."""
    return "error" if each.serious else "warning" if each.share >= NEARLY else "note"


def learnt_shortcuts(
    catalog: Catalog, closed: Gate, rows: Ints, y: Ints, groups: Ints, held: Ints, content: Ints, seed: int
) -> tuple[Shortcut, ...]:
    """How well clues do without the content on the pictures of a training run; from what is known, no file is read.

    Args:
        catalog: the pictures.
        closed: with the shades of all that were looked at.
        rows: (n,) catalog indices of the pictures learnt from.
        y: int64 (n,) their classes.
        groups: int64 (n,) pictures that belong together.
        held: int64 (n,) the fold in which each is held out.
        content: int64 (n,) what the head answered, held out in these folds.
        seed: of the paired bootstrap.
    """
    chosen = _learnable(y, groups)
    names, known = np.unique(y[chosen], return_inverse=True)
    if len(names) < 2 or len(np.unique(held[chosen])) < 2:
        return ()
    place = {int(row): i for i, row in enumerate(closed.rows)}
    entries = [catalog.entries[i] for i in rows[chosen]]
    seen = [_traits(entry, closed.shades[place[entry.index]]) for entry in entries]
    tried = clues(seen, [e.path.name for e in entries], [catalog.classes[k] for k in y[chosen]])
    said = np.searchsorted(names, content[chosen])  # a class that no picture here has is never right
    said = np.where(np.isin(content[chosen], names), said, -1)
    rng = np.random.default_rng([seed, 9])
    return shortcuts(tried, known.astype(np.int64), held[chosen], groups[chosen], said, rng=rng)


def _traits(entry: Entry, shades: Floats) -> Traits:
    low, mean, high, contrast, red, green, blue, edge, spread = (float(v) for v in shades)
    known = (entry.bytes, entry.format, entry.camera, entry.width, entry.height)
    return Traits(*known, low, mean, high, contrast, (red, green, blue), (edge, spread))


def shortcut_problems(found: Iterable[Shortcut]) -> Iterator[Problem]:
    """Those of a training run that have a verdict."""
    for each in found:
        if each.verdict:
            yield Problem("shortcut", severity_of(each), "", f"{each.clue}: {each.words()}")


def shortcut_rows(found: Iterable[Shortcut]) -> tuple[ClueRow, ...]:
    """As a page shows them."""
    return tuple(ClueRow(each.clue, each.accuracy.percent(), each.verdict, each.serious) for each in found)


def compared_with(found: Sequence[Shortcut], *, content: str) -> str:
    """What clues are compared with, for a page; `content` says whose answers the content's are. "" for none."""
    if not found:
        return ""
    first = found[0]
    return (
        f"How many labels a simple classifier (naive Bayes on bins) names from each clue alone, on pictures held out, "
        f"n = {first.n:,}. The most frequent class alone: {100 * first.majority:.1f} %. The content, {content}: "
        f"{100 * first.content:.1f} %."
    )


def _outliers(catalog: Catalog, rows: Ints, distance: Floats) -> Iterator[Finding]:
    finite = np.isfinite(distance)
    if finite.sum() < 20:  # what is usual cannot be said of so few
        return
    logs = np.log(np.maximum(distance[finite], 1e-6))
    z, known = robust_z_of_logs(logs), rows[finite]
    median = float(np.exp(np.median(logs)))
    for i in np.argsort(-z, kind="stable"):
        if z[i] < _FAR:
            return
        entry = catalog.entries[known[i]]
        words = f"{np.exp(logs[i]) / median:.1f} times the usual distance to its nearest neighbours"
        label = catalog.classes[entry.label] if entry.label >= 0 else ""
        yield Finding("unlike the rest", "note", entry.id, label=label, evidence=words)


def robust_z_of_logs(logs: Floats) -> Floats:
    """`robust_z` of logarithms, for which a spread below a hundredth counts as that."""
    middle = float(np.median(logs))
    spread = 1.4826 * float(np.median(np.abs(logs - middle)))
    return np.asarray((logs - middle) / max(spread, 0.01))


def _odd(catalog: Catalog, looks: Looks) -> Iterator[Finding]:
    rows = list(looks)
    for odd in oddities([looks[i] for i in rows]):
        entry = catalog.entries[rows[odd.row]]
        label = catalog.classes[entry.label] if entry.label >= 0 else ""
        # at 64 pixels a plain garment on a plain floor has no more edges than a blurred picture
        severity: Severity = "note" if odd.kind == "blurred" else "warning"
        yield Finding(odd.kind, severity, entry.id, label=label, evidence=odd.evidence)
