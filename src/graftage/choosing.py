"""Choices before anything is learnt: which pretrained network, and how its squares are made."""

import math
import time
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from graftage import entrants, looking, ranking, world
from graftage.data.catalog import Catalog, require_learnable
from graftage.data.grouping import groups_of
from graftage.data.split import locked_test
from graftage.errors import OptionError
from graftage.features.bundled import DEFAULT
from graftage.features.preprocess import Fit
from graftage.learn import defaults
from graftage.learn.search import Trial, search, simplest_within_one_error
from graftage.looking import Looked, fits_of
from graftage.parting import Partition, folds_of
from graftage.settings import Settings

Ints = NDArray[np.int64]


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
