import numpy as np
import pytest

from graftage.data.split import folds
from graftage.learn.rank import (
    evidence_error,
    knn_score,
    leep,
    linear_probe,
    logme,
    neighbour_votes,
    sound,
    transferability,
)


def noise(n: int, width: int, *, seed: int, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """(features that know nothing, labels)."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, width)), rng.integers(0, classes, n)


def clusters(n: int, width: int, apart: float, *, seed: int, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """(float32 features about a mean of each class, labels)."""
    X, y = noise(n, width, seed=seed, classes=classes)
    means = np.random.default_rng(seed + 1).normal(size=(classes, width))
    return (X + apart * means[y]).astype(np.float32), y


def largest_evidence(F: np.ndarray, y: np.ndarray) -> float:
    """The Gaussian evidence per picture itself, by its covariance, over a fine grid of α and β; mean over classes."""
    found = []
    s, U = np.linalg.eigh(F @ F.T)
    s = np.maximum(s, 0)
    for c in np.unique(y):
        square = np.square(U.T @ (y == c).astype(float))
        best = -np.inf
        for alpha in np.logspace(-2, 10, 241)[:, None]:
            beta = np.logspace(-1, 4, 401)
            variance = s[:, None] / alpha + 1 / beta  # (n, B)
            value = -0.5 * (np.log(2 * np.pi * variance) + square[:, None] / variance).sum(axis=0)
            best = max(best, float(value.max()))
        found.append(best / len(y))
    return float(np.mean(found))


def evidence(F: np.ndarray, t: np.ndarray, alpha: float, beta: float) -> float:
    """log N(t; 0, FFᵀ/α + I/β) / n, by slogdet."""
    C = F @ F.T / alpha + np.eye(len(F)) / beta
    _, logdet = np.linalg.slogdet(C)
    return float(-(logdet + t @ np.linalg.solve(C, t) + len(t) * np.log(2 * np.pi)) / (2 * len(t)))


# LogME


@pytest.mark.parametrize(("apart", "known"), [(0.0, -0.721858), (0.5, -0.173405), (1.0, 0.390931)])
def test_logme_gives_the_known_answers(apart: float, known: float) -> None:
    rng = np.random.default_rng(0)
    y, means = rng.integers(0, 4, 200), rng.normal(size=(4, 50))
    for sep in (0.0, 0.5, 1.0):  # the draws follow each other
        f = rng.normal(size=(200, 50)) + sep * means[y]
        if sep == apart:
            assert logme(f, y, centred=False) == pytest.approx(known, abs=1e-3)


@pytest.mark.parametrize(("n", "width"), [(80, 20), (60, 120), (40, 400)])
def test_logme_is_the_gaussian_evidence(n: int, width: int) -> None:
    from graftage.learn import rank

    X, y = clusters(n, width, 0.3, seed=3)
    F, t = X.astype(np.float64), (y == 1).astype(np.float64)
    s, U = np.linalg.eigh(F @ F.T)
    kept = s > 1e-9 * s[-1]
    along = np.square(U[:, kept].T @ t)
    seen: list[tuple[float, float]] = []
    moments = rank._moments

    def spy(sigma: np.ndarray, along: np.ndarray, outside: float, alpha: float, beta: float) -> tuple[float, float]:
        seen.append((alpha, beta))
        return moments(sigma, along, outside, alpha, beta)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rank, "_moments", spy)
        found = rank._evidence(s[kept], along, max(float(t @ t - along.sum()), 0.0), n)
    assert found == pytest.approx(evidence(F, t, *seen[-1]), abs=1e-8)


@pytest.mark.parametrize(("n", "width"), [(80, 20), (60, 120)])
def test_logme_finds_the_largest_evidence(n: int, width: int) -> None:
    X, y = clusters(n, width, 0.3, seed=5)
    assert logme(X, y, centred=False) == pytest.approx(largest_evidence(X.astype(np.float64), y), abs=2e-3)


def test_logme_of_noise_does_not_rise_with_the_width() -> None:
    found = [np.mean([logme(*noise(60, width, seed=s)) for s in range(8)]) for width in (30, 120, 480, 1920)]
    assert np.ptp(found) < 0.02
    assert max(found) < -0.6


def test_logme_about_the_mean_does_not_mind_a_shift() -> None:
    X, y = clusters(60, 90, 0.5, seed=1)
    assert logme(X + 7, y) == pytest.approx(logme(X, y), abs=1e-4)
    assert logme(X + 7, y, centred=False) != pytest.approx(logme(X, y, centred=False), abs=1e-2)


# LEEP


def test_leep_by_hand() -> None:
    theta, y = np.array([[0.8, 0.2], [0.6, 0.4], [0.1, 0.9]]), np.array([0, 0, 1])
    first, second = 1.4 / 1.5, 0.6 / 1.5  # p(0|z) of both source classes
    expected = [0.8 * first + 0.2 * second, 0.6 * first + 0.4 * second, 0.1 * (1 - first) + 0.9 * (1 - second)]
    assert leep(theta, y) == pytest.approx(np.log(expected).mean(), abs=1e-12)


def test_leep_of_a_source_that_tells_all_is_nothing_lost() -> None:
    assert leep(np.eye(3)[[0, 1, 2, 0]], np.array([5, 2, 7, 5])) == pytest.approx(0, abs=1e-12)


# The neighbours and the probe


def test_knn_asks_no_copy_of_the_same_picture() -> None:
    X, y = noise(40, 10, seed=2)
    X, y = np.concatenate([X, X]).astype(np.float32), np.concatenate([y, y])
    alone, together = np.arange(80), np.concatenate([np.arange(40)] * 2)
    assert knn_score(X, y, alone, k=1) == 1
    assert knn_score(X, y, together, k=1) < 0.7


def test_knn_is_that_of_a_plain_loop() -> None:
    X, y = clusters(50, 6, 0.8, seed=4)
    unit = X / np.linalg.norm(X, axis=1, keepdims=True)
    right = 0
    for i in range(50):
        cosine = unit @ unit[i]
        others = sorted((j for j in range(50) if j != i), key=lambda j: -cosine[j])[:5]
        votes = [sum(np.exp(cosine[j] / 0.07) for j in others if y[j] == c) for c in range(3)]
        right += int(np.argmax(votes) == y[i])
    assert knn_score(X, y, np.arange(50), k=5) == right / 50


def test_all_scores_know_good_features_from_noise() -> None:
    good, y = clusters(120, 40, 0.8, seed=6)
    held = folds(y, np.arange(120), k=5, repeats=1, rng=np.random.default_rng(0))
    bad = np.random.default_rng(9).normal(size=(120, 400)).astype(np.float32)
    a, b = (transferability(X, y, np.arange(120), held, seed=0) for X in (good, bad))
    assert a.logme > b.logme
    assert a.knn > b.knn + 0.2
    assert a.probe > b.probe + 0.2
    assert a.log_loss < b.log_loss
    assert linear_probe(good, y, held, seed=0).accuracy(y) == a.probe


# What a race compares


def test_the_error_of_the_evidence_is_that_of_chance_for_noise_and_falls_with_what_is_known() -> None:
    for width in (20, 2000):  # not with the width
        X, y = noise(150, width, seed=4)
        assert evidence_error(X.astype(np.float32), y) == pytest.approx((1 - 1 / 3) / 2, abs=0.02)
    errors = [evidence_error(*clusters(150, 200, apart, seed=4)) for apart in (0.0, 0.1, 0.2, 0.4)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.1


def test_features_that_are_all_alike_are_worth_chance() -> None:
    y = np.repeat([0, 1, 2], 20)
    X = np.ones((60, 40), np.float32)
    assert logme(X, y) == pytest.approx(-(np.log(2 * np.pi * (1 / 3 * 2 / 3) * 60 / 59) + 1) / 2)
    assert evidence_error(X, y) == pytest.approx(3 / 2 * (1 / 3 * 2 / 3) * 60 / 59)
    held = folds(y, np.arange(60), k=5, repeats=2, rng=np.random.default_rng(0))
    assert 0.3 < sound(X, y, np.arange(60), held, seed=0).scores.mean() < 0.5


def test_neighbours_vote_and_none_of_ones_own_group_does() -> None:
    X = np.array([[1, 0], [1, 0.1], [1, 0], [0, 1], [0.1, 1]], np.float32)
    y, groups = np.array([0, 0, 1, 1, 1]), np.array([0, 1, 0, 2, 3])
    votes = neighbour_votes(X, y, groups, k=1)
    assert votes.tolist() == [[1, 0], [1, 0], [1, 0], [0, 1], [0, 1]]  # not [0, 1] in the third from the first's twin
    assert neighbour_votes(X, y, np.zeros(5, int)).tolist() == [[0, 0]] * 5  # nobody to ask


def test_what_is_compared_is_the_mean_of_three_error_rates() -> None:
    X, y = clusters(90, 60, 0.25, seed=6)
    held = folds(y, np.arange(90), k=5, repeats=2, rng=np.random.default_rng(0))
    found = sound(X, y, np.arange(90), held, seed=0)
    votes = neighbour_votes(X, y, np.arange(90))
    near = np.square(votes - np.eye(3)[y]).sum(axis=1) / 2
    parts = found.trial.briers.mean() / 2, near.mean(), evidence_error(X, y)
    assert found.scores.shape == (90,)
    assert found.scores.mean() == pytest.approx(np.average(parts, weights=(2, 1, 1)), abs=1e-6)
    blind = sound(noise(90, 60, seed=6)[0].astype(np.float32), y, np.arange(90), held, seed=0)
    assert blind.scores.mean() > found.scores.mean() + 0.05
