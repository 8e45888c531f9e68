"""Ridge regression on frozen features in closed form: one eigendecomposition pays for every penalty and every fold.

n pictures, D features, K classes, L penalties, R repeats. Targets T (n, K) are +1 for the class and −1 elsewhere; the
intercept carries no penalty. With J = I − 11ᵀ/n, K the kernel matrix and JKJ = U diag(s) Uᵀ, the fitted values are H T,

    H = 11ᵀ/n + U diag(s / (s + λ)) Uᵀ ,

and the predictions for rows S by a model trained on all other rows are exactly (Allen 1974 for one row; for blocks by
the Woodbury identity)

    T_S − (I − H)_SS⁻¹ (T − H T)_S .

Two routes to one answer. `Smoother` holds U and s: memory n·r, time m³ a fold of m rows and penalty; use it up to
some 6 000 rows. `Moments` holds the D×D scatter: time D³ a fold and penalty, rows are streamed; use it for more rows.

Everything is float64, because the small penalties lie nine orders of magnitude below the largest eigenvalue.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from graftage.learn.chunking import chunks

Floats = NDArray[np.float64]
Reals = NDArray[np.floating[Any]]
Labels = NDArray[np.int64]

_EPS = float(np.finfo(np.float64).eps)
_HELD_BYTES = 1 << 28  # 256 MiB: predictions of all penalties held at once


def linear_kernel(A: Reals, B: Reals | None = None) -> Floats:
    """Inner products (n, m) of the rows of A (n, D) and B (m, D); of A with itself if B is not given."""
    a = np.asarray(A, dtype=np.float64)
    b = a if B is None else np.asarray(B, dtype=np.float64)
    return np.asarray(a @ b.T)


def arccos_kernel(A: Reals, B: Reals | None = None, *, bias: float = 1.0) -> Floats:
    """Arc-cosine kernel of order 1 (n, m) on the rows of A (n, D) and B (m, D), each with `bias` appended.

    k(x, z) = |x||z| (sin θ + (π − θ) cos θ) / 2π with θ the angle between x and z: the mean over w ~ N(0, I) of
    relu(w·x) relu(w·z), so a layer of infinitely many random ReLU units (Cho & Saul 2009). k(x, x) = |x|²/2. It is
    homogeneous, k(ax, bz) = ab k(x, z) for a, b > 0, if `bias` is 0.
    """
    a = _append(A, bias)
    b = a if B is None else _append(B, bias)
    long_a, long_b = np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1)
    kernel: Floats = a @ b.T
    for rows in chunks(len(a), len(b)):
        kernel[rows] = _arccos(kernel[rows], long_a[rows, None] * long_b)
    return kernel


def _append(A: Reals, bias: float) -> Floats:
    return np.column_stack([np.asarray(A, dtype=np.float64), np.full(len(A), bias)])


def _arccos(inner: Floats, scale: Floats) -> Floats:
    cosine = np.divide(inner, scale, out=np.zeros_like(inner), where=scale > 0)
    np.clip(cosine, -1.0, 1.0, out=cosine)
    result: Floats = np.sqrt(1.0 - cosine**2)
    result += np.arccos(-cosine) * cosine  # arccos(−c) = π − θ
    return result * scale / (2 * np.pi)


def penalties(trace_mean: float, count: int = 17) -> Floats:
    """The path of penalties λ (count,), rising: trace_mean · 10^−6 … 10^2, evenly in the logarithm.

    Args:
        trace_mean: mean of the diagonal of JKJ (`Smoother.trace_mean`, `Moments.trace_mean`); 0 if all rows are alike.
        count: L.
    """
    return (trace_mean or 1.0) * np.logspace(-6, 2, count)


@dataclass(frozen=True, eq=False)
class Smoother:
    """The eigendecomposition JKJ = U diag(s) Uᵀ of a centred kernel, and every ridge fit that follows from it.

    Attributes:
        basis: U (n, r), orthonormal columns that each sum to 0.
        spectrum: s (r,), positive; directions without variance are left out, so r < n.
        row_means: (n,) means of the rows of the kernel before centring.
    """

    basis: Floats
    spectrum: Floats
    row_means: Floats

    @classmethod
    def dual(cls, kernel: Floats) -> Self:
        """From a symmetric kernel matrix (n, n), not centred. Time n³, one copy of the matrix."""
        means = kernel.mean(axis=1)
        centred = kernel - means[:, None]
        centred -= means - means.mean()
        s, U = principal(centred, floor=len(kernel) * _EPS * float(np.abs(kernel).max()))
        return cls(U, s, means)

    @classmethod
    def primal(cls, X: Reals) -> Self:
        """The linear kernel's smoother from features X (n, D) through their D×D scatter, for D < n. Time n D² + D³."""
        x = np.asarray(X, dtype=np.float64)
        mean = x.mean(axis=0)
        centred = x - mean
        s, V = principal(centred.T @ centred, floor=centring_noise(x))
        return cls(centred @ (V / np.sqrt(s)), s, x @ mean)

    @classmethod
    def linear(cls, X: Reals) -> Self:
        """The linear kernel's smoother for X (n, D) by whichever of the two routes is the shorter."""
        if X.shape[1] < X.shape[0]:
            return cls.primal(X)
        x = np.asarray(X, dtype=np.float64)
        mean = x.mean(axis=0)
        centred = x - mean
        s, U = principal(centred @ centred.T, floor=centring_noise(x))
        return cls(U, s, x @ mean)

    @property
    def trace_mean(self) -> float:
        """Mean of the diagonal of JKJ: the scale of the kernel, for `penalties`."""
        return float(self.spectrum.sum() / len(self.basis))

    def fitted(self, T: Reals, penalty: float) -> Floats:
        """Predictions (n, K) for the rows trained on."""
        return np.asarray(T - self._residual(T, penalty))

    def loo(self, T: Reals, penalty: float) -> Floats:
        """Predictions (n, K), each by the model trained without that row."""
        pieces, rest = self._complement(penalty)
        free = rest * (1.0 - 1.0 / len(T)) + np.square(self.basis) @ pieces
        return np.asarray(T - self._residual(T, penalty) / free[:, None])

    def held_out(self, T: Reals, penalty: float, fold: Labels) -> Floats:
        """Predictions (n, K), each by the model trained without the row's whole fold; fold is (n,), any numbers."""
        residual = self._residual(T, penalty)
        prediction = np.array(T, dtype=np.float64)
        for rows in fold_members(fold):
            factor = scipy.linalg.cho_factor(self._block(rows, penalty), overwrite_a=True, check_finite=False)
            prediction[rows] -= scipy.linalg.cho_solve(factor, residual[rows], check_finite=False)
        return prediction

    def coefficients(self, T: Reals, penalty: float) -> tuple[Floats, Floats]:
        """Dual coefficients a (n, K) and bias b (K,): the prediction for x is k(x, rows) @ a + b, k not centred.

        The columns of a sum to 0, so of the centring of k(x, ·) only the row means remain, and they go into b.
        """
        mean = T.mean(axis=0)
        a = self.basis @ ((self.basis.T @ (T - mean)) / (self.spectrum + penalty)[:, None])
        return a, np.asarray(mean - self.row_means @ a)

    def weights(self, X: Reals, T: Reals, penalty: float) -> tuple[Floats, Floats]:
        """Weights W (K, D) and bias b (K,) of the linear kernel: the prediction for x is W x + b. X as it was given."""
        a, _ = self.coefficients(T, penalty)
        x = np.asarray(X, dtype=np.float64)
        mean = x.mean(axis=0)
        W = a.T @ (x - mean)
        return W, np.asarray(T.mean(axis=0) - W @ mean)

    def _complement(self, penalty: float) -> tuple[Floats, float]:
        """(g, e) with I − H = e J + U diag(g) Uᵀ.

        Where U spans all that J leaves, J = UUᵀ and e = 0: nothing cancels, however small the penalty.
        """
        assert penalty > 0, penalty
        if self.basis.shape[1] == len(self.basis) - 1:
            return penalty / (self.spectrum + penalty), 0.0
        return -self.spectrum / (self.spectrum + penalty), 1.0

    def _residual(self, T: Reals, penalty: float) -> Floats:
        pieces, rest = self._complement(penalty)
        centred = T - T.mean(axis=0)
        return np.asarray(rest * centred + self.basis @ (pieces[:, None] * (self.basis.T @ centred)))

    def _block(self, rows: Labels, penalty: float) -> Floats:
        """(I − H)_SS for rows S: (m, m), positive definite."""
        pieces, rest = self._complement(penalty)
        root = self.basis[rows] * np.sqrt(np.abs(pieces))
        block: Floats = root @ root.T  # numpy sees one matrix and its transpose, and does half the work
        if rest:
            np.subtract(-1.0 / len(self.basis), block, out=block)
            block.flat[:: len(rows) + 1] += 1.0
        return block


