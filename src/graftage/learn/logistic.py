"""Multinomial logistic regression with an L2 penalty: all folds and the whole path of strengths at once.

n pictures, D features, K classes, L strengths C, F training sets (folds). The objective is scikit-learn's,

    C Σ_i −log softmax(W x_i + b)[y_i] + ½ ‖W‖² ,   b without penalty.

* Rows are rotated to the principal axes of X. This changes no solution, since the penalty is the same in every
  direction, and turns D > n columns into at most n − 1.
* On these axes XᵀX is diagonal, s, and nearly so for each training set about its own mean. The Hessian is below
  C/2 (I − 11ᵀ/K) ⊗ XᵀX + I (Böhning 1992), and near to it with the present mean of p(1 − p) in place of ½: the diagonal
  C κ s + 1 makes the problem well conditioned whatever C.
* L-BFGS (Nocedal 1980) with that diagonal as its first guess; the folds take their steps side by side, so that the rows
  are read once for all of them. Solutions are passed on along the path from strong to weak penalties.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from graftage.learn.chunking import chunks
from graftage.learn.gram import Floats, Labels, Reals, centring_noise, fold_members, moments, principal

Masks = NDArray[np.bool_]

TOLERANCE = 1e-5  # leaves held-out log-losses within 1e-3 of the exact ones
MAX_ITERATIONS = 100
ALO_LIMIT = 3000  # side of the Hessian that `alo` may build: 72 MB

_MEMORY = 8  # pairs kept by L-BFGS
_SUFFICIENT = 1e-4  # share of the promised decrease that a step must bring (Armijo)
_SHORTEST = 1e-3  # a step halved below this is lost in rounding
_CHUNK = 1 << 20  # logits looked at together


def fit_path(
    X: Reals,
    y: Labels,
    strengths: Reals,
    *,
    n_classes: int,
    folds: Masks | None = None,
    stop: tuple[float, int] = (TOLERANCE, MAX_ITERATIONS),
) -> tuple[Reals, Reals]:
    """Weights (L, F, K, D) and biases (L, F, K), in the dtype of X, for every strength and every training set.

    Args:
        X: (n, D) features; float32 is twice as fast as float64 and good enough for prediction.
        y: (n,) class numbers in 0..K-1; a class may be missing from a training set, it then gets a low bias.
        strengths: (L,) values of C, positive, in any order.
        n_classes: K.
        folds: (F, n), True where a row is trained on; one set of all rows if None.
        stop: (tolerance, most iterations for a strength). A fold stops where a Newton step would lower its objective
            by less than tolerance times the objective, as far as the diagonal can tell, or where rounding hides any
            further gain.
    """
    masks = np.ones((1, len(y)), dtype=bool) if folds is None else folds
    rotation = Rotation.of(X)
    weights = np.empty((len(strengths), len(masks), n_classes, X.shape[1]), dtype=X.dtype)
    biases = np.empty(weights.shape[:3], dtype=X.dtype)
    for i, solution in _path(_Problem.of(rotation, y, masks, n_classes), strengths, stop):
        weights[i], biases[i] = rotation.restore(solution.transpose(1, 0, 2))
    return weights, biases


def held_out_logits(X: Reals, y: Labels, folds: Labels, strength: float, *, n_classes: int) -> Reals:
    """Logits (n, K) for every row by the model trained without the row's fold, averaged over the repeats.

    Args:
        X: (n, D) features.
        y: (n,) class numbers.
        folds: (R, n), in each repeat the number of the fold in which the row is held out.
        strength: C.
        n_classes: K.
    """
    logits: Reals = held_out_logits_path(X, y, folds, np.array([strength]), n_classes=n_classes)[0]
    return logits


def held_out_logits_path(
    X: Reals,
    y: Labels,
    folds: Labels,
    strengths: Reals,
    *,
    n_classes: int,
    stop: tuple[float, int] = (TOLERANCE, MAX_ITERATIONS),
) -> Reals:
    """`held_out_logits` for every strength (L,): (L, n, K) in the dtype of X."""
    held = [rows for fold in folds for rows in fold_members(fold)]
    masks = np.ones((len(held), len(y)), dtype=bool)
    for mask, rows in zip(masks, held, strict=True):
        mask[rows] = False
    problem = _Problem.of(Rotation.of(X), y, masks, n_classes)
    logits = np.zeros((len(strengths), len(y), n_classes), dtype=X.dtype)
    for i, solution in _path(problem, strengths, stop):
        for f, rows in enumerate(held):
            logits[i, rows] += problem.rows[rows] @ solution[:, f].T
    return logits / X.dtype.type(len(folds))


def alo_fits(n_rows: int, n_features: int, n_classes: int) -> bool:
    """Whether `alo` takes a problem of this size: its Hessian has K (min(n − 1, D) + 1) rows."""
    return n_classes * (min(n_rows - 1, n_features) + 1) <= ALO_LIMIT


def alo(X: Reals, y: Labels, weights: Reals, bias: Reals, strength: float) -> Floats:
    """Approximate leave-one-out logits (n, K) from one fit: one Newton step away from each row.

    z_i + (I − G_i A_i)⁻¹ G_i g_i with p the probabilities, A_i = diag(p_i) − p_i p_iᵀ, g_i = p_i − onehot(y_i),
    G_i = (I ⊗ x_iᵀ) H⁻¹ (I ⊗ x_i) and H the Hessian of the objective divided by C (Rad & Maleki 2020).

    Args:
        X: (n, D) features that the model was fitted to.
        y: (n,) class numbers.
        weights: (K, D) fitted to a small tolerance, as is bias (K,).
        bias: (K,).
        strength: C of the fit.
    """
    assert alo_fits(X.shape[0], X.shape[1], len(bias)), "too large for the exact Hessian: use held_out_logits"
    rotation = Rotation.of(X.astype(np.float64))
    rows = np.asarray(rotation.rows, dtype=np.float64)
    z = np.asarray(X @ weights.T + bias, dtype=np.float64)
    p = np.exp(z - z.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    A = p[:, :, None] * np.eye(len(bias)) - p[:, :, None] * p[:, None, :]  # (n, K, K)
    G = _quadratic(rows, _inverse_hessian(rows, A, strength))
    gradient = p.copy()
    gradient[np.arange(len(y)), y] -= 1.0
    pull = G @ gradient[:, :, None]
    return z + np.linalg.solve(np.eye(len(bias)) - G @ A, pull)[:, :, 0]


def _inverse_hessian(rows: Floats, A: Floats, strength: float) -> Floats:
    """H⁻¹ as (K, r+1, K, r+1), for rows (n, r+1) whose last column is the 1 of the bias."""
    width, classes = rows.shape[1], A.shape[1]
    H = np.empty((classes, width, classes, width))
    for k in range(classes):
        for j in range(k + 1):
            H[k, :, j] = rows.T @ (A[:, k, j, None] * rows)
            H[j, :, k] = H[k, :, j]
    # A common change of all biases alters no probability: any positive number there makes H invertible, none is felt.
    H[:, -1, :, -1] += len(rows) / classes**2
    side = classes * width
    square = H.reshape(side, side)
    square.flat[:: side + 1] += np.tile(np.append(np.ones(width - 1), 0.0), classes) / strength
    factor = scipy.linalg.cho_factor(square, lower=True, overwrite_a=True, check_finite=False)
    inverse: Floats = scipy.linalg.cho_solve(factor, np.eye(side), overwrite_b=True, check_finite=False)
    return inverse.reshape(classes, width, classes, width)


def _quadratic(rows: Floats, inverse: Floats) -> Floats:
    """G (n, K, K) with G_i = (I ⊗ x_iᵀ) H⁻¹ (I ⊗ x_i)."""
    G = np.empty((len(rows), len(inverse), len(inverse)))
    for k in range(len(inverse)):
        for j in range(k + 1):
            G[:, k, j] = G[:, j, k] = np.einsum("ij,ij->i", rows @ inverse[k, :, j], rows)
    return G


@dataclass(frozen=True, eq=False)
class Rotation:
    """Rows on the principal axes of their features.

    Attributes:
        mean: (D,) of the rows.
        axes: (D, r), orthonormal columns; directions without variance are left out.
        spectrum: (r,) sums of squares along the axes.
        rows: (n, r + 1) in the dtype of the features; the last column is the 1 of the bias.
    """

    mean: Floats
    axes: Floats
    spectrum: Floats
    rows: Reals

    @classmethod
    def of(cls, X: Reals) -> Self:
        """Rotate X (n, D), by way of the smaller of its two Gram matrices."""
        n, features = X.shape
        mean = np.asarray(X.mean(axis=0, dtype=np.float64))
        if features <= n:
            spectrum, axes = principal(moments(X, np.empty((n, 0)), shift=mean).scatter(), floor=centring_noise(X))
        else:
            centred = X - mean
            spectrum, U = principal(centred @ centred.T, floor=centring_noise(X))
            axes = centred.T @ (U / np.sqrt(spectrum))
        rows = np.ones((n, len(spectrum) + 1), dtype=X.dtype)
        for part in chunks(n, features):
            rows[part, :-1] = (X[part] - mean.astype(X.dtype)) @ axes.astype(X.dtype)
        return cls(mean, axes, spectrum, rows)

    def restore(self, solution: Reals) -> tuple[Floats, Floats]:
        """Weights (..., D) and biases (...) for the features as they were, from (..., r + 1) on the axes."""
        weights = solution[..., :-1] @ self.axes.T
        return weights, solution[..., -1] - weights @ self.mean


@dataclass(frozen=True, eq=False)
class _Problem:
    """What stays the same along the path. The last column of rows is the 1 of the bias; P = r + 1.

    Parameters (K, F, P) are for rows less the mean of their training set. Without that, a training set whose mean lies
    off the common one (an outlier or a whole group held out) would tie its weights to its bias, unseen by a diagonal.
    """

    rows: Reals  # (n, P)
    y: Labels  # (n,)
    masks: Reals  # (F, n), 1 where trained on
    centre: Reals  # (F, P) mean of each training set, 0 for the bias
    scale: Floats  # (F, P) mean square about it, 1 for the bias
    ridge: Floats  # (P,) 1 where penalised, 0 for the bias
    n_classes: int

    @classmethod
    def of(cls, rotation: Rotation, y: Labels, masks: Masks, n_classes: int) -> Self:
        rows = rotation.rows
        count = masks.sum(axis=1)[:, None]
        assert count.min() > 0, "a training set without rows"
        first, square = np.zeros((2, len(masks), rows.shape[1]))
        for part in chunks(len(y), rows.shape[1]):
            block, mask = rows[part].astype(np.float64), masks[:, part].astype(np.float64)
            first += mask @ block / count
            square += mask @ np.square(block) / count
        first[:, -1] = 0.0
        ridge = np.append(np.ones(rows.shape[1] - 1), 0.0)
        scale = np.maximum(square - first**2, 0.0)
        return cls(rows, y, masks.astype(rows.dtype), first.astype(rows.dtype), scale, ridge, n_classes)

    def plain(self, params: Reals) -> Reals:
        """The parameters for rows as they are."""
        out = params.copy()
        out[:, :, -1] -= np.einsum("kfp,fp->kf", params, self.centre)
        return out

    def start(self) -> Reals:
        """(K, F, P): no weights, and biases that give the class shares of each training set."""
        params = np.zeros((self.n_classes, len(self.masks), self.rows.shape[1]), dtype=self.rows.dtype)
        counts = (self.y == np.arange(self.n_classes)[:, None]).astype(np.float64) @ self.masks.T
        bias = np.log(np.maximum(counts, 0.1))  # a class without rows: a tenth of one
        params[:, :, -1] = bias - bias.mean(axis=0)
        return params

    def evaluate(self, params: Reals, strength: float) -> tuple[Floats, Reals, Floats]:
        """Objective (F,), gradient (K, F, P) and the spread Σ_i (1 − Σ_k p_ik²) (F,)."""
        loss, spread = np.zeros(len(self.masks)), np.zeros(len(self.masks))
        gradient = np.zeros_like(params)
        flat = self.plain(params).reshape(-1, params.shape[2])
        step = max(1, _CHUNK // len(flat))
        for begin in range(0, len(self.y), step):
            part = slice(begin, begin + step)
            rows = self.rows[part]
            logits = (flat @ rows.T).reshape(*params.shape[:2], len(rows))
            errors, sums = _errors(logits, self.y[part], self.masks[:, part])
            loss += sums[0]
            spread += sums[1]
            gradient += (errors.reshape(len(flat), len(rows)) @ rows).reshape(params.shape)
        gradient -= gradient[:, :, -1:] * self.centre
        ridge = self.ridge.astype(params.dtype) * params
        gradient *= params.dtype.type(strength)
        return strength * loss + 0.5 * _dot(ridge, params), gradient + ridge, spread

    def curvature(self, spread: Floats, strength: float) -> Reals:
        """Diagonal (F, P) near to the Hessian: on the space of K − 1 contrasts, diag(p) − ppᵀ has trace 1 − Σp²."""
        least = 1e-6 * self.masks.sum(axis=1, dtype=np.float64)  # all rows fitted: still positive for the bias
        pull = strength * np.maximum(spread, least) / (self.n_classes - 1)
        return np.asarray(pull[:, None] * self.scale + self.ridge, dtype=self.rows.dtype)


def _errors(logits: Reals, y: Labels, mask: Reals) -> tuple[Reals, Floats]:
    """p − onehot(y) in place of the logits (K, F, m), 0 where the mask (F, m) is; summed log-loss and spread (2, F).

    Classes come first because numpy adds up long contiguous runs several times faster than K numbers a row.
    """
    at = np.arange(len(y))
    logits -= logits.max(axis=0)
    own = logits[y, :, at].T  # (F, m)
    np.exp(logits, out=logits)
    total = logits.sum(axis=0)
    logits /= total
    spread = 1.0 - np.einsum("kfm,kfm->fm", logits, logits)
    log_loss = np.log(total) - own
    logits[y, :, at] -= 1.0
    logits *= mask
    sums = np.einsum("sfm,fm->sf", np.stack([log_loss, spread]), mask, dtype=np.float64)
    return logits, sums


def _dot(a: Reals, b: Reals) -> Floats:
    """Inner products (F,) of (K, F, P), added up in float64."""
    return np.asarray(np.einsum("kfp,kfp->f", a, b, dtype=np.float64))


def _path(problem: _Problem, strengths: Reals, stop: tuple[float, int]) -> Iterator[tuple[int, Reals]]:
    """(index, plain parameters (K, F, P)) for every strength, from the strongest penalty to the weakest."""
    params = problem.start()
    for i in np.argsort(strengths):
        params = _minimise(problem, params, float(strengths[i]), stop)
        yield int(i), problem.plain(params)


def _minimise(problem: _Problem, params: Reals, strength: float, stop: tuple[float, int]) -> Reals:
    """L-BFGS from params (K, F, P)."""
    tolerance, most = stop
    loss, gradient, spread = problem.evaluate(params, strength)
    slack = 8 * float(np.finfo(params.dtype).eps)  # relative rounding error of the loss
    memory = _Memory(params)
    step = np.ones(len(loss))
    for _ in range(most):
        diagonal = problem.curvature(spread, strength)
        moving = (0.5 * _dot(gradient, gradient / diagonal) > tolerance * loss) & (step > _SHORTEST)
        if not moving.any():
            break
        move = memory.direction(gradient, diagonal) * _per_fold(np.where(moving, step, 0.0), params)
        trial_loss, trial_gradient, trial_spread = problem.evaluate(params + move, strength)
        good = trial_loss <= loss + _SUFFICIENT * _dot(gradient, move) + slack * np.abs(loss)
        memory.learn(move, trial_gradient - gradient, moving & good)
        params = np.where(_per_fold(good, params), params + move, params)
        gradient = np.where(_per_fold(good, params), trial_gradient, gradient)
        loss, spread = np.where(good, [trial_loss, trial_spread], [loss, spread])
        step = np.where(good, 1.0, 0.5 * step)
    return params


class _Memory:
    """What L-BFGS knows of the inverse Hessian of every fold: its latest steps and their effects."""

    def __init__(self, params: Reals) -> None:
        self._pairs: deque[tuple[Reals, Reals, Floats]] = deque(maxlen=_MEMORY)
        self._latest = np.zeros_like(params)  # effect of each fold's latest valid step
        self._gain = np.zeros(params.shape[1])  # and its product with that step

    def learn(self, move: Reals, change: Reals, valid: NDArray[np.bool_]) -> None:
        """Add a step and the change of gradient it made (K, F, P), for the folds where valid (F,)."""
        gain = _dot(move, change)
        valid = valid & (gain > 0)  # convex: not so only by rounding
        rate = np.divide(1.0, gain, out=np.zeros_like(gain), where=valid)
        self._pairs.append((move, change, rate))
        self._gain = np.where(valid, gain, self._gain)
        self._latest = np.where(_per_fold(valid, change), change, self._latest)

    def direction(self, gradient: Reals, diagonal: Reals) -> Reals:
        """Minus the inverse Hessian times the gradient (K, F, P), starting from the diagonal (F, P) put to scale."""
        result, passed = -gradient, []
        for move, change, rate in reversed(self._pairs):
            share = rate * _dot(move, result)
            result -= _per_fold(share, result) * change
            passed.append(share)
        effect = _dot(self._latest, self._latest / diagonal)
        size = np.divide(self._gain, effect, out=np.ones_like(effect), where=effect > 0)
        result *= _per_fold(size, result) / diagonal
        for (move, change, rate), share in zip(self._pairs, reversed(passed), strict=True):
            result += _per_fold(share - rate * _dot(change, result), result) * move
        return result


def _per_fold(values: NDArray[Any], like: Reals) -> NDArray[Any]:
    """(F,) made ready to meet (K, F, P); numbers get the dtype of `like`."""
    wide = values[None, :, None]
    return wide if wide.dtype == bool else wide.astype(like.dtype)
