"""Scores: those of scikit-learn on random data, intervals that cover, and honest answers at the edges."""

import json
import math

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn import metrics

from graftage.errors import DataError
from graftage.measure.interval import Estimate, percentile, resamples, wilson
from graftage.measure.scores import Scores, brier, from_json, log_losses, macro, majority, score, to_json

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def made(n: int, k: int, *, seed: int = 0, pull: float = 1.5) -> tuple[Floats, Ints]:
    """Random probabilities that lean to the true class by `pull`."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, k, n)
    logits = rng.normal(size=(n, k))
    logits[np.arange(n), y] += pull
    powers = np.exp(logits)
    return powers / powers.sum(axis=1, keepdims=True), y


def measured(p: Floats, y: Ints, *, groups: Ints | None = None, draws: int = 200) -> Scores:
    names = [f"class {c}" for c in range(p.shape[1])]
    return score(p, y, classes=names, groups=groups, rng=np.random.default_rng(0), draws=draws)


@pytest.mark.parametrize(("n", "k", "seed"), [(300, 2, 0), (400, 3, 1), (500, 8, 2)])
def test_every_score_is_that_of_scikit_learn(n: int, k: int, seed: int) -> None:
    p, y = made(n, k, seed=seed)
    called, scores = p.argmax(axis=1), measured(p, y)
    average = {"average": "macro", "zero_division": 0}
    assert scores.accuracy.value == pytest.approx(metrics.accuracy_score(y, called))
    assert scores.balanced_accuracy.value == pytest.approx(metrics.balanced_accuracy_score(y, called))
    assert scores.macro_precision.value == pytest.approx(metrics.precision_score(y, called, **average))
    assert scores.macro_recall.value == pytest.approx(metrics.recall_score(y, called, **average))
    assert scores.macro_f1.value == pytest.approx(metrics.f1_score(y, called, **average))
    assert scores.log_loss.value == pytest.approx(metrics.log_loss(y, p))
    assert scores.brier.value == pytest.approx(metrics.brier_score_loss(y, p, scale_by_half=False, labels=range(k)))
    area = metrics.roc_auc_score(y, p[:, 1]) if k == 2 else metrics.roc_auc_score(y, p, multi_class="ovr")
    assert scores.auroc is not None
    assert scores.auroc.value == pytest.approx(area)
    assert (scores.confusion == metrics.confusion_matrix(y, called)).all()
    for top, estimate in scores.top_k.items():
        assert estimate.value == pytest.approx(metrics.top_k_accuracy_score(y, p, k=top))
    assert list(scores.top_k) == [top for top in (3, 5) if top < k]


def test_class_rows_are_those_of_scikit_learn() -> None:
    p, y = made(300, 5)
    precision, recall, f1, n = metrics.precision_recall_fscore_support(y, p.argmax(axis=1))
    rows = measured(p, y).per_class
    assert [row.precision.value for row in rows] == pytest.approx(precision.tolist())
    assert [row.recall.value for row in rows] == pytest.approx(recall.tolist())
    assert [row.f1.value for row in rows] == pytest.approx(f1.tolist())
    assert [row.n for row in rows] == n.tolist()
    assert [row.predicted_n for row in rows] == np.bincount(p.argmax(axis=1), minlength=5).tolist()


@pytest.mark.parametrize("k", [2, 4])
def test_each_draw_is_the_score_of_the_rows_drawn(k: int) -> None:
    """The weighted formulas against scikit-learn on repeated rows, ties in the ranking included."""
    p, y = made(120, k)
    p = np.round(p, 1) + 1e-3
    p /= p.sum(axis=1, keepdims=True)
    groups = np.arange(120) // 2
    scores = measured(p, y, groups=groups, draws=25)
    (weights,) = resamples(groups, rng=np.random.default_rng(0), draws=25)
    rows = [np.repeat(np.arange(120), draw.astype(int)) for draw in weights]
    areas = [metrics.roc_auc_score(y[r], p[r] if k > 2 else p[r, 1], multi_class="ovr") for r in rows]
    assert scores.auroc is not None
    plain = percentile(scores.auroc.value, np.array(areas), n=None)
    assert (scores.auroc.low, scores.auroc.high) == pytest.approx((plain.low, plain.high))
    losses = [metrics.log_loss(y[r], p[r]) for r in rows]
    assert scores.log_loss.low == pytest.approx(percentile(scores.log_loss.value, np.array(losses), n=None).low)
    f1s = [metrics.f1_score(y[r], p[r].argmax(axis=1), average="macro") for r in rows]
    plain = percentile(scores.macro_f1.value, np.array(f1s), n=None)
    assert scores.macro_f1.low <= plain.low + 1e-12
    assert scores.macro_f1.high >= plain.high - 1e-12


def test_copies_of_every_row_narrow_no_interval() -> None:
    p, y = made(150, 3)
    single = measured(p, y)
    copied = measured(np.repeat(p, 3, axis=0), np.repeat(y, 3), groups=np.repeat(np.arange(150), 3))
    assert (copied.n, copied.groups, single.groups) == (450, 150, 150)
    pairs = [(getattr(copied, name), getattr(single, name)) for name in ("accuracy", "macro_f1", "log_loss", "auroc")]
    pairs += [(a.f1, b.f1) for a, b in zip(copied.per_class, single.per_class, strict=True)]
    pairs += [(a.recall, b.recall) for a, b in zip(copied.per_class, single.per_class, strict=True)]
    for twice, once in pairs:
        assert twice.value == pytest.approx(once.value)
        assert twice.high - twice.low >= (once.high - once.low) * 0.999
    assert copied.accuracy.method == "wilson (effective n)"
    assert single.accuracy.method == "wilson"


def test_intervals_cover_the_truth() -> None:
    """Unequal classes with unequal recalls, 150 rows: 95 % intervals hold the truth in about 95 % of 250 draws."""
    rng = np.random.default_rng(5)
    share, chances = np.array([0.5, 0.3, 0.2]), np.array([[0.9, 0.06, 0.04], [0.1, 0.8, 0.1], [0.1, 0.05, 0.85]])
    truth = {"accuracy": float(share @ np.diag(chances)), "balanced_accuracy": float(np.diag(chances).mean())}
    hits = dict.fromkeys(truth, 0)
    for _ in range(250):
        y = rng.choice(3, 150, p=share)
        called = (rng.random((150, 1)) > chances[y].cumsum(axis=1)).sum(axis=1)
        found = score(np.eye(3)[called], y, classes="abc", rng=rng, draws=150)
        for name, value in truth.items():
            estimate = getattr(found, name)
            hits[name] += estimate.low <= value <= estimate.high
    assert all(0.92 <= hit / 250 <= 0.995 for hit in hits.values()), hits


def test_a_perfect_score_keeps_an_interval() -> None:
    y = np.repeat([0, 1], 10)
    scores = measured(np.eye(2)[y], y)
    for name in ("accuracy", "balanced_accuracy", "macro_precision", "macro_f1", "auroc"):
        estimate = getattr(scores, name)
        assert (estimate.value, round(estimate.low, 3), estimate.high) == (1.0, 0.839, 1.0)
    assert scores.macro_f1.method == "bootstrap (all draws equal), wilson"


def test_a_perfect_score_of_unequal_classes_rests_on_the_small_one() -> None:
    y = np.repeat([0, 1], [990, 10])
    scores = measured(np.eye(2)[y], y)
    assert scores.balanced_accuracy.low == pytest.approx(wilson(1, 4 / (1 / 990 + 1 / 10)).low)
    assert scores.accuracy.low > 0.99


def test_a_nearly_perfect_average_is_no_surer_than_wilson() -> None:
    y = np.repeat([0, 1, 2], 20)
    called = y.copy()
    called[0] = 1
    balanced = measured(np.eye(3)[called], y).balanced_accuracy
    assert balanced.low <= wilson(balanced.value, 60).low
    assert balanced.high >= wilson(balanced.value, 60).high
    assert balanced.method == "bootstrap, at least wilson"


def test_a_class_never_called_has_no_precision_but_counts_zero_on_average() -> None:
    y = np.array([0, 0, 1, 1, 2])
    scores = measured(np.eye(3)[[0, 0, 1, 1, 0]], y)
    assert not scores.per_class[2].precision.measurable
    assert scores.per_class[2].recall.value == 0
    assert scores.macro_precision.value == pytest.approx((2 / 3 + 1 + 0) / 3)


def test_a_class_that_does_not_occur_is_marked() -> None:
    scores = measured(np.eye(3)[[0, 1, 0, 1]], np.array([0, 1, 0, 1]))
    absent = scores.per_class[2]
    marks = [absent.recall.measurable, absent.precision.measurable, absent.f1.measurable, absent.measurable]
    assert not any(marks)
    assert scores.balanced_accuracy.value == scores.macro_f1.value == 1
    assert scores.auroc is not None
    assert scores.auroc.value == 1


def test_one_class_only_has_no_area() -> None:
    scores = measured(np.array([[0.7, 0.3], [0.6, 0.4]]), np.array([0, 0]))
    assert scores.auroc is not None
    assert not scores.auroc.measurable


def test_ten_rows_make_a_class_measurable() -> None:
    y = np.repeat([0, 1], [10, 9])
    assert [row.measurable for row in measured(np.eye(2)[y], y).per_class] == [True, False]


def test_a_draw_that_misses_a_class_leaves_it_out_of_the_mean() -> None:
    hits, true, called = np.array([[4.0, 0.0]]), np.array([[5.0, 0.0]]), np.array([[4.0, 1.0]])
    missed = macro(hits, true, called, np.array([False, False]))[0]
    never = macro(hits, true, called, np.array([False, True]))[0]
    assert missed == pytest.approx([0.8, 1.0, 0.8, 8 / 9])
    assert never == pytest.approx([0.8, 0.5, 0.4, 4 / 9])


def test_the_area_is_left_out_where_it_would_take_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graftage.measure.scores.AUROC_CELLS", 100)
    assert measured(*made(60, 2)).auroc is None
    assert measured(*made(40, 2)).auroc is not None


def test_same_seed_same_scores_whatever_the_label_type() -> None:
    p, y = made(200, 100)
    assert to_json(measured(p, y)) == to_json(measured(p, y.astype(np.int8)))


def test_rows_of_losses() -> None:
    p, y = np.array([[0.5, 0.5], [0.9, 0.1], [0.0, 1.0]]), np.array([0, 1, 0])
    assert log_losses(p, y) == pytest.approx([math.log(2), math.log(10), -math.log(np.finfo(float).eps)])
    assert brier(p, y) == pytest.approx([0.5, 1.62, 2.0])
    assert brier(p.astype(np.float32), y).dtype == np.float64


def test_the_majority_baseline_calls_the_largest_class() -> None:
    p = majority(np.array([1, 1, 0, 1]), 3, 3)
    assert p.tolist() == [[0.25, 0.75, 0.0]] * 3
    with pytest.raises(DataError, match="at least one training label"):
        majority(np.array([], int), 3, 3)


@pytest.mark.parametrize(
    ("p", "y", "says"),
    [
        (np.full((2, 2), 0.4), [0, 1], "row 0 is no probabilities"),
        (np.array([[0.5, 0.5], [np.nan, 1]]), [0, 1], "row 1 is no probabilities"),
        (np.array([[1.5, -0.5]]), [0], "least -0.5"),
        (np.array([[np.inf, 0.0]]), [0], "row 0 is no probabilities"),
        (np.eye(2), [0, 2], "labels go from 0 to 2"),
        (np.eye(2), [-1, 0], "labels go from -1 to 0"),
        (np.eye(2), [0], "labels must be 2 integers"),
        (np.eye(2), [0.0, 1.0], "labels must be 2 integers"),
        (np.eye(2, dtype=int), [0, 1], "must be floats"),
        (np.ones((2, 1)), [0, 0], "at least 2 classes"),
        (np.ones((0, 2)), np.ones(0, int), "no rows"),
        (np.eye(3), [0, 1, 2], "2 class names for 3 columns"),
    ],
)
def test_bad_arrays_are_refused_by_name(p: Floats, y: list[float], says: str) -> None:
    with pytest.raises(DataError, match=says):
        score(p, np.asarray(y), classes=["a", "b"], rng=np.random.default_rng(0))


def test_groups_of_another_length_are_refused() -> None:
    with pytest.raises(DataError, match="3 group numbers for 2 rows"):
        score(np.eye(2), np.array([0, 1]), classes="ab", rng=np.random.default_rng(0), groups=np.arange(3))


def test_scores_survive_json() -> None:
    p, y = made(60, 6)
    p = np.concatenate([p[:, :5], np.zeros((60, 1)), p[:, 5:]], axis=1)  # class 5 is never called
    y = np.where(y == 5, 6, y)
    scores = measured(p, y)
    text = json.dumps(to_json(scores), allow_nan=False)
    back = from_json(json.loads(text))
    assert json.dumps(to_json(back)) == text
    assert isinstance(back.accuracy, Estimate)
    assert back.accuracy == scores.accuracy
    assert back.top_k == scores.top_k
    assert (back.confusion == scores.confusion).all()
    assert back.confusion.dtype == np.int64
    assert back.per_class[0] == scores.per_class[0]
    assert not back.per_class[5].precision.measurable


def test_another_record_is_refused() -> None:
    whole = to_json(measured(*made(20, 3)))
    for broken in ({}, {**whole, "accuracy": {"value": "x"}}, {**whole, "confusion": [1, 2]}, {**whole, "extra": 1}):
        with pytest.raises(DataError, match="no record of scores"):
            from_json(broken)
