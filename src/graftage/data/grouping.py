"""Which pictures belong together: what is known of it, what the user says, and what names and times let suspect.

Groups are numbers; pictures of one group are never on both sides of a split.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from graftage.data.catalog import Catalog
from graftage.data.split import exact_groups, merge_groups
from graftage.errors import DataError

Ints = NDArray[np.int64]

# How the names of series are told, as patterns for the user's own --group-by. Tried in this order.
_NAME_PATTERNS: Final = (
    r"([^/]*?[^/\d])\d+\.[^./]*$",  # the name without its running number: tree7_0012.jpg → tree7_
    r"([^/]*?\d[^/]*?)[-_ ][^/]*$",  # the name up to the first separator, with a number in it: p17_left.jpg → p17
    r"[^/]+/([^/]+)/[^/]+$",  # the folder within the class folder: oak/tuesday/1.jpg → tuesday
)
_LEAST_GROUPS: Final = 10  # fewer are no series that could be held out one after the other
_LEAST_SIZE: Final = 1.5  # mean number of pictures in a group
_LARGEST: Final = 0.5  # share of the pictures that one group may hold
_LEAST_PER_CLASS: Final = 3  # groups in every class: with fewer, holding groups out takes the class away
_MINUTE: Final = len("YYYY:MM:DD HH:MM")


def groups_of(catalog: Catalog) -> Ints:
    """The group of every entry, int64 (n,), numbered by first appearance: equal files, and what `Entry.group` says.

    Rejected entries are alone.
    """
    used = [entry.status != "rejected" for entry in catalog.entries]
    files = exact_groups([e.digest if use else "" for e, use in zip(catalog.entries, used, strict=True)])
    known = [e.group if use else -1 for e, use in zip(catalog.entries, used, strict=True)]
    return merge_groups(files, np.array(known, dtype=np.int64))


def copies_of(catalog: Catalog) -> Ints:
    """Entries that are the same picture, int64 (n,): equal in every pixel, or as files where pixels are not known."""
    used = [e for e in catalog.entries if e.status != "rejected"]
    files, pixels = [""] * len(catalog.entries), [""] * len(catalog.entries)
    for entry in used:
        files[entry.index], pixels[entry.index] = entry.digest, entry.pixels
    return merge_groups(exact_groups(files), exact_groups(pixels))


def by_pattern(ids: Sequence[str], pattern: re.Pattern[str]) -> tuple[Ints, int]:
    """Groups by file names.

    Args:
        ids: n posix paths relative to the data folder.
        pattern: regular expression that is searched for; its first group, or the whole match if it has none, names the
            group.

    Returns:
        int64 (n,) groups, -1 where the pattern is not found; and how many those are.

    Raises:
        DataError: it is found in no name.
    """
    names = list(_names(ids, pattern))
    missed = names.count("")
    if missed == len(ids):
        example = f", such as {ids[0]}" if ids else ""
        raise DataError(f"--group-by {pattern.pattern!r} is found in none of the {len(ids):,} paths{example}")
    groups = exact_groups(names)
    return np.where([name == "" for name in names], -1, groups), missed


def _names(ids: Sequence[str], pattern: re.Pattern[str]) -> Iterator[str]:
    """The name of each one's group, "" if there is none."""
    for name in ids:
        found = pattern.search(name)
        yield (found[1] if pattern.groups else found[0]) or "" if found else ""


@dataclass(frozen=True, eq=False)
class Suspicion:
    """Pictures that may belong together.

    Attributes:
        why: "file names", "the time they were taken at" or "how alike they look".
        pattern: for --group-by, "" where names do not tell.
        groups: int64 (n,).
    """

    why: str
    pattern: str
    groups: Ints


def suspicions(ids: Sequence[str], taken: Sequence[str], alike: Ints, known: Ints, y: Ints) -> tuple[Suspicion, ...]:
    """Groupings that names, times and looks suggest, as far as they could be held out one after the other.

    Args:
        ids: n posix paths relative to the data folder.
        taken: n cameras and times, as in `Facts.taken`.
        alike: int64 (n,) pictures that look alike.
        known: int64 (n,) the groups that are kept together anyway.
        y: int64 (n,) labels.
    """
    found = [Suspicion("file names", p, by_names) for p in _NAME_PATTERNS if (by_names := _series(ids, p)) is not None]
    minutes = exact_groups([time[: time.rfind("|") + 1 + _MINUTE] for time in taken])
    found.append(Suspicion("the time they were taken at", "", minutes))
    found.append(Suspicion("how alike they look", "", alike))
    kept: list[Suspicion] = []
    for each in found:
        merged = merge_groups(known, each.groups)
        others = [np.array_equal(merged, merge_groups(known, other.groups)) for other in kept]
        if not any(others) and len(np.unique(merged)) < len(np.unique(known)) and testable(merged, y):
            kept.append(each)
    return tuple(kept)


def _series(ids: Sequence[str], pattern: str) -> Ints | None:
    names = list(_names(ids, re.compile(pattern)))
    return exact_groups(names) if any(names) else None


def testable(groups: Ints, y: Ints) -> bool:
    """Whether groups (n,) of pictures with labels y (n,) are many and small enough to be held out in turn."""
    sizes = np.unique(groups, return_counts=True)[1]
    if len(sizes) < _LEAST_GROUPS or sizes.mean() < _LEAST_SIZE or sizes.max() > _LARGEST * len(groups):
        return False
    pairs = np.unique(np.stack([y, groups]), axis=1)
    return int(np.unique(pairs[0], return_counts=True)[1].min()) >= _LEAST_PER_CLASS
