"""What an interrupted run has left, row by row, and how some of it is taken back (W)."""

import csv
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from graftage.serve.tables import Shape


@dataclass(frozen=True)
class Written:
    """One row that is there.

    Attributes:
        path, id, status: as `tables.readable` gave them.
        at: the byte of its text file where it begins; 0 in a Parquet file.
    """

    path: str
    id: str
    status: str
    at: int = 0


class _Lines:
    """The lines of a file, and how many bytes they took."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self.bytes = file, 0

    def __iter__(self) -> Iterator[str]:
        for line in self._file:
            self.bytes += len(line)
            yield line.decode("utf-8")


def in_text(file: Path, format: Literal["csv", "jsonl"]) -> Iterator[Written]:
    """The rows of a text file, in order."""
    with file.open("rb") as stream:
        lines = _Lines(stream)
        rows = csv.DictReader(lines) if format == "csv" else map(json.loads, lines)
        if isinstance(rows, csv.DictReader):
            _ = rows.fieldnames  # reads the first line
        at = lines.bytes
        for row in rows:
            yield Written(row["path"], row.get("id") or "", row["status"], at)
            at = lines.bytes


def in_parquet(file: Path) -> Iterator[Written]:
    """The rows of a Parquet file, in order."""
    return (Written(row["path"], row.get("id") or "", row["status"]) for row in _rows(file, "path", "id", "status"))


def _rows(file: Path, *columns: str) -> Iterator[dict[str, Any]]:
    from pyarrow import parquet

    with parquet.ParquetFile(file) as opened:
        known = [name for name in columns if name in opened.schema_arrow.names]
        for batch in opened.iter_batches(columns=known or None):
            yield from batch.to_pylist()


def lines_of(part: Path, target: Path, shape: Shape, rows: int) -> int:
    """Writes the first rows of a Parquet file as the JSON lines that it was made of, on disk for certain; their bytes.

    Made into Parquet again they are the same: nine digits hold a float32.
    """
    with target.open("wb") as file:
        for _, row in zip(range(rows), _rows(part), strict=False):
            file.write(f"{json.dumps(_record(row, shape), ensure_ascii=False)}\n".encode())
        length = file.tell()
        file.flush()
        os.fsync(file.fileno())
    return length


def _record(row: dict[str, Any], shape: Shape) -> dict[str, Any]:
    """The inverse of what `tables.lines_to_parquet` makes of a record."""
    by_class = {name: row.pop(f"p:{name}") for name in shape.classes}
    record = {**row, "prediction_set": json.loads(row["prediction_set"] or "[]")}
    return {**record, "probabilities": by_class} if shape.classes else record
