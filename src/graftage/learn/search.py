"""Which head a set of pictures gets: every candidate judged on the same folds, by what it says of pictures held out.

A candidate is a family of classifier, a transform of the features and a penalty. Its held-out logits get a temperature;
the lowest log-loss leads, and within one standard error of it the simpler family is taken.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from typing import Literal

import numpy as np
import scipy.linalg
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from graftage.data.cores import cores
from graftage.learn import defaults
from graftage.learn.chunking import chunks
from graftage.learn.gram import Floats, Labels, Reals, Smoother, iter_held_out, iter_held_out_primal, moments, principal
from graftage.learn.head import TRANSFORMS, Head, Kernel, Transform, blend, kernel_of_inner, transform
from graftage.learn.logistic import fit_path, held_out_logits_path
from graftage.learn.temperature import fit_temperature, log_softmax

Family = Literal["ridge", "logistic", "arc-cosine", "gaussian", "blend", "tuned"]
FAMILIES: tuple[Family, ...] = ("ridge", "logistic", "arc-cosine", "gaussian", "blend")  # simplest first
_LINEAR: tuple[Family, ...] = ("ridge", "logistic")

Found = Iterator[tuple[float, Reals]]  # (penalty, held-out logits (n, K))

_SPREAD_ROWS = 1000  # rows that the gaussian kernel's scale is measured on
_EIGEN_FLOOR = 1e-7  # landmarks' directions below this share of the largest eigenvalue are dropped


@dataclass(frozen=True)
class Candidate:
    """What is tried.

    Attributes:
        family: kind of classifier.
        fit: how the picture was made square ("crop", "squash", "pad").
        transform: of the features.
        penalty: λ of ridge and kernels, C of logistic regression; 0 for a blend; of a tuned network the share α on the
            way from the head's weights to the tuned ones.
        parts: of a blend: candidates and the temperatures that make their logits comparable.
    """

    family: Family
    fit: str
    transform: Transform
    penalty: float
    parts: "tuple[tuple[Candidate, float], ...]" = ()


@dataclass(frozen=True, eq=False)
class Trial:
    """One candidate, and how it did on pictures that it was not trained on.

    Attributes:
        candidate: what was tried.
        temperature: fitted to the held-out logits.
        losses: float32 (n,) log-loss of each picture.
        predicted: int32 (n,) class numbers.
        briers: float32 (n,) squared distance of the probabilities from the truth, 0 to 2.
    """

    candidate: Candidate
    temperature: float
    losses: NDArray[np.float32]
    predicted: NDArray[np.int32]
    briers: NDArray[np.float32]

    @property
    def log_loss(self) -> float:
        """Mean log-loss; lower is better."""
        return float(self.losses.mean(dtype=np.float64))

    def accuracy(self, y: Labels) -> float:
        """Share of pictures whose class is right, 0 to 1."""
        return float((self.predicted == y).mean())


@dataclass(frozen=True, eq=False)
class Searched:
    """All trials of a search.

    Attributes:
        trials: every candidate, in the order tried.
        logits: per family, float32 (n, K) held-out logits of its best trial, before temperature.
        best: per family, position of its best trial.
    """

    trials: tuple[Trial, ...]
    logits: Mapping[Family, NDArray[np.float32]]
    best: Mapping[Family, int]

    def leader(self) -> Trial:
        """The trial with the lowest log-loss."""
        return min((self.trials[i] for i in self.best.values()), key=lambda trial: trial.log_loss)

    def chosen(self) -> Trial:
        """The simplest family within one standard error of the leader, paired picture by picture."""
        return simplest_within_one_error([self.trials[self.best[f]] for f in FAMILIES if f in self.best])


def simplest_within_one_error(trials: Sequence[Trial]) -> Trial:
    """The first of `trials`, from simple to rich, whose loss is within one paired standard error of the best."""
    leader = min(trials, key=lambda trial: trial.log_loss)
    return next(trial for trial in trials if _within_one_error(trial, leader))


def _within_one_error(trial: Trial, leader: Trial) -> bool:
    gap = trial.losses.astype(np.float64) - leader.losses
    return bool(gap.mean() <= gap.std(ddof=1) / np.sqrt(len(gap)))


def search(
    X: NDArray[np.float32],
    y: Labels,
    folds: Labels,
    *,
    fit: str,
    families: Sequence[Family] = FAMILIES,
    seed: int,
    step: Callable[[str], None] = lambda _: None,
) -> Searched:
    """Tries families, transforms and penalties on the same folds.

    Args:
        X: float32 (n, D) features.
        y: int64 (n,) class numbers 0..K−1, every class present.
        folds: int64 (R, n), in each repeat the fold in which a row is held out.
        fit: recorded in the candidates.
        families: which to try beside ridge; logistic regression is left out where it would take too long.
        seed: of the landmarks of large kernels and of the rows that their scale is measured on.
        step: told what is tried next.
    """
    tried = _Tried(y)
    step("ridge regression")
    for part in _side_by_side([partial(_try_ridge, X, y, folds, fit, kind) for kind in TRANSFORMS]):
        tried.merge(part)
    kind = tried.result().leader().candidate.transform
    rows = transform(X, kind)
    jobs = [partial(_try_kernel, rows, y, folds, (fit, kind), k, seed) for k in _kernels(len(y)) if k in families]
    if "logistic" in families and logistic_pays(len(y), X.shape[1], int(y.max()) + 1, folds):
        jobs.append(partial(_try_logistic, rows, y, folds, (fit, kind)))
    step(", ".join(family for family in families if family != "ridge"))
    for part in _side_by_side(jobs):
        tried.merge(part)
    if "blend" in families:
        tried.blend(kind)
    return tried.result()


def _kernels(n: int) -> tuple[Kernel, ...]:
    return ("gaussian", "arc-cosine") if n <= defaults.ARC_COSINE else ("gaussian",)


def _side_by_side(jobs: "Sequence[Callable[[], _Tried]]") -> "list[_Tried]":
    """Results in order. Each job has a thread, and its share of the cores for linear algebra.

    Two jobs on one core each take half the time of one after the other on two: the algebra's own threads wait for each
    other more than they work.
    """
    workers = min(len(jobs), cores())
    if workers <= 1:  # then the algebra keeps the threads that the caller gave it
        return [job() for job in jobs]
    with _pools().limit(limits=cores() // workers, user_api="blas"), ThreadPoolExecutor(workers) as pool:
        return list(pool.map(lambda job: job(), jobs))


@cache
def _pools() -> ThreadpoolController:
    """The linear algebra's own threads; found once, since looking for them takes milliseconds."""
    return ThreadpoolController()


