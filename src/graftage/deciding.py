"""From held-out answers to promises: prediction sets, abstention, strange pictures; and whether they were kept."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from graftage.data.catalog import Catalog
from graftage.features.engine import Forward, choose_device, open_forward
from graftage.learn.temperature import softmax
from graftage.looking import Looked
from graftage.measure.decide import Answers, Decisions, decided, fit_answers, fit_sets, least_answers, least_pictures
from graftage.measure.promises import cross_decided, promises
from graftage.measure.unlike import (
    FALSE_ALARM,
    Geometry,
    Scale,
    Unlike,
    fit_geometry,
    gen,
    held_out_scores,
    least_reference,
    left_out,
    sample,
)
from graftage.measuring import Measured
from graftage.settings import Settings
from graftage.steps import Learnt, Table
from graftage.tuning import Tuned

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

# Pictures that a tuned network sees once more for the detector: to fit it to, and to be judged while held out.
_TUNED_FITTED, _TUNED_JUDGED = 512, 400


@dataclass(frozen=True, eq=False)
class Evidence:
    """Held-out answers of training pictures, from which the rules are made.

    Attributes:
        probabilities: float64 (m, K) calibrated; y, groups, fold: int64 (m,) of the same pictures.
        scores: float64 (m, 4) of `unlike`, held out; nan where a picture was not judged.
        geometry: of the network that ships; None where there are too few pictures to judge it by.
    """

    probabilities: Floats
    y: Ints
    groups: Ints
    fold: Ints
    scores: Floats
    geometry: Geometry | None


def gather(
    looked: Looked,
    catalog: Catalog,
    table: Table,
    learnt: Learnt,
    *,
    tuned: Tuned | None = None,
    forward: Forward | None = None,
) -> Evidence:
    """Held-out answers of what ships: the head on frozen features, or a tuned network running as `forward`."""
    if tuned is not None and forward is not None:
        return _of_tuned(looked, catalog, table, learnt, tuned, forward)
    with looked.journal.stage("decide"):
        return _of_head(table, learnt, looked.settings.seed)


def _of_head(table: Table, learnt: Learnt, seed: int) -> Evidence:
    p = softmax(learnt.searched.logits[learnt.trial.candidate.family] / learnt.trial.temperature)
    rng, scores = np.random.default_rng([seed, 8]), np.full((len(p), 4), np.nan)
    rows, found = held_out_scores(table.X, table.y, left_out(table.groups, rng), p, rng=rng)
    scores[rows] = found
    geometry = fit_geometry(table.X[rows], table.y[rows], rng=np.random.default_rng([seed, 9]))
    return Evidence(p, table.y, table.groups, learnt.held[0], scores, geometry)


def _of_tuned(
    looked: Looked, catalog: Catalog, table: Table, learnt: Learnt, tuned: Tuned, forward: Forward
) -> Evidence:
    """Features by the tuned network of pictures that it has learnt from look less odd than those of new ones.

    So pictures are judged by the network that was trained without them, among the features that this one gives.
    """
    seed, held = looked.settings.seed, tuned.held
    p = softmax(tuned.held_logits / tuned.trial.temperature)
    scores, geometry = np.full((len(held), 4), np.nan), None
    judged = tuned.apart[sample(len(tuned.apart), np.random.default_rng([seed, 8]), _TUNED_JUDGED)]
    if len(judged) >= least_reference(FALSE_ALARM):
        rest = np.setdiff1d(np.arange(len(table.y)), tuned.apart)
        fitted = rest[sample(len(rest), np.random.default_rng([seed, 9]), _TUNED_FITTED)]
        own = forward if tuned.apart_weights is None else _opened(looked, tuned)
        known, X = _features(looked, catalog, table, learnt, (tuned, own), fitted)
        seen, Q = _features(looked, catalog, table, learnt, (tuned, own), judged)
        geometry = fit_geometry(X, table.y[known], rng=np.random.default_rng([seed, 10]))
        places = np.searchsorted(held, seen)
        scores[places] = np.column_stack([geometry.quick_scores(Q), gen(p[places])])
        if own is not forward:
            known, X = _features(looked, catalog, table, learnt, (tuned, forward), fitted)
            geometry = fit_geometry(X, table.y[known], rng=np.random.default_rng([seed, 10]))
    return Evidence(p, table.y[held], table.groups[held], learnt.held[0][held], scores, geometry)


def _opened(looked: Looked, tuned: Tuned) -> Forward:
    device = choose_device(looked.settings.device)
    return open_forward(
        tuned.backbone, tuned.backbone.preprocess, device=device, precision="float32", weights=tuned.apart_weights
    )


def _features(
    looked: Looked, catalog: Catalog, table: Table, learnt: Learnt, network: tuple[Tuned, Forward], places: Ints
) -> tuple[Ints, NDArray[np.float32]]:
    """Those of the training pictures at `places` that decode, and their features by a tuned network."""
    own = replace(looked, backbone=network[0].backbone, forward=network[1])
    _, rows, (X,) = own.features(catalog, table.train[places], [learnt.fit])
    return places[np.isin(table.train[places], rows)], X


def rules(evidence: Evidence, settings: Settings) -> Decisions:
    """What the model can promise, by its held-out answers; and why not, where it cannot."""
    p, y, groups = evidence.probabilities, evidence.y, evidence.groups
    n, judged = len(np.unique(groups)), ~np.isnan(evidence.scores).any(axis=1)
    sets = fit_sets(p, y, groups, coverage=settings.coverage)
    answers = fit_answers(p, y, groups, max_error=settings.max_error)
    reasons = {}
    if sets is None:
        least = least_pictures(settings.coverage)
        reasons["sets"] = (
            f"a coverage of {100 * settings.coverage:g} % cannot be promised with 90 % confidence from {n:,} held-out "
            f"pictures; it needs {least:,}"
        )
    if answers is None:
        reasons["answers"] = (
            f"on {n:,} held-out pictures no confidence shows an error of at most {100 * settings.max_error:g} %; it "
            f"would take {least_answers(settings.max_error):,} of the surest answers, all of them right"
        )
    unlike, least = None, least_reference(FALSE_ALARM)
    if evidence.geometry is None or judged.sum() < least:
        reasons["unlike"] = (
            f"a false-alarm rate of {100 * FALSE_ALARM:g} % needs {least:,} training pictures held out; there are fewer"
        )
    else:
        unlike = Unlike(evidence.geometry, Scale.of(evidence.scores[judged]), FALSE_ALARM)
    return Decisions(sets, answers, unlike, reasons)


def with_promises(
    measured: Measured, decisions: Decisions, evidence: Evidence, settings: Settings, T: NDArray[np.float32]
) -> Measured:
    """Scores, and how the promises fared: on the test pictures of features T (t, D), or on the out-of-fold answers."""
    if measured.apart:
        answers = decided(decisions, T, measured.probabilities)
    else:
        answers = cross_decided(
            measured.probabilities,
            measured.y,
            measured.groups,
            evidence.fold,
            coverage=settings.coverage,
            max_error=settings.max_error,
            scores=None if decisions.unlike is None else evidence.scores,
        )
        answers = _as_promised(answers, decisions)
    return examined(measured, decisions, answers, seed=settings.seed)


def _as_promised(answers: Answers, decisions: Decisions) -> Answers:
    """Without what the folds' rules decided but those of the model file do not."""
    return replace(
        answers,
        sets=None if decisions.sets is None else answers.sets,
        abstained=None if decisions.answers is None else answers.abstained,
    )


def examined(measured: Measured, decisions: Decisions, answers: Answers, *, seed: int) -> Measured:
    """Scores, and how the promises fared, from what was decided for each picture."""
    found = promises(
        decisions,
        answers,
        measured.probabilities,
        measured.y,
        measured.groups,
        apart=measured.apart,
        rng=np.random.default_rng([seed, 11]),
    )
    return replace(measured, answers=answers, promises=found)
