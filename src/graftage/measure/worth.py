"""What pretraining is worth, in pictures: the learning curves of two ways to begin, on the same held-out pictures.

Every size of both curves is asked the same pictures, none of which anyone learnt from, and in a bootstrap all of them
are drawn anew together: the curves move together, and what lies between them is paired. A score that the pretrained
network has with m pictures is looked up on the other curve, for every draw; the middle 80 % of the answers are the
interval. Between the sizes trained it is read off the line through the measured scores, beyond them off power laws
(`powerlaw`), up to `FARTHEST` times the pictures trained on; where no law passes by the largest size, nothing is.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from graftage.measure.curve import FARTHEST, LEVEL, Metric
from graftage.measure.interval import Estimate, kish_n, resamples, wilson
from graftage.measure.powerlaw import FAMILIES, GAMMA_MEAN, GAMMA_SD, Family, Laws, mixed, spread

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

LUCK = 0.02  # standard deviation that one training is allowed to be off by; an allowance: each size is trained once
FEWEST = 3  # sizes trained from scratch, below which no law is drawn through them

_DRAWS = 300
_SIGNAL = 0.01  # share of the draws in which the last sizes may be no better than chance
_RISE = 3.0  # standard errors that count as falling, or as missed by every law
_MISSED = 1.0  # at the largest size, from which all beyond is carried on
_METHOD = "power laws, paired bootstrap"
_EQUAL: dict[Family, float] = {
    family: 1 / len(FAMILIES) for family in FAMILIES
}  # too few sizes to tell which family foretells them best


@dataclass(frozen=True, eq=False)
class Answered:
    """What a classifier of each of J sizes answered on the t held-out pictures.

    Attributes:
        sizes: int64 (J,) pictures learnt from, rising.
        right: float64 (J, t) share of the classifiers of that size that are right, 0 to 1.
        luck: float64 (J,) standard deviation of the score by which pictures were learnt from, and by the start.
    """

    sizes: Ints
    right: Floats
    luck: Floats


@dataclass(frozen=True)
class Exchange:
    """So many pictures for the pretrained network, and how many from scratch are as good.

    Attributes:
        pictures: that the pretrained network learnt from.
        low, value, high: 10 %, 50 % and 90 % quantile of the pictures from scratch; infinite past the limit, 0 below
            the smallest size trained.
    """

    pictures: int
    low: float
    value: float
    high: float


@dataclass(frozen=True, eq=False)
class Worth:
    """Two learning curves on the same held-out pictures.

    Attributes:
        metric: what is scored.
        held: pictures that all were asked.
        limit: pictures past which nothing is said of training from scratch; the largest size where there is trouble.
        scratch: (pictures, score) trained from random weights.
        pretrained: (pictures, score) of the pretrained network.
        same: (pictures, score) of the pretrained network with the very pictures of `scratch`.
        gains: (pictures, how much better the pretrained network is with the very same pictures).
        trouble: why no law is drawn through the trainings from scratch; "" where one is.
        exchanges: for each size of the pretrained curve; empty where the curve from scratch tells nothing.
        back: pictures with which the pretrained network is as good as the largest training from scratch: 10 %, 50 % and
            90 % quantile, each 0 where that is fewer than the smallest size measured; None as for exchanges.
        scratch_fan, pretrained_fan: (pictures, score) along the laws, for drawing.
    """

    metric: Metric
    held: int
    limit: int
    scratch: tuple[tuple[int, Estimate], ...]
    pretrained: tuple[tuple[int, Estimate], ...]
    same: tuple[tuple[int, Estimate], ...]
    gains: tuple[tuple[int, Estimate], ...]
    trouble: str
    exchanges: tuple[Exchange, ...] = ()
    back: tuple[float, float, float] | None = None
    scratch_fan: tuple[tuple[int, Estimate], ...] = ()
    pretrained_fan: tuple[tuple[int, Estimate], ...] = ()


def worth(
    scratch: Answered,
    same: Answered,
    pretrained: Answered,
    y: Ints,
    groups: Ints,
    *,
    metric: Metric = "accuracy",
    rng: np.random.Generator,
) -> Worth:
    """What pretraining is worth.

    Args:
        scratch: J sizes, one or more.
        same: the pretrained network's, learnt from the very pictures of `scratch`.
        pretrained: I sizes, five or more.
        y: int64 (t,) classes of the held-out pictures.
        groups: int64 (t,) pictures that belong together.
        metric: of the scores.
        rng: of the bootstrap.
    """
    every = np.concatenate([scratch.right, same.right, pretrained.right])
    J, bits = len(scratch.sizes), kish_n(groups)
    whole = _errors(every, y, np.ones((len(y), 1)), metric)[0]
    parts = [_errors(every, y, w.T, metric) for w in resamples(groups, rng=rng, draws=_DRAWS)]
    drawn = np.concatenate(parts)
    drawn = np.where(np.isfinite(drawn), drawn, whole)  # a draw without any picture of some class
    lucky = drawn + rng.normal(0.0, 1.0, drawn.shape) * np.concatenate([scratch.luck, same.luck, pretrained.luck])
    own, others = slice(J, 2 * J), slice(2 * J, None)
    trouble = _useless(whole[:J], lucky[:, :J], y, metric)
    gaps = zip(scratch.sizes, whole[:J] - whole[own], (lucky[:, :J] - lucky[:, own]).T, strict=True)
    found = Worth(
        metric,
        len(y),
        int(scratch.sizes[-1]),
        _points(scratch.sizes, whole[:J], lucky[:, :J], bits),
        _points(pretrained.sizes, whole[others], lucky[:, others], bits),
        _points(scratch.sizes, whole[own], lucky[:, own], bits),
        tuple((int(m), _quantiles(drawn, value=float(gain))) for m, gain, drawn in gaps),
        trouble,
    )
    prior = rng.normal(GAMMA_MEAN, GAMMA_SD, len(drawn))
    usual = mixed(pretrained.sizes, lucky[:, others], spread(lucky[:, others]), prior, _EQUAL, rng)
    along = np.unique(np.geomspace(pretrained.sizes[0], pretrained.sizes[-1], 25).round().astype(np.int64))
    found = replace(found, pretrained_fan=_along(usual, along))
    if trouble:
        return found
    back = _needed(pretrained.sizes, lucky[:, others], lucky[:, J - 1])
    sd = spread(lucky[:, :J])
    laws = mixed(scratch.sizes, lucky[:, :J], sd, prior, _EQUAL, rng)
    trouble = _misfit(scratch.sizes, whole[:J], sd, laws)
    limit = found.limit if trouble else FARTHEST * found.limit
    needed = (
        _needed(scratch.sizes, lucky[:, :J], lucky[:, 2 * J + i], None if trouble else laws)
        for i in range(len(pretrained.sizes))
    )
    last = min(limit, max(4 * found.limit, int(pretrained.sizes[-1])))
    along = np.unique(np.geomspace(scratch.sizes[0], last, 33).round().astype(np.int64))
    return replace(
        found,
        limit=limit,
        trouble=trouble,
        back=_three(back, int(pretrained.sizes[-1])),
        exchanges=tuple(Exchange(int(m), *_three(n, limit)) for m, n in zip(pretrained.sizes, needed, strict=True)),
        scratch_fan=() if trouble else _along(laws, along),
    )


def _errors(right: Floats, y: Ints, weights: Floats, metric: Metric) -> Floats:
    """Error rates (B, P) of P classifiers' answers (P, t) under weights of the pictures (t, B)."""
    wrong = 1.0 - right
    if metric == "accuracy":
        return np.asarray((wrong @ weights / weights.sum(axis=0)).T)
    shares = []
    for k in np.unique(y):
        own = y == k
        with np.errstate(invalid="ignore", divide="ignore"):
            shares.append((wrong[:, own] @ weights[own] / weights[own].sum(axis=0)).T)
    return np.asarray(np.mean(shares, axis=0))


