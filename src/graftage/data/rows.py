"""Tables as inputs, row by row: a column of paths, or in Parquet of the pictures' bytes; never the whole table at once.

What `listing` reads to train from is read here for prediction: without labels, however long the table is, and a row
that cannot be taken apart is an input that says so.
"""

import codecs
import csv
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Final, TextIO

from graftage.data import listing
from graftage.data.decode import DEFAULT_LIMITS, Limits
from graftage.data.inputs import Input
from graftage.data.listing import LONG, SHORT, Text
from graftage.data.sources import NO_PATH, place
from graftage.errors import DataError, OptionError

_BATCH: Final = 64  # rows of a Parquet file held at a time: they may hold whole pictures
_BUFFER: Final = 2**20  # bytes read at a time of each of its columns


@dataclass(frozen=True)
class Asked:
    """What of a table is asked for.

    Attributes:
        path_col: column of the pictures, "" looks for usual names.
        id_col: column that is carried to the output, "" carries none.
        root: folder that paths are relative to; None takes the table's own.
    """

    path_col: str = ""
    id_col: str = ""
    root: Path | None = None


def is_table(path: Path) -> bool:
    """Whether a file is one, by its ending."""
    return path.suffix.lower() in listing.SUFFIXES


def rows(table: Path, asked: Asked, *, limits: Limits = DEFAULT_LIMITS) -> Iterator[Input]:
    """An input for every row, in order. A row that cannot be read is one without a picture.

    Args:
        table: .csv, .tsv, .jsonl or .parquet.
        asked: its columns.
        limits: bytes of a picture in a Parquet file.

    Raises:
        OptionError: Parquet without pyarrow.
        DataError: the table cannot be opened, or has no such column.
    """
    kind = table.suffix.lower()
    if kind == ".parquet":
        return _parquet(table, asked, limits)
    return _objects(table, asked) if kind == ".jsonl" else _cells(table, asked)


def check(table: Path, asked: Asked) -> None:
    """Raises what `rows` would raise before its first row."""
    next(rows(table, asked), None)


def _input(table: Path, place_of: str, asked: Asked, written: object, key: object) -> Input:
    name, own = f"{table}, {place_of}", _text(key)
    if not isinstance(written, str):
        reason = NO_PATH if written is None else f"no path in the table: a {type(written).__name__}"
        return Input(name, reason=reason, id=own)
    if not written.strip():
        return Input(name, reason=NO_PATH, id=own)
    return Input(written, place(asked.root or table.parent, written), id=own)


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else value.hex() if isinstance(value, bytes) else str(value)


def _broken(table: Path, error: Exception) -> Input:
    why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return Input(str(table), reason=f"table cannot be read further: {why}", broken=True)


# ---------------------------------------------------------------- text


@contextmanager
def _open_text(table: Path) -> Iterator[tuple[TextIO, str]]:
    """The file as text (UTF-8, or UTF-16 with its mark), and its first line that is not empty."""
    try:
        with table.open("rb") as file:
            marked = file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
        encoding, errors = ("utf-16", "strict") if marked else ("utf-8-sig", "surrogateescape")
        stream = table.open(encoding=encoding, errors=errors, newline="")
    except FileNotFoundError as error:
        raise DataError(f"{table} does not exist: name a table, pictures or a folder") from error
    except OSError as error:
        raise DataError(f"{table} cannot be read ({error.strerror}): make it readable") from error
    with stream:
        try:
            head = next((line for line in stream if line.strip()), "")
        except UnicodeError as error:
            raise DataError(f"{table} is no valid UTF-16 text: save it as UTF-8") from error
        if not head:
            raise DataError(f"{table} is empty: it should hold a row for every picture, with its path")
        yield stream, head


def _cells(table: Path, asked: Asked) -> Iterator[Input]:
    with _open_text(table) as (stream, head):
        reader = csv.reader(chain([head], stream), delimiter=_delimiter(table, head), strict=True)
        try:
            names = [name.strip() for name in next(reader)]
        except csv.Error as error:
            raise DataError(f"{table}: its first line is broken ({error})") from error
        path, key = _columns(table, names, asked)
        at, of_key = names.index(path), names.index(key) if key else -1
        end, more = reader.line_num, True
        while more:
            start = end + 1
            try:
                found = next(reader, None)
                more = found is not None
                if found:
                    yield _row(table, asked, f"line {start}", found, at, of_key, len(names))
            except csv.Error as error:
                lines = f"line {start}" if reader.line_num <= start else f"lines {start} to {reader.line_num}"
                swallowed = reader.line_num > start  # an unclosed quote takes the rows after it along
                yield Input(f"{table}, {lines}", reason=f"the row is broken: {error}", broken=swallowed)
            except (UnicodeError, OSError) as error:
                yield _broken(table, error)
                return
            end = reader.line_num


