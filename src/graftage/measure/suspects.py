"""Which labels are probably wrong: what pictures held out say of the label that they carry.

Three signals are asked: two classifiers that have not seen the picture, and its nearest neighbours. Each gives a
margin, its score for the label less its best score for another; below 0 it would choose another. Pictures are listed
by the mean of the margins: with errors injected by seeds that no score is taken from, that put more of them on top
than the mean of ranks within the class (clothing, 5 %: 75 against 63 in the first 100). A label is flagged only where
confident learning (Northcutt, Jiang & Chuang 2021, "Confident Learning: Estimating Uncertainty in Dataset Labels",
pruning by noise rate) counts it as wrong and at least two of the three signals would choose another.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graftage.measure.interval import Estimate, resamples

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

NEIGHBOURS = 10
AGREEING = 2  # signals that must prefer another label before one is flagged

_SHARPNESS = 0.07  # temperature of the neighbours' votes, as in `learn.baseline`
_DRAWS = 200
_CELLS = 2e8  # probabilities looked at in all draws together; more rows or classes get fewer draws
_FEWEST_DRAWS = 50
_BLOCK = 4_000_000  # similarities held at once: 16 MB


@dataclass(frozen=True, eq=False)
class Suspects:
    """What three signals say of n labels.

    Attributes:
        order: int64 (n,) rows, the most suspicious first.
        flagged: bool (n,) labels that are counted as wrong.
        suggested: int64 (n,) the label that the signals would give instead; never the own one.
        agreeing: int64 (n,) how many of the signals prefer another label, 0 to 3.
        probability: float64 (n,) what the first classifier gives to the label as it is.
        wrong: expected number of wrong labels, with its interval.
    """

    order: Ints
    flagged: Bools
    suggested: Ints
    agreeing: Ints
    probability: Floats
    wrong: Estimate

    @property
    def listed(self) -> Ints:
        """Rows that are flagged, the most suspicious first."""
        return self.order[self.flagged[self.order]]


def suspects(
    classifiers: Sequence[Floats], votes: Floats, y: Ints, groups: Ints, *, rng: np.random.Generator
) -> Suspects:
    """Joins the signals.

    Args:
        classifiers: held-out probabilities (n, K) of two classifiers, calibrated; the joint is counted on their mean.
        votes: (n, K) shares of the neighbours' votes, see `neighbour_votes`.
        y: int64 (n,) labels 0..K-1, every class present.
        groups: int64 (n,) copies that count as one picture in the bootstrap.
        rng: of the bootstrap.
    """
    signals = [*classifiers, votes]
    margins = np.stack([margin(p, y) for p in signals])
    agreeing = np.asarray((margins < 0).sum(axis=0), dtype=np.int64)
    p = np.asarray(sum(classifiers) / len(classifiers))
    joint = calibrated(confident_joint(p, y), y)
    flagged = prune_by_noise_rate(p, y, joint) & (agreeing >= AGREEING)
    order = np.argsort(margins.mean(axis=0), kind="stable")
    others = np.asarray(sum(signals) / len(signals))
    others[np.arange(len(y)), y] = -1.0
    return Suspects(
        order=np.asarray(order, dtype=np.int64),
        flagged=flagged,
        suggested=np.asarray(others.argmax(axis=1), dtype=np.int64),
        agreeing=agreeing,
        probability=p[np.arange(len(y)), y],
        wrong=expected_wrong(p, y, groups, rng=rng),
    )


def margin(scores: NDArray[np.floating[Any]], y: Ints) -> Floats:
    """Score of the own label less the best of the others, (n, K) and (n,) → (n,); below 0, another is preferred."""
    rows = np.arange(len(y))
    others = scores.astype(np.float64)
    own = others[rows, y].copy()
    others[rows, y] = -np.inf
    return np.asarray(own - others.max(axis=1))


def confident_joint(p: Floats, y: Ints, *, weights: Floats | None = None) -> Floats:
    """Counts C[i, j] of pictures labelled i that are confidently j.

    Class j's threshold is the mean probability of j among the pictures labelled j; of the classes whose threshold a
    picture reaches, it counts for the most probable; a picture that reaches none is not counted.

    Args:
        p: (n, K) held-out probabilities.
        y: (n,) labels.
        weights: (n,) how often each picture counts; once if not given.
    """
    n_classes, w = p.shape[1], np.ones(len(y)) if weights is None else weights
    own, mass = p[np.arange(len(y)), y], np.bincount(y, weights=w, minlength=n_classes)
    sums = np.bincount(y, weights=w * own, minlength=n_classes)
    thresholds = np.divide(sums, mass, out=np.full(n_classes, np.inf), where=mass > 0)
    reached = np.where(p >= thresholds - 1e-12, p, -1.0)
    best = reached.argmax(axis=1)
    counted = reached[np.arange(len(y)), best] >= 0
    cells = np.bincount((y * n_classes + best)[counted], weights=w[counted], minlength=n_classes**2)
    return np.asarray(cells.reshape(n_classes, n_classes), dtype=np.float64)


def calibrated(counts: Floats, y: Ints, *, weights: Floats | None = None) -> Floats:
    """The joint distribution of given (rows) and true label (columns): rows in proportion to the labels, sum 1.

    A label of which no picture was confident keeps all its pictures.
    """
    n_classes = len(counts)
    filled = np.where((counts.sum(axis=1) == 0)[:, None], np.eye(n_classes), counts)
    given = np.bincount(y, weights=weights, minlength=n_classes).astype(np.float64)
    joint = filled / filled.sum(axis=1, keepdims=True) * given[:, None]
    return np.asarray(joint / joint.sum())


def prune_by_noise_rate(p: Floats, y: Ints, joint: Floats) -> Bools:
    """For every pair of labels, as many pictures as the joint has of it: those whose other label leads by most.

    Args:
        p: (n, K) held-out probabilities.
        y: (n,) labels.
        joint: (K, K), summing to 1.
    """
    wrong = np.zeros(len(y), dtype=bool)
    counts = np.rint(joint * len(y)).astype(np.int64)
    for label in np.flatnonzero(np.bincount(y, minlength=len(joint))):
        own = np.flatnonzero(y == label)
        for other in np.flatnonzero(counts[label]):
            if other != label:
                lead = p[own, other] - p[own, label]
                wrong[own[np.argsort(-lead, kind="stable")[: counts[label, other]]]] = True
    return wrong


def expected_wrong(p: Floats, y: Ints, groups: Ints, *, rng: np.random.Generator) -> Estimate:
    """Expected number of wrong labels: n times what lies off the diagonal of the joint, with a bootstrap interval.

    Thresholds are found anew in every draw; at least 50 draws, 200 where the data is small. Classes that are alike
    count in: the joint cannot tell a wrong label from a picture that could be either.
    """
    n = len(y)
    draws = int(np.clip(_CELLS / max(p.size, 1), _FEWEST_DRAWS, _DRAWS))
    values = [
        _off_diagonal(p, y, weights) * n
        for chunk in resamples(groups, rng=rng, draws=draws)
        for weights in chunk
        if weights.any()
    ]
    value = _off_diagonal(p, y, np.ones(n)) * n
    low, high = np.quantile(values, [0.025, 0.975]) if values else (value, value)
    return Estimate(value, min(float(low), value), max(float(high), value), "confident joint, bootstrap")


def _off_diagonal(p: Floats, y: Ints, weights: Floats) -> float:
    joint = calibrated(confident_joint(p, y, weights=weights), y, weights=weights)
    return float(1.0 - np.trace(joint))


def neighbour_votes(
    unit: NDArray[np.float32], y: Ints, groups: Ints, *, n_classes: int, k: int = NEIGHBOURS
) -> tuple[Floats, Floats]:
    """Votes of the k nearest pictures that are not copies of the one asked about.

    Args:
        unit: float32 (n, D), rows of length 1.
        y: int64 (n,) labels.
        groups: int64 (n,) pictures of one group do not vote on each other.
        n_classes: K.
        k: neighbours; fewer where there are fewer pictures of other groups.

    Returns:
        Votes (n, K), weighted by exp(cosine / 0.07), rows summing to 1 (all alike where nobody can vote); and the mean
        distance 1 − cosine (n,) to the neighbours, inf where there are none.
    """
    n = len(y)
    votes, distance = np.full((n, n_classes), 1.0 / n_classes), np.full(n, np.inf)
    k = min(k, n - 1)
    step = max(1, _BLOCK // max(n, 1))
    for start in range(0, n if k > 0 else 0, step):
        rows = np.arange(start, min(start + step, n))
        cosine = unit[rows] @ unit.T
        cosine[groups[rows][:, None] == groups] = -np.inf
        nearest = np.argpartition(-cosine, k - 1, axis=1)[:, :k]
        near = np.take_along_axis(cosine, nearest, axis=1).astype(np.float64)
        asked = np.isfinite(near).any(axis=1)
        near, nearest, rows = near[asked], nearest[asked], rows[asked]
        weights = np.exp((near - near.max(axis=1, keepdims=True)) / _SHARPNESS)  # of those excluded: 0
        ballot = np.zeros((len(rows), n_classes))
        np.add.at(ballot, (np.repeat(np.arange(len(rows)), k), y[nearest].ravel()), weights.ravel())
        votes[rows] = ballot / ballot.sum(axis=1, keepdims=True)
        finite = np.isfinite(near)
        distance[rows] = 1.0 - np.where(finite, near, 0.0).sum(axis=1) / finite.sum(axis=1)
    return votes, distance
