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

from graftage.data.cores import cores

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]

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
    values, vectors = np.linalg.eigh((centred @ centred.T).astype(np.float64))
    large = values[-_AXES:] > 1e-6 * max(values[-1], 1e-12)
    axes = (vectors[:, -_AXES:][:, large] / np.sqrt(values[-_AXES:][large])).T.astype(np.float32) @ centred
    return Common(mean, np.asarray(axes, dtype=np.float32))


def likeness(A: Bytes, B: Bytes, common: Common | None = None) -> Floats:
    """How far two thumbnails show the same detail once laid over one another.

    Args:
        A: uint8 (P, 64, 64) grey thumbnails.
        B: uint8 (P, 64, 64) those that they are compared with.
        common: detail that says nothing, since all pictures of the set have it.

    Returns:
        float32 (P,), -1 to 1: 1 for copies. Pairs that differ clearly at a coarse scale get the number found there.
    """
    assert A.shape == B.shape, f"{A.shape} and {B.shape}"
    found = np.empty(len(A), np.float32)

    def compare(start: int) -> None:
        part = slice(start, start + _TOGETHER)
        found[part] = _likeness(A[part].astype(np.float32), B[part].astype(np.float32), common)

    with ThreadPoolExecutor(cores()) as pool:  # numpy works outside the interpreter's lock
        list(pool.map(compare, range(0, len(A), _TOGETHER)))
    return found


def _likeness(A: Floats, B: Floats, common: Common | None) -> Floats:
    side = A.shape[1]
    found = np.full(len(A), -1, np.float32)
    at = np.tile(np.array([1, 1, 0, 0], np.float32), (len(A), 1))
    left = np.arange(len(A))
    for size, window, steps, bar in _STAGES:
        if size > side or not len(left):
            continue
        a, b = shrunk(A[left], size), shrunk(B[left], size)
        at[left] = _aligned(a, b, at[left], steps)
        warped, seen = _warped(b, at[left])
        details = _detail(a, window), _detail(warped, window)
        if common is not None and size == SIDE:
            details = common.taken_from(details[0]), common.taken_from(details[1])
        found[left] = _correlation(*details, seen)
        left = left[found[left] >= bar]
    return _with_flat_ones(A, B, found)


def _with_flat_ones(A: Floats, B: Floats, found: Floats) -> Floats:
    """Where neither picture has any detail, the same shade makes them the same."""
    window = _STAGES[-1][1]
    flat = np.maximum(*(_detail(t, window).var(axis=(1, 2)) for t in (A, B))) < _FLAT
    if flat.any():
        gap = np.sqrt(np.square(A[flat] - B[flat]).mean(axis=(1, 2)))
        found[flat] = np.where(gap < _SAME_LEVELS, 1.0, 0.0)
    return found


def shrunk(thumbnails: NDArray[np.generic], size: int) -> Floats:
    """Thumbnails (n, S, S) as means of blocks: float32 (n, size, size); S is a multiple of size."""
    n, side, _ = thumbnails.shape
    if side == size:
        return thumbnails.astype(np.float32)
    step = side // size
    blocks: Floats = thumbnails.reshape(n, size, step, size, step).mean(axis=(2, 4), dtype=np.float32)
    return blocks


def _aligned(A: Floats, B: Floats, start: Floats, steps: int) -> Floats:
    """Scale and shift (P, 4) that lay B over A, from `start` on; whichever was best on the way."""
    at, best = start.copy(), start.copy()
    reached = np.full(len(A), -2, np.float32)
    for step in range(steps + 1):
        warped, seen = _warped(B, at)
        a, b = _standard(A, seen), _standard(warped, seen)
        agreement = (a * b).sum(axis=(1, 2)) / np.maximum(seen.sum(axis=(1, 2)), 1)
        better = agreement > reached
        reached[better], best[better] = agreement[better], at[better]
        if step < steps:
            at = _moved(at, a, b, seen)
    return best


def _moved(at: Floats, a: Floats, b: Floats, seen: NDArray[np.bool_]) -> Floats:
    """One Gauss-Newton step on the squared difference of standardised pictures."""
    n, side, _ = a.shape
    u = _grid(side)
    down, right = np.gradient(b, 2 / side, axis=(1, 2))
    down, right = down * seen, right * seen
    J = np.stack([right * u, down * u[:, None], right, down], axis=-1).reshape(n, -1, 4)
    across = J.transpose(0, 2, 1)
    H = across @ J + np.float32(_DAMPING * side * side) * np.eye(4, dtype=np.float32)
    step = np.linalg.solve(H, across @ (a - b).reshape(n, -1, 1))[..., 0]
    moved = at + np.clip(step, -_STEP, _STEP)
    moved[:, :2] = np.clip(moved[:, :2], *_SCALE)
    moved[:, 2:] = np.clip(moved[:, 2:], -_SHIFT, _SHIFT)
    return np.asarray(moved, dtype=np.float32)


def _grid(side: int) -> Floats:
    """Middles of the pixels, on -1 to 1."""
    return ((np.arange(side, dtype=np.float32) + 0.5) / side * 2 - 1).astype(np.float32)


def _warped(B: Floats, at: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """B (P, S, S) stretched and shifted, and which pixels (P, S, S) of it lie inside the picture."""
    columns, inside_x = _rows_of_interpolation(at[:, 0], at[:, 2], B.shape[2])
    rows, inside_y = _rows_of_interpolation(at[:, 1], at[:, 3], B.shape[1])
    warped = np.asarray(rows @ B @ columns.transpose(0, 2, 1), dtype=np.float32)
    return warped, inside_y[:, :, None] & inside_x[:, None, :]


def _rows_of_interpolation(scale: Floats, shift: Floats, side: int) -> tuple[Floats, NDArray[np.bool_]]:
    """Linear interpolation as matrices (P, S, S), as it works on rows and columns apart; (P, S) what is inside."""
    place = (scale[:, None] * _grid(side) + shift[:, None] + 1) / 2 * side - 0.5
    inside = (place >= -0.5) & (place <= side - 0.5)
    place = np.clip(place, 0, side - 1)
    weights = np.maximum(0, 1 - np.abs(place[:, :, None] - np.arange(side, dtype=np.float32)))
    return weights.astype(np.float32), inside


def _standard(A: Floats, seen: NDArray[np.bool_]) -> Floats:
    """Mean 0 and variance 1 over the pixels seen, 0 elsewhere."""
    n = np.maximum(seen.sum(axis=(1, 2), keepdims=True), 1).astype(np.float32)
    centred = (A - (A * seen).sum(axis=(1, 2), keepdims=True) / n) * seen
    variance = np.square(centred).sum(axis=(1, 2), keepdims=True) / n
    return np.asarray(centred / np.sqrt(variance + np.float32(_FLOOR)), dtype=np.float32)


def _correlation(A: Floats, B: Floats, seen: NDArray[np.bool_]) -> Floats:
    product = (_standard(A, seen) * _standard(B, seen)).sum(axis=(1, 2))
    return np.asarray(product / np.maximum(seen.sum(axis=(1, 2)), 1), dtype=np.float32)


def _detail(A: Floats, window: int) -> Floats:
    """The picture less its local mean."""
    from scipy.ndimage import uniform_filter  # a second to load, which looking at one picture would not pay back

    return np.asarray(A - uniform_filter(A, (0, window, window), mode="nearest"), dtype=np.float32)
