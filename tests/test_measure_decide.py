"""Decisions: known ranks, coverage over many draws, the same sets as MAPIE, the textbook's bounds and curves."""

import json
import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from mapie.classification import CrossConformalClassifier, SplitConformalClassifier
from numpy.typing import NDArray
from scipy import stats
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from statsmodels.stats.proportion import proportion_confint

from graftage.measure.decide import (
    AnswerRule,
    Decisions,
    SetRule,
    conformal_rank,
    decided,
    fit_answers,
    fit_sets,
    lac_sets,
    least_pictures,
    risk_coverage,
    upper_bound,
)

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def answers(n: int, k: int, rng: np.random.Generator, *, sharp: float = 2.0) -> tuple[Floats, Ints]:
    """Probabilities and labels of a classifier that is neither perfect nor calibrated."""
    y = rng.integers(0, k, n)
    logits = rng.normal(size=(n, k))
    logits[np.arange(n), y] += sharp
    p = np.exp(logits)
    return p / p.sum(axis=1, keepdims=True), y


def alone(n: int) -> Ints:
    return np.arange(n)


# ---------------------------------------------------------------- prediction sets


@pytest.mark.parametrize(("n", "k"), [(22, 22), (30, 30), (50, 49), (100, 95), (200, 186), (500, 460), (1000, 913)])
def test_the_rank_is_that_of_the_table(n: int, k: int) -> None:
    assert conformal_rank(n, 0.9) == k


@settings(max_examples=60, deadline=None)
@given(n=st.integers(1, 400), coverage=st.floats(0.5, 0.99), confidence=st.floats(0.5, 0.99))
def test_the_rank_is_the_smallest_whose_beta_keeps_the_promise(n: int, coverage: float, confidence: float) -> None:
    ranks = np.arange(1, n + 1)
    reached = stats.beta.sf(coverage, ranks, n + 1 - ranks)
    assume(np.abs(reached - confidence).min() > 1e-9)  # else rounding decides
    kept = reached >= confidence
    found = conformal_rank(n, coverage, confidence=confidence)
    assert found == (int(ranks[kept][0]) if kept.any() else None)


@pytest.mark.parametrize(("coverage", "n"), [(0.9, 22), (0.95, 45), (0.8, 11), (0.5, 4)])
def test_below_so_many_pictures_there_is_no_guarantee(coverage: float, n: int) -> None:
    assert least_pictures(coverage) == n
    assert conformal_rank(n, coverage) == n
    assert conformal_rank(n - 1, coverage) is None
    p, y = answers(n - 1, 3, np.random.default_rng(0))
    assert fit_sets(p, y, alone(n - 1), coverage=coverage) is None


@pytest.mark.parametrize("n", [25, 60, 200])
def test_of_a_thousand_draws_at_least_88_in_100_cover_what_was_promised(n: int) -> None:
    rng = np.random.default_rng(n)
    everyone, labels = answers(40_000, 4, rng, sharp=1.0)
    worst = 1 - everyone[np.arange(40_000), labels]
    kept = 0
    for _ in range(1000):
        rows = rng.integers(0, 40_000, n)
        rule = fit_sets(everyone[rows], labels[rows], alone(n), coverage=0.9)
        assert rule is not None
        kept += (worst <= rule.threshold).mean() >= 0.9
    assert kept / 1000 >= 0.88


class Told(ClassifierMixin, BaseEstimator):
    """A classifier whose features are its probabilities."""

    def __init__(self, k: int) -> None:
        self.k = k
        self.classes_ = np.arange(k)
        self.is_fitted_ = True

    def fit(self, *_: object) -> "Told":
        return self

    def predict_proba(self, X: Floats) -> Floats:
        return X

    def predict(self, X: Floats) -> Ints:
        return X.argmax(axis=1)


