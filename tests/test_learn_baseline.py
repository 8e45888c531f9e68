import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import KNeighborsClassifier
from threadpoolctl import threadpool_limits

from graftage.learn import chunking
from graftage.learn.baseline import held_out_knn, knn_probabilities


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    with threadpool_limits(1):
        yield


def toy(n, *, classes=3, features=6, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n) % classes)
    X = rng.standard_normal((n, features)) + rng.standard_normal((classes, features))[y]
    return X.astype(np.float32), y


def votes_one_by_one(X, y, queries, k, n_classes):
    """Weighted k-NN as it is told: for each query, walk down the pictures by cosine and add exp(cosine / 0.07)."""
    out = np.zeros((len(queries), n_classes))
    for row, query in zip(out, queries.astype(float), strict=True):
        cosines = [x @ query / (np.linalg.norm(x) * np.linalg.norm(query)) for x in X.astype(float)]
        for i in sorted(range(len(X)), key=lambda i: -cosines[i])[:k]:
            row[y[i]] += np.exp(cosines[i] / 0.07)
        row /= row.sum()
    return out


@settings(max_examples=20, deadline=None, derandomize=True)  # two cosines that are all but equal may swap in float32
@given(st.integers(0, 10**6), st.integers(1, 40), st.integers(1, 50), st.integers(3, 6))
def test_votes_are_those_counted_one_by_one(seed, n, k, n_classes):
    X, y = toy(n, seed=seed)
    queries = toy(7, seed=seed + 1)[0]
    p = knn_probabilities(X, y, queries, k=k, n_classes=n_classes)
    np.testing.assert_allclose(p, votes_one_by_one(X, y, queries, k, n_classes), rtol=1e-3, atol=1e-5)


def test_the_first_neighbour_alone_is_scikit_learns():
    X, y = toy(60)
    queries = toy(20, seed=1)[0]
    reference = KNeighborsClassifier(1, metric="cosine", algorithm="brute").fit(X, y).predict_proba(queries)
    np.testing.assert_array_equal(knn_probabilities(X, y, queries, k=1, n_classes=3), reference)


def test_more_neighbours_than_pictures_mean_all_pictures():
    X, y = toy(9)
    queries = toy(4, seed=1)[0]
    every = knn_probabilities(X, y, queries, k=9, n_classes=3)
    np.testing.assert_array_equal(knn_probabilities(X, y, queries, k=10_000, n_classes=3), every)


def test_the_length_of_a_feature_vector_does_not_vote():
    X, y = toy(30)
    queries = toy(5, seed=1)[0]
    longer = X * np.float32(2.0) ** (np.arange(30) % 7)[:, None].astype(np.float32)
    found = [knn_probabilities(x, y, q, k=5, n_classes=3) for x, q in ((X, queries), (longer, 8 * queries))]
    np.testing.assert_allclose(found[0], found[1], rtol=1e-4)


def test_reading_in_pieces_changes_nothing(monkeypatch):
    X, y = toy(23)
    queries = toy(11, seed=1)[0]
    whole = knn_probabilities(X, y, queries, k=5, n_classes=3)
    monkeypatch.setattr(chunking, "_BYTES", 8 * 23 * 4)
    np.testing.assert_allclose(knn_probabilities(X, y, queries, k=5, n_classes=3), whole, rtol=1e-5)


def test_held_out_votes_come_from_the_other_folds():
    X, y = toy(31)
    fold = np.random.default_rng(2).permutation(np.arange(31) % 4) + 5
    p = held_out_knn(X, y, fold, k=6, n_classes=3)
    for number in range(5, 9):
        own = fold == number
        np.testing.assert_allclose(p[own], votes_one_by_one(X[~own], y[~own], X[own], 6, 3), rtol=1e-3, atol=1e-5)


def test_a_pictures_own_fold_never_votes_for_it():
    X, _ = toy(20)
    fold = np.arange(20) % 5
    p = held_out_knn(X, fold.copy(), fold, k=50, n_classes=5)  # every fold has a class of its own
    assert np.array_equal(p == 0, np.eye(5, dtype=bool)[fold])
    np.testing.assert_allclose(p.sum(axis=1), 1.0, rtol=1e-12)
