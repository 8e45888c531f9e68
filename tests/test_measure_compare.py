"""Two classifiers on the same rows."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.contingency_tables import mcnemar as reference

from graftage.errors import DataError
from graftage.measure.compare import mcnemar, paired, paired_mean
from graftage.measure.interval import wilson


def test_mcnemar_known_answer() -> None:
    assert round(mcnemar(9, 2), 4) == 0.0654
    assert mcnemar(0, 0) == 1.0


@settings(max_examples=40, deadline=None)
@given(b=st.integers(0, 40), c=st.integers(1, 40))
def test_mcnemar_is_that_of_statsmodels(b: int, c: int) -> None:
    assert mcnemar(b, c) == mcnemar(c, b) == pytest.approx(reference([[5, b], [c, 5]], exact=True).pvalue)


def test_difference_counts_and_test_of_a_made_case() -> None:
    a, b = np.ones(100, bool), np.ones(100, bool)
    a[:2], b[2:11] = False, False
    found = paired(a, b, np.arange(100), rng=np.random.default_rng(0), draws=4000)
    assert (found.b, found.c) == (9, 2)
    assert found.p == mcnemar(9, 2)
    assert found.difference.value == pytest.approx(0.07)
    spread = np.sqrt((0.11 - 0.07**2) / 100)  # of a mean of +1, 0, -1
    assert found.difference.low == pytest.approx(0.07 - 1.96 * spread, abs=0.011)
    assert found.difference.high == pytest.approx(0.07 + 1.96 * spread, abs=0.011)


def test_the_other_way_round_is_the_negative() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.random(200) < 0.6, rng.random(200) < 0.8
    there = paired(a, b, np.arange(200), rng=np.random.default_rng(2))
    back = paired(b, a, np.arange(200), rng=np.random.default_rng(2))
    assert there.difference.value == -back.difference.value < 0
    assert (there.difference.low, there.difference.high) == pytest.approx((-back.difference.high, -back.difference.low))
    assert (there.b, there.c, there.p) == (back.c, back.b, back.p)


def test_copies_in_a_group_make_nothing_surer() -> None:
    rng = np.random.default_rng(3)
    a, b = rng.random(80) < 0.9, rng.random(80) < 0.8
    once = paired(a, b, np.arange(80), rng=np.random.default_rng(0))
    twice = paired(np.repeat(a, 2), np.repeat(b, 2), np.repeat(np.arange(80), 2), rng=np.random.default_rng(0))
    assert twice.p == once.p
    assert (twice.difference.low, twice.difference.high) == pytest.approx((once.difference.low, once.difference.high))
    assert (twice.b, twice.c) == (2 * once.b, 2 * once.c)


def test_two_that_never_differ_may_still_differ_on_unseen_rows() -> None:
    right = np.arange(50) % 3 > 0
    found = paired(right, right, np.arange(50), rng=np.random.default_rng(0))
    assert (found.difference.value, found.p) == (0, 1)
    assert found.difference.high == -found.difference.low == wilson(0, 50).high
    assert found.difference.method == "bootstrap (all draws equal), wilson"
    pairs = paired(right, right, np.arange(50) // 2, rng=np.random.default_rng(0))
    assert pairs.difference.high == wilson(0, 25).high


def test_the_interval_covers() -> None:
    rng = np.random.default_rng(4)
    hits = 0
    for _ in range(300):
        gain = rng.choice([1, 0, -1], size=120, p=[0.2, 0.7, 0.1])
        found = paired(gain >= 0, gain <= 0, np.arange(120), rng=rng, draws=200)
        hits += found.difference.low <= 0.1 <= found.difference.high
    assert 0.92 <= hits / 300 <= 0.98


def test_other_rows_are_refused() -> None:
    some = np.ones(3, bool)
    with pytest.raises(DataError, match="3 and 2 answers and 3 group numbers"):
        paired(some, some[:2], np.arange(3), rng=np.random.default_rng(0))
    with pytest.raises(DataError, match="at least one"):
        paired(some[:0], some[:0], np.arange(0), rng=np.random.default_rng(0))


def test_mean_of_paired_losses_has_the_interval_of_a_t_test() -> None:
    values = np.random.default_rng(3).normal(0.2, 1.0, 400)
    found = paired_mean(values, np.arange(400), rng=np.random.default_rng(0), draws=4000)
    half = 1.966 * values.std(ddof=1) / 20
    assert found.value == values.mean()
    assert (found.low, found.high) == pytest.approx((found.value - half, found.value + half), abs=0.01)


def test_mean_of_paired_losses_is_less_sure_in_groups() -> None:
    values = np.repeat(np.random.default_rng(3).normal(0.2, 1.0, 50), 8)
    alone = paired_mean(values, np.arange(400), rng=np.random.default_rng(0))
    grouped = paired_mean(values, np.arange(400) // 8, rng=np.random.default_rng(0))
    assert grouped.high - grouped.low > 2 * (alone.high - alone.low)
