"""Is a picture unlike anything that the classifier was trained on? Four scores, joined into one p-value.

All but the last are of the feature vector brought to length 1 (Mahalanobis++, Müller and Hein 2025):

1. Mahalanobis distance to the nearest class mean under the classes' shared covariance, shrunk towards a multiple of the
   identity (Ledoit and Wolf 2004).
2. Relative Mahalanobis distance (Ren et al. 2021): the same less that to the mean of all, whose covariance is the
   shrunk one plus that of the class means. Shrinking each by itself lets the noise of a thousand directions, which is
   the same in both, decide: with classes left out of real sets such a score was at times worse than chance.
3. Cosine distance to the k-th nearest of the kept training pictures (Sun et al. 2022).
4. Generalised entropy of the calibrated probabilities (GEN; Liu et al. 2023).

None of these needs a picture of another kind. Each becomes a surprise, the negative logarithm of the share of training
pictures, judged while held out, that look at least as odd. Their sum (Fisher's) joins the four; since they depend on
each other, it is compared with the sums of the same held-out pictures instead of with its chi-squared distribution: the
p-value is the share of these that are at least as large.

Kept small: of D features the r that hold most of the training pictures' energy span a subspace; outside it the pictures
count as spread alike in all directions, so that a distance needs r coordinates and the length of what is left over.
With D = r nothing is left over and the formulas are the textbook's.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from graftage.learn.head import inner_products, transform

Floats = NDArray[np.float64]
Reals = NDArray[np.floating[Any]]
Singles = NDArray[np.float32]
Ints = NDArray[np.int64]

DIMENSIONS = 128  # r at most; fewer where D or K is so large that the model file would grow by more than 2 MiB
_CELLS = 2**19
BANK = 2048  # training pictures kept for the neighbours, at most
FITTED = 8192  # training pictures that the detector is fitted to, at most
REFERENCE = 4096  # held-out scores kept, at most; beyond, evenly spaced ones of the sorted
FALSE_ALARM = 0.01  # share of pictures like the training ones that are flagged
GAMMA, TOP = 0.1, 100  # of GEN, as published: the power, and how many of the largest probabilities
_OVERSAMPLED, _ITERATIONS = 12, 3  # of the randomised subspace
TAIL = 0.1  # share of the held-out scores whose exceedances a tail is fitted to
_FOLDS, _JUDGED = (5, 20), 6000  # fewest and most folds, and pictures that all the folds' geometries see, about
_QUERIES, _TOGETHER = 512, 32  # rows looked at together, with BLAS and without; the results do not depend on it
SCORES = ("relative_mahalanobis", "mahalanobis", "neighbour_distance", "generalised_entropy")


@dataclass(frozen=True, eq=False)
class Geometry:
    """Where training pictures lie in the space of features of length 1; every number float32.

    Attributes:
        basis: (r, D) orthonormal rows.
        within: (r, r) turns coordinates so that the classes' shared covariance becomes the identity.
        total: (r, r) likewise for the covariance of all pictures.
        means: (K', r) class means, turned by `within`; classes without a picture have none.
        centre: (r,) mean of all, turned by `total`.
        outside: (1,) variance in each direction outside the subspace.
        bank: (M, r) coordinates of kept pictures, length 1.
        k: which neighbour counts.
    """

    basis: Singles
    within: Singles
    total: Singles
    means: Singles
    centre: Singles
    outside: Singles
    bank: Singles
    k: int

    @property
    def features(self) -> int:
        """D."""
        return int(self.basis.shape[1])

    def scores(self, X: Reals) -> Floats:
        """Features (n, D) → the first three of `SCORES`, float64 (n, 3); higher is odder.

        Row by row and without BLAS: the same picture gets the same bits whatever its company.
        """
        return self._scores(X, _TOGETHER, inner_products)

    def quick_scores(self, X: Reals) -> Floats:
        """`scores` by BLAS: many times as fast for many rows, and the same but for rounding."""
        return self._scores(X, _QUERIES, lambda rows, kept: np.asarray(rows @ kept.T))

    def _scores(self, X: Reals, together: int, products: Callable[[Singles, Singles], Singles]) -> Floats:
        rows = transform(X, "unit")
        parts = [rows[start : start + together] for start in range(0, len(rows), together)]
        return np.concatenate([self._of(part, products) for part in parts] or [np.zeros((0, 3))])

    def _of(self, rows: Singles, products: Callable[[Singles, Singles], Singles]) -> Floats:
        """Scores (q, 3) of rows of length 1 (q, D), by a way to multiply (q, d) with (m, d) to (q, m)."""
        inside = products(rows, self.basis)  # (q, r)
        left_over = np.maximum(np.einsum("qd,qd->q", rows, rows) - np.einsum("qr,qr->q", inside, inside), 0.0)
        own = _squares(np.einsum("sr,qr->qs", self.within, inside), self.means).min(axis=1)
        every = _squares(np.einsum("sr,qr->qs", self.total, inside), self.centre[None])[:, 0]
        cosine = products(inside, self.bank)
        nearest = np.partition(cosine, cosine.shape[1] - self.k, axis=1)[:, cosine.shape[1] - self.k]
        # outside the subspace both covariances are the same: it cancels in the relative distance
        return np.stack([own - every, own + left_over / float(self.outside[0]), 1.0 - nearest], axis=1)

    def to_tensors(self) -> dict[str, NDArray[np.generic]]:
        """The arrays, by name."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name != "k"}

    @classmethod
    def from_parts(cls, k: object, tensors: Mapping[str, NDArray[np.generic]]) -> Self:
        """The inverse of `to_tensors` and k. Raises ValueError where the parts do not fit each other."""
        wanted = {field.name for field in fields(cls)} - {"k"}
        if set(tensors) != wanted:
            raise ValueError(f"a geometry has exactly the tensors {', '.join(sorted(wanted))}")
        arrays = {name: _finite(name, array) for name, array in tensors.items()}
        shapes = {name: array.shape for name, array in arrays.items()}
        r, rows = len(arrays["basis"]), all(arrays[name].ndim == 2 for name in ("basis", "means", "bank"))
        square = shapes["within"] == shapes["total"] == (r, r)
        if not (rows and square and shapes["means"][1] == shapes["bank"][1] == r and shapes["centre"] == (r,)):
            raise ValueError(f"the parts of a geometry disagree: {shapes}")
        if shapes["outside"] != (1,) or arrays["outside"][0] <= 0:
            raise ValueError("a geometry has one variance outside its subspace, above 0")
        if type(k) is not int or not 1 <= k <= len(arrays["bank"]):
            raise ValueError(f"the neighbour that counts is {k!r}, of {len(arrays['bank'])}")
        return cls(**arrays, k=k)


def _squares(a: Singles, b: Singles) -> Floats:
    """Squared distances of rows (q, r) from rows (m, r): (q, m), by the sum itself, which does not cancel."""
    if len(a) < len(b):
        return np.stack([_lengths(b - row) for row in a])
    return np.stack([_lengths(a - row) for row in b], axis=1)


def _lengths(rows: Singles) -> Floats:
    """Squared lengths (n,) of rows (n, r); each sum in an order of its own, which numpy's casts while summing break."""
    return np.asarray(np.square(rows).astype(np.float64).sum(axis=1))


def fit_geometry(X: Reals, y: Ints, *, rng: np.random.Generator, dimensions: int = DIMENSIONS) -> Geometry:
    """The geometry of training pictures.

    Args:
        X: float (n, D) features, n of 2 or more.
        y: int64 (n,) class numbers.
        rng: draws the start of the subspace, and the pictures kept.
        dimensions: r at most.
    """
    rows, y = transform(X, "unit"), np.unique(y, return_inverse=True)[1].reshape(-1)
    basis = _subspace(rows, rank_of(rows.shape[1], int(y.max()) + 1, dimensions), rng)
    inside = (rows @ basis.T).astype(np.float64)
    left_over = np.maximum(1.0 - np.square(inside).sum(axis=1), 0.0)
    counts = np.bincount(y)
    means = np.stack([inside[y == c].mean(axis=0) for c in range(len(counts))])
    centre = inside.mean(axis=0)
    covariance, outside = shrunk(inside - means[y], left_over, rows.shape[1])
    between = (means - centre).T @ ((counts / len(y))[:, None] * (means - centre))
    within, total = (np.linalg.inv(np.linalg.cholesky(c)) for c in (covariance, covariance + between))
    kept = np.sort(rng.permutation(len(rows))[:BANK])
    bank = inside[kept] / np.maximum(np.linalg.norm(inside[kept], axis=1, keepdims=True), 1e-12)
    return Geometry(
        basis=_single(basis),
        within=_single(within),
        total=_single(total),
        means=_single(means @ within.T),
        centre=_single(total @ centre),
        outside=_single(np.array([outside])),
        bank=_single(bank),
        k=neighbours(len(kept)),
    )


def _single(values: Floats) -> Singles:
    return np.ascontiguousarray(values, dtype=np.float32)


def rank_of(features: int, n_classes: int, dimensions: int = DIMENSIONS) -> int:
    """r: as many dimensions as asked for, but no more than D, and so that no array of the model file grows large."""
    return min(features, dimensions, max(8, _CELLS // max(features, n_classes)))


def neighbours(n: int) -> int:
    """Which neighbour counts, by the number of pictures kept."""
    return min(n, 5 if n < 500 else 10 if n < 5000 else 50)


def _subspace(rows: Singles, rank: int, rng: np.random.Generator) -> Floats:
    """Orthonormal rows (rank or fewer, D) that span most of the energy of `rows`.

    By the eigenvectors of inner products where there are few rows, else at random (Halko, Martinsson and Tropp 2011).
    """
    n, D = rows.shape
    if rank >= D:
        return np.eye(D)
    width = min(D, rank + _OVERSAMPLED)
    if n <= 4 * width:
        sizes, places = np.linalg.eigh((rows @ rows.T).astype(np.float64))
        kept = np.flatnonzero(sizes > 1e-6 * max(float(sizes[-1]), 1e-12))[-rank:]
        basis = (places[:, kept] / np.sqrt(sizes[kept])).T @ rows
        return np.asarray(np.linalg.qr(basis.T)[0].T) if len(kept) else np.eye(1, D)
    found = rng.standard_normal((D, width)).astype(np.float32)
    for _ in range(_ITERATIONS):
        found = np.linalg.qr(rows.T @ (rows @ np.linalg.qr(found)[0]))[0]
    _, _, turned = np.linalg.svd(rows @ found, full_matrices=False)
    return np.asarray(np.linalg.qr((turned[:rank] @ found.T).astype(np.float64).T)[0].T)


def shrunk(centred: Floats, left_over: Floats, D: int) -> tuple[Floats, float]:
    """The shrunk covariance (r, r) of `centred` (n, r), and the variance in each direction outside the subspace.

    The shrinkage ρ is Ledoit and Wolf's in all D dimensions, as in scikit-learn's `ledoit_wolf`, with the covariance
    outside the subspace taken for a multiple of the identity.

    Args:
        centred: rows less their class mean.
        left_over: (n,) squared length of each row outside the subspace.
        D: dimensions in all.
    """
    n, r = centred.shape
    covariance = centred.T @ centred / n
    outside = float(left_over.mean()) / (D - r) if r < D else 0.0
    mu = (float(np.trace(covariance)) + (D - r) * outside) / D
    squared = float(np.square(covariance).sum()) + (D - r) * outside**2
    lengths = np.square(centred).sum(axis=1) + (left_over if r < D else 0.0)
    beta = max(float(np.square(lengths).mean()) - squared, 0.0) / n
    rho = min(beta / max(squared - D * mu**2, 1e-30), 1.0)
    floor = max(rho * mu, 1e-9 * mu, 1e-12)
    return (1 - rho) * covariance + floor * np.eye(r), (1 - rho) * outside + floor


def gen(probabilities: Floats) -> Floats:
    """Generalised entropy Σ p^γ (1-p)^γ over the largest hundred of each row (n, K): (n,), higher is odder."""
    top = -np.sort(-probabilities, axis=1)[:, :TOP]
    return np.asarray((np.clip(top * (1 - top), 0.0, None) ** GAMMA).sum(axis=1))


@dataclass(frozen=True, eq=False)
class Scale:
    """How odd training pictures look when held out: what turns scores into p-values.

    Attributes:
        reference: float32 (4, m), the held-out scores of `SCORES`, each row sorted.
        joint: float32 (m,), their joint oddities, sorted.
    """

    reference: Singles
    joint: Singles

    @classmethod
    def of(cls, held_out: Floats) -> Self:
        """The scale by held-out scores (m, 4) of training pictures."""
        kept = held_out.astype(np.float32)
        reference = np.stack([_thinned(column) for column in np.sort(kept, axis=0).T])
        return cls(reference, _thinned(np.sort(_joint(reference, kept, [_tail(row) for row in reference]))))

    @cached_property
    def tails(self) -> list[tuple[float, float]]:
        """The tail of each row of the reference; fitting it takes longer than judging a picture."""
        return [_tail(row) for row in self.reference]

    def p_values(self, scores: Floats) -> Floats:
        """Scores (n, 4) → (n,), above 0 and up to 1: the share of held-out training pictures at least as odd."""
        above = _above(self.joint, _joint(self.reference, scores.astype(np.float32), self.tails))
        return np.asarray((above + 1) / (len(self.joint) + 1))


@dataclass(frozen=True, eq=False)
class Unlike:
    """The detector.

    Attributes:
        geometry: of the training pictures.
        scale: of their held-out scores.
        false_alarm: p-values up to this are flagged.
    """

    geometry: Geometry
    scale: Scale
    false_alarm: float = FALSE_ALARM

    @property
    def least_odder(self) -> int:
        """How many of the held-out pictures must be at least as odd as one that is not flagged, 0 or more.

        The rule of `false_alarm` in whole numbers, which every machine compares alike.
        """
        m = len(self.scale.joint)
        p_values = (np.arange(m + 1, dtype=np.float64) + 1) / (m + 1)  # by how many are at least as odd
        return int((p_values <= self.false_alarm).sum())

    def p_values(self, X: Reals, probabilities: Floats) -> Floats:
        """Features (n, D) and calibrated probabilities (n, K) → p-values (n,); low is odd. The same bits row by row."""
        return self.scale.p_values(np.column_stack([self.geometry.scores(X), gen(probabilities)]))

    def to_tensors(self) -> dict[str, NDArray[np.generic]]:
        """The arrays, by name."""
        return {**self.geometry.to_tensors(), "reference": self.scale.reference, "joint": self.scale.joint}

    @classmethod
    def from_parts(cls, k: object, false_alarm: object, tensors: Mapping[str, NDArray[np.generic]]) -> Self:
        """The inverse of `to_tensors`, k and the rate. Raises ValueError where the parts do not fit each other."""
        rest = dict(tensors)
        reference, joint = (_finite(name, rest.pop(name, np.zeros(0))) for name in ("reference", "joint"))
        if reference.ndim != 2 or len(reference) != len(SCORES) or joint.ndim != 1:
            raise ValueError(f"held-out scores have the wrong shapes: {reference.shape}, {joint.shape}")
        if (np.diff(reference, axis=1) < 0).any() or (np.diff(joint) < 0).any():
            raise ValueError("held-out scores are not sorted")
        if type(false_alarm) is not float or not 0 < false_alarm < 1:
            raise ValueError(f"the false-alarm rate is no share: {false_alarm!r}")
        return cls(Geometry.from_parts(k, rest), Scale(reference, joint), false_alarm)


def _finite(name: str, array: NDArray[np.generic]) -> Singles:
    if array.dtype != np.float32:
        raise ValueError(f"{name} must be float32, not {array.dtype}")
    if not array.size or not np.isfinite(array.astype(np.float32)).all():
        raise ValueError(f"{name} is empty, or holds values that are not finite")
    return np.ascontiguousarray(array, dtype=np.float32)


def least_reference(false_alarm: float) -> int:
    """Held-out pictures without which no p-value can be as small as the false-alarm rate."""
    return int(np.ceil(1 / false_alarm)) - 1


def held_out_scores(
    X: Reals, y: Ints, fold: Ints, probabilities: Floats, *, rng: np.random.Generator
) -> tuple[Ints, Floats]:
    """Scores of training pictures, each by a geometry fitted without its fold.

    Args:
        X: float (n, D) features; y: int64 (n,).
        fold: int64 (n,) in which fold a row is held out; rows of one group share it.
        probabilities: float64 (n, K) held-out, calibrated.
        rng: of the geometries, and of the sample where n is above `FITTED`.

    Returns:
        The rows judged, int64 (m,), ascending: all, or a sample; and their scores (m, 4); nan where all is of one fold.
    """
    rows = sample(len(y), rng)
    scores = np.full((len(rows), 3), np.nan)
    for number in np.unique(fold[rows]):
        inside = fold[rows] == number
        if inside.all() or (~inside).sum() < 2:
            continue
        own = fit_geometry(X[rows[~inside]], y[rows[~inside]], rng=rng)
        scores[inside] = own.quick_scores(X[rows[inside]])
    return rows, np.column_stack([scores, gen(probabilities[rows])])


def left_out(groups: Ints, rng: np.random.Generator) -> Ints:
    """The fold in which a row is judged, (n,): of 20 where n is small, so that little is missing, else of 5.

    Groups stay whole.

    With a fifth missing of 300 pictures the others look odder than to the detector of all, and nothing is flagged.
    """
    place = np.unique(groups, return_inverse=True)[1].reshape(-1)
    count = int(place.max()) + 1
    k = min(max(_JUDGED // count, _FOLDS[0]), _FOLDS[1], count)
    return np.asarray(rng.permutation(count)[place] % k, dtype=np.int64)


def sample(n: int, rng: np.random.Generator, most: int = FITTED) -> Ints:
    """Rows that a geometry is fitted to: all of n, or `most` of them drawn at random, ascending."""
    return np.arange(n) if n <= most else np.sort(rng.permutation(n)[:most])


def _above(reference: Singles, values: Singles) -> Floats:
    """How many of the sorted reference are at least each value."""
    return np.asarray(len(reference) - np.searchsorted(reference, values, side="left"), dtype=np.float64)


def _joint(reference: Singles, scores: Singles, tails: Sequence[tuple[float, float]]) -> Singles:
    """Fisher's sum of surprises: scores (n, s), reference (s, m) sorted → (n,), higher is odder."""
    rows = zip(reference, scores.T, tails, strict=True)
    return np.asarray(np.sum([_surprise(row, column, tail) for row, column, tail in rows], axis=0), dtype=np.float32)


def _surprise(reference: Singles, values: Singles, tail: tuple[float, float]) -> Floats:
    """-log of the share of the sorted reference at or above each value; in the last tenth, of an exponential tail.

    Without the tail nothing could surprise more than one in m, and of a few hundred pictures the sum of four scores
    would not tell a wholly strange one from the oddest of its own kind.
    """
    start, scale = tail
    rank = -np.log((_above(reference, values) + 1) / (len(reference) + 1))
    return np.where(values > start, -np.log(TAIL) + (values.astype(np.float64) - start) / scale, rank)


def _tail(reference: Singles) -> tuple[float, float]:
    """Where the last tenth of the sorted reference begins, and how far beyond it lies on average."""
    start = float(reference[int((1 - TAIL) * (len(reference) - 1))])
    beyond = reference[reference > start].astype(np.float64) - start
    return start, max(float(beyond.mean()) if beyond.size else 0.0, 1e-6 * abs(start), 1e-12)


def _thinned(values: Any) -> Singles:
    """At most `REFERENCE` of the sorted values, evenly spaced, ends included."""
    if len(values) <= REFERENCE:
        return np.ascontiguousarray(values, np.float32)
    places = np.round(np.linspace(0, len(values) - 1, REFERENCE)).astype(np.int64)
    return np.ascontiguousarray(values[places], np.float32)
