"""What to do with a probability: a set of classes that holds the true one, an answer or none, a flag.

Every rule is fitted to held-out answers of training pictures and carries its confidence: the chance, over the draw of
those pictures, that the promise holds for pictures like them. Pictures of one group together count as one.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from graftage.measure.unlike import FALSE_ALARM, Unlike

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

CONFIDENCE = 0.9  # that a rule keeps its promise
_STEPS = 50  # in which more pictures are answered


# ---------------------------------------------------------------- prediction sets


def conformal_rank(n: int, coverage: float, *, confidence: float = CONFIDENCE) -> int | None:
    """Which of n sorted conformal scores is the threshold: the k-th smallest, or None where n is too small.

    Given the n pictures, the coverage of new ones follows Beta(k, n + 1 - k). The smallest k with
    P(Beta(k, n + 1 - k) >= coverage) >= confidence is taken, the small-sample correction SSBC of arXiv 2509.15349; that
    probability is P(Binomial(n, coverage) <= k - 1).

    >>> [conformal_rank(n, 0.9) for n in (21, 22, 30, 50, 100, 200, 500, 1000)]
    [None, 22, 30, 49, 95, 186, 460, 913]
    """
    if n < 1:
        return None
    from scipy import special  # fitting needs it, answering does not

    reached = special.bdtr(np.arange(n, dtype=np.float64), n, coverage)  # of k = 1 .. n
    k = int(np.searchsorted(reached, confidence)) + 1
    return k if k <= n else None


def least_pictures(coverage: float, *, confidence: float = CONFIDENCE) -> int:
    """The smallest n for which there is a `conformal_rank`: 1 - coverage^n must reach the confidence.

    >>> least_pictures(0.9)
    22
    """
    n = max(1, math.ceil(math.log1p(-confidence) / math.log(coverage)) - 1)
    return n if conformal_rank(n, coverage, confidence=confidence) else n + 1


@dataclass(frozen=True)
class SetRule:
    """When a class belongs to the prediction set: where 1 - p is at most the threshold (LAC, Sadinle et al. 2019).

    Attributes:
        coverage: promised share of pictures whose set holds the true class.
        confidence: that the promise is kept.
        threshold: 0 to 1.
        n: independent held-out pictures that it was fitted to.
    """

    coverage: float
    confidence: float
    threshold: float
    n: int

    def sets(self, probabilities: Floats) -> Bools:
        """Probabilities (n, K) → which classes belong to the set of each row, (n, K).

        The most probable class always does: a set without any would help nobody, and coverage only rises.
        """
        chosen = lac_sets(probabilities, self.threshold)
        chosen[np.arange(len(chosen)), probabilities.argmax(axis=1)] = True
        return chosen


def lac_sets(probabilities: Floats, threshold: float) -> Bools:
    """The bare sets (n, K), some of which may be empty."""
    return np.asarray(1.0 - probabilities <= threshold)


def fit_sets(
    probabilities: Floats, y: Ints, groups: Ints, *, coverage: float, confidence: float = CONFIDENCE
) -> SetRule | None:
    """The rule by held-out probabilities (n, K) of pictures of classes y (n,); None where they are too few."""
    weights = shares(groups)
    n = round(float(weights.sum()))
    k = conformal_rank(n, coverage, confidence=confidence)
    if k is None:
        return None
    scores = 1.0 - probabilities[np.arange(len(y)), y]
    order = np.argsort(scores, kind="stable")
    place = int(np.searchsorted(weights[order].cumsum(), k - 1e-9))
    return SetRule(coverage, confidence, float(scores[order][min(place, len(order) - 1)]), n)


def shares(groups: Ints) -> Floats:
    """What each picture counts, (n,): 1 divided by the number of pictures in its group."""
    _, place, size = np.unique(groups, return_inverse=True, return_counts=True)
    return np.asarray(1.0 / size[place.reshape(-1)])


# ---------------------------------------------------------------- answering or not


def upper_bound(errors: float, n: float, *, confidence: float = CONFIDENCE) -> float:
    """Clopper and Pearson's one-sided upper bound (1934) of a rate of which `errors` in n were seen; 1 where n = 0."""
    if errors >= n:
        return 1.0
    from scipy import special

    return float(special.betaincinv(errors + 1.0, n - errors, confidence))


