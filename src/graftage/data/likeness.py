"""Whether two pictures are copies of each other, seen on small grey thumbnails laid over one another.

A copy that was cut or resized is shifted and stretched a little: the four numbers of that (scale and shift in x and y)
are found by Gauss-Newton steps on the squared difference of the standardised thumbnails (Lucas & Kanade 1981; with
standardised pictures it is the enhanced correlation of Evangelidis & Psarakis 2008). What is then compared is their
detail, each thumbnail less its local mean, by normalised cross-correlation: two hands before one wall agree in light
and shade, not in detail. Where all pictures of a set share detail, as the bars of solar cells, that is taken out, too.

P pairs, S pixels a side.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from graftage.data.cores import cores

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]
Ints = NDArray[np.int64]

SIDE: Final = 64  # pixels of a thumbnail
SIGNATURE: Final = 32  # pixels of the smaller one that a model file keeps of each picture it was trained on

# Stages from coarse to fine: (pixels a side, side of the window of the local mean, steps, least correlation to go on).
# On the sets of `bench/duplicates.py` copies lay above 0.8 at every stage, the likest different pictures at 0.9.
_STAGES: Final = ((16, 5, 6, 0.4), (32, 5, 4, 0.5), (64, 9, 3, -1.0))
_FLOOR: Final = 0.1  # variance, in grey levels squared, that rounding and compression give a picture without detail
_FLAT: Final = 1.0  # variance of detail below which there is none to compare
_SAME_LEVELS: Final = 1.5  # root mean square of the difference, in grey levels, of pictures without detail
_ENOUGH: Final = 100  # pictures from which on common detail can be told from a picture's own
_SAMPLED: Final = 600  # pictures that it is found on
# Principal components of the detail that are common. On solar cells eight take the median likeness of different
# pictures from 0.94 to 0.62 and that of JPEG copies from 0.998 to 0.99; on hand signs 0.46 to 0.35, copies keep 0.99.
_AXES: Final = 8
_TOGETHER: Final = 128  # pairs of one thread: 8 MB of derivatives at 64 pixels
_STEP: Final = 0.1  # largest change of a parameter in one step; 2 is the side of the picture
_SCALE: Final = 0.8, 1.25
_SHIFT: Final = 0.25
_DAMPING: Final = 1e-3


@dataclass(frozen=True, eq=False)
class Common:
    """What the detail of all pictures of a set has in common.

    Attributes:
        mean: float32 (4096,).
        axes: float32 (r, 4096), orthonormal: the principal components of the detail.
    """

    mean: Floats
    axes: Floats

    def taken_from(self, detail: Floats) -> Floats:
        """Detail (P, 64, 64) without what is common."""
        rows = detail.reshape(len(detail), -1) - self.mean
        rows = rows - (rows @ self.axes.T) @ self.axes
        return np.asarray(rows.reshape(detail.shape), dtype=np.float32)


def common_detail(thumbnails: Bytes) -> Common | None:
    """The common detail of a set of thumbnails (n, 64, 64); None where there are too few to tell common from own."""
    if len(thumbnails) < _ENOUGH:
        return None
    rows = np.unique(np.linspace(0, len(thumbnails) - 1, min(len(thumbnails), _SAMPLED)).astype(np.int64))
    detail = _detail(thumbnails[rows].astype(np.float32), _STAGES[-1][1]).reshape(len(rows), -1)
    mean = detail.mean(axis=0)
    centred = detail - mean
    with threadpool_limits(1, user_api="blas"):  # or rounding would depend on the number of cores
        values, vectors = np.linalg.eigh((centred @ centred.T).astype(np.float64))
        large = values[-_AXES:] > 1e-6 * max(values[-1], 1e-12)
        axes = (vectors[:, -_AXES:][:, large] / np.sqrt(values[-_AXES:][large])).T.astype(np.float32) @ centred
    return Common(mean, np.asarray(axes, dtype=np.float32))


def likeness(A: Bytes, B: Bytes, common: Common | None = None, *, rows: Ints | None = None) -> Floats:
    """How far two thumbnails show the same detail once laid over one another.

    Args:
        A: uint8 (U, 64, 64) grey thumbnails.
        B: uint8 (P, 64, 64) those that they are compared with.
        common: detail that says nothing, since all pictures of the set have it.
        rows: int64 (P,) which of A each of B is compared with; None where they are P and in the same order.

    Returns:
        float32 (P,), -1 to 1: 1 for copies. Pairs that differ clearly at a coarse scale get the number found there.
    """
    rows = np.arange(len(A)) if rows is None else rows
    assert (len(rows), *A.shape[1:]) == B.shape, f"{A.shape}, {B.shape} and {rows.shape}"
    found, known = np.empty(len(B), np.float32), _Known.of(A)

    def compare(start: int) -> None:
        part = slice(start, start + _TOGETHER)
        found[part] = _likeness(known, rows[part], B[part].astype(np.float32), common)

    with ThreadPoolExecutor(cores()) as pool:  # numpy works outside the interpreter's lock
        list(pool.map(compare, range(0, len(B), _TOGETHER)))
    return found


@dataclass(frozen=True, eq=False)
class _Known:
    """What is asked of a picture as often as it is compared.

    Attributes:
        sizes: by size, float32 (U, size, size).
        details: likewise, less their local mean.
        flat: (U,) whether there is no detail to compare.
    """

    sizes: dict[int, Floats]
    details: dict[int, Floats]
    flat: NDArray[np.bool_]

    @classmethod
    def of(cls, A: Bytes) -> "_Known":
        sizes = {size: shrunk(A, size) for size, *_ in _STAGES if size <= A.shape[1]}
        details = {size: _detail(sizes[size], window) for size, window, *_ in _STAGES if size in sizes}
        finest = details[SIDE] if SIDE in details else _detail(sizes[A.shape[1]], _STAGES[-1][1])
        return cls(sizes, details, finest.var(axis=(1, 2)) < _FLAT)


def _likeness(known: _Known, rows: Ints, B: Floats, common: Common | None) -> Floats:
    found = np.full(len(B), -1, np.float32)
    at = np.tile(np.array([1, 1, 0, 0], np.float32), (len(B), 1))
    left = np.arange(len(B))
    for size, window, steps, bar in _STAGES:
        if size not in known.sizes or not len(left):
            continue
        a, b = known.sizes[size][rows[left]], shrunk(B[left], size)
        at[left], warped, seen = _aligned(a, b, at[left], steps)
        details = known.details[size][rows[left]], _detail(warped, window)
        if common is not None and size == SIDE:
            details = common.taken_from(details[0]), common.taken_from(details[1])
        found[left] = _correlation(*details, seen)
        left = left[found[left] >= bar]
    return _with_flat_ones(known, rows, B, found)


def _with_flat_ones(known: _Known, rows: Ints, B: Floats, found: Floats) -> Floats:
    """Where neither picture has any detail, the same shade makes them the same."""
    flat = np.flatnonzero(known.flat[rows])
    flat = flat[_detail(B[flat], _STAGES[-1][1]).var(axis=(1, 2)) < _FLAT]
    if len(flat):
        gap = np.sqrt(np.square(known.sizes[B.shape[1]][rows[flat]] - B[flat]).mean(axis=(1, 2)))
        found[flat] = np.where(gap < _SAME_LEVELS, 1.0, 0.0)
    return found


def shrunk(thumbnails: NDArray[np.generic], size: int) -> Floats:
    """Thumbnails (n, S, S) as means of blocks: float32 (n, size, size); S is size, twice, four times as large ...

    Exact for whole numbers up to 255, whatever the order of the sums.
    """
    out: Floats = thumbnails.astype(np.float32)
    while out.shape[1] > size:
        out = out[:, ::2] + out[:, 1::2]
        out = (out[:, :, ::2] + out[:, :, 1::2]) / np.float32(4)
    assert out.shape[1:] == (size, size), f"{thumbnails.shape} to {size}"
    return out


@dataclass(frozen=True, eq=False)
class _Seen:
    """Which pixels of warped pictures lie inside the picture.

    Attributes:
        share: float32 (P, S, S), 1 inside and 0 outside.
        count: float64 (P,) how many are inside, 1 or more.
    """

    share: Floats
    count: NDArray[np.float64]

    @classmethod
    def of(cls, inside_y: NDArray[np.bool_], inside_x: NDArray[np.bool_]) -> "_Seen":
        share = inside_y[:, :, None].astype(np.float32) * inside_x[:, None, :].astype(np.float32)
        return cls(share, np.maximum(inside_y.sum(axis=1) * inside_x.sum(axis=1), 1).astype(np.float64))

    def put(self, where: NDArray[np.bool_], other: "_Seen") -> None:
        """Takes those of the other."""
        self.share[where], self.count[where] = other.share[where], other.count[where]


def _aligned(A: Floats, B: Floats, start: Floats, steps: int) -> tuple[Floats, Floats, _Seen]:
    """Scale and shift (P, 4) that lay B over A, from `start` on, whichever was best on the way; and B laid so."""
    at, best = start.copy(), start.copy()
    reached = np.full(len(A), -2, np.float32)
    laid, inside = _warped(B, at)
    for step in range(steps + 1):
        warped, seen = (laid, inside) if not step else _warped(B, at)
        a, b = _standard(A, seen), _standard(warped, seen)
        agreement = (a * b).sum(axis=(1, 2)) / seen.count
        better = agreement > reached
        reached[better], best[better] = agreement[better], at[better]
        if step:
            laid[better] = warped[better]
            inside.put(better, seen)
        if step < steps:
            at = _moved(at, a, b, seen)
    return best, laid, inside


def _moved(at: Floats, a: Floats, b: Floats, seen: _Seen) -> Floats:
    """One Gauss-Newton step on the squared difference of standardised pictures."""
    n, side, _ = a.shape
    u = _grid(side)
    slopes = np.empty((n, 4, side, side), np.float32)  # of the four parameters
    right, down = slopes[:, 2], slopes[:, 3]
    _slopes(b, right)
    _slopes(b.transpose(0, 2, 1), down.transpose(0, 2, 1))
    slopes[:, 2:] *= seen.share[:, None]
    np.multiply(right, u, out=slopes[:, 0])
    np.multiply(down, u[:, None], out=slopes[:, 1])
    across = slopes.reshape(n, 4, -1)
    J = across.transpose(0, 2, 1)
    H = across @ J + np.float32(_DAMPING * side * side) * np.eye(4, dtype=np.float32)
    step = np.linalg.solve(H, across @ (a - b).reshape(n, -1, 1))[..., 0]
    moved = at + np.clip(step, -_STEP, _STEP)
    moved[:, :2] = np.clip(moved[:, :2], *_SCALE)
    moved[:, 2:] = np.clip(moved[:, 2:], -_SHIFT, _SHIFT)
    return np.asarray(moved, dtype=np.float32)


def _slopes(b: Floats, out: Floats) -> None:
    """Derivatives of b (P, S, S) along its last axis, where the side of a picture is 2: central differences."""
    width = 2 / b.shape[2]
    np.subtract(b[:, :, 2:], b[:, :, :-2], out=out[:, :, 1:-1])
    out[:, :, 1:-1] /= 2 * width
    out[:, :, 0] = (b[:, :, 1] - b[:, :, 0]) / width
    out[:, :, -1] = (b[:, :, -1] - b[:, :, -2]) / width


def _grid(side: int) -> Floats:
    """Middles of the pixels, on -1 to 1."""
    return ((np.arange(side, dtype=np.float32) + 0.5) / side * 2 - 1).astype(np.float32)


def _warped(B: Floats, at: Floats) -> tuple[Floats, _Seen]:
    """B (P, S, S) stretched and shifted, and which pixels of it lie inside the picture."""
    columns, inside_x = _rows_of_interpolation(at[:, 0], at[:, 2], B.shape[2])
    rows, inside_y = _rows_of_interpolation(at[:, 1], at[:, 3], B.shape[1])
    warped = np.asarray(rows @ B @ columns.transpose(0, 2, 1), dtype=np.float32)
    return warped, _Seen.of(inside_y, inside_x)


def _rows_of_interpolation(scale: Floats, shift: Floats, side: int) -> tuple[Floats, NDArray[np.bool_]]:
    """Linear interpolation as matrices (P, S, S), as it works on rows and columns apart; (P, S) what is inside."""
    place = (scale[:, None] * _grid(side) + shift[:, None] + 1) / 2 * side - 0.5
    inside = (place >= -0.5) & (place <= side - 0.5)
    place = np.clip(place, 0, side - 1)
    before = np.minimum(place.astype(np.int64), side - 2)  # of the two pixels between which it lies
    weights = np.zeros((*place.shape, side), np.float32)
    at = (np.arange(place.size).reshape(place.shape) * side + before).ravel()
    for pixel in (0, 1):
        weights.reshape(-1)[at + pixel] = (1 - np.abs(place - (before + pixel).astype(np.float32))).ravel()
    return weights, inside


def _standard(A: Floats, seen: _Seen) -> Floats:
    """Mean 0 and variance 1 over the pixels seen, 0 elsewhere."""
    n = seen.count.astype(np.float32)[:, None, None]
    out = A * seen.share
    np.subtract(A, out.sum(axis=(1, 2), keepdims=True) / n, out=out)
    out *= seen.share
    variance = np.square(out).sum(axis=(1, 2), keepdims=True) / n
    out /= np.sqrt(variance + np.float32(_FLOOR))
    return out


def _correlation(A: Floats, B: Floats, seen: _Seen) -> Floats:
    product = (_standard(A, seen) * _standard(B, seen)).sum(axis=(1, 2))
    return np.asarray(product / seen.count, dtype=np.float32)


def _detail(A: Floats, window: int) -> Floats:
    """The picture less its local mean."""
    from scipy.ndimage import uniform_filter  # a second to load, which looking at one picture would not pay back

    return np.asarray(A - uniform_filter(A, (0, window, window), mode="nearest"), dtype=np.float32)
