"""Features kept between runs: by the picture's content, the network's content and the preprocessing.

One SQLite file holds the features of one network under one preprocessing. SQLite's journal makes each batch appear
whole or not at all, so a kill at any moment loses at most the batch in flight, and two processes may write at once.
"""

import sqlite3
import time
from collections.abc import Iterable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graftage.errors import StoreError
from graftage.features.cache import cache_root, ready

_TABLE = (
    "CREATE TABLE IF NOT EXISTS features (digest TEXT PRIMARY KEY, "
    "vector BLOB NOT NULL, notes TEXT NOT NULL, repaired INTEGER NOT NULL)"
)
_WAIT_SECONDS = 60.0  # for another process that is writing
_ASK = 500  # digests per question: below SQLite's limit on variables


@dataclass(frozen=True, eq=False)
class Kept:
    """One picture's stored features.

    Attributes:
        vector: float32 (D,), or of the store's own type.
        notes: what decoding did to the picture ("rotated by EXIF (6)"), for the ledger.
        repaired: whether the picture was damaged and decoded as far as it went.
    """

    vector: NDArray[Any]
    notes: str = ""
    repaired: bool = False


class FeatureStore:
    """Features of one network under one preprocessing, on disk. Use as a context manager, from one thread.

    Args:
        key: names the file; features under different keys never meet.
        width: D; a stored vector of another length is ignored.
        dtype: of the vectors' elements.
        folder: where the file lies; default: the cache folder.

    Raises:
        StoreError: the file cannot be opened or written (a full disk, no permission).
    """

    def __init__(self, key: str, *, width: int, dtype: type[Any] = np.float32, folder: Path | None = None) -> None:
        self.path = ready(folder or cache_root() / "features") / f"{key}.sqlite"
        self._width = width
        self._dtype = np.dtype(dtype)
        self._connection = _opened(self.path)

    def __enter__(self) -> "FeatureStore":
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def get(self, digests: Sequence[str]) -> dict[str, Kept]:
        """Those of `digests` that are stored."""
        try:
            return self._found(digests)
        except sqlite3.Error as error:
            if not _damaged(error):
                raise self._fault(error) from error
        self._connection.close()
        _set_aside(self.path)
        self._connection = _opened(self.path)
        return {}

    def _found(self, digests: Sequence[str]) -> dict[str, Kept]:
        found: dict[str, Kept] = {}
        for start in range(0, len(digests), _ASK):
            asked = digests[start : start + _ASK]
            marks = ",".join("?" * len(asked))
            question = f"SELECT digest, vector, notes, repaired FROM features WHERE digest IN ({marks})"
            for digest, blob, notes, repaired in self._run(question, asked):
                if len(blob) == self._dtype.itemsize * self._width:
                    vector = np.frombuffer(blob, dtype=self._dtype.newbyteorder("<")).astype(self._dtype)
                    found[digest] = Kept(vector, notes, bool(repaired))
        return found

    def put(self, rows: Iterable[tuple[str, Kept]]) -> None:
        """Stores all of `rows` or, if interrupted, none of them."""
        little = self._dtype.newbyteorder("<")
        values = [(digest, kept.vector.astype(little).tobytes(), kept.notes, kept.repaired) for digest, kept in rows]
        try:
            with self._connection:
                self._connection.executemany("INSERT OR REPLACE INTO features VALUES (?, ?, ?, ?)", values)
        except sqlite3.Error as error:
            raise self._fault(error) from error

    def __len__(self) -> int:
        try:
            return int(self._run("SELECT count(*) FROM features", ())[0][0])
        except sqlite3.Error as error:
            raise self._fault(error) from error

    def _run(self, statement: str, values: Sequence[str]) -> list[tuple[Any, ...]]:
        with closing(self._connection.execute(statement, values)) as cursor:
            return cursor.fetchall()

    def _fault(self, error: sqlite3.Error) -> StoreError:
        return StoreError(
            f"{self.path}: the feature store cannot be used ({error}); free some space, or remove the file (it is only "
            "a cache), or set GRAFTAGE_CACHE to another place"
        )


def _opened(path: Path) -> sqlite3.Connection:
    """A connection; a damaged file is moved aside, since all it holds can be computed again."""
    patience = time.monotonic() + _WAIT_SECONDS
    while True:
        try:
            return _connect(path)
        except sqlite3.OperationalError as error:
            # two that make the same new file at once: here SQLite does not wait by itself
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > patience:
                raise StoreError(
                    f"{path}: the feature store cannot be opened ({error}); set GRAFTAGE_CACHE to another place"
                ) from error
            time.sleep(0.02)
        except sqlite3.DatabaseError:
            _set_aside(path)


def _damaged(error: sqlite3.Error) -> bool:
    """Whether the file itself is at fault, not the disk, a lock or the caller."""
    return type(error) is sqlite3.DatabaseError


def _set_aside(path: Path) -> None:
    """Renames the file. What lies in its journal, SQLite itself throws away before it begins the next."""
    with suppress(FileNotFoundError):  # another process may have done it
        path.replace(path.with_suffix(".damaged"))


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=_WAIT_SECONDS)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        with connection:
            connection.execute(_TABLE)
    except sqlite3.Error:
        connection.close()
        raise
    return connection
