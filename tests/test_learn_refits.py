from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge

from graftage.learn.refits import _Dual, _Primal, _targets, refit


def blobs(n: int, width: int, classes: int = 3, *, apart: float = 1.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features of classes that lie `apart` from each other in noise of size 1."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % classes
    return (rng.normal(size=(n, width)) + apart * rng.normal(size=(classes, width))[y]).astype(np.float32), y


@pytest.mark.parametrize("width", [12, 90])
def test_both_routes_are_scikit_learns_ridge_and_its_refits_without_each_group(width: int) -> None:
    X, y = blobs(40, width)
    rows, (_, T) = X.astype(np.float64), _targets(y)
    groups = np.array([0, 0, 0, *range(1, 36), 7, 7])
    dual, primal = _Dual.of(rows @ rows.T, groups), _Primal.of(rows, groups)
    assert dual.scale == pytest.approx(primal.scale)
    for penalty in (0.3, 30.0):
        model = Ridge(alpha=penalty).fit(rows, T)
        held = np.empty_like(T)
        for group in np.unique(groups):
            out = groups == group
            held[out] = Ridge(alpha=penalty).fit(rows[~out], T[~out]).predict(rows[out])
        by_dual, coefficients = dual.solve(T, penalty)
        by_primal, weights = primal.solve(T, penalty)
        np.testing.assert_allclose(by_dual, held, atol=1e-9)
        np.testing.assert_allclose(by_primal, held, atol=1e-9)
        new = np.random.default_rng(1).normal(size=(5, width))
        np.testing.assert_allclose(
            new @ rows.T @ coefficients.coefficients + coefficients.bias, model.predict(new), atol=1e-9
        )
        np.testing.assert_allclose(new @ weights.weights + weights.bias, model.predict(new), atol=1e-9)


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 1000), st.integers(20, 60), st.integers(2, 4))
def test_parts_have_their_size_hold_every_class_and_tear_no_group_apart(seed: int, n: int, classes: int) -> None:
    X, y = blobs(n, 8, classes, seed=seed)
    groups = np.random.default_rng(seed).integers(0, n, n)
    sizes = np.array([n // 2, 3 * n // 4])
    right = refit(X, y, groups, sizes, replicates=3, seed=seed)
    assert right.shape == (2, 3, n)
    for m, parts in zip(sizes, right, strict=True):
        for part in parts:
            learnt = part < 0
            assert abs(int(learnt.sum()) - m) <= classes + np.bincount(groups).max()
            assert set(y[learnt]) == set(y)
            assert not set(groups[learnt]) & set(groups[~learnt])
    assert (refit(X, y, groups, sizes, replicates=3, seed=seed) == right).all()
    assert (refit(X, y, groups, sizes[1:], replicates=2, seed=seed)[0] == right[1, :2]).all()


def test_more_pictures_are_better_and_labels_by_chance_are_at_chance() -> None:
    X, y = blobs(300, 30, apart=0.5)
    sizes, alone = np.array([30, 90, 240]), np.arange(300)

    def scores(labels: np.ndarray) -> list[float]:
        right = refit(X, labels, alone, sizes, replicates=10, seed=0)
        return [float((part[part >= 0] == 1).mean()) for part in right]

    learnt = scores(y)
    assert all(a < b for a, b in pairwise(learnt))
    assert learnt[-1] > 0.8
    assert scores(np.random.default_rng(0).permutation(y))[-1] == pytest.approx(1 / 3, abs=0.1)


def test_the_route_by_features_gives_the_answers_of_the_route_by_pictures() -> None:
    X, y = blobs(120, 40, apart=0.4)
    alone, size = np.arange(120), np.array([80])
    by_features = refit(X, y, alone, size, replicates=5, seed=0)
    wide = np.concatenate([X, np.zeros((120, 60), np.float32)], axis=1)  # more features than pictures, none of use
    by_pictures = refit(wide, y, alone, size, replicates=5, seed=0)
    assert (by_features == by_pictures).mean() > 0.999


def test_progress_is_told_to_the_end() -> None:
    X, y = blobs(30, 5)
    told: list[tuple[int, int]] = []
    refit(X, y, np.arange(30), np.array([10, 20]), replicates=3, seed=0, step=lambda *at: told.append(at))
    assert told == [(i, 6) for i in range(1, 7)]