def _delimiter(table: Path, head: str) -> str:
    try:
        return listing.delimiter_of(Text(table, (head,), "utf-8"))
    except csv.Error as error:
        raise DataError(f"{table}: its first line is broken ({error})") from error


def _row(table: Path, asked: Asked, line: str, cells: list[str], at: int, of_key: int, width: int) -> Input:
    key = cells[of_key] if 0 <= of_key < len(cells) == width else ""
    if len(cells) < width:
        return Input(f"{table}, {line}", reason=f"{SHORT}: it has {len(cells)} of {width}")
    if any(cell.strip() for cell in cells[width:]):
        return Input(f"{table}, {line}", reason=f"{LONG}: it has {len(cells)}, the first line {width}")
    return _input(table, line, asked, cells[at], key)


def _objects(table: Path, asked: Asked) -> Iterator[Input]:
    with _open_text(table) as (stream, head):
        columns: tuple[str, str] | None = None
        try:
            for number, line in enumerate(chain([head], stream), start=1):
                if not line.strip():
                    continue
                each = _object(line)
                if isinstance(each, str):
                    yield Input(f"{table}, line {number}", reason=f"the row is broken: {each}")
                    continue
                columns = columns or _columns(table, list(each), asked)
                yield _input(table, f"line {number}", asked, each.get(columns[0]), each.get(columns[1]))
        except (UnicodeError, OSError) as error:
            yield _broken(table, error)


def _object(line: str) -> dict[str, Any] | str:
    """The object in a line, or what is wrong with it."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        return f"no JSON ({error})"
    return found if isinstance(found, dict) else f"a {type(found).__name__}, not an object"


def _columns(table: Path, names: list[str], asked: Asked) -> tuple[str, str]:
    """The columns of the pictures and of the id, the latter "" if there is none. Raises DataError."""
    key = listing.column(table, names, "id", asked.id_col) if asked.id_col else ""
    return listing.column(table, names, "path", asked.path_col), key


# ---------------------------------------------------------------- Parquet


def _parquet(table: Path, asked: Asked, limits: Limits) -> Iterator[Input]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise OptionError(f"{table}: Parquet needs pyarrow: pip install 'graftage[parquet]'") from error
    faults = (OSError, ValueError, pyarrow.lib.ArrowException)
    try:
        file = parquet.ParquetFile(table, buffer_size=_BUFFER, pre_buffer=False)
    except FileNotFoundError as error:
        raise DataError(f"{table} does not exist: name a table, pictures or a folder") from error
    except faults as error:
        raise DataError(f"{table} is no Parquet file that can be read ({error})") from error
    with file:
        path, key = _parquet_columns(table, file.schema_arrow, asked)
        wanted, end = list(dict.fromkeys(name for name in (path, key) if name)), 0
        for group in range(file.num_row_groups):
            done, end = end, end + file.metadata.row_group(group).num_rows
            try:
                for batch in file.iter_batches(_BATCH, row_groups=[group], columns=wanted):
                    keys = batch.column(key) if key else [None] * len(batch)
                    for value, own in zip(batch.column(path), keys, strict=True):
                        done += 1
                        yield _held(table, done, asked, value.as_py(), own.as_py() if own else None, limits)
            except faults as error:  # every row of what cannot be read has its row all the same
                why = f"table is damaged here: {error}"
                yield from (Input(f"{table}, row {row}", reason=why) for row in range(done + 1, end + 1))


def _parquet_columns(table: Path, schema: Any, asked: Asked) -> tuple[str, str]:
    """As `_columns`; where no usual name is there, the only column that holds bytes."""
    names: list[str] = schema.names
    if not asked.path_col:
        holding = [name for name in names if _holds_bytes(schema.field(name).type)]
        if len(holding) == 1:
            asked = Asked(holding[0], asked.id_col, asked.root)
    return _columns(table, names, asked)


def _holds_bytes(kind: Any) -> bool:
    from pyarrow import types

    if types.is_struct(kind):
        return any(kind.field(i).name == "bytes" for i in range(kind.num_fields))
    return bool(types.is_binary(kind) or types.is_large_binary(kind))


def _held(table: Path, row: int, asked: Asked, value: object, key: object, limits: Limits) -> Input:
    """A path, the bytes of a picture, or both as Hugging Face's {bytes, path}."""
    name = ""
    if isinstance(value, dict):
        written = value.get("path")
        name = written if isinstance(written, str) else ""
        value = value.get("bytes") if value.get("bytes") is not None else written
    if not isinstance(value, bytes):
        return _input(table, f"row {row}", asked, value, key)
    name = name or f"{table}, row {row}"
    if len(value) > limits.max_bytes:
        reason = f"too many bytes: {len(value):,}, the limit is {limits.max_bytes:,}"
        return Input(name, reason=reason, id=_text(key))
    return Input(name, data=value, id=_text(key))
