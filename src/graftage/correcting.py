"""`graftage clean` where pictures come from a table: rows are relabelled or taken out, pictures stay where they are.

The table is replaced at once, by a rename. Before that, in NAME-aside/ beside it, both versions are kept, as
0001-before-NAME and 0001-after-NAME; which cleans stand is told by what the table holds now. So no interruption loses
anything, and an undo never overwrites what somebody has changed since.
"""

import csv
import io
import json
import os
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

from graftage.data import listing
from graftage.data.catalog import printable
from graftage.data.listing import Columns, Text
from graftage.data.marks import class_columns, is_mark
from graftage.data.sources import Sources, labelled
from graftage.errors import DataError, OptionError, StoreError
from graftage.moves import SHOWN, alone, aside_of

_BEFORE: Final = "before"
_AFTER: Final = "after"
_UNDONE: Final = "undone"


@dataclass(frozen=True)
class Wanted:
    """What is to happen to a picture: `action` "move" takes its rows out, "relabel" gives them the label."""

    line: int
    path: str
    action: str
    label: str


@dataclass(frozen=True)
class Edit:
    """What happens to row number `row` of the table, counted from 0: it gets a label, or is taken out by None."""

    row: int
    path: str
    old: str
    label: str | None

    def line(self) -> str:
        """In words."""
        return f"{printable(self.path)}: {self.old} → {'taken out' if self.label is None else self.label}"


def correct(data: Path, wanted: Sequence[Wanted], columns: Columns, *, dry: bool) -> tuple[tuple[Edit, ...], int]:
    """Carries out what is wanted of a table.

    Args:
        data: the table, or the folder of its metadata.csv.
        wanted: what is to be done.
        columns: of the table, by name.
        dry: check and tell, change nothing.

    Returns:
        The rows changed, and how many of `wanted` had been carried out before.

    Raises:
        OptionError: a Parquet table.
        DataError: something cannot be carried out; nothing has been changed.
        StoreError: the table cannot be written; it is as it was.
    """
    file = _file(data)
    with alone(file, dry=dry):
        sources = labelled(file, columns)
        edits, already = _plan(file, sources, wanted, columns)
        if edits and not dry:
            _replace(file, _edited(file, columns, edits))
    return edits, already


def undo(data: Path, *, dry: bool) -> int:
    """Puts back the table as it was before the last clean that stands; returns how many lines that gives back.

    Raises:
        DataError: there is none, or the table has been changed since.
        StoreError: the table cannot be written.
    """
    file = _file(data)
    kept = _kept(file, _AFTER)
    if not kept:
        raise DataError(f"there is no clean of {file} to take back (looked in {aside_of(file)})")
    with alone(file, dry=dry):
        now = _read(file)
        standing = [number for number, path in kept.items() if _read(path) == now]
        if not standing:
            if any(_read(_path(file, number, _BEFORE)) == now for number in kept):  # interrupted before it took place
                raise DataError(f"there is no clean of {file} to take back: it holds what it held before")
            raise DataError(
                f"{file} has been changed since it was cleaned, so it is left as it is; what it was before is in "
                f"{_path(file, max(kept), _BEFORE)}"
            )
        number = max(standing)
        before = _read(_path(file, number, _BEFORE))
        if not dry:
            _write(file, before)
            _path(file, number, _AFTER).rename(_path(file, number, _UNDONE))
    return (Counter(before.splitlines()) - Counter(now.splitlines())).total()


def _file(data: Path) -> Path:
    table = listing.table_of(data)
    assert table is not None, f"{data} is no table"
    if not table.exists():
        raise DataError(f"{data} does not exist: give the table that was checked")
    if table.suffix.lower() == ".parquet":
        raise OptionError(
            f"{data}: clean changes .csv, .tsv and .jsonl tables, not Parquet; save it as one of them and check that, "
            "or change the rows named in problems.csv where the table was made"
        )
    return table.resolve()


# Planning


def _plan(file: Path, sources: Sources, wanted: Sequence[Wanted], columns: Columns) -> tuple[tuple[Edit, ...], int]:
    """Edits by row. Raises DataError with everything that cannot be carried out."""
    rows: dict[str, list[int]] = {}  # a picture, by where it lies → its rows
    names: dict[str, set[str]] = {}  # as problems.csv writes it → where it lies
    for i, source in enumerate(sources.rows):
        if source.id:
            place = os.path.normpath(source.path)
            rows.setdefault(place, []).append(i)
            names.setdefault(printable(source.id), set()).add(place)
    faults: list[str] = []
    edits: dict[int, tuple[Edit, int]] = {}
    gone = _taken_out(file, columns)
    already = 0
    for each in wanted:
        try:
            place = _place(file, each, names, gone)
            _require_label(sources, each)
        except DataError as error:
            faults.append(f"line {each.line}: {error}")
            continue
        label = each.label if each.action == "relabel" else None
        own = rows.get(place, []) if place else []
        own = [i for i in own if label is None or sources.rows[i].label != label]
        already += not own
        for i in own:
            edit = Edit(i, sources.rows[i].id, sources.rows[i].label, label)
            before = edits.setdefault(i, (edit, each.line))
            if before[0] != edit:
                faults.append(f"line {each.line}: {each.path} is asked for otherwise in line {before[1]}")
                break
    if faults:
        more = f"\n  and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
        raise DataError("nothing was changed, because\n  " + "\n  ".join(faults[:SHOWN]) + more)
    return tuple(edits[i][0] for i in sorted(edits)), already


