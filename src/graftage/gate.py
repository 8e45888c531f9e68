"""The leak gate: finds what belongs together before anything is split, and says what a split in spite of it would hide.

Pictures equal in every pixel, near-copies and the user's own groups, by a table's column, by --group-by or by both,
become one number in the catalog; folds and test
sets keep to it. What names, times and looks only let suspect is measured: the same head, held out with and without it.
"""

import re
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graftage.data.catalog import Catalog
from graftage.data.grouping import Suspicion, by_pattern, groups_of, suspicions
from graftage.data.split import exact_groups, folds, merge_groups
from graftage.data.twins import LEVELS, Twins, signature
from graftage.features.copies import known_twins
from graftage.features.looks import colours_of, digests_of, shades_of, thumbnails_of
from graftage.learn.gram import Smoother
from graftage.learn.head import transform
from graftage.learn.search import targets
from graftage.measure.compare import paired
from graftage.measure.interval import Estimate

Ints = NDArray[np.int64]

SUSPICIOUS = 0.03  # how much grouped error may exceed ungrouped error before it is told (methods P3, rule 5)
_ROWS = 2000  # pictures that suspicions are measured on; more would take seconds
_FOLDS = 5
_PENALTY = 0.1  # of ridge regression, in units of the kernel's scale: in the middle of `defaults.ridge_path`


@dataclass(frozen=True, eq=False)
class Gate:
    """What is known of copies and groups.

    Attributes:
        rows: (n,) catalog indices of the pictures looked at.
        twins: copies among them.
        exact: int64 (n,) those that are equal in every pixel.
        signatures: uint8 (n, 32, 32) grey, for the model file.
        shades: float64 (n, 9) how light and of what colour they are, see `features.looks`.
        X: float32 (n, D) features under the first fit, until suspicions are measured.
        notes: what a person should know.
    """

    rows: Ints
    twins: Twins
    exact: Ints
    signatures: NDArray[np.uint8]
    shades: NDArray[np.float64]
    X: NDArray[np.float32]
    notes: tuple[str, ...]

    def without_features(self) -> "Gate":
        """The same, and less memory."""
        return replace(self, X=self.X[:0].copy())

    def near(self, n: int) -> Ints:
        """Copies over all n entries of the catalog, int64 (n,), -1 for those that were not looked at.

        Near-copies are among them where they can be told with certainty: what is kept together to be on the safe side
        is no accusation.
        """
        groups = np.full(n, -1, dtype=np.int64)
        groups[self.rows] = self.twins.groups if self.twins.level <= LEVELS[0] else self.exact
        return groups


def close(
    catalog: Catalog, rows: Ints, X: NDArray[np.float32], looks: NDArray[np.uint8], *, pattern: re.Pattern[str] | None
) -> tuple[Catalog, Gate]:
    """Enters into the catalog what belongs together.

    Args:
        catalog: after decoding, with the groups that a table tells.
        rows: (n,) its usable entries.
        X: float32 (n, D) their features.
        looks: uint8 (n, W), see `features.looks`.
        pattern: of --group-by, or None.

    Returns:
        The catalog, its entries with `pixels` and `group`; and what was found.
    """
    pixels, thumbnails = digests_of(looks), thumbnails_of(looks)
    catalog = catalog.with_entries(
        {int(i): replace(catalog.entries[i], pixels=digest) for i, digest in zip(rows, pixels, strict=True)}
    )
    files = exact_groups([catalog.entries[i].digest for i in rows])
    exact = merge_groups(files, exact_groups(pixels))
    twins = known_twins(thumbnails, exact, X=X, y=catalog.labels()[rows], colours=colours_of(looks))
    told = np.array([catalog.entries[i].group for i in rows], dtype=np.int64)
    notes, groups = _doubts(twins), merge_groups(twins.groups, told)
    if pattern is not None:
        own, missed = by_pattern([catalog.entries[i].id for i in rows], pattern)
        groups = merge_groups(groups, own)
        if missed:
            notes.append(
                f"--group-by is not found in {missed:,} of {len(rows):,} paths: those pictures are on their own"
            )
    catalog = catalog.with_entries(
        {int(i): replace(catalog.entries[i], group=int(g)) for i, g in zip(rows, groups, strict=True)}
    )
    return catalog, Gate(rows, twins, exact, signature(thumbnails), shades_of(looks), X, tuple(notes))


