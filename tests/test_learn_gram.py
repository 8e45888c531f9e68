import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge, RidgeClassifierCV
from threadpoolctl import threadpool_limits

from graftage.learn import chunking
from graftage.learn.gram import (
    Moments,
    Smoother,
    arccos_kernel,
    held_out_path,
    held_out_path_primal,
    iter_held_out,
    iter_held_out_primal,
    linear_kernel,
    moments,
    penalties,
    random_features,
)

WIDE, TALL = (40, 90), (70, 12)  # (n, D)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Matrices this small are multiplied no faster by several threads, and far slower where the cores are busy."""
    with threadpool_limits(1):
        yield


def toy(n, features, *, classes=3, seed=0):
    """Features that tell the class a little, with a mean far from 0; labels; ±1 targets."""
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n) % classes)
    X = rng.standard_normal((n, features)) + 0.5 * rng.standard_normal((classes, features))[y] + 3.0
    return X, y, 2.0 * np.eye(classes)[y] - 1


def refit(K, T, penalty, train, test):
    """Kernel ridge by its optimality conditions: (K + λI) a + b = T with Σa = 0."""
    n = len(train)
    system = np.ones((n + 1, n + 1))
    system[:n, :n] = K[np.ix_(train, train)] + penalty * np.eye(n)
    system[n, n] = 0.0
    solution = np.linalg.solve(system, np.vstack([T[train], np.zeros((1, T.shape[1]))]))
    return K[np.ix_(test, train)] @ solution[:n] + solution[n]


def refits(K, T, penalty, fold):
    out = np.empty_like(T)
    for number in np.unique(fold):
        test = np.flatnonzero(fold == number)
        out[test] = refit(K, T, penalty, np.flatnonzero(fold != number), test)
    return out


FOLDS = {
    "random": lambda rng, n: rng.permutation(np.arange(n) % 5),
    "grouped": lambda rng, n: rng.permutation(np.repeat(np.arange(n), 3)[:n]) % 7,
    "unequal": lambda rng, n: rng.choice([2, 5, 9], size=n, p=[0.1, 0.2, 0.7]),
}


# --- kernels


def test_arccos_kernel_has_its_known_values_on_unit_vectors():
    K = arccos_kernel(np.eye(3), bias=0.0)
    np.testing.assert_allclose(np.diag(K), 0.5, rtol=1e-15)
    np.testing.assert_allclose(K[0, 1:], 1 / (2 * np.pi), rtol=1e-15)
    assert arccos_kernel(np.eye(3)[:1], -np.eye(3)[:1], bias=0.0)[0, 0] == pytest.approx(0.0, abs=1e-15)


def test_arccos_kernel_appends_a_one():
    X = toy(6, 4)[0]
    with_one = np.column_stack([X, np.ones(6)])
    np.testing.assert_allclose(arccos_kernel(X), arccos_kernel(with_one, bias=0.0), rtol=1e-12)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.floats(1e-3, 1e3), st.floats(1e-3, 1e3))
def test_arccos_kernel_is_homogeneous_symmetric_and_positive(seed, a, b):
    rng = np.random.default_rng(seed)
    X, Z = rng.standard_normal((8, 3)), rng.standard_normal((5, 3))
    np.testing.assert_allclose(
        arccos_kernel(a * X, b * Z, bias=0.0), a * b * arccos_kernel(X, Z, bias=0.0), rtol=1e-9, atol=1e-12 * a * b
    )
    K = arccos_kernel(a * X)
    assert np.array_equal(K, K.T)
    assert np.linalg.eigvalsh(K)[0] > -1e-12 * np.trace(K)


def test_arccos_kernel_is_exact_for_identical_and_for_zero_rows():
    X = np.vstack([toy(5, 300)[0]] * 2 + [np.zeros((1, 300))])
    K = arccos_kernel(X, X.copy())
    np.testing.assert_allclose(np.diag(K), (np.square(X).sum(axis=1) + 1) / 2, rtol=1e-12)
    np.testing.assert_allclose(K[:5, 5:10], K[:5, :5], rtol=1e-12)
    assert np.array_equal(arccos_kernel(np.zeros((2, 3)), bias=0.0), np.zeros((2, 2)))


