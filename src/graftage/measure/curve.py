"""Scores at several data sizes → power laws with interval → "how much more data do I need?"

Many small classifiers are trained on parts of the pictures and tested on the rest. Power laws (`powerlaw`) through
their error rates, weighted by what they foretell of the last two sizes, are carried on beyond the pictures that there
are; a bootstrap of the refits and of the pictures (two-stage, 300 draws) makes a fan of them. A curve that rises, that
no power law fits, or that shows nothing learnt is not carried on; none is past 8 times what it was measured up to (some
14 % of curves are ill-behaved: LCDB 1.1, 2025). All holds for new pictures that come from the same source.
"""

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from graftage.measure.interval import NOT_MEASURABLE, Estimate, kish_n, resamples, wilson
from graftage.measure.powerlaw import GAMMA_MEAN, GAMMA_SD, Laws, fit, mixed, spread, weights

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Metric = Literal["accuracy", "balanced_accuracy"]

FRACTIONS = (0.1, 0.15, 0.2, 0.3, 0.4, 0.55, 0.7, 0.85)
REPLICATES = 20
ROWS = 3000  # most pictures that one refit learns from
FARTHEST = 8  # times the pictures that the curve was measured up to
LEVEL = 0.8
MULTIPLES = (1.5, 2.0, 4.0)
FEWEST_SIZES = 5  # with fewer nothing is foretold
FEWEST_OF_CLASS = 10  # pictures of a class below which its own curve is not drawn

_DRAWS = 300
_CLASS_DRAWS = 100
_RISE = (3.0, 0.005)  # standard errors, and error rate: what counts as rising, or as missed by every law
_LARGEST, _SIGNAL = 3, 0.01  # sizes whose mean must beat chance, in all but this share of the draws
_METHOD = "power laws, two-stage bootstrap"


@dataclass(frozen=True, eq=False)
class Refits:
    """What became of J sizes × R refits.

    Attributes:
        sizes: int64 (J,) pictures learnt from, rising.
        right: int8 (J, R, n): 1 right, 0 wrong, −1 learnt from and so not tested.
        y: int64 (n,) classes.
        groups: int64 (n,) pictures that belong together.
    """

    sizes: Ints
    right: NDArray[np.int8]
    y: Ints
    groups: Ints


@dataclass(frozen=True)
class Needed:
    """Pictures needed for a score.

    Attributes:
        target: the score, 0 to 1.
        low, value, high: 10 %, 50 % and 90 % quantile of the pictures in all; infinite past the limit.
        reachable: False where the best that more pictures can do (10 % quantile of its error) falls short of it.
    """

    target: float
    low: float
    value: float
    high: float
    reachable: bool


@dataclass(frozen=True)
class ClassGain:
    """What more pictures of all classes would do for one class.

    Attributes:
        label: class number.
        pictures: of this class.
        recall: share that is right at the largest size measured, with interval.
        gain: of recall, from all pictures to twice as many; nan where there are too few to tell.
    """

    label: int
    pictures: int
    recall: Estimate
    gain: Estimate


@dataclass(frozen=True, eq=False)
class Curve:
    """A learning curve.

    Attributes:
        metric: what is scored.
        n: pictures that there are.
        limit: pictures past which nothing is said.
        sizes: int64 (J,); measured: their scores with 80 % intervals.
        trouble: why nothing is foretold; "" where something is.
        expected: (pictures, score) at n and its multiples within the limit.
        fan: (pictures, score) along the curve, for drawing.
        believed: share of each family of laws.
        ceiling: score that no number of pictures betters, as far as the curve tells.
        needed: for the target, if one was asked for.
        classes: one entry per class.
    """

    metric: Metric
    n: int
    limit: int
    sizes: Ints
    measured: tuple[Estimate, ...]
    trouble: str
    expected: tuple[tuple[int, Estimate], ...] = ()
    fan: tuple[tuple[int, Estimate], ...] = ()
    believed: tuple[tuple[str, float], ...] = ()
    ceiling: Estimate | None = None
    needed: Needed | None = None
    classes: tuple[ClassGain, ...] = ()

    @property
    def weakest(self) -> ClassGain | None:
        """The class that is least often right, of those with enough pictures to tell."""
        known = [c for c in self.classes if c.pictures >= FEWEST_OF_CLASS and math.isfinite(c.recall.value)]
        return min(known, key=lambda c: c.recall.value, default=None)

    def at(self, multiple: float) -> Estimate | None:
        """The score expected at this multiple of n; None where nothing is foretold."""
        return dict(self.expected).get(round(multiple * self.n))


def curve_sizes(n: int, n_classes: int) -> Ints:
    """The sizes to measure, rising: shares of n (or of what `ROWS` allows) that hold two pictures of every class."""
    whole = min(n, ROWS / FRACTIONS[-1])
    found = [round(whole * share) for share in FRACTIONS]
    return np.array(sorted({m for m in found if m >= max(2 * n_classes, 8) and m < n}), dtype=np.int64)


