"""New pictures without labels: the estimates are right where calibration is, and what is proposed is worth a label."""

import json
import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from graftage.driftstory import known_of, summary, to_json
from graftage.measure.decide import Decisions
from graftage.measure.drift import Candidate, Known, Watch, exact
from graftage.measure.interval import Estimate
from graftage.measure.unlike import Scale, Unlike, fit_geometry, gen

CLASSES = ("a", "b", "c")
D = 24


def draw(n: int, *, seed: int, sharp: float = 1.5) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Probabilities (n, 3) that are the truth, labels drawn from them, features (n, D)."""
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.full(3, 1 / sharp), n)
    y = np.array([rng.choice(3, p=row) for row in p])
    return p, y, rng.normal(size=(n, D)).astype(np.float32) + np.eye(3, D, dtype=np.float32)[y] * 3


def known(n: int = 1500) -> Known:
    p, y, X = draw(n, seed=1)
    rng = np.random.default_rng(0)
    geometry = fit_geometry(X, y, rng=rng)
    scale = Scale.of(np.column_stack([geometry.quick_scores(X), gen(p)]))
    accuracy = float((p.argmax(1) == y).mean())
    half = 1.96 * math.sqrt(accuracy * (1 - accuracy) / n)
    held = Estimate(accuracy, accuracy - half, accuracy + half, "wilson")
    return Known(CLASSES, (0.3, 0.3, 0.4), held, Decisions(unlike=Unlike(geometry, scale)))


@pytest.fixture(scope="module")
def model() -> Known:
    return known()


def watched(model: Known, p: np.ndarray, X: np.ndarray, *, most: int = 6, odd: set[int] = frozenset()) -> Watch:
    watch = Watch(model, most=most)
    for i, (row, x) in enumerate(zip(p, X, strict=True)):
        watch.add(f"{i}.jpg", row, x, id=str(i), unlike_p=0.001 if i in odd else 0.5)
    return watch


def test_both_estimates_hold_where_probabilities_are_the_truth(model: Known) -> None:
    held = {"accuracy": 0, "thresholded": 0}
    for seed in range(40):
        p, y, X = draw(200, seed=100 + seed)
        found, right = watched(model, p, X, most=0).result(), (p.argmax(1) == y).mean()
        for name in held:
            estimate = getattr(found, name)
            assert abs(estimate.value - right) < 0.15
            held[name] += estimate.low <= right <= estimate.high
    assert min(held.values()) >= 35


def test_harder_pictures_of_a_calibrated_model_are_seen_to_be_harder(model: Known) -> None:
    p, y, X = draw(600, seed=7, sharp=0.5)
    found = watched(model, p, X).result()
    assert found.accuracy.high < model.accuracy.low
    assert found.accuracy.low <= (p.argmax(1) == y).mean() <= found.accuracy.high


@given(st.integers(0, 60), st.integers(1, 60))
def test_the_interval_of_the_flag_is_the_exact_one(hits: int, n: int) -> None:
    hits = min(hits, n)
    expected = stats.binomtest(hits, n).proportion_ci(0.95, method="exact")
    found = exact(hits, n)
    assert (found.value, found.low, found.high) == pytest.approx((hits / n, expected.low, expected.high), abs=1e-9)


def test_the_flag_is_counted_and_judged(model: Known) -> None:
    p, _, X = draw(100, seed=3)
    found = watched(model, p, X, odd=set(range(20))).result()
    assert found.unlike.value == 0.2
    assert any("more than the 1% of false alarms" in line and "no sign" not in line for line in summary(found))
    assert any("no sign of more" in line for line in summary(watched(model, p, X).result()))


def test_shares_of_classes_are_held_against_those_of_training(model: Known) -> None:
    X = draw(50, seed=3)[2]
    found = watched(model, np.tile([0.9, 0.05, 0.05], (50, 1)), X).result()
    assert [share for _, share, _ in found.shares] == [1, 0, 0]
    assert found.distance == pytest.approx(0.7)


def test_strange_and_unsure_pictures_are_proposed_surest_first_left_out(model: Known) -> None:
    p = np.tile([0.98, 0.01, 0.01], (40, 1))
    p[[5, 9, 11]] = [[0.40, 0.38, 0.22], [0.5, 0.4, 0.1], [0.37, 0.36, 0.27]]
    X = draw(40, seed=4)[2]
    found = watched(model, p, X, most=4, odd={20}).result()
    assert (found.worth[0].path, found.worth[0].why) == ("20.jpg", "unlike")
    assert {each.path for each in found.worth[1:]} == {"5.jpg", "9.jpg", "11.jpg"}
    assert found.worth[1].path == "11.jpg"
    assert {each.why for each in found.worth[1:]} == {"unsure"}


def test_of_copies_one_is_proposed(model: Known) -> None:
    p = np.tile([0.34, 0.33, 0.33], (30, 1))
    X = np.repeat(draw(3, seed=5)[2], 10, axis=0)
    found = watched(model, p, X, most=6).result()
    assert len({int(each.id) // 10 for each in found.worth[:3]}) == 3


def test_a_watch_that_goes_on_finds_what_an_uninterrupted_one_finds(model: Known) -> None:
    p, _, X = draw(200, seed=8)
    whole = watched(model, p, X, odd={3, 150})
    first = watched(model, p[:90], X[:90], odd={3})
    second = Watch(model, most=6)
    second.go_on(json.loads(json.dumps(first.to_json())))
    for i in range(90, 200):
        second.add(f"{i}.jpg", p[i], X[i], id=str(i), unlike_p=0.001 if i == 150 else 0.5)
    assert second.result() == whole.result()


def test_memory_does_not_grow_with_the_pictures(model: Known) -> None:
    p, _, X = draw(400, seed=9)
    watch = watched(model, p, X, most=3, odd=set(range(400)))
    assert len(watch.to_json()["unsure"]) == len(watch.to_json()["odd"]) == 15


def test_without_a_detector_or_a_score_it_says_so(model: Known) -> None:
    p, _, X = draw(30, seed=10)
    watch = Watch(Known(CLASSES, (), None, Decisions()), most=3)
    for row, x in zip(p, X, strict=True):
        watch.add("x.jpg", row, x)
    found = watch.result()
    assert not found.thresholded.measurable
    assert not found.unlike.measurable
    assert math.isnan(found.distance)
    assert len(found.worth) == 3
    assert "not judged: the model file has no detector" in "\n".join(summary(found))
    json.dumps(to_json(found), allow_nan=False)
    nothing = Watch(model, most=3).result()
    assert (nothing.pictures, nothing.accuracy.measurable, nothing.worth) == (0, False, ())
    json.dumps(to_json(nothing), allow_nan=False)


def test_candidates_are_ordered_by_worth_then_by_coming_first() -> None:
    made = [Candidate(worth, late, "", "", "", 0.5, "") for worth, late in ((0.5, -2), (0.5, -1), (0.9, -7))]
    assert all(a > b for a, b in pairwise(sorted(made, reverse=True)))
    assert [each.late for each in sorted(made, reverse=True)] == [-7, -1, -2]


def test_the_model_file_says_what_is_known(finished: tuple, own_cache: object) -> None:
    from graftage.serve.bundle import load

    found = known_of(load(finished[0] / "model.safetensors"))
    assert found.classes == ("1", "2", "10")
    assert found.shares == pytest.approx((1 / 3, 1 / 3, 1 / 3), abs=0.05)
    assert found.accuracy is not None
    assert found.accuracy.low <= found.accuracy.value <= found.accuracy.high