def test_kernels_read_in_pieces_are_the_same(monkeypatch):
    X, Z = toy(23, 7)[0], toy(11, 7, seed=1)[0]
    whole = arccos_kernel(X, Z)
    monkeypatch.setattr(chunking, "_BYTES", 8 * 11 * 4)
    assert np.array_equal(arccos_kernel(X, Z), whole)
    np.testing.assert_allclose(linear_kernel(X.astype(np.float32), Z), X.astype(np.float32).astype(float) @ Z.T)


def test_many_random_units_come_near_the_arccos_kernel():
    X = toy(6, 5)[0]
    layer = random_features(X, width=400_000, rng_seed=3)
    features = layer.apply(X)
    assert features.dtype == np.float32
    np.testing.assert_allclose(features @ features.T, arccos_kernel(X), rtol=0.01)


def test_random_features_depend_on_their_seed_alone():
    X = toy(6, 5)[0]
    one, same, other = (random_features(X, width=8, rng_seed=seed).weights for seed in (1, 1, 2))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)
    assert one.shape == (6, 8)


def test_a_curved_boundary_needs_the_arccos_kernel():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((600, 8))
    y = (X[:, 0] * X[:, 1] > 0).astype(int)
    T = 2.0 * np.eye(2)[y] - 1
    accuracy = {}
    for kernel in (linear_kernel, arccos_kernel):
        smoother = Smoother.dual(kernel(X))
        path = penalties(smoother.trace_mean)
        accuracy[kernel] = max((smoother.loo(T, penalty).argmax(axis=1) == y).mean() for penalty in path)
    assert accuracy[linear_kernel] < 0.57
    assert accuracy[arccos_kernel] > 0.82


# --- one smoother, every fit


@pytest.mark.parametrize("shape", [WIDE, TALL])
def test_both_routes_give_one_smoother(shape):
    X, _, T = toy(*shape)
    dual, primal = Smoother.dual(linear_kernel(X)), Smoother.primal(X)
    assert dual.basis.shape == primal.basis.shape == (shape[0], min(shape[0] - 1, shape[1]))
    np.testing.assert_allclose(dual.spectrum, primal.spectrum, rtol=1e-8)
    np.testing.assert_allclose(dual.row_means, primal.row_means, rtol=1e-10)
    np.testing.assert_allclose(dual.fitted(T, 2.0), primal.fitted(T, 2.0), atol=1e-9)
    centred = X - X.mean(axis=0)
    assert primal.trace_mean == pytest.approx(np.square(centred).sum(axis=1).mean())


@pytest.mark.parametrize("shape", [WIDE, TALL])
@pytest.mark.parametrize("penalty", [1e-3, 1.0, 1e3])
def test_fit_and_weights_are_those_of_scikit_learn(shape, penalty):
    X, _, T = toy(*shape)
    model = Ridge(alpha=penalty, solver="svd").fit(X, T)
    smoother = Smoother.linear(X)
    W, b = smoother.weights(X, T, penalty)
    np.testing.assert_allclose(smoother.fitted(T, penalty), model.predict(X), atol=1e-9)
    np.testing.assert_allclose(W, model.coef_, atol=1e-9)
    np.testing.assert_allclose(b, model.intercept_, atol=1e-8)


@pytest.mark.parametrize("shape", [WIDE, TALL])
def test_leave_one_out_is_refitting_without_each_row(shape):
    X, _, T = toy(*shape)
    for kernel in (linear_kernel(X), arccos_kernel(X)):
        expected = refits(kernel, T, 0.7, np.arange(len(X)))
        np.testing.assert_allclose(Smoother.dual(kernel).loo(T, 0.7), expected, atol=1e-9)


@pytest.mark.parametrize("shape", [WIDE, TALL])
def test_leave_one_out_errors_are_those_of_ridge_classifier_cv(shape):
    X, y, T = toy(*shape)
    model = RidgeClassifierCV(alphas=[0.5], store_cv_results=True).fit(X, y)
    errors = np.square(T - Smoother.linear(X).loo(T, 0.5))
    np.testing.assert_allclose(errors, model.cv_results_[:, :, 0], atol=1e-9)


