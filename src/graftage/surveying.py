"""The verbs that look at pictures before a model is made: `check`, `clean`, `augment_preview`, `curve`, `rank`.

Each is a short list of plain calls in order.
"""

import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from graftage import (
    checking,
    checkstory,
    choosing,
    cleaning,
    fromscratch,
    growth,
    looking,
    parting,
    preview,
    ranking,
    rankstory,
    steps,
    worthstory,
)
from graftage.checking import Checked
from graftage.cleaning import Cleaned
from graftage.data.grouping import groups_of
from graftage.data.listing import title_of
from graftage.data.sources import labelled
from graftage.entrants import Bounds
from graftage.errors import OptionError
from graftage.features.bundled import DEFAULT
from graftage.ground import ground_pictures
from graftage.growth import Curved
from graftage.progress import Journal, Silent, Watcher
from graftage.rankstory import Ranked
from graftage.report import curve as curve_page
from graftage.report import preview as preview_page
from graftage.report import rank as rank_page
from graftage.settings import columns_of, settings_of
from graftage.writing import page_file, write_page


def check(
    data: str | Path, *, output: str | Path | None = None, watcher: Watcher | None = None, **options: object
) -> Checked:
    """Everything that looks wrong with a folder of labelled pictures, worst first.

    Args:
        data: class folders, train/val/test folders of them, or a table.
        output: folder for report.html, problems.csv and check.json; None writes nothing.
        watcher: told how it goes on.
        options: fields of `Settings`: backbone, architecture, device, precision, seed, workers, repair, and
            the columns of a table.

    Raises:
        GraftageError: something that the user can mend.
    """
    settings = settings_of(data, options)
    folder = checking.folder_for(output, settings.data)
    journal = Journal(watcher or Silent())
    catalog = looking.look_at_files(settings, journal, learnable=False)
    catalog, looks = checking.looks_of(catalog, settings, journal)
    rows = np.array(catalog.usable, dtype=np.int64)
    groups, copies, asked, distance = groups_of(catalog), groups_of(catalog), None, np.zeros(0)
    if len(rows):
        backbone, forward = looking.open_network(settings, catalog, rows, journal)
        looked = looking.Looked(settings, backbone, forward, journal)
        catalog, closed = looked.gate(catalog, first="squash", learnable=False)  # all of each picture
        rows, groups, copies = closed.rows, groups_of(catalog), closed.near(len(catalog.entries))
        asked, distance = checking.ask(catalog, rows, closed.X, looks, groups, settings.seed, journal)
    found = checking.findings(catalog, copies, looks, asked, rows, distance)
    return checkstory.finished(folder, settings, catalog, found, asked, journal)


def clean(
    data: str | Path,
    problems: str | Path | None = None,
    *,
    undo: bool = False,
    dry_run: bool = False,
    **columns: str,
) -> Cleaned:
    """Carries out the column "action" of a problems.csv, or takes the last such clean back. Never deletes.

    Args:
        data: the folder or table that was checked.
        problems: its problems.csv, with the actions that the user has left or written.
        undo: take the last clean back instead; then without `problems`.
        dry_run: check and tell, move nothing.
        columns: of a table: path_col, label_col, group_col and split_col, as of `Settings`.

    Raises:
        GraftageError: something that the user can mend; the message says whether anything was moved.
    """
    if undo == (problems is not None):
        raise OptionError("clean needs either a problems.csv to carry out, or undo, and not both")
    if problems is None:
        return cleaning.undo(Path(data), dry=dry_run)
    return cleaning.clean(Path(data), Path(problems), columns=columns_of(columns), dry=dry_run)


@dataclass(frozen=True)
class Previewed:
    """A page of augmented pictures.

    Attributes:
        path: where it lies.
        summary: a line for a person.
        notes: what was skipped, and why.
    """

    path: Path
    summary: tuple[str, ...]
    notes: tuple[str, ...]


def augment_preview(
    data: str | Path,
    *,
    output: str | Path = "augment-preview.html",
    count: int = 24,
    watcher: Watcher | None = None,
    **options: object,
) -> Previewed:
    """A page that shows a few pictures as the network sees them in training: the plain square and augmented views.

    Args:
        data: folder or table of labelled pictures.
        output: the page; a file that is there is replaced.
        count: about how many pictures, 1 to `preview.LARGEST`.
        watcher: told how it goes on.
        options: fields of `Settings`: backbone, architecture, fit, aa, crop_scale, hflip, vflip, reprob, seed.

    Raises:
        GraftageError: something that the user can mend.
    """
    settings, path = settings_of(data, options), page_file(output, data, usual="augment-preview.html", beside=False)
    preview.require_count(count)
    journal = Journal(watcher or Silent())
    with journal.stage("choose pictures and augment them"):
        preprocess, augment = preview.preprocess_of(settings), preview.augment_of(settings)
        show = preview.shower(preprocess, augment, settings)
        shown = preview.choose(labelled(Path(settings.data), settings.columns()), show, count=count, seed=settings.seed)
    for note in shown.notes:
        journal.note(note)
    write_page(preview_page.render(preview.page(shown, preprocess, augment, settings)), path)
    return Previewed(path, (f"{shown.said}, {preview.VIEWS} views of each; {path}",), shown.notes)


