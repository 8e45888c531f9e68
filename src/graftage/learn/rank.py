"""How much a network's features know of the labels: the published scores, each in its corrected form.

None of them chooses alone: `race` compares networks by a linear probe and their nearest neighbours together (`sound`).
The others are shown on request. n pictures, D features, K classes; a higher score is better, unless it is called a loss
or an error.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from graftage.learn import defaults
from graftage.learn.baseline import SHARPNESS
from graftage.learn.chunking import chunks
from graftage.learn.entries import Sounding
from graftage.learn.gram import Floats, Labels, Reals, centring_noise, principal
from graftage.learn.head import transform
from graftage.learn.search import Trial, search

_ROUNDS = 1000  # of the fixed point; it settles within a hundred but for labels that the features know nothing of
_SETTLED = 1e-8
_LARGEST = 1e10  # of both precisions, in units of the data's own scale: the evidence is flat from far below on


def logme(X: Reals, y: Labels, *, centred: bool = True) -> float:
    """Log evidence per picture of a Bayesian linear model of the labels, mean over classes (You et al. 2021).

    The model of each class is t = F w + noise, with t 1 for the class and 0 elsewhere, w ~ N(0, I/α), noise ~ N(0, 1/β)
    and α, β such that the evidence is largest. The published code keeps D/2·log α but only min(n, D) terms of the
    determinant, and so rises with D wherever n < D; here directions in which the features do not vary cancel:

        log p(t) / n = (k log α + n log β − Σ_{i≤k} log(α + β σᵢ) − β r² − α m² − n log 2π) / 2n

    with σ the k positive eigenvalues of F Fᵀ, r² the squared residual and m² the squared length of the mean of w.

    Args:
        X: (n, D) features.
        y: int64 (n,) class numbers.
        centred: features and targets are taken about their means, so that it tells nothing that the features are
            positive; False is as published.
    """
    F = np.array(X, dtype=np.float64)
    T = (y[:, None] == np.unique(y)).astype(np.float64)
    if centred:
        noise = centring_noise(F)
        F, T = F - F.mean(axis=0), T - T.mean(axis=0)
    else:
        noise = 0.0
    wide = F.shape[1] >= len(F)
    sigma, V = principal(F @ F.T if wide else F.T @ F, floor=noise)
    along = np.square((V if wide else F @ (V / np.sqrt(sigma))).T @ T)  # (k, K) squares of the targets' coordinates
    outside = np.maximum(np.square(T).sum(axis=0) - along.sum(axis=0), 0.0)
    free = len(F) - centred  # dimensions that the targets can lie in: about their mean, one less than pictures
    return float(np.mean([_evidence(sigma, along[:, c], float(outside[c]), free) for c in range(T.shape[1])]))


def _evidence(sigma: Floats, along: Floats, outside: float, n: int) -> float:
    """`logme` of one class: eigenvalues (k,), squared coordinates of its target (k,), the square of what is left."""
    if not len(sigma):  # all pictures look alike: there is only noise
        return float((np.log(n / max(outside, 1e-300)) - 1 - np.log(2 * np.pi)) / 2)
    scale = float(sigma.mean())
    alpha, beta = scale, 1.0
    m2, r2 = _moments(sigma, along, outside, alpha, beta)
    for _ in range(_ROUNDS):
        gamma = float((beta * sigma / (alpha + beta * sigma)).sum())
        before = alpha, beta
        beta = min((n - gamma) / max(r2, 1e-300), _LARGEST)
        alpha = min(gamma / max(m2, 1e-300), _LARGEST * scale * max(beta, 1.0))
        m2, r2 = _moments(sigma, along, outside, alpha, beta)
        if abs(alpha / before[0] - 1) < _SETTLED and abs(beta / before[1] - 1) < _SETTLED:
            break
    k = len(sigma)
    determinant = k * np.log(alpha) - float(np.log(alpha + beta * sigma).sum())
    return float((determinant + n * np.log(beta) - beta * r2 - alpha * m2) / (2 * n) - np.log(2 * np.pi) / 2)


def _moments(sigma: Floats, along: Floats, outside: float, alpha: float, beta: float) -> tuple[float, float]:
    """(m², r²) at these precisions."""
    m2 = float((beta**2 * sigma * along / np.square(alpha + beta * sigma)).sum())
    return m2, float((np.square(alpha / (alpha + beta * sigma)) * along).sum()) + outside


def leep(source: Reals, y: Labels) -> float:
    """Log expected empirical prediction (Nguyen et al. 2020): mean log Σ_z p(y|z) θ(z|x), at most 0.

    Args:
        source: (n, Z) what the network's own classifier gives each of its Z classes; rows add up to 1.
        y: int64 (n,) class numbers.
    """
    theta = np.asarray(source, dtype=np.float64)
    joint = (y[:, None] == np.unique(y)).T.astype(np.float64) @ theta / len(y)  # (K, Z)
    given = joint / np.maximum(joint.sum(axis=0), 1e-300)
    expected = theta @ given.T  # (n, K)
    return float(np.log(expected[np.arange(len(y)), np.unique(y, return_inverse=True)[1]]).mean())


def knn_score(X: NDArray[np.float32], y: Labels, groups: Labels, *, k: int | None = None) -> float:
    """Share of pictures, 0 to 1, that their k nearest by cosine, weighted by exp(cosine / 0.07), put into their class.

    Args:
        X: float32 (n, D) features.
        y: int64 (n,) class numbers.
        groups: int64 (n,): no picture is asked about one of its own group, so that copies tell nothing.
        k: number of neighbours; None takes `defaults.neighbours`.
    """
    labels = np.unique(y, return_inverse=True)[1]
    return float((neighbour_votes(X, labels, groups, k=k).argmax(axis=1) == labels).mean())


def neighbour_votes(X: NDArray[np.float32], y: Labels, groups: Labels, *, k: int | None = None) -> Floats:
    """What the neighbours of `knn_score` say of each class: float64 (n, K); y is 0..K−1.

    Rows add up to 1, or to 0 for a picture that has no neighbour outside its group.
    """
    rows, names = transform(X, "unit"), np.unique(groups, return_inverse=True)[1]
    k = min(k or defaults.neighbours(len(y), int(y.max()) + 1), len(y) - 1)
    found = np.zeros((len(y), int(y.max()) + 1))
    for part in chunks(len(rows), len(rows)):
        cosine = (rows[part] @ rows.T).astype(np.float64)
        cosine[names[part, None] == names] = -np.inf
        nearest = np.argpartition(-cosine, k - 1, axis=1)[:, :k]
        near = np.take_along_axis(cosine, nearest, axis=1)
        votes = np.exp((near - np.maximum(near.max(axis=1, keepdims=True), -1.0)) / SHARPNESS)
        counted = np.zeros((len(near), found.shape[1]))
        np.add.at(counted, (np.repeat(np.arange(len(near)), k), y[nearest].ravel()), votes.ravel())
        found[part] = counted / np.maximum(counted.sum(axis=1, keepdims=True), 1e-300)
    return found


def linear_probe(X: NDArray[np.float32], y: Labels, folds: Labels, *, seed: int) -> Trial:
    """The cheap head that networks are compared by: ridge regression, held out, its transform and penalty the best.

    Args:
        X: float32 (n, D) features.
        y: int64 (n,) class numbers 0..K−1, every class present.
        folds: int64 (R, n), in each repeat the fold in which a row is held out.
        seed: as in `search`.
    """
    return search(X, y, folds, fit="", families=(), seed=seed).leader()


def sound(X: NDArray[np.float32], y: Labels, groups: Labels, folds: Labels, *, seed: int) -> Sounding:
    """What a race compares networks by: three error rates that go by different ways, the probe's counted twice.

    Half the Brier score of the linear probe held out, the same of what the neighbours say, and the squared error that
    the evidence speaks of (`evidence_error`). Half a Brier score is the error rate of who is sure of everything, and
    varies less from picture to picture than being right or wrong does. The three err in different ways; on the five
    sets that the race was designed on (`belief`) their mean chose better than any of them alone. The probe is what is
    asked for in the end, so it counts twice: of features that know nothing, neighbours can be fond.

    Args:
        X: float32 (n, D) features.
        y: int64 (n,) class numbers 0..K−1, every class present.
        groups: int64 (n,), as in `knn_score`.
        folds: int64 (R, n), as in `linear_probe`.
        seed: as in `search`.
    """
    trial = linear_probe(X, y, folds, seed=seed)
    votes = neighbour_votes(X, y, groups)
    briers = np.square(votes - np.eye(votes.shape[1])[y]).sum(axis=1)
    return Sounding(trial, (trial.briers.astype(np.float64) + briers / 2 + evidence_error(X, y)) / 4)


def evidence_error(X: NDArray[np.float32], y: Labels) -> float:
    """The squared error per picture that the log evidence stands for, over all classes, halved: 0 to about ½.

    A normal density of variance v gives its own draws −½ log(2πe v) on average. So v is read off the log evidence per
    picture (`logme`, of rows of length 1), and K/2 v compares with half a Brier score.
    """
    return float(len(np.unique(y)) / 2 * np.exp(-2 * logme(transform(X, "unit"), y)) / (2 * np.pi * np.e))


@dataclass(frozen=True)
class Transferability:
    """The published scores of one network's features.

    Attributes:
        logme: log evidence per picture.
        knn: accuracy of nearest neighbours, 0 to 1.
        probe: accuracy of the held-out linear probe, 0 to 1.
        log_loss: of the linear probe, in nats.
    """

    logme: float
    knn: float
    probe: float
    log_loss: float


def transferability(X: NDArray[np.float32], y: Labels, groups: Labels, folds: Labels, *, seed: int) -> Transferability:
    """All scores of features X (n, D), on rows of length 1 so that no network's scale speaks; others as above."""
    trial = linear_probe(X, y, folds, seed=seed)
    return Transferability(logme(transform(X, "unit"), y), knn_score(X, y, groups), trial.accuracy(y), trial.log_loss)