def _place(file: Path, each: Wanted, names: Mapping[str, set[str]], gone: set[str]) -> str:
    """Where the picture lies; "" if its row has been taken out already."""
    if not each.path:
        raise DataError("the row names no picture, so there is nothing to change")
    found = names.get(each.path, set())
    if len(found) > 1:
        raise DataError(
            f"{each.path!r} is the name of {len(found)} files when written as text; change the table by hand"
        )
    if found:
        return next(iter(found))
    if each.action == "move" and each.path in gone:
        return ""
    near = get_close_matches(each.path, list(names), n=1, cutoff=0.8)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise DataError(f"there is no row for {each.path!r} in {file}{hint}")


def _require_label(sources: Sources, each: Wanted) -> None:
    if each.action != "relabel" or each.label in sources.classes:
        return
    if not each.label:
        raise DataError(f"there is no suggested label for {each.path}")
    near = get_close_matches(each.label, sources.classes, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise DataError(f"the suggested label {each.label!r} is no class of {sources.root}{hint}")


def _taken_out(file: Path, columns: Columns) -> set[str]:
    """Paths, as problems.csv writes them, that a table held before one of the cleans that were made."""
    found: set[str] = set()
    for number in _kept(file, _AFTER):
        with suppress(DataError):  # it was another kind of table then
            found |= {printable(row.path) for row in listing.read(_path(file, number, _BEFORE), columns).records}
    return found


# Editing


def _edited(file: Path, columns: Columns, edits: Sequence[Edit]) -> bytes:
    """The table with these rows changed; all other rows byte for byte as they are."""
    text = listing.text_of(file)
    changes = {edit.row: edit.label for edit in edits}
    label = listing.read(file, columns).columns.label
    lines = list(text.lines)
    if file.suffix.lower() == ".jsonl":
        for row, (number, _) in enumerate(listing.json_lines(text)):
            if row in changes:
                lines[number - 1] = _json_line(lines[number - 1], label, changes[row])
    else:
        names, rows = listing.cells_of(text)
        for row, each in enumerate(rows):
            if row in changes:
                new = _new_cells(dict(zip(names, each.cells, strict=False)), label, changes[row], ("0", "1"))
                cells = [new.get(name, cell) for name, cell in zip(names, each.cells, strict=False)]
                more = each.cells[len(names) :]
                lines[each.line - 1 : each.end] = [
                    *([] if changes[row] is None else [_row(text, [*cells, *more], lines[each.end - 1])]),
                    *[""] * (each.end - each.line + (changes[row] is None)),  # later rows keep their numbers
                ]
    return "".join(lines).encode(text.encoding, "strict" if text.encoding == "utf-16" else "surrogateescape")


def _row(text: Text, cells: Sequence[str | None], last: str) -> str:
    """Cells as a line of the table, ended as the line that it replaces."""
    stream = io.StringIO()
    csv.writer(stream, delimiter=listing.delimiter_of(text), lineterminator="\r\n").writerow(cells)
    return stream.getvalue().removesuffix("\r\n") + last[len(last.rstrip("\r\n")) :]


def _new_cells(cells: Mapping[str, Any], label: str, new: str | None, usual: tuple[Any, Any]) -> dict[str, Any]:
    """What changes in a row that gets a label; 0 and 1 are written as they stand in it, or else as usual."""
    if not (classes := class_columns([*cells], label)):
        return {label: new}
    found = {is_mark(str(cells[name])): cells[name] for name in reversed(classes) if cells.get(name) not in (None, "")}
    zero, one = (found.get(marked, text) for marked, text in zip((False, True), usual, strict=True))
    return {name: one if name == new else zero for name in classes}


def _json_line(line: str, name: str, label: str | None) -> str:
    if label is None:
        return ""
    record: dict[str, Any] = json.loads(line)
    if class_columns([*record], name):
        record |= _new_cells(record, name, label, (0, 1))
        return json.dumps(record, ensure_ascii=False) + line[len(line.rstrip("\r\n")) :]
    number = isinstance(record.get(name), int) and not isinstance(record.get(name), bool)
    record[name] = int(label) if number and label.lstrip("-").isdecimal() and str(int(label)) == label else label
    return json.dumps(record, ensure_ascii=False) + line[len(line.rstrip("\r\n")) :]


# Keeping


def _replace(file: Path, content: bytes) -> None:
    """Keeps both versions, then puts the new one in place."""
    number = max([*_kept(file, _AFTER), *_kept(file, _BEFORE)], default=0) + 1
    _write(_path(file, number, _BEFORE), _read(file))
    _write(_path(file, number, _AFTER), content)
    _write(file, content)


def _path(file: Path, number: int, what: str) -> Path:
    return aside_of(file) / f"{number:04}-{what}-{file.name}"


def _kept(file: Path, what: str) -> dict[int, Path]:
    """Versions kept in NAME-aside/, by number, oldest first."""
    found = sorted(aside_of(file).glob(f"[0-9][0-9][0-9][0-9]-{what}-*"))
    return {int(path.name[:4]): path for path in found if path.name[5:] == f"{what}-{file.name}"}


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise StoreError(f"{file}: cannot be read ({error.strerror})") from error


def _write(file: Path, content: bytes) -> None:
    """Writes a file that appears whole, with the permissions of the one that it replaces."""
    partial = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        try:
            with partial.open("wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            if file.exists():
                shutil.copymode(file, partial)
            partial.replace(file)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise StoreError(f"{file}: cannot be written ({error.strerror}); nothing was changed") from error
