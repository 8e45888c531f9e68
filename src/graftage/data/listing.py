"""Tables that name pictures and labels: a .csv, .tsv, .jsonl or .parquet file becomes records of text.

Which column is what is found by usual names or told. No picture is looked at here, and no row is left out: what a row
lacks is written in its record. A file that cannot be taken apart into rows is an error that says where.
"""

import codecs
import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

from graftage.data.marks import class_columns, marked
from graftage.errors import DataError, OptionError

SUFFIXES: Final = (".csv", ".tsv", ".jsonl", ".parquet")
METADATA: Final = "metadata.csv"  # in a folder of pictures: the layout of Hugging Face's imagefolder
NONE: Final = "none"  # as a column's name: take no such column
SHORT: Final = "cells are missing"
LONG: Final = "too many cells"

_USUAL: Final[Mapping[str, tuple[str, ...]]] = {
    "path": ("file_name", "filename", "path", "image", "image_path", "file", "file_path", "filepath"),
    "label": ("label", "class", "target", "category"),
    "group": ("group", "group_id", "patient", "patient_id", "subject", "subject_id"),
    "split": ("split", "set", "subset"),
}
_WHAT: Final = {"path": "the pictures' files", "label": "the labels", "group": "the groups", "split": "the split"}
_OPTIONAL: Final = ("group", "split")
_CLASS: Final = "label "  # before the name of a class: the key of its column of 0 and 1


@dataclass(frozen=True)
class Columns:
    """Names of a table's columns: those asked for, where "" looks for usual names; or those found, where "" is none.

    Attributes:
        path: of the pictures' files, relative to `root`.
        label: of the class names; or, joined by commas, the columns of 0 and 1, one for each class.
        group: of what is never on both sides of a split.
        split: of train, val or test.
        root: no column, but the folder in which the paths begin; "" is the table's own.
    """

    path: str = ""
    label: str = ""
    group: str = ""
    split: str = ""
    root: str = ""

    def flags(self) -> tuple[str, ...]:
        """What was asked for, as words of the command line."""
        roles = [word for role, name in _roles(self) for word in (f"--{role}-col", name)]
        return (*roles, "--root", self.root) if self.root else tuple(roles)

    def folder(self, table: Path) -> Path:
        """Where the paths of this table begin."""
        return Path(self.root) if self.root else table.parent


@dataclass(frozen=True)
class Record:
    """What one row says, without blanks at the ends but in `path`.

    Attributes:
        place: "line 7", or "row 7" where there are no lines.
        path, label, group, split: as written, "" where there is nothing.
        fault: why the row cannot be read as meant, "" if it can.
    """

    place: str
    path: str
    label: str
    group: str
    split: str
    fault: str = ""


@dataclass(frozen=True)
class Listing:
    """A table, row by row.

    Attributes:
        file: where it lies.
        columns: those found, "" where there is none.
        records: one per row, in order.
    """

    file: Path
    columns: Columns
    records: tuple[Record, ...]


def table_of(data: Path) -> Path | None:
    """The table that `data` names: itself, by its ending, or the metadata.csv in it; None if it is a plain folder."""
    if data.suffix.lower() in SUFFIXES and not data.is_dir():
        return data
    return data / METADATA if (data / METADATA).is_file() else None


def title_of(data: str | Path) -> str:
    """What to call the pictures: the folder's name, or that of a table without its ending."""
    place = Path(data).resolve()
    if place.name == METADATA:
        return place.parent.name
    return place.stem if place.suffix.lower() in SUFFIXES and not place.is_dir() else place.name


def read(file: Path, asked: Columns | None = None) -> Listing:
    """Reads a table.

    Args:
        file: with one of `SUFFIXES`. Text is UTF-8 (or UTF-16 with its mark); bytes of a file's name that are none are
            kept, as on the disk. A .csv is separated by commas, semicolons, tabs or bars, as its first line shows.
        asked: columns by name; "" looks for usual names, "none" takes no group or split.

    Raises:
        OptionError: Parquet without pyarrow.
        DataError: the file cannot be read, is empty or broken; a column is not there or not the only one that it may
            be; a label, group or split is no valid text.
    """
    asked = asked or Columns()
    kind = file.suffix.lower()
    if kind == ".parquet":
        return _parquet(file, asked)
    text = text_of(file)
    if kind == ".jsonl":
        objects = json_lines(text)
        names = tuple(dict.fromkeys(name for _, each in objects for name in each))
        columns = choose(file, names, asked)
        values = [(line, {key: each.get(name) for key, name in _cells(columns, names)}) for line, each in objects]
        return Listing(file, columns, tuple(_record(file, f"line {line}", each) for line, each in values))
    names, rows = cells_of(text)
    columns = choose(file, names, asked)
    places = {key: names.index(name) for key, name in _cells(columns, names)}
    return Listing(file, columns, tuple(_row_record(file, row, places, len(names)) for row in rows))


