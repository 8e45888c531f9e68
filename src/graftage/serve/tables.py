"""Predictions become rows: CSV, JSON lines, Parquet, or aligned text for a terminal (W).

Rows stream: each is written as soon as it is known (Parquet: in groups of 10,000), and memory does not grow with their
number. A file is written under `NAME.part` and renamed when complete, so NAME is never half a table; a run that stops
early leaves `NAME.part` with the rows it had, and says so in a note on the exception.

Text is written as it stands. In particular a cell that begins with `=`, `+`, `-` or `@` is not altered, because the
path must still name the file: import tables with untrusted file names into a spreadsheet as text, not as formulas.
Only what the output's encoding cannot hold (undecodable bytes of a file name, which Python keeps as lone surrogates)
is written with backslash escapes, as in `caf\\udce9.jpg`; the terminal table escapes control characters too.
"""

import codecs
import csv
import json
import os
import sys
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Literal, Protocol, TextIO, get_args

from graftage.errors import OptionError, StoreError

Format = Literal["csv", "jsonl", "parquet", "table"]
Status = Literal["ok", "repaired", "rejected"]
Cell = str | float | bool | None

# Columns of CSV and Parquet, in order; on request one more per class, named p:CLASS.
COLUMNS = (
    *("path", "status", "reason", "label", "probability", "runner_up", "runner_up_probability"),
    *("prediction_set", "abstained", "unlike_p", "unlike"),
)
_NUMBERS = ("probability", "runner_up_probability", "unlike_p")
_TRUTHS = ("abstained", "unlike")
# Nine significant digits give back the same float32.
_DIGITS = 9
# Rows that Parquet collects before it writes them as one row group.
ROW_GROUP = 10_000
# Rows whose cells decide the column widths of a terminal table; longer cells in later rows stick out.
SAMPLE = 50


@dataclass(frozen=True)
class Row:
    """The prediction for one picture.

    Attributes:
        path: where the picture lies, as the user named it.
        status: "ok", "repaired" (a truncated tail was filled in) or "rejected" (no usable picture, no prediction).
        reason: why it was repaired or rejected; empty when ok.
        label: the most probable class; empty when rejected.
        probability: of the label, calibrated, 0 to 1; None when rejected.
        runner_up: the second most probable class; empty when rejected.
        runner_up_probability: of the runner-up, 0 to 1; None when rejected.
        probabilities: of every class in the model's order, each 0 to 1; empty when rejected.
        prediction_set: classes, most probable first; empty when rejected or not promised. In CSV and Parquet their
            names are one JSON list, because a name may hold any separator.
        abstained: whether the model is not sure enough; None when rejected or not promised.
        unlike_p: p-value, 0 to 1, low is odd; None when rejected or not judged.
        unlike: whether the picture is unlike those trained on; None likewise.
    """

    path: str
    status: Status
    reason: str = ""
    label: str = ""
    probability: float | None = None
    runner_up: str = ""
    runner_up_probability: float | None = None
    probabilities: tuple[float, ...] = ()
    prediction_set: tuple[str, ...] = ()
    abstained: bool | None = None
    unlike_p: float | None = None
    unlike: bool | None = None


class Writer(Protocol):
    """Takes rows, one at a time."""

    def write(self, row: Row) -> None:
        """Write one row; it may be held back until its block is full."""

    def finish(self) -> None:
        """Write what was held back; `open_writer` calls this once, after the last row."""


@contextmanager
def open_writer(
    target: Path | None, *, format: Format, classes: Sequence[str], all_probabilities: bool
) -> Iterator[Writer]:
    r"""Open a table of predictions, for use in a `with` statement.

    Args:
        target: the file to write, or None for standard output. An existing file is replaced only when the new one is
            complete.
        format: "csv" (UTF-8, lines end in \n), "jsonl" (one object per line), "parquet" (needs pyarrow and a target;
            probabilities as float32) or "table" (percent with one decimal, for people).
        classes: the model's classes, in the order of `Row.probabilities`.
        all_probabilities: add the probability of every class: columns `p:CLASS`, in JSON an object `probabilities`.

    Yields:
        A writer; call its `write(row)` once per picture.

    Raises:
        OptionError: an unknown format, or Parquet without pyarrow or without a target.
        StoreError: the target cannot be written.
    """
    _check_options(target, format)
    shown = tuple(_text(name, "utf-8") for name in classes) if all_probabilities else ()
    if target is None:
        writer = _text_writer(sys.stdout, format, shown)
        yield writer
        writer.finish()
        return
    with _replacing(target) as file:
        inner = _Parquet(file.buffer, shown) if format == "parquet" else _text_writer(file, format, shown)
        yield from _guarded(_Stored(inner, target))


