"""Looks at every file once: rows become a catalog, with sizes, digests and what cannot be used.

The catalog's order is the order of the sources, whatever thread finished first.
"""

import csv
import hashlib
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from graftage.data.decode import DEFAULT_LIMITS, Facts, Limits, decode, inspect
from graftage.data.sources import Source, Sources, read
from graftage.errors import DataError, PictureError, StoreError

Status = Literal["used", "repaired", "rejected"]

LEDGER_COLUMNS: Final = (
    "id", "path", "status", "reason", "label", "split", "group", "width", "height", "digest"
)  # fmt: skip
_SUFFIXES: Final = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "PNG": (".png", ".apng"),
    "WebP": (".webp",),
    "TIFF": (".tif", ".tiff"),
    "BMP": (".bmp", ".dib"),
    "GIF": (".gif",),
}
_MINIMUM: Final = 2  # pictures of a class: one to learn from, one held out


@dataclass(frozen=True)
class Entry:
    """One input and what became of it.

    Attributes:
        index: its place in the catalog.
        id: posix path relative to the root; of a table's row, as written there.
        path: where the file lies.
        status: "used", "repaired" (truncated, what is left is used) or "rejected".
        reason: why it was rejected; else a remark such as "PNG content in a .jpg name", or "".
        label: index into the catalog's classes, -1 if none.
        split: "train", "val", "test" or "".
        group: number of the group that must stay together, -1 until known; a table may tell it from the start.
        width: pixels of the upright picture, 0 if unknown.
        height: likewise.
        digest: sha256 of the file's bytes in hex, "" if it was not read.
        taken: camera and time by EXIF, see `Facts`.
        pixels: sha256 of the upright pixels in hex, at the scale they are decoded at; "" until they were.
        named: the label as it was given, also where it is none of the classes.
    """

    index: int
    id: str
    path: Path
    status: Status
    reason: str
    label: int
    split: str
    group: int
    width: int
    height: int
    digest: str
    taken: str = ""
    pixels: str = ""
    named: str = ""


@dataclass(frozen=True, eq=False)
class Catalog:
    """All inputs, in the order of the sources; changed by making a new one.

    Attributes:
        root: the folder that ids are relative to, or the table.
        classes: class names; an entry's label indexes them.
        entries: one per input.
        empty_classes: class folders without files.
        table: whether labels and splits come from a table, not from folders.
    """

    root: str
    classes: tuple[str, ...]
    entries: tuple[Entry, ...]
    empty_classes: tuple[str, ...] = ()
    table: bool = False

    @property
    def part(self) -> str:
        """What train, val and test are called here: "folder" or "split"."""
        return "split" if self.table else "folder"

    @property
    def usable(self) -> tuple[int, ...]:
        """Indices of the entries that are not rejected."""
        return tuple(entry.index for entry in self.entries if entry.status != "rejected")

    def labels(self) -> NDArray[np.int64]:
        """Labels over all entries, int64 (n,), -1 where there is none."""
        return np.array([entry.label for entry in self.entries], dtype=np.int64)

    def with_entries(self, changes: Mapping[int, Entry]) -> "Catalog":
        """A catalog in which the entries at these indices are replaced."""
        return replace(self, entries=tuple(changes.get(entry.index, entry) for entry in self.entries))

    def reject(self, index: int, reason: str) -> "Catalog":
        """A catalog in which this entry is rejected."""
        return self.with_entries({index: replace(self.entries[index], status="rejected", reason=reason)})

    def counts(self) -> dict[str, int]:
        """Number of entries by status: "used", "repaired", "rejected"."""
        found = Counter(entry.status for entry in self.entries)
        return {"used": found["used"], "repaired": found["repaired"], "rejected": found["rejected"]}


