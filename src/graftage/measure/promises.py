"""Were the promises of `decide` kept, on pictures held out?

On a test set the rules of the model file are measured as they are. Without one, every fold of the out-of-fold answers
is judged by rules fitted to the other folds: a rule judged on the answers it was fitted to would always look right.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from graftage.measure.calibration import calibration_error_debiased, perfect_error
from graftage.measure.compare import paired_mean
from graftage.measure.decide import Answers, Decisions, RiskCoverage, fit_answers, fit_sets, risk_coverage
from graftage.measure.interval import LEVEL, NOT_MEASURABLE, Estimate, codes, effective_n, proportion
from graftage.measure.unlike import FALSE_ALARM, Scale, least_reference

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

ENOUGH = 300  # pictures below which a calibration error says next to nothing
_TURNS = 5  # in which pictures are held against the other pictures' scores
_POINTS = 101  # of the risk-coverage curve in metrics.json


def cross_decided(
    probabilities: Floats,
    y: Ints,
    groups: Ints,
    fold: Ints,
    *,
    coverage: float,
    max_error: float,
    scores: Floats | None = None,
    false_alarm: float = FALSE_ALARM,
) -> Answers:
    """What rules fitted to the other folds say of each out-of-fold answer.

    Args:
        probabilities: float64 (n, K) held-out.
        y: (n,) classes; groups: (n,) pictures that belong together; fold: (n,) the fold of each.
        coverage: of the sets; max_error: of the answers.
        scores: (n, s) held-out scores of `unlike`; rows of nan were not judged.
        false_alarm: of the flag.
    """
    sets, abstained = np.zeros(probabilities.shape, bool), np.zeros(len(y), bool)
    enough, some = True, False
    for number in np.unique(fold):
        inside, rest = fold == number, fold != number
        own = fit_sets(probabilities[rest], y[rest], groups[rest], coverage=coverage)
        answer = fit_answers(probabilities[rest], y[rest], groups[rest], max_error=max_error)
        enough &= own is not None
        if own is not None:
            sets[inside] = own.sets(probabilities[inside])
        some |= answer is not None
        abstained[inside] = True if answer is None else answer.abstains(probabilities[inside])
    p = None if scores is None else _cross_judged(scores, groups, least_reference(false_alarm))
    return Answers(sets if enough else None, abstained if some else None, p, false_alarm)


def _cross_judged(scores: Floats, groups: Ints, least: int) -> Floats | None:
    """p-values (n,), nan where scores are; a fifth of the groups at a time is held against the others."""
    judged, turn = ~np.isnan(scores).any(axis=1), codes(groups) % _TURNS
    p = np.full(len(scores), np.nan)
    for number in np.unique(turn[judged]):
        inside, rest = judged & (turn == number), judged & (turn != number)
        if rest.sum() < least:
            return None
        p[inside] = Scale.of(scores[rest]).p_values(scores[inside])
    return p


@dataclass(frozen=True, eq=False)
class Promises:
    """What the decisions were worth on n pictures held out; an estimate is None where there is no rule.

    Attributes:
        decisions: the rules of the model file.
        n: pictures.
        apart: whether they took no part in training and in fitting the rules.
        coverage: share of the sets that hold the true class.
        set_size: classes in a set, mean.
        answered: share of pictures answered.
        error: share of wrong answers among those given, with Clopper and Pearson's interval.
        false_alarms: share of the pictures flagged as unlike those trained on, though they are like them.
        curve: error against share answered.
        calibration_error: debiased, see `calibration`; nan below `ENOUGH` pictures.
        perfect_error: what 95 of 100 perfectly calibrated models with so many pictures stay below.
    """

    decisions: Decisions
    n: int
    apart: bool
    coverage: Estimate | None
    set_size: Estimate | None
    answered: Estimate | None
    error: Estimate | None
    false_alarms: Estimate | None
    curve: RiskCoverage
    calibration_error: float
    perfect_error: float

    def to_json(self) -> dict[str, Any]:
        """For metrics.json; what could not be measured is null."""
        rules, enough = self.decisions.to_json(), self.n >= ENOUGH
        return {
            "measured_on": "test set" if self.apart else "out-of-fold answers, each part by rules of the others",
            "n": self.n,
            "prediction_sets": {"rule": rules["sets"], "coverage": _json(self.coverage), "size": _json(self.set_size)},
            "abstention": {"rule": rules["answers"], "answered": _json(self.answered), "error": _json(self.error)},
            "unlike": {"rule": rules["unlike"], "false_alarms": _json(self.false_alarms)},
            "reasons": rules["reasons"],
            "risk_coverage": {**_points(self.curve), "augrc": self.curve.augrc},
            "calibration_error": {
                "debiased": self.calibration_error if enough else None,
                "perfect_model_up_to": self.perfect_error if enough else None,
            },
        }


def promises(
    decisions: Decisions,
    answers: Answers,
    probabilities: Floats,
    y: Ints,
    groups: Ints,
    *,
    apart: bool,
    rng: np.random.Generator,
) -> Promises:
    """Measures what was decided for pictures of classes y (n,) with probabilities (n, K); groups as in `score`."""
    covered = None if answers.sets is None else answers.sets[np.arange(len(y)), y].astype(np.float64)
    size = None if answers.sets is None else answers.sets.sum(axis=1).astype(np.float64)
    given = None if answers.abstained is None else ~answers.abstained
    wrong = probabilities.argmax(axis=1) != y
    judged = None if answers.unlike_p is None else ~np.isnan(answers.unlike_p)
    flagged = answers.unlike
    return Promises(
        decisions=decisions,
        n=len(y),
        apart=apart,
        coverage=None if covered is None else proportion(covered, groups),
        set_size=None if size is None else paired_mean(size, groups, rng=rng),
        answered=None if given is None else proportion(given.astype(np.float64), groups),
        error=None if given is None else clopper_pearson(wrong[given].astype(np.float64), groups[given]),
        false_alarms=None
        if judged is None or flagged is None
        else proportion(flagged[judged].astype(np.float64), groups[judged]),
        curve=risk_coverage(probabilities, y),
        calibration_error=calibration_error_debiased(probabilities, y) if len(y) >= ENOUGH else float("nan"),
        perfect_error=perfect_error(probabilities, rng=rng) if len(y) >= ENOUGH else float("nan"),
    )


def clopper_pearson(wrong: Floats, groups: Ints, *, level: float = LEVEL) -> Estimate:
    """Clopper and Pearson's interval (1934) of a share; groups as in `proportion`.

    Args:
        wrong: (n,) 0 or 1.
        groups: (n,) pictures that belong together.
        level: 0 to 1.
    """
    if not wrong.size:
        return Estimate(float("nan"), 0.0, 1.0, NOT_MEASURABLE, level)
    value, n, tail = float(wrong.mean()), effective_n(wrong, groups), (1 - level) / 2
    x = value * n
    low = float(special.betaincinv(x, n - x + 1, tail)) if x > 0 else 0.0
    high = float(special.betaincinv(x + 1, n - x, 1 - tail)) if x < n else 1.0
    return Estimate(value, low, high, "clopper-pearson" if n == wrong.size else "clopper-pearson (effective n)", level)


def _json(estimate: Estimate | None) -> dict[str, Any] | None:
    if estimate is None:
        return None
    return {**vars(estimate), "value": estimate.value if estimate.measurable else None}


def _points(curve: RiskCoverage) -> dict[str, list[float]]:
    """At most `_POINTS` of the curve, evenly spaced in coverage."""
    wanted = np.searchsorted(curve.coverage, np.linspace(0, 1, _POINTS)[1:] - 1e-12)
    places = np.unique(np.clip(wanted, 0, len(curve.coverage) - 1))
    return {name: [float(v) for v in getattr(curve, name)[places]] for name in ("threshold", "coverage", "risk")}
