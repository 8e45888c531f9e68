"""The steps of a training run, one function each, in the order in which `pipeline` calls them."""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from graftage import checking, entrants, gate, looking, openings, outcome, ranking, story, tuning, world
from graftage.data.catalog import Catalog, Entry, require_learnable
from graftage.data.grouping import groups_of
from graftage.data.split import locked_test
from graftage.errors import DataError, OptionError
from graftage.features.bundled import DEFAULT
from graftage.features.engine import Forward, choose_device, open_forward, prepared_weights
from graftage.features.preprocess import Fit
from graftage.gate import Gate, Suspected
from graftage.ground import Ground, ground_pictures
from graftage.learn import defaults
from graftage.learn.baseline import held_out_knn, knn_probabilities
from graftage.learn.head import Head
from graftage.learn.search import Searched, Trial, fit_head, search, simplest_within_one_error
from graftage.learn.temperature import softmax
from graftage.looking import Looked, fits_of
from graftage.measure.decide import Decisions
from graftage.measure.projection import flat_map
from graftage.measure.scores import majority, score
from graftage.measure.selection import Trials, bbc, corrected_scores
from graftage.measure.shortcuts import Shortcut
from graftage.parting import Partition, folds_of, require_some
from graftage.progress import Journal
from graftage.serve.bundle import Bundle
from graftage.serve.neighbours import LIMIT as NEIGHBOURS
from graftage.serve.neighbours import Neighbours, balanced, remember
from graftage.settings import Settings
from graftage.states import States, folder_of
from graftage.story import Leak, Measured
from graftage.tuning import Adapted, Tuned

Ints = NDArray[np.int64]

_ON_THE_MAP = 300  # pictures: each is a thumbnail in the report
LEAKED = "also in train, left out of the score"
_TUNED_NEIGHBOURS = 1000  # pictures that the tuned network is run on once more, to know them again


@dataclass(frozen=True, eq=False)
class Others:
    """Trials with networks, or ways of making the square, that were not taken, on the pictures of `rows`."""

    rows: Ints
    trials: tuple[Trial, ...]


def first_network(settings: Settings) -> Settings:
    """The settings with which pictures are looked at first: by the default network, where another is yet to be chosen.

    Raises:
        OptionError: a size or layers are asked for beside `--backbone auto`, which chooses them itself.
    """
    if settings.backbone != entrants.AUTO:
        return settings
    if settings.img_size is not None or settings.layers != 1 or settings.architecture:
        raise OptionError(
            "--backbone auto chooses the size and the layers, too, among networks whose architecture is known: leave "
            "out --img-size, --layers and --architecture, or name the network"
        )
    return replace(settings, backbone=DEFAULT)


def before_choice(looked: Looked, wanted: Settings) -> Looked:
    """With `--backbone auto` the first network is let go, so that others race without it in memory."""
    return looked.let_go() if wanted.backbone == entrants.AUTO else looked


def choose_backbone(looked: Looked, catalog: Catalog, split: Partition, wanted: Settings) -> tuple[Looked, Others]:
    """With `--backbone auto` the network that suits the training pictures best, opened; else the one that is open.

    Args:
        looked: as `before_choice` left it.
        catalog: after the gate.
        split: its training pictures are chosen by.
        wanted: the settings as the user gave them.

    Returns:
        The network, and the trials of those that were not taken, on the pictures that they all saw.
    """
    nothing = Others(split.train[:0], ())
    if wanted.backbone != entrants.AUTO:
        return looked, nothing
    seconds = wanted.seconds()
    deadline = math.inf if seconds is None or world.size() > 1 else time.monotonic() + seconds / 4
    found = ranking.choose(looked, catalog, split, deadline=deadline)
    best, raced = found.raced.winner, found.raced
    looked.journal.note(f"--backbone auto took {found.chosen.spec}, raced on {best.pictures:,} pictures to learn from")
    if split.kind == "cross-validation" and len(raced.rows) < len(split.train):
        looked.journal.note(
            f"the budget ended the race of networks at {len(raced.rows):,} pictures: the score is not corrected for "
            "that choice, and may flatter a little"
        )
    others = [p for p in raced.places if p is not best and p.trial is not None and p.pictures == len(raced.rows)]
    trials = [
        replace(p.trial, candidate=replace(p.trial.candidate, fit=p.entrant.name))
        for p in others
        if p.trial is not None
    ]
    settings = replace(wanted, backbone=found.chosen.spec)
    backbone, forward = looking.open_network(settings, catalog, split.train, looked.journal)
    return Looked(settings, backbone, forward, looked.journal), Others(found.rows, tuple(trials))


