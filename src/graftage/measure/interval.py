"""How sure a number is: estimates with intervals, for rows that may come in groups.

Three roads to an interval are used. A proportion gets Wilson's score interval, with an effective number of rows where
rows share a group (a patient, a burst of photographs, duplicates). The F1 of a class is a function of one proportion
and gets Wilson's interval through that function. Everything else gets percentiles of a bootstrap that draws groups.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]
Statistic = Callable[[NDArray[np.float64]], NDArray[np.float64]]  # row weights (B, n) -> values (B,) or (B, S)

# The standard error of a cross-validated score is larger than the held-out pictures show, since every model learnt from
# nearly the same ones; nothing in one run tells by how much (Bengio and Grandvalet 2004; Bates, Hastie and Tibshirani
# 2024). So it is multiplied by the root mean square of (score - truth) / standard error over 240 trainings on 60 to 250
# pictures of four sets that no figure is taken from (`bench/design_sets.py`; 1.14 on another sample of these sets,
# `bench/results/honesty.txt`).
CROSS_VALIDATED = 1.12

LEVEL = 0.95  # of every interval, unless a caller says otherwise
CHUNK_CELLS = 4_000_000  # weights held at once by a bootstrap; 32 MB as float64
NOT_MEASURABLE = "not measurable"


@dataclass(frozen=True)
class Estimate:
    """A number with its interval.

    Attributes:
        value: the estimate itself; nan where nothing could be measured.
        low: lower end of the interval.
        high: upper end of the interval.
        method: how the interval was got, in a few words ("wilson", "bootstrap", "not measurable").
        level: how often such an interval contains the truth, 0 to 1.
    """

    value: float
    low: float
    high: float
    method: str
    level: float = LEVEL

    @property
    def measurable(self) -> bool:
        """Whether there was anything to measure."""
        return not math.isnan(self.value)

    def percent(self) -> str:
        """The estimate as percent with one decimal.

        >>> Estimate(0.893, 0.866, 0.917, "wilson").percent()
        '89.3 % (86.6 to 91.7)'
        """
        if not self.measurable:
            return NOT_MEASURABLE
        return f"{100 * self.value:.1f} % ({100 * self.low:.1f} to {100 * self.high:.1f})"

    def number(self, digits: int = 3) -> str:
        """The estimate as a plain number.

        >>> Estimate(0.412, 0.38, 0.446, "bootstrap").number()
        '0.412 (0.380 to 0.446)'
        """
        if not self.measurable:
            return NOT_MEASURABLE
        return f"{self.value:.{digits}f} ({self.low:.{digits}f} to {self.high:.{digits}f})"

    def widened(self, factor: float, *, upper: float = 1.0) -> "Estimate":
        """The same estimate, its interval's ends `factor` times as far from it, clipped to 0 .. `upper`."""
        if not self.measurable:
            return self
        low, high = (self.value + factor * (end - self.value) for end in (self.low, self.high))
        return replace(self, low=max(low, 0.0), high=min(high, upper))

    def shifted(self, delta: float, *, upper: float = 1.0, method: str | None = None) -> "Estimate":
        """The same interval moved by `delta`, value and ends clipped to 0 .. `upper`; `method` renames it."""
        value, low, high = (min(max(end + delta, 0.0), upper) for end in (self.value, self.low, self.high))
        return replace(
            self, value=value if self.measurable else math.nan, low=low, high=high, method=method or self.method
        )


def wilson(p: float, n: float, *, level: float = LEVEL) -> Estimate:
    """Wilson's score interval (1927) of a proportion.

    Args:
        p: observed proportion, 0 to 1. Ignored where n = 0.
        n: number of independent trials; may be fractional (an effective number).
        level: 0 to 1.

    Returns:
        The estimate; where n = 0 its value is nan, its interval 0 to 1 and its method "not measurable".
    """
    if n <= 0:
        return Estimate(math.nan, 0.0, 1.0, NOT_MEASURABLE, level)
    assert -1e-9 <= p <= 1 + 1e-9, f"{p} is no proportion"
    p = min(max(float(p), 0.0), 1.0)
    z = float(stats.norm.ppf(0.5 + level / 2))
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    # the ends touch 0 and 1 exactly in theory; min and max undo the rounding
    low, high = max(0.0, min(centre - half, p)), min(1.0, max(centre + half, p))
    return Estimate(p, low, high, "wilson", level)


def codes(groups: Ints) -> NDArray[np.int64]:
    """Any group numbers as 0 .. G-1, (n,) int64, in the order of their values."""
    return np.unique(groups, return_inverse=True)[1].reshape(-1).astype(np.int64)


def kish_n(groups: Ints) -> float:
    """Effective number of rows if all rows of a group always agree: n² / Σ m² with group sizes m (Kish 1965)."""
    sizes = np.bincount(codes(groups)).astype(np.float64)
    return float(sizes.sum() ** 2 / np.sum(sizes**2)) if sizes.size else 0.0


