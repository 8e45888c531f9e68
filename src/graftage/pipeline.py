"""The verbs, each a short list of plain calls in order. Read this first.

`train`: folder → catalog → split → features → head → scores → RUN/. `evaluate`: model and folder → scores.
File names are decided here and in `outcome`; every room is called with plain arguments.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from graftage import outcome, story
from graftage.data.catalog import Catalog, Entry, require_learnable, scan
from graftage.data.checks import problems
from graftage.data.decode import Limits, decode
from graftage.data.sources import Source, Sources, labelled, natural_key, read
from graftage.data.split import exact_groups, folds, locked_test
from graftage.errors import DataError, OptionError, PictureError
from graftage.features.backbone import Backbone, find
from graftage.features.engine import Forward, choose_device, cores, open_forward, prepared_weights
from graftage.features.extract import Seen, extract
from graftage.features.prepare import prepare_elsewhere
from graftage.features.preprocess import FITS, Fit, Preprocess
from graftage.learn import defaults
from graftage.learn.baseline import held_out_knn, knn_probabilities
from graftage.learn.head import Head
from graftage.learn.search import Searched, Trial, fit_head, search, simplest_within_one_error
from graftage.learn.temperature import softmax
from graftage.measure.scores import Scores, majority, score, to_json
from graftage.measure.selection import Trials, bbc, corrected_scores
from graftage.outcome import Evaluated
from graftage.progress import Journal, Silent, Watcher
from graftage.serve import predict
from graftage.serve.bundle import Bundle
from graftage.serve.predict import Predictor
from graftage.settings import Settings
from graftage.story import Measured, Outcome

Ints = NDArray[np.int64]

_SQUARE = 1.02  # pictures no longer than this are square: padding and squashing them is the same
_SAMPLE_SQUARES = 8  # of the user's own pictures, to hold a new graph against PyTorch


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


def train(data: str | Path | Settings, *, watcher: Watcher | None = None, **options: object) -> Run:
    """A folder of labelled pictures becomes a classifier, its scores and a report.

    Args:
        data: the folder, or complete settings.
        watcher: told how it goes on.
        options: fields of `Settings`, such as `output="runs/birds"`, `backbone="timm/resnet50.a1_in1k"`, `seed=1`.

    Returns:
        The run: `run.scores.accuracy`, `run.folder`, `run.model`.

    Raises:
        GraftageError: something that the user can mend; the message says what and how.
    """
    settings = _settings(data, options)
    with outcome.run_folder(settings) as (folder, final):
        journal = Journal(watcher or Silent(), folder / outcome.LOG)
        catalog = _catalog(settings, journal)
        split = _split(catalog, settings)
        backbone, forward = _network(settings, catalog, split.train, journal)
        looked = _Looked(settings, backbone, forward, journal)
        catalog, fit, others = _choose_fit(looked, catalog, split)
        catalog, table = _table(looked, catalog, split, fit)
        learnt = _learn(table, fit, split, settings.seed, journal)
        measured = _measure(table, learnt, others, settings.seed, journal)
        scores = {**to_json(measured.scores), "how": measured.how}
        bundle = _bundle(looked, catalog, table, learnt, scores)
        found = problems(_in_their_parts(catalog, table), _all_groups(catalog))
        summary = outcome.write(folder, final, Outcome(settings, catalog, found, bundle, measured), journal)
    return Run(final, measured.scores, summary, tuple(journal.notes))


def evaluate(
    model: str | Path | Predictor,
    data: str | Path,
    *,
    output: str | Path | None = None,
    watcher: Watcher | None = None,
    workers: int = 0,
    seed: int = 42,
) -> Evaluated:
    """Scores of a model on another labelled folder; pictures it was trained on are left out and counted.

    Args:
        model: a model file, or a loaded model.
        data: class folders, or train/val/test folders of which the test (else val) part is taken.
        output: folder for metrics.json, predictions.csv, ledger.csv and report.html; None writes nothing.
        watcher: told how it goes on.
        workers: threads; 0 means two more than there are cores.
        seed: of the bootstrap.

    Raises:
        GraftageError: something that the user can mend.
    """
    settings = Settings(str(data), seed=seed, workers=workers)
    folder = outcome.evaluation_folder(output)
    predictor = model if isinstance(model, Predictor) else predict.load(model)
    journal = Journal(watcher or Silent())
    with journal.stage("look at every file"):
        found = scan(
            labelled(Path(data)),
            limits=predictor.limits,
            repair=predictor.repair,
            workers=_workers(settings),
            progress=journal.watcher.progress,
        )
    catalog, chosen = _evaluated_rows(found, predictor.bundle, journal)
    with journal.stage("predict"):
        answers = predictor.predict([catalog.entries[i].path for i in chosen], workers=workers)
    for i, answer in zip(chosen, answers, strict=True):
        if answer.status == "rejected":
            catalog = catalog.reject(i, answer.reason)
    kept = [(i, a) for i, a in zip(chosen, answers, strict=True) if a.status != "rejected"]
    if not kept:
        raise DataError(f"{data}: no picture is left to measure on; {_why_left_out(catalog)}")
    y = np.array([catalog.entries[i].label for i, _ in kept])
    p = np.array([a.probabilities for _, a in kept])
    groups = exact_groups([catalog.entries[i].digest for i, _ in kept])
    rng = np.random.default_rng(seed)
    scores = score(p, y, classes=predictor.classes, groups=groups, rng=rng)
    rows = np.array([i for i, _ in kept])
    how = f"{len(rows):,} pictures of {data}, none of which the model was trained on, measured once."
    measured = Measured(rows, y, p, scores, how, groups, ())
    return outcome.write_evaluation(folder, catalog, measured, predictor.bundle, journal)


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
    settings = _settings(".", options)
    journal = Journal(watcher or Silent())
    classes = tuple(classes or sorted(set(labels), key=natural_key))
    rows = tuple(Source(Path(p), str(p), label) for p, label in zip(paths, labels, strict=True))
    catalog = scan(
        Sources(Path(), rows, classes, (), "classes"),
        limits=_limits(settings),
        repair=settings.repair,
        workers=_workers(settings),
    )
    require_learnable(catalog)
    usable = np.array(catalog.usable, dtype=np.int64)
    usual = defaults.plan(len(usable))
    split = _Split(usable, usable[:0], "cross-validation", usual.folds, 1)
    backbone, forward = _network(settings, catalog, split.train, journal)
    looked = _Looked(settings, backbone, forward, journal)
    catalog, how, _ = _choose_fit(looked, catalog, split)
    catalog, table = _table(looked, catalog, split, how)
    learnt = _learn(table, how, split, settings.seed, journal)
    bundle = _bundle(looked, catalog, table, learnt, {})
    return Predictor(bundle, forward, limits=_limits(settings), repair=settings.repair)


def _workers(settings: Settings) -> int:
    return settings.workers or cores()


def _settings(data: str | Path | Settings, options: Mapping[str, object]) -> Settings:
    plain = {name: str(value) if isinstance(value, Path) else value for name, value in options.items()}
    known = vars(data) if isinstance(data, Settings) else {"data": str(data)}
    return Settings.from_mapping({**known, **plain}, source="train")


def _limits(settings: Settings) -> Limits:
    return Limits(max_bytes=settings.max_bytes, max_pixels=settings.max_pixels)


def _catalog(settings: Settings, journal: Journal) -> Catalog:
    with journal.stage("look at every file"):
        catalog = scan(
            labelled(Path(settings.data)),
            limits=_limits(settings),
            workers=_workers(settings),
            repair=settings.repair,
            progress=journal.watcher.progress,
        )
    require_learnable(catalog)
    return catalog


def _all_groups(catalog: Catalog) -> Ints:
    """Equal files are one group; rejected files are alone."""
    return exact_groups([e.digest if e.status != "rejected" else "" for e in catalog.entries])


@dataclass(frozen=True, eq=False)
class _Split:
    """Which entries are learnt from, which are tested on, and by which folds the head is chosen."""

    train: Ints
    test: Ints
    kind: str
    k: int
    repeats: int


def _split(catalog: Catalog, settings: Settings) -> _Split:
    """The user's own test folder if there is one, else a locked share or cross-validation by `defaults.plan`.

    Nothing here ever chooses by a validation folder, so where there is no test folder it serves as the test set; where
    there is one, validation pictures are learnt from.
    """
    rows = np.array(catalog.usable, dtype=np.int64)
    parts = np.array([catalog.entries[i].split for i in rows])
    usual = defaults.plan(len(rows))
    k, repeats = settings.fold_plan() or (usual.folds, usual.repeats)
    part, kind = _own_test(catalog, settings)
    if part:
        return _Split(rows[parts != part], _require_some(rows[parts == part], catalog, kind), kind, k, repeats)
    share = settings.test_share()
    share = usual.test_fraction if share is None else share
    if not share:
        return _Split(rows, rows[:0], "cross-validation", k, repeats)
    y, groups = catalog.labels()[rows], _all_groups(catalog)[rows]
    inner = locked_test(y, groups, fraction=share, rng=np.random.default_rng([settings.seed, 1]))
    if not len(inner.test):
        raise OptionError(f"a test share of {share:g} sets none of {len(rows):,} pictures apart; take a larger --test")
    return _Split(rows[inner.train], rows[inner.test], "locked", k, repeats)


def _own_test(catalog: Catalog, settings: Settings) -> tuple[str, str]:
    """The split of the user's own that is tested on, and what it is called; empty if there is none."""
    given = {entry.split for entry in catalog.entries}
    if "test" in given and settings.test != "auto":
        raise OptionError(
            f"{catalog.root} has a test folder, which is never learnt from, so test = {settings.test!r} cannot be "
            "obeyed: leave it out, or give the train folder alone"
        )
    if settings.test != "auto":
        return "", ""
    kinds = {"test": "test folder", "val": "validation folder"}
    return next(((part, kind) for part, kind in kinds.items() if part in given), ("", ""))


