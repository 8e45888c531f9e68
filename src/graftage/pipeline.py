"""The verbs, each a short list of plain calls in order. Read this first.

`train`: folder → catalog → split → features → head → scores → RUN/. `evaluate`: model and folder → scores.
File names are decided here and in `outcome`; every room is called with plain arguments.
"""

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from graftage import (
    checking,
    checkstory,
    cleaning,
    deciding,
    examine,
    explaining,
    fromscratch,
    growth,
    looking,
    outcome,
    parting,
    preview,
    ranking,
    rankstory,
    steps,
    versus,
    world,
    worthstory,
)
from graftage.checking import Checked
from graftage.cleaning import Cleaned
from graftage.data.catalog import require_learnable, scan
from graftage.data.checks import by_severity, problems
from graftage.data.grouping import groups_of
from graftage.data.listing import Columns, title_of
from graftage.data.sources import Source, Sources, labelled, natural_key
from graftage.entrants import Bounds
from graftage.errors import DataError, OptionError
from graftage.features.bundled import DEFAULT
from graftage.features.engine import choose_device
from graftage.ground import ground_pictures
from graftage.growth import Curved
from graftage.learn import defaults
from graftage.measure.scores import Scores, score, to_json
from graftage.outcome import Evaluated
from graftage.progress import Journal, Silent, Watcher
from graftage.rankstory import Ranked
from graftage.serve import predict
from graftage.serve.predict import Explanation, Predictor
from graftage.settings import COLUMNS, Settings
from graftage.states import States, folder_of
from graftage.story import Measured, Outcome
from graftage.versus import Compared

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Run:
    """A finished training run.

    Attributes:
        folder: where it lies.
        scores: on pictures held out.
        summary: about ten lines for a person.
        notes: notices that belong on top.
    """

    folder: Path
    scores: Scores
    summary: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def model_path(self) -> Path:
        """The model file."""
        return self.folder / outcome.MODEL

    @cached_property
    def model(self) -> Predictor:
        """The model, ready to predict."""
        return predict.load(self.model_path)

    def predict(self, paths: Sequence[str | Path]) -> list[predict.Prediction]:
        """Predictions of the trained model; see `Predictor.predict`."""
        return self.model.predict(paths)


Contender = str | Path | Run | Predictor  # a run, or a model: what can be compared


def train(data: str | Path | Settings, *, watcher: Watcher | None = None, **options: object) -> Run:
    """A folder or table of labelled pictures becomes a classifier, its scores and a report.

    Args:
        data: the folder or table, or complete settings.
        watcher: told how it goes on.
        options: fields of `Settings`, such as `output="runs/birds"`, `backbone="timm/resnet50.a1_in1k"`, `seed=1`.

    Returns:
        The run: `run.scores.accuracy`, `run.folder`, `run.model`.

    Raises:
        GraftageError: something that the user can mend; the message says what and how.
    """
    started = time.monotonic()
    settings = _settings(data, options)
    with outcome.run_folder(settings) as (folder, final), world.joined(choose_device(settings.device)):
        journal = Journal((watcher or Silent()) if not world.rank() else Silent(), folder / outcome.LOG)
        with world.first_alone():
            catalog = looking.look_at_files(settings, journal)
            early = parting.partition(catalog, settings)  # what cannot be split is told before the work
            first = steps.first_network(settings)
            looked = looking.Looked(first, *looking.open_network(first, catalog, early.train, journal), journal)
            catalog, closed = looked.gate(catalog)
            split = parting.partition(catalog, settings)
            suspected = steps.suspect(catalog, closed, split, settings.seed, journal)
            closed = closed.without_features()
            looked = steps.before_choice(looked, settings)
            looked, rivals = steps.choose_backbone(looked, catalog, split, settings)
            catalog, fit, others = steps.choose_fit(looked, catalog, split)
            others = steps.together(rivals, others)
            catalog, table = steps.tabulate(looked, catalog, split, fit)
        learnt = steps.learn(table, fit, split, settings.seed, journal)
        adapted, tested = steps.adapt(looked, catalog, table, learnt, final, started)
        tuned, T = adapted.tuned, None if tested is None else tested[1]
        found = deciding.gather(looked, catalog, table, learnt, tuned=tuned, forward=tested and tested[0])
        decisions = deciding.rules(found, settings)
        measured = steps.measure(table, learnt, others, settings.seed, journal, tuned=tuned, T=T)
        measured = steps.count_opening(catalog, measured, journal)
        shown = steps.features_of(table, measured, T)
        measured = steps.lay_out(measured, shown, settings.seed, journal)
        measured = deciding.with_promises(measured, decisions, found, settings, shown)
        scores = {**to_json(measured.scores), "how": measured.how}
        shipped = None if tuned is None or tested is None else (tuned, tested[0])
        known = steps.remember_pictures(looked, catalog, table, learnt, tuned=shipped)
        bundle = steps.make_bundle(
            looked, catalog, table, learnt, closed, scores, tuned=tuned, decisions=decisions, neighbours=known
        )
        parts, copies = steps.in_their_parts(catalog, table), closed.near(len(catalog.entries))
        with journal.stage("labels"):
            wrong = checking.likely_wrong(
                catalog, table.train, table.X, table.y, table.groups, learnt.searched, settings.seed
            )
        short = steps.find_shortcuts(catalog, closed, table, learnt, settings.seed, journal)
        faults = by_severity([*problems(parts, groups_of(catalog), copies), *checking.shortcut_problems(short), *wrong])
        grown = growth.beside_training(table.X, table.y, table.groups, seed=settings.seed, journal=journal)
        answering = looked.forward if tested is None else tested[0]  # auto may have taken another network
        predictor = Predictor(bundle, answering, limits=looking.limits_of(settings), repair=settings.repair)
        beside = {} if world.rank() else explaining.mistakes(predictor, catalog, measured, journal)
        whole = Outcome(
            settings,
            catalog,
            faults,
            bundle,
            measured,
            adapted=adapted,
            curve=grown,
            suspected=suspected,
            beside=beside,
            shortcuts=short,
        )
        summary = outcome.write(folder, final, whole, journal)
    States(folder_of(final)).remove()
    return Run(final, measured.scores, summary, tuple(journal.notes))