def effective_n(correct: Floats, groups: Ints) -> float:
    """How many independent rows tell as much about a proportion as these grouped ones.

    p(1-p) / Var, where Var is the linearised cluster variance of the mean, Σ_g (Σ_{i in g} (c_i - p))² / n², with the
    small-sample factor G/(G-1) relative to that of single rows, and Korn and Graubard's (1998) factor
    (t_{n-1} / t_{G-1})² for having seen few groups. Where every row is right, or every row wrong, the variance cannot
    be seen and rows of one group are taken to agree always (`kish_n`).

    Args:
        correct: (n,) 0 or 1.
        groups: (n,) group numbers; rows of different groups are independent.

    Returns:
        From 1 to n; exactly n where every group is a single row, 0 where n = 0.
    """
    assert correct.shape == groups.shape, "a group for every row"
    n, group = correct.size, codes(groups)
    count = int(group.max()) + 1 if n else 0
    if count == n or count == 1:
        return float(min(count, n))
    p = float(np.mean(correct))
    if p in (0.0, 1.0):
        return kish_n(groups)
    sums = np.bincount(group, weights=correct - p)
    variance = float(sums @ sums) / n**2 * (count / (count - 1)) / (n / (n - 1))
    few = (stats.t.ppf(0.5 + LEVEL / 2, n - 1) / stats.t.ppf(0.5 + LEVEL / 2, count - 1)) ** 2
    plain = p * (1 - p) / variance if variance > 0 else float(n)
    return max(1.0, float(few) * min(plain, float(n)))


def proportion(correct: Floats, groups: Ints) -> Estimate:
    """Share of rows that are 1 with Wilson's interval for as many independent rows as these are worth.

    Args:
        correct: (n,) 0 or 1.
        groups: (n,) group numbers; rows of different groups are independent.
    """
    if correct.size == 0:
        return wilson(0.0, 0)
    n = effective_n(correct, groups)
    estimate = wilson(float(correct.mean()), n)
    return estimate if n == correct.size else replace(estimate, method="wilson (effective n)")


def f1_interval(tp: float, fp: float, fn: float, *, level: float = LEVEL) -> Estimate:
    """Interval of the F1 of one class.

    F1 = 2J / (1 + J) rises with J = tp / (tp + fp + fn), the Jaccard index, which is a proportion of tp + fp + fn
    trials: Wilson's interval of J, mapped. Counts may be fractional (scaled to an effective number).
    """
    trials = tp + fp + fn
    jaccard = wilson(tp / trials if trials > 0 else 0.0, trials, level=level)
    if not jaccard.measurable:
        return jaccard
    value, low, high = (2 * j / (1 + j) for j in (jaccard.value, jaccard.low, jaccard.high))
    return Estimate(value, low, high, "wilson (jaccard)", level)


def resamples(groups: Ints, *, rng: np.random.Generator, draws: int) -> Iterator[NDArray[np.float64]]:
    """Bootstrap weights in chunks: every draw takes G groups with replacement, and their rows with them.

    Yields:
        (B, n) float64: how often each row was taken in each of B draws; the B add up to `draws`. The array is the
        transpose of a contiguous (n, B), so that `weights.T` costs nothing.
    """
    group = codes(groups)
    count = int(group.max()) + 1
    step = max(1, CHUNK_CELLS // group.size)
    for start in range(0, draws, step):
        size = min(step, draws - start)
        taken = rng.integers(0, count, size=(count, size)) * size + np.arange(size)  # flat places in (G, B)
        times = np.bincount(taken.ravel(), minlength=count * size).reshape(count, size).astype(np.float64)
        yield times[group].T


def bootstrap(
    statistic: Statistic, groups: Ints, *, rng: np.random.Generator, draws: int = 1000
) -> NDArray[np.float64]:
    """Cluster bootstrap of one or several statistics.

    Args:
        statistic: takes row weights (B, n), gives values (B,) or (B, S).
        groups: (n,) group numbers.
        rng: source of the draws.
        draws: how many.

    Returns:
        (draws,) or (draws, S) float64.
    """
    return np.concatenate([statistic(weights) for weights in resamples(groups, rng=rng, draws=draws)])


def percentile(
    value: float,
    draws: Floats,
    *,
    n: float | None,
    floor: bool = False,
    span: tuple[float, float] = (0.0, 1.0),
    level: float = LEVEL,
) -> Estimate:
    """Percentile interval of bootstrap draws, moved so that their mean is the value; draws that are nan are left out.

    The move undoes the bias of the draws, which is large for a macro F1 of many small classes. Draws that are all equal
    say nothing about the spread (a perfect score is perfect in every draw); draws of a nearly perfect score say too
    little. So a number between 0 and 1 gets Wilson's interval for `n` trials where the draws are all equal, and with
    `floor` it never gets less: our simulations of balanced accuracy from 60 rows then cover 95 to 99 % instead of 88.
    A number of another kind (n is None) without spread gets no width. The method says what was done.

    Args:
        value: the statistic on all rows; nan gives "not measurable".
        draws: (B,) its bootstrap draws.
        n: effective number of rows behind the value, or None where it is not like a proportion.
        floor: whether the interval is at least Wilson's.
        span: least and largest possible value.
        level: 0 to 1.
    """
    kept = draws[np.isfinite(draws)]
    if math.isnan(value) or kept.size == 0:
        return Estimate(math.nan, *span, NOT_MEASURABLE, level)
    if np.ptp(kept) <= 1e-12:
        return _no_spread(value, n, level)
    low, high = np.quantile(kept, [0.5 - level / 2, 0.5 + level / 2]) + (value - kept.mean())
    low, high = max(span[0], min(float(low), value)), min(span[1], max(float(high), value))
    if not floor or n is None:
        return Estimate(value, low, high, "bootstrap", level)
    least = wilson(value, n, level=level)
    return Estimate(value, min(low, least.low), max(high, least.high), "bootstrap, at least wilson", level)


def _no_spread(value: float, n: float | None, level: float) -> Estimate:
    if n is None:
        return Estimate(value, value, value, "bootstrap (all draws equal)", level)
    return replace(wilson(value, n, level=level), method="bootstrap (all draws equal), wilson")
