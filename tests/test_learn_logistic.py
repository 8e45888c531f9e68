import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from graftage.learn import chunking, logistic
from graftage.learn.logistic import alo, alo_fits, fit_path, held_out_logits, held_out_logits_path
from graftage.learn.temperature import log_softmax, softmax

WIDE, TALL = (50, 120), (120, 10)  # (n, D)
TIGHT = (1e-15, 3000)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Matrices this small are multiplied no faster by several threads, and far slower where the cores are busy."""
    with threadpool_limits(1):
        yield


def toy(n, features, *, classes=3, seed=0):
    """Features that tell the class a little, with a mean far from 0, and labels."""
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n) % classes)
    return rng.standard_normal((n, features)) + 0.6 * rng.standard_normal((classes, features))[y] + 2.0, y


def sk_logits(X, y, C, new):
    model = LogisticRegression(C=C, tol=1e-10, max_iter=20_000).fit(X, y)
    return model.decision_function(new)


def centred(logits):
    return logits - logits.mean(axis=-1, keepdims=True)


def log_loss(logits, y):
    return -log_softmax(logits)[np.arange(len(y)), y].mean()


def masks_of(fold):
    return np.stack([fold != number for number in np.unique(fold)])


@pytest.mark.parametrize("shape", [WIDE, TALL])
def test_coefficients_are_those_of_scikit_learn(shape):
    X, y = toy(*shape, classes=4)
    strengths = np.array([1.0, 1e-3, 0.05])  # in no order
    weights, biases = fit_path(X, y, strengths, n_classes=4, stop=TIGHT)
    assert weights.shape == (3, 1, 4, shape[1])
    assert biases.shape == (3, 1, 4)
    for i, C in enumerate(strengths):
        model = LogisticRegression(C=C, tol=1e-10, max_iter=20_000).fit(X, y)
        np.testing.assert_allclose(weights[i, 0], model.coef_, atol=1e-4)
        np.testing.assert_allclose(centred(biases[i, 0]), centred(model.intercept_), atol=1e-3)


def test_two_classes_share_the_penalty_of_scikit_learns_single_vector():
    X, y = toy(*TALL, classes=2)
    weights, biases = fit_path(X, y, np.array([0.1]), n_classes=2, stop=TIGHT)
    logits = X @ weights[0, 0].T + biases[0, 0]
    np.testing.assert_allclose(logits[:, 1] - logits[:, 0], sk_logits(X, y, 0.2, X), atol=1e-4)


def test_all_folds_at_once_are_each_fold_alone():
    X, y = toy(*TALL)
    masks = masks_of(np.random.default_rng(1).choice([0, 1, 2], size=len(y), p=[0.1, 0.3, 0.6]))
    together, _ = fit_path(X, y, np.array([0.01, 1.0]), n_classes=3, folds=masks, stop=TIGHT)
    for f, mask in enumerate(masks):
        alone, _ = fit_path(X[mask], y[mask], np.array([0.01, 1.0]), n_classes=3, stop=TIGHT)
        np.testing.assert_allclose(together[:, f], alone[:, 0], atol=1e-5)


@pytest.mark.parametrize("shape", [WIDE, TALL])
def test_held_out_logits_are_those_of_refits_by_scikit_learn(shape):
    X, y = toy(*shape)
    rng = np.random.default_rng(2)
    folds = np.stack([rng.permutation(np.arange(len(y)) % count) for count in (3, 5)])
    expected = np.zeros((len(y), 3))
    for fold in folds:
        for number in np.unique(fold):
            test = fold == number
            expected[test] += centred(sk_logits(X[~test], y[~test], 0.1, X[test])) / len(folds)
    found = held_out_logits_path(X, y, folds, np.array([0.1]), n_classes=3, stop=TIGHT)[0]
    np.testing.assert_allclose(centred(found), expected, atol=1e-3)


@pytest.mark.parametrize("shape", [(100, 150), (200, 40)])
def test_quick_float32_fit_is_within_a_thousandth_of_the_exact_held_out_log_loss(shape):
    X, y = toy(*shape, classes=5)
    folds = (np.arange(len(y)) % 5)[None]
    strengths = np.logspace(-3, 0, 3)
    quick = held_out_logits_path(X.astype(np.float32), y, folds, strengths, n_classes=5)
    assert quick.dtype == np.float32
    for logits, C in zip(quick, strengths, strict=True):
        exact = np.zeros_like(logits, dtype=np.float64)
        for number in range(5):
            test = folds[0] == number
            model = LogisticRegression(C=C, tol=1e-8, max_iter=5_000).fit(X[~test], y[~test])
            exact[test] = model.decision_function(X[test])
        assert log_loss(logits, y) == pytest.approx(log_loss(exact, y), abs=1e-3)


def test_one_strength_is_one_point_of_the_path():
    X, y = toy(*WIDE)
    folds = (np.arange(len(y)) % 4)[None]
    one = held_out_logits(X, y, folds, 0.3, n_classes=3)
    assert np.array_equal(one, held_out_logits_path(X, y, folds, np.array([0.3]), n_classes=3)[0])


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([WIDE, TALL]), st.floats(1e-3, 10.0))
def test_turning_or_permuting_the_features_changes_no_logit(seed, shape, C):
    X, y = toy(*shape, seed=seed)
    rng = np.random.default_rng(seed)
    turn = np.linalg.qr(rng.standard_normal((shape[1], shape[1])))[0]
    folds = (np.arange(len(y)) % 3)[None]
    plain, turned, permuted = (
        held_out_logits_path(Z, y, folds, np.array([C]), n_classes=3, stop=(1e-15, 500))[0]
        for Z in (X, X @ turn, X[:, rng.permutation(shape[1])])
    )
    np.testing.assert_allclose(turned, plain, atol=1e-6)
    np.testing.assert_allclose(permuted, plain, atol=1e-6)


@pytest.mark.parametrize("C", [1e-3, 1.0, 1e3])
def test_features_of_very_different_size_need_no_more_than_sixty_iterations(C):
    X, y = toy(150, 40)
    X = X * np.logspace(-3, 1, 40)
    goal, quick = (fit_path(X, y, np.array([C]), n_classes=3, stop=(1e-15, iterations)) for iterations in (3000, 60))

    def objective(weights, biases):
        loss = log_loss(X @ weights[0, 0].T + biases[0, 0], y) * len(y)
        return C * loss + 0.5 * np.square(weights).sum()

    assert objective(*quick) <= objective(*goal) * (1 + 1e-3)


def test_no_iteration_makes_the_objective_worse():
    rng = np.random.default_rng(4)
    y = rng.permutation(np.arange(60) % 3)
    X = rng.standard_normal((60, 30)) * np.exp(rng.standard_normal((60, 1)))  # a full step may go too far on such rows
    losses = []
    for iterations in range(30):
        weights, biases = fit_path(X, y, np.array([1e4]), n_classes=3, stop=(1e-15, iterations))
        loss = log_loss(X @ weights[0, 0].T + biases[0, 0], y) * len(y)
        losses.append(1e4 * loss + 0.5 * np.square(weights).sum())
    assert np.all(np.diff(losses) <= 1e-9 * np.abs(losses[1:]))
    assert losses[-1] < 0.1 * losses[0]


@pytest.mark.parametrize("shape", [WIDE, TALL])
@pytest.mark.parametrize("far", [30.0, 1e4])
def test_a_held_out_outlier_does_not_disturb_the_fit_to_the_other_rows(shape, far):
    X, y = toy(*shape)
    X[0] *= far
    folds = np.zeros((1, len(y)), dtype=np.int64)
    folds[0, :10] = 1
    logits = held_out_logits(X.astype(np.float32), y, folds, 1.0, n_classes=3)[:10]
    np.testing.assert_allclose(softmax(logits), softmax(sk_logits(X[10:], y[10:], 1.0, X[:10])), atol=0.01)


def test_columns_that_never_change_get_no_weight():
    X, y = toy(*TALL)
    padded = np.hstack([X, np.full((len(X), 2), 0.1)])
    weights, biases = fit_path(padded, y, np.array([0.1]), n_classes=3, stop=TIGHT)
    plain, _ = fit_path(X, y, np.array([0.1]), n_classes=3, stop=TIGHT)
    np.testing.assert_allclose(weights[0, 0, :, -2:], 0.0, atol=1e-12)
    np.testing.assert_allclose(weights[0, 0, :, :-2], plain[0, 0], atol=1e-6)
    assert np.isfinite(biases).all()


def test_a_class_missing_from_a_training_set_is_unlikely_there_but_not_impossible():
    X, y = toy(*TALL)
    folds = (y == 2).astype(np.int64)[None]  # one fold holds the whole of class 2
    logits = held_out_logits(X, y, folds, 0.1, n_classes=3)
    p = softmax(logits[y == 2])[:, 2]
    assert np.isfinite(logits).all()
    assert 1e-6 < p.min() < p.max() < 0.05


def test_reading_in_pieces_changes_nothing(monkeypatch):
    X, y = toy(*TALL)
    folds = (np.arange(len(y)) % 3)[None]
    whole = held_out_logits(X, y, folds, 0.3, n_classes=3)
    monkeypatch.setattr(logistic, "_CHUNK", 9 * 7)
    monkeypatch.setattr(chunking, "_BYTES", 8 * 10 * 7)
    np.testing.assert_allclose(held_out_logits(X, y, folds, 0.3, n_classes=3), whole, atol=1e-8)


@pytest.mark.parametrize(("shape", "classes"), [((60, 200), 3), ((60, 200), 2), ((120, 30), 2), ((120, 30), 5)])
def test_approximate_leave_one_out_is_near_to_refitting_without_each_row(shape, classes):
    X, y = toy(*shape, classes=classes)
    n, C = shape[0], 0.02
    weights, biases = fit_path(X, y, np.array([C]), n_classes=classes, stop=(1e-12, 500))
    exact = held_out_logits_path(X, y, np.arange(n)[None], np.array([C]), n_classes=classes, stop=(1e-12, 500))[0]
    near = alo(X, y, weights[0, 0], biases[0, 0], C)
    assert np.abs(softmax(near) - softmax(exact)).max() < 0.02
    assert log_loss(near, y) == pytest.approx(log_loss(exact, y), rel=0.02)
    assert log_loss(X @ weights[0, 0].T + biases[0, 0], y) < 0.9 * log_loss(exact, y)  # else the test proves nothing


def test_approximate_leave_one_out_knows_what_is_too_large():
    assert alo_fits(1000, 10_000, 3)
    assert not alo_fits(1001, 10_000, 3)
    assert not alo_fits(10_000, 1280, 3)
    X, y = toy(1002, 1001)
    with pytest.raises(AssertionError, match="held_out_logits"):
        alo(X, y, np.zeros((3, 1001)), np.zeros(3), 1.0)
