import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graftage.learn import defaults
from graftage.learn.defaults import Plan, logistic_path, neighbours, plan, ridge_path


@pytest.mark.parametrize(
    ("n", "wanted"),
    [
        (20, Plan(test_fraction=0.0, folds=5, repeats=10)),
        (100, Plan(test_fraction=0.0, folds=5, repeats=10)),
        (101, Plan(test_fraction=0.0, folds=5, repeats=4)),
        (1999, Plan(test_fraction=0.0, folds=5, repeats=4)),
        (2000, Plan(test_fraction=0.2, folds=5, repeats=1)),
        (19_999, Plan(test_fraction=0.2, folds=5, repeats=1)),
        (20_000, Plan(test_fraction=0.1, folds=3, repeats=1)),
        (100_000, Plan(test_fraction=0.1, folds=3, repeats=1)),
    ],
)
def test_how_many_pictures_are_measured_how(n, wanted):
    assert plan(n) == wanted


@given(st.integers(2, 10**6))
def test_either_a_test_set_is_locked_away_or_the_folds_are_drawn_again(n):
    drawn = plan(n)
    assert (drawn.test_fraction > 0) == (n >= defaults.LOCKED_FROM) == (drawn.repeats == 1)
    assert drawn.folds >= 3


@given(st.integers(defaults.LOCKED_FROM, 10**6))
def test_a_locked_test_set_is_large_enough_to_tell(n):
    assert n * plan(n).test_fraction >= 400


@given(st.integers(2, 10**6))
def test_more_pictures_never_ask_for_more_models(n):
    assert plan(n + 1).folds * plan(n + 1).repeats <= plan(n).folds * plan(n).repeats


def test_ridge_penalties_rise_around_the_scale_two_to_a_decade():
    path = ridge_path(1.0)
    assert (np.diff(path) > 0).all()
    np.testing.assert_allclose(path[1:] / path[:-1], np.sqrt(10), rtol=1e-12)
    assert (path[0], path[-1]) == (pytest.approx(10**-2.5), pytest.approx(10.0))


@given(st.floats(1e-12, 1e12))
def test_ridge_penalties_are_in_units_of_the_scale(scale):
    np.testing.assert_allclose(ridge_path(scale), scale * ridge_path(1.0), rtol=1e-12)


def test_pictures_that_are_all_alike_get_penalties_above_zero():
    assert np.array_equal(ridge_path(0.0), ridge_path(1.0))


def test_logistic_strengths_rise_over_three_decades_and_a_half():
    path = logistic_path()
    assert path.shape == (8,)
    assert (np.diff(path) > 0).all()
    assert (path[0], path[-1]) == (pytest.approx(10**-0.5), pytest.approx(1000.0))


def test_landmarks_are_fewer_than_the_pictures_they_stand_for():
    assert defaults.LANDMARKS < defaults.EXACT_KERNEL


@pytest.mark.parametrize(("n", "n_classes", "k"), [(18, 2, 5), (19, 2, 5), (20, 2, 20), (990, 100, 5), (10**5, 7, 20)])
def test_few_pictures_per_class_mean_few_neighbours(n, n_classes, k):
    assert neighbours(n, n_classes) == k