def _check_options(target: Path | None, format: str) -> None:
    if format not in get_args(Format):
        raise OptionError(f"format is {format!r}, but must be one of {', '.join(get_args(Format))}")
    if format == "parquet" and target is None:
        raise OptionError("format parquet cannot go to the terminal: name a file to write")
    if format == "parquet" and find_spec("pyarrow") is None:
        raise OptionError("format parquet needs pyarrow, which is missing: run `pip install 'graftage[parquet]'`")


# ---------------------------------------------------------------- files


@contextmanager
def _replacing(target: Path) -> Iterator[TextIO]:
    """A file open under `target`.part; renamed to `target` on success, left in place and mentioned otherwise."""
    part = target.parent / f"{target.name}.part"
    if target.is_dir():
        raise StoreError(f"{target}: is a folder: name a file to write")
    with _store_errors(target):
        file = part.open("w", encoding="utf-8", newline="")  # newline="": the formats end their own lines
    try:
        yield file
        with _store_errors(target):
            file.flush()
            os.fsync(file.fileno())
            file.close()
            part.replace(target)
    except BaseException as fault:
        with suppress(OSError):  # closing writes what is still buffered, and would report a full disk a second time
            file.close()
        fault.add_note(f"{target} was not written; the rows that were finished are in {part}")
        raise


