"""Likely wrong labels: known answers by hand, confident learning written a second time, and injected errors found."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graftage.measure.suspects import (
    calibrated,
    confident_joint,
    expected_wrong,
    margin,
    neighbour_votes,
    prune_by_noise_rate,
    suspects,
)


@st.composite
def answers(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (n, K) without ties, and labels of which every class has at least one."""
    n_classes, seed = draw(st.integers(2, 5)), draw(st.integers(0, 10_000))
    rng = np.random.default_rng(seed)
    n = n_classes + draw(st.integers(0, 60))
    y = np.concatenate([np.arange(n_classes), rng.integers(0, n_classes, n - n_classes)])
    logits = rng.normal(size=(n, n_classes)) + 1.5 * np.eye(n_classes)[y]
    p = np.exp(logits)
    return p / p.sum(axis=1, keepdims=True), y


def joint_by_the_paper(p: np.ndarray, y: np.ndarray) -> list[list[int]]:
    """Equation 1 and 2 of Northcutt, Jiang & Chuang 2021, picture by picture and in plain Python."""
    n_classes = p.shape[1]
    thresholds = []
    for j in range(n_classes):
        own = [row[j] for row, label in zip(p.tolist(), y.tolist(), strict=True) if label == j]
        thresholds.append(sum(own) / len(own))
    joint = [[0] * n_classes for _ in range(n_classes)]
    for row, label in zip(p.tolist(), y.tolist(), strict=True):
        reached = [j for j in range(n_classes) if row[j] >= thresholds[j] - 1e-12]
        if reached:
            joint[label][max(reached, key=lambda j: row[j])] += 1
    return joint


# ---------------------------------------------------------------- the confident joint


def test_the_joint_of_six_pictures_by_hand() -> None:
    y = np.array([0, 0, 0, 1, 1, 1])
    p0 = np.array([0.9, 0.8, 0.1, 0.2, 0.6, 0.1])
    p = np.stack([p0, 1 - p0], axis=1)
    # thresholds: (0.9 + 0.8 + 0.1) / 3 = 0.6 for class 0, (0.8 + 0.4 + 0.9) / 3 = 0.7 for class 1
    assert confident_joint(p, y).tolist() == [[2, 1], [1, 2]]
    assert calibrated(confident_joint(p, y), y) == pytest.approx(np.array([[2, 1], [1, 2]]) / 6)
    assert prune_by_noise_rate(p, y, calibrated(confident_joint(p, y), y)).tolist() == [0, 0, 1, 0, 1, 0]


def test_a_picture_that_reaches_no_threshold_is_not_counted() -> None:
    p = np.array([[0.9, 0.1], [0.55, 0.45], [0.1, 0.9], [0.2, 0.8]])
    assert confident_joint(p, np.array([0, 0, 1, 1])).sum() == 2  # 0.725 and 0.85: the middle two reach none


@given(answers())
@settings(max_examples=60, deadline=None)
def test_the_joint_is_that_of_the_paper(found: tuple[np.ndarray, np.ndarray]) -> None:
    p, y = found
    assert confident_joint(p, y).tolist() == joint_by_the_paper(p, y)


@given(answers(), st.integers(0, 100))
@settings(max_examples=30, deadline=None)
def test_weights_count_as_copies(found: tuple[np.ndarray, np.ndarray], seed: int) -> None:
    p, y = found
    times = np.random.default_rng(seed).integers(1, 4, len(y))
    copies = np.repeat(np.arange(len(y)), times)
    assert confident_joint(p, y, weights=times.astype(float)) == pytest.approx(confident_joint(p[copies], y[copies]))


@given(answers())
@settings(max_examples=40, deadline=None)
def test_the_calibrated_joint_keeps_the_share_of_every_label(found: tuple[np.ndarray, np.ndarray]) -> None:
    p, y = found
    joint = calibrated(confident_joint(p, y), y)
    assert joint.sum(axis=1) == pytest.approx(np.bincount(y) / len(y))
    assert (joint >= 0).all()


@given(answers())
@settings(max_examples=40, deadline=None)
def test_pruning_takes_the_largest_leads_of_every_pair(found: tuple[np.ndarray, np.ndarray]) -> None:
    p, y = found
    joint = calibrated(confident_joint(p, y), y)
    expected = set()
    for given_label in range(p.shape[1]):
        for true in range(p.shape[1]):
            own = [i for i in range(len(y)) if y[i] == given_label]
            count = round(float(joint[given_label, true]) * len(y))
            if true != given_label:
                expected |= set(sorted(own, key=lambda i: p[i, given_label] - p[i, true])[:count])
    assert set(np.flatnonzero(prune_by_noise_rate(p, y, joint))) == expected


@given(answers(), st.integers(0, 50))
@settings(max_examples=25, deadline=None)
def test_names_and_order_do_not_matter(found: tuple[np.ndarray, np.ndarray], seed: int) -> None:
    p, y = found
    rng = np.random.default_rng(seed)
    rows, names = rng.permutation(len(y)), rng.permutation(p.shape[1])
    q, z = p[rows][:, names], np.argsort(names)[y[rows]]
    assert confident_joint(q, z) == pytest.approx(confident_joint(p, y)[np.ix_(names, names)])


