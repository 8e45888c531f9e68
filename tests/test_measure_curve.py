import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graftage.measure.curve import FARTHEST, ROWS, Curve, Refits, curve_sizes, learning_curve

REPLICATES = 20


def simulated(error: Callable[[float], float], *, n: int = 500, seed: int = 0, exact: bool = False) -> Refits:
    """Refits that are wrong with the probability `error(pictures)`; all n pictures are tested at every size."""
    rng, sizes = np.random.default_rng(seed), curve_sizes(n, 2)
    right = np.zeros((len(sizes), REPLICATES, n), np.int8)
    for j, m in enumerate(sizes):
        if exact:
            right[j, :, round(n * error(m)) :] = 1
        else:
            right[j] = rng.random((REPLICATES, n)) >= error(m)
    return Refits(sizes, right, np.arange(n) % 2, np.arange(n))


def curve_of(refits: Refits, seed: int = 0, **options: object) -> Curve:
    return learning_curve(refits, rng=np.random.default_rng(seed), **options)


def falling(m: float) -> float:
    return 0.05 + 1.5 * m**-0.5


def test_sizes_are_shares_of_the_pictures_up_to_what_a_refit_may_take() -> None:
    assert curve_sizes(1000, 10).tolist() == [100, 150, 200, 300, 400, 550, 700, 850]
    assert curve_sizes(100, 10).tolist() == [20, 30, 40, 55, 70, 85]
    assert curve_sizes(50_000, 10)[-1] == ROWS
    assert curve_sizes(8, 2).tolist() == []


def test_exact_scores_on_a_law_are_carried_on_along_it() -> None:
    def error(m: float) -> float:
        return 0.05 + 4 * m**-0.6

    found = curve_of(simulated(error, n=20_000, exact=True))
    assert not found.trouble
    for multiple in (1.0, 1.25, 2.0):
        score = 1 - error(multiple * 3529)
        drawn = np.interp(multiple * 3529, *zip(*((m, e.value) for m, e in found.fan), strict=True))
        assert drawn == pytest.approx(score, abs=3e-3)
    assert found.limit == FARTHEST * 3529


def test_with_binomial_noise_the_interval_at_twice_the_pictures_holds_75_to_90_times_in_100() -> None:
    inside = []
    for seed in range(400):
        rng = np.random.default_rng([7, seed])
        alpha, gamma = rng.uniform(0, 0.1), rng.uniform(-0.8, -0.3)

        def error(m: float, alpha: float = alpha, gamma: float = gamma) -> float:
            return alpha + 0.3 * (m / 100) ** gamma

        found = curve_of(simulated(error, seed=seed), seed=seed)
        if (twice := found.at(2.0)) is not None:
            inside.append(twice.low <= 1 - error(1000) <= twice.high)
    assert len(inside) >= 392  # a curve that is well-behaved is hardly ever refused
    assert 0.75 <= np.mean(inside) <= 0.90


def test_a_curve_that_rises_is_measured_but_not_carried_on() -> None:
    found = curve_of(simulated(lambda m: 0.2 if m < 200 else 0.3))
    assert "falls with more pictures" in found.trouble
    assert found.expected == found.fan == ()
    assert found.at(2.0) is None
    assert found.measured[0].value == pytest.approx(0.8, abs=0.02)


def test_a_curve_with_a_cliff_is_followed_by_no_power_law() -> None:
    found = curve_of(simulated(lambda m: 0.45 if m < 250 else 0.05))
    assert "follow no power law" in found.trouble


def test_answers_by_chance_are_no_signal() -> None:
    for seed in range(5):
        assert curve_of(simulated(lambda _: 0.5, seed=seed), seed=seed).trouble.startswith("no signal found")
    assert curve_of(simulated(lambda _: 0.5), metric="balanced_accuracy").trouble.startswith("no signal found")


def test_always_naming_the_frequent_class_is_no_signal_either() -> None:
    n = 400
    y = (np.arange(n) % 4 == 0).astype(np.int64)
    sizes = curve_sizes(n, 2)
    right = np.broadcast_to((y == 0).astype(np.int8), (len(sizes), REPLICATES, n))
    refits = Refits(sizes, right, y, np.arange(n))
    assert curve_of(refits).measured[-1].value == 0.75
    for metric in ("accuracy", "balanced_accuracy"):
        assert curve_of(refits, metric=metric).trouble.startswith("no signal found")


def test_too_few_sizes_are_told() -> None:
    refits = simulated(falling)
    few = Refits(refits.sizes[:3], refits.right[:3], refits.y, refits.groups)
    assert curve_of(few).trouble.startswith("too few pictures")


