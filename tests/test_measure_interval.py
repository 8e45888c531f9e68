"""Intervals: known answers, an independent implementation, and what grouping must do."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.proportion import proportion_confint

from graftage.measure.interval import (
    Estimate,
    bootstrap,
    codes,
    effective_n,
    f1_interval,
    kish_n,
    percentile,
    resamples,
    wilson,
)

few = settings(max_examples=50, deadline=None)


@pytest.mark.parametrize(
    ("right", "n", "low", "high"), [(18, 20, 0.699, 0.972), (20, 20, 0.839, 1.0), (950, 1000, 0.935, 0.962)]
)
def test_wilson_known_answers(right: int, n: int, low: float, high: float) -> None:
    estimate = wilson(right / n, n)
    assert (round(estimate.low, 3), round(estimate.high, 3)) == (low, high)
    assert estimate.value == right / n
    assert estimate.method == "wilson"


@few
@given(n=st.integers(1, 5000), share=st.floats(0, 1), level=st.sampled_from([0.8, 0.95, 0.99]))
def test_wilson_is_that_of_statsmodels(n: int, share: float, level: float) -> None:
    right = round(share * n)
    estimate = wilson(right / n, n, level=level)
    assert (estimate.low, estimate.high) == pytest.approx(
        proportion_confint(right, n, alpha=1 - level, method="wilson"), abs=1e-9
    )
    assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1


def test_nothing_to_measure_is_said_and_not_shown_as_nan() -> None:
    estimate = wilson(0.0, 0)
    assert (math.isnan(estimate.value), estimate.low, estimate.high) == (True, 0.0, 1.0)
    assert estimate.percent() == estimate.number() == estimate.method == "not measurable"
    assert not estimate.measurable


def test_shifting_moves_and_clips_value_and_ends() -> None:
    moved = Estimate(0.9, 0.8, 0.99, "bootstrap").shifted(0.05, method="moved")
    assert (moved.value, moved.low, moved.high, moved.method) == (
        pytest.approx(0.95),
        pytest.approx(0.85),
        1.0,
        "moved",
    )
    assert Estimate(0.1, 0.05, 0.2, "m").shifted(-0.07).low == 0.0
    assert Estimate(1.4, 1.3, 1.5, "m").shifted(0.2, upper=math.inf).high == pytest.approx(1.7)
    assert math.isnan(wilson(0, 0).shifted(0.1).value)


def test_single_rows_count_in_full() -> None:
    correct = np.array([1.0, 0.0, 1.0, 1.0])
    assert effective_n(correct, np.array([7, 3, 9, 1])) == 4.0
    assert effective_n(np.ones(3), np.arange(3)) == 3.0
    assert effective_n(np.ones(0), np.arange(0)) == 0.0


@few
@given(seed=st.integers(0, 1000), twins=st.integers(2, 5), share=st.floats(0.1, 1))
def test_copies_of_a_row_in_its_group_add_nothing(seed: int, twins: int, share: float) -> None:
    correct = (np.random.default_rng(seed).random(80) < share).astype(float)
    copied = effective_n(np.repeat(correct, twins), np.repeat(np.arange(80), twins))
    assert 0.95 * 80 <= copied <= 80 + 1e-9


def test_independent_rows_in_groups_keep_most_of_their_weight() -> None:
    rng = np.random.default_rng(0)
    sizes = [effective_n((rng.random(400) < 0.7).astype(float), np.arange(400) // 2) for _ in range(50)]
    assert 370 < np.mean(sizes) <= 400


def test_rows_all_right_count_as_their_groups() -> None:
    groups = np.repeat(np.arange(10), 5)
    assert effective_n(np.ones(50), groups) == kish_n(groups) == pytest.approx(10)
    assert effective_n(np.ones(50), np.zeros(50, int)) == 1.0


def test_few_groups_are_not_trusted() -> None:
    correct = np.tile([1.0, 1.0, 0.0, 1.0], 10)
    assert effective_n(correct, np.repeat(np.arange(2), 20)) < 3


@few
@given(tp=st.integers(0, 50), fp=st.integers(0, 50), fn=st.integers(0, 50))
def test_f1_interval_holds_f1_and_shrinks_with_counts(tp: int, fp: int, fn: int) -> None:
    estimate = f1_interval(tp, fp, fn)
    if tp + fp + fn == 0:
        assert not estimate.measurable
        return
    assert estimate.value == pytest.approx(2 * tp / (2 * tp + fp + fn))
    assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1
    more = f1_interval(10 * tp, 10 * fp, 10 * fn)
    assert more.high - more.low < estimate.high - estimate.low


def test_f1_interval_covers() -> None:
    rng = np.random.default_rng(1)
    tp, fp, fn, _ = rng.multinomial(150, [0.2, 0.05, 0.08, 0.67], size=1000).T
    estimates = [f1_interval(*map(float, counts)) for counts in zip(tp, fp, fn, strict=True)]
    truth = 2 * 0.2 / (2 * 0.2 + 0.05 + 0.08)
    assert 0.93 <= np.mean([e.low <= truth <= e.high for e in estimates]) <= 0.98


def test_resamples_draw_whole_groups_with_replacement() -> None:
    groups = np.array([4, 4, 9, 1, 9, 9])
    weights = np.concatenate(list(resamples(groups, rng=np.random.default_rng(0), draws=500)))
    assert weights.shape == (500, 6)
    assert (weights[:, 0] == weights[:, 1]).all()
    assert (weights[:, [2]] == weights[:, [4, 5]]).all()
    assert (weights[:, [0, 2, 3]].sum(axis=1) == 3).all()
    assert weights.mean() == pytest.approx(1, abs=0.05)


def test_draws_do_not_depend_on_how_groups_are_numbered() -> None:
    assert codes(np.array([70, -2, 70, 5])).tolist() == [2, 0, 2, 1]


def test_bootstrap_spread_of_a_mean_is_its_standard_error() -> None:
    values = np.random.default_rng(0).normal(size=400)
    draws = bootstrap(lambda w: w @ values / w.sum(1), np.arange(400), rng=np.random.default_rng(1), draws=3000)
    assert draws.shape == (3000,)
    assert draws.std() == pytest.approx(values.std() / 20, rel=0.05)


def test_bootstrap_in_chunks_gives_every_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graftage.measure.interval.CHUNK_CELLS", 70)
    draws = bootstrap(lambda w: w[:, :2], np.arange(10), rng=np.random.default_rng(0), draws=33)
    assert draws.shape == (33, 2)


def test_percentile_is_centred_on_the_value() -> None:
    draws = np.random.default_rng(0).normal(0.6, 0.05, size=20_000)
    estimate = percentile(0.7, draws, n=100)
    assert (estimate.low, estimate.high) == pytest.approx((0.602, 0.798), abs=0.003)
    assert estimate.method == "bootstrap"


def test_percentile_without_spread_falls_back_to_wilson() -> None:
    perfect = percentile(1.0, np.ones(100), n=20)
    assert (round(perfect.low, 3), perfect.high) == (0.839, 1.0)
    assert perfect.method == "bootstrap (all draws equal), wilson"
    loss = percentile(0.69, np.full(9, 0.69), n=None, span=(0, math.inf))
    assert (loss.low, loss.high, loss.method) == (0.69, 0.69, "bootstrap (all draws equal)")


def test_percentile_with_floor_is_never_narrower_than_wilson() -> None:
    narrow = np.array([0.89, 0.9, 0.91])
    estimate, least = percentile(0.9, narrow, n=50, floor=True), wilson(0.9, 50)
    assert (estimate.low, estimate.high, estimate.method) == (least.low, least.high, "bootstrap, at least wilson")
    wide = np.array([0.5, 1.0])
    assert percentile(0.75, wide, n=50, floor=True).low == percentile(0.75, wide, n=50).low < wilson(0.75, 50).low


def test_percentile_leaves_nan_draws_out() -> None:
    assert percentile(0.5, np.array([0.4, np.nan, 0.6]), n=9).low == pytest.approx(0.405)
    assert not percentile(math.nan, np.array([0.4, 0.6]), n=9).measurable
    assert not percentile(0.5, np.array([np.nan]), n=9).measurable


@given(value=st.floats(0, 1), below=st.floats(0, 1), above=st.floats(0, 1), factor=st.floats(1, 2))
def test_a_widened_interval_holds_the_old_one_and_stays_within_its_range(
    value: float, below: float, above: float, factor: float
) -> None:
    old = Estimate(value, max(value - below, 0), min(value + above, 1), "wilson")
    new = old.widened(factor)
    assert new.value == old.value
    assert 0 <= new.low <= old.low + 1e-12
    assert old.high - 1e-12 <= new.high <= 1
    assert new.high == pytest.approx(min(value + factor * (old.high - value), 1))


def test_nothing_measured_is_not_widened() -> None:
    assert wilson(0.5, 0).widened(2) == wilson(0.5, 0)