@pytest.mark.parametrize(("n", "k"), [(30, 3), (157, 5)])
def test_bare_sets_are_those_of_mapie(n: int, k: int) -> None:
    rng = np.random.default_rng(n)
    (p, y), (q, _) = answers(n, k, rng), answers(300, k, rng)
    theirs = SplitConformalClassifier(Told(k), confidence_level=0.9, conformity_score="lac", prefit=True)
    _, sets = theirs.conformalize(p, y).predict_set(q)
    # theirs is the plain rank, ceil((n + 1) 0.9); the same rank is taken here
    scores = np.sort(1 - p[np.arange(n), y])
    assert (lac_sets(q, float(scores[math.ceil((n + 1) * 0.9) - 1])) == sets[:, :, 0]).all()


def test_out_of_fold_sets_cover_as_those_of_mapies_cross_conformal() -> None:
    rng = np.random.default_rng(5)
    y = rng.integers(0, 3, 3300)
    X = rng.normal(size=(3300, 4)) + 1.3 * np.eye(4)[y]
    train, test = slice(0, 300), slice(300, None)
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    model = LogisticRegression()
    p = cross_val_predict(model, X[train], y[train], cv=folds, method="predict_proba")
    q = model.fit(X[train], y[train]).predict_proba(X[test])
    scores = np.sort(1 - p[np.arange(300), y[train]])
    ours = lac_sets(q, float(scores[math.ceil(301 * 0.9) - 1]))
    theirs = CrossConformalClassifier(LogisticRegression(), confidence_level=0.9, conformity_score="lac", cv=folds)
    _, sets = theirs.fit_conformalize(X[train], y[train]).predict_set(X[test])
    covered = [s[np.arange(3000), y[test]].mean() for s in (ours, sets[:, :, 0])]
    assert covered[0] == pytest.approx(covered[1], abs=0.01)


def test_the_most_probable_class_is_always_in_the_set() -> None:
    rule = SetRule(0.9, 0.9, 0.3, 50)
    p = np.array([[0.5, 0.3, 0.2], [0.8, 0.1, 0.1]])
    assert lac_sets(p, 0.3).sum(axis=1).tolist() == [0, 1]
    assert rule.sets(p).tolist() == [[True, False, False], [True, False, False]]


def test_a_group_counts_as_one_picture() -> None:
    p, y = answers(40, 3, np.random.default_rng(1))
    once = fit_sets(p, y, alone(40), coverage=0.9)
    thrice = fit_sets(np.repeat(p, 3, axis=0), np.repeat(y, 3), np.repeat(alone(40), 3), coverage=0.9)
    assert once == thrice
    assert fit_sets(np.repeat(p[:10], 9, axis=0), np.repeat(y[:10], 9), np.repeat(alone(10), 9), coverage=0.9) is None


# ---------------------------------------------------------------- answering or not


@settings(max_examples=40, deadline=None)
@given(errors=st.integers(0, 40), n=st.integers(1, 400), confidence=st.floats(0.5, 0.99))
def test_the_bound_is_clopper_and_pearsons(errors: int, n: int, confidence: float) -> None:
    errors = min(errors, n)
    _, high = proportion_confint(errors, n, alpha=2 * (1 - confidence), method="beta")
    assert upper_bound(errors, n, confidence=confidence) == pytest.approx(high, abs=1e-9)


def test_230_right_answers_are_the_fewest_that_promise_one_percent() -> None:
    assert upper_bound(0, 230) <= 0.01 < upper_bound(0, 229)
    for n, promised in ((230, True), (229, False)):
        y = np.zeros(n, np.int64)
        p = np.tile([0.9, 0.1], (n, 1))
        assert (fit_answers(p, y, alone(n), max_error=0.01) is not None) == promised