def least_answers(max_error: float, *, confidence: float = CONFIDENCE) -> int:
    """The fewest answers, all of them right, whose bound stays within `max_error`.

    >>> least_answers(0.01)
    230
    """
    n = max(1, math.floor(math.log1p(-confidence) / math.log1p(-max_error)) - 1)
    while upper_bound(0, n, confidence=confidence) > max_error:
        n += 1
    return n


@dataclass(frozen=True)
class AnswerRule:
    """When to answer: where the largest probability is at least the threshold.

    Attributes:
        max_error: promised largest share of wrong answers among those given.
        confidence: of the bound, see `bound`.
        threshold: 0 to 1.
        n: independent held-out pictures that it was fitted to.
        answered: share of them that is answered.
        bound: Clopper and Pearson's upper bound of the share of wrong answers, at this threshold.
    """

    max_error: float
    confidence: float
    threshold: float
    n: int
    answered: float
    bound: float

    def abstains(self, probabilities: Floats) -> Bools:
        """Probabilities (n, K) → whether no answer is given, (n,)."""
        return np.asarray(probabilities.max(axis=1) < self.threshold)


def fit_answers(
    probabilities: Floats, y: Ints, groups: Ints, *, max_error: float, confidence: float = CONFIDENCE
) -> AnswerRule | None:
    """The rule that answers most while the bound of its error stays within `max_error`; None where there is none.

    More and more of the surest pictures are answered, from a number fixed beforehand, a fiftieth of all at a time, and
    the walk ends where the bound is first too high (fixed-sequence testing: Angelopoulos et al. 2021, "Learn then
    Test"). Taking the best of all thresholds instead would break the promise more often than the confidence says.

    Args:
        probabilities: (n, K) held-out, calibrated.
        y: (n,) classes.
        groups: (n,) pictures that belong together.
        max_error: allowed share of wrong answers among those given.
        confidence: of the bound.
    """
    weights = shares(groups)
    curve, n = risk_coverage(probabilities, y, weights), float(weights.sum())
    first = 2 * least_answers(max_error, confidence=confidence)
    found = None
    for place in _walk(curve.coverage * n, first if first <= n else first // 2):
        given = float(curve.coverage[place]) * n
        bound = upper_bound(float(curve.risk[place]) * given, given, confidence=confidence)
        if bound > max_error:
            break
        at, share = float(curve.threshold[place]), float(curve.coverage[place])
        found = AnswerRule(max_error, confidence, at, round(n), share, bound)
    return found


def _walk(answered: Floats, first: int) -> Ints:
    """Places in the rising numbers of answers: the first with `first` of them, then in steps of a fiftieth of all."""
    wanted = np.append(np.arange(first, answered[-1], max(answered[-1] / _STEPS, 1.0)), answered[-1])
    places = np.unique(np.searchsorted(answered, wanted - 1e-9))
    return np.asarray(places[(places < len(answered))], dtype=np.int64) if first <= answered[-1] + 1e-9 else places[:0]


@dataclass(frozen=True, eq=False)
class RiskCoverage:
    """The error among those answered against the share answered; one entry for each threshold, strictest first.

    Attributes:
        threshold: (m,) falling confidences.
        coverage: (m,) share of pictures with at least that confidence, rising to 1.
        risk: (m,) share of wrong answers among them, 0 to 1.
        augrc: area under the curve of (risk x coverage) over coverage, 0 to 0.5, lower is better: the mean risk that a
            wrong answer slips through (Traub et al. 2024).
    """

    threshold: Floats
    coverage: Floats
    risk: Floats
    augrc: float


def risk_coverage(probabilities: Floats, y: Ints, weights: Floats | None = None) -> RiskCoverage:
    """The curve of probabilities (n, K) of pictures of classes y (n,), each counted by its weight."""
    confidence, wrong = probabilities.max(axis=1), (probabilities.argmax(axis=1) != y).astype(np.float64)
    weights = np.ones(len(y)) if weights is None else weights
    order = np.argsort(-confidence, kind="stable")
    last = np.append(np.flatnonzero(np.diff(confidence[order])), len(y) - 1)  # of each run of equal confidences
    given, failed = weights[order].cumsum()[last], (weights * wrong)[order].cumsum()[last]
    coverage, missed = given / given[-1], failed / given[-1]
    steps = np.diff(coverage, prepend=0.0)
    area = float(np.sum(steps * (missed + np.concatenate([[0.0], missed[:-1]])) / 2))
    return RiskCoverage(confidence[order][last], coverage, failed / given, area)


# ---------------------------------------------------------------- all of it


@dataclass(frozen=True, eq=False)
class Decisions:
    """What a model file promises beyond probabilities; None where it cannot, and why.

    Attributes:
        sets: the rule for prediction sets.
        answers: the rule for answering.
        unlike: the detector of pictures unlike those trained on.
        reasons: for each of "sets", "answers", "unlike" that is None, why.
    """

    sets: SetRule | None = None
    answers: AnswerRule | None = None
    unlike: Unlike | None = None
    reasons: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, object]:
        """Everything that is not a tensor."""
        unlike = self.unlike and {"k": self.unlike.geometry.k, "false_alarm": self.unlike.false_alarm}
        rules = {name: rule and asdict(rule) for name, rule in (("sets", self.sets), ("answers", self.answers))}
        return {**rules, "unlike": unlike, "reasons": dict(self.reasons)}

    def to_tensors(self) -> dict[str, NDArray[np.generic]]:
        """The detector's arrays, by name."""
        if self.unlike is None:
            return {}
        return self.unlike.to_tensors()

    @classmethod
    def from_parts(cls, values: Mapping[str, Any], tensors: Mapping[str, NDArray[np.generic]]) -> Self:
        """The inverse of `to_json` and `to_tensors`. Raises ValueError, TypeError or KeyError where they do not fit."""
        if set(values) != {"sets", "answers", "unlike", "reasons"}:
            raise ValueError("decisions have exactly the keys answers, reasons, sets, unlike")
        sets = None if values["sets"] is None else SetRule(**values["sets"])
        answers = None if values["answers"] is None else AnswerRule(**values["answers"])
        for rule in (sets, answers):
            if rule is not None and not all(_is_number(value) for value in vars(rule).values()):
                raise ValueError("a rule holds something else than numbers from 0")
        reasons = values["reasons"]
        if not isinstance(reasons, dict) or not all(isinstance(text, str) for text in reasons.values()):
            raise ValueError("reasons are no texts")
        return cls(sets, answers, _unlike_from(values["unlike"], tensors), reasons)