def _useless(errors: Floats, drawn: Floats, y: Ints, metric: Metric) -> str:
    """Why nothing may be looked up on the curve from scratch; "" if something may."""
    counts = np.bincount(y)
    chance = 1.0 - (counts.max() / counts.sum() if metric == "accuracy" else 1.0 / (counts > 0).sum())
    if np.quantile(chance - drawn[:, -2:].mean(axis=1), _SIGNAL) <= 0:
        return "no signal found: at the largest sizes it is not measurably better than always naming one class"
    for j in range(len(errors) - 1):
        rise = errors[j + 1 :] - errors[j]
        if (rise > _RISE * (drawn[:, j + 1 :] - drawn[:, j, None]).std(axis=0)).any():
            return "its score falls with more pictures in part of the curve"
    return ""


def _misfit(sizes: Ints, errors: Floats, sd: Floats, laws: Laws) -> str:
    """Why the curve from scratch may not be carried on; "" if it may."""
    if len(sizes) < FEWEST:
        return f"a curve needs {FEWEST} sizes to be carried on, and it has {len(sizes)}"
    gap = np.abs(errors - np.median(laws.at(sizes.astype(np.float64)), axis=0)) / sd
    if gap[-1] > _MISSED or gap.max() > _RISE:
        return "no power law fits its scores"
    return ""