def learning_curve(
    refits: Refits, *, metric: Metric = "accuracy", target: float | None = None, rng: np.random.Generator
) -> Curve:
    """The curve, and what it foretells.

    Args:
        refits: at least one size.
        metric: of the scores.
        target: score wanted, above 0 and below 1.
        rng: of the bootstrap.
    """
    n, sizes = len(refits.y), refits.sizes
    whole = _errors(refits, metric, np.ones((1, n)), np.ones((1, *refits.right.shape[:2])))
    errors, bits = whole.overall[0], kish_n(refits.groups)
    drawn = _drawn(refits, metric, errors, rng)
    measured = tuple(_score(errors[j], drawn.overall[:, j], bits) for j in range(len(sizes)))
    limit = FARTHEST * int(min(n, sizes[-1] / FRACTIONS[-1]) + 0.5)
    sd = spread(drawn.overall)
    prior = rng.normal(GAMMA_MEAN, GAMMA_SD, len(drawn.overall))
    trouble = _trouble(refits, metric, errors, drawn.overall)
    bare = Curve(metric, n, limit, sizes, measured, trouble, classes=_unmeasured(refits, whole, drawn))
    if trouble:
        return bare
    believed = weights(sizes, errors, drawn.overall, sd, prior)
    laws = mixed(sizes, drawn.overall, sd, prior, believed, rng)
    if _missed(errors, sd, laws.at(sizes.astype(np.float64))):
        return replace(bare, trouble="the scores follow no power law: what more pictures would bring cannot be told")
    wanted = [round(n * multiple) for multiple in (1.0, *MULTIPLES) if n * multiple <= limit]
    along = np.unique(np.geomspace(sizes[0], max(min(limit, 4 * n), sizes[-1]), 41).round().astype(np.int64))
    return Curve(
        metric,
        n,
        limit,
        sizes,
        measured,
        "",
        expected=_foretold(laws, wanted, bits),
        fan=_foretold(laws, along.tolist(), bits),
        believed=tuple(believed.items()),
        ceiling=_quantiles(1.0 - laws.alpha),
        needed=None if target is None else _needed(laws, target, limit),
        classes=_gains(bare.classes, sizes, drawn, prior),
    )


@dataclass(frozen=True, eq=False)
class _Errors:
    """Error rates of B draws: overall (B, J), and of each class (B, J, K), nan where it was not tested."""

    overall: Floats
    classes: Floats


def _errors(refits: Refits, metric: Metric, pictures: Floats, replicates: Floats) -> _Errors:
    """Error rates under weights of the pictures (B, n) and of the refits (B, J, R)."""
    J, R, n = refits.right.shape
    B, K = len(pictures), int(refits.y.max()) + 1
    flat = refits.right.reshape(J * R, n)
    wrong_sum, tested_sum = np.zeros((J * R, B)), np.zeros((J * R, B))
    classes, mean, present = np.full((B, J, K), np.nan), np.zeros((J * R, B)), np.zeros((J * R, B))
    times = replicates.transpose(1, 2, 0)  # (J, R, B)
    for k in range(K):
        own = np.flatnonzero(refits.y == k)
        part, weight = flat[:, own], np.ascontiguousarray(pictures[:, own].T)
        wrong, tested = (part == 0).astype(np.float64) @ weight, (part >= 0).astype(np.float64) @ weight
        wrong_sum += wrong
        tested_sum += tested
        with np.errstate(invalid="ignore", divide="ignore"):
            share = wrong / tested
            mean += np.where(tested > 0, share, 0.0)
            present += tested > 0
            totals = [(part.reshape(J, R, B) * times).sum(axis=1) for part in (wrong, tested)]
            classes[:, :, k] = (totals[0] / totals[1]).T
    with np.errstate(invalid="ignore", divide="ignore"):
        rate = (mean / present if metric == "balanced_accuracy" else wrong_sum / tested_sum).reshape(J, R, B)
        counted = times * np.isfinite(rate)  # a refit of which no picture was drawn says nothing
        overall = (np.nan_to_num(rate) * counted).sum(axis=1) / counted.sum(axis=1)
    return _Errors(overall.T, classes)


def _drawn(refits: Refits, metric: Metric, errors: Floats, rng: np.random.Generator) -> _Errors:
    """Both stages: refits drawn anew at every size, and pictures drawn anew, group by group, for all of them.

    A draw that leaves a size without any picture has the measured error (J,) there.
    """
    J, R, _ = refits.right.shape
    found = []
    for pictures in resamples(refits.groups, rng=rng, draws=_DRAWS):
        times = rng.multinomial(R, np.full(R, 1 / R), size=(len(pictures), J)).astype(np.float64)
        found.append(_errors(refits, metric, pictures, times))
    overall = np.concatenate([f.overall for f in found])
    return _Errors(np.where(np.isfinite(overall), overall, errors), np.concatenate([f.classes for f in found]))