def _doubts(twins: Twins) -> list[str]:
    if twins.level > 1:
        return [
            "these pictures are so alike that copies cannot be told from different pictures: only those equal in every "
            "pixel are kept together; if pictures belong together, say so with --group-by"
        ]
    if twins.level > LEVELS[0]:
        return [
            "these pictures are very alike: only the surest near-copies are kept together; if more belong together, "
            "say so with --group-by"
        ]
    return []


@dataclass(frozen=True)
class Suspected:
    """A grouping that is suspected, and what it would cost.

    Attributes:
        why: what lets suspect it.
        pattern: for --group-by, or "".
        groups: number of groups of two or more pictures.
        n: pictures it was measured on.
        apart: accuracy with folds that tear the suspected groups apart.
        together: accuracy with folds that keep them.
        difference: `apart` less `together`, paired.
    """

    why: str
    pattern: str
    groups: int
    n: int
    apart: float
    together: float
    difference: Estimate

    @property
    def serious(self) -> bool:
        """Whether the score would be flattered by more than three points, and not by chance."""
        return self.difference.value > SUSPICIOUS and self.difference.low > 0

    def line(self) -> str:
        """A notice for a person."""
        d = self.difference
        cure = f"--group-by '{self.pattern}'" if self.pattern else "--group-by PATTERN, if their names tell"
        return (
            f"Pictures seem to belong together, by {self.why} ({self.groups:,} groups). Ridge regression is right on "
            f"{100 * self.apart:.1f} % of them where they may lie on both sides, on {100 * self.together:.1f} % where "
            f"they may not: {100 * d.value:.1f} points less ({100 * d.low:.1f} to {100 * d.high:.1f}; n = {self.n:,}, "
            f"bootstrap). If they are series of one thing, the score is flattered: {cure} keeps them together"
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values for metrics.json."""
        return {**vars(self), "difference": vars(self.difference), "serious": self.serious}


def suspected(catalog: Catalog, gate: Gate, train: Ints, *, seed: int) -> tuple[Suspected, ...]:
    """Groupings that names, times and looks suggest, each with what it costs; test pictures are not looked at.

    Args:
        catalog: with groups.
        gate: with features.
        train: catalog indices of the pictures that are learnt from.
        seed: of folds and bootstrap.
    """
    mine = np.isin(gate.rows, train)
    rows, X = gate.rows[mine], gate.X[mine]
    entries = [catalog.entries[i] for i in rows]
    y, known = np.unique(catalog.labels()[rows], return_inverse=True)[1], groups_of(catalog)[rows]
    found = suspicions([e.id for e in entries], [e.taken for e in entries], gate.twins.alike[mine], known, y)
    return tuple(cost for each in found if (cost := _cost(each, X, y.astype(np.int64), known, seed)) is not None)


def _cost(suspicion: Suspicion, X: NDArray[np.float32], y: Ints, known: Ints, seed: int) -> Suspected | None:
    groups = merge_groups(known, suspicion.groups)
    some = _whole_groups(groups, np.random.default_rng([seed, 9]))
    X, y, known, groups = (
        X[some],
        np.unique(y[some], return_inverse=True)[1].astype(np.int64),
        known[some],
        groups[some],
    )
    if y.max() < 1 or len(np.unique(groups)) < 2 * _FOLDS:
        return None
    smoother = Smoother.linear(transform(X, "unit"))
    held = [folds(y, each, k=_FOLDS, repeats=1, rng=np.random.default_rng([seed, 9]))[0] for each in (known, groups)]
    penalty = _PENALTY * (smoother.trace_mean or 1.0)
    apart, together = (smoother.held_out(targets(y), penalty, fold).argmax(axis=1) == y for fold in held)
    difference = paired(apart, together, groups, rng=np.random.default_rng([seed, 10])).difference
    several = int((np.unique(groups, return_counts=True)[1] > 1).sum())
    return Suspected(
        suspicion.why, suspicion.pattern, several, len(y), float(apart.mean()), float(together.mean()), difference
    )


def _whole_groups(groups: Ints, rng: np.random.Generator) -> Ints:
    """Rows of as many whole groups, drawn at random, as make about `_ROWS` pictures; all rows if there are no more."""
    if len(groups) <= _ROWS:
        return np.arange(len(groups))
    names, sizes = np.unique(groups, return_counts=True)
    order = rng.permutation(len(names))
    taken = names[order[: int(np.searchsorted(np.cumsum(sizes[order]), _ROWS)) + 1]]
    return np.flatnonzero(np.isin(groups, taken))
