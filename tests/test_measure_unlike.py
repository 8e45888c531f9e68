"""Strange pictures: the formulas, no picture its own neighbour, AUROC as theory has it, p-values that hold."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats
from sklearn.covariance import ledoit_wolf
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors
from threadpoolctl import threadpool_limits

from graftage.measure import unlike
from graftage.measure.unlike import (
    Geometry,
    Scale,
    Unlike,
    fit_geometry,
    gen,
    held_out_scores,
    least_reference,
    left_out,
    neighbours,
    rank_of,
    shrunk,
)

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def clouds(n: int, d: int, k: int, rng: np.random.Generator, *, apart: float = 2.0) -> tuple[Floats, Ints]:
    """Gaussian classes with a covariance that is no multiple of the identity, far from the origin."""
    y = np.arange(n) % k
    centres = np.random.default_rng([d, k]).normal(size=(k, d)) * apart + 3
    return centres[y] + rng.normal(size=(n, d)) * np.linspace(0.5, 1.5, d), y


def lengths_one(X: Floats) -> Floats:
    return X / np.linalg.norm(X, axis=1, keepdims=True)


def textbook(X: Floats, y: Ints, Q: Floats, within: Floats, total: Floats) -> tuple[Floats, Floats]:
    """Relative Mahalanobis (Ren et al. 2021) and Mahalanobis distance, as OpenOOD writes them, by inverse matrices."""
    means = np.stack([X[y == c].mean(axis=0) for c in np.unique(y)])

    def distance(q: Floats, centre: Floats, inverse: Floats) -> float:
        return float((q - centre) @ inverse @ (q - centre))

    W, T = np.linalg.inv(within), np.linalg.inv(total)
    every = [distance(q, X.mean(axis=0), T) for q in Q]
    own = [min(distance(q, m, W) for m in means) for q in Q]
    return np.array(own) - np.array(every), np.array(own)


@pytest.mark.parametrize(("n", "d", "k"), [(400, 6, 3), (80, 40, 4)])
def test_distances_are_the_formulas(n: int, d: int, k: int) -> None:
    rng = np.random.default_rng(d)
    X, y = clouds(n, d, k, rng)
    Q = rng.normal(size=(30, d)) + 3
    U = lengths_one(X)
    means = np.stack([U[y == c].mean(axis=0) for c in range(k)])
    within, _ = ledoit_wolf(U - means[y], assume_centered=True)
    between = (means[y] - U.mean(axis=0)).T @ (means[y] - U.mean(axis=0)) / n
    relative, plain = textbook(U, y, lengths_one(Q), within, within + between)
    found = fit_geometry(X, y, rng=rng).scores(Q)
    assert found[:, 0] == pytest.approx(relative, rel=2e-3, abs=2e-3 * np.abs(relative).max())
    assert found[:, 1] == pytest.approx(plain, rel=2e-3)


def test_without_shrinkage_the_covariance_of_all_is_that_of_all() -> None:
    """Then the relative distance is the published one, with the empirical covariances."""
    rng = np.random.default_rng(0)
    X, y = clouds(200_000, 3, 3, rng)
    U = lengths_one(X)
    means = np.stack([U[y == c].mean(axis=0) for c in range(3)])
    Q = rng.normal(size=(20, 3)) + 3
    relative, _ = textbook(U, y, lengths_one(Q), np.cov((U - means[y]).T), np.cov(U.T))
    assert fit_geometry(X, y, rng=rng).scores(Q)[:, 0] == pytest.approx(relative, rel=0.02, abs=0.05)


def test_shrinkage_is_ledoit_and_wolfs() -> None:
    X = np.random.default_rng(1).normal(size=(50, 8)) * np.arange(1, 9)
    X -= X.mean(axis=0)
    theirs, _ = ledoit_wolf(X, assume_centered=True)
    assert shrunk(X, np.zeros(50), 8)[0] == pytest.approx(theirs)


def test_a_subspace_stands_for_the_covariance_that_is_alike_in_all_directions_outside() -> None:
    rng = np.random.default_rng(2)
    X, y = clouds(300, 60, 3, rng)
    geometry = fit_geometry(X, y, rng=rng, dimensions=10)
    U, B = lengths_one(X), geometry.basis.astype(np.float64)
    assert B.shape == (10, 60)
    np.testing.assert_allclose(B @ B.T, np.eye(10), atol=1e-5)
    left_over = 1 - np.square(U @ B.T).sum(axis=1)
    inside = U @ B.T
    means = np.stack([inside[y == c].mean(axis=0) for c in range(3)])
    covariance, outside = shrunk(inside - means[y], left_over, 60)
    whole = B.T @ covariance @ B + outside * (np.eye(60) - B.T @ B)
    Q = lengths_one(rng.normal(size=(20, 60)) + 3)
    W = np.linalg.inv(whole)
    plain = [min(float((q - B.T @ m) @ W @ (q - B.T @ m)) for m in means) for q in Q]
    assert geometry.scores(Q)[:, 1] == pytest.approx(plain, rel=1e-3)
    best = np.linalg.svd(U)[2][:10]
    assert np.square(U @ B.T).sum() == pytest.approx(np.square(U @ best.T).sum(), rel=1e-3)


def test_the_neighbour_that_counts_is_scikit_learns() -> None:
    rng = np.random.default_rng(3)
    X, y = clouds(120, 12, 3, rng)
    Q = rng.normal(size=(25, 12)) + 3
    distance, _ = NearestNeighbors(n_neighbors=5, metric="cosine").fit(X).kneighbors(Q)
    assert fit_geometry(X, y, rng=rng).scores(Q)[:, 2] == pytest.approx(distance[:, -1], abs=1e-5)
    assert [neighbours(n) for n in (3, 499, 500, 4999, 5000)] == [3, 5, 10, 10, 50]


def test_no_picture_is_its_own_neighbour_nor_that_of_its_twin() -> None:
    rng = np.random.default_rng(4)
    X, y = clouds(60, 12, 3, rng)
    twice, labels, fold = np.concatenate([X, X]), np.concatenate([y, y]), np.tile(np.arange(60) % 5, 2)
    p = np.full((120, 3), 1 / 3)
    rows, scores = held_out_scores(twice, labels, fold, p, rng=rng)
    assert rows.tolist() == list(range(120))
    inner = lengths_one(twice) @ lengths_one(twice).T
    inner[fold[:, None] == fold] = -2  # what shares the fold is not looked at
    fifth = 1 - np.sort(inner, axis=1)[:, -5]
    assert scores[:, 2] == pytest.approx(fifth, abs=1e-5)
    assert scores[:, 2].min() > 1e-4


@pytest.mark.parametrize(("n", "k"), [(8, 4), (240, 20), (1200, 10), (40_000, 5)])
def test_small_sets_are_judged_with_little_left_out_and_groups_stay_whole(n: int, k: int) -> None:
    groups = np.arange(n) // 2
    fold = left_out(groups, np.random.default_rng(0))
    assert np.unique(fold).size == k
    assert (fold[::2] == fold[1::2]).all()
    assert np.ptp(np.bincount(fold)) <= 2


def test_generalised_entropy_is_its_formula() -> None:
    p = np.array([[1.0, 0, 0], [0.5, 0.5, 0], [0.2, 0.3, 0.5]])
    wanted = [0, 2 * 0.25**0.1, 0.16**0.1 + 0.21**0.1 + 0.25**0.1]
    assert gen(p) == pytest.approx(wanted)
    many = np.full((1, 400), 1 / 400)
    assert gen(many) == pytest.approx([100 * (1 / 400 * 399 / 400) ** 0.1])


def test_a_shift_is_found_as_often_as_theory_says() -> None:
    """On a circle far from nothing else: the angle is Gaussian, the shift s, so AUROC of |angle| is known."""
    rng, spread, s = np.random.default_rng(6), 0.02, 2.0

    def at(angle: Floats) -> Floats:
        return np.stack([np.cos(angle), np.sin(angle)], axis=1) * rng.uniform(1, 5, (len(angle), 1))

    X = at(spread * rng.normal(size=20_000))
    geometry = fit_geometry(X, np.zeros(20_000, np.int64), rng=rng)
    same, other = at(spread * rng.normal(size=20_000)), at(spread * (rng.normal(size=20_000) + s))
    scores = np.concatenate([geometry.quick_scores(same), geometry.quick_scores(other)])[:, 1]
    # P(|Z'+s| > |Z|) by integrating over z
    z = np.linspace(0, 12, 200_001)
    tail = stats.norm.sf(z - s) + stats.norm.cdf(-z - s)
    analytic = np.trapezoid(2 * stats.norm.pdf(z) * tail, z)
    found = roc_auc_score(np.repeat([0, 1], 20_000), scores)
    assert found == pytest.approx(analytic, abs=0.01)


@pytest.mark.parametrize("n", [150, 600])
def test_false_alarms_on_pictures_of_the_same_kind_are_as_rare_as_stated(n: int) -> None:
    rng, rates, fresh = np.random.default_rng(n), [], 400
    for _ in range(25):
        X, y = clouds(n + fresh, 30, 3, rng)
        p = rng.dirichlet(np.ones(3), n + fresh)
        detector = detect(X[:n], y[:n], left_out(np.arange(n), rng), p[:n], rng)
        rates.append((detector.p_values(X[n:], p[n:]) <= 0.05).mean())
    assert 0.03 <= np.mean(rates) <= 0.06


def detect(X: Floats, y: Ints, fold: Ints, p: Floats, rng: np.random.Generator) -> Unlike:
    _, scores = held_out_scores(X, y, fold, p, rng=rng)
    return Unlike(fit_geometry(X, y, rng=rng), Scale.of(scores))


def test_what_is_elsewhere_is_flagged() -> None:
    rng = np.random.default_rng(8)
    X, y = clouds(500, 30, 3, rng)
    p = rng.dirichlet(np.ones(3), 500)
    detector = detect(X, y, np.arange(500) % 5, p, rng)
    strange = detector.p_values(rng.normal(size=(50, 30)), p[:50])
    assert (strange <= detector.false_alarm).mean() > 0.95
    assert strange.min() > 0


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 70), cut=st.integers(0, 70), threads=st.integers(1, 3), seed=st.integers(0, 2**31))
def test_parts_and_threads_make_no_difference_to_the_bits(n: int, cut: int, threads: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    X, y = clouds(150, int(rng.integers(20, 160)), int(rng.integers(1, 40)), rng)
    geometry = fit_geometry(X, y, rng=rng)
    Q = (rng.normal(size=(n, X.shape[1])) + 3).astype(np.float32)
    together = geometry.scores(Q)
    with threadpool_limits(threads, user_api="blas"):
        assert (np.concatenate([geometry.scores(Q[:cut]), geometry.scores(Q[cut:])]) == together).all()


def test_company_makes_no_difference_to_the_bits() -> None:
    rng = np.random.default_rng(9)
    X, y = clouds(300, 200, 4, rng)
    geometry = fit_geometry(X, y, rng=rng)
    Q = (rng.normal(size=(40, 200)) + 3).astype(np.float32)
    together = geometry.scores(Q)
    assert (np.concatenate([geometry.scores(q[None]) for q in Q]) == together).all()
    assert geometry.quick_scores(Q) == pytest.approx(together, rel=1e-3, abs=1e-3)
    again = fit_geometry(X, y, rng=np.random.default_rng(1))
    assert (fit_geometry(X, y, rng=np.random.default_rng(1)).basis == again.basis).all()


@pytest.mark.parametrize(("n", "d", "k"), [(2, 5, 1), (4, 300, 2), (30, 2, 30)])
def test_few_pictures_equal_ones_and_many_classes_do_no_harm(n: int, d: int, k: int) -> None:
    rng = np.random.default_rng(n)
    X, y = clouds(n, d, k, rng)
    for features in (X, np.ones_like(X), np.zeros_like(X)):
        geometry = fit_geometry(features, y, rng=rng)
        assert np.isfinite(geometry.scores(X)).all()
        back = Geometry.from_parts(geometry.k, geometry.to_tensors())
        assert (back.scores(X) == geometry.scores(X)).all()


def test_the_arrays_stay_small_whatever_the_network() -> None:
    for features, classes in ((1280, 10), (25_088, 2), (512, 100_000), (100_000, 1000)):
        rank = rank_of(features, classes)
        assert 8 <= rank <= 128
        assert rank == 8 or rank * max(features, classes) * 4 <= 2 * 2**20
    assert rank_of(1280, 10) == 128
    assert rank_of(5, 3) == 5


def test_long_scales_are_thinned_and_keep_their_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unlike, "REFERENCE", 100)
    scores = np.random.default_rng(10).normal(size=(3000, 4))
    scale = Scale.of(scores)
    assert scale.reference.shape == (4, 100)
    assert scale.reference[:, -1] == pytest.approx(scores.max(axis=0), rel=1e-6)
    assert np.median(scale.p_values(scores)) == pytest.approx(0.5, abs=0.03)


def test_surprise_is_the_rank_and_in_the_tail_exponential() -> None:
    reference = np.arange(1, 102, dtype=np.float32)
    asked = np.array([0.5, 50, 91, 96, 1000], np.float32)
    ten = np.mean(np.arange(1, 11))  # mean exceedance of what lies above 91
    wanted = [0, -math.log(53 / 102), -math.log(12 / 102), math.log(10) + 5 / ten, math.log(10) + 909 / ten]
    assert unlike._surprise(reference, asked, unlike._tail(reference)) == pytest.approx(wanted)


def test_one_score_that_is_far_out_is_enough_even_with_few_pictures() -> None:
    rng = np.random.default_rng(12)
    scale = Scale.of(rng.normal(size=(120, 4)))
    far = np.zeros((1, 4))
    far[0, 1] = 50
    assert scale.p_values(far)[0] == pytest.approx(1 / 121)
    assert scale.p_values(np.zeros((1, 4)))[0] > 0.1


@pytest.mark.parametrize(("rate", "n"), [(0.01, 99), (0.05, 19), (0.5, 1)])
def test_so_many_pictures_are_needed_for_a_rate(rate: float, n: int) -> None:
    assert least_reference(rate) == n
    assert 1 / (n + 1) <= rate < 1 / n


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"basis": np.zeros((3, 12), np.float64)}, "float32"),
        ({"bank": np.zeros((5, 2), np.float32)}, "disagree"),
        ({"within": np.zeros((2, 2), np.float32)}, "disagree"),
        ({"outside": np.zeros(1, np.float32)}, "above 0"),
        ({"means": np.full((3, 12), np.nan, np.float32)}, "not finite"),
        ({"joint": np.array([2, 1], np.float32)}, "sorted"),
        ({"reference": np.zeros((2, 9), np.float32)}, "wrong shapes"),
        ({"more": np.zeros(1, np.float32)}, "exactly"),
    ],
)
def test_nonsense_makes_no_detector(change: dict, message: str) -> None:
    rng = np.random.default_rng(11)
    X, y = clouds(60, 12, 3, rng)
    whole = detect(X, y, np.arange(60) % 5, rng.dirichlet(np.ones(3), 60), rng)
    tensors = whole.to_tensors()
    assert math.isclose(Unlike.from_parts(5, 0.01, tensors).false_alarm, 0.01)
    with pytest.raises(ValueError, match=message):
        Unlike.from_parts(5, 0.01, {**tensors, **change})
    for k, rate in ((0, 0.01), (61, 0.01), (True, 0.01), (5, 0.0), (5, "x")):
        with pytest.raises(ValueError, match=r"neighbour|share"):
            Unlike.from_parts(k, rate, tensors)


@pytest.mark.parametrize("m", [1, 48, 98, 99, 100, 999])
@pytest.mark.parametrize("rate", [0.01, 0.05, 0.1, 0.99])
def test_the_rule_in_whole_numbers_is_that_of_the_p_values(m: int, rate: float) -> None:
    rng = np.random.default_rng(m)
    X, y = clouds(60, 5, 2, rng)
    scale = Scale(np.sort(rng.normal(size=(4, m)).astype(np.float32)), np.sort(rng.normal(size=m).astype(np.float32)))
    least = Unlike(fit_geometry(X, y, rng=rng), scale, rate).least_odder
    flagged = [odder for odder in range(m + 1) if (odder + 1) / (m + 1) <= rate]
    assert flagged == list(range(least))