def _require_some(rows: Ints, catalog: Catalog, kind: str) -> Ints:
    if not len(rows):
        raise DataError(f"{catalog.root}: none of the pictures to test on ({kind}) can be used; mend or remove them")
    return rows


def _folds(y: Ints, groups: Ints, split: _Split, *, repeats: int, seed: int) -> Ints:
    k = min(split.k, len(np.unique(groups)))
    if k < 2:
        raise DataError("all pictures to learn from are one and the same file: nothing can be learnt from them")
    return folds(y, groups, k=k, repeats=repeats, rng=np.random.default_rng([seed, 2]))


def _network(settings: Settings, catalog: Catalog, rows: Ints, journal: Journal) -> tuple[Backbone, Forward]:
    with journal.stage("prepare the network"):
        backbone = find(settings.backbone, architecture=settings.architecture or None)
        sample = partial(_first_squares, catalog, rows, backbone.preprocess, settings)
        device = choose_device(settings.device)
        if device == "cpu":
            prepare_elsewhere(backbone, settings.architecture, sample)
        forward = open_forward(
            backbone, backbone.preprocess, device=device, precision=settings.precision, sample=sample
        )
    for notice in forward.notices:
        journal.note(notice)
    precision = "bfloat16" if forward.name.endswith("bfloat16") else "float32"
    return replace(backbone, info=replace(backbone.info, precision=precision)), forward