def _try_ridge(X: NDArray[np.float32], y: Labels, folds: Labels, fit: str, kind: Transform) -> "_Tried":
    return _Tried(y).add(_ridge_path(transform(X, kind), y, folds), "ridge", fit, kind)


def _try_logistic(rows: NDArray[np.float32], y: Labels, folds: Labels, where: tuple[str, Transform]) -> "_Tried":
    return _Tried(y).add(_logistic_path(rows, y, folds), "logistic", *where)


def _try_kernel(
    rows: NDArray[np.float32], y: Labels, folds: Labels, where: tuple[str, Transform], kernel: Kernel, seed: int
) -> "_Tried":
    return _Tried(y).add(Expansion.of(rows, kernel, seed=seed).held_out(rows, y, folds), kernel, *where)


def logistic_pays(n: int, features: int, n_classes: int, folds: Labels) -> bool:
    """Whether logistic regression on all folds stays within `defaults.LOGISTIC_BUDGET`."""
    models = sum(len(np.unique(fold)) for fold in folds)
    return float(n) * features * n_classes * models <= defaults.LOGISTIC_BUDGET


def fit_head(X: NDArray[np.float32], y: Labels, candidate: Candidate, *, seed: int) -> Head:
    """The candidate trained on all rows: X float32 (n, D), y (n,); seed as in `search`."""
    if candidate.family == "blend":
        heads = [fit_head(X, y, part, seed=seed) for part, _ in candidate.parts]
        return blend(heads, [temperature for _, temperature in candidate.parts])
    rows, n_classes = transform(X, candidate.transform), int(y.max()) + 1
    if candidate.family == "ridge":
        weights, bias = moments(rows, targets(y)).weights(candidate.penalty)
        return Head.linear(candidate.transform, weights, bias)
    if candidate.family == "logistic":
        path, biases = fit_path(rows, y, np.array([candidate.penalty]), n_classes=n_classes)
        return Head.linear(candidate.transform, path[0, 0], biases[0, 0])
    assert candidate.family != "tuned", "a tuned network is no head on frozen features"
    return Expansion.of(rows, candidate.family, seed=seed).fitted(rows, y, candidate)


def targets(y: Labels) -> Floats:
    """+1 for the class and −1 elsewhere: (n, K)."""
    return np.asarray(2.0 * np.eye(int(y.max()) + 1)[y] - 1.0)