def together(before: Others, after: Others) -> Others:
    """Trials of two choices in one, where both were made on the same pictures; else those of the one that has any."""
    if not before.trials or not after.trials:
        return after if after.trials else before
    return Others(after.rows, (*before.trials, *after.trials)) if np.array_equal(before.rows, after.rows) else after


def choose_fit(looked: Looked, catalog: Catalog, split: Partition) -> tuple[Catalog, Fit, Others]:
    """Crop, squash or pad, by the held-out log-loss of ridge regression; within one standard error the simpler."""
    fits = fits_of(looked.settings, catalog, split.train)
    if len(fits) == 1:
        return catalog, fits[0], Others(split.train[:0], ())
    rows = _sample(catalog, split, looked.settings.seed)
    catalog, rows, views = looked.features(catalog, rows, fits)
    require_learnable(catalog)
    y = np.unique(catalog.labels()[rows], return_inverse=True)[1].astype(np.int64)
    held = folds_of(y, groups_of(catalog)[rows], split, repeats=1, seed=looked.settings.seed)
    with looked.journal.stage("choose crop, squash or pad"):
        found = {
            fit: search(X, y, held, fit=fit, families=(), seed=looked.settings.seed)
            for fit, X in zip(fits, views, strict=True)
        }
    leaders = [found[fit].leader() for fit in fits]
    chosen = simplest_within_one_error(leaders).candidate.fit
    others = tuple(trial for fit in fits if fit != chosen for trial in found[fit].trials)
    return catalog, next(fit for fit in fits if fit == chosen), Others(rows, others)


def _sample(catalog: Catalog, split: Partition, seed: int) -> Ints:
    """All training rows where the corrected estimate must see the choice, else a stratified sample of them."""
    rows = split.train
    if (len(rows) < defaults.LOCKED_FROM and split.kind == "cross-validation") or len(rows) <= defaults.FIT_SAMPLE:
        return rows
    fraction = defaults.FIT_SAMPLE / len(rows)
    rng = np.random.default_rng([seed, 3])
    inner = locked_test(catalog.labels()[rows], groups_of(catalog)[rows], fraction=fraction, rng=rng)
    return rows[inner.test]