def _first_squares(catalog: Catalog, rows: Ints, preprocess: Preprocess, settings: Settings) -> NDArray[np.uint8]:
    squares: list[NDArray[np.uint8]] = []
    for i in rows[: 4 * _SAMPLE_SQUARES]:
        if len(squares) == _SAMPLE_SQUARES:
            break
        try:
            data = read(catalog.entries[i].path, limits=_limits(settings))
            squares.append(preprocess.square(decode(data, cover=preprocess.cover, limits=_limits(settings)).pixels))
        except PictureError:  # it will be met again, and entered in the ledger
            continue
    return np.array(squares, np.uint8).reshape(-1, preprocess.size, preprocess.size, 3)


@dataclass(frozen=True, eq=False)
class _Looked:
    """The network, with everything that turning entries into features needs."""

    settings: Settings
    backbone: Backbone
    forward: Forward
    journal: Journal

    def features(
        self, catalog: Catalog, rows: Ints, fits: Sequence[Fit]
    ) -> tuple[Catalog, Ints, list[NDArray[np.float32]]]:
        """Features of these entries under each fit.

        Returns:
            The catalog in which entries that could not be decoded are rejected; the rows that remain, (n,); for each
            fit their features, float32 (n, D).
        """
        entries = [catalog.entries[i] for i in rows]
        with self.journal.stage("features"):
            found = extract(
                [entry.path for entry in entries],
                [entry.digest for entry in entries],
                forward=self.forward,
                preprocesses=[self.backbone.preprocess.with_fit(fit) for fit in fits],
                limits=_limits(self.settings),
                repair=self.settings.repair,
                workers=self.settings.workers,
                progress=self.journal.watcher.progress,
            )
        catalog = catalog.with_entries({e.index: _after(e, s) for e, s in zip(entries, found.seen, strict=True)})
        if not found.failed:
            return catalog, rows, list(found.features)
        good = np.setdiff1d(np.arange(len(rows)), found.failed)
        return catalog, rows[good], [X[good] for X in found.features]


