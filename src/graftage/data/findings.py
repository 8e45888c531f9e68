"""All that `graftage check` finds, in one list for a person: a row per problem, worst first, with what may be done.

Here: what the catalog alone tells (files, copies, classes). What was computed from pictures is added by the caller.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from graftage.data.catalog import Catalog, Entry, write_csv
from graftage.data.checks import FEW, IMBALANCE, Severity
from graftage.data.sources import CONFLICTING, NO_CLASS_FOLDER, TABLE_REASONS, UNKNOWN_CLASS

Ints = NDArray[np.int64]

FINDING_COLUMNS: Final = (
    "kind", "severity", "path", "other path", "label", "suggested label", "evidence", "action"
)  # fmt: skip

# Every kind in the order in which a person should look at them, with what it means.
KINDS: Final = {
    "missing class": "A class that cannot be learnt or tested, because pictures of it are missing.",
    "train and test share": "The same picture lies in a training and in a held-out folder: the score is flattered.",
    "conflicting labels": "Copies of one picture lie in different classes: at least one label is wrong.",
    "shortcut": "Something beside the content predicts the label. A classifier may learn that instead.",
    "many wrong labels": "So many labels look wrong that scores suffer.",
    "likely wrong label": "Classifiers that have not seen the picture, and its neighbours, would give another label.",
    "unreadable": "The file cannot be used.",
    "repaired": "The file is damaged; what is left of it is used.",
    "few pictures": f"Fewer than {FEW} pictures: a score of this class would say little.",
    "imbalance": f"The largest class is more than {IMBALANCE} times the smallest.",
    "unlike the rest": "Its nearest neighbours in this set are unusually far away. It may not belong here.",
    "too dark": "Even its brightest parts are dark, and unusually so for this set.",
    "too bright": "Even its darkest parts are bright, and unusually so for this set.",
    "low information": "There is hardly anything to see, and less than is usual for this set.",
    "blurred": "It has hardly any edges, and fewer than is usual for this set: blurred, or very plain.",
    "odd shape": "It is unusually long or wide.",
    "odd size": "It is far larger or smaller than the rest.",
    "duplicates": "The very same file again, with the same label. They are kept together when measuring.",
    "near-duplicates": "Nearly the same picture again, with the same label. They are kept together when measuring.",
    "empty class": "A class folder without files.",
}

_RANK: Final = {"error": 0, "warning": 1, "note": 2}
_PLACES: Final = {kind: place for place, kind in enumerate(KINDS)}
_NOT_LEARNABLE: Final = 2  # below so many usable pictures a class cannot be learnt and held out
# What is wrong with where a file lies or with what a table says of it: moving it aside mends nothing.
_OUTSIDE: Final = (NO_CLASS_FOLDER, UNKNOWN_CLASS, *TABLE_REASONS)
_UNMOVABLE: Final = ("permission denied", "missing", "broken link", "not a file", "changed while running")


@dataclass(frozen=True)
class Finding:
    """One problem.

    Attributes:
        kind: one of `KINDS`.
        severity: "error" makes results wrong, "warning" makes them worse, "note" is good to know.
        path: id of the picture, "" where it concerns a class or the whole set.
        other: id of the other picture, where two are concerned.
        label: the class.
        suggested: the class that it probably belongs to.
        evidence: what was found.
        action: what `graftage clean` is to do: "", "move" or "relabel".
    """

    kind: str
    severity: Severity
    path: str = ""
    other: str = ""
    label: str = ""
    suggested: str = ""
    evidence: str = ""
    action: str = ""


def worst_first(found: Iterable[Finding]) -> tuple[Finding, ...]:
    """By severity, then kind by kind; within a kind in the order given."""
    return tuple(sorted(found, key=lambda each: (_RANK[each.severity], _PLACES[each.kind])))


def write_findings(found: Iterable[Finding], path: Path) -> None:
    """Writes findings as csv (UTF-8). Raises StoreError if the file cannot be written."""
    rows = ((f.kind, f.severity, f.path, f.other, f.label, f.suggested, f.evidence, f.action) for f in found)
    write_csv(path, FINDING_COLUMNS, rows)


def structural(catalog: Catalog, groups: Ints) -> Iterator[Finding]:
    """What files, copies and classes tell.

    Args:
        catalog: after `scan`.
        groups: int64 (n,) over its entries: exact and near-copies of one picture have one number; rejected ones their
            own. Members with equal digests are called duplicates, others near-duplicates.
    """
    assert len(groups) == len(catalog.entries), f"{len(groups)} groups for {len(catalog.entries)} entries"
    yield from _unusable(catalog)
    members: defaultdict[int, list[Entry]] = defaultdict(list)
    for entry in catalog.entries:
        if entry.status != "rejected":
            members[int(groups[entry.index])].append(entry)
    for copies in members.values():
        if len(copies) > 1:
            yield from _copies(catalog, copies)
    yield from _classes(catalog)


def _unusable(catalog: Catalog) -> Iterator[Finding]:
    for entry in catalog.entries:
        label = _name(catalog, entry)
        if entry.status == "repaired":
            yield Finding("repaired", "warning", entry.id, label=label, evidence=entry.reason)
        elif entry.reason.startswith(CONFLICTING):
            yield Finding("conflicting labels", "error", entry.id, label=entry.named, evidence=entry.reason)
        elif entry.status == "rejected" and entry.reason != UNKNOWN_CLASS:
            action = "move" if movable(entry) else ""
            yield Finding("unreadable", "warning", entry.id, label=label, evidence=entry.reason, action=action)
    unknown = Counter(entry.named for entry in catalog.entries if entry.reason == UNKNOWN_CLASS)
    for name, count in unknown.items():
        yield Finding("missing class", "error", label=name, evidence=f"{count} pictures to test on, none in train")


def movable(entry: Entry) -> bool:
    """Whether an unusable file is better moved aside: damaged or no picture, and not merely out of reach."""
    reason = entry.reason.partition(":")[0]
    return reason not in (*_OUTSIDE, *_UNMOVABLE) and not entry.path.is_symlink()


def _copies(catalog: Catalog, copies: Sequence[Entry]) -> Iterator[Finding]:
    """One row for every copy; where labels differ, for every copy with one of another label beside it."""
    labels = {entry.label for entry in copies if entry.label >= 0}
    learnt = [entry for entry in copies if entry.split in ("", "train")]
    first = copies[0]
    if len(labels) > 1:
        for entry in copies:
            other = next(each for each in copies if each.label != entry.label)
            words = f"{_same(entry, other)} is labelled {_name(catalog, other)!r}"
            yield _pair("conflicting labels", "error", catalog, entry, other, words)
    elif learnt:
        kind = "near-duplicates" if any(each.digest != first.digest for each in copies) else "duplicates"
        for entry in copies[1:]:
            yield _pair(kind, "note", catalog, entry, first, _same(entry, first))
    trained = [entry for entry in copies if entry.split == "train"]
    for entry in copies:
        if trained and entry.split in ("val", "test"):
            words = f"{_same(entry, trained[0])} lies in train"
            yield _pair("train and test share", "error", catalog, entry, trained[0], words)


def _pair(kind: str, severity: Severity, catalog: Catalog, entry: Entry, other: Entry, words: str) -> Finding:
    return Finding(kind, severity, entry.id, other.id, _name(catalog, entry), evidence=words)


def _same(entry: Entry, other: Entry) -> str:
    return "the same file" if entry.digest == other.digest else "nearly the same picture"


def _name(catalog: Catalog, entry: Entry) -> str:
    return catalog.classes[entry.label] if entry.label >= 0 else ""


def _classes(catalog: Catalog) -> Iterator[Finding]:
    used = [entry for entry in catalog.entries if entry.status != "rejected" and entry.label >= 0]
    counts = Counter(entry.label for entry in used if entry.split in ("", "train"))
    for label, name in enumerate(catalog.classes):
        n = counts[label]
        if n < _NOT_LEARNABLE:
            words = f"{n} usable pictures to learn from, at least {_NOT_LEARNABLE} are needed"
            yield Finding("missing class", "error", label=name, evidence=words)
        elif n < FEW:
            yield Finding("few pictures", "warning", label=name, evidence=f"{n} usable pictures to learn from")
    tested = {entry.label for entry in used if entry.split == "test"}
    for label, name in enumerate(catalog.classes if tested else ()):
        if label not in tested:
            yield Finding(
                "missing class", "warning", label=name, evidence=f"no usable picture in the test {catalog.part}"
            )
    if len(catalog.classes) == 1:
        yield Finding("missing class", "error", label=catalog.classes[0], evidence="the only class; two are needed")
    sizes = [counts[label] for label in range(len(catalog.classes))]
    if sizes and max(sizes) > IMBALANCE * min(sizes):
        small, large = catalog.classes[int(np.argmin(sizes))], catalog.classes[int(np.argmax(sizes))]
        yield Finding("imbalance", "warning", label=small, evidence=f"{min(sizes)} pictures, {max(sizes)} of {large!r}")
    for name in catalog.empty_classes:
        yield Finding("empty class", "note", label=name, evidence="a class folder without files")
