"""The training pictures in small, kept in the model file, so that a picture can be shown beside those most like it (P).

Features are brought to length 1, wide ones folded by signed hashing (Weinberger and others 2009), and projected on
their leading directions: what keeps their inner products best. A picture costs 64 bytes and its name. Above a limit a
subset is kept, as balanced over the classes as their sizes allow.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

LIMIT = 3000  # pictures kept
WIDTH = 64  # numbers kept of each
_FOLDED = 4096  # features wider than this are folded
_TENSORS = ("basis", "rows", "labels", "names")

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Similar:
    """A training picture that is like the one asked about.

    Attributes:
        id: its path inside the folder of training pictures.
        label: its class.
        similarity: cosine of the two projected feature vectors, −1 to 1.
    """

    id: str
    label: int
    similarity: float


@dataclass(frozen=True, eq=False)
class Neighbours:
    """Training pictures that can be found again.

    Attributes:
        basis: float16 (F, d): orthonormal directions; F is D, or 4,096 where features are wider.
        rows: int8 (m, d): the pictures' projections, each scaled to fill the range; only directions matter.
        labels: int32 (m,): their classes.
        names: m paths inside the folder of training pictures.
    """

    basis: NDArray[np.float16]
    rows: NDArray[np.int8]
    labels: NDArray[np.int32]
    names: tuple[str, ...]

    def nearest(self, x: NDArray[np.float32], count: int, *, without: frozenset[str] = frozenset()) -> list[Similar]:
        """The most similar training pictures of features (D,), the most similar first; of equal ones the first kept.

        Args:
            x: the network's features of a picture.
            count: how many, at most.
            without: names that are not to be shown, such as the picture's own.
        """
        own = _unit(_unit(folded(x[None])) @ self.basis.astype(np.float32))[0]
        cosines = np.einsum("md,d->m", _unit(self.rows.astype(np.float32)), own)
        order = (i for i in np.argsort(-cosines, kind="stable") if self.names[i] not in without)
        first = [i for i, _ in zip(order, range(count), strict=False)]
        return [Similar(self.names[i], int(self.labels[i]), float(cosines[i])) for i in first]

    def to_tensors(self) -> dict[str, NDArray[np.generic]]:
        """The tensors, by name; names as UTF-8 with zero bytes between them."""
        text = "\0".join(self.names).encode("utf-8", "surrogateescape")
        names = np.frombuffer(text, np.uint8).copy()
        return dict(zip(_TENSORS, (self.basis, self.rows, self.labels, names), strict=True))

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, NDArray[np.generic]], *, features: int, n_classes: int) -> Self:
        """The inverse of `to_tensors`. Raises ValueError if they do not fit each other or the model."""
        if set(tensors) != set(_TENSORS):
            raise ValueError(f"they have exactly the tensors {', '.join(_TENSORS)}")
        kinds = {"basis": (np.float16, 2), "rows": (np.int8, 2), "labels": (np.int32, 1), "names": (np.uint8, 1)}
        if any(tensors[name].dtype != kind or tensors[name].ndim != n for name, (kind, n) in kinds.items()):
            raise ValueError("a tensor has the wrong type or number of dimensions")
        names = tuple(tensors["names"].tobytes().decode("utf-8", "surrogateescape").split("\0"))
        basis, rows, labels = (np.asarray(tensors[name]) for name in _TENSORS[:3])
        if basis.shape != (min(features, _FOLDED), rows.shape[1]) or not len(names) == len(rows) == len(labels):
            raise ValueError(f"their tensors disagree: {basis.shape}, {rows.shape}, {labels.shape}, {len(names)} names")
        if not np.isfinite(basis).all() or not ((labels >= 0) & (labels < n_classes)).all():
            raise ValueError("values that are not finite, or classes that there are not")
        return cls(basis.astype(np.float16), rows.astype(np.int8), labels.astype(np.int32), names)


def remember(X: NDArray[np.float32], y: Ints, names: Sequence[str]) -> Neighbours:
    """What to keep of the training pictures.

    Args:
        X: float32 (n, D), n > 0.
        y: int64 (n,) classes.
        names: n paths, none of which holds a zero character.
    """
    import scipy.linalg  # before the threads are limited: what is loaded later would not be

    rows = _unit(folded(X))
    with threadpool_limits(1):  # sums split over threads would round otherwise from run to run
        gram = rows.T.astype(np.float64) @ rows.astype(np.float64)  # (F, F)
        last = len(gram) - 1
        _, basis = scipy.linalg.eigh(gram, subset_by_index=(max(0, last - WIDTH + 1), last))
        basis *= np.sign(basis[np.abs(basis).argmax(0), np.arange(basis.shape[1])])  # of both directions the same
        projected = rows @ basis.astype(np.float32)
    largest = np.maximum(np.abs(projected).max(1, keepdims=True), np.float32(1e-12))
    kept = np.rint(projected * (np.float32(127) / largest)).astype(np.int8)
    return Neighbours(basis.astype(np.float16), kept, y.astype(np.int32), tuple(names))


def balanced(y: Ints, limit: int, rng: np.random.Generator) -> Ints:
    """At most `limit` of n rows, ascending: every class gives all it has, or the same number as the other large ones.

    Args:
        y: int64 (n,) classes.
        limit: rows, at least as many as there are classes for each to be there.
        rng: draws within the classes.
    """
    if len(y) <= limit:
        return np.arange(len(y), dtype=np.int64)
    drawn = rng.permutation(len(y))
    turn = np.empty(len(y), np.int64)  # how many of its class were drawn before it
    for k in np.unique(y):
        own = drawn[y[drawn] == k]
        turn[own] = np.arange(len(own))
    order = drawn[np.argsort(turn[drawn], kind="stable")]
    return np.sort(order[:limit]).astype(np.int64)


def folded(X: NDArray[np.float32]) -> NDArray[np.float32]:
    """Features (n, D) → (n, min(D, 4096)): wider ones are added up in groups under fixed random signs."""
    n, width = X.shape
    if width <= _FOLDED:
        return X
    signs = np.random.default_rng(20).integers(0, 2, width, dtype=np.int8) * np.float32(2) - np.float32(1)
    whole = np.zeros((n, -(-width // _FOLDED) * _FOLDED), np.float32)
    whole[:, :width] = X * signs
    return np.asarray(whole.reshape(n, -1, _FOLDED).sum(1), np.float32)


def _unit(X: NDArray[np.float32]) -> NDArray[np.float32]:
    norms = np.sqrt(np.einsum("nd,nd->n", X, X))[:, None]
    return np.asarray(X / np.maximum(norms, np.float32(1e-12)), np.float32)
