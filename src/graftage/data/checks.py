"""What is wrong with the pictures as data: a catalog and its groups become a list of problems, worst first."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from graftage.data.catalog import Catalog, Entry, write_csv
from graftage.data.sources import CONFLICTING

Severity = Literal["error", "warning", "note"]

PROBLEM_COLUMNS: Final = ("severity", "kind", "id", "detail")
FEW: Final = 10  # below this a class's recall cannot be measured to better than some 30 points either way
IMBALANCE: Final = 10  # largest class to smallest

_RANK: Final = {"error": 0, "warning": 1, "note": 2}


@dataclass(frozen=True)
class Problem:
    """One thing wrong with the data.

    Attributes:
        kind: "conflicting labels", "train and test share", "rejected", "repaired", "few pictures", "imbalance",
            "duplicates", "near-duplicates", "likely wrong label" or "empty class".
        severity: "error" makes the results wrong, "warning" makes them worse, "note" is good to know.
        id: the picture's id, or the class's name.
        detail: what was found.
    """

    kind: str
    severity: Severity
    id: str
    detail: str


def problems(
    catalog: Catalog, groups: NDArray[np.int64], copies: NDArray[np.int64] | None = None
) -> tuple[Problem, ...]:
    """Lists everything that is wrong with a catalog, worst first.

    Args:
        catalog: after `scan`.
        groups: int64 (n,) over its entries: pictures that are near-copies or belong together.
        copies: int64 (n,) likewise, pictures that are copies, exact or near; negative where not looked at. None: equal
            files.
    """
    assert len(groups) == len(catalog.entries), f"{len(groups)} groups for {len(catalog.entries)} entries"
    used = [entry for entry in catalog.entries if entry.status != "rejected"]
    found = [
        *_duplicates(catalog, used, copies),
        *_shared(used, groups),
        *_damaged(catalog.entries),
        *_class_sizes(catalog, used),
        *(Problem("empty class", "note", name, "a class folder without files") for name in catalog.empty_classes),
    ]
    return by_severity(found)


def by_severity(found: Iterable[Problem]) -> tuple[Problem, ...]:
    """Problems, worst first; those of one severity keep their order."""
    return tuple(sorted(found, key=lambda problem: _RANK[problem.severity]))


def write_problems(found: Iterable[Problem], path: Path) -> None:
    """Writes problems as csv: severity, kind, id, detail.

    Raises:
        StoreError: the file cannot be written.
    """
    write_csv(path, PROBLEM_COLUMNS, ((item.severity, item.kind, item.id, item.detail) for item in found))


def _duplicates(catalog: Catalog, used: Sequence[Entry], copies: NDArray[np.int64] | None) -> Iterator[Problem]:
    """Copies: one problem per set, an error if they are labelled differently; equal ones and near ones apart."""
    same: defaultdict[str | int, list[Entry]] = defaultdict(list)
    for entry in used:
        same[entry.digest if copies is None or copies[entry.index] < 0 else int(copies[entry.index])].append(entry)
    for entries in same.values():
        if not entries[0].digest or len(entries) < 2:
            continue
        first, *others = entries
        kind, like = _alike(entries)
        labels = sorted({entry.label for entry in entries if entry.label >= 0})
        if len(labels) > 1:
            names = ", ".join(repr(catalog.classes[label]) for label in labels)
            yield Problem("conflicting labels", "error", first.id, f"labelled {names}; {like} {_ids(others)}")
        else:
            yield Problem(kind, "note", first.id, f"{like} {_ids(others)}")


def _alike(entries: Sequence[Entry]) -> tuple[str, str]:
    """How copies are called: (kind of problem, words)."""
    if len({entry.digest for entry in entries}) == 1:
        return "duplicates", "same file as"
    if len({entry.pixels for entry in entries}) == 1 and entries[0].pixels:
        return "duplicates", "same pixels as"
    return "near-duplicates", "nearly the same picture as"


def _shared(used: Sequence[Entry], groups: NDArray[np.int64]) -> Iterator[Problem]:
    """Groups that lie in the training folder and in a held-out folder: the score would be flattered."""
    members: defaultdict[int, list[Entry]] = defaultdict(list)
    for entry in used:
        members[int(groups[entry.index])].append(entry)
    for group, entries in members.items():
        learnt = [entry for entry in entries if entry.split == "train"]
        held_out = [entry for entry in entries if entry.split in ("val", "test")]
        if group >= 0 and learnt and held_out:
            detail = f"the same picture or group as {_ids(learnt)} in train"
            yield from (Problem("train and test share", "error", entry.id, detail) for entry in held_out)


def _damaged(entries: Sequence[Entry]) -> Iterator[Problem]:
    for entry in entries:
        if entry.reason.startswith(CONFLICTING):
            yield Problem("conflicting labels", "error", entry.id, entry.reason)
        elif entry.status != "used":
            yield Problem(entry.status, "warning", entry.id, entry.reason)


def _class_sizes(catalog: Catalog, used: Sequence[Entry]) -> Iterator[Problem]:
    labels = [entry.label for entry in used if entry.label >= 0 and entry.split in ("", "train")]
    counts = np.bincount(np.array(labels, dtype=np.int64), minlength=len(catalog.classes))
    for name, count in zip(catalog.classes, counts, strict=True):
        if count < FEW:
            yield Problem("few pictures", "warning", name, f"{count} usable for training, fewer than {FEW}")
    if len(counts) and counts.max() > IMBALANCE * counts.min():
        large, small = catalog.classes[int(counts.argmax())], catalog.classes[int(counts.argmin())]
        detail = f"{counts.min()} pictures against {counts.max()} of {large!r}"
        yield Problem("imbalance", "warning", small, detail)


def _ids(entries: Sequence[Entry]) -> str:
    more = f" and {len(entries) - 5} more" if len(entries) > 5 else ""
    return ", ".join(entry.id for entry in entries[:5]) + more