def test_leave_one_out_through_a_linear_system_is_the_same():
    X, _, T = toy(*WIDE)
    n, penalty = len(X), 0.3
    J = np.eye(n) - 1 / n
    inverse = np.linalg.inv(J @ arccos_kernel(X) @ J + penalty * np.eye(n))
    left = penalty * inverse @ (T - T.mean(axis=0)) / (penalty * np.diag(inverse) - 1 / n)[:, None]
    np.testing.assert_allclose(Smoother.dual(arccos_kernel(X)).loo(T, penalty), T - left, atol=1e-9)


@pytest.mark.parametrize("kind", FOLDS)
@pytest.mark.parametrize("shape", [WIDE, TALL])
@pytest.mark.parametrize("kernel", [linear_kernel, arccos_kernel])
def test_held_out_predictions_are_refits_without_each_fold(kind, shape, kernel):
    X, _, T = toy(*shape)
    fold = FOLDS[kind](np.random.default_rng(4), len(X))
    K = kernel(X)
    np.testing.assert_allclose(Smoother.dual(K).held_out(T, 0.4, fold), refits(K, T, 0.4, fold), atol=1e-9)


def test_held_out_predictions_stay_exact_where_the_fit_interpolates():
    X, _, T = toy(*WIDE)
    smoother = Smoother.dual(arccos_kernel(X))
    penalty = float(penalties(smoother.trace_mean)[0])
    fold = np.arange(len(X)) % 4
    assert np.abs(smoother.fitted(T, penalty) - T).max() < 1e-3
    np.testing.assert_allclose(
        smoother.held_out(T, penalty, fold), refits(arccos_kernel(X), T, penalty, fold), atol=1e-9
    )


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(4, 30), st.integers(1, 40), st.floats(1e-2, 1e3))
def test_folds_of_one_row_are_leave_one_out(seed, n, features, penalty):
    X, _, T = toy(n, features, seed=seed)
    smoother = Smoother.linear(X)
    folds = np.random.default_rng(seed).permutation(n)
    np.testing.assert_allclose(smoother.held_out(T, penalty, folds), smoother.loo(T, penalty), atol=1e-8)


def test_repeated_rows_and_columns_are_no_trouble():
    X, _, T = toy(*TALL)
    X, T = np.vstack([X, X[:9]]), np.vstack([T, T[:9]])
    X = np.hstack([X, X, np.ones((len(X), 2))])
    fold = np.arange(len(X)) % 6
    expected = refits(X @ X.T, T, 0.4, fold)
    assert Smoother.primal(X).basis.shape[1] == TALL[1]
    np.testing.assert_allclose(Smoother.primal(X).held_out(T, 0.4, fold), expected, atol=1e-9)
    np.testing.assert_allclose(Smoother.dual(X @ X.T).held_out(T, 0.4, fold), expected, atol=1e-9)


@pytest.mark.parametrize("make", [Smoother.primal, Smoother.linear, lambda X: Smoother.dual(arccos_kernel(X))])
def test_features_that_are_all_alike_predict_the_mean_of_the_other_rows(make):
    _, _, T = toy(10, 3)
    smoother = make(np.full((10, 4), 0.1))
    penalty = float(penalties(smoother.trace_mean)[5])
    np.testing.assert_allclose(smoother.loo(T, penalty), (T.sum(axis=0) - T) / 9, atol=1e-12)


@pytest.mark.parametrize("shape", [WIDE, TALL])
def test_dual_coefficients_predict_new_rows_from_the_plain_kernel(shape):
    X, _, T = toy(*shape)
    new = toy(8, shape[1], seed=5)[0]
    a, b = Smoother.dual(arccos_kernel(X)).coefficients(T, 0.2)
    both = arccos_kernel(np.vstack([X, new]))
    expected = refit(both, np.vstack([T, np.zeros((8, 3))]), 0.2, np.arange(len(X)), np.arange(len(X), len(both)))
    np.testing.assert_allclose(arccos_kernel(new, X) @ a + b, expected, atol=1e-9)


