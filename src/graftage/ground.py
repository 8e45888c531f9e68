"""What all trainings of a run stand on: its training pictures, their features and folds, the frozen heads."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from graftage.data.catalog import Catalog
from graftage.features.engine import Forward, cores
from graftage.features.facts import Backbone
from graftage.learn.head import Head
from graftage.learn.search import Candidate, Searched, Trial, fit_head
from graftage.learn.temperature import softmax
from graftage.looking import limits_of
from graftage.progress import Journal
from graftage.settings import Settings

if TYPE_CHECKING:
    from graftage.features.views import Pictures

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

_FLIPS_ASKED = 300  # pictures whose mirror images are looked at


@dataclass(frozen=True, eq=False)
class Ground:
    """What the trainings stand on.

    Attributes:
        settings, backbone, forward, journal: of the run.
        pictures: those that are learnt from, n of them.
        X: float32 (n, D) their frozen features; y: int64 (n,) their classes; held: int64 (n,) the fold of each.
        classes: K names.
        searched: the frozen heads.
        head: the trial of the head that would be shipped.
        fit: how the square is made.
        groups: int64 (n,) pictures that belong together.
        whole: whether held-out predictions of all pictures are needed, since there is no test set.
        started: when the run began, on `time.monotonic`.
    """

    settings: Settings
    backbone: Backbone
    forward: Forward
    journal: Journal
    pictures: "Pictures"
    X: NDArray[np.float32]
    y: Ints
    held: Ints
    classes: tuple[str, ...]
    searched: Searched
    head: Trial
    fit: str
    groups: Ints
    whole: bool
    started: float


def ground_pictures(catalog: Catalog, rows: Ints, backbone: Backbone, fit: Any, settings: Settings) -> "Pictures":
    """The pictures of `rows`, catalog indices (n,), to be read again and again under this fit."""
    from graftage.features.views import Pictures

    entries = [catalog.entries[i] for i in rows]
    return Pictures(
        tuple(e.path for e in entries),
        tuple(e.digest for e in entries),
        backbone.preprocess.with_fit(fit),
        limits_of(settings),
        settings.repair,
    )


def parts(y: Ints, held: Ints, groups: Ints, fold: int, *, at_most: int | None, seed: int) -> tuple[Ints, Ints]:
    """Rows learnt from and rows held out; classes that would not be learnt from are, and are not held out.

    A group is never on both sides. Where no more than `at_most` are held out, the others of the fold are learnt from.

    Args:
        y: int64 (n,) classes.
        held: int64 (n,) the fold in which each is held out.
        groups: int64 (n,) what belongs together.
        fold: the one that is held out.
        at_most: rows held out, but for a single group that is larger; None for all of the fold.
        seed: of the choice of those.

    Returns:
        int64 (m,) rows learnt from, and int64 (h,) held out, both ascending: m + h = n.
    """
    inside = held == fold
    lost = np.setdiff1d(y[inside], y[~inside])
    inside &= ~np.isin(groups, groups[inside & np.isin(y, lost)])
    rows = np.flatnonzero(inside)
    if at_most is not None and len(rows) > at_most:
        drawn = np.random.default_rng([seed, 6]).permutation(rows)
        _, first, sizes = np.unique(groups[drawn], return_index=True, return_counts=True)
        order = np.argsort(first)  # groups in the order in which they were drawn
        kept = np.cumsum(sizes[order]) <= at_most
        kept[0] = True
        rows = np.sort(drawn[np.isin(groups[drawn], groups[drawn[first[order][kept]]])])
    rest = np.setdiff1d(np.arange(len(y)), rows)
    return rest, rows


def start_head(ground: Ground, train: Ints) -> Head:
    """The best linear head on unit-length features, fitted to the rows `train` (m,), its temperature folded in."""
    linear = [t for t in ground.searched.trials if _is_layer(t.candidate)]
    trial = min(linear, key=lambda t: t.log_loss)
    head = fit_head(ground.X[train], ground.y[train], trial.candidate, seed=ground.settings.seed)
    return replace(head, weights=head.weights / trial.temperature, bias=head.bias / trial.temperature)


def _is_layer(candidate: Candidate) -> bool:
    return candidate.family in ("ridge", "logistic") and candidate.transform == "unit"


def without_harmful_flips(ground: Ground) -> Ground:
    """Left-right flips switched off where they turn one class into another, unless the user has decided."""
    if ground.settings.hflip is not None:
        return ground
    from graftage.learn.augment import flips_change_label

    train, rows = parts(ground.y, ground.held, ground.groups, 0, at_most=_FLIPS_ASKED, seed=ground.settings.seed)
    head, pictures = start_head(ground, train), ground.pictures

    def mirrored(row: int) -> NDArray[np.float32]:
        square = np.ascontiguousarray(pictures.preprocess.square(pictures.pixels(row))[:, ::-1])
        (features,) = ground.forward(square[None])
        own: NDArray[np.float32] = features
        return own

    with ThreadPoolExecutor(cores()) as pool:
        flipped = np.stack(list(pool.map(mirrored, rows.tolist())))
    p, q = softmax(head.logits(ground.X[rows])), softmax(head.logits(flipped))
    reason = flips_change_label(p, q, ground.y[rows], ground.classes)
    if not reason:
        return ground
    ground.journal.note(f"no left-right flips in training: {reason}; --hflip 0.5 brings them back")
    return replace(ground, settings=replace(ground.settings, hflip=0.0))