def test_pictures_needed_lie_around_the_truth_and_unreachable_scores_are_called_so() -> None:
    refits = simulated(falling, n=1000)
    needed = curve_of(refits, target=0.91).needed
    assert needed is not None
    assert needed.low <= (1.5 / 0.04) ** 2 <= needed.high
    assert needed.low <= needed.value <= needed.high
    already = curve_of(refits, target=0.85).needed
    assert already is not None
    assert already.value == pytest.approx((1.5 / 0.1) ** 2, rel=0.2)
    flat = curve_of(simulated(lambda m: 0.3 + 0.3 * (m / 100) ** -1.1, n=1000), target=0.95).needed
    assert flat is not None
    assert not flat.reachable
    assert math.isinf(flat.value)


def test_a_perfect_classifier_has_an_interval_and_needs_nothing() -> None:
    found = curve_of(simulated(lambda _: 0.0, n=60))
    twice = found.at(2.0)
    assert twice is not None
    assert (twice.value, twice.high) == (1.0, 1.0)
    assert twice.low == pytest.approx(0.973, abs=0.002)  # Wilson, 60 of 60, 80 %


def test_each_class_has_its_own_recall_and_gain_and_the_weakest_is_named() -> None:
    n = 800
    rng, sizes = np.random.default_rng(0), curve_sizes(n, 4)
    y = np.arange(n) % 4
    right = np.ones((len(sizes), REPLICATES, n), np.int8)
    for j, m in enumerate(sizes):
        wrong = np.where(y == 2, 3.0 * m**-0.4, 0.05)
        right[j] = rng.random((REPLICATES, n)) >= wrong
    for metric in ("accuracy", "balanced_accuracy"):
        found = curve_of(Refits(sizes, right, y, np.arange(n)), metric=metric)
        third = found.classes[2]
        assert found.weakest == third
        assert third.recall.value == pytest.approx(1 - 3.0 * sizes[-1] ** -0.4, abs=0.02)
        assert third.gain.value == pytest.approx(3.0 * n**-0.4 - 3.0 * (2 * n) ** -0.4, abs=0.015)
        assert all(abs(c.gain.value) < 0.01 for c in found.classes if c.label != 2)


def test_a_class_with_few_pictures_is_told_nothing_of() -> None:
    refits = simulated(falling)
    y = np.where(np.arange(500) < 6, 2, refits.y)
    found = curve_of(Refits(refits.sizes, refits.right, y, refits.groups))
    assert found.classes[2].pictures == 6
    assert found.weakest is not None
    assert found.weakest.label != 2
    assert not found.classes[2].gain.measurable
    assert found.classes[1].gain.measurable


def test_equal_pictures_widen_the_interval() -> None:
    plain = simulated(falling, n=400)
    twins = np.repeat(np.arange(100), 4)
    same = Refits(plain.sizes, np.repeat(plain.right[:, :, :100], 4, axis=2), np.repeat(plain.y[:100], 4), twins)

    def width(found: Curve) -> float:
        return found.measured[0].high - found.measured[0].low

    assert width(curve_of(same)) > 1.3 * width(curve_of(plain))


@settings(deadline=None, max_examples=25)
@given(
    st.integers(0, 10_000), st.integers(60, 300), st.integers(2, 5), st.sampled_from(("accuracy", "balanced_accuracy"))
)
def test_whatever_was_measured(seed: int, n: int, classes: int, metric: str) -> None:
    rng, sizes = np.random.default_rng(seed), curve_sizes(n, classes)
    y = np.concatenate([np.arange(classes), rng.integers(0, classes, n - classes)])
    right = (rng.random((len(sizes), 3, n)) < rng.random()).astype(np.int8)
    for j, m in enumerate(sizes):
        for r in range(3):
            right[j, r, rng.permutation(n)[:m]] = -1
    refits = Refits(sizes, right, y, rng.integers(0, n, n))
    found = curve_of(refits, seed, metric=metric, target=0.9)
    tested = [np.mean([(part[part >= 0] == 1).mean() for part in rows]) for rows in right]
    if metric == "accuracy":
        np.testing.assert_allclose([e.value for e in found.measured], tested)
    every = [*found.measured, *(e for _, e in (*found.expected, *found.fan))]
    assert all(0 <= e.low <= e.value <= e.high <= 1 for e in every)
    assert all(m <= found.limit <= FARTHEST * n for m, _ in (*found.expected, *found.fan))
    scores = [e.value for _, e in found.fan]
    assert scores == sorted(scores)
    assert bool(found.expected) != bool(found.trouble)
    assert len(found.classes) == classes
    again = curve_of(refits, seed, metric=metric, target=0.9)
    assert (again.measured, again.expected, again.needed) == (found.measured, found.expected, found.needed)
