"""Where a table under way lies, how far it is, and how it is found again after a kill (W).

NAME.part collects the rows, NAME.seen what their pictures were (`data.traces`), NAME.resume says how many of them are
safely there. What a kill can leave half done is
mended here: a part that is full but has not got its name, a table that has its name but whose note is still there.
"""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from graftage.data.traces import SIZE
from graftage.errors import OptionError, StoreError
from graftage.serve.earlier import lines_of
from graftage.serve.tables import Format, Shape, lines_to_parquet


@dataclass(frozen=True)
class Progress:
    """How far the rows on disk are.

    Attributes:
        made_by: what must be the same for the rows to go on: the model, the columns, …, by name.
        rows: whole rows in all parts.
        length: bytes of the unfinished part that hold them.
        done: whether these are all.
        kept: what the caller wants to know when it goes on.
    """

    made_by: Mapping[str, str] = field(default_factory=dict)
    rows: int = 0
    length: int = 0
    done: bool = False
    kept: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Place:
    """Where a table goes.

    Attributes:
        target: the file, or the folder of parts.
        format: of what is left in the end.
        per_part: rows of a part; 0 where the target is one file.
    """

    target: Path
    format: Format
    per_part: int = 0

    @property
    def spooled(self) -> Literal["csv", "jsonl", "table"]:
        """The form in which rows are collected."""
        return "jsonl" if self.format == "parquet" else self.format

    @property
    def note(self) -> Path:
        """Where it is noted how far the rows are."""
        return self.target / ".resume" if self.per_part else self.target.with_name(f"{self.target.name}.resume")

    @property
    def seen(self) -> Path:
        """Where it is kept what the pictures of the rows were."""
        return self.target / ".seen" if self.per_part else self.target.with_name(f"{self.target.name}.seen")

    def final(self, part: int) -> Path:
        """The file that a part becomes."""
        return self.target / f"part-{part:05}.parquet" if self.per_part else self.target

    def spool(self, part: int) -> Path:
        """The file in which its rows are collected; readers of a folder of parts pass over names with a dot."""
        name = self.final(part).name
        return self.final(part).with_name(f".{name}.part" if self.per_part else f"{name}.part")

    def part(self, rows: int) -> int:
        """The part that the row after so many belongs to."""
        return rows // self.per_part if self.per_part else 0


def begin(place: Place, shape: Shape, made_by: Mapping[str, str], *, resume: bool) -> Progress:
    """Where to begin: at the first row, or where an interrupted run has come to; `done` if nothing is left to do.

    Raises:
        OptionError: the interrupted run is another, or parts of another run are in the folder.
        StoreError: the place cannot be written, or what was noted is not there.
    """
    if not place.per_part and place.target.is_dir():
        raise StoreError(f"{place.target}: is a folder: name a file to write")
    with store_errors(place.target):
        if place.per_part:
            place.target.mkdir(parents=True, exist_ok=True)
        noted = _read_note(place.note) if resume else None
        if noted is None:
            place.note.unlink(missing_ok=True)
            place.seen.unlink(missing_ok=True)
            if place.per_part:
                _require_no_parts(place.target)
            return Progress(made_by)
    if unlike := [name for name in sorted({*noted.made_by, *made_by}) if noted.made_by.get(name) != made_by.get(name)]:
        raise OptionError(
            f"{place.target}: the interrupted run had another {' and another '.join(unlike)}; give the same, or leave "
            "out --resume to begin anew"
        )
    return _mended(place, shape, noted)


def _mended(place: Place, shape: Shape, noted: Progress) -> Progress:
    """What was noted, once what a kill may have left half done is done."""
    part = place.part(noted.rows)
    with store_errors(place.target):
        if place.per_part and noted.length and noted.rows % place.per_part == 0:  # the part before is full
            complete(place, shape, part - 1)
            noted = replace(noted, length=0)
            write_note(place.note, noted)
        if place.per_part:
            _clear(place.target, but=place.spool(part))
        spool = place.spool(part)
        if noted.done and not spool.exists() and place.final(place.part(max(noted.rows - 1, 0))).exists():
            return noted  # it has its name already, only the note was left
        if place.per_part:
            _clear_parts(place, part)
        size, seen = (path.stat().st_size if path.exists() else 0 for path in (spool, place.seen))
    if size < noted.length or seen < noted.rows * SIZE:
        raise StoreError(f"{spool}: rows of the interrupted run are missing; leave out --resume to begin anew")
    return replace(noted, done=False)


def _require_no_parts(folder: Path) -> None:
    if found := sorted(path.name for path in folder.glob("part-*.parquet")):
        raise OptionError(
            f"{folder} holds parts of another run ({found[0]}): remove them, or name another folder (--resume goes on "
            "with an interrupted run)"
        )
    _clear(folder)


def _clear(folder: Path, *, but: Path | None = None) -> None:
    """Takes away what was collected for parts, or half written of them."""
    for spool in (*folder.glob(".part-*.part"), *folder.glob(".part-*.whole")):
        if spool != but:
            spool.unlink()


def _clear_parts(place: Place, first: int) -> None:
    """Takes away parts from the `first` on: their rows were taken back."""
    for final in place.target.glob("part-*.parquet"):
        if final.name >= place.final(first).name:
            final.unlink()


def take_back(place: Place, shape: Shape, noted: Progress, row: int, at: int) -> Progress:
    """The rows from number `row` (from 0) on are taken back, of which the first begins at byte `at` of its file.

    Whenever that is killed, either nothing or all of it has happened once `begin` has looked.
    """
    part = place.part(row)
    if part == place.part(noted.rows):
        length = at
    else:
        length = lines_of(place.final(part), place.spool(part), shape, row % place.per_part)
    left = replace(noted, rows=row, length=length, done=False, kept={})
    write_note(place.note, left)
    if place.per_part:
        _clear(place.target, but=place.spool(part))
        _clear_parts(place, part)
    return left


def complete(place: Place, shape: Shape, part: int) -> None:
    """The rows of a part, all of them, under their name; for Parquet they stay where they were collected, too."""
    spool, final = place.spool(part), place.final(part)
    if place.format != "parquet":
        spool.replace(final)
        return
    whole = final.with_name(f".{final.name}.whole")
    lines_to_parquet(spool, whole, shape)
    with whole.open("rb") as file:
        os.fsync(file.fileno())
    whole.replace(final)


# ---------------------------------------------------------------- notes


def write_note(path: Path, progress: Progress) -> None:
    """Puts a note in the place of the one before, forced to disk."""
    temporary = path.with_name(f"{path.name}.new")
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(asdict(progress), file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _read_note(path: Path) -> Progress | None:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        found = Progress(**values)
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise StoreError(f"{path}: is damaged ({error}); leave out --resume to begin anew") from error
    return found


@contextmanager
def store_errors(target: Path) -> Iterator[None]:
    """System errors name the file, so that they are not taken for those of a picture."""
    try:
        yield
    except OSError as fault:
        why = fault.strerror or str(fault)
        raise StoreError(f"{target}: cannot be written ({why}): choose another place or free some space") from fault
