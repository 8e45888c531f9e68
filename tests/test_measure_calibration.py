"""Calibration errors: the libraries' numbers, and a perfect model that must look perfect."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torchmetrics.functional.classification import multiclass_calibration_error

from graftage.errors import DataError, OptionError
from graftage.measure.calibration import brier, calibration_error_debiased, ece, log_losses, reliability

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def perfect(n: int, k: int, rng: np.random.Generator) -> tuple[Floats, Ints]:
    """Probabilities, and labels drawn from exactly these."""
    p = rng.dirichlet(np.ones(k), size=n)
    return p, (rng.random((n, 1)) > p.cumsum(axis=1)).sum(axis=1).clip(max=k - 1)


@pytest.mark.parametrize(("n", "k"), [(100, 2), (700, 5)])
def test_plain_error_is_that_of_torchmetrics(n: int, k: int) -> None:
    p, y = perfect(n, k, np.random.default_rng(k))
    p = np.concatenate([p, np.eye(k)])  # certain rows, and rows on a bin's edge
    y = np.concatenate([y, np.zeros(k, dtype=int)])
    theirs = multiclass_calibration_error(torch.from_numpy(p), torch.from_numpy(y), num_classes=k, n_bins=15, norm="l1")
    assert ece(p, y) == pytest.approx(float(theirs), abs=1e-6)  # theirs is float32


def test_debiased_error_is_the_formula_bin_by_bin() -> None:
    p, y = perfect(300, 4, np.random.default_rng(2))
    y[:120] = (y[:120] + 1) % 4  # spoil it, so that the error is not 0
    order = np.argsort(p.max(axis=1))
    total = 0.0
    for rows in np.array_split(order, 15):
        hit = (p[rows].argmax(axis=1) == y[rows]).astype(float)
        total += len(rows) / 300 * ((p[rows].max(axis=1).mean() - hit.mean()) ** 2 - hit.var(ddof=1) / len(rows))
    assert total > 0
    assert calibration_error_debiased(p, y) == pytest.approx(math.sqrt(total))


def test_a_perfect_model_looks_bad_by_the_plain_error_and_perfect_by_the_debiased_one() -> None:
    rng = np.random.default_rng(0)
    plain, debiased = [], []
    for _ in range(300):
        confidence = rng.uniform(0.5, 1, 200)
        p, y = np.stack([confidence, 1 - confidence], axis=1), (rng.random(200) > confidence).astype(int)
        plain.append(ece(p, y))
        debiased.append(calibration_error_debiased(p, y))
    assert 0.055 <= np.mean(plain) <= 0.075
    assert np.median(debiased) < 0.01


def test_an_overconfident_model_is_seen_by_both() -> None:
    rng = np.random.default_rng(1)
    p, y = np.tile([0.95, 0.05], (2000, 1)), (rng.random(2000) < 0.25).astype(int)
    p[:, 0] -= rng.random(2000) * 0.02
    p[:, 1] = 1 - p[:, 0]
    assert ece(p, y) == pytest.approx(0.19, abs=0.03)
    assert calibration_error_debiased(p, y) == pytest.approx(0.19, abs=0.03)


def test_band_holds_a_perfect_model_and_not_an_overconfident_one() -> None:
    p, y = perfect(3000, 3, np.random.default_rng(3))
    fair = reliability(p, y)
    inside = (fair.low <= fair.accuracy) & (fair.accuracy <= fair.high)
    assert inside.mean() >= 0.8
    sharp = p**3 / (p**3).sum(axis=1, keepdims=True)
    bold = reliability(sharp, y)
    assert ((bold.low <= bold.accuracy) & (bold.accuracy <= bold.high)).mean() < 0.5


def test_bins_hold_equal_numbers_of_rows_in_rising_confidence() -> None:
    p, y = perfect(301, 3, np.random.default_rng(4))
    found = reliability(p, y, bins=5)
    assert found.count.sum() == 301
    assert found.count.max() - found.count.min() <= 1
    assert (np.diff(found.confidence) > 0).all()
    hits = found.count @ found.accuracy
    assert hits == pytest.approx((p.argmax(axis=1) == y).sum())


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(1, 60), digits=st.integers(1, 3))
def test_the_order_of_rows_does_not_matter_even_with_ties(seed: int, n: int, digits: int) -> None:
    rng = np.random.default_rng(seed)
    first = np.round(rng.random(n), digits)
    p, y = np.stack([first, 1 - first], axis=1), rng.integers(0, 2, n)
    mixed = rng.permutation(n)
    one, other = reliability(p, y), reliability(p[mixed], y[mixed])
    assert (one.count == other.count).all()
    assert one.accuracy == pytest.approx(other.accuracy)
    assert calibration_error_debiased(p, y) == pytest.approx(calibration_error_debiased(p[mixed], y[mixed]))
    assert ((one.low >= 0) & (one.high <= 1)).all()


def test_certain_and_right_is_no_error() -> None:
    p, y = np.eye(3)[[0, 1, 2, 1]], np.array([0, 1, 2, 1])
    assert ece(p, y) == calibration_error_debiased(p, y) == 0
    assert reliability(p, y).count.tolist() == [4]


def test_a_bin_of_one_row_adds_nothing_to_the_debiased_error() -> None:
    assert calibration_error_debiased(np.array([[0.6, 0.4]]), np.array([1])) == 0


def test_losses_are_to_be_had_here_too() -> None:
    p, y = np.array([[0.25, 0.75]]), np.array([1])
    assert log_losses(p, y) == pytest.approx([-math.log(0.75)])
    assert brier(p, y) == pytest.approx([0.125])


@pytest.mark.parametrize("measure", [ece, calibration_error_debiased, reliability])
def test_bad_values_are_refused(measure: Callable[..., object]) -> None:
    with pytest.raises(OptionError, match="bins is 0"):
        measure(np.eye(2), np.array([0, 1]), bins=0)
    with pytest.raises(DataError, match="row 0 is no probabilities"):
        measure(np.array([[2.0, 3.0]]), np.array([0]))