def _after(entry: Entry, seen: Seen) -> Entry:
    """The ledger's row once the picture has been decoded."""
    if seen.reason:
        return replace(entry, status="rejected", reason=seen.reason)
    remarks = "; ".join(dict.fromkeys(part for part in (entry.reason, seen.notes) if part))
    return replace(entry, status="repaired" if seen.repaired else entry.status, reason=remarks)


@dataclass(frozen=True, eq=False)
class _Others:
    """Trials with the ways of making the square that were not taken, on the pictures of `rows`."""

    rows: Ints
    trials: tuple[Trial, ...]


def _choose_fit(looked: _Looked, catalog: Catalog, split: _Split) -> tuple[Catalog, Fit, _Others]:
    """Crop, squash or pad, by the held-out log-loss of ridge regression; within one standard error the simpler."""
    fits = _fits(looked.settings, catalog, split.train)
    if len(fits) == 1:
        return catalog, fits[0], _Others(split.train[:0], ())
    rows = _sample(catalog, split, looked.settings.seed)
    catalog, rows, views = looked.features(catalog, rows, fits)
    require_learnable(catalog)
    y = np.unique(catalog.labels()[rows], return_inverse=True)[1].astype(np.int64)
    held = _folds(y, _all_groups(catalog)[rows], split, repeats=1, seed=looked.settings.seed)
    with looked.journal.stage("choose crop, squash or pad"):
        found = {
            fit: search(X, y, held, fit=fit, families=(), seed=looked.settings.seed)
            for fit, X in zip(fits, views, strict=True)
        }
    leaders = [found[fit].leader() for fit in fits]
    chosen = simplest_within_one_error(leaders).candidate.fit
    others = tuple(trial for fit in fits if fit != chosen for trial in found[fit].trials)
    return catalog, next(fit for fit in fits if fit == chosen), _Others(rows, others)


def _fits(settings: Settings, catalog: Catalog, rows: Ints) -> list[Fit]:
    if settings.fit != "auto":
        return [fit for fit in FITS if fit == settings.fit]
    sizes = [(catalog.entries[i].width, catalog.entries[i].height) for i in rows]
    square = all(max(size) <= _SQUARE * min(size) for size in sizes)
    return [fit for fit in FITS if fit != "pad" or not square]


def _sample(catalog: Catalog, split: _Split, seed: int) -> Ints:
    """All training rows where the corrected estimate must see the choice, else a stratified sample of them."""
    rows = split.train
    if (len(rows) < defaults.LOCKED_FROM and split.kind == "cross-validation") or len(rows) <= defaults.FIT_SAMPLE:
        return rows
    fraction = defaults.FIT_SAMPLE / len(rows)
    rng = np.random.default_rng([seed, 3])
    inner = locked_test(catalog.labels()[rows], _all_groups(catalog)[rows], fraction=fraction, rng=rng)
    return rows[inner.test]