def evaluate(
    model: str | Path | Predictor,
    data: str | Path,
    *,
    output: str | Path | None = None,
    against: Contender | None = None,
    watcher: Watcher | None = None,
    workers: int = 0,
    seed: int = 42,
    **columns: str,
) -> Evaluated:
    """Scores of a model on another labelled folder; pictures it was trained on are left out and counted.

    Args:
        model: a model file, or a loaded model.
        data: class folders, train/val/test folders of which the test (else val) part is taken, or a table likewise.
        output: folder for metrics.json, predictions.csv, ledger.csv and report.html; None writes nothing.
        against: another model to compare with, on those pictures that neither was trained on.
        watcher: told how it goes on.
        workers: threads; 0 means two more than there are cores.
        seed: of the bootstrap.
        columns: of a table: path_col, label_col, group_col and split_col, as of `Settings`.

    Raises:
        GraftageError: something that the user can mend.
    """
    Settings(str(data), seed=seed, workers=workers)  # refuses what is out of range
    chosen = _columns(columns)
    folder = outcome.evaluation_folder(output)
    predictor, rival = examine.opened(_plain(model)), None if against is None else examine.opened(_plain(against))
    names = [examine.name_of(_plain(each)) for each in (model, against) if each is not None]
    if rival is not None:  # told before the work
        versus.require_same_classes((names[0], predictor.classes), (names[1], rival.classes))
    journal = Journal(watcher or Silent())
    found = examine.look(predictor, data, journal, workers=workers, columns=chosen)
    seen = examine.examine(found, predictor, journal, workers=workers)
    y, p, groups = seen.y, seen.probabilities, seen.groups
    scores = score(p, y, classes=predictor.classes, groups=groups, rng=np.random.default_rng(seed))
    how = f"{len(y):,} pictures of {data}, none of which the model was trained on, measured once."
    measured = steps.count_opening(seen.catalog, Measured(seen.rows, y, p, scores, how, groups, ()), journal)
    measured = deciding.examined(measured, predictor.decisions, seen.answers, seed=seed)
    evaluated = outcome.write_evaluation(folder, seen.catalog, measured, predictor.bundle, journal)
    if rival is None:
        return evaluated
    later = Journal(journal.watcher)
    both = (predictor.bundle, rival.bundle)
    answered = examine.examine(found, rival, later, workers=workers, learners=both)
    pair = seen.held(names[0], predictor.classes), answered.held(names[1], rival.classes)
    return outcome.with_comparison(evaluated, versus.compare(*pair, seed=seed, notes=later.notes))