@dataclass(frozen=True, eq=False)
class Table:
    """Features and labels of the pictures that are learnt from and tested on.

    Attributes:
        train: catalog indices of the n pictures learnt from; test: of the t held out for good, t may be 0.
        X: float32 (n, D); T: float32 (t, D).
        y: int64 (n,); z: int64 (t,).
        groups: int64 (n,); test_groups: int64 (t,).
        kind: how the test pictures were set apart.
        leaked: bool (t,) test pictures that are also learnt from: in no score but the one that shows what they do.
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
    leaked: NDArray[np.bool_]


def tabulate(looked: Looked, catalog: Catalog, split: Partition, fit: Fit) -> tuple[Catalog, Table]:
    """Features of all pictures under the chosen fit; the catalog with those rejected that would not decode."""
    rows = np.concatenate([split.train, split.test, split.leaked])
    catalog, rows, (X,) = looked.features(catalog, rows, [fit])
    require_learnable(catalog)
    remarks = {int(i): _with_remark(catalog.entries[i], LEAKED) for i in np.intersect1d(rows, split.leaked)}
    catalog = catalog.with_entries(remarks)
    labels, groups = catalog.labels()[rows], groups_of(catalog)[rows]
    test = ~np.isin(rows, split.train)
    first = int((~test).sum())  # training rows come first: views of X, no copies
    _require_classes(catalog, labels[:first])
    if len(split.test):
        require_some(rows[np.isin(rows, split.test)], catalog, split.kind)
    return catalog, Table(
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
        leaked=np.isin(rows[first:], split.leaked),
    )


def _with_remark(entry: Entry, remark: str) -> Entry:
    return replace(entry, reason="; ".join(part for part in (entry.reason, remark) if part))


def _require_classes(catalog: Catalog, y: Ints) -> None:
    """What is learnt from holds every class, also once pictures are set apart and others have failed to decode."""
    if lost := [name for k, name in enumerate(catalog.classes) if k not in y]:
        raise DataError(
            f"no usable picture is left to learn {', '.join(map(repr, lost[:10]))} from, once the test pictures are "
            "set apart; add pictures of it or lock fewer away"
        )


def in_their_parts(catalog: Catalog, table: Table) -> Catalog:
    """The catalog with every picture in the part that it took: learnt from, or tested on."""
    parts = {**dict.fromkeys(table.train.tolist(), "train"), **dict.fromkeys(table.test.tolist(), "test")}
    return catalog.with_entries({i: replace(catalog.entries[i], split=part) for i, part in parts.items()})


@dataclass(frozen=True, eq=False)
class Learnt:
    """The head, the search that found it, and the folds it was found with."""

    searched: Searched
    trial: Trial
    head: Head
    held: Ints
    fit: Fit


def learn(table: Table, fit: Fit, split: Partition, seed: int, journal: Journal) -> Learnt:
    """The head: searched on the training pictures' folds, then fitted to all of them."""
    held = folds_of(table.y, table.groups, split, repeats=split.repeats, seed=seed)
    with journal.stage("head"):
        searched = search(table.X, table.y, held, fit=fit, seed=seed)
        trial = searched.chosen()
        return Learnt(searched, trial, fit_head(table.X, table.y, trial.candidate, seed=seed), held, fit)


def adapt(
    looked: Looked, catalog: Catalog, table: Table, learnt: Learnt, final: Path, started: float
) -> tuple[Adapted, tuple[Forward, NDArray[np.float32]] | None]:
    """The recipe carried out; where a tuned network ships, also its engine and its features of the test pictures."""
    states = States(folder_of(final))
    settings = looked.settings
    pictures = ground_pictures(catalog, table.train, looked.backbone, learnt.fit, settings)
    ground = Ground(
        settings=settings,
        backbone=looked.backbone,
        forward=looked.forward,
        journal=looked.journal,
        pictures=pictures,
        X=table.X,
        y=table.y,
        held=learnt.held[0],
        classes=table.classes,
        searched=learnt.searched,
        head=learnt.trial,
        fit=learnt.fit,
        groups=table.groups,
        whole=not len(table.test),
        started=started,
    )
    adapted = tuning.adapt(ground, states)
    return adapted, None if adapted.tuned is None else _tuned_features(
        looked, catalog, table, learnt.fit, adapted.tuned
    )


def _tuned_features(
    looked: Looked, catalog: Catalog, table: Table, fit: Fit, tuned: Tuned
) -> tuple[Forward, NDArray[np.float32]]:
    """The tuned network as it will answer: its engine, and by it the features of the test pictures (t, D)."""
    with looked.journal.stage("prepare the tuned network"):
        device = choose_device(looked.settings.device)
        forward = open_forward(
            tuned.backbone, tuned.backbone.preprocess, device=device, precision="float32", weights=tuned.weights
        )
    for notice in forward.notices:
        looked.journal.note(notice)
    own = replace(looked, backbone=tuned.backbone, forward=forward)
    _, _, (T,) = own.features(catalog, table.test, [fit])
    return forward, T