# Text, as far as it is needed to write a table again


@dataclass(frozen=True)
class Text:
    """A text file, which `"".join(lines)` in `encoding` (with `surrogateescape`) gives back byte for byte."""

    file: Path
    lines: tuple[str, ...]
    encoding: str


@dataclass(frozen=True)
class Row:
    """One row of cells; it is written in the lines from `line` to `end`, counted from 1."""

    line: int
    end: int
    cells: tuple[str, ...]


def text_of(file: Path) -> Text:
    """Reads a text file. Raises DataError where it cannot be read, or holds nothing."""
    data = _bytes(file)
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
    else:
        encoding = "utf-8-sig" if data.startswith(codecs.BOM_UTF8) else "utf-8"
    try:
        text = data.decode(encoding, "strict" if encoding == "utf-16" else "surrogateescape")
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is no valid UTF-16 text ({error.reason}): save it as UTF-8") from error
    if not text.strip():
        raise DataError(f"{file} is empty: it should hold a row for every picture, with its path and its label")
    return Text(file, tuple(io.StringIO(text, newline="")), encoding)


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except FileNotFoundError as error:
        raise DataError(f"{file} does not exist: give a table, or the folder of your class folders") from error
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise DataError(f"{file} cannot be read ({why}): make it readable") from error


def cells_of(text: Text) -> tuple[tuple[str, ...], tuple[Row, ...]]:
    """The names of the columns, and all rows below them; empty lines are none. Raises DataError with the line."""
    rows, end = [], 0
    try:
        reader = csv.reader(iter(text.lines), delimiter=delimiter_of(text), strict=True)
        for cells in reader:
            start, end = end + 1, reader.line_num
            if cells:
                rows.append(Row(start, end, tuple(cells)))
    except csv.Error as error:
        raise DataError(f"{text.file}, line {end + 1}: the row that begins here is broken ({error})") from error
    names = tuple(_clean(text.file, f"line {rows[0].line}", "column name", name) for name in rows[0].cells)
    return names, tuple(rows[1:])


def delimiter_of(text: Text) -> str:
    """What separates cells: a tab in a .tsv; else the character that cuts the first line into most of them."""
    if text.file.suffix.lower() == ".tsv":
        return "\t"
    head = next(line for line in text.lines if line.strip())
    return max(",;\t|", key=lambda character: len(next(csv.reader([head], delimiter=character))))


def json_lines(text: Text) -> list[tuple[int, dict[str, Any]]]:
    """(line number, object) for every line that is not empty; numbers as they are written. Raises DataError."""
    found = []
    for number, line in enumerate(text.lines, start=1):
        if not line.strip():
            continue
        try:
            each = json.loads(line, parse_float=str, parse_int=str, parse_constant=lambda _: None)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{text.file}, line {number}: no JSON ({error}): each line must be one object") from error
        if not isinstance(each, dict):
            raise DataError(f"{text.file}, line {number}: a {type(each).__name__}, but each line must be an object")
        found.append((number, each))
    return found


# Columns


def choose(file: Path, names: Sequence[str], asked: Columns) -> Columns:
    """Which column is what. Raises DataError that names the columns there are, and the flag to use."""
    told = {role: _told(file, names, role, name) for role, name in _roles(asked)}
    taken = {name for name in told.values() if name}
    found = {role: told[role] if role in told else _usual(file, names, role, taken) for role in _USUAL}
    return Columns(**found, root=asked.root)


def column(file: Path, names: Sequence[str], role: str, asked: str) -> str:
    """The one column of a role ("path", "id", …): that asked for, or where "" is asked for, of a usual name.

    Raises:
        DataError: there is none, or more than one that it may be.
    """
    return _told(file, names, role, asked) if asked else _usual(file, names, role, set())


def _roles(columns: Columns) -> list[tuple[str, str]]:
    return [(role, getattr(columns, role)) for role in _USUAL if getattr(columns, role)]


def _cells(columns: Columns, names: Sequence[str]) -> list[tuple[str, str]]:
    """What is read of a row: (key, name of a column). A key is a role, or `_CLASS` and a class."""
    classes = class_columns(names, columns.label)
    roles = [(role, name) for role, name in _roles(columns) if role != "label" or not classes]
    return roles + [(_CLASS + name, name) for name in classes]


