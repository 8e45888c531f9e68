"""Predictions become rows: CSV, JSON lines, Arrow for Parquet, or aligned text for a terminal.

How the rows get into files, whole or not at all, is in `outputs`.

Text is written as it stands. In particular a cell that begins with `=`, `+`, `-` or `@` is not altered, because the
path must still name the file: import tables with untrusted file names into a spreadsheet as text, not as formulas.
Only what the output's encoding cannot hold (undecodable bytes of a file name, which Python keeps as lone surrogates)
is written with backslash escapes, as in `caf\\udce9.jpg`; the terminal table escapes control characters too.
"""

import codecs
import csv
import json
import sys
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TextIO

if TYPE_CHECKING:
    from graftage.serve.predict import Prediction

Format = Literal["csv", "jsonl", "parquet", "table"]
Status = Literal["ok", "repaired", "rejected"]
Cell = str | float | bool | None

# Columns of CSV and Parquet, in order; on request one before them, `id`, and one more per class, named p:CLASS.
COLUMNS = (
    *("path", "status", "reason", "label", "probability", "runner_up", "runner_up_probability"),
    *("prediction_set", "abstained", "unlike_p", "unlike"),
)
_NUMBERS = ("probability", "runner_up_probability", "unlike_p")
_TRUTHS = ("abstained", "unlike")
# Nine significant digits give back the same float32.
_DIGITS = 9
# Rows of a row group in Parquet; fewer where there are so many classes that it would hold more cells than this. With
# 10,000 rows the file is a twentieth smaller, and writing it takes 14 MB more.
ROW_GROUP, _GROUP_CELLS = 2_000, 2_000_000
_AT_ONCE = 500  # rows that are objects of Python on the way there
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
        id: what the input calls it, "" where it has no name but its path.
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
    id: str = ""


def row_of(prediction: "Prediction", *, id: str = "") -> Row:
    """A prediction as a row; what a rejected picture does not have is None."""
    if prediction.status == "rejected":
        return Row(prediction.path, "rejected", prediction.reason, id=id)
    return Row(**vars(prediction), runner_up_probability=prediction.runner_up_probability, id=id)


@dataclass(frozen=True)
class Shape:
    """Which columns a table has.

    Attributes:
        classes: of which every probability is written, in the order of `Row.probabilities`; empty for none.
        ids: whether there is a column `id`.
    """

    classes: tuple[str, ...] = ()
    ids: bool = False

    @property
    def columns(self) -> tuple[str, ...]:
        """Their names, in order."""
        return (*(("id",) if self.ids else ()), *COLUMNS, *(f"p:{name}" for name in self.classes))


def shape_of(classes: Sequence[str], *, all_probabilities: bool, ids: bool = False) -> Shape:
    """The columns for a model's classes."""
    return Shape(tuple(readable(name) for name in classes) if all_probabilities else (), ids)


class Writer(Protocol):
    """Takes rows, one at a time."""

    def write(self, row: Row) -> None:
        """Write one row; it may be held back until its block is full."""

    def finish(self) -> None:
        """Write what was held back; to be called once, after the last row."""


# ---------------------------------------------------------------- formats


def text_writer(file: TextIO, format: Literal["csv", "jsonl", "table"], shape: Shape, *, begun: bool = False) -> Writer:
    """Rows as lines of a text file, which must not end lines itself; where it is `begun`, its head is there already."""
    encoding = codecs.lookup(file.encoding or "utf-8").name
    put = _sink(file, encoding)
    if format == "csv":
        return _Csv(put, shape, head=not begun)
    return _JsonLines(put, shape, ascii_only=encoding != "utf-8") if format == "jsonl" else _Table(put, shape.classes)


def _sink(file: TextIO, encoding: str) -> Callable[[str], None]:
    def put(line: str) -> None:
        file.write(_text(line, encoding) + "\n")
        if file is sys.stdout:
            file.flush()  # the next program in the pipe works on each row at once

    return put