def curve(
    data: str | Path,
    *,
    target: float | None = None,
    against: str = "",
    output: str | Path = "curve.html",
    watcher: Watcher | None = None,
    **options: object,
) -> Curved:
    """How the score grows with the pictures, and what more of them would bring.

    Pictures in the user's own test folder (else val folder) are left alone; all others are used.

    Args:
        data: folder or table of labelled pictures.
        target: a score wanted, above 0 and below 1: how many pictures does it take?
        against: "scratch" also trains the same network from random weights on several sizes, within `budget`.
        output: the page; a json file of the same name is written beside it. Files that are there are replaced.
        watcher: told how it goes on.
        options: fields of `Settings`: backbone, architecture, fit, metric ("accuracy" or "balanced-accuracy"), seed,
            device, precision, workers, repair; and budget and hyperparameters for `against`.

    Returns:
        `curve.at(2.0)` and the rest of the curve, and where the page lies.

    Raises:
        GraftageError: something that the user can mend.
    """
    metric = growth.metric_of(str(options.get("metric", "accuracy")))
    settings, path = settings_of(data, {**options, "metric": metric}), page_file(output, data, usual="curve.html")
    growth.require_target(target)
    growth.require_against(against, settings.budget, settings.epochs)
    journal = Journal(watcher or Silent())
    catalog = looking.look_at_files(settings, journal)
    own = any(entry.split in ("val", "test") for entry in catalog.entries)
    split = parting.partition(catalog, settings if own else replace(settings, test="none"))
    split = replace(split, test=split.test[:0], kind="cross-validation")
    backbone, forward = looking.open_network(settings, catalog, split.train, journal)
    looked = looking.Looked(settings, backbone, forward, journal)
    catalog, fit, _ = choosing.choose_fit(looked, catalog, split)
    catalog, table = steps.tabulate(looked, catalog, split, fit)
    for note in growth.few_notes(table.y, table.classes):
        journal.note(note)
    found = growth.curve_of(
        table.X, table.y, table.groups, metric=metric, target=target, seed=settings.seed, journal=journal
    )
    summary, record = growth.summary(found, table.classes, path), growth.curve_json(found, table.classes)
    rival, worth = None, None
    if against:
        pictures = ground_pictures(catalog, table.train, backbone, fit, settings)
        scratch = fromscratch.against_scratch(looked, pictures, table.X, table.y, table.groups, metric=metric)
        rival, worth = worthstory.section(scratch), scratch.worth
        summary = (*summary[:-1], *worthstory.summary(scratch), summary[-1])
        record |= {"against_scratch": worthstory.to_json(scratch)}
    notes, title = tuple(journal.notes), title_of(settings.data)
    page = growth.page(found, table.classes, title=title, backbone=settings.backbone, fit=fit, notes=notes, rival=rival)
    write_page(curve_page.render(page), path, record={**record, "notes": notes})
    return Curved(found, table.classes, path, summary, notes, worth)


def rank(
    data: str | Path,
    *,
    candidates: str = "auto",
    max_latency: str = "",
    max_size: str = "",
    scores: bool = False,
    output: str | Path = "rank.html",
    watcher: Watcher | None = None,
    **options: object,
) -> Ranked:
    """Which pretrained network fits these pictures, at what cost, under which licence.

    Networks race on the pictures that `train` with the same seed would learn from; those it would test on are not
    looked at by any of them.

    Args:
        data: folder of labelled pictures.
        candidates: ids joined by commas, or "auto": all that can be had here without a network connection.
        max_latency: longest time for a single picture, such as "20ms", decoding excluded; "" allows any.
        max_size: most weights, such as "50MB"; "" allows any.
        scores: also LogME, nearest neighbours and the linear probe, for comparison.
        output: the page; a json file of the same name is written beside it. Files that are there are replaced.
        watcher: told how it goes on.
        options: fields of `Settings`: budget, architecture, licence, fit, test, group_by, seed, device, precision,
            workers, repair.

    Returns:
        `ranked.best`, the id for `backbone`, and the whole table.

    Raises:
        GraftageError: something that the user can mend.
    """
    started = time.monotonic()
    settings, path = settings_of(data, {**options, "backbone": DEFAULT}), page_file(output, data, usual="rank.html")
    bounds = Bounds.of(max_latency, max_size)
    journal = Journal(watcher or Silent())
    catalog = looking.look_at_files(settings, journal)
    early = parting.partition(catalog, settings)
    catalog = ranking.closed(settings, catalog, early, journal)
    split = parting.partition(catalog, settings)
    course = ranking.open_course(settings, catalog, split, journal, bounds=bounds, started=started)
    found = ranking.rank(course, candidates, scores=scores)
    n, notes = len(split.train), tuple(journal.notes)
    rows = rankstory.table(found, rankstory.accuracies(found, seed=settings.seed), n)
    said = rankstory.recommendation(rows)
    title = title_of(settings.data)
    page = rankstory.page(rows, said, found, title=title, n=n, notes=notes)
    record = {"pictures": n, "rounds": found.raced.rounds, "recommendation": said, "networks": rows, "notes": notes}
    write_page(rank_page.render(page), path, record=record)
    lines = rankstory.summary(rows, said, n, path)
    return Ranked(found.chosen.spec, found.chosen.fit, rows, said, path, lines, notes)