@dataclass(frozen=True, eq=False)
class _Table:
    """Features and labels of the pictures that are learnt from and tested on.

    Attributes:
        train: catalog indices of the n pictures learnt from; test: of the t held out for good, t may be 0.
        X: float32 (n, D); T: float32 (t, D).
        y: int64 (n,); z: int64 (t,).
        groups: int64 (n,); test_groups: int64 (t,).
        kind: how the test pictures were set apart.
    """

    train: Ints
    test: Ints
    X: NDArray[np.float32]
    T: NDArray[np.float32]
    y: Ints
    z: Ints
    groups: Ints
    test_groups: Ints
    classes: tuple[str, ...]
    kind: str


def _table(looked: _Looked, catalog: Catalog, split: _Split, fit: Fit) -> tuple[Catalog, _Table]:
    rows = np.concatenate([split.train, split.test])
    catalog, rows, (X,) = looked.features(catalog, rows, [fit])
    require_learnable(catalog)
    labels, groups = catalog.labels()[rows], _all_groups(catalog)[rows]
    test = np.isin(rows, split.test)
    first = int((~test).sum())  # training rows come first: views of X, no copies
    _require_classes(catalog, labels[:first])
    if len(split.test):
        _require_some(rows[first:], catalog, split.kind)
    return catalog, _Table(
        train=rows[:first],
        test=rows[first:],
        X=X[:first],
        T=X[first:],
        y=labels[:first],
        z=labels[first:],
        groups=groups[:first],
        test_groups=groups[first:],
        classes=catalog.classes,
        kind=split.kind,
    )


def _require_classes(catalog: Catalog, y: Ints) -> None:
    """What is learnt from holds every class, also once pictures are set apart and others have failed to decode."""
    if lost := [name for k, name in enumerate(catalog.classes) if k not in y]:
        raise DataError(
            f"no usable picture is left to learn {', '.join(map(repr, lost[:10]))} from, once the test pictures are "
            "set apart; add pictures of it or lock fewer away"
        )


def _in_their_parts(catalog: Catalog, table: _Table) -> Catalog:
    """The catalog with every picture in the part that it took: learnt from, or tested on."""
    parts = {**dict.fromkeys(table.train.tolist(), "train"), **dict.fromkeys(table.test.tolist(), "test")}
    return catalog.with_entries({i: replace(catalog.entries[i], split=part) for i, part in parts.items()})


@dataclass(frozen=True, eq=False)
class _Learnt:
    """The head, the search that found it, and the folds it was found with."""

    searched: Searched
    trial: Trial
    head: Head
    held: Ints
    fit: Fit


def _learn(table: _Table, fit: Fit, split: _Split, seed: int, journal: Journal) -> _Learnt:
    held = _folds(table.y, table.groups, split, repeats=split.repeats, seed=seed)
    with journal.stage("head"):
        searched = search(table.X, table.y, held, fit=fit, seed=seed)
        trial = searched.chosen()
        return _Learnt(searched, trial, fit_head(table.X, table.y, trial.candidate, seed=seed), held, fit)


def _measure(table: _Table, learnt: _Learnt, others: _Others, seed: int, journal: Journal) -> Measured:
    with journal.stage("measure"):
        if len(table.test):
            return _on_test(table, learnt, seed)
        return _cross_validated(table, learnt, others, seed)


def _on_test(table: _Table, learnt: _Learnt, seed: int) -> Measured:
    classes, n_classes = table.classes, len(table.classes)
    p = softmax(learnt.head.logits(table.T) / learnt.trial.temperature)
    scores = score(p, table.z, classes=classes, groups=table.test_groups, rng=np.random.default_rng([seed, 4]))
    k = defaults.neighbours(len(table.y), n_classes)
    simple = {
        "majority class": majority(table.y, len(table.z), n_classes),
        f"{k} nearest neighbours": knn_probabilities(table.X, table.y, table.T, k=k, n_classes=n_classes),
    }
    shown = story.baselines(simple, p, table.z, table.test_groups, classes=classes, seed=seed)
    how = story.explain_test(table.kind, len(table.z), len(table.y))
    trials = story.tried(learnt.searched.trials, learnt.trial, table.y)
    return Measured(table.test, table.z, p, scores, how, table.test_groups, shown, trials, len(table.y))


