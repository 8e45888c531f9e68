import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from graftage.data.split import exact_groups, folds, locked_test, merge_groups
from graftage.errors import DataError, OptionError

Ints = NDArray[np.int64]


def random(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def ints(*values: int) -> Ints:
    return np.array(values, dtype=np.int64)


@st.composite
def labels(draw: st.DrawFn, least: int = 6) -> Ints:
    n = draw(st.integers(least, 80))
    classes = draw(st.integers(1, 6))
    return random(draw(st.integers(0, 2**32))).integers(0, classes, n)


@st.composite
def grouped(draw: st.DrawFn) -> tuple[Ints, Ints]:
    y = draw(labels(least=12))
    number = draw(st.integers(max(6, len(y) // 4), len(y)))
    groups = random(draw(st.integers(0, 2**32))).integers(0, number, len(y))
    groups[:6] = np.arange(6)  # at least six groups
    return y, groups


def counts(y: Ints, fold: Ints, k: int) -> Ints:
    """Rows of each class in each fold, (k, K)."""
    return np.stack([np.bincount(y[fold == f], minlength=y.max() + 1) for f in range(k)])


# Groups


def test_equal_keys_make_a_group_and_empty_keys_none() -> None:
    assert exact_groups(["b", "a", "", "b", ""]).tolist() == [0, 1, 2, 0, 3]
    assert exact_groups([b"b", b"a", b"b"]).tolist() == [0, 1, 0]
    assert exact_groups([]).dtype == np.int64


def test_merging_follows_chains_across_groupings() -> None:
    assert merge_groups(ints(5, 5, 1, 2, 3), ints(0, 1, 1, 2, 3)).tolist() == [0, 0, 0, 1, 2]


def test_negative_groups_mean_alone() -> None:
    assert merge_groups(ints(-1, -1, 7, 7)).tolist() == [0, 1, 2, 2]


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32), n=st.integers(1, 30))
def test_merging_equals_joining_rows_one_by_one(seed: int, n: int) -> None:
    first, second = random(seed).integers(-1, n, (2, n))
    expected = list(range(n))
    for _ in range(n):  # labels sink to the smallest row that can be reached
        for i in range(n):
            for j in range(n):
                if (first[i] == first[j] >= 0) or (second[i] == second[j] >= 0):
                    expected[i] = expected[j] = min(expected[i], expected[j])
    assert merge_groups(first, second).tolist() == exact_groups([str(root) for root in expected]).tolist()


# Folds


@settings(max_examples=60, deadline=None)
@given(y=labels(), k=st.integers(2, 6), seed=st.integers(0, 2**32))
def test_without_groups_folds_are_level_in_every_class_and_in_size(y: Ints, k: int, seed: int) -> None:
    result = folds(y, np.arange(len(y)), k=k, repeats=2, rng=random(seed))
    assert result.shape == (2, len(y))
    assert result.min() >= 0
    assert result.max() < k
    for fold in result:
        table = counts(y, fold, k)
        assert np.ptp(table, axis=0).max() <= 1
        assert np.ptp(table.sum(axis=1)) <= 1


@settings(max_examples=100, deadline=None)
@given(data=grouped(), k=st.integers(2, 6), seed=st.integers(0, 2**32))
def test_groups_are_never_split(data: tuple[Ints, Ints], k: int, seed: int) -> None:
    y, groups = data
    for fold in folds(y, groups, k=k, repeats=2, rng=random(seed)):
        for group in np.unique(groups):
            assert len(np.unique(fold[groups == group])) == 1


@settings(max_examples=100, deadline=None)
@given(y=labels(), k=st.integers(2, 6), seed=st.integers(0, 2**32))
def test_every_model_sees_every_class_that_has_two_groups(y: Ints, k: int, seed: int) -> None:
    groups = merge_groups(random(seed).integers(0, len(y), len(y)) * 10 + y)  # of one class each
    groups[:6] = groups.max() + 1 + np.arange(6)
    (fold,) = folds(y, groups, k=k, repeats=1, rng=random(seed))
    for label in np.unique(y):
        if len(np.unique(groups[y == label])) > 1:
            assert len(np.unique(fold[y == label])) > 1


def test_large_groups_are_evened_out_by_the_rows_on_their_own() -> None:
    y = np.zeros(100, dtype=np.int64)
    groups = np.where(np.arange(100) < 15, 0, np.arange(100))
    (fold,) = folds(y, groups, k=5, repeats=1, rng=random(0))
    assert np.bincount(fold).tolist() == [20] * 5


def test_groups_of_many_sizes_keep_the_classes_in_proportion() -> None:
    groups = random(1).integers(0, 300, 2000)
    y = random(2).integers(0, 2, 300)[groups] * random(3).integers(1, 3, 2000)
    table = counts(y, folds(y, groups, k=5, repeats=1, rng=random(4))[0], 5)
    assert np.ptp(table / table.sum(axis=0), axis=0).max() < 0.03


def test_the_same_seed_gives_the_same_folds_and_repeats_differ() -> None:
    y, groups = random(0).integers(0, 3, 60), random(1).integers(0, 40, 60)
    first = folds(y, groups, k=5, repeats=2, rng=random(7))
    np.testing.assert_array_equal(first, folds(y, groups, k=5, repeats=2, rng=random(7)))
    assert (first[0] != first[1]).any()
    assert (first != folds(y, groups, k=5, repeats=2, rng=random(8))).any()


@settings(max_examples=30, deadline=None)
@given(y=labels(), seed=st.integers(0, 2**32))
def test_an_added_duplicate_lies_in_its_twins_fold(y: Ints, seed: int) -> None:
    keys = [str(row) for row in range(len(y))]
    twin = seed % len(y)
    groups = exact_groups([*keys, keys[twin]])
    (fold,) = folds(np.append(y, y[twin]), groups, k=5, repeats=1, rng=random(seed))
    assert fold[-1] == fold[twin]


@pytest.mark.parametrize("arguments", [{"k": 1, "repeats": 1}, {"k": 2, "repeats": 0}])
def test_folds_refuse_what_is_no_cross_validation(arguments: dict[str, int]) -> None:
    with pytest.raises(OptionError, match="at least 2 folds and 1 repeat"):
        folds(ints(0, 1, 0), ints(0, 1, 2), rng=random(0), **arguments)


def test_more_folds_than_independent_pictures_are_refused() -> None:
    with pytest.raises(DataError, match="3 folds need at least 3 independent pictures, there are 2"):
        folds(ints(0, 0, 1, 1), ints(0, 0, 1, 1), k=3, repeats=1, rng=random(0))


# The locked test set


@settings(max_examples=100, deadline=None)
@given(y=labels(), fraction=st.floats(0.05, 0.5), seed=st.integers(0, 2**32))
def test_without_groups_every_class_and_the_whole_get_their_share(y: Ints, fraction: float, seed: int) -> None:
    split = locked_test(y, np.arange(len(y)), fraction=fraction, rng=random(seed))
    share = np.bincount(y[split.test], minlength=y.max() + 1) - fraction * np.bincount(y)
    several = np.bincount(y) > 1
    assert np.abs(share[several]).max(initial=0) < 1 + 1e-6
    if several.all():
        assert abs(share.sum()) < 1 + 1e-6


@settings(max_examples=100, deadline=None)
@given(data=grouped(), fraction=st.floats(0.05, 0.95), seed=st.integers(0, 2**32))
def test_the_test_set_is_disjoint_whole_in_groups_and_leaves_every_class_to_learn(
    data: tuple[Ints, Ints], fraction: float, seed: int
) -> None:
    y, groups = data
    split = locked_test(y, groups, fraction=fraction, rng=random(seed))
    assert split.kind == "locked"
    assert sorted([*split.train, *split.test]) == list(range(len(y)))
    assert (np.diff(split.train) > 0).all()
    assert not set(groups[split.train]) & set(groups[split.test])
    for label in np.unique(y):
        if len(np.unique(groups[y == label])) > 1:
            assert (y[split.train] == label).any()


def test_the_same_seed_locks_the_same_rows() -> None:
    y = random(0).integers(0, 3, 60)
    first, same, other = (locked_test(y, np.arange(60), fraction=0.2, rng=random(seed)).test for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, same)
    assert first.tolist() != other.tolist()


@pytest.mark.parametrize("fraction", [0.0, 1.0, -1.0, float("nan")])
def test_a_test_fraction_lies_between_0_and_1(fraction: float) -> None:
    with pytest.raises(OptionError, match="between 0 and 1"):
        locked_test(ints(0, 1), ints(0, 1), fraction=fraction, rng=random(0))


def test_a_hundred_thousand_pictures_of_a_thousand_classes_are_dealt_at_once() -> None:
    y = random(0).integers(0, 1000, 100_000)
    start = time.perf_counter()
    folds(y, np.arange(100_000), k=5, repeats=1, rng=random(1))
    assert time.perf_counter() - start < 20  # 0.1 s; with a loop over pairs, minutes