@pytest.mark.parametrize("shape", [WIDE, TALL])
def test_one_linear_layer_predicts_what_the_dual_predicts(shape):
    X, _, T = toy(*shape)
    new = toy(8, shape[1], seed=5)[0]
    smoother = Smoother.linear(X)
    a, b = smoother.coefficients(T, 0.2)
    W, bias = smoother.weights(X, T, 0.2)
    np.testing.assert_allclose(linear_kernel(new, X) @ a + b, new @ W.T + bias, atol=1e-8)


def test_penalties_span_eight_decades_around_the_trace():
    path = penalties(5.0)
    assert path.shape == (17,)
    np.testing.assert_allclose(path[[0, -1]], [5e-6, 500.0])
    np.testing.assert_allclose(np.diff(np.log10(path)), 0.5)
    assert penalties(0.0, count=3)[0] > 0


def test_a_fold_of_all_rows_and_a_penalty_of_zero_are_refused():
    X, _, T = toy(*TALL)
    with pytest.raises(AssertionError, match="leaves none"):
        Smoother.linear(X).held_out(T, 1.0, np.zeros(len(X), dtype=np.int64))
    with pytest.raises(AssertionError, match="0"):
        Smoother.linear(X).fitted(T, 0.0)


# --- paths over penalties and repeats


def test_path_is_the_mean_over_repeats_for_each_penalty():
    X, _, T = toy(*WIDE)
    smoother, rng = Smoother.linear(X), np.random.default_rng(6)
    folds = np.stack([rng.permutation(np.arange(len(X)) % count) for count in (3, 5)])
    path = held_out_path(smoother, T, np.array([0.1, 10.0]), folds)
    assert path.shape == (2, *T.shape)
    expected = 0.5 * (refits(X @ X.T, T, 10.0, folds[0]) + refits(X @ X.T, T, 10.0, folds[1]))
    np.testing.assert_allclose(path[1], expected, atol=1e-9)
    for i, prediction in iter_held_out(smoother, T, np.array([0.1, 10.0]), folds):
        assert np.array_equal(prediction, path[i])


@pytest.mark.parametrize("kind", FOLDS)
@pytest.mark.parametrize("shape", [WIDE, TALL])
def test_path_through_the_scatter_is_the_path_through_the_smoother(kind, shape, monkeypatch):
    monkeypatch.setattr(chunking, "_BYTES", 8 * shape[1] * 6)  # six rows at a time
    X, _, T = toy(*shape)
    folds = np.stack([FOLDS[kind](np.random.default_rng(seed), len(X)) for seed in (7, 8)])
    smoother = Smoother.linear(X)
    path = smoother.trace_mean * np.array([1e-4, 1e-2, 1.0])
    expected = held_out_path(smoother, T, path, folds)
    np.testing.assert_allclose(held_out_path_primal(X, T, path, folds), expected, atol=1e-8)
    for i, prediction in iter_held_out_primal(X.astype(np.float32), T, path, folds):
        assert prediction.dtype == np.float32
        np.testing.assert_allclose(prediction, expected[i], atol=1e-3)


def test_moments_give_the_weights_of_the_smoother():
    X, _, T = toy(*TALL)
    sums = moments(X, T)
    smoother = Smoother.linear(X)
    assert sums.trace_mean == pytest.approx(smoother.trace_mean)
    for mine, theirs in zip(sums.weights(0.3), smoother.weights(X, T, 0.3), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-10)


def test_moments_add_up_and_take_away():
    X, _, T = toy(*TALL)
    shift = X.mean(axis=0)
    head, tail = (moments(X, T, rows=rows, shift=shift) for rows in np.split(np.arange(len(X)), [20]))
    whole: Moments = head.combined(tail)
    assert whole.count == len(X)
    for mine, theirs in zip(whole.weights(0.3), moments(X, T).weights(0.3), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-10)
    for mine, theirs in zip(whole.combined(tail, -1).weights(0.3), moments(X[:20], T[:20]).weights(0.3), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-9)
