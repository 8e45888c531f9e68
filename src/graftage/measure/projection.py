"""A flat map on which pictures that the network finds alike lie side by side.

Exact t-SNE (van der Maaten and Hinton 2008), begun from the two principal components, so that it has no randomness and
keeps the large-scale order (Kobak and Berens 2019). For some hundreds of points; the time grows with their square.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_EXAGGERATED, _STEPS = 250, 1000
_EXAGGERATION = 12.0
_BISECTIONS = 50
_LEAST = 1e-12


def flat_map(X: NDArray[np.floating], *, perplexity: float = 30.0) -> Floats:
    """Places in the plane, float64 (n, 2), between -1 and 1.

    Args:
        X: (n, D) features; only their directions count.
        perplexity: about how many neighbours a point keeps near; at most a third of the points.

    Returns:
        Places; where there are fewer than four points, or all are alike, on a circle or in the middle.
    """
    unit = _unit(np.asarray(X, dtype=np.float64))
    if not (n := len(unit)):
        return np.zeros((0, 2))
    start = _principal(unit)
    if n < 4 or not np.ptp(start, axis=0).any():
        return _scaled(start)
    near = affinities(_squared_distances(unit), min(perplexity, (n - 1) / 3))
    return _scaled(_descend(near, 1e-4 * start / max(start[:, 0].std(), _LEAST)))


def affinities(squared: Floats, perplexity: float) -> Floats:
    """Symmetric neighbour probabilities (n, n) of squared distances (n, n), with sum 1 and a diagonal of 0."""
    n = len(squared)
    wanted, away = np.log(perplexity), ~np.eye(n, dtype=bool)
    shifted = np.where(away, squared - np.where(away, squared, np.inf).min(axis=1, keepdims=True), 0)
    scale = np.maximum(shifted.mean(axis=1), _LEAST)
    low, high, beta = np.zeros(n), np.full(n, np.inf), 1 / scale
    for _ in range(_BISECTIONS):
        p = np.exp(-shifted * beta[:, None]) * away
        total = p.sum(axis=1)
        entropy = np.log(total) + beta * (p * shifted).sum(axis=1) / total
        flat = entropy > wanted
        low, high = np.where(flat, beta, low), np.where(flat, high, beta)
        beta = np.where(np.isfinite(high), (low + np.minimum(high, 1e300)) / 2, 2 * beta)
    p /= total[:, None]
    return np.asarray((p + p.T) / (2 * n))


def divergence(near: Floats, places: Floats) -> float:
    """Kullback-Leibler divergence of the map's neighbour probabilities from `near`: what t-SNE makes small."""
    q = 1 / (1 + _squared_distances(places))
    np.fill_diagonal(q, 0)
    q /= q.sum()
    held = near > 0
    return float((near[held] * np.log(near[held] / np.maximum(q[held], _LEAST))).sum())


def _descend(near: Floats, places: Floats) -> Floats:
    velocity, gains = np.zeros_like(places), np.ones_like(places)
    rate = max(len(near) / _EXAGGERATION / 4, 50.0)
    for step in range(_STEPS):
        early = step < _EXAGGERATED
        kernel = 1 / (1 + _squared_distances(places))
        np.fill_diagonal(kernel, 0)
        pull = (near * (_EXAGGERATION if early else 1.0) - kernel / kernel.sum()) * kernel
        gradient = 4 * (pull.sum(axis=1)[:, None] * places - pull @ places)
        gains = np.maximum(np.where(np.sign(gradient) != np.sign(velocity), gains + 0.2, gains * 0.8), 0.01)
        velocity = (0.5 if early else 0.8) * velocity - rate * gains * gradient
        places = places + velocity
        places -= places.mean(axis=0)
    return places


def _unit(X: Floats) -> Floats:
    return np.asarray(X / np.maximum(np.linalg.norm(X, axis=1, keepdims=True), _LEAST))


def _principal(X: Floats) -> Floats:
    """The first two principal components (n, 2), with the largest entry of each axis positive."""
    centred = X - X.mean(axis=0)
    u, s, vt = np.linalg.svd(centred, full_matrices=False)
    found = np.zeros((len(X), 2))
    kept = min(2, int((s > 1e-9 * max(s[0] if len(s) else 0.0, _LEAST)).sum()))
    signs = np.sign(vt[:kept][np.arange(kept), np.abs(vt[:kept]).argmax(axis=1)])
    found[:, :kept] = u[:, :kept] * s[:kept] * signs
    return found


def _scaled(places: Floats) -> Floats:
    if not len(places):
        return places
    places = places - (places.max(axis=0) + places.min(axis=0)) / 2
    return np.asarray(places / max(np.abs(places).max(), _LEAST))


def _squared_distances(X: Floats) -> Floats:
    squares = (X**2).sum(axis=1)
    return np.asarray(np.maximum(squares[:, None] + squares - 2 * X @ X.T, 0))
