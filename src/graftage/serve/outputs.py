"""Where rows go: standard output, one file, or a folder of Parquet parts; whole or not at all, and resumable (W).

Rows stream into a text file under a temporary name, NAME.part, as CSV or, on the way to Parquet, as JSON lines. About
once a second it is forced to disk, and its length and number of rows are noted in NAME.resume. When all rows are there
it gets its name, or is written once more as Parquet under it. So NAME is never half a table, whatever is killed when;
and a later run with `resume` cuts NAME.part back to what is noted and goes on: the bytes in the end are the same.

NAME.seen holds what the pictures of the rows were. Where one has changed, its row and those after it are made anew.
"""

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import IO, Any, Protocol, TextIO, get_args

from graftage.data.inputs import Input
from graftage.data.traces import SIZE, UNKNOWN, has_changed
from graftage.errors import OptionError
from graftage.serve.earlier import Written, in_parquet, in_text
from graftage.serve.places import Place, Progress, begin, complete, store_errors, take_back, write_note
from graftage.serve.tables import Format, Row, Shape, Writer, readable, shape_of, text_writer

_SECONDS = 1.0  # between two notes of how far the rows are: what a kill can cost
ROWS_PER_PART = 100_000

Passed = Callable[[Input, str], None]


def _nobody(_: Input, __: str) -> None:
    pass


class Sink(Protocol):
    """Takes rows; made by `open_writer`."""

    keep: Callable[[], Mapping[str, Any]]

    @property
    def resumed(self) -> int:
        """Rows that an interrupted run has left."""

    @property
    def kept(self) -> Mapping[str, Any]:
        """What its `keep` gave when they were noted."""

    @property
    def changed(self) -> str:
        """What is told of a picture that has changed since it had its row, "" if none has."""

    def past(self, inputs: Iterable[Input], passed: Passed = ..., *, divisible: bool = ...) -> Iterator[Input]:
        """The inputs that have no row yet."""

    def write(self, row: Row, trace: bytes = ...) -> None:
        """Writes one row, and keeps what its picture was."""