def _points(sizes: Ints, errors: Floats, drawn: Floats, bits: float) -> tuple[tuple[int, Estimate], ...]:
    return tuple((int(m), _score(float(e), d, bits)) for m, e, d in zip(sizes, errors, drawn.T, strict=True))


def _score(error: float, drawn: Floats, bits: float) -> Estimate:
    """A measured score with percentiles of its draws; at least Wilson's interval where hardly any is wrong."""
    found = _quantiles(1 - drawn + drawn.mean() - error, value=1 - error)
    low, high = max(0.0, found.low), min(1.0, found.high)
    if error * bits < 1:
        least = wilson(1 - error, bits, level=LEVEL)
        low, high = min(low, least.low), max(high, least.high)
    return Estimate(found.value, low, high, _METHOD, LEVEL)


def _quantiles(values: Floats, *, value: float | None = None) -> Estimate:
    low, middle, high = (float(v) for v in np.quantile(values, [0.5 - LEVEL / 2, 0.5, 0.5 + LEVEL / 2]))
    middle = middle if value is None else value
    return Estimate(middle, min(low, middle), max(high, middle), _METHOD, LEVEL)


def _along(laws: Laws, pictures: Ints) -> tuple[tuple[int, Estimate], ...]:
    scores = 1.0 - laws.at(pictures.astype(np.float64))
    return tuple((int(m), _quantiles(scores[:, i])) for i, m in enumerate(pictures))


def _needed(sizes: Ints, drawn: Floats, errors: Floats, laws: Laws | None = None) -> Floats:
    """Pictures (B,) with which a curve, drawn as errors (B, J), comes down to these errors (B,).

    0 where it is there with the smallest size; beyond the largest by the laws, infinite without them.
    """
    logs = np.log(sizes[::-1].astype(np.float64))
    best = np.minimum.accumulate(drawn, axis=1)  # what so many pictures or fewer can do
    inside = np.exp([np.interp(error, own[::-1], logs) for error, own in zip(errors, best, strict=True)])
    beyond = np.full(len(errors), np.inf) if laws is None else np.maximum(laws.needed(errors), sizes[-1])
    return np.where(errors > best[:, 0], 0.0, np.where(errors < best[:, -1], beyond, inside))


def _three(pictures: Floats, limit: int) -> tuple[float, float, float]:
    """10 %, 50 % and 90 % quantile; infinite past the limit."""
    capped = np.where(pictures > limit, np.inf, pictures)
    low, value, high = (float(np.quantile(capped, q, method="higher")) for q in (0.1, 0.5, 0.9))
    return low, value, high