# ---------------------------------------------------------------- margins and neighbours


def test_the_margin_is_own_less_best_other() -> None:
    p = np.array([[0.2, 0.5, 0.3], [0.2, 0.5, 0.3]])
    assert margin(p, np.array([1, 0])) == pytest.approx([0.2, -0.3])


def test_neighbours_of_the_same_group_have_no_vote() -> None:
    unit = np.array([[1, 0], [1, 0], [0.8, 0.6], [0, 1]], dtype=np.float32)
    y, apart = np.array([0, 0, 1, 1]), np.arange(4)
    votes, distance = neighbour_votes(unit, y, apart, n_classes=2, k=1)
    assert votes[0].tolist() == [1, 0]
    assert distance[0] == pytest.approx(0, abs=1e-6)
    votes, distance = neighbour_votes(unit, y, np.array([7, 7, 2, 3]), n_classes=2, k=1)
    assert votes[0].tolist() == [0, 1]
    assert distance[0] == pytest.approx(0.2, abs=1e-6)


def test_who_has_no_neighbours_gets_votes_for_all() -> None:
    unit = np.eye(3, dtype=np.float32)
    votes, distance = neighbour_votes(unit, np.array([0, 1, 1]), np.zeros(3, np.int64), n_classes=2)
    assert votes.tolist() == [[0.5, 0.5]] * 3
    assert np.isinf(distance).all()


@given(st.integers(0, 500), st.integers(2, 40), st.integers(1, 12))
@settings(max_examples=30, deadline=None)
def test_votes_are_those_of_a_plain_loop(seed: int, n: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 5))
    unit = (X / np.linalg.norm(X, axis=1, keepdims=True)).astype(np.float32)
    y, groups = rng.integers(0, 3, n), rng.integers(0, max(2, n // 2), n)
    votes, distance = neighbour_votes(unit, y, groups, n_classes=3, k=k)
    for i in range(n):
        others = sorted((j for j in range(n) if groups[j] != groups[i]), key=lambda j: -float(unit[i] @ unit[j]))[:k]
        if not others:
            continue
        weights = np.exp([float(unit[i] @ unit[j]) / 0.07 for j in others])
        expected = np.bincount(y[others], weights=weights, minlength=3) / weights.sum()
        assert votes[i] == pytest.approx(expected, abs=1e-3)
        assert distance[i] == pytest.approx(np.mean([1 - float(unit[i] @ unit[j]) for j in others]), abs=1e-5)


# ---------------------------------------------------------------- all together


def three_signals(n: int, wrong: int, *, seed: int = 0) -> tuple[list[np.ndarray], np.ndarray, np.ndarray, np.ndarray]:
    """Two classifiers and votes that know four classes well; `wrong` labels changed; (classifiers, votes, y, bad)."""
    rng = np.random.default_rng(seed)
    true = rng.integers(0, 4, n)
    y, bad = true.copy(), rng.permutation(n)[:wrong]
    y[bad] = (y[bad] + rng.integers(1, 4, wrong)) % 4
    found = []
    for _ in range(3):
        logits = rng.normal(size=(n, 4)) + 4.0 * np.eye(4)[true]
        found.append(np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True))
    return found[:2], found[2], y, bad


def test_injected_errors_are_flagged_named_and_counted() -> None:
    classifiers, votes, y, bad = three_signals(2000, 200)
    found = suspects(classifiers, votes, y, np.arange(len(y)), rng=np.random.default_rng(0))
    assert np.isin(found.order[:100], bad).mean() >= 0.95
    assert found.flagged[bad].mean() >= 0.9
    assert np.isin(found.listed, bad).mean() >= 0.9
    assert (found.suggested != y).all()
    assert found.wrong.low <= 200 <= found.wrong.high
    assert sorted(found.order.tolist()) == list(range(len(y)))
    assert (found.agreeing[found.flagged] >= 2).all()


def test_without_errors_next_to_nothing_is_flagged() -> None:
    classifiers, votes, y, _ = three_signals(2000, 0)
    found = suspects(classifiers, votes, y, np.arange(len(y)), rng=np.random.default_rng(0))
    assert found.flagged.mean() <= 0.01


def test_the_interval_contains_the_truth_in_most_of_sixty_draws() -> None:
    hits = 0
    for seed in range(60):
        classifiers, _, y, _ = three_signals(600, 60, seed=seed)
        p = (classifiers[0] + classifiers[1]) / 2
        found = expected_wrong(p, y, np.arange(len(y)), rng=np.random.default_rng(seed))
        hits += found.low <= 60 <= found.high
    assert hits >= 51  # of 60; with a true coverage of 95 % fewer than 51 have a chance below 1 in 2,000


def test_copies_widen_the_interval() -> None:
    classifiers, _, y, _ = three_signals(400, 40)
    p = np.repeat((classifiers[0] + classifiers[1]) / 2, 4, axis=0)
    labels = np.repeat(y, 4)
    apart = expected_wrong(p, labels, np.arange(1600), rng=np.random.default_rng(0))
    together = expected_wrong(p, labels, np.repeat(np.arange(400), 4), rng=np.random.default_rng(0))
    assert together.high - together.low > 1.5 * (apart.high - apart.low)