def _ridge_path(rows: NDArray[np.float32], y: Labels, folds: Labels) -> Found:
    T = targets(y)
    if len(rows) <= defaults.EXACT_KERNEL:
        smoother = Smoother.linear(rows)
        path = defaults.ridge_path(smoother.trace_mean)
        found: Iterator[tuple[int, Reals]] = iter_held_out(smoother, T, path, folds)
    else:
        path = defaults.ridge_path(_centred_scale(rows))
        found = iter_held_out_primal(rows, T.astype(np.float32), path, folds)
    return ((float(path[i]), logits) for i, logits in found)


def _centred_scale(rows: NDArray[np.float32]) -> float:
    """Mean squared distance of the rows from their mean."""
    mean = rows.mean(axis=0, dtype=np.float64)
    squares = sum(float(np.square(rows[part], dtype=np.float64).sum()) for part in chunks(len(rows), rows.shape[1]))
    return max(squares / len(rows) - float(mean @ mean), 1e-12)


def _logistic_path(rows: NDArray[np.float32], y: Labels, folds: Labels) -> Found:
    strengths = defaults.logistic_path()
    logits = held_out_logits_path(rows, y, folds, strengths, n_classes=int(y.max()) + 1)
    return zip((float(c) for c in strengths), logits, strict=True)


@dataclass(frozen=True, eq=False)
class Expansion:
    """A kernel on rows of length 1, with the pictures it is expanded in.

    Attributes:
        kernel: "gaussian" or "arc-cosine".
        scale: of the gaussian kernel.
        support: float32 (m, D): all rows up to `defaults.EXACT_KERNEL`, else landmarks drawn from them.
        exact: whether support is all rows.
    """

    kernel: Kernel
    scale: float
    support: NDArray[np.float32]
    exact: bool

    @classmethod
    def of(cls, rows: NDArray[np.float32], kernel: Kernel, *, seed: int) -> "Expansion":
        """Draws landmarks where there are many rows, and measures the scale."""
        n, rng = len(rows), np.random.default_rng(seed)
        few = rows[np.sort(rng.permutation(n)[:_SPREAD_ROWS])].astype(np.float64)
        distances = 2.0 - 2.0 * (few @ few.T)[np.triu_indices(len(few), 1)]
        scale = max(float(np.median(distances)), 1e-3) if kernel == "gaussian" else 1.0
        if n <= defaults.EXACT_KERNEL:
            return cls(kernel, scale, rows, exact=True)
        return cls(kernel, scale, rows[np.sort(rng.permutation(n)[: defaults.LANDMARKS])], exact=False)

    def values(self, rows: NDArray[np.float32]) -> Floats:
        """Kernel of rows (n, D) against the support: (n, m)."""
        inner: Floats = rows.astype(np.float64) @ self.support.astype(np.float64).T
        for part in chunks(len(inner), inner.shape[1]):
            inner[part] = kernel_of_inner(inner[part], self.kernel, self.scale)
        return inner

    def held_out(self, rows: NDArray[np.float32], y: Labels, folds: Labels) -> Found:
        """Held-out logits for every penalty of the path."""
        T = targets(y)
        if self.exact:
            smoother = Smoother.dual(self.values(rows))
            path = defaults.ridge_path(smoother.trace_mean)
            found: Iterator[tuple[int, Reals]] = iter_held_out(smoother, T, path, folds)
        else:
            features = self._project(rows, self._projection())
            path = defaults.ridge_path(_centred_scale(features))
            found = iter_held_out_primal(features, T.astype(np.float32), path, folds)
        return ((float(path[i]), logits) for i, logits in found)

    def fitted(self, rows: NDArray[np.float32], y: Labels, candidate: Candidate) -> Head:
        """The head for one penalty, trained on all rows."""
        coefficients, bias = self._exact(rows, y, candidate) if self.exact else self._nystroem(rows, y, candidate)
        return Head(
            transform=candidate.transform,
            kernel=self.kernel,
            scale=self.scale,
            weights=np.zeros((len(bias), rows.shape[1]), np.float32),
            coefficients=np.ascontiguousarray(coefficients.T, dtype=np.float32),
            bias=np.asarray(bias, dtype=np.float32),
            support=self.support,
        )

    def _exact(self, rows: NDArray[np.float32], y: Labels, candidate: Candidate) -> tuple[Floats, Floats]:
        """`Smoother.coefficients` for one penalty, by Cholesky: a = (JKJ + λI)⁻¹ J T, b = mean T − row means · a."""
        T, kernel = targets(y), self.values(rows)
        means = kernel.mean(axis=1)
        kernel -= means[:, None]
        kernel -= means - means.mean()
        kernel.flat[:: len(kernel) + 1] += candidate.penalty
        factor = scipy.linalg.cho_factor(kernel, overwrite_a=True, check_finite=False)
        a = scipy.linalg.cho_solve(factor, T - T.mean(axis=0), check_finite=False)
        return a, np.asarray(T.mean(axis=0) - means @ a)

    def _nystroem(self, rows: NDArray[np.float32], y: Labels, candidate: Candidate) -> tuple[Floats, Floats]:
        projection = self._projection()
        weights, bias = moments(self._project(rows, projection), targets(y)).weights(candidate.penalty)
        return np.asarray(projection @ weights.T), bias

    def _projection(self) -> Floats:
        """P (m, r) with k(x, support) P · (k(z, support) P)ᵀ close to k(x, z) (Williams & Seeger 2001)."""
        kernel = self.values(self.support)
        s, V = principal(kernel, floor=_EIGEN_FLOOR * float(np.trace(kernel)))
        return np.asarray(V / np.sqrt(s))

    def _project(self, rows: NDArray[np.float32], projection: Floats) -> NDArray[np.float32]:
        out = np.empty((len(rows), projection.shape[1]), np.float32)
        for part in chunks(len(rows), projection.shape[0]):
            out[part] = self.values(rows[part]) @ projection
        return out