def principal(symmetric: Floats, *, floor: float) -> tuple[Floats, Floats]:
    """The eigenvalues (r,) that stand above the rounding error, rising, and their eigenvectors (n, r).

    Args:
        symmetric: (n, n), positive semidefinite but for rounding. It is overwritten.
        floor: eigenvalues that rounding in the making of the matrix may have caused.
    """
    s, V = scipy.linalg.eigh(symmetric, driver="evd", overwrite_a=True, check_finite=False)
    first = int(np.searchsorted(s, max(s[-1] * len(s) * _EPS, floor), side="right"))
    return s[first:], np.ascontiguousarray(V[:, first:])


def centring_noise(X: Reals) -> float:
    """The largest eigenvalue that rounding alone may give the scatter of X about its mean: constant columns have it."""
    return float(4 * X.size * (_EPS * np.abs(X).max()) ** 2)


def iter_held_out(smoother: Smoother, T: Reals, path: Reals, folds: Labels) -> Iterator[tuple[int, Floats]]:
    """For each penalty of the path (L,) its number and the held-out predictions (n, K), averaged over the repeats.

    Args:
        smoother: of all n rows.
        T: (n, K) targets.
        path: (L,) penalties, positive.
        folds: (R, n), in each repeat the number of the fold in which the row is held out.
    """
    for i, penalty in enumerate(path):
        yield i, np.mean([smoother.held_out(T, float(penalty), fold) for fold in folds], axis=0)


