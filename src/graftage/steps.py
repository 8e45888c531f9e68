"""The steps from features to a model file, one function each, in the order in which `pipeline` calls them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from graftage import checking, gate, remembered, tuning
from graftage.data.catalog import Catalog, Entry, require_learnable
from graftage.data.grouping import groups_of
from graftage.errors import DataError
from graftage.features.engine import Forward, choose_device, open_forward, prepared_weights
from graftage.features.preprocess import Fit
from graftage.gate import Gate, Suspected
from graftage.ground import Ground, ground_pictures
from graftage.learn.head import Head
from graftage.learn.search import Searched, Trial, fit_head, search
from graftage.looking import Looked
from graftage.measure.decide import Decisions
from graftage.measure.shortcuts import Shortcut
from graftage.parting import Partition, folds_of, require_some
from graftage.progress import Journal
from graftage.serve.bundle import Bundle
from graftage.serve.neighbours import LIMIT as NEIGHBOURS
from graftage.serve.neighbours import Neighbours, balanced, remember
from graftage.states import States, folder_of
from graftage.tuning import Adapted, Tuned

Ints = NDArray[np.int64]

LEAKED = "also in train, left out of the score"
_TUNED_NEIGHBOURS = 1000  # pictures that the tuned network is run on once more, to know them again


@dataclass(frozen=True, eq=False)
class Table:
    """Features and labels of the pictures that are learnt from and tested on.

    Attributes:
        train: catalog indices of the n pictures learnt from; test: of the t held out for good, t may be 0.
        X: float32 (n, D); T: float32 (t, D).
        y: int64 (n,); z: int64 (t,).
        groups: int64 (n,); test_groups: int64 (t,).
        classes: K names, in the order of the labels.
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
    """The recipe carried out.

    Args:
        looked: the network, frozen.
        catalog: the pictures' files.
        table: features and labels.
        learnt: the head that a tuned network must beat.
        final: folder of the run; the states of trainings are kept beside it.
        started: when the run began, on `time.monotonic`.

    Returns:
        What came of it; where a tuned network ships, also its engine and its features of the test pictures (t, D).
    """
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
    signed = remembered.signed(catalog, table.train, closed, thumbnails=looked.settings.remember)
    return Bundle(
        classes=catalog.classes,
        preprocess=backbone.preprocess.with_fit(learnt.fit),
        backbone=backbone.info if tuned is None else replace(backbone.info, precision="float32"),
        weights=prepared_weights(backbone, backbone.preprocess) if tuned is None else tuned.weights,
        head=learnt.head if tuned is None else tuned.head,
        temperature=learnt.trial.temperature if tuned is None else tuned.trial.temperature,
        scores=scores,
        data={**remembered.fingerprint(catalog, table.train), "copy_level": signed.level},
        settings=remembered.portable(looked.settings),
        versions=remembered.versions(),
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
