"""One number that makes probabilities honest: the temperature by which logits are divided before the softmax.

Guo et al. 2017, "On Calibration of Modern Neural Networks". In the inverse temperature b = 1/T the mean log-loss

    f(b) = mean_i [ logsumexp(b z_i) − b z_i·q_i ]

is convex, with slope  f' = mean_i [ E_p z − z_i·q_i ]  and curvature  f'' = mean_i Var_p z,  p = softmax(b z_i), so the
minimum is the one root of a rising function: Newton steps on log b, kept inside a bracket that every step narrows.

The targets q_i are the labels with the weight of one extra row, labelled with every class alike, spread over all rows
(the prior of Platt 1999). Without it, logits that separate the classes perfectly would ask for T = 0.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Reals = NDArray[np.floating[Any]]
Labels = NDArray[np.int64]

COLDEST, HOTTEST = 1e-3, 1e3  # the temperatures allowed
_STEPS = 60  # bisection alone would need 44 to reach _PRECISION
_PRECISION = 1e-6  # of log T
_CHUNK = 1 << 15  # logits looked at together: 256 KiB, so that every pass stays in the cache


def log_softmax(logits: Reals) -> Floats:
    """Logarithm of the softmax over the last axis, float64, safe for logits of any size."""
    shifted = logits - np.max(logits, axis=-1, keepdims=True).astype(np.float64)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)), dtype=np.float64)


def softmax(logits: Reals) -> Floats:
    """Softmax over the last axis: float64, in [0, 1], summing to 1, safe for logits of any size."""
    raised = np.exp(logits - np.max(logits, axis=-1, keepdims=True).astype(np.float64))
    return np.asarray(raised / raised.sum(axis=-1, keepdims=True), dtype=np.float64)


def fit_temperature(logits: Reals, y: Labels, *, weights: Reals | None = None, cautious: bool = False) -> float:
    """The temperature T that minimises the mean log-loss of softmax(logits / T).

    Fit it on logits of rows that the classifier has not been trained on. The order of the classes does not change, and
    the log-loss on these rows is never above that of T = 1, unless `cautious`.

    Args:
        logits: (n, K), finite.
        y: (n,) class numbers in 0..K-1.
        weights: (n,) how much each row counts, not negative; all alike if not given.
        cautious: let the extra row have its say even where it raises the log-loss on these rows: for those so sure
            of themselves that few rows, all of them right, would leave T = 1.

    Returns:
        T in [1e-3, 1e3]. It grows in proportion to the logits. Perfectly separated logits get a small but finite T (see
        the head of this file); logits that are the same for every class get 1.
    """
    return float(fit_temperatures(np.asarray(logits)[None], y, weights=weights, cautious=cautious)[0])


def fit_temperatures(logits: Reals, y: Labels, *, weights: Reals | None = None, cautious: bool = False) -> Floats:
    """`fit_temperature` for L sets of logits (L, n, K) of the same rows: (L,) temperatures."""
    sets, rows, classes = logits.shape
    assert y.shape == (rows,), (logits.shape, y.shape)
    assert 0 <= y.min() <= y.max() < classes, "labels outside 0..K-1"
    share = _shares(rows, weights)
    return np.array([_fit_one(logits[i], y, share, cautious) for i in range(sets)])


def _shares(rows: int, weights: Reals | None) -> Floats:
    if weights is None:
        return np.full(rows, 1.0 / rows)
    assert weights.shape == (rows,), weights.shape
    assert np.min(weights) >= 0 < np.sum(weights), "weights must not be negative, nor all 0"
    return np.asarray(weights, dtype=np.float64) / float(weights.sum())


def _fit_one(logits: Reals, y: Labels, share: Floats, cautious: bool) -> float:
    inverse = _solve(logits, y, share)
    if cautious:
        return 1.0 / inverse
    # The extra row of the targets may pull past T = 1 where T = 1 was already the best for the labels as they are.
    return 1.0 / inverse if _loss(logits, y, share, inverse) <= _loss(logits, y, share, 1.0) else 1.0


def _solve(logits: Reals, y: Labels, share: Floats) -> float:
    """The inverse temperature at which the slope is 0; a bound of the range if it is nowhere 0."""
    u, low, high = 0.0, -math.log(HOTTEST), -math.log(COLDEST)
    for _ in range(_STEPS):
        slope, curvature = _derivatives(logits, y, share, math.exp(u))
        if slope == 0:
            break
        low, high = (u, high) if slope < 0 else (low, u)
        before, u = u, _next(u, slope, curvature * math.exp(u), bracket=(low, high))
        if abs(u - before) <= _PRECISION:
            break
    return math.exp(u)


def _next(u: float, slope: float, curvature: float, *, bracket: tuple[float, float]) -> float:
    """Newton's step where it stays inside the bracket, else the middle of the bracket."""
    low, high = bracket
    flat = curvature <= abs(slope) / (high - low)  # then Newton's step is longer than the bracket
    newton = u if flat else u - slope / curvature
    return newton if low < newton < high and not flat else 0.5 * (low + high)


def _derivatives(logits: Reals, y: Labels, share: Floats, inverse: float) -> tuple[float, float]:
    """First and second derivative of the smoothed log-loss by the inverse temperature."""
    extra = 1.0 / (len(y) + 1)
    slope = curvature = 0.0
    for rows, z, own in _chunks(logits, y):
        p = np.exp(inverse * z)
        p /= p.sum(axis=0)
        weighted = p * z
        mean = weighted.sum(axis=0)
        target = (1 - extra) * own + extra * z.mean(axis=0)
        slope += float(share[rows] @ (mean - target))
        curvature += float(share[rows] @ (np.einsum("ki,ki->i", weighted, z) - mean**2))
    return slope, curvature


def _loss(logits: Reals, y: Labels, share: Floats, inverse: float) -> float:
    """Mean log-loss with the labels as they are."""
    total = 0.0
    for rows, z, own in _chunks(logits, y):
        total += float(share[rows] @ (np.log(np.exp(inverse * z).sum(axis=0)) - inverse * own))
    return total


def _chunks(logits: Reals, y: Labels) -> Iterator[tuple[slice, Floats, Floats]]:
    """A cacheful of rows at a time: the logits (K, rows) less each row's largest, and those of the true class (rows,).

    Rows lie along the last axis because numpy adds up long contiguous runs several times faster than K numbers a row.
    """
    size = max(1, _CHUNK // logits.shape[1])
    for start in range(0, len(logits), size):
        rows = slice(start, start + size)
        z = np.array(logits[rows].T, dtype=np.float64, order="C")
        z -= z.max(axis=0)
        yield rows, z, z[y[rows], np.arange(z.shape[1])]
