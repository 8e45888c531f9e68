"""What a classifier is worth: held-out answers become scores, beside those of simpler classifiers, and a place each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from graftage import openings, tuning, world
from graftage.choosing import Others
from graftage.data.catalog import Catalog
from graftage.learn import defaults
from graftage.learn.baseline import held_out_knn, knn_probabilities
from graftage.learn.search import Candidate, Trial
from graftage.learn.temperature import softmax
from graftage.measure.compare import paired
from graftage.measure.decide import Answers
from graftage.measure.interval import CROSS_VALIDATED
from graftage.measure.projection import flat_map
from graftage.measure.promises import Promises
from graftage.measure.scores import Scores, majority, score
from graftage.measure.selection import Trials, bbc, corrected_scores
from graftage.progress import Journal
from graftage.report.contents import Baseline
from graftage.steps import Learnt, Table
from graftage.tuning import Tuned

Ints = NDArray[np.int64]

_ON_THE_MAP = 300  # pictures: each is a thumbnail in the report
_FAMILY_NAMES = {
    "ridge": "ridge regression",
    "logistic": "logistic regression",
    "arc-cosine": "arc-cosine kernel",
    "gaussian": "gaussian kernel",
    "blend": "blend",
    "tuned": "tuned network",
}


@dataclass(frozen=True)
class Leak:
    """Pictures of the user's own test folder that are also learnt from: copies, or of the same group.

    Attributes:
        n: how many; they are in no other score than `scores`.
        of: pictures in the test folder.
        scores: with them, for comparison.
    """

    n: int
    of: int
    scores: Scores


@dataclass(frozen=True, eq=False)
class Measured:
    """Held-out predictions and what they are worth.

    Attributes:
        rows: (n,) catalog indices of the pictures held out.
        y: int64 (n,) their classes.
        probabilities: float64 (n, K), calibrated.
        scores: with intervals.
        how: a paragraph on what was held out and how often it was looked at.
        groups: int64 (n,) pictures that belong together.
        baselines: simpler classifiers on the same pictures.
        tried: (name, log-loss, accuracy, chosen) of every kind of head tried.
        learnt_from: number of pictures the model was trained on.
        apart: whether the pictures held out took no part in training the model file.
        places: float64 (n, 2) on a flat map, nan where a picture is not shown there.
        openings: how often these test pictures have been opened on this machine, with this time; 0 without a test set.
        answers: what was decided for each picture.
        promises: how the promises of the model fared; None where they were not looked at.
        leak: test pictures that are also learnt from, which the scores leave out.
    """

    rows: Ints
    y: Ints
    probabilities: NDArray[np.float64]
    scores: Scores
    how: str
    groups: Ints
    baselines: tuple[Baseline, ...]
    tried: tuple[tuple[str, float, float, bool], ...] = ()
    learnt_from: int = 0
    apart: bool = True
    openings: int = 0
    places: NDArray[np.float64] | None = None
    answers: Answers = field(default_factory=Answers)
    promises: Promises | None = None
    leak: Leak | None = None

    @property
    def predicted(self) -> Ints:
        """Most probable class of each picture, int64 (n,)."""
        return np.asarray(self.probabilities.argmax(axis=1), dtype=np.int64)


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
    """What the model that ships is worth: on the test pictures if there are any, else by its held-out logits.

    Args:
        table: features and labels.
        learnt: the head on frozen features, with its held-out logits.
        others: trials with what was not taken; the correction for selection knows of them.
        seed: of every bootstrap.
        journal: told how it goes on.
        tuned: the network that ships instead of the head.
        T: float32 (t, D) its features of the test pictures.
    """
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
    shown = _baselines(simple, p[clean], z, groups, classes=classes, seed=seed)
    how = _explain_test(table.kind, len(z), len(table.y))
    trials = _tried(learnt.searched.trials, learnt.trial, table.y)
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
    shown = _baselines(simple, p, table.y, table.groups, classes=classes, seed=seed, wider=CROSS_VALIDATED)
    how = _explain_folds(learnt.held, len(trials))
    scores = corrected_scores(plain, corrected)
    listed = _tried(trials, learnt.trial if tuned is None else tuned.trial, table.y)
    return Measured(table.train, table.y, p, scores, how, table.groups, shown, listed, len(table.y), apart=False)


def _baselines(
    simple: Mapping[str, NDArray[np.float64]],
    probabilities: NDArray[np.float64],
    y: Ints,
    groups: Ints,
    *,
    classes: Sequence[str],
    seed: int,
    wider: float = 1.0,
) -> tuple[Baseline, ...]:
    """Simpler classifiers' probabilities, scored on the same pictures and compared picture by picture.

    The intervals of their scores are `wider` times as wide; that of the difference is of these very pictures.
    """
    ours = probabilities.argmax(axis=1) == y
    shown = []
    for name, p in simple.items():
        scores = score(p, y, classes=classes, groups=groups, rng=np.random.default_rng([seed, 6]))
        against = paired(ours, p.argmax(axis=1) == y, groups, rng=np.random.default_rng([seed, 7]))
        accuracy, macro_f1 = scores.accuracy.widened(wider), scores.macro_f1.widened(wider)
        shown.append(Baseline(name, accuracy, macro_f1, against.difference, against.p))
    return tuple(shown)


def _explain_test(kind: str, n_test: int, n_train: int) -> str:
    """How a number from a test set came about."""
    own, _, part = kind.partition(" ")  # such as "test folder" or "validation split"
    apart = {
        "test": f"They are the {kind} as it was given",
        "validation": f"They are the {kind} as it was given; as there is no test {part} and nothing was chosen by it, "
        "it serves as the test set",
        "locked": "They were drawn at random within each class and locked away before anything was learnt; copies "
        "and groups stayed together",
    }[own]
    return (
        f"Measured once, on {n_test:,} pictures that took no part in training or in any choice. {apart}. "
        f"The model file is the very model that was measured, trained on the other {n_train:,} pictures."
    )


def _explain_folds(held: Ints, n_trials: int) -> str:
    """How a number from cross-validation came about."""
    repeats, k = held.shape[0], int(held.max()) + 1
    again = f", repeated {repeats} times with other folds and averaged" if repeats > 1 else ""
    return (
        f"Measured by stratified {k}-fold cross-validation{again}: every picture is judged by models that never saw it "
        f"or a copy of it. {n_trials} configurations were compared on the same folds; accuracy, balanced "
        "accuracy, macro precision, recall, F1, log-loss and Brier score are corrected for the luck of the winner "
        "(bootstrap bias-corrected cross-validation, Tsamardinos et al. 2018). The model file is trained on all "
        f"{held.shape[1]:,} pictures in the same way, and is expected to be as good or a little better."
    )


def _tried(trials: Sequence[Trial], chosen: Trial, y: Ints) -> tuple[tuple[str, float, float, bool], ...]:
    """The best trial of every family and fit: (name, log-loss, accuracy, chosen)."""
    best: dict[tuple[str, str], Trial] = {}
    for trial in trials:
        key = trial.candidate.fit, trial.candidate.family
        if key not in best or trial.log_loss < best[key].log_loss:
            best[key] = trial
    ordered = sorted(best.values(), key=lambda t: (t.candidate.fit, list(_FAMILY_NAMES).index(t.candidate.family)))
    return tuple((_head_name(t.candidate), t.log_loss, t.accuracy(y), t is chosen) for t in ordered)


def _head_name(candidate: Candidate) -> str:
    """What a candidate is, in a few words."""
    if candidate.family == "blend":
        kinds = " and ".join(_FAMILY_NAMES[part.family] for part, _ in candidate.parts)
        return f"{candidate.fit}, mean of {kinds}"
    if candidate.family == "tuned":
        return f"{candidate.fit}, tuned network, {100 * candidate.penalty:g} % of the way from its head's weights"
    return f"{candidate.fit}, {_FAMILY_NAMES[candidate.family]}, {candidate.transform} features"


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