def _trouble(refits: Refits, metric: Metric, errors: Floats, drawn: Floats) -> str:
    """Why the curve must not be carried on; "" if it may."""
    counts = np.bincount(refits.y)
    chance = 1.0 - (counts.max() / counts.sum() if metric == "accuracy" else 1.0 / (counts > 0).sum())
    if np.quantile(chance - drawn[:, -_LARGEST:].mean(axis=1), _SIGNAL) <= 0:
        return (
            "no signal found: at the largest sizes the score is not measurably better than always naming one class, so "
            "there is no curve to carry on"
        )
    if len(errors) < FEWEST_SIZES:
        return f"too few pictures: a curve needs {FEWEST_SIZES} sizes or more, and these give {len(errors)}"
    for j in range(len(errors) - 1):
        rise, spread = errors[j + 1 :] - errors[j], (drawn[:, j + 1 :] - drawn[:, j, None]).std(axis=0)
        if ((rise > _RISE[0] * spread) & (rise > _RISE[1])).any():
            return "the score falls with more pictures in part of the curve: such a curve is not carried on"
    return ""


def _missed(errors: Floats, sd: Floats, laws: Floats) -> bool:
    """Whether the laws (B, J), taken together, pass by one of the sizes."""
    gap = np.abs(errors - np.median(laws, axis=0))
    return bool(((gap > _RISE[0] * sd) & (gap > 2 * _RISE[1])).any())


def _quantiles(scores: Floats) -> Estimate:
    low, value, high = np.quantile(scores, [0.5 - LEVEL / 2, 0.5, 0.5 + LEVEL / 2])
    return Estimate(float(value), float(low), float(high), _METHOD, LEVEL)


def _score(error: float, drawn: Floats, bits: float) -> Estimate:
    """A measured score with percentiles of its draws, moved so that their mean is the score."""
    score, found = float(1 - error), _quantiles(1 - drawn + drawn.mean() - error)
    low, high = max(0.0, min(found.low, score)), min(1.0, max(found.high, score))
    return _widened(replace(found, value=score, low=low, high=high), bits)


def _widened(found: Estimate, bits: float) -> Estimate:
    """At least Wilson's interval where less than one of the pictures is wrong: then the draws show too little."""
    if (1 - found.value) * bits >= 1:
        return found
    least = wilson(found.value, bits, level=LEVEL)
    return replace(found, low=min(found.low, least.low), high=max(found.high, least.high), method=f"{_METHOD}, wilson")


def _foretold(laws: Laws, pictures: list[int], bits: float) -> tuple[tuple[int, Estimate], ...]:
    scores = 1.0 - laws.at(np.array(pictures, dtype=np.float64))
    return tuple((m, _widened(_quantiles(scores[:, i]), bits)) for i, m in enumerate(pictures))


def _needed(laws: Laws, target: float, limit: int) -> Needed:
    pictures = np.sort(laws.needed(1.0 - target))
    pictures = np.where(pictures > limit, np.inf, pictures)
    low, value, high = (float(np.quantile(pictures, q, method="higher")) for q in (0.1, 0.5, 0.9))
    return Needed(target, low, value, high, bool(np.quantile(laws.alpha, 0.1) <= 1.0 - target))


def _unmeasured(refits: Refits, whole: _Errors, drawn: _Errors) -> tuple[ClassGain, ...]:
    """The classes' recalls at the largest size, without what more pictures would do."""
    counts, none = np.bincount(refits.y), Estimate(math.nan, -1.0, 1.0, NOT_MEASURABLE, LEVEL)
    found = []
    for k, count in enumerate(counts):
        error, draws = float(whole.classes[0, -1, k]), drawn.classes[:, -1, k]
        draws = draws[np.isfinite(draws)]
        known = math.isfinite(error) and len(draws)
        recall = _score(error, draws, kish_n(refits.groups[refits.y == k])) if known else wilson(0.0, 0, level=LEVEL)
        found.append(ClassGain(k, int(count), recall, none))
    return tuple(found)


def _gains(bare: tuple[ClassGain, ...], sizes: Ints, drawn: _Errors, prior: Floats) -> tuple[ClassGain, ...]:
    """What twice the pictures of all classes would do for each class, by a law through its own errors.

    All classes grow alike in the refits. Which class's own pictures would do the most does not follow from that: in
    `bench/nextclass.py` pictures of the class of the largest gain a picture did no more than as many at random.
    """
    n = sum(c.pictures for c in bare)
    gains = np.full((_CLASS_DRAWS, len(bare)), np.nan)
    for k, found in enumerate(bare):
        errors = drawn.classes[:_CLASS_DRAWS, :, k]
        if found.pictures >= FEWEST_OF_CLASS and np.isfinite(errors).all():
            laws = fit(sizes, errors, spread(errors), family="pow3", prior=prior[:_CLASS_DRAWS])
            now, twice = laws.at(np.array([n, 2.0 * n])).T
            gains[:, k] = now - twice
    known = np.isfinite(gains).all(axis=0)
    return tuple(replace(c, gain=_quantiles(gains[:, k])) if known[k] else c for k, c in enumerate(bare))