def scan(
    sources: Sources,
    *,
    limits: Limits = DEFAULT_LIMITS,
    workers: int,
    repair: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Catalog:
    """Reads every file once: digest, header, and a full decode where the file's end looks wrong.

    Args:
        sources: what `labelled` found. Rows that carry a reason are rejected without being read.
        limits: largest file and picture.
        workers: number of threads.
        repair: use truncated files as far as they go (status "repaired") instead of rejecting them.
        progress: called with (done, total) after each file, in this thread.
    """
    places = {name: label for label, name in enumerate(sources.classes)}
    look = partial(_look, places=places, limits=limits, repair=repair)
    numbers: dict[str, int] = {"": -1}
    groups = [numbers.setdefault(row.group, len(numbers) - 1) for row in sources.rows]
    entries: list[Entry] = []
    with ThreadPoolExecutor(max(1, workers)) as pool:
        for entry in pool.map(look, range(len(sources.rows)), sources.rows):  # cancels what is queued if interrupted
            entries.append(replace(entry, group=groups[entry.index]))
            if progress is not None:
                progress(len(entries), len(sources.rows))
    table = sources.layout == "table"
    return Catalog(str(sources.root), sources.classes, tuple(entries), sources.empty_classes, table)


def _look(index: int, source: Source, *, places: Mapping[str, int], limits: Limits, repair: bool) -> Entry:
    blank = Entry(
        index=index,
        id=source.id,
        path=source.path,
        status="rejected",
        reason=source.reason,
        label=places.get(source.label, -1),
        split=source.split,
        group=-1,
        width=0,
        height=0,
        digest="",
        named=source.label,
    )
    if source.reason:
        return blank
    digest = ""
    try:
        data = read(source.path, limits=limits)
        digest = hashlib.sha256(data).hexdigest()
        facts = inspect(data, limits=limits)
        # cover=1: the whole file is parsed, but a JPEG is decoded at an eighth
        repaired = facts.suspicious and decode(data, cover=1, limits=limits, repair=repair).repaired
    except PictureError as error:
        return replace(blank, reason=str(error), digest=digest)
    return replace(
        blank,
        status="repaired" if repaired else "used",
        reason="truncated" if repaired else _misnamed(source.path, facts),
        width=facts.width,
        height=facts.height,
        digest=digest,
        taken=facts.taken,
    )


def _misnamed(path: Path, facts: Facts) -> str:
    suffix = path.suffix.lower()
    return f"{facts.format} content in a {suffix} name" if suffix and suffix not in _SUFFIXES[facts.format] else ""


def require_learnable(catalog: Catalog) -> None:
    """Checks that there is something to learn, before any work.

    Raises:
        DataError: fewer than two classes, a class whose name is no valid text, or a class with fewer than two usable
            training pictures.
    """
    if odd := [name for name in catalog.classes if printable(name) != name]:
        raise DataError(
            f"{catalog.root}: the class folder '{printable(odd[0])}' has a name that is no UTF-8 text, and a class "
            "must have a name that can be written: rename it"
        )
    if len(catalog.classes) < 2:
        only = ", ".join(map(repr, catalog.classes)) or "none"
        raise DataError(
            f"{catalog.root} holds one class only ({only}): a classifier needs at least two "
            + (
                "different labels. If another column holds the classes, name it with --label-col"
                if catalog.table
                else "class folders. If the classes are one folder further down, give that folder"
            )
        )
    training = [entry for entry in catalog.entries if entry.split in ("", "train") and entry.label >= 0]
    usable = Counter(entry.label for entry in training if entry.status != "rejected")
    poor = [label for label in range(len(catalog.classes)) if usable[label] < _MINIMUM]
    if poor:
        lines = [_poor_class(catalog.classes[label], usable[label], training, label) for label in poor[:10]]
        more = f"\n  and {len(poor) - 10} more classes" if len(poor) > 10 else ""
        raise DataError(
            f"{len(poor)} of {len(catalog.classes)} classes in {catalog.root} have fewer than {_MINIMUM} usable "
            f"training pictures. Add pictures, mend what was rejected, or {_way_out(catalog)}:\n"
            + "\n".join(lines)
            + more
        )


def _way_out(catalog: Catalog) -> str:
    return "take the rows of the class out" if catalog.table else "move the class folder away"


def _poor_class(name: str, count: int, training: Sequence[Entry], label: int) -> str:
    rejected = [entry for entry in training if entry.label == label and entry.status == "rejected"]
    shown = "; ".join(f"{entry.id} ({entry.reason})" for entry in rejected[:5])
    more = f"; and {len(rejected) - 5} more" if len(rejected) > 5 else ""
    return f"  {name!r}: {count} usable, rejected: {shown or 'none'}{more}"


def write_ledger(catalog: Catalog, path: Path) -> None:
    """Writes one row per input as csv (UTF-8): id, path, status, reason, label, split, group, width, height, digest.

    The label is the class name. Bytes of a file name that are no UTF-8 are written as `\\\\xff`.

    Raises:
        StoreError: the file cannot be written.
    """
    write_csv(path, LEDGER_COLUMNS, (_ledger_row(catalog, entry) for entry in catalog.entries))


def _ledger_row(catalog: Catalog, entry: Entry) -> tuple[object, ...]:
    label = catalog.classes[entry.label] if entry.label >= 0 else ""
    return (
        entry.id, entry.path, entry.status, entry.reason, label,
        entry.split, entry.group, entry.width, entry.height, entry.digest,
    )  # fmt: skip


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Writes a csv file under a temporary name beside `path`, then renames it: a reader never sees half of it.

    Raises:
        StoreError: the file cannot be written.
    """
    partial_path = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        try:
            with partial_path.open("w", encoding="utf-8", newline="") as file:
                writer = csv.writer(file)  # its \r\n line ends make it quote both \r and \n inside names
                writer.writerow(columns)
                writer.writerows([printable(str(cell)) for cell in row] for row in rows)
            partial_path.replace(path)
        finally:
            partial_path.unlink(missing_ok=True)
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror or error}") from error


def printable(text: str) -> str:
    r"""Text that can be written as UTF-8: undecodable bytes of a file name become `\xff`, lone surrogates `\ud800`."""
    bytes_shown = re.sub("[\udc80-\udcff]", lambda found: f"\\x{ord(found[0]) - 0xDC00:02x}", text)
    return bytes_shown.encode("utf-8", "backslashreplace").decode("utf-8")
