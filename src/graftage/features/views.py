"""What a frozen first part makes of several views of every picture, kept on disk so that it is made once.

A file of n × (views + 1) rows; row 0 of a picture is the plain square, the others are augmented. It is filled by as
many threads as there are cores, and by several processes if there are several; a kill at any moment leaves what was
made, and the next run goes on from there.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from graftage.data.decode import Limits, decode
from graftage.data.sources import read
from graftage.errors import DataError, PictureError, StoreError
from graftage.features.cache import cache_root, ready, size_text
from graftage.features.engine import Forward, cores
from graftage.features.preprocess import Preprocess

KEPT_BYTES = 16 * 2**30  # of all activations together; the oldest go first
_HALF_RANGE = 1e4  # activations beyond this are kept in float32: float16 ends at 65,504

View = Callable[[NDArray[np.uint8], int, int], NDArray[np.uint8]]  # upright pixels, row, view → square


@dataclass(frozen=True)
class Pictures:
    """Picture files that are read again and again.

    Attributes:
        paths: n files.
        digests: SHA-256 of each file when the run began.
        preprocess: the plain square.
        limits: largest file and picture.
        repair: use damaged pictures as far as they decode.
    """

    paths: tuple[Path, ...]
    digests: tuple[str, ...]
    preprocess: Preprocess
    limits: Limits
    repair: bool = False

    def pixels(self, row: int) -> NDArray[np.uint8]:
        """One picture, upright, uint8 (H, W, 3). Raises DataError where the file has gone or is another."""
        try:
            data = read(self.paths[row], limits=self.limits)
            if hashlib.sha256(data).hexdigest() != self.digests[row]:
                raise PictureError("changed while running", "the file is not what it was when it was first read")
            return decode(data, cover=self.preprocess.cover, limits=self.limits, repair=self.repair).pixels
        except PictureError as error:
            raise DataError(
                f"{self.paths[row]}: {error}; bring the file back and go on with --resume, or start anew without it"
            ) from error


@dataclass(frozen=True, eq=False)
class Activations:
    """Kept activations: `rows[i, v]` is what the first part makes of view v of picture i, flattened."""

    rows: NDArray[np.generic]
    done: NDArray[np.uint8]


def keep_views(
    pictures: Pictures,
    view: View,
    *,
    forward: Forward,
    views: int,
    key: str,
    share: tuple[int, int] = (0, 1),
    exact: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Activations:
    """The activations of every picture, from disk where they are, computed where they are not.

    Args:
        pictures: n files.
        view: makes the square of view 1, 2, …; view 0 is the plain one.
        forward: the frozen part.
        views: augmented views beside the plain one.
        key: names what `view` does.
        share: (rank, size): this process computes rows rank, rank + size, …
        exact: keep float32 instead of float16.
        progress: called with (done, total).

    Raises:
        StoreError: not enough room on the disk.
        DataError: a picture has gone or changed meanwhile.
    """
    if exact or float(np.abs(forward(pictures.preprocess.square(pictures.pixels(0))[None])).max()) > _HALF_RANGE:
        dtype: type[np.floating] = np.float32
    else:
        dtype = np.float16
    name = [forward.key, pictures.preprocess.key, views, key, np.dtype(dtype).name, *pictures.digests]
    folder = cache_root() / "activations" / hashlib.sha256(json.dumps(name).encode()).hexdigest()[:24]
    kept = _opened(folder, (len(pictures.paths), views + 1, forward.features), dtype)
    missing = [i for i in range(share[0], len(pictures.paths), share[1]) if not kept.done[i]]

    def compute(row: int) -> None:
        pixels = pictures.pixels(row)
        squares = [pictures.preprocess.square(pixels), *(view(pixels, row, v) for v in range(1, views + 1))]
        kept.rows[row] = forward(np.stack(squares)).astype(dtype)
        kept.done[row] = 1  # after the row: a kill between the two costs this row only

    _side_by_side(compute, missing, progress)
    return kept


def _side_by_side(
    compute: Callable[[int], None], rows: Sequence[int], progress: Callable[[int, int], None] | None
) -> None:
    pool = ThreadPoolExecutor(cores() + 1, thread_name_prefix="graftage-views")
    try:
        for done, _ in enumerate(pool.map(compute, rows), 1):
            if progress is not None and (done % 16 == 0 or done == len(rows)):
                progress(done, len(rows))
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _opened(folder: Path, shape: tuple[int, ...], dtype: type[np.floating]) -> Activations:
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    try:
        ready(folder)
        _make_room(folder, size)
        _reserve(folder / "rows", size)
        _reserve(folder / "done", shape[0])
        os.utime(folder)
        rows: NDArray[np.generic] = np.memmap(folder / "rows", dtype=dtype, mode="r+", shape=shape)
        done: NDArray[np.uint8] = np.memmap(folder / "done", dtype=np.uint8, mode="r+", shape=shape[:1])
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise StoreError(
            f"{folder}: the frozen part's activations need {size_text(size)}, which cannot be had "
            f"({error.strerror}); free some space, set GRAFTAGE_CACHE to another place, or take fewer --views"
        ) from error
    return Activations(rows, done)


def _reserve(path: Path, size: int) -> None:
    """A file of so many bytes that are really there: a full disk is met now, not in the middle of the work."""
    if path.exists() and path.stat().st_size == size:
        return
    with path.open("wb") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            file.truncate(size)


def _make_room(folder: Path, size: int) -> None:
    """Removes the oldest activations of earlier runs where all together would pass the limit."""
    others = sorted((f for f in folder.parent.iterdir() if f != folder and f.is_dir()), key=lambda f: f.stat().st_mtime)
    sizes = [sum(part.stat().st_size for part in other.iterdir()) for other in others]
    for other, own in zip(others, sizes, strict=True):
        if sum(sizes) + size <= KEPT_BYTES:
            return
        shutil.rmtree(other, ignore_errors=True)
        sizes[sizes.index(own)] = 0