class _Tried:
    """Keeps of every trial what later steps need, and whole logits only of the best of each family."""

    def __init__(self, y: Labels) -> None:
        self._y = y
        self._trials: list[Trial] = []
        self._best: dict[Family, int] = {}
        self._logits: dict[Family, NDArray[np.float32]] = {}

    def add(self, found: Iterable[tuple[float, Reals]], family: Family, fit: str, kind: Transform) -> "_Tried":
        for penalty, logits in found:
            self._take(judge(logits, self._y, Candidate(family, fit, kind, penalty)), logits)
        return self

    def merge(self, other: "_Tried") -> None:
        """Takes over another's trials; where both have a family, the better best remains."""
        for family, i in other._best.items():
            if self._improves(family, other._trials[i]):
                self._best[family] = len(self._trials) + i
                self._logits[family] = other._logits[family]
        self._trials += other._trials

    def blend(self, kind: Transform) -> None:
        """Adds the mean of the best linear and the best kernel head, if there are both."""
        best = {family: self._trials[i] for family, i in self._best.items()}
        linear = [t for f, t in best.items() if f in _LINEAR and t.candidate.transform == kind]
        kernels = [t for f, t in best.items() if f not in _LINEAR]
        if not linear or not kernels:
            return
        parts = [min(group, key=lambda trial: trial.log_loss) for group in (linear, kernels)]
        logits = sum(self._logits[p.candidate.family] / np.float32(len(parts) * p.temperature) for p in parts)
        named = tuple((p.candidate, p.temperature) for p in parts)
        blended = Candidate("blend", parts[0].candidate.fit, kind, 0.0, named)
        self._take(judge(np.asarray(logits), self._y, blended), np.asarray(logits))

    def _take(self, trial: Trial, logits: Reals) -> None:
        if self._improves(trial.candidate.family, trial):
            self._best[trial.candidate.family] = len(self._trials)
            self._logits[trial.candidate.family] = np.array(logits, dtype=np.float32)
        self._trials.append(trial)

    def _improves(self, family: Family, trial: Trial) -> bool:
        return family not in self._best or trial.log_loss < self._trials[self._best[family]].log_loss

    def result(self) -> Searched:
        return Searched(tuple(self._trials), dict(self._logits), dict(self._best))


def judge(logits: Reals, y: Labels, candidate: Candidate, *, cautious: bool = False) -> Trial:
    """Held-out logits (n, K) → a trial: temperature, then log-loss, class and Brier score of every picture."""
    temperature = fit_temperature(logits, y, cautious=cautious)
    losses, briers = np.empty(len(y), np.float32), np.empty(len(y), np.float32)
    predicted = np.empty(len(y), np.int32)
    for part in chunks(len(y), logits.shape[1]):
        logs = log_softmax(logits[part] / temperature)
        true = np.arange(len(logs)), y[part]
        p = np.exp(logs)
        losses[part], predicted[part] = -logs[true], p.argmax(axis=1)
        briers[part] = np.square(p).sum(axis=1) - 2 * p[true] + 1
    return Trial(candidate, temperature, losses, predicted, briers)