class Output:
    """A table under way, in a file.

    Attributes:
        keep: gives what is to be noted beside the rows, as JSON has it; asked right after a row is written.
        changed: what is told of a picture that has changed since it had its row, "" if none has.
    """

    def __init__(self, place: Place, shape: Shape, progress: Progress) -> None:
        self.keep: Callable[[], Mapping[str, Any]] = dict
        self._progress = progress
        self._begun = progress
        self._place, self._shape = place, shape
        self._rows = progress.rows
        self._noted = time.monotonic()
        self.changed = ""
        self._file: TextIO
        self._writer: Writer
        self._open(progress.length)
        self._seen: IO[bytes]
        self._open_seen()

    @property
    def resumed(self) -> int:
        """Rows that were there already."""
        return self._begun.rows

    @property
    def kept(self) -> Mapping[str, Any]:
        """What was noted beside them."""
        return self._begun.kept

    def past(self, inputs: Iterable[Input], passed: Passed = _nobody, *, divisible: bool = True) -> Iterator[Input]:
        """The inputs that have no row yet, once those that have one are seen to be the same.

        From the first picture on that has changed since, rows are taken back, and `resumed` and `kept` tell of those
        before it only.

        Args:
            inputs: all of them.
            passed: is told of every input that keeps its row, and the row's status.
            divisible: whether rows may be taken back; what is kept beside them is lost then.

        Raises:
            OptionError: they are not the same, or a picture has changed where rows may not be taken back.
        """
        source = iter(inputs)
        if not self.resumed:
            return source
        with self._place.seen.open("rb") as traces:
            for number, row in enumerate(self._written(), start=1):
                found = next(source, None)
                if found is None:
                    raise self._unlike(f"row {number:,} is of {row.path}, but the inputs end before it")
                now = (readable(found.name), readable(found.id) if self._shape.ids else "")
                if now != (row.path, row.id):
                    raise self._unlike(f"row {number:,} is of {' '.join(filter(None, (row.path, row.id)))}, but input "
                                       f"{number:,} is {' '.join(filter(None, now))}")  # fmt: skip
                if has_changed(found, traces.read(SIZE)):
                    self._take_back(number, row, divisible=divisible)
                    return chain([found], source)
                passed(found, row.status)
        return source

    def _take_back(self, number: int, row: Written, *, divisible: bool) -> None:
        """The rows from the `number`-th on."""
        said = f"row {number:,} is of {row.path}, which has changed since"
        if not divisible:
            raise self._unlike(f"{said}, and what --drift has counted cannot be taken back")
        self.changed = said
        self._file.close()
        self._seen.close()
        with store_errors(self._place.target):
            self._begun = take_back(self._place, self._shape, self._begun, number - 1, row.at)
        self._progress, self._rows = self._begun, self._begun.rows
        self._open(self._begun.length)
        self._open_seen()

    def write(self, row: Row, trace: bytes = UNKNOWN) -> None:
        """Writes one row; at times also notes how far the rows are."""
        with store_errors(self._place.target):
            self._writer.write(row)
            self._seen.write(trace or UNKNOWN)
            self._rows += 1
            if self._place.per_part and self._rows % self._place.per_part == 0:
                self._next_part()
            elif time.monotonic() - self._noted >= _SECONDS:
                self.checkpoint()

    def checkpoint(self, *, done: bool = False) -> None:
        """Forces the rows to disk, then the note of how far they are."""
        for file in (self._file, self._seen):
            file.flush()
            os.fsync(file.fileno())
        self._note(length=self._file.buffer.tell(), done=done)

    def finish(self) -> None:
        """After the last row: the table gets its name."""
        with store_errors(self._place.target):
            self._writer.finish()
            self.checkpoint(done=True)
            self._file.close()
            self._seen.close()
            part = self._place.part(self._rows)
            if part == self._place.part(max(self._rows - 1, 0)):  # else the last part was full, and this one is empty
                complete(self._place, self._shape, part)
            self._place.spool(part).unlink(missing_ok=True)
            self._place.seen.unlink(missing_ok=True)
            self._place.note.unlink(missing_ok=True)

    def leave(self, fault: BaseException) -> None:
        """After a fault: keeps what is written, and says where.

        What was noted last stays: a fault may have come between a row and what the caller counts.
        """
        with suppress(OSError):
            if self._place.format == "table":
                self._writer.finish()
        with suppress(OSError):  # closing writes what is still buffered, and would report a full disk a second time
            self._file.close()
        with suppress(OSError):
            self._seen.close()
        spool = self._place.spool(self._place.part(self._rows))
        fault.add_note(f"{self._place.target} was not written; the rows that were finished are in {spool}")

    def _open(self, length: int) -> None:
        spool = self._place.spool(self._place.part(self._rows))
        with store_errors(self._place.target):
            # newline="": the formats end their own lines
            self._file = spool.open("r+" if length else "w", encoding="utf-8", newline="")
            if length:
                self._file.buffer.truncate(length)
                self._file.seek(0, os.SEEK_END)
            self._writer = text_writer(self._file, self._place.spooled, self._shape, begun=bool(length))

    def _open_seen(self) -> None:
        with store_errors(self._place.target):
            self._seen = self._place.seen.open("r+b" if self._rows else "wb")
            self._seen.truncate(self._rows * SIZE)
            self._seen.seek(0, os.SEEK_END)

    def _next_part(self) -> None:
        self.checkpoint()
        self._file.close()
        full = self._place.part(self._rows) - 1
        complete(self._place, self._shape, full)
        self._note(length=0)
        self._place.spool(full).unlink(missing_ok=True)
        self._open(0)

    def _note(self, *, length: int, done: bool = False) -> None:
        self._progress = Progress(self._begun.made_by, self._rows, length, done, self.keep())
        self._noted = time.monotonic()
        if self._place.format != "table":
            write_note(self._place.note, self._progress)

    def _written(self) -> Iterator[Written]:
        rows, part = self.resumed, self._place.part(self.resumed)
        finished = (in_parquet(self._place.final(i)) for i in range(part))
        spool, form = self._place.spool(part), self._place.spooled
        open_one = in_text(spool, form) if form != "table" else iter(())
        found = 0
        for row in chain(chain.from_iterable(finished), open_one):
            found += 1
            yield row
        if found != rows:
            raise self._unlike(f"{found:,} rows are there, {rows:,} should be")

    def _unlike(self, why: str) -> OptionError:
        return OptionError(
            f"{self._place.target}: the interrupted run cannot go on: {why}. Give the same inputs, or leave out "
            "--resume to begin anew"
        )