def held_out_path(smoother: Smoother, T: Reals, path: Reals, folds: Labels) -> Floats:
    """What `iter_held_out` yields, in one array (L, n, K)."""
    return np.stack([prediction for _, prediction in iter_held_out(smoother, T, path, folds)])


@dataclass(frozen=True, eq=False)
class Moments:
    """Sums over rows from which a ridge fit of the linear kernel follows; they can be added and taken away.

    Attributes:
        count: number of rows.
        shift: (D,) taken from every row before summing, near the mean, so that nothing cancels later.
        first: (D,) sum of the shifted rows.
        second: (D, D) sum of their outer products.
        cross: (D, K) sum of their products with the targets.
        targets: (K,) sum of the targets.
    """

    count: int
    shift: Floats
    first: Floats
    second: Floats
    cross: Floats
    targets: Floats

    @property
    def trace_mean(self) -> float:
        """Mean squared distance of a row from the mean: the diagonal of JKJ, for `penalties`."""
        mean = self.first / self.count
        return max(float(np.trace(self.second) / self.count - mean @ mean), 0.0)

    def combined(self, other: "Moments", sign: int = 1) -> "Moments":
        """The moments of both sets of rows together or, with sign −1, of these rows without the others."""
        return Moments(
            self.count + sign * other.count,
            self.shift,
            self.first + sign * other.first,
            self.second + sign * other.second,
            self.cross + sign * other.cross,
            self.targets + sign * other.targets,
        )

    def scatter(self) -> Floats:
        """Scatter about the rows' own mean: (D, D)."""
        return self.second - np.outer(self.first, self.first / self.count)

    def weights(self, penalty: float) -> tuple[Floats, Floats]:
        """Weights W (K, D) and bias b (K,): the prediction for x is W x + b. Time D³/3."""
        assert penalty > 0 < self.count, (penalty, self.count)
        system = self.scatter()
        system.flat[:: len(system) + 1] += penalty
        cross = self.cross - np.outer(self.first, self.targets / self.count)
        factor = scipy.linalg.cho_factor(system, overwrite_a=True, check_finite=False)
        W = np.ascontiguousarray(scipy.linalg.cho_solve(factor, cross, check_finite=False).T)
        return W, np.asarray(self.targets / self.count - W @ (self.first / self.count + self.shift))


def moments(X: Reals, T: Reals, *, rows: Labels | None = None, shift: Floats | None = None) -> Moments:
    """Moments of the given rows (all of them if None) of X (n, D) and T (n, K), streamed: no float64 copy of X is made.

    Args:
        X: float32 or float64 features.
        T: targets; K may be 0.
        rows: row numbers.
        shift: (D,), common to all moments that are to be combined; the mean of X if not given.
    """
    chosen = np.arange(len(X)) if rows is None else rows
    origin = np.asarray(X.mean(axis=0, dtype=np.float64)) if shift is None else shift
    features, classes = X.shape[1], T.shape[1]
    first, targets = np.zeros(features), np.zeros(classes)
    second, cross = np.zeros((features, features)), np.zeros((features, classes))
    for part in chunks(len(chosen), max(features, classes)):
        x = X[chosen[part]] - origin
        t = np.asarray(T[chosen[part]], dtype=np.float64)
        first += x.sum(axis=0)
        targets += t.sum(axis=0)
        second += x.T @ x
        cross += x.T @ t
    return Moments(len(chosen), origin, first, second, cross, targets)