@dataclass(frozen=True, eq=False)
class Answers:
    """What was decided for n pictures; None where there is no rule.

    Attributes:
        sets: (n, K) which classes are in the prediction set.
        abstained: (n,) whether no answer is given.
        unlike_p: float64 (n,) p-values; nan where a picture was not judged.
        false_alarm: p-values up to this are flagged.
    """

    sets: Bools | None = None
    abstained: Bools | None = None
    unlike_p: Floats | None = None
    false_alarm: float = FALSE_ALARM

    @property
    def unlike(self) -> Bools | None:
        """(n,) whether a picture is flagged as unlike those trained on."""
        return None if self.unlike_p is None else np.asarray(self.unlike_p <= self.false_alarm)


def decided(decisions: Decisions, X: NDArray[np.float32] | None, probabilities: Floats) -> Answers:
    """What the rules of a model file say of features (n, D) and probabilities (n, K)."""
    sets, answers, unlike = decisions.sets, decisions.answers, decisions.unlike
    return Answers(
        None if sets is None else sets.sets(probabilities),
        None if answers is None else answers.abstains(probabilities),
        None if unlike is None or X is None else unlike.p_values(X, probabilities),
        FALSE_ALARM if unlike is None else unlike.false_alarm,
    )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf


def _unlike_from(values: Mapping[str, Any] | None, tensors: Mapping[str, NDArray[np.generic]]) -> Unlike | None:
    if values is None:
        if tensors:
            raise ValueError("there are arrays of a detector that is not described")
        return None
    if set(values) != {"k", "false_alarm"}:
        raise ValueError("a detector has exactly the keys false_alarm, k")
    return Unlike.from_parts(values["k"], values["false_alarm"], tensors)