class _Printed:
    """Standard output, which cannot be resumed."""

    resumed = 0
    changed = ""

    def __init__(self, writer: Writer) -> None:
        self.keep: Callable[[], Mapping[str, Any]] = dict
        self.kept: Mapping[str, Any] = {}
        self._writer = writer

    def past(self, inputs: Iterable[Input], passed: Passed = _nobody, *, divisible: bool = True) -> Iterator[Input]:  # noqa: ARG002
        """All of them."""
        return iter(inputs)

    def write(self, row: Row, trace: bytes = UNKNOWN) -> None:  # noqa: ARG002
        """Writes one row."""
        self._writer.write(row)


class _Finished:
    """A table that was killed when it had its name already: no input is left to answer for."""

    changed = ""

    def __init__(self, progress: Progress) -> None:
        self.keep: Callable[[], Mapping[str, Any]] = dict
        self.kept = progress.kept
        self.resumed = progress.rows

    def past(self, inputs: Iterable[Input], passed: Passed = _nobody, *, divisible: bool = True) -> Iterator[Input]:  # noqa: ARG002
        """None of them."""
        return iter(())

    def write(self, row: Row, trace: bytes = UNKNOWN) -> None:  # noqa: ARG002
        """Is not called."""
        raise AssertionError("there was no input left")


@contextmanager
def open_writer(
    target: Path | None,
    *,
    format: Format,
    classes: Sequence[str],
    all_probabilities: bool,
    ids: bool = False,
    per_part: int = 0,
    made_by: Mapping[str, str] | None = None,
    resume: bool = False,
) -> Iterator[Sink]:
    r"""Open a table of predictions, for use in a `with` statement.

    Args:
        target: the file or folder to write, or None for standard output. An existing file is replaced only when the
            new one is complete.
        format: "csv" (UTF-8, lines end in \n), "jsonl" (one object per line), "parquet" (needs pyarrow and a target;
            probabilities as float32) or "table" (percent with one decimal, for people).
        classes: the model's classes, in the order of `Row.probabilities`.
        all_probabilities: add the probability of every class: columns `p:CLASS`, in JSON an object `probabilities`.
        ids: begin with a column `id`.
        per_part: rows of each part, where the target is a folder of Parquet files; 0 writes one file.
        made_by: what must be the same for an interrupted run to go on, by name.
        resume: go on with an interrupted run, where there is one.

    Yields:
        A writer; call its `write(row)` once per picture.

    Raises:
        OptionError: an unknown format, Parquet without pyarrow or without a target, or an interrupted run that is
            another.
        StoreError: the target cannot be written.
    """
    _check_options(target, format, per_part, resume=resume)
    shape = shape_of(classes, all_probabilities=all_probabilities, ids=ids)
    if target is None:
        assert format != "parquet", "checked above"
        writer = text_writer(sys.stdout, format, shape)
        yield _Printed(writer)
        writer.finish()
        return
    place = Place(target, format, per_part)
    progress = begin(place, shape, dict(made_by or {}), resume=resume)
    if progress.done:
        yield _Finished(progress)
        place.seen.unlink(missing_ok=True)
        place.note.unlink(missing_ok=True)
        return
    output = Output(place, shape, progress)
    try:
        yield output
        output.finish()
    except BaseException as fault:
        output.leave(fault)
        raise


def _check_options(target: Path | None, format: str, per_part: int, *, resume: bool) -> None:
    if format not in get_args(Format):
        raise OptionError(f"format is {format!r}, but must be one of {', '.join(get_args(Format))}")
    if format == "parquet" and target is None:
        raise OptionError("format parquet cannot go to the terminal: name a file to write")
    if format == "parquet" and find_spec("pyarrow") is None:
        raise OptionError("format parquet needs pyarrow, which is missing: run `pip install 'graftage[parquet]'`")
    if per_part < 0 or (per_part and format != "parquet"):
        raise OptionError("only Parquet is written in parts, of 1 row or more each: say --format parquet")
    if resume and (target is None or format == "table"):
        raise OptionError("only a file of csv, jsonl or parquet can be resumed: name one with -o")