def iter_held_out_primal(X: Reals, T: Reals, path: Reals, folds: Labels) -> Iterator[tuple[int, Reals]]:
    """`iter_held_out` of the linear kernel for many rows: the same predictions through the scatter without each fold.

    Predictions have the dtype of X, which should be float32 where memory is short; the weights are computed in float64
    all the same. Holds either the predictions of all penalties at once and a few matrices of D×D numbers, or, where
    those would take more than 256 MiB, one (n, K) at a time and R·folds matrices.
    """
    if len(path) * T.size * X.itemsize <= _HELD_BYTES:
        yield from enumerate(_all_penalties(X, T, path, folds))
        return
    models = list(_without_each_fold(X, T, folds))
    for i, penalty in enumerate(path):
        prediction = np.zeros(T.shape, dtype=X.dtype)
        for rows, rest in models:
            _add_predictions(prediction, X, rows, rest.weights(float(penalty)))
        prediction /= len(folds)
        yield i, prediction


def _all_penalties(X: Reals, T: Reals, path: Reals, folds: Labels) -> Reals:
    predictions = np.zeros((len(path), *T.shape), dtype=X.dtype)
    for rows, rest in _without_each_fold(X, T, folds):
        for prediction, penalty in zip(predictions, path, strict=True):
            _add_predictions(prediction, X, rows, rest.weights(float(penalty)))
    predictions /= len(folds)
    return predictions


def held_out_path_primal(X: Reals, T: Reals, path: Reals, folds: Labels) -> Reals:
    """What `iter_held_out_primal` yields, in one array (L, n, K)."""
    return np.stack([prediction for _, prediction in iter_held_out_primal(X, T, path, folds)])


def _without_each_fold(X: Reals, T: Reals, folds: Labels) -> Iterator[tuple[Labels, Moments]]:
    """Rows of each fold of each repeat, and the moments of all other rows, one at a time."""
    whole = moments(X, T)
    for fold in folds:
        for rows in fold_members(fold):
            yield rows, whole.combined(moments(X, T, rows=rows, shift=whole.shift), -1)


def _add_predictions(prediction: Reals, X: Reals, rows: Labels, model: tuple[Floats, Floats]) -> None:
    W, b = (part.astype(X.dtype) for part in model)
    for part in chunks(len(rows), X.shape[1]):
        prediction[rows[part]] += X[rows[part]] @ W.T + b


def fold_members(fold: Labels) -> list[Labels]:
    """Row numbers of each fold of one repeat, rising; fold is (n,), any numbers."""
    order = np.argsort(fold, kind="stable")
    starts = np.flatnonzero(np.diff(fold[order])) + 1
    assert len(starts), "a fold that holds every row leaves none to train on"
    return np.split(order, starts)


@dataclass(frozen=True, eq=False)
class Projection:
    """A layer of random ReLU units: features whose inner products are close to `arccos_kernel`.

    Attributes:
        weights: float32 (D + 1, M), the last row for the appended 1; scaled by 1/sqrt(M).
    """

    weights: NDArray[np.float32]

    def apply(self, X: Reals) -> NDArray[np.float32]:
        """Features (n, M), float32, of the rows of X (n, D)."""
        out: NDArray[np.float32] = np.asarray(X, dtype=np.float32) @ self.weights[:-1]
        out += self.weights[-1]
        np.maximum(out, 0, out=out)
        return out


def random_features(X: Reals, *, width: int, rng_seed: int) -> Projection:
    """M = width random units for features like X (n, D): E[Φ Φᵀ] = arccos_kernel(X), with error of order 1/sqrt(M).

    For more rows than an n×n kernel has room for; then `iter_held_out_primal` on Φ takes the place of a `Smoother`.
    """
    rng = np.random.default_rng(rng_seed)
    weights = rng.standard_normal((X.shape[1] + 1, width), dtype=np.float32)
    return Projection(weights / np.float32(np.sqrt(width)))