def compare(
    a: Contender,
    b: Contender,
    data: str | Path | None = None,
    *,
    output: str | Path | None = None,
    watcher: Watcher | None = None,
    workers: int = 0,
    seed: int = 42,
    device: str = "auto",
    **columns: str,
) -> Compared:
    """Two runs or models on the same held-out pictures, picture by picture.

    Without `data`, two runs are compared on the pictures held out in both, by the answers that they have left. With it,
    both models answer for its pictures; those that either was trained on are left out.

    Args:
        a: the folder of a run, a model file, or what `train` or `load` gave.
        b: likewise.
        data: class folders, train/val/test folders of which the test (else val) part is taken, or a table likewise.
        output: a .json file for what was found; None writes nothing.
        watcher: told how it goes on.
        workers: threads; 0 means two more than there are cores.
        seed: of the bootstrap.
        device: "auto", "cpu" or "cuda", for models that are yet to be loaded.
        columns: of a table: path_col, label_col, group_col and split_col, as of `Settings`.

    Raises:
        GraftageError: something that the user can mend.
    """
    Settings(str(data or "."), seed=seed, workers=workers)  # refuses what is out of range
    chosen = _columns(columns)
    target = outcome.comparison_file(output)
    places = _plain(a), _plain(b)
    journal = Journal(watcher or Silent())
    if data is None:
        pair = examine.left_by(places[0]), examine.left_by(places[1])
    else:
        one, two = (examine.opened(place, device=device) for place in places)
        found = examine.look(one, data, journal, workers=workers, columns=chosen)
        names = examine.name_of(places[0]), examine.name_of(places[1])
        pair = examine.against((names[0], one), (names[1], two), found, journal, workers=workers)
    compared = versus.compare(*pair, seed=seed, notes=journal.notes)
    if target is not None:
        outcome.write_json(compared.to_json(), target)
    return compared


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
    settings = _settings(data, options)
    folder = checking.folder_for(output, settings.data)
    journal = Journal(watcher or Silent())
    catalog = looking.look_at_files(settings, journal, learnable=False)
    catalog, looks = checking.looks_of(catalog, settings, journal)
    rows = np.array(catalog.usable, dtype=np.int64)
    groups, copies, asked, distance = groups_of(catalog), groups_of(catalog), None, np.zeros(0)
    if len(rows):
        backbone, forward = looking.open_network(settings, catalog, rows, journal)
        looked = looking.Looked(settings, backbone, forward, journal)
        catalog, closed = looked.gate(catalog, learnable=False)
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
    return cleaning.clean(Path(data), Path(problems), columns=_columns(columns), dry=dry_run)


def _plain(contender: Contender) -> Path | Predictor:
    if isinstance(contender, Run):
        return contender.folder
    return contender if isinstance(contender, Predictor) else Path(contender)


def fit(
    paths: Sequence[str | Path],
    labels: Sequence[str],
    *,
    classes: Sequence[str] | None = None,
    watcher: Watcher | None = None,
    **options: object,
) -> Predictor:
    """A classifier from files and labels, without measuring it and without leaving a folder.

    Args:
        paths: n picture files.
        labels: n class names.
        classes: all class names in the order that the probabilities shall have; default: natural order.
        watcher: told how it goes on.
        options: fields of `Settings`, as for `train`.

    Raises:
        DataError: lengths that differ, fewer than two classes, or a class with fewer than two usable pictures.
    """
    if len(paths) != len(labels):
        raise DataError(f"{len(paths)} pictures but {len(labels)} labels; give one label for each picture")
    started = time.monotonic()
    settings = _settings(".", {"recipe": "linear", **options})
    journal = Journal(watcher or Silent())
    classes = tuple(classes or sorted(set(labels), key=natural_key))
    rows = tuple(Source(Path(p), str(p), label) for p, label in zip(paths, labels, strict=True))
    catalog = scan(
        Sources(Path(), rows, classes, (), "classes"),
        limits=looking.limits_of(settings),
        repair=settings.repair,
        workers=looking.worker_count(settings),
    )
    require_learnable(catalog)
    usable = np.array(catalog.usable, dtype=np.int64)
    usual = defaults.plan(len(usable))
    split = parting.Partition(usable, usable[:0], "cross-validation", usual.folds, 1)
    backbone, forward = looking.open_network(settings, catalog, split.train, journal)
    looked = looking.Looked(settings, backbone, forward, journal)
    catalog, closed = looked.gate(catalog)
    closed = closed.without_features()
    split = replace(split, train=np.array(catalog.usable, dtype=np.int64))
    catalog, how, _ = steps.choose_fit(looked, catalog, split)
    catalog, table = steps.tabulate(looked, catalog, split, how)
    learnt = steps.learn(table, how, split, settings.seed, journal)
    with tempfile.TemporaryDirectory() as states:
        adapted, tested = steps.adapt(looked, catalog, table, learnt, Path(states) / "fit", started)
    found = deciding.gather(looked, catalog, table, learnt, tuned=adapted.tuned, forward=tested and tested[0])
    decisions = deciding.rules(found, settings)
    bundle = steps.make_bundle(looked, catalog, table, learnt, closed, {}, tuned=adapted.tuned, decisions=decisions)
    return Predictor(
        bundle, forward if tested is None else tested[0], limits=looking.limits_of(settings), repair=settings.repair
    )