def _told(file: Path, names: Sequence[str], role: str, name: str) -> str:
    if name == NONE and role in _OPTIONAL and NONE not in names:
        return ""
    if role == "label" and class_columns(names, name):
        classes = [_told(file, names, role, each.strip()) for each in name.split(",")]
        if len(set(classes)) < len(classes):
            raise DataError(f"{file}: --label-col {name} names a column twice: name each class once")
        return ",".join(classes)
    found = [each for each in names if each == name] or [each for each in names if _plain(each) == _plain(name)]
    if len(found) == 1:
        return found[0]
    if found:
        raise DataError(f"{file}: the columns {_listed(found)} all answer to --{role}-col {name}: rename all but one")
    near = get_close_matches(name, names, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    raise DataError(f"{file} has no column {name!r}{hint}: --{role}-col can be one of {_listed(names)}")


def _usual(file: Path, names: Sequence[str], role: str, taken: set[str]) -> str:
    found = [name for name in names if _plain(name) in _USUAL[role] and name not in taken]
    if len(found) == 1:
        return found[0]
    if found:
        beside = f" (or --{role}-col {NONE})" if role in _OPTIONAL else ""
        raise DataError(
            f"{file}: {_WHAT[role]} may be in {' or '.join(map(repr, found))}; say which with --{role}-col NAME{beside}"
        )
    if role in _OPTIONAL:
        return ""
    raise DataError(
        f"{file}: no column is known to hold {_WHAT[role]}, such as {_USUAL[role][0]!r}; its first line names "
        f"{_listed(names)}: say which with --{role}-col NAME"
        + (", or, if each class has a column of 0 and 1, --label-col A,B,…" if role == "label" else "")
    )


def _plain(name: str) -> str:
    return name.strip().casefold().replace(" ", "_").replace("-", "_")


def _listed(names: Iterable[str]) -> str:
    some = [repr(name[:60]) for name in names]
    return ", ".join(some[:20]) + (f" and {len(some) - 20} more" if len(some) > 20 else "")


# Records


def _row_record(file: Path, row: Row, places: Mapping[str, int], width: int) -> Record:
    values = {key: row.cells[place] for key, place in places.items() if place < len(row.cells)}
    found = _record(file, f"line {row.line}", values)
    if len(row.cells) < width:
        fault = f"{SHORT}: {found.place} has {len(row.cells)} of {width}"
    elif any(cell.strip() for cell in row.cells[width:]):
        fault = f"{LONG}: {found.place} has {len(row.cells)}, the first line {width}"
    else:
        return found
    return Record(found.place, found.path, "", "", "", fault)  # what stands where is not certain


def _record(file: Path, place: str, values: Mapping[str, object]) -> Record:
    texts = {key: _text(file, place, key.partition(" ")[0], value) for key, value in values.items()}
    label, fault = marked({key.removeprefix(_CLASS): text for key, text in texts.items() if key.startswith(_CLASS)})
    clean = {role: _clean(file, place, role, texts.get(role, "")) for role in ("label", *_OPTIONAL)}
    return Record(place, texts.get("path", ""), label or clean["label"], clean["group"], clean["split"], fault)


def _text(file: Path, place: str, role: str, value: object) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int | float):
        return str(value)
    raise DataError(
        f"{file}, {place}: the column of {_WHAT[role]} holds a {type(value).__name__}, which is no text: name another "
        f"with --{role}-col"
    )


def _clean(file: Path, place: str, what: str, text: str) -> str:
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise DataError(f"{file}, {place}: the {what} {text[:80]!a} is no UTF-8 text: save the table as UTF-8")
    return text.strip()


def _parquet(file: Path, asked: Columns) -> Listing:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise OptionError(f"{file}: Parquet needs pyarrow: pip install 'graftage[parquet]'") from error
    try:
        opened = parquet.ParquetFile(io.BytesIO(_bytes(file)))
        columns = choose(file, opened.schema_arrow.names, asked)
        cells = _cells(columns, opened.schema_arrow.names)
        names = [name for _, name in cells]
        table = opened.read(columns=names).to_pydict() if names else {}
    except (OSError, ValueError, pyarrow.lib.ArrowException) as error:
        raise DataError(f"{file} is no Parquet file that can be read ({error})") from error
    rows = zip(*(table[name] for name in names), strict=True)
    keys = [key for key, _ in cells]
    values = (dict(zip(keys, row, strict=True)) for row in rows)
    return Listing(file, columns, tuple(_record(file, f"row {i}", each) for i, each in enumerate(values, start=1)))
