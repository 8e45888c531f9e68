import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize

from graftage.measure.powerlaw import FAMILIES, GAMMA_MEAN, GAMMA_RANGE, GAMMA_SD, Family, fit, weights

SIZES = np.array([100, 150, 200, 300, 400, 550, 700, 850])


def law(alpha: float, eta: float, gamma: float, sizes: np.ndarray = SIZES) -> np.ndarray:
    return alpha + eta * sizes.astype(float) ** gamma


@pytest.mark.parametrize(
    ("alpha", "eta", "gamma"), [(0.05, 1.5, -0.5), (0.02, 0.9, -0.31), (0.1, 5.0, -0.87), (0.0, 2.0, -0.45)]
)
def test_points_on_a_law_give_the_law_back(alpha: float, eta: float, gamma: float) -> None:
    found = fit(SIZES, law(alpha, eta, gamma)[None], np.full(8, 1e-5), family="pow3")
    assert found.alpha[0] == pytest.approx(alpha, abs=1e-3)
    assert found.eta[0] == pytest.approx(eta, rel=1e-3)
    assert found.gamma[0] == pytest.approx(gamma, abs=1e-3)
    np.testing.assert_allclose(found.at(np.array([2000.0]))[0], law(alpha, eta, gamma, np.array([2000])), atol=1e-4)


def test_the_two_smaller_families_give_their_laws_back() -> None:
    two = fit(SIZES, law(0.0, 1.2, -0.4)[None], np.full(8, 1e-5), family="pow2")
    assert (two.alpha[0], two.gamma[0]) == (0.0, pytest.approx(-0.4, abs=1e-3))
    half = fit(SIZES, law(0.07, 1.1, -0.5)[None], np.full(8, 0.01), family="half")
    assert (half.alpha[0], half.eta[0], half.gamma[0]) == (pytest.approx(0.07), pytest.approx(1.1), -0.5)


@pytest.mark.parametrize("family", ["pow2", "pow3"])
def test_noisy_points_get_the_law_that_a_general_optimiser_finds(family: Family) -> None:
    """Least squares with the prior, by scipy's L-BFGS-B from several starts."""
    rng = np.random.default_rng(0)
    sd = np.full(8, 0.01)
    for _ in range(5):
        errors = law(rng.uniform(0, 0.1), rng.uniform(0.5, 2), rng.uniform(-0.7, -0.3)) + rng.normal(0, 0.01, 8)

        def loss(v: np.ndarray, errors: np.ndarray = errors) -> float:
            model = v[0] + v[1] * (SIZES / SIZES[-1]) ** v[2]
            return float((((errors - model) / sd) ** 2).sum() + ((v[2] - GAMMA_MEAN) / GAMMA_SD) ** 2)

        most = 0.0 if family == "pow2" else errors.min()
        bounds = [(0.0, most), (0.0, None), GAMMA_RANGE]
        best = min(minimize(loss, (0.0, 0.1, g), bounds=bounds, method="L-BFGS-B").fun for g in (-0.2, -0.5, -0.9))
        found = fit(SIZES, errors[None], sd, family=family)
        ours = np.array([found.alpha[0], found.eta[0] * SIZES[-1] ** found.gamma[0], found.gamma[0]])
        assert loss(ours) <= best + 1e-4


@given(
    st.lists(st.floats(0, 1), min_size=8, max_size=8),
    st.sampled_from(FAMILIES),
    st.floats(-1.2, 0.2),
)
def test_whatever_the_points_the_law_keeps_its_bounds_and_never_rises(
    points: list[float], family: Family, prior: float
) -> None:
    errors = np.array([points])
    found = fit(SIZES, errors, np.full(8, 0.02), family=family, prior=np.array([prior]))
    assert 0 <= found.alpha[0] <= errors.min() + 1e-12
    assert found.eta[0] >= 0
    assert GAMMA_RANGE[0] <= found.gamma[0] <= GAMMA_RANGE[1]
    ahead = found.at(np.geomspace(10, 1e6, 30))[0]
    assert (np.diff(ahead) <= 1e-12).all()
    assert ((ahead >= 0) & (ahead <= 1)).all()


def test_pictures_needed_are_the_inverse_of_the_law() -> None:
    found = fit(SIZES, law(0.05, 1.5, -0.5)[None], np.full(8, 1e-5), family="half")
    assert found.needed(0.08)[0] == pytest.approx((1.5 / 0.03) ** 2)
    assert found.needed(0.05)[0] == np.inf
    assert found.needed(0.04)[0] == np.inf


def test_the_prior_decides_where_the_points_do_not() -> None:
    flat = np.full((2, 8), 0.3) + np.linspace(0.001, 0, 8)
    found = fit(SIZES, flat, np.full(8, 0.2), family="pow2", prior=np.array([-0.2, -0.8]))
    assert found.gamma[0] > found.gamma[1]


def test_the_family_that_foretells_the_last_sizes_is_believed() -> None:
    rng = np.random.default_rng(1)
    errors = law(0.15, 8.0, -0.8)
    sd = np.full(8, 0.003)
    drawn = errors + rng.normal(0, 0.003, (200, 8))
    found = weights(SIZES, errors, drawn, sd, rng.normal(GAMMA_MEAN, GAMMA_SD, 200))
    assert sum(found.values()) == pytest.approx(1)
    assert found["pow2"] < 0.05
    assert found["pow3"] > found["pow2"]