@dataclass(frozen=True)
class Explained:
    """A page of explained pictures.

    Attributes:
        path: where it lies.
        explanations: one for each picture, in order.
        summary: lines for a person.
        notes: what to keep in mind.
    """

    path: Path
    explanations: tuple[Explanation, ...]
    summary: tuple[str, ...]
    notes: tuple[str, ...]


def explain(
    model: str | Path | Predictor,
    pictures: Sequence[str | Path],
    *,
    output: str | Path = "explain.html",
    label: str | None = None,
    photos: str | Path | None = None,
    similar: int = 5,
    watcher: Watcher | None = None,
) -> Explained:
    """A page that shows where in each picture the answer comes from, and the training pictures most like it.

    Args:
        model: a model file, the folder of a run, or a loaded model.
        pictures: files, or folders searched for them.
        output: the page, a name that ends in .html; or a folder, which gets explain.html and each heat map as a PNG.
        label: the class to explain; default: the predicted one of each picture.
        photos: folder of the training pictures; default: what the run beside the model says, if it is still there.
        similar: how many training pictures for each.
        watcher: told how it goes on.

    Raises:
        GraftageError: something that the user can mend. A picture that cannot be used is none: it is told on the page.
    """
    paths, place = explaining.pictures(pictures), explaining.place_of(output, pictures)
    explaining.require_similar(similar)
    predictor = examine.opened(_plain(model))
    known = explaining.training_folder(predictor, photos)
    journal = Journal(watcher or Silent())
    with journal.stage("explain"):
        found = explaining.explained(predictor, paths, label=label, similar=similar, progress=journal.watcher.progress)
    page = explaining.page(predictor, found, known)
    for note in page.notes:
        journal.note(note)
    explaining.write(page, found, place)
    return Explained(place.page, tuple(found), (f"{page.verdict} {place.page}",), page.notes)


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
    settings, path = _settings(data, options), preview.page_file(output, data)
    preview.require_count(count)
    journal = Journal(watcher or Silent())
    with journal.stage("choose pictures and augment them"):
        preprocess, augment = preview.preprocess_of(settings), preview.augment_of(settings)
        show = preview.shower(preprocess, augment, settings)
        shown = preview.choose(labelled(Path(settings.data), settings.columns()), show, count=count, seed=settings.seed)
    for note in shown.notes:
        journal.note(note)
    preview.write(preview.page(shown, preprocess, augment, settings), path)
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
    settings, path = _settings(data, {**options, "metric": metric}), growth.page_file(output, data)
    growth.require_target(target)
    growth.require_against(against, settings.budget, settings.epochs)
    journal = Journal(watcher or Silent())
    catalog = looking.look_at_files(settings, journal)
    own = any(entry.split in ("val", "test") for entry in catalog.entries)
    split = parting.partition(catalog, settings if own else replace(settings, test="none"))
    split = replace(split, test=split.test[:0], kind="cross-validation")
    backbone, forward = looking.open_network(settings, catalog, split.train, journal)
    looked = looking.Looked(settings, backbone, forward, journal)
    catalog, fit, _ = steps.choose_fit(looked, catalog, split)
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
    growth.write(page, {**record, "notes": notes}, path)
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
    settings, path = _settings(data, {**options, "backbone": DEFAULT}), rankstory.page_file(output, data)
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
    rankstory.write(page, record, path)
    lines = rankstory.summary(rows, said, n, path)
    return Ranked(found.chosen.spec, found.chosen.fit, rows, said, path, lines, notes)


def _columns(given: Mapping[str, str]) -> Columns:
    """Columns of a table, by the names of their settings. Raises OptionError for any other name."""
    if unknown := [name for name in given if name not in COLUMNS]:
        raise OptionError(f"unknown options {', '.join(unknown)}; columns of a table are {', '.join(COLUMNS)}")
    return Settings.from_mapping({"data": ".", **given}, source="columns").columns()


def _settings(data: str | Path | Settings, options: Mapping[str, object]) -> Settings:
    plain = {name: str(value) if isinstance(value, Path) else value for name, value in options.items()}
    known = vars(data) if isinstance(data, Settings) else {"data": str(data)}
    return Settings.from_mapping({**known, **plain}, source="train")
