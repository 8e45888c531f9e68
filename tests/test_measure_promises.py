"""Were promises kept: shares with the textbook's intervals, folds judged by the others, calibration against chance."""

import json
import math

import numpy as np
import pytest
from numpy.typing import NDArray
from statsmodels.stats.proportion import proportion_confint

from graftage.measure.calibration import perfect_error
from graftage.measure.decide import AnswerRule, Answers, Decisions, SetRule, fit_answers, fit_sets
from graftage.measure.promises import clopper_pearson, cross_decided, promises
from graftage.measure.unlike import Scale

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def honest(n: int, k: int, rng: np.random.Generator, *, sharp: float = 3.0) -> tuple[Floats, Ints]:
    """Probabilities, and labels drawn from exactly these."""
    logits = sharp * rng.normal(size=(n, k))
    p = np.exp(logits)
    p /= p.sum(axis=1, keepdims=True)
    return p, (rng.random((n, 1)) > p.cumsum(axis=1)).sum(axis=1).clip(max=k - 1)


def test_what_was_decided_is_counted() -> None:
    p = np.array([[0.9, 0.1, 0.0], [0.6, 0.4, 0.0], [0.5, 0.3, 0.2], [0.4, 0.3, 0.3]])
    y, alone = np.array([0, 1, 2, 0]), np.arange(4)
    answers = Answers(
        sets=p >= 0.3, abstained=np.array([False, False, True, True]), unlike_p=np.array([0.5, 0.01, np.nan, 0.2])
    )
    found = promises(Decisions(), answers, p, y, alone, apart=True, rng=np.random.default_rng(0))
    assert found.coverage is not None
    assert found.coverage.value == 3 / 4
    assert found.set_size is not None
    assert found.set_size.value == (1 + 2 + 2 + 3) / 4
    assert found.answered is not None
    assert found.answered.value == 1 / 2
    assert found.error is not None
    assert (found.error.value, found.error.method) == (1 / 2, "clopper-pearson")
    assert found.false_alarms is not None
    assert found.false_alarms.value == 1 / 3
    assert math.isnan(found.calibration_error)
    told = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert told["measured_on"] == "test set"
    assert told["calibration_error"]["debiased"] is None
    assert told["risk_coverage"]["coverage"][-1] == 1
    assert told["risk_coverage"]["risk"][-1] == pytest.approx(1 / 2)


def test_without_rules_nothing_is_counted_and_all_is_json() -> None:
    p, y = honest(50, 3, np.random.default_rng(0))
    found = promises(
        Decisions(reasons={"sets": "too few"}),
        Answers(),
        p,
        y,
        np.arange(50),
        apart=False,
        rng=np.random.default_rng(0),
    )
    assert (found.coverage, found.set_size, found.answered, found.error, found.false_alarms) == (None,) * 5
    assert json.loads(json.dumps(found.to_json(), allow_nan=False))["reasons"] == {"sets": "too few"}


def test_where_nothing_is_answered_the_error_is_not_measurable() -> None:
    found = clopper_pearson(np.zeros(0), np.zeros(0, np.int64))
    assert (found.low, found.high, found.measurable) == (0, 1, False)


@pytest.mark.parametrize(("wrong", "n"), [(0, 40), (3, 40), (40, 40)])
def test_the_interval_is_clopper_and_pearsons(wrong: int, n: int) -> None:
    found = clopper_pearson((np.arange(n) < wrong).astype(np.float64), np.arange(n))
    assert (found.low, found.high) == pytest.approx(proportion_confint(wrong, n, method="beta"))


def test_pictures_that_belong_together_widen_it() -> None:
    wrong = np.repeat(np.arange(40) < 4, 5).astype(np.float64)
    assert clopper_pearson(wrong, np.arange(200)).high < clopper_pearson(wrong, np.arange(200) // 5).high


def test_every_fold_is_judged_by_rules_of_the_others() -> None:
    rng = np.random.default_rng(1)
    p, y = honest(600, 3, rng)
    fold, groups, scores = rng.permutation(600) % 4, np.arange(600), rng.normal(size=(600, 4))
    found = cross_decided(p, y, groups, fold, coverage=0.9, max_error=0.1, scores=scores)
    assert found.sets is not None
    assert found.abstained is not None
    assert found.unlike_p is not None
    for number in range(4):
        inside, rest = fold == number, fold != number
        sets = fit_sets(p[rest], y[rest], groups[rest], coverage=0.9)
        answers = fit_answers(p[rest], y[rest], groups[rest], max_error=0.1)
        assert sets is not None
        assert answers is not None
        assert (found.sets[inside] == sets.sets(p[inside])).all()
        assert (found.abstained[inside] == answers.abstains(p[inside])).all()
        turn, others = groups % 5 == number, groups % 5 != number
        assert (found.unlike_p[turn] == Scale.of(scores[others]).p_values(scores[turn])).all()
    spoilt = y.copy()
    spoilt[fold == 0] = (spoilt[fold == 0] + 1) % 3  # a fold's own labels have no say in its own sets
    again = cross_decided(p, spoilt, groups, fold, coverage=0.9, max_error=0.1)
    assert again.sets is not None
    assert (again.sets[fold == 0] == found.sets[fold == 0]).all()


def test_too_few_pictures_in_the_other_folds_decide_nothing() -> None:
    p, y = honest(24, 3, np.random.default_rng(2))
    found = cross_decided(
        p, y, np.arange(24), np.arange(24) % 4, coverage=0.9, max_error=0.01, scores=np.zeros((24, 4))
    )
    assert (found.sets, found.unlike_p, found.unlike) == (None, None, None)


def test_coverage_of_a_fold_by_the_others_is_what_was_asked() -> None:
    shares = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        p, y = honest(300, 4, rng)
        found = cross_decided(p, y, np.arange(300), rng.permutation(300) % 5, coverage=0.8, max_error=0.01)
        assert found.sets is not None
        shares.append(found.sets[np.arange(300), y].mean())
    assert 0.8 <= np.mean(shares) <= 0.9


def test_a_perfect_model_stays_below_its_bound_and_a_bold_one_does_not() -> None:
    rng, below = np.random.default_rng(3), 0
    for _ in range(60):
        p, y = honest(400, 3, rng)
        found = promises(Decisions(), Answers(), p, y, np.arange(400), apart=True, rng=rng)
        below += found.calibration_error <= found.perfect_error
    assert below >= 52
    p, y = honest(400, 3, rng)
    bold = p**4 / (p**4).sum(axis=1, keepdims=True)
    found = promises(Decisions(), Answers(), bold, y, np.arange(400), apart=True, rng=rng)
    assert found.calibration_error > 2 * found.perfect_error > 0


def test_the_bound_falls_with_the_number_of_pictures() -> None:
    p, _ = honest(4000, 3, np.random.default_rng(4))
    few, many = (perfect_error(p[:n], rng=np.random.default_rng(0), draws=50) for n in (300, 4000))
    assert few > 2 * many


def test_rules_are_told_in_json() -> None:
    rules = Decisions(SetRule(0.9, 0.9, 0.4, 300), AnswerRule(0.01, 0.9, 0.8, 300, 0.7, 0.009))
    p, y = honest(300, 3, np.random.default_rng(5))
    told = promises(rules, Answers(), p, y, np.arange(300), apart=False, rng=np.random.default_rng(0)).to_json()
    assert told["prediction_sets"]["rule"]["threshold"] == 0.4
    assert told["abstention"]["rule"]["bound"] == 0.009
    assert told["unlike"] == {"rule": None, "false_alarms": None}