def measure(
    table: Table,
    learnt: Learnt,
    others: Others,
    seed: int,
    journal: Journal,
    *,
    tuned: Tuned | None = None,
    T: NDArray[np.float32] | None = None,
) -> Measured:
    """What is shipped is worth: on the test pictures if there are any, else by its held-out logits."""
    with journal.stage("measure"):
        if len(table.test):
            return _on_test(table, learnt, seed, tuned=tuned, T=T)
        return _cross_validated(table, learnt, others, seed, tuned=tuned)


def _on_test(
    table: Table, learnt: Learnt, seed: int, *, tuned: Tuned | None, T: NDArray[np.float32] | None
) -> Measured:
    classes, n_classes = table.classes, len(table.classes)
    head = softmax(learnt.head.logits(table.T) / learnt.trial.temperature)
    p = head if tuned is None or T is None else tuning.probabilities(tuned, T)
    clean = ~table.leaked
    z, groups = table.z[clean], table.test_groups[clean]
    scores = score(p[clean], z, classes=classes, groups=groups, rng=np.random.default_rng([seed, 4]))
    leak = None
    if table.leaked.any():
        whole = score(p, table.z, classes=classes, groups=table.test_groups, rng=np.random.default_rng([seed, 4]))
        leak = Leak(int(table.leaked.sum()), len(table.z), whole)
    k = defaults.neighbours(len(table.y), n_classes)
    simple = {
        "majority class": majority(table.y, len(z), n_classes),
        f"{k} nearest neighbours": knn_probabilities(table.X, table.y, table.T[clean], k=k, n_classes=n_classes),
        **({} if tuned is None else {"head on frozen features": head[clean]}),
    }
    shown = story.baselines(simple, p[clean], z, groups, classes=classes, seed=seed)
    how = story.explain_test(table.kind, len(z), len(table.y))
    trials = story.tried(learnt.searched.trials, learnt.trial, table.y)
    return Measured(table.test[clean], z, p[clean], scores, how, groups, shown, trials, len(table.y), leak=leak)


def _cross_validated(table: Table, learnt: Learnt, others: Others, seed: int, *, tuned: Tuned | None) -> Measured:
    classes, n_classes = table.classes, len(table.classes)
    head = softmax(learnt.searched.logits[learnt.trial.candidate.family] / learnt.trial.temperature)
    p = head if tuned is None or tuned.logits is None else softmax(tuned.logits / tuned.trial.temperature)
    plain = score(p, table.y, classes=classes, groups=table.groups, rng=np.random.default_rng([seed, 4]))
    same = np.array_equal(others.rows, table.train)
    own = () if tuned is None else (tuned.trial, *tuned.others)
    trials = (*(others.trials if same else ()), *learnt.searched.trials, *own)
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
        **({} if tuned is None else {"head on frozen features": head}),
    }
    shown = story.baselines(simple, p, table.y, table.groups, classes=classes, seed=seed)
    how = story.explain_folds(learnt.held, len(trials))
    scores = corrected_scores(plain, corrected)
    listed = story.tried(trials, learnt.trial if tuned is None else tuned.trial, table.y)
    return Measured(table.train, table.y, p, scores, how, table.groups, shown, listed, len(table.y), apart=False)


def count_opening(catalog: Catalog, measured: Measured, journal: Journal) -> Measured:
    """Where a test set was opened: how often that has happened on this machine."""
    if not measured.apart or world.rank():
        return measured
    times = openings.opened([catalog.entries[i].digest for i in measured.rows])
    journal.log(event="test opened", times=times, pictures=len(measured.rows))
    return replace(measured, openings=times)


def features_of(table: Table, measured: Measured, T: NDArray[np.float32] | None) -> NDArray[np.float32]:
    """Features (n, D) of the pictures measured; `T` (t, D) are a tuned network's of all test pictures."""
    if not measured.apart:
        return table.X
    return (table.T if T is None else T)[~table.leaked]


