"""Many small classifiers on parts of the pictures, tested on the rest: what a learning curve is drawn from.

Each is ridge regression on frozen features in closed form, with the penalty chosen within its own pictures, by the
log-loss of their leave-one-out (leave-one-group-out) predictions after a temperature. With m pictures, features Z
(m, D), J = I − 11ᵀ/m and A the smaller of JZZᵀJ + λI and ZᵀJZ + λI, everything follows from one Cholesky factor of A.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import scipy.linalg
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from graftage.data.cores import cores
from graftage.data.split import locked_test
from graftage.learn import defaults
from graftage.learn.gram import Floats, Labels
from graftage.learn.head import Transform, transform
from graftage.learn.temperature import fit_temperature, log_softmax

_WHOLE_GRAM = 4000  # pictures up to which all inner products are held: 128 MB
_START = 3  # place on the path of penalties where the search begins


def refit(
    X: NDArray[np.float32],
    y: Labels,
    groups: Labels,
    sizes: Labels,
    *,
    replicates: int,
    seed: int,
    kind: Transform = "root",
    step: Callable[[int, int], None] = lambda *_: None,
) -> NDArray[np.int8]:
    """Trains on stratified parts that tear no group apart, and tests each on all other pictures.

    Args:
        X: float32 (n, D) features.
        y: int64 (n,) classes 0..K−1.
        groups: int64 (n,).
        sizes: int64 (J,) pictures to learn from, each below n.
        replicates: R parts of each size.
        seed: of the parts; a part depends on it, its size and its number alone.
        kind: transform of the features.
        step: told (done, total) refits.

    Returns:
        int8 (J, R, n): 1 right, 0 wrong, −1 learnt from.
    """
    rows = transform(X, kind)
    gram = _gram(rows) if len(rows) <= _WHOLE_GRAM else None
    out = np.full((len(sizes), replicates, len(y)), -1, np.int8)

    def one(job: tuple[int, int]) -> None:
        j, r = job
        rng = np.random.default_rng([seed, 8, int(sizes[j]), r])
        part = locked_test(y, groups, fraction=1 - sizes[j] / len(y), rng=rng)
        if len(part.test):
            out[j, r, part.test] = _predicted(rows, gram, y, groups, part.train, part.test) == y[part.test]

    jobs = [(j, r) for j in range(len(sizes)) for r in range(replicates)]
    for done, _ in enumerate(_in_threads(one, jobs), start=1):
        step(done, len(jobs))
    return out


def answers_of(
    X: NDArray[np.float32], y: Labels, groups: Labels, parts: Sequence[Labels], asked: Labels, *,
    kind: Transform = "root",
) -> Labels:  # fmt: skip
    """What the classifier of each of P parts answers for the rows `asked` (t,), int64 (P, t).

    Args:
        X: float32 (n, D) features.
        y: int64 (n,) classes 0..K−1.
        groups: int64 (n,).
        parts: rows to learn from, two classes or more in each.
        asked: rows that are in none of them.
        kind: transform of the features.
    """
    rows = transform(X, kind)
    gram = _gram(rows) if len(rows) <= _WHOLE_GRAM else None
    out = np.zeros((len(parts), len(asked)), np.int64)

    def one(job: tuple[int, int]) -> None:
        out[job[0]] = _predicted(rows, gram, y, groups, parts[job[0]], asked)

    for _ in _in_threads(one, [(i, 0) for i in range(len(parts))]):
        pass
    return out


def _gram(rows: NDArray[np.float32]) -> Floats:
    wide = rows.astype(np.float64)
    return np.asarray(wide @ wide.T)


def _in_threads(work: Callable[[tuple[int, int]], None], jobs: list[tuple[int, int]]) -> Iterator[None]:
    """Each job on a core of its own: small factorisations gain little from a second one."""
    with ThreadpoolController().limit(limits=1, user_api="blas"), ThreadPoolExecutor(cores()) as pool:
        yield from pool.map(work, jobs)


def _predicted(
    rows: NDArray[np.float32], gram: Floats | None, y: Labels, groups: Labels, train: Labels, test: Labels
) -> Labels:
    """Classes (t,) that a classifier learnt from `train` gives to `test`."""
    known, T = _targets(y[train])
    own = groups[train]
    if len(train) <= rows.shape[1]:
        inner = gram[np.ix_(train, train)] if gram is not None else _gram(rows[train])
        fit: _Dual | _Primal = _Dual.of(inner, own)
    else:
        fit = _Primal.of(rows[train].astype(np.float64), own)
    model = _best(fit, known, T)
    if isinstance(model, _Weights):
        logits = rows[test] @ model.weights.astype(np.float32) + model.bias
    elif gram is not None:
        logits = gram[np.ix_(test, train)] @ model.coefficients + model.bias
    else:
        weights = rows[train].astype(np.float64).T @ model.coefficients
        logits = rows[test] @ weights.astype(np.float32) + model.bias
    return np.asarray(np.unique(y[train])[logits.argmax(axis=1)], dtype=np.int64)


def _targets(y: Labels) -> tuple[Labels, Floats]:
    """The classes that occur, numbered anew (m,), and +1 for the class, −1 elsewhere (m, K)."""
    known = np.unique(y, return_inverse=True)[1].reshape(-1).astype(np.int64)
    return known, 2.0 * np.eye(int(known.max()) + 1)[known] - 1.0


@dataclass(frozen=True, eq=False)
class _Coefficients:
    """The prediction for x is k(x, train) @ coefficients + bias."""

    coefficients: Floats
    bias: Floats


@dataclass(frozen=True, eq=False)
class _Weights:
    """The prediction for x is x @ weights + bias."""

    weights: Floats
    bias: Floats


def _best(fit: "_Dual | _Primal", y: Labels, T: Floats) -> _Coefficients | _Weights:
    """Walks down the path of penalties from its middle to the lowest log-loss; on a path with one valley, the best."""
    path = defaults.ridge_path(fit.scale)
    tried: dict[int, tuple[float, _Coefficients | _Weights]] = {}

    def loss(i: int) -> float:
        if i not in tried:
            held, model = fit.solve(T, float(path[i]))
            logs = log_softmax(held / fit_temperature(held, y))
            tried[i] = -float(logs[np.arange(len(y)), y].mean()), model
        return tried[i][0]

    at = _START
    while True:
        near = [i for i in (at - 1, at + 1) if 0 <= i < len(path)]
        best = min(near, key=loss)
        if loss(best) >= loss(at):
            return tried[at][1]
        at = best


@dataclass(frozen=True, eq=False)
class _Dual:
    """Few pictures: from their centred inner products (m, m)."""

    centred: Floats
    means: Floats
    shared: list[Labels]

    @classmethod
    def of(cls, inner: Floats, groups: Labels) -> "_Dual":
        means = inner.mean(axis=1)
        return cls(inner - means[:, None] - means + means.mean(), means, _shared(groups))

    @property
    def scale(self) -> float:
        return max(float(np.trace(self.centred)) / len(self.centred), 0.0)

    def solve(self, T: Floats, penalty: float) -> tuple[Floats, _Coefficients]:
        """Held-out predictions (m, K), and the model of all rows."""
        system = self.centred.copy()
        system.flat[:: len(system) + 1] += penalty
        lower = scipy.linalg.cholesky(system, lower=True, overwrite_a=True, check_finite=False)
        inverse, _ = scipy.linalg.lapack.dtrtri(lower, lower=1)  # A⁻¹ = Lᵀ⁻¹ L⁻¹
        mean = T.mean(axis=0)
        a = inverse.T @ (inverse @ (T - mean))
        residual, m = penalty * a, len(T)
        free = penalty * np.einsum("ij,ij->j", inverse, inverse) - 1.0 / m
        held = T - residual / np.maximum(free, 1e-12)[:, None]
        for block in self.shared:
            part = inverse[:, block]
            held[block] = T[block] - np.linalg.solve(penalty * (part.T @ part) - 1.0 / m, residual[block])
        return held, _Coefficients(a, mean - self.means @ a)


@dataclass(frozen=True, eq=False)
class _Primal:
    """More pictures than features: from the features' scatter (D, D)."""

    centred: Floats
    mean: Floats
    scatter: Floats
    shared: list[Labels]

    @classmethod
    def of(cls, rows: Floats, groups: Labels) -> "_Primal":
        mean = rows.mean(axis=0)
        centred = rows - mean
        return cls(centred, mean, centred.T @ centred, _shared(groups))

    @property
    def scale(self) -> float:
        return float(np.trace(self.scatter)) / len(self.centred)

    def solve(self, T: Floats, penalty: float) -> tuple[Floats, _Weights]:
        """Held-out predictions (m, K), and the model of all rows."""
        system = self.scatter.copy()
        system.flat[:: len(system) + 1] += penalty
        lower = scipy.linalg.cholesky(system, lower=True, overwrite_a=True, check_finite=False)
        half = scipy.linalg.solve_triangular(lower, self.centred.T, lower=True, check_finite=False)  # (D, m)
        mean, m = T.mean(axis=0), len(T)
        projected = half @ (T - mean)
        residual = T - mean - half.T @ projected
        free = 1.0 - 1.0 / m - np.einsum("ij,ij->j", half, half)
        held = T - residual / np.maximum(free, 1e-12)[:, None]
        for block in self.shared:
            part = half[:, block]
            held[block] = T[block] - np.linalg.solve(np.eye(len(block)) - 1.0 / m - part.T @ part, residual[block])
        weights = scipy.linalg.solve_triangular(lower.T, projected, lower=False, check_finite=False)
        return held, _Weights(weights, mean - self.mean @ weights)


def _shared(groups: Labels) -> list[Labels]:
    """Row numbers of every group of two or more."""
    order = np.argsort(groups, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(groups[order])) + 1)
    return [part for part in parts if 1 < len(part) < len(groups)]
