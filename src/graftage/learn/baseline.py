"""The classifiers that any other must beat: they cost nothing and hide nothing."""

import numpy as np
from numpy.typing import NDArray

from graftage.learn.chunking import chunks
from graftage.learn.gram import Floats, Labels
from graftage.learn.head import transform

SHARPNESS = 0.07  # temperature of the votes, exp(cosine / 0.07) (Wu et al. 2018, as in DINO's evaluation)


def knn_probabilities(
    X: NDArray[np.float32], y: Labels, queries: NDArray[np.float32], *, k: int, n_classes: int
) -> Floats:
    """Weighted k-nearest-neighbour votes by cosine: (q, K) probabilities.

    Args:
        X: float32 (n, D) features of the pictures that vote.
        y: their classes.
        queries: float32 (q, D) features of the pictures asked about; none of them may be among X.
        k: number of neighbours; at most n are used.
        n_classes: K.
    """
    known, asked = transform(X, "unit"), transform(queries, "unit")
    k = min(k, len(known))
    out = np.zeros((len(asked), n_classes))
    for part in chunks(len(asked), len(known)):
        cosine = (asked[part] @ known.T).astype(np.float64)
        nearest = np.argpartition(-cosine, k - 1, axis=1)[:, :k]
        near = np.take_along_axis(cosine, nearest, axis=1)
        votes = np.exp((near - near.max(axis=1, keepdims=True)) / SHARPNESS)
        rows = np.repeat(np.arange(len(near)), k)
        np.add.at(out[part], (rows, y[nearest].ravel()), votes.ravel())
    return np.asarray(out / out.sum(axis=1, keepdims=True))


def held_out_knn(X: NDArray[np.float32], y: Labels, fold: Labels, *, k: int, n_classes: int) -> Floats:
    """`knn_probabilities` (n, K) for every row, by the rows outside its fold; fold is (n,)."""
    out = np.empty((len(y), n_classes))
    for number in np.unique(fold):
        asked = fold == number
        out[asked] = knn_probabilities(X[~asked], y[~asked], X[asked], k=k, n_classes=n_classes)
    return out
