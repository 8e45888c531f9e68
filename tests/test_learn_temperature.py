import numpy as np
import pytest
import scipy.optimize
import scipy.special
from hypothesis import given, settings
from hypothesis import strategies as st

from graftage.learn import temperature
from graftage.learn.temperature import fit_temperature, fit_temperatures, log_softmax, softmax


def drawn(n, classes, *, seed=0, spread=2.0):
    """Logits, and labels drawn from the probabilities that the logits state: the right temperature is 1."""
    rng = np.random.default_rng(seed)
    logits = spread * rng.standard_normal((n, classes))
    return logits, (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)


def log_loss(logits, y, T):
    return -scipy.special.log_softmax(logits / T, axis=1)[np.arange(len(y)), y].mean()


def test_softmax_and_log_softmax_agree_with_scipy_and_survive_huge_logits():
    logits = np.random.default_rng(1).standard_normal((4, 5, 6))
    np.testing.assert_allclose(softmax(logits), scipy.special.softmax(logits, axis=-1), rtol=1e-12)
    np.testing.assert_allclose(log_softmax(logits), scipy.special.log_softmax(logits, axis=-1), rtol=1e-12)
    assert log_softmax(np.float32([[1e4, 0.0]])).tolist() == [[0.0, -1e4]]
    assert softmax(np.float32([[1e4, 0.0]])).dtype == np.float64


@pytest.mark.parametrize("scale", [0.1, 3.0, 20.0])
def test_logits_scaled_up_give_the_scale_back(scale):
    logits, y = drawn(20_000, 4)
    assert fit_temperature(scale * logits, y) == pytest.approx(scale, rel=0.02)


def test_temperature_is_where_an_independent_minimiser_finds_it():
    logits, y = drawn(5_000, 7, spread=1.0)
    found = scipy.optimize.minimize_scalar(
        lambda u: log_loss(5 * logits, y, np.exp(u)), bounds=(-3, 4), method="bounded"
    )
    assert fit_temperature(5 * logits, y) == pytest.approx(np.exp(found.x), rel=2e-3)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 40), st.integers(2, 12), st.floats(1e-4, 1e4), st.booleans())
def test_log_loss_never_rises_and_the_order_of_classes_stays(seed, n, classes, scale, informative):
    logits, y = drawn(n, classes, seed=seed)
    logits = scale * (logits if informative else logits[:, ::-1])
    T = fit_temperature(logits, y)
    assert 1e-3 <= T <= 1e3
    assert log_loss(logits, y, T) <= log_loss(logits, y, 1.0) * (1 + 1e-12)
    assert np.array_equal(softmax(logits / T).argmax(axis=1), logits.argmax(axis=1))


def test_temperature_grows_in_proportion_to_the_logits():
    logits, y = drawn(50, 3, spread=4.0)
    T = fit_temperature(10 * logits, y)
    assert fit_temperature(100 * logits, y) == pytest.approx(10 * T, rel=1e-5)


@pytest.mark.parametrize("n", [6, 60, 600])
def test_perfect_separation_gets_the_confidence_that_one_row_of_doubt_allows(n):
    y = np.arange(n) % 3
    T = fit_temperature(2.0 * np.eye(3)[y] - 1, y)
    p = softmax((2.0 * np.eye(3)[y] - 1) / T)[0, y[0]]
    assert p == pytest.approx(1 - (2 / 3) / (n + 1), rel=1e-5)  # the extra row, spread over 3 classes


def test_few_rows_that_are_all_right_leave_no_blind_faith_where_caution_is_asked_for():
    y = np.arange(100) % 10
    logits = 40.0 * np.eye(10)[y]  # so sure that T = 1 costs nothing on these rows
    assert fit_temperature(logits, y) == 1
    cautious = fit_temperature(logits, y, cautious=True)
    wrong = -log_softmax(logits / cautious)[0, 1]  # what the next mistake would cost
    assert 5 < cautious < 10
    assert wrong == pytest.approx(np.log(9 * 101 / 0.9), rel=0.02)  # as if one row in 101 were drawn at random


def test_logits_without_any_difference_keep_temperature_one():
    assert fit_temperature(np.full((5, 3), 0.1), np.array([0, 1, 2, 0, 0])) == 1.0


def test_logits_that_are_always_wrong_are_flattened_to_the_bound():
    y = np.arange(30) % 3
    assert fit_temperature(np.eye(3)[(y + 1) % 3], y) == pytest.approx(1e3, rel=1e-3)


def test_a_weight_counts_like_repeated_rows():
    logits, y = drawn(3_000, 3)
    weights = np.random.default_rng(2).integers(0, 4, size=3_000)
    again = np.repeat(np.arange(3_000), weights)
    heavy = fit_temperature(4 * logits, y, weights=weights.astype(float))
    assert heavy == pytest.approx(fit_temperature(4 * logits[again], y[again]), rel=1e-3)
    assert heavy != pytest.approx(fit_temperature(4 * logits, y), rel=1e-3)


def test_many_sets_of_logits_are_fitted_as_each_alone():
    logits, y = drawn(500, 3)
    sets = np.stack([logits, 7 * logits, 0.2 * logits]).astype(np.float32)
    assert fit_temperatures(sets, y) == pytest.approx([fit_temperature(one, y) for one in sets], rel=1e-12)


def test_reading_in_pieces_changes_nothing(monkeypatch):
    logits, y = drawn(103, 5)
    whole = fit_temperature(3 * logits, y)
    monkeypatch.setattr(temperature, "_CHUNK", 35)
    assert fit_temperature(3 * logits, y) == pytest.approx(whole, rel=1e-9)


def test_labels_and_weights_that_cannot_be_are_refused():
    with pytest.raises(AssertionError, match="outside"):
        fit_temperature(np.zeros((2, 2)), np.array([0, 2]))
    with pytest.raises(AssertionError, match="negative"):
        fit_temperature(np.zeros((2, 2)), np.array([0, 1]), weights=np.array([1.0, -1.0]))
