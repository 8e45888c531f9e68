"""Which pictures are learnt from, which are tested on, and by which folds the head is chosen."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from graftage.data.catalog import Catalog
from graftage.data.grouping import groups_of
from graftage.data.split import folds, locked_test
from graftage.errors import DataError, OptionError
from graftage.learn import defaults
from graftage.settings import Settings

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Partition:
    """Which entries are learnt from, which are tested on, and by which folds the head is chosen.

    Attributes:
        train: int64 (n,) catalog indices of the pictures learnt from.
        test: int64 (t,) of those tested on; none where all are held out in folds.
        kind: "locked", "cross-validation", or the user's own such as "test folder" and "validation split".
        k: folds; repeats: how often they are drawn anew.
        leaked: int64 (l,) of those to be tested on that are known from `train`, as copies or by their group.
    """

    train: Ints
    test: Ints
    kind: str
    k: int
    repeats: int
    leaked: Ints = field(default_factory=lambda: np.zeros(0, np.int64))


def partition(catalog: Catalog, settings: Settings) -> Partition:
    """The user's own test folder or split if there is one, else a locked share or cross-validation by `defaults.plan`.

    Nothing here ever chooses by a validation folder, so where there is no test folder it serves as the test set; where
    there is one, validation pictures are learnt from.

    Raises:
        OptionError: a share that sets no picture apart, or a test option beside the user's own test part.
        DataError: none of the pictures to test on can be used, or each is also learnt from.
    """
    rows = np.array(catalog.usable, dtype=np.int64)
    parts = np.array([catalog.entries[i].split for i in rows])
    usual = defaults.plan(len(rows))
    k, repeats = settings.fold_plan() or (usual.folds, usual.repeats)
    part, kind = _own_test(catalog, settings)
    if part:
        train, test = rows[parts != part], require_some(rows[parts == part], catalog, kind)
        groups = groups_of(catalog)
        leaks = np.isin(groups[test], groups[train])
        return Partition(train, _require_clean(test[~leaks], test, catalog), kind, k, repeats, test[leaks])
    share = settings.test_share()
    share = usual.test_fraction if share is None else share
    if not share:
        return Partition(rows, rows[:0], "cross-validation", k, repeats)
    y, groups = catalog.labels()[rows], groups_of(catalog)[rows]
    inner = locked_test(y, groups, fraction=share, rng=np.random.default_rng([settings.seed, 1]))
    if not len(inner.test):
        raise OptionError(f"a test share of {share:g} sets none of {len(rows):,} pictures apart; take a larger --test")
    return Partition(rows[inner.train], rows[inner.test], "locked", k, repeats)


def _own_test(catalog: Catalog, settings: Settings) -> tuple[str, str]:
    """The split of the user's own that is tested on, and what it is called; empty if there is none."""
    given = {entry.split for entry in catalog.entries}
    if "test" in given and settings.test != "auto":
        raise OptionError(
            f"{catalog.root} has a test {catalog.part}, which is never learnt from, so test = {settings.test!r} cannot "
            f"be obeyed: leave it out, or give the train {catalog.part} alone"
        )
    if settings.test != "auto":
        return "", ""
    kinds = {"test": f"test {catalog.part}", "val": f"validation {catalog.part}"}
    return next(((part, kind) for part, kind in kinds.items() if part in given), ("", ""))


def require_some(rows: Ints, catalog: Catalog, kind: str) -> Ints:
    """The pictures to test on, (t,). Raises DataError if there is none."""
    if not len(rows):
        raise DataError(f"{catalog.root}: none of the pictures to test on ({kind}) can be used; mend or remove them")
    return rows


def _require_clean(clean: Ints, test: Ints, catalog: Catalog) -> Ints:
    if not len(clean):
        raise DataError(
            f"{catalog.root}: each of the {len(test):,} pictures to test on is also learnt from, as a copy or as one "
            "of the same group, such as "
            f"{catalog.entries[test[0]].id}: nothing is left to measure on. Take other test pictures, or give only the "
            f"train {catalog.part}"
        )
    return clean


def folds_of(y: Ints, groups: Ints, split: Partition, *, repeats: int, seed: int) -> Ints:
    """Folds (repeats, n) that keep groups together. Raises DataError where all pictures are one group."""
    k = min(split.k, len(np.unique(groups)))
    if k < 2:
        raise DataError(
            "all pictures to learn from are one and the same file, copies of it, or one group: nothing can be learnt "
            "from them"
        )
    return folds(y, groups, k=k, repeats=repeats, rng=np.random.default_rng([seed, 2]))
