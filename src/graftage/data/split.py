"""Who is held out: labels and groups become a locked test set or folds; a group is never torn apart.

Rows are dealt to bins. Groups of several rows go first, largest first, each to the bin where it disturbs the class
proportions least (the greedy rule of scikit-learn's StratifiedGroupKFold, with the squared deviation in closed form).
Then the rows on their own are dealt class by class, filling up what the groups left uneven.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from graftage.errors import DataError, OptionError

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Split:
    """Which rows learn and which are kept back.

    Attributes:
        train: int64 indices, rising.
        test: int64 indices, rising; may be empty.
        kind: where the test rows come from.
    """

    train: Ints
    test: Ints
    kind: Literal["test folder", "validation folder", "locked", "cross-validation"]


def exact_groups(keys: Sequence[str | bytes]) -> Ints:
    """Same key, same group; an empty key (a file that was not read) is alone.

    Returns:
        int64 (n,), groups numbered by first appearance.
    """
    seen: dict[str | bytes | int, int] = {}
    return np.array([seen.setdefault(key or row, len(seen)) for row, key in enumerate(keys)], dtype=np.int64)


def merge_groups(*groups: Ints) -> Ints:
    """Joins groupings: rows that share a group in any of them end up together, chains included.

    Args:
        groups: one or more int64 (n,); a negative number means that the row is alone in that grouping.

    Returns:
        int64 (n,), groups numbered by first appearance.
    """
    assert groups, "nothing to merge"
    n = len(groups[0])
    assert all(len(group) == n for group in groups), "groupings of different lengths"
    rows, nodes, total = [], [], n
    for group in groups:
        member = np.flatnonzero(group >= 0)
        _, number = np.unique(group[member], return_inverse=True)
        rows.append(member)
        nodes.append(number + total)  # every group is a node beside the n rows
        total += len(member)
    edges = (np.concatenate(rows), np.concatenate(nodes))
    graph = coo_array((np.ones(len(edges[0]), dtype=np.int8), edges), shape=(total, total))
    _, component = connected_components(graph, directed=False)
    return renumbered(component[:n])


def renumbered(labels: NDArray[np.integer]) -> Ints:
    """The same groups (n,), numbered 0, 1, … in the order in which they appear."""
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    rank = np.empty(len(first), dtype=np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[inverse]


def folds(y: Ints, groups: Ints, *, k: int, repeats: int, rng: np.random.Generator) -> Ints:
    """Stratified folds that keep groups whole.

    Without groups the counts of a class differ by at most one between folds, and so do the fold sizes. A class of two
    or more groups never lies in one fold alone (where groups mix classes: almost never), so that every model that is
    fitted on the other folds knows it.

    Args:
        y: int64 (n,) labels, 0 and up.
        groups: int64 (n,).
        k: number of folds, 2 or more.
        repeats: how many times to deal anew.
        rng: source of randomness.

    Returns:
        int64 (repeats, n): in each repeat, the fold in which the row is held out.

    Raises:
        OptionError: k < 2 or repeats < 1.
        DataError: fewer groups than folds.
    """
    if k < 2 or repeats < 1:
        raise OptionError(f"cross-validation needs at least 2 folds and 1 repeat, got {k} and {repeats}")
    deal = _Deal(y, groups, np.full(k, 1 / k), np.ones(k, dtype=bool))
    if deal.n_groups < k:
        raise DataError(f"{k} folds need at least {k} independent pictures, there are {deal.n_groups}: add pictures")
    return np.stack([deal.bins(rng) for _ in range(repeats)])


def locked_test(y: Ints, groups: Ints, *, fraction: float, rng: np.random.Generator) -> Split:
    """Sets a stratified share of the rows aside, groups whole.

    Every class of two or more groups keeps at least one row in train. Without groups, the test share of every class
    and of the whole is within one row of `fraction`, so a very small class may have no test row.

    Args:
        y: int64 (n,) labels, 0 and up.
        groups: int64 (n,).
        fraction: share of the rows to set aside, between 0 and 1.
        rng: source of randomness.

    Raises:
        OptionError: fraction outside 0..1.
    """
    if not 0 < fraction < 1:
        raise OptionError(f"the test fraction must lie between 0 and 1, got {fraction}")
    deal = _Deal(y, groups, np.array([1 - fraction, fraction]), np.array([False, True]))
    held_out = deal.bins(rng)
    return Split(np.flatnonzero(held_out == 0), np.flatnonzero(held_out == 1), "locked")


class _Deal:
    """Deals rows to bins of given shares (B,); `capped` (B,) marks bins that must not swallow a whole class."""

    def __init__(self, y: Ints, groups: Ints, shares: Floats, capped: NDArray[np.bool_]) -> None:
        assert y.shape == groups.shape, f"{y.shape} labels and {groups.shape} groups"
        assert len(y) == 0 or y.min() >= 0, "negative label"
        self.y, self.shares, self.capped = y, shares, capped
        _, self.group, self.sizes = np.unique(groups, return_inverse=True, return_counts=True)
        self.n_groups = len(self.sizes)
        self.class_sizes = np.bincount(y, minlength=1)
        # one line per (group, class) that occurs, sorted by group
        codes, self.pair_counts = np.unique(self.group * len(self.class_sizes) + y, return_counts=True)
        pair_group, self.pair_class = np.divmod(codes, len(self.class_sizes))
        self.pair_start = np.searchsorted(pair_group, np.arange(self.n_groups + 1))
        self.class_groups = np.bincount(self.pair_class, minlength=1)  # groups in which each class occurs

    def bins(self, rng: np.random.Generator) -> Ints:
        """int64 (n,): the bin of every row."""
        table = np.zeros((len(self.shares), len(self.class_sizes)), dtype=np.int64)  # rows dealt, (bin, class)
        bin_of_group = np.full(self.n_groups, -1, dtype=np.int64)
        preference = rng.permutation(len(self.shares))  # decides what nothing else decides
        for group in self._large_first(rng):
            bin_of_group[group] = self._place(int(group), table, preference)
        result = bin_of_group[self.group]
        single = rng.permutation(np.flatnonzero(result < 0))
        single = single[np.argsort(self.y[single], kind="stable")]  # shuffled within each class
        counts = np.bincount(self.y[single], minlength=len(self.class_sizes))
        quotas = [self._quota(int(label), int(counts[label]), table, preference) for label in np.flatnonzero(counts)]
        if quotas:
            result[single] = np.concatenate([np.repeat(np.arange(len(quota)), quota) for quota in quotas])
        return result

    def _large_first(self, rng: np.random.Generator) -> Ints:
        large = rng.permutation(np.flatnonzero(self.sizes > 1))
        return large[np.argsort(-self.sizes[large], kind="stable")]

    def _place(self, group: int, table: Ints, preference: Ints) -> int:
        """Adds a group to the bin where sum over classes of (dealt - share * size)^2 / (share * size^2) grows least."""
        pairs = slice(self.pair_start[group], self.pair_start[group + 1])
        classes, counts = self.pair_class[pairs], self.pair_counts[pairs]
        after = table[:, classes] + counts  # (B, c)
        weight = counts / self.class_sizes[classes] ** 2
        cost = ((table[:, classes] + after) * weight).sum(axis=1) / self.shares
        swallows = (after == self.class_sizes[classes]) & (self.class_groups[classes] > 1) & self.capped[:, None]
        load = table.sum(axis=1) / self.shares
        tied = np.round(cost / cost.max(), 12)  # equal costs must compare equal
        best = int(np.lexsort((preference, load, tied, swallows.sum(axis=1)))[0])
        table[best, classes] = after[best]
        return best

    def _quota(self, label: int, count: int, table: Ints, preference: Ints) -> Ints:
        """How many of a class's `count` single rows each bin gets (B,), and enters them into the table."""
        room = np.maximum(_water_level(table[:, label] / self.shares, self.shares, count) - table[:, label], 0.0)
        quota = np.floor(room + 1e-9).astype(np.int64)
        behind = self.shares * (table.sum() + count) - table.sum(axis=1) - quota  # rows that a bin still lacks overall
        order = np.lexsort((preference, -np.round(behind, 6), room <= 1e-9))
        quota[order[: count - int(quota.sum())]] += 1
        swallowed = (table[:, label] + quota == self.class_sizes[label]) & self.capped
        if self.class_groups[label] > 1 and swallowed.any():
            quota[swallowed] -= 1
            quota[np.flatnonzero(~swallowed)[0]] += 1
        table[:, label] += quota
        return quota


def _water_level(levels: Floats, shares: Floats, amount: int) -> Floats:
    """Pours `amount` into vessels of width `shares` (B,) filled up to `levels` (B,): how much they would hold (B,).

    A vessel already filled above the common surface is not reached, and would hold less than it does.
    """
    order = np.argsort(levels)
    width = np.cumsum(shares[order])
    surface = (amount + np.cumsum((levels * shares)[order])) / width  # if the first 1, 2, ... vessels are reached
    reached = np.flatnonzero(surface >= levels[order] - 1e-12)[-1]
    content: Floats = surface[reached] * shares
    return content
