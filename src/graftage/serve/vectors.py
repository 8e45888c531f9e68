"""Feature vectors become a file: Parquet, row group by row group, or one npz (W).

Columns, and arrays of the npz: `id`, `status`, `reason` and `vector`, float32 (n, D); the vector of a rejected input is
null in Parquet and NaN in the npz. What made the vectors is in Parquet's metadata under `graftage` and in the npz's
array `about`, as JSON. Files are written under `NAME.part` and renamed when they are whole.
"""

import json
import os
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, TYPE_CHECKING, Any, Protocol

import numpy as np

from graftage.errors import OptionError, StoreError

if TYPE_CHECKING:
    from graftage.features.embed import Embedded

SUFFIXES = (".parquet", ".npz")
_GROUP = 4096  # rows of a row group: 20 MB at D = 1,280


class VectorWriter(Protocol):
    """Takes vectors, one at a time."""

    def write(self, row: "Embedded") -> None:
        """Write one; it may be held back until its block is full."""

    def finish(self) -> None:
        """Write what was held back; `open_vectors` calls this once, after the last."""


def require_target(target: Path) -> None:
    """Raises OptionError for a file that cannot hold vectors: another ending, a folder, Parquet without pyarrow."""
    suffix = target.suffix.lower()
    if suffix not in SUFFIXES:
        raise OptionError(f"{target}: vectors go into a file that ends in {' or '.join(SUFFIXES)}")
    if target.is_dir():
        raise OptionError(f"{target} is a folder: name a file to write")
    if suffix == ".parquet" and find_spec("pyarrow") is None:
        raise OptionError(
            "Parquet needs pyarrow, which is missing: run `pip install 'graftage[parquet]'`, or take .npz"
        )


@contextmanager
def open_vectors(target: Path, *, width: int, about: Mapping[str, object]) -> Iterator[VectorWriter]:
    """Opens a file of vectors, for use in a `with` statement.

    Memory does not grow with the rows of a Parquet file; of an npz, names and reasons are held until the end.

    Args:
        target: ends in .parquet or .npz; an existing file is replaced only when the new one is whole.
        width: D.
        about: what made the vectors, as JSON has it.

    Raises:
        OptionError: as `require_target`.
        StoreError: the file cannot be written.
    """
    require_target(target)
    part = target.with_name(f"{target.name}.part")
    try:
        with part.open("w+b") as file:
            text = json.dumps(about, sort_keys=True, ensure_ascii=False)
            parquet = target.suffix.lower() == ".parquet"
            writer: VectorWriter = _Parquet(file, width, text) if parquet else _Npz(file, part.parent, width, text)
            yield writer
            writer.finish()
            file.flush()
            os.fsync(file.fileno())
        part.replace(target)
    except OSError as fault:
        why = fault.strerror or str(fault)
        raise StoreError(f"{target}: cannot be written ({why}): choose another place or free some space") from fault
    finally:
        part.unlink(missing_ok=True)


def _plain(text: str) -> str:
    """What UTF-8 cannot hold, undecodable bytes of a file name, with backslash escapes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


class _Parquet:
    def __init__(self, file: IO[bytes], width: int, about: str) -> None:
        import pyarrow
        from pyarrow import parquet

        self._arrow, self._width = pyarrow, width
        texts = [(name, pyarrow.string()) for name in ("id", "status", "reason")]
        columns = [*texts, ("vector", pyarrow.list_(pyarrow.float32(), width))]
        self._schema = pyarrow.schema(columns, metadata={"graftage": about})
        self._file = parquet.ParquetWriter(file, self._schema)
        self._held: list[Embedded] = []

    def write(self, row: "Embedded") -> None:
        self._held.append(row)
        if len(self._held) == _GROUP:
            self._flush()

    def finish(self) -> None:
        self._flush()
        self._file.close()

    def _flush(self) -> None:
        if not self._held:
            return
        missing = np.array([row.vector is None for row in self._held])
        vectors = np.zeros((len(self._held), self._width), np.float32)
        for i, row in enumerate(self._held):
            if row.vector is not None:
                vectors[i] = row.vector
        column: Any = self._arrow.FixedSizeListArray.from_arrays(
            self._arrow.array(vectors.ravel()), self._width, mask=self._arrow.array(missing)
        )
        texts = [[_plain(getattr(row, name)) for row in self._held] for name in ("id", "status", "reason")]
        arrays = [*(self._arrow.array(text, self._arrow.string()) for text in texts), column]
        self._file.write_table(self._arrow.Table.from_arrays(arrays, schema=self._schema))
        self._held.clear()


class _Npz:
    """An npz whose vectors wait in a file of their own, since an array's length stands before it."""

    def __init__(self, file: IO[bytes], folder: Path, width: int, about: str) -> None:
        self._file, self._width, self._about = file, width, about
        self._vectors = TemporaryFile(dir=folder)  # noqa: SIM115  # closed by finish, or with this object
        self._texts: dict[str, list[str]] = {"id": [], "status": [], "reason": []}
        self._nothing = np.full(width, np.nan, np.float32)

    def write(self, row: "Embedded") -> None:
        self._vectors.write((self._nothing if row.vector is None else row.vector).astype("<f4").tobytes())
        for name, values in self._texts.items():
            values.append(_plain(getattr(row, name)))

    def finish(self) -> None:
        n = len(self._texts["id"])
        with self._vectors, zipfile.ZipFile(self._file, "w") as archive:
            for name, values in self._texts.items():
                with _member(archive, name) as member:
                    np.lib.format.write_array(member, np.array(values, dtype=str), allow_pickle=False)
            with _member(archive, "about") as member:
                np.lib.format.write_array(member, np.array(self._about), allow_pickle=False)
            header = {"descr": "<f4", "fortran_order": False, "shape": (n, self._width)}
            with _member(archive, "vector") as member:
                np.lib.format.write_array_header_1_0(member, header)
                self._vectors.seek(0)
                while block := self._vectors.read(2**20):
                    member.write(block)


def _member(archive: zipfile.ZipFile, name: str) -> IO[bytes]:
    entry = zipfile.ZipInfo(f"{name}.npy")  # its date is always the same: the same command gives the same bytes
    return archive.open(entry, "w", force_zip64=True)