def lay_out(measured: Measured, X: NDArray[np.float32], seed: int, journal: Journal) -> Measured:
    """A flat map of some of the pictures measured, of features X (n, D): wrong ones, a third at most, and others."""
    rng, wrong = np.random.default_rng([seed, 8]), np.flatnonzero(measured.predicted != measured.y)
    some = rng.permutation(wrong)[: _ON_THE_MAP // 3]
    rest = rng.permutation(np.setdiff1d(np.arange(len(X)), some))[: _ON_THE_MAP - len(some)]
    shown = np.sort(np.concatenate([some, rest]))
    places = np.full((len(X), 2), np.nan)
    with journal.stage("map"):
        places[shown] = flat_map(X[shown])
    return replace(measured, places=places)


def suspect(catalog: Catalog, closed: Gate, split: Partition, seed: int, journal: Journal) -> tuple[Suspected, ...]:
    """Series that nobody has named, and what it would cost to keep them together; the serious ones are notices."""
    with journal.stage("look for series"):
        found = gate.suspected(catalog, closed, split.train, seed=seed)
    for each in found:
        if each.serious:
            journal.note(each.line())
    return found


def find_shortcuts(
    catalog: Catalog, closed: Gate, table: Table, learnt: Learnt, seed: int, journal: Journal
) -> tuple[Shortcut, ...]:
    """Clues beside the content that predict the labels, against the head, on the training pictures held out."""
    content = learnt.searched.logits[learnt.trial.candidate.family].argmax(axis=1).astype(np.int64)
    with journal.stage("shortcuts"):
        return checking.learnt_shortcuts(
            catalog, closed, table.train, table.y, table.groups, learnt.held[0], content, seed
        )


def make_bundle(
    looked: Looked,
    catalog: Catalog,
    table: Table,
    learnt: Learnt,
    closed: Gate,
    scores: Mapping[str, object],
    *,
    tuned: Tuned | None = None,
    decisions: Decisions | None = None,
    neighbours: Neighbours | None = None,
) -> Bundle:
    """Everything that the model file holds."""
    backbone = looked.backbone if tuned is None else tuned.backbone
    signed = outcome.signed(catalog, table.train, closed, thumbnails=looked.settings.remember)
    return Bundle(
        classes=catalog.classes,
        preprocess=backbone.preprocess.with_fit(learnt.fit),
        backbone=backbone.info if tuned is None else replace(backbone.info, precision="float32"),
        weights=prepared_weights(backbone, backbone.preprocess) if tuned is None else tuned.weights,
        head=learnt.head if tuned is None else tuned.head,
        temperature=learnt.trial.temperature if tuned is None else tuned.trial.temperature,
        scores=scores,
        data={**outcome.fingerprint(catalog, table.train), "copy_level": signed.level},
        settings=outcome.portable(looked.settings),
        versions=outcome.versions(),
        decisions=decisions or Decisions(),
        pictures=signed.tensors,
        neighbours=neighbours,
    )


def remember_pictures(
    looked: Looked, catalog: Catalog, table: Table, learnt: Learnt, *, tuned: tuple[Tuned, Forward] | None
) -> Neighbours | None:
    """The training pictures in small, as the network that ships sees them; None where they are not wanted."""
    if not looked.settings.remember:
        return None
    limit, rng = (NEIGHBOURS if tuned is None else _TUNED_NEIGHBOURS), np.random.default_rng([looked.settings.seed, 8])
    kept = balanced(table.y, limit, rng)
    rows, X = table.train[kept], table.X[kept]
    if tuned is not None:
        own = replace(looked, backbone=tuned[0].backbone, forward=tuned[1])
        _, rows, (X,) = own.features(catalog, rows, [learnt.fit])
    with looked.journal.stage("remember pictures"):
        return remember(X, catalog.labels()[rows], [catalog.entries[i].id for i in rows])
