"""The flat map keeps neighbours together, as t-SNE does elsewhere, and has no luck in it."""

import numpy as np
import pytest
from sklearn.manifold import TSNE
from sklearn.manifold._t_sne import _joint_probabilities
from sklearn.metrics import pairwise_distances

from graftage.measure.projection import affinities, divergence, flat_map


def clusters(n: int, k: int, seed: int = 0, spread: float = 0.25) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = np.arange(n) % k
    return rng.normal(size=(k, 20))[y] + spread * rng.normal(size=(n, 20)), y


def test_what_belongs_together_lies_together() -> None:
    X, y = clusters(150, 5)
    places = flat_map(X)
    assert places.shape == (150, 2)
    assert np.abs(places).max() == pytest.approx(1)
    distance = pairwise_distances(places) + 9 * np.eye(150)
    nearest = np.argsort(distance, axis=1)[:, :5]
    assert (y[nearest] == y[:, None]).mean() > 0.98


def test_neighbour_probabilities_are_those_of_scikit_learn() -> None:
    X, _ = clusters(90, 3)
    squared = pairwise_distances(X, metric="sqeuclidean")
    ours = affinities(squared, 15.0)
    theirs = _joint_probabilities(squared.astype(np.float32), 15.0, 0)
    assert ours.sum() == pytest.approx(1)
    off = ~np.eye(90, dtype=bool)
    assert ours[off] == pytest.approx(_square(theirs)[off], abs=2e-6)


def _square(condensed: np.ndarray) -> np.ndarray:
    from scipy.spatial.distance import squareform

    return squareform(condensed)


def test_the_map_is_as_good_as_scikit_learns() -> None:
    X, _ = clusters(160, 8, spread=0.8)
    unit = X / np.linalg.norm(X, axis=1, keepdims=True)
    theirs = TSNE(method="exact", init="pca", perplexity=30, random_state=0).fit(unit).kl_divergence_
    near = affinities(pairwise_distances(unit, metric="sqeuclidean"), 30.0)
    places = flat_map(X)
    ours = min(divergence(near, places * scale) for scale in np.geomspace(1, 100, 60))
    assert ours < 1.1 * theirs


def test_the_same_pictures_give_the_same_map() -> None:
    X, _ = clusters(60, 3)
    assert np.array_equal(flat_map(X), flat_map(X))


@pytest.mark.parametrize(
    "X",
    [
        np.zeros((6, 3)),
        np.ones((5, 4)),
        np.eye(3),
        np.eye(4),
        np.diag([1.0, 1, 2, 3, 1e-9]),
        np.ones((1, 2)),
        np.zeros((0, 3)),
    ],
)
def test_few_or_equal_pictures_have_places_too(X: np.ndarray) -> None:
    places = flat_map(X)
    assert places.shape == (len(X), 2)
    assert np.isfinite(places).all()