@contextmanager
def _store_errors(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as fault:
        why = fault.strerror or str(fault)
        raise StoreError(f"{target}: cannot be written ({why}): choose another place or free some space") from fault


class _Stored:
    """A writer whose system errors name the file, so that they are not taken for those of a picture."""

    def __init__(self, inner: Writer, target: Path) -> None:
        self._inner = inner
        self._target = target

    def write(self, row: Row) -> None:
        with _store_errors(self._target):
            self._inner.write(row)

    def finish(self) -> None:
        with _store_errors(self._target):
            self._inner.finish()


def _guarded(writer: Writer) -> Iterator[Writer]:
    """Yield the writer; finish it also after a fault, because the rows held back belong in the partial file."""
    try:
        yield writer
    except BaseException:
        with suppress(StoreError):
            writer.finish()
        raise
    writer.finish()


# ---------------------------------------------------------------- formats


def _text_writer(file: TextIO, format: str, classes: tuple[str, ...]) -> Writer:
    encoding = codecs.lookup(file.encoding or "utf-8").name
    put = _sink(file, encoding)
    if format == "csv":
        return _Csv(put, classes)
    return _JsonLines(put, classes, ascii_only=encoding != "utf-8") if format == "jsonl" else _Table(put, classes)


def _sink(file: TextIO, encoding: str) -> Callable[[str], None]:
    def put(line: str) -> None:
        file.write(_text(line, encoding) + "\n")
        if file is sys.stdout:
            file.flush()  # the next program in the pipe works on each row at once

    return put


def _text(text: str, encoding: str) -> str:
    return text.encode(encoding, "backslashreplace").decode(encoding)


def _number(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.{_DIGITS}g}")


def _cells(row: Row, classes: tuple[str, ...]) -> dict[str, Cell]:
    """Column name to value, in order; probabilities of a rejected picture are None."""
    cells: dict[str, Cell] = {name: _cell(getattr(row, name)) for name in COLUMNS}
    return cells | {f"p:{name}": value for name, value in _by_class(row, classes).items()}


def _cell(value: str | float | bool | tuple[str, ...] | None) -> Cell:
    if isinstance(value, bool):
        return value
    if isinstance(value, tuple):
        return listed(value)
    return _text(value, "utf-8") if isinstance(value, str) else _number(value)


def listed(names: Sequence[str]) -> str:
    """Class names as one cell: a JSON list; "" where there are none."""
    return json.dumps([_text(name, "utf-8") for name in names], ensure_ascii=False) if names else ""


def truth(value: bool | None) -> str:
    """A truth as a cell of a csv file."""
    return "" if value is None else "true" if value else "false"


def _by_class(row: Row, classes: tuple[str, ...]) -> dict[str, float | None]:
    values = row.probabilities or (None,) * len(classes)
    return {name: _number(value) for name, value in zip(classes, values, strict=True)} if classes else {}


class _Csv:
    def __init__(self, put: Callable[[str], None], classes: tuple[str, ...]) -> None:
        # The csv module quotes a carriage return for certain only while it is part of its line end; put() ends lines.
        self._rows = csv.writer(_Lines(put), lineterminator="\r\n")
        self._classes = classes
        self._rows.writerow([*COLUMNS, *(f"p:{name}" for name in classes)])

    def write(self, row: Row) -> None:
        cells = _cells(row, self._classes).values()
        self._rows.writerow([_printed(cell) for cell in cells])

    def finish(self) -> None:
        pass


def _printed(cell: Cell) -> str | None:
    if isinstance(cell, bool):
        return truth(cell)
    return f"{cell:.{_DIGITS}g}" if isinstance(cell, float) else cell


@dataclass(frozen=True)
class _Lines:
    put: Callable[[str], None]

    def write(self, line: str) -> None:
        self.put(line.removesuffix("\r\n"))


class _JsonLines:
    def __init__(self, put: Callable[[str], None], classes: tuple[str, ...], *, ascii_only: bool) -> None:
        self._put = put
        self._classes = classes
        self._ascii_only = ascii_only  # JSON has its own escapes for what an old terminal's encoding cannot hold

    def write(self, row: Row) -> None:
        record: dict[str, object] = dict(_cells(row, ()))
        record["prediction_set"] = [_text(name, "utf-8") for name in row.prediction_set]
        if self._classes:
            record["probabilities"] = _by_class(row, self._classes)
        self._put(json.dumps(record, ensure_ascii=self._ascii_only, allow_nan=False))

    def finish(self) -> None:
        pass


class _Parquet:
    def __init__(self, file: IO[bytes], classes: tuple[str, ...]) -> None:
        import pyarrow
        from pyarrow import parquet

        numbers = {*_NUMBERS, *(f"p:{name}" for name in classes)}
        names = (*COLUMNS, *(f"p:{name}" for name in classes))
        kinds = {**dict.fromkeys(numbers, pyarrow.float32()), **dict.fromkeys(_TRUTHS, pyarrow.bool_())}
        types = [kinds.get(name, pyarrow.string()) for name in names]
        self._schema = pyarrow.schema(list(zip(names, types, strict=True)))
        self._file = parquet.ParquetWriter(file, self._schema)
        self._table = pyarrow.Table
        self._classes = classes
        self._held: list[dict[str, Cell]] = []

    def write(self, row: Row) -> None:
        self._held.append(_cells(row, self._classes))
        if len(self._held) == ROW_GROUP:
            self._flush()

    def finish(self) -> None:
        self._flush()
        self._file.close()

    def _flush(self) -> None:
        if self._held:
            self._file.write_table(self._table.from_pylist(self._held, schema=self._schema))
            self._held.clear()


# ---------------------------------------------------------------- terminal


class _Table:
    def __init__(self, put: Callable[[str], None], classes: tuple[str, ...]) -> None:
        self._put = put
        self._classes = classes
        self._held: list[list[str]] = [["path", "label", "", "runner-up", "", *classes, "note"]]
        self._widths: list[int] = []

    def write(self, row: Row) -> None:
        cells = [row.path, row.label, _percent(row.probability), row.runner_up, _percent(row.runner_up_probability)]
        cells += [_percent(value) for value in _by_class(row, self._classes).values()]
        self._held.append([*cells, _note(row)])
        if self._widths or len(self._held) > SAMPLE:
            self.finish()

    def finish(self) -> None:
        printable = [[_visible(cell) for cell in cells] for cells in self._held]
        self._widths = self._widths or [max(map(display_width, column)) for column in zip(*printable, strict=True)]
        for cells in printable:
            self._put(self._line(cells))
        self._held.clear()

    def _line(self, cells: list[str]) -> str:
        padded = (cell + " " * (width - display_width(cell)) for cell, width in zip(cells, self._widths, strict=True))
        return "  ".join(padded).rstrip()


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:6.1%}"


def _note(row: Row) -> str:
    """What a person should know: that it was damaged, that it is strange, that the model is not sure."""
    damage = "" if row.status == "ok" else f"{row.status}: {row.reason}" if row.reason else row.status
    doubt = f"or {', '.join(row.prediction_set[1:])}" if 1 < len(row.prediction_set) <= 4 else ""
    parts = (damage, "unlike anything trained on" if row.unlike else "", "not sure" if row.abstained else "", doubt)
    return "; ".join(part for part in parts if part)


def _visible(text: str) -> str:
    """Escape what would move the cursor, change colours or reorder the line; joiners are part of words and stay."""
    return "".join(c.encode("unicode_escape").decode() if _moves(c) else c for c in text)


def _moves(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp") and character not in "\u200c\u200d"


def display_width(text: str) -> int:
    """Columns that the text takes in a terminal: two for wide characters, none for combining marks.

    Source: Unicode Standard Annex #11, East Asian Width.

    >>> display_width("鸟 bird")
    7
    """
    return sum(_columns(character) for character in text)


def _columns(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
