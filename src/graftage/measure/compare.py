"""Two classifiers on the same pictures: the difference of their accuracies, its interval, and a test."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from graftage.errors import DataError
from graftage.measure.interval import Estimate, Floats, Ints, bootstrap, codes, kish_n, percentile, wilson


@dataclass(frozen=True)
class Comparison:
    """Classifier a against classifier b.

    Attributes:
        difference: accuracy of a minus accuracy of b, -1 to 1; its interval is of the paired difference.
        b: rows that only a called right.
        c: rows that only b called right.
        p: chance of a difference at least as large if both were equally good (two-sided), 0 to 1.
    """

    difference: Estimate
    b: int
    c: int
    p: float


def mcnemar(b: int, c: int) -> float:
    """Exact two-sided McNemar test (1947): the binomial test of b against c; 1 where both are 0.

    >>> round(mcnemar(9, 2), 4)
    0.0654
    """
    return float(stats.binomtest(b, b + c).pvalue) if b + c else 1.0


def paired(
    correct_a: NDArray[np.bool_],
    correct_b: NDArray[np.bool_],
    groups: Ints,
    *,
    rng: np.random.Generator,
    draws: int = 1000,
) -> Comparison:
    """Compare two classifiers row by row.

    The interval comes from a bootstrap over groups. The test is McNemar's on groups: a group speaks for the classifier
    that called more of its rows right. Where every group is a single row this is McNemar's test on b and c. Where the
    draws are all equal (the two never differ), the interval allows the rate of unseen differences that Wilson's
    interval allows for 0 of as many rows.

    Args:
        correct_a: (n,) whether a called the row right.
        correct_b: (n,) likewise for b.
        groups: (n,) int; rows of one group are not independent.
        rng: source of the draws.
        draws: bootstrap draws.

    Raises:
        DataError: the arrays differ in length or are empty.
    """
    if not correct_a.shape == correct_b.shape == groups.shape or correct_a.size == 0:
        raise DataError(
            f"a comparison needs the same rows, at least one: got {correct_a.size} and {correct_b.size} answers "
            f"and {groups.size} group numbers"
        )
    gain = correct_a.astype(np.float64) - correct_b.astype(np.float64)
    net = np.sign(np.bincount(codes(groups), weights=gain))
    drawn = bootstrap(lambda weights: weights @ gain / weights.sum(axis=1), groups, rng=rng, draws=draws)
    return Comparison(
        difference=_difference(float(gain.mean()), drawn, kish_n(groups)),
        b=int((gain > 0).sum()),
        c=int((gain < 0).sum()),
        p=mcnemar(int((net > 0).sum()), int((net < 0).sum())),
    )


def paired_mean(values: Floats, groups: Ints, *, rng: np.random.Generator, draws: int = 1000) -> Estimate:
    """Mean of one number a row, such as a difference of two classifiers' losses, with its interval over groups.

    Args:
        values: (n,) finite, n at least 1.
        groups: (n,) int; rows of one group are not independent.
        rng: source of the draws.
        draws: bootstrap draws.

    Returns:
        The mean; where all draws are equal (a single group, or values that never differ) an interval without width.
    """
    drawn = bootstrap(lambda weights: weights @ values / weights.sum(axis=1), groups, rng=rng, draws=draws)
    return percentile(float(values.mean()), drawn, n=None, span=(-np.inf, np.inf))


def _difference(value: float, drawn: Floats, n: float) -> Estimate:
    estimate = percentile(value, drawn, n=None, span=(-1.0, 1.0))
    if estimate.low < estimate.high:
        return estimate
    unseen = wilson(0.0, n).high
    low, high = max(-1.0, value - unseen), min(1.0, value + unseen)
    return replace(estimate, low=low, high=high, method="bootstrap (all draws equal), wilson")
