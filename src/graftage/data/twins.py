"""Which pictures are copies of one another: cut, resized, compressed again, mirrored.

Candidates are found by what is near in the network's features and in coarse thumbnails, plain and mirrored; each is
then confirmed by laying the thumbnails over one another (`likeness`). Features alone are not enough: on hand signs of
100 pixels a copy in JPEG quality 75 is as far from its original as another hand, and on solar cells thousands of
different pictures are nearer than any threshold. n pictures, D features.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from threadpoolctl import threadpool_limits

from graftage.data.likeness import SIDE, SIGNATURE, Common, common_detail, likeness, shrunk
from graftage.data.split import renumbered

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]
Candidates = tuple[Ints, Ints, NDArray[np.bool_]]  # rows, rows, whether one is mirrored: (P,) each

COPY: Final = 0.88  # least likeness of copies; between the likest different pictures and the copies of bench/duplicates
# Where pictures are so alike that copies at `COPY` hang together in one large group, the next of these is taken.
LEVELS: Final = (COPY, 0.95, 0.98)
LARGE_SHARE: Final = 0.05  # of all pictures: a group of copies that is larger deserves distrust
LARGE: Final = 10  # unless it is no larger than this
TAU: Final = 0.95, 0.9999  # least cosine of near pictures, and the quantile of between-class cosines that it must pass

_COARSE: Final = 16  # pixels a side of what candidates are sought by
_CLASHING: Final = 0.002  # share of the candidates of two classes that may be copies with a wrong label
_CLASHES: Final = 200  # such candidates from which on they say how like different pictures are
_HUE: Final = 16  # levels by which the mean of a channel, less that of all three, may differ between copies
_SHADES: Final = 2.0  # standard deviation, in grey levels, of a picture with nothing in it
_NEAREST: Final = 3  # neighbours that are always candidates, in each way of looking
_MOST: Final = 12  # neighbours that are candidates if they are nearer than τ
_BAR: Final = 0.4  # cosine of coarse thumbnails, below which nothing is a candidate
_FAR: Final = 0.7  # cosine of features, likewise
_BLOCK: Final = 1024  # rows compared with all others at a time
_ROWS: Final = 64  # rows of two kinds that a core's cache holds
_PROJECTED: Final = 256  # features are projected to so many dimensions where there are many pictures
_MANY: Final = 10_000
_SAMPLED: Final = 2000  # rows that τ is found on
_ASKED: Final = 300  # pictures by which it is told how like different ones are
_MARGIN: Final = 0.002


@dataclass(frozen=True)
class Pair:
    """Two pictures that are copies of each other.

    Attributes:
        one: row of the first.
        other: row of the second, larger than `one`.
        likeness: of their detail, up to 1.
        mirrored: whether they are so once one of them is mirrored.
    """

    one: int
    other: int
    likeness: float
    mirrored: bool


@dataclass(frozen=True, eq=False)
class Twins:
    """Copies among n pictures.

    Attributes:
        groups: int64 (n,) equal pictures and near-copies are one group; numbered by first appearance.
        pairs: near-copies that were confirmed and kept.
        level: least likeness that was asked for; above 1 where near-copies could not be told from different pictures.
        alike: int64 (n,) pictures nearer than τ in the features, copies or not; the picture's own number without
            features.
        tau: that cosine, 0 without features.
        tried: pairs that were looked at closely.
    """

    groups: Ints
    pairs: tuple[Pair, ...]
    level: float
    alike: Ints
    tau: float
    tried: int


def find_twins(
    thumbnails: Bytes, exact: Ints, *, X: Floats | None = None, y: Ints | None = None, colours: Bytes | None = None
) -> Twins:
    """Finds copies among n pictures.

    Args:
        thumbnails: uint8 (n, 64, 64) grey.
        exact: int64 (n,) pictures that are equal in every pixel are one group.
        X: float32 (n, D) features, or None to go by thumbnails alone.
        y: int64 (n,) labels, by which τ is found; None takes all pairs for pairs of different classes.
        colours: uint8 (n, 3) mean colours sRGB, to tell pictures apart that are the same in grey.
    """
    _, first, group = np.unique(exact, return_index=True, return_inverse=True)
    labels = np.full(len(first), -1) if y is None else y[first]
    tau, alike = 0.0, np.arange(len(exact))
    pairs, plain, mirrored = _candidates(thumbnails[first])
    if X is not None:
        unit = _unit(X[first])
        tau = threshold(unit, labels)
        i, j, near = _near_features(unit, tau)
        turned = _products(plain, i, mirrored, j) > _products(plain, i, plain, j)
        pairs.append(_ordered(i, j, turned))
        alike = _components(len(first), i[near], j[near])[group]
    one, other, flip = (np.concatenate(column) for column in zip(*pairs, strict=True))
    _, kept = np.unique(np.stack([one, other, flip.astype(np.int64)]), axis=1, return_index=True)
    one, other, flip = one[kept], other[kept], flip[kept]
    like = compared(thumbnails[first], one, thumbnails[first], other, flip, common_detail(thumbnails[first]))
    if colours is not None:
        like[_of_other_colour(colours[first[one]], colours[first[other]])] = 0
    level, joined = _settled(len(first), one, other, like, _least(like, labels[one], labels[other]))
    confirmed = tuple(
        Pair(int(a), int(b), float(s), bool(m))
        for a, b, s, m in zip(first[one], first[other], like, flip, strict=True)
        if s >= level
    )
    return Twins(renumbered(joined[group]), confirmed, level, renumbered(alike), tau, len(one))


def find_known(thumbnails: Bytes, known: Bytes) -> tuple[Ints, Floats]:
    """For each picture the likest of those already known, and how like it is.

    Args:
        thumbnails: uint8 (n, S, S) grey.
        known: uint8 (m, S, S) of pictures that, for instance, a model was trained on.

    Returns:
        int64 (n,) rows of `known`, -1 where none comes near; float32 (n,) likeness.
    """
    best, at = np.full(len(thumbnails), -1, np.float32), np.full(len(thumbnails), -1, np.int64)
    if not len(known) or not len(thumbnails):
        return at, best
    plain, mean = _described(known, None)
    for flip in (False, True):
        asked, _ = _described(thumbnails[:, :, ::-1] if flip else thumbnails, mean)
        i, j, _ = _top(asked, plain, k=_NEAREST, bar=_BAR, own=False)
        like = compared(known, j, thumbnails, i, np.full(len(i), flip))
        for row, other, value in zip(i, j, like, strict=True):
            if value > best[row]:
                best[row], at[row] = value, other
    return at, best


def signature(thumbnails: Bytes) -> Bytes:
    """Thumbnails (n, 64, 64) as small as a model file keeps them: uint8 (n, 32, 32)."""
    return shrunk(thumbnails, SIGNATURE).round().astype(np.uint8)


def level_known(known: Bytes, groups: Ints) -> float:
    """Likeness that a picture must have to one of `known` to be a copy of it, whatever set it comes from.

    Args:
        known: uint8 (m, S, S) grey.
        groups: int64 (m,) copies among them are one group.

    Returns:
        `COPY`, or more where different pictures among `known` are as like as that.
    """
    asked = np.unique(np.linspace(0, len(known) - 1, min(len(known), _ASKED)).astype(np.int64))
    plain, mirrored = descriptors(known)
    highest = COPY
    for flip, others in ((False, plain), (True, mirrored)):
        i, j, _ = _top(plain[asked], others, k=_NEAREST + 1, bar=_BAR, own=False)
        i = asked[i]
        apart = groups[i] != groups[j]
        like = compared(known, i[apart], known, j[apart], np.full(int(apart.sum()), flip))
        highest = max(highest, float(like.max(initial=-1)))
    return highest if highest == COPY else min(1.0, highest + _MARGIN)


def compared(
    A: Bytes, one: Ints, B: Bytes, other: Ints, flip: NDArray[np.bool_], common: Common | None = None
) -> Floats:
    """Likeness of A[one] and B[other], the latter mirrored where `flip` says so: float32 (P,)."""
    like = np.empty(len(one), np.float32)
    with threadpool_limits(1, user_api="blas"):  # `likeness` has threads of its own: more would wait for each other
        for start in range(0, len(one), _BLOCK):
            part = slice(start, start + _BLOCK)
            others = B[other[part]]
            others = np.where(flip[part, None, None], others[:, :, ::-1], others)
            distinct, rows = np.unique(one[part], return_inverse=True)
            like[part] = likeness(A[distinct], others, common, rows=rows)
    return like


def threshold(unit: Floats, y: Ints) -> float:
    """τ: the cosine above which pictures are suspiciously near, from the cosines between classes of this very set.

    Args:
        unit: float32 (n, D) features of length 1.
        y: int64 (n,) labels; a negative one differs from all.
    """
    rows = np.unique(np.linspace(0, len(unit) - 1, min(len(unit), _SAMPLED)).astype(np.int64))
    cosines = unit[rows] @ unit[rows].T
    apart = y[rows][:, None] != y[rows]
    if (y[rows] < 0).any():
        apart = ~np.eye(len(rows), dtype=np.bool_)
    between = cosines[apart]
    least, quantile = TAU
    return max(least, float(np.quantile(between, quantile))) if len(between) else least


def descriptors(thumbnails: Bytes) -> tuple[Floats, Floats]:
    """Coarse thumbnails, plain and mirrored, each float32 (n, 256) of length 1, less what all pictures have in common.

    Their inner product is a correlation. A picture that is nothing but the common part is 0.
    """
    plain, mean = _described(thumbnails, None)
    return plain, _described(thumbnails[:, :, ::-1], mean)[0]


def _described(thumbnails: Bytes, mean: Floats | None) -> tuple[Floats, Floats]:
    rows = shrunk(thumbnails, _COARSE).reshape(len(thumbnails), _COARSE * _COARSE)
    rows = _unit(rows - rows.mean(axis=1, keepdims=True))
    mean = rows.mean(axis=0) if mean is None and len(rows) > _NEAREST else mean
    mean = np.zeros(rows.shape[1], np.float32) if mean is None else mean
    return _unit(rows - mean), mean


def _unit(rows: Floats) -> Floats:
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6), dtype=np.float32)


def _candidates(thumbnails: Bytes) -> tuple[list[Candidates], Floats, Floats]:
    """Pairs near in their coarse thumbnails, plain or with one mirrored; and those thumbnails, (n, 256) each."""
    plain, mirrored = descriptors(thumbnails)
    pairs = []
    for flip, others in ((False, plain), (True, mirrored)):
        i, j, _ = _top(plain, others, k=_NEAREST, bar=_BAR, own=True)
        pairs.append(_ordered(i, j, np.full(len(i), flip)))
    i, j = _flat(thumbnails)
    return [*pairs, _ordered(i, j, np.zeros(len(i), np.bool_))], plain, mirrored


def _flat(thumbnails: Bytes) -> tuple[Ints, Ints]:
    """Candidates among pictures without anything in them, which no correlation finds: neighbours by shade."""
    coarse = shrunk(thumbnails, _COARSE).reshape(len(thumbnails), _COARSE * _COARSE)
    rows = np.flatnonzero(coarse.std(axis=1) < _SHADES)
    rows = rows[np.argsort(coarse[rows].mean(axis=1), kind="stable")].astype(np.int64)
    return rows[:-1], rows[1:]


def _near_features(unit: Floats, tau: float) -> tuple[Ints, Ints, NDArray[np.bool_]]:
    """Candidates by features: (i, j, whether nearer than τ)."""
    seen = unit
    if len(unit) > _MANY and unit.shape[1] > _PROJECTED:
        rng = np.random.default_rng(0)
        seen = _unit(unit @ rng.standard_normal((unit.shape[1], _PROJECTED), dtype=np.float32))
    i, j, rank = _top(seen, seen, k=_MOST, bar=_FAR - (0.1 if seen is not unit else 0), own=True)
    cosine = _products(unit, i, unit, j)
    near = cosine > tau
    kept = near | ((rank < _NEAREST) & (cosine >= _FAR))
    return i[kept], j[kept], near[kept]


def _products(A: Floats, i: Ints, B: Floats, j: Ints) -> Floats:
    """Inner products of A[i] with B[j], a few rows at a time: (P,)."""
    parts = [slice(start, start + _ROWS) for start in range(0, len(i), _ROWS)]
    found = [np.einsum("ij,ij->i", A[i[part]], B[j[part]]) for part in parts]
    return np.concatenate(found) if found else np.zeros(0, np.float32)


def _top(A: Floats, B: Floats, *, k: int, bar: float, own: bool) -> tuple[Ints, Ints, Ints]:
    """For every row of A (n, d) the k rows of B (m, d) of largest inner product at or above `bar`: (i, j, rank).

    Args:
        A: float32.
        B: float32.
        k: neighbours.
        bar: least inner product.
        own: whether A and B are the same pictures, and a row is no neighbour of its own.
    """
    ones, others, ranks = [], [], []
    k = min(k, len(B) - own)
    for start in range(0, len(A) if k > 0 else 0, _BLOCK):
        products = A[start : start + _BLOCK] @ B.T
        rows = np.arange(len(products))
        if own:
            products[rows, start + rows] = -2
        top = np.argpartition(products, -k, axis=1)[:, -k:] if k < products.shape[1] else np.argsort(products, axis=1)
        values = np.take_along_axis(products, top, axis=1)
        order = np.argsort(-values, axis=1, kind="stable")
        top, values = np.take_along_axis(top, order, axis=1), np.take_along_axis(values, order, axis=1)
        row, rank = np.nonzero(values >= bar)
        ones.append(row + start)
        others.append(top[row, rank])
        ranks.append(rank)
    if not ones:
        none = np.zeros(0, np.int64)
        return none, none, none
    i, j, rank = (np.concatenate(part).astype(np.int64) for part in (ones, others, ranks))
    return i, j, rank


def _ordered(i: Ints, j: Ints, flip: NDArray[np.bool_]) -> Candidates:
    return np.minimum(i, j), np.maximum(i, j), flip


def _of_other_colour(A: Bytes, B: Bytes) -> NDArray[np.bool_]:
    """Where mean colours (P, 3) differ in hue: whatever the light, a red picture is no copy of a green one."""
    a, b = (c.astype(np.float64) - c.mean(axis=1, keepdims=True) for c in (A, B))
    return np.asarray(np.abs(a - b).max(axis=1, initial=0) > _HUE)


def _least(like: Floats, y: Ints, z: Ints) -> float:
    """`COPY`, or what hardly any candidates of two classes reach: those are no copies, however like they are.

    Args:
        like: float32 (P,) likeness of candidates.
        y: int64 (P,) class of the first.
        z: int64 (P,) class of the second; negative where not known.
    """
    between = like[(y != z) & (y >= 0) & (z >= 0)]
    if len(between) < _CLASHES:
        return COPY
    return min(max(COPY, float(np.quantile(between, 1 - _CLASHING))), LEVELS[-1])


def _settled(n: int, one: Ints, other: Ints, like: Floats, least: float) -> tuple[float, Ints]:
    """The first level at which no group of near-copies is too large, and the groups (n,) that it gives."""
    for level in (least, *(higher for higher in LEVELS if higher > least)):
        sure = like >= level
        groups = _components(n, one[sure], other[sure])
        if np.bincount(groups, minlength=1).max() <= max(LARGE, LARGE_SHARE * n):
            return level, groups
    return 2.0, np.arange(n)


def _components(n: int, one: Ints, other: Ints) -> Ints:
    graph = coo_array((np.ones(len(one), np.int8), (one, other)), shape=(n, n))
    return np.asarray(connected_components(graph, directed=False)[1], dtype=np.int64)


assert SIDE % _COARSE == 0