def readable(text: str) -> str:
    """A text as the tables have it: what UTF-8 cannot hold is escaped."""
    return _text(text, "utf-8")


def _text(text: str, encoding: str) -> str:
    return text.encode(encoding, "backslashreplace").decode(encoding)


def _number(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.{_DIGITS}g}")


def _cells(row: Row, shape: Shape) -> dict[str, Cell]:
    """Column name to value, in order; probabilities of a rejected picture are None."""
    cells: dict[str, Cell] = {"id": readable(row.id)} if shape.ids else {}
    cells |= {name: _cell(getattr(row, name)) for name in COLUMNS}
    return cells | {f"p:{name}": value for name, value in _by_class(row, shape.classes).items()}


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
    def __init__(self, put: Callable[[str], None], shape: Shape, *, head: bool) -> None:
        # The csv module quotes a carriage return for certain only while it is part of its line end; put() ends lines.
        self._rows = csv.writer(_Lines(put), lineterminator="\r\n")
        self._shape = shape
        if head:
            self._rows.writerow(shape.columns)

    def write(self, row: Row) -> None:
        cells = _cells(row, self._shape).values()
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
    def __init__(self, put: Callable[[str], None], shape: Shape, *, ascii_only: bool) -> None:
        self._put = put
        self._shape = shape
        self._ascii_only = ascii_only  # JSON has its own escapes for what an old terminal's encoding cannot hold

    def write(self, row: Row) -> None:
        record: dict[str, object] = dict(_cells(row, Shape(ids=self._shape.ids)))
        record["prediction_set"] = [readable(name) for name in row.prediction_set]
        if self._shape.classes:
            record["probabilities"] = _by_class(row, self._shape.classes)
        self._put(json.dumps(record, ensure_ascii=self._ascii_only, allow_nan=False))

    def finish(self) -> None:
        pass


def arrow_schema(shape: Shape) -> Any:
    """The columns' types in Arrow, a `pyarrow.Schema`: probabilities float32, truths bool, all else text."""
    import pyarrow

    numbers = {*_NUMBERS, *(f"p:{name}" for name in shape.classes)}
    kinds = {**dict.fromkeys(numbers, pyarrow.float32()), **dict.fromkeys(_TRUTHS, pyarrow.bool_())}
    return pyarrow.schema([(name, kinds.get(name, pyarrow.string())) for name in shape.columns])


def arrow_table(rows: Sequence[Row], shape: Shape) -> Any:
    """Rows as a `pyarrow.Table` of `arrow_schema`."""
    import pyarrow

    return pyarrow.Table.from_pylist([_cells(row, shape) for row in rows], schema=arrow_schema(shape))


def lines_to_parquet(lines: Path, target: Path, shape: Shape) -> None:
    """Rows that were written as JSON lines, as a Parquet file; a row group is held at a time."""
    import pyarrow
    from pyarrow import parquet

    schema = arrow_schema(shape)
    most = max(1, min(ROW_GROUP, _GROUP_CELLS // len(shape.columns)))
    with parquet.ParquetWriter(target, schema) as file, lines.open(encoding="utf-8", newline="\n") as stream:
        for group in iter(lambda: [*_tables(islice(stream, most), schema)], []):
            file.write_table(pyarrow.concat_tables(group).combine_chunks())


def _tables(lines: Iterator[str], schema: Any) -> Iterator[Any]:
    """Tables of a few rows: as objects of Python these take ten times the memory."""
    import pyarrow

    while held := [_from_json(json.loads(line)) for line in islice(lines, _AT_ONCE)]:
        yield pyarrow.Table.from_pylist(held, schema=schema)


def _from_json(record: dict[str, Any]) -> Mapping[str, object]:
    by_class = record.pop("probabilities", {})
    names = record["prediction_set"]
    return {**record, "prediction_set": listed(names), **{f"p:{name}": value for name, value in by_class.items()}}


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