def test_the_threshold_answers_as_many_as_the_bound_allows() -> None:
    p, y = answers(3000, 4, np.random.default_rng(2), sharp=3.0)
    rule = fit_answers(p, y, alone(3000), max_error=0.02)
    assert rule is not None
    given = ~rule.abstains(p)
    wrong = int((p.argmax(axis=1) != y)[given].sum())
    assert given.mean() == pytest.approx(rule.answered)
    assert rule.bound == pytest.approx(upper_bound(wrong, int(given.sum())))
    assert rule.bound <= 0.02
    more = p.max(axis=1) >= np.sort(p.max(axis=1))[::-1][int(given.sum()) + 3000 // 50 - 1]  # a step further
    assert upper_bound(int((p.argmax(axis=1) != y)[more].sum()), int(more.sum())) > 0.02


@pytest.mark.parametrize("error", [0.02, 0.1])
def test_of_many_draws_at_least_88_in_100_keep_the_error(error: float) -> None:
    everyone, labels = answers(60_000, 4, np.random.default_rng(9), sharp=3.0)
    sure, wrong = everyone.max(axis=1), everyone.argmax(axis=1) != labels
    rng, kept, promised = np.random.default_rng(10), 0, 0
    for _ in range(300):
        rows = rng.integers(0, 60_000, 700)
        rule = fit_answers(everyone[rows], labels[rows], alone(700), max_error=error)
        promised += rule is not None
        kept += rule is None or wrong[sure >= rule.threshold].mean() <= error
    assert promised > 200
    assert kept / 300 >= 0.88


def test_area_under_the_curve_is_that_of_its_definition_by_auroc() -> None:
    """AUGRC = (1 - AUROC of the failures) acc (1 - acc) + (1 - acc)² / 2 (Traub et al. 2024), ties included."""
    p, y = answers(500, 3, np.random.default_rng(3))
    p = np.round(p, 1)
    p = p / p.sum(axis=1, keepdims=True)
    wrong = p.argmax(axis=1) != y
    accuracy = 1 - wrong.mean()
    auroc = roc_auc_score(wrong, -p.max(axis=1))
    curve = risk_coverage(p, y)
    assert curve.augrc == pytest.approx((1 - auroc) * accuracy * (1 - accuracy) + (1 - accuracy) ** 2 / 2)
    assert (curve.coverage[-1], curve.risk[-1]) == pytest.approx((1, wrong.mean()))
    assert (np.diff(curve.threshold) < 0).all()


def test_a_perfect_order_and_a_reversed_one() -> None:
    confident = np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.6, 0.4]])
    assert risk_coverage(confident, np.array([0, 0, 0, 1])).risk.tolist() == [0, 0, 0, 0.25]
    assert risk_coverage(confident, np.array([1, 0, 0, 0])).risk == pytest.approx([1, 0.5, 1 / 3, 0.25])


# ---------------------------------------------------------------- all of it


def test_rules_come_back_from_their_json() -> None:
    whole = Decisions(
        SetRule(0.9, 0.9, 0.25, 100), AnswerRule(0.01, 0.9, 0.8, 500, 0.75, 0.0093), None, {"unlike": "no"}
    )
    back = Decisions.from_parts(json.loads(json.dumps(whole.to_json())), {})
    assert (back.sets, back.answers, back.unlike, back.reasons) == (whole.sets, whole.answers, None, {"unlike": "no"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sets": {"coverage": 0.9}}, "missing"),
        ({"sets": {"coverage": "x", "confidence": 0.9, "threshold": 0.1, "n": 3}}, "numbers"),
        ({"answers": {**vars(AnswerRule(0.1, 0.9, 0.5, 9, 1.0, 0.1)), "bound": math.nan}}, "numbers"),
        ({"unlike": {"k": 5}}, "false_alarm"),
        ({"reasons": {"sets": 3}}, "texts"),
        ({"more": 1}, "exactly"),
    ],
)
def test_nonsense_makes_no_rules(change: dict, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        Decisions.from_parts({**Decisions().to_json(), **change}, {})


def test_without_rules_nothing_is_decided() -> None:
    found = decided(Decisions(), None, np.array([[0.4, 0.6]]))
    assert (found.sets, found.abstained, found.unlike_p, found.unlike) == (None, None, None, None)