def _cross_validated(table: _Table, learnt: _Learnt, others: _Others, seed: int) -> Measured:
    classes, n_classes = table.classes, len(table.classes)
    p = softmax(learnt.searched.logits[learnt.trial.candidate.family] / learnt.trial.temperature)
    plain = score(p, table.y, classes=classes, groups=table.groups, rng=np.random.default_rng([seed, 4]))
    same = np.array_equal(others.rows, table.train)
    trials = (*(others.trials if same else ()), *learnt.searched.trials)
    columns = Trials(
        np.stack([t.losses for t in trials], axis=1),
        np.stack([t.predicted for t in trials], axis=1).astype(np.int64),
        np.stack([t.briers for t in trials], axis=1),
    )
    corrected = bbc(columns, table.y, table.groups, n_classes=n_classes, rng=np.random.default_rng([seed, 5]))
    k = defaults.neighbours(len(table.y), n_classes)
    simple = {
        "majority class": majority(table.y, len(table.y), n_classes),
        f"{k} nearest neighbours": held_out_knn(table.X, table.y, learnt.held[0], k=k, n_classes=n_classes),
    }
    shown = story.baselines(simple, p, table.y, table.groups, classes=classes, seed=seed)
    how = story.explain_folds(learnt.held, len(trials))
    scores = corrected_scores(plain, corrected)
    listed = story.tried(trials, learnt.trial, table.y)
    return Measured(table.train, table.y, p, scores, how, table.groups, shown, listed, len(table.y), apart=False)


def _bundle(looked: _Looked, catalog: Catalog, table: _Table, learnt: _Learnt, scores: Mapping[str, object]) -> Bundle:
    return Bundle(
        classes=catalog.classes,
        preprocess=looked.backbone.preprocess.with_fit(learnt.fit),
        backbone=looked.backbone.info,
        weights=prepared_weights(looked.backbone, looked.backbone.preprocess),
        head=learnt.head,
        temperature=learnt.trial.temperature,
        scores=scores,
        data=outcome.fingerprint(catalog, table.train),
        settings=outcome.portable(looked.settings),
        versions=outcome.versions(),
    )


def _evaluated_rows(found: Catalog, bundle: Bundle, journal: Journal) -> tuple[Catalog, list[int]]:
    """The catalog in the model's own class order, and the entries to measure on."""
    catalog = _with_classes(found, bundle.classes)
    parts = {entry.split for entry in catalog.entries}
    part = next((p for p in ("test", "val") if p in parts), None)
    if part:
        journal.note(f"measured on the {part} folder alone")
        for i in [i for i in catalog.usable if catalog.entries[i].split != part]:
            catalog = catalog.reject(i, f"not in the {part} folder")
    known = outcome.known_digests(bundle)
    rows = catalog.usable
    seen = [i for i in rows if outcome.short(catalog.entries[i].digest) in known]
    for i in seen:
        catalog = catalog.reject(i, "the model was trained on it")
    if seen:
        journal.note(f"{len(seen):,} of {len(rows):,} pictures were trained on; they are left out of the scores")
    return catalog, [i for i in rows if catalog.entries[i].status != "rejected"]


def _why_left_out(catalog: Catalog) -> str:
    reasons = Counter(entry.reason for entry in catalog.entries)
    return "; ".join(f"{count:,} left out: {reason}" for reason, count in reasons.most_common(5))


def _with_classes(catalog: Catalog, classes: tuple[str, ...]) -> Catalog:
    places = {name: k for k, name in enumerate(classes)}
    changed: dict[int, Entry] = {}
    for entry in catalog.entries:
        name = catalog.classes[entry.label] if entry.label >= 0 else ""
        if entry.label >= 0 and name not in places:
            reason = entry.reason if entry.status == "rejected" else "the model does not know this class"
            changed[entry.index] = replace(entry, label=-1, status="rejected", reason=reason)
        elif entry.label >= 0:
            changed[entry.index] = replace(entry, label=places[name])
    return replace(catalog.with_entries(changed), classes=classes)
