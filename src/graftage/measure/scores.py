"""Probabilities and true labels become scores, each with an interval.

Letters: n rows, K classes, B bootstrap draws. The confusion matrix and every per-class number use the class of largest
probability (the first one where several tie).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from graftage.errors import DataError
from graftage.measure.interval import (
    Estimate,
    Floats,
    Ints,
    Statistic,
    bootstrap,
    codes,
    effective_n,
    f1_interval,
    percentile,
    proportion,
)

MEASURABLE_ROWS = 10  # a class with fewer rows gets numbers, but they are marked as resting on too little
AUROC_CELLS = 2_000_000  # n·K above which the area under the ROC curve is not computed (time)
SUM_TOLERANCE = 1e-3  # how far the probabilities of a row may be from adding up to 1
TOP = (3, 5)
BOOTSTRAPPED = ("balanced_accuracy", "macro_precision", "macro_recall", "macro_f1", "log_loss", "brier", "auroc")


@dataclass(frozen=True)
class ClassScore:
    """One class.

    Attributes:
        name: the class.
        n: rows that truly belong to it.
        predicted_n: rows that were called it.
        precision: of the rows called it, the share that belong to it.
        recall: of the rows that belong to it, the share called it.
        f1: harmonic mean of the two.
        measurable: whether n is at least 10; below that the numbers say next to nothing.
    """

    name: str
    n: int
    predicted_n: int
    precision: Estimate
    recall: Estimate
    f1: Estimate
    measurable: bool


@dataclass(frozen=True, eq=False)
class Scores:
    """How well probabilities match true labels. Higher is better except for log_loss and brier.

    Attributes:
        n: rows.
        groups: independent groups among them (n where rows are independent).
        effective_n: independent rows that would tell as much about the accuracy.
        classes: names, in the order of the columns.
        accuracy: share of rows called right, 0 to 1.
        balanced_accuracy: mean recall of the classes that occur, 0 to 1.
        macro_precision: mean over the classes that occur or are called; a class never called counts 0.
        macro_recall: likewise; a class that does not occur but is called counts 0, in macro_f1 too.
        macro_f1: likewise.
        log_loss: mean of -log of the true class's probability, from 0, in nats.
        brier: mean of Σ_k (p_k - [y = k])², 0 to 2 (Brier 1950).
        top_k: for k = 3 and 5, where below K: share of rows whose true class is among the k most probable.
        auroc: area under the ROC curve, mean of one class against the rest; for two classes the plain one. None where
            n·K exceeds 2 million.
        confusion: (K, K) int64 counts; rows true, columns predicted.
        per_class: one record a class, in order.
    """

    n: int
    groups: int
    effective_n: float
    classes: tuple[str, ...]
    accuracy: Estimate
    balanced_accuracy: Estimate
    macro_precision: Estimate
    macro_recall: Estimate
    macro_f1: Estimate
    log_loss: Estimate
    brier: Estimate
    top_k: Mapping[int, Estimate]
    auroc: Estimate | None
    confusion: NDArray[np.int64]
    per_class: tuple[ClassScore, ...]


def score(
    probabilities: Floats,
    y: Ints,
    *,
    classes: Sequence[str],
    rng: np.random.Generator,
    groups: Ints | None = None,
    draws: int = 1000,
) -> Scores:
    """Measure probabilities against true labels.

    Proportions (accuracy, recall, precision, top-k) get Wilson's interval with an effective number of rows, a class's
    F1 the mapped Wilson interval of `f1_interval`, and all else percentiles of a bootstrap over groups; averages over
    classes are never narrower than Wilson's interval for as many rows.

    Args:
        probabilities: (n, K) float, rows adding up to 1.
        y: (n,) int, 0 .. K-1.
        classes: K names.
        rng: source of the bootstrap draws.
        groups: (n,) int; rows of one group (patient, burst, duplicates) are not independent. None: all are.
        draws: bootstrap draws.

    Raises:
        DataError: the arrays do not fit each other, or are no probabilities.
    """
    check(probabilities, y)
    n, k = probabilities.shape
    if len(classes) != k:
        raise DataError(
            f"there are {len(classes)} class names for {k} columns of probabilities; give one name a column"
        )
    group = np.arange(n) if groups is None else codes(groups)
    if group.shape != (n,):
        raise DataError(f"there are {group.size} group numbers for {n} rows; give one a row")
    y, predicted = y.astype(np.int64), probabilities.argmax(axis=1)
    correct = (predicted == y).astype(np.float64)
    return Scores(
        n=n,
        groups=int(group.max()) + 1,
        effective_n=effective_n(correct, group),
        classes=tuple(str(name) for name in classes),
        accuracy=proportion(correct, group),
        top_k=_top(probabilities, y, group),
        confusion=np.bincount(y * k + predicted, minlength=k * k).reshape(k, k),
        per_class=tuple(_class(c, str(name), y=y, predicted=predicted, group=group) for c, name in enumerate(classes)),
        **_bootstrapped(probabilities, y, group, rng=rng, draws=draws),
    )


def check(probabilities: Floats, y: Ints) -> None:
    """Refuse what is no probabilities (n, K >= 2) with labels (n,) 0 .. K-1.

    Raises:
        DataError: says which of it is wrong.
    """
    if probabilities.ndim != 2 or probabilities.shape[1] < 2 or not np.issubdtype(probabilities.dtype, np.floating):
        raise DataError(
            f"probabilities must be floats (rows, at least 2 classes), not {probabilities.dtype} {probabilities.shape}"
        )
    n, k = probabilities.shape
    if n == 0:
        raise DataError("there are no rows to measure; give at least one labelled picture")
    if y.shape != (n,) or not np.issubdtype(y.dtype, np.integer):
        raise DataError(f"labels must be {n} integers, one for each row of probabilities, not {y.dtype} {y.shape}")
    if y.min() < 0 or y.max() >= k:
        raise DataError(f"labels go from {y.min()} to {y.max()}, but {k} classes are numbered 0 to {k - 1}")
    sums = probabilities.sum(axis=1, dtype=np.float64)
    off = ~(np.abs(sums - 1) <= SUM_TOLERANCE) | (probabilities.min(axis=1) < 0)  # nan compares as off
    if off.any():
        row = int(off.argmax())
        found = f"sum {sums[row]:.4g}, least {probabilities[row].min():.4g}"
        raise DataError(f"row {row} is no probabilities ({found}); apply softmax first")


def log_losses(probabilities: Floats, y: Ints) -> NDArray[np.float64]:
    """-log of each row's probability of its true class, (n,), in nats.

    Probabilities below the epsilon of their float type count as that epsilon, as in scikit-learn's `log_loss`.
    """
    floor = np.finfo(probabilities.dtype).eps
    own = np.maximum(probabilities[np.arange(y.size), y], floor).astype(np.float64)
    losses: NDArray[np.float64] = -np.log(own)
    return losses


def brier(probabilities: Floats, y: Ints) -> NDArray[np.float64]:
    """Σ_k (p_k - [y = k])² of each row, (n,), 0 to 2; for two classes twice the one-column form (Brier 1950)."""
    squares = np.einsum("ij,ij->i", probabilities, probabilities, dtype=np.float64)
    own = probabilities[np.arange(y.size), y].astype(np.float64)
    distance: NDArray[np.float64] = np.maximum(squares - 2 * own + 1, 0.0)  # rounding can fall below 0
    return distance


def majority(train_y: Ints, test_n: int, n_classes: int) -> NDArray[np.float64]:
    """The classifier that never looks: class frequencies of the training labels for every row, (test_n, n_classes).

    Raises:
        DataError: there are no training labels.
    """
    if train_y.size == 0:
        raise DataError("the majority baseline needs at least one training label")
    share = np.bincount(train_y, minlength=n_classes) / train_y.size
    return np.tile(share, (test_n, 1))


def macro(hits: Floats, true: Floats, called: Floats, absent: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Averages over classes from weighted counts.

    Args:
        hits: (B, K) weight of the rows of each class called right.
        true: (B, K) weight of the rows of each class.
        called: (B, K) weight of the rows called each class.
        absent: (K,) classes without any row in the whole data. They count (with 0) where they are called, as in
            scikit-learn with `zero_division=0`; a class that only happens to be missing from a draw does not.

    Returns:
        (B, 4) float64: balanced accuracy, macro precision, macro recall, macro F1.
    """
    seen = (true > 0) | ((called > 0) & absent)
    recall = _ratio(hits, true)
    precision, f1 = _ratio(hits, called), _ratio(2 * hits, true + called)
    averaged = [(recall, true > 0), (precision, seen), (recall, seen), (f1, seen)]
    return np.stack([_ratio((part * mask).sum(axis=1), mask.sum(axis=1)) for part, mask in averaged], axis=1)


def _ratio(above: NDArray[Any], below: NDArray[Any]) -> NDArray[np.float64]:
    ratio = np.zeros(np.shape(above))
    np.divide(above, below, out=ratio, where=below > 0)
    return ratio


def _top(probabilities: Floats, y: Ints, group: Ints) -> dict[int, Estimate]:
    k = probabilities.shape[1]
    if k <= min(TOP):
        return {}
    own = probabilities[np.arange(y.size), y][:, None]
    ahead = (probabilities > own).sum(axis=1)
    ahead += ((probabilities == own) & (np.arange(k) < y[:, None])).sum(axis=1)  # ties fall to the first, as in argmax
    return {top: proportion((ahead < top).astype(np.float64), group) for top in TOP if top < k}


def _class(c: int, name: str, *, y: Ints, predicted: Ints, group: Ints) -> ClassScore:
    true, called = y == c, predicted == c
    either = true | called
    hit = (true & called).astype(np.float64)
    n, predicted_n, trials, tp = (int(part.sum()) for part in (true, called, either, hit))
    shrink = effective_n(hit[either], group[either]) / trials if trials else 0.0
    return ClassScore(
        name=name,
        n=n,
        predicted_n=predicted_n,
        precision=proportion(hit[called], group[called]),
        recall=proportion(hit[true], group[true]),
        f1=f1_interval(tp * shrink, (predicted_n - tp) * shrink, (n - tp) * shrink),
        measurable=n >= MEASURABLE_ROWS,
    )


def _bootstrapped(
    probabilities: Floats, y: Ints, group: Ints, *, rng: np.random.Generator, draws: int
) -> dict[str, Any]:
    """The fields of Scores that get bootstrap intervals."""
    parts = [_averages(probabilities, y)]
    if probabilities.size <= AUROC_CELLS:
        parts.append(_auroc(probabilities, y))

    def statistic(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.concatenate([part(weights) for part in parts], axis=1)

    values = statistic(np.ones((1, y.size)))[0]
    drawn = bootstrap(statistic, group, rng=rng, draws=draws)
    n = _macro_n(probabilities.argmax(axis=1) == y, y, group)
    kinds: list[dict[str, Any]] = [{"n": n, "floor": True}] * 4
    kinds += [{"n": None, "span": (0.0, math.inf)}, {"n": None, "span": (0.0, 2.0)}, {"n": n}]
    found = zip(BOOTSTRAPPED, values, drawn.T, kinds, strict=False)  # the last one, AUROC, may be missing
    return {"auroc": None} | {name: percentile(float(value), d, **kind) for name, value, d, kind in found}


def _macro_n(correct: NDArray[np.bool_], y: Ints, group: Ints) -> float:
    """Rows behind a mean over classes: K² / Σ 1/n_c, which is n for equal classes, times what grouping leaves."""
    counts = np.unique(y, return_counts=True)[1]
    return float(counts.size**2 / np.sum(1 / counts) * effective_n(correct.astype(np.float64), group) / y.size)


def _averages(probabilities: Floats, y: Ints) -> Statistic:
    """Balanced accuracy, macro precision, recall, F1, log-loss, Brier of weighted rows."""
    n, k = probabilities.shape
    predicted = probabilities.argmax(axis=1)
    rows, columns = np.concatenate([y, y + k, predicted + 2 * k]), np.tile(np.arange(n), 3)
    ones = np.ones(2 * n)
    # (3K, n), three ones a column: turns row weights into hits, true and called counts of every class in one product
    counter = sparse.csr_array((np.concatenate([predicted == y, ones]), (rows, columns)), shape=(3 * k, n))
    losses = np.stack([log_losses(probabilities, y), brier(probabilities, y)], axis=1)  # (n, 2)
    absent = np.bincount(y, minlength=k) == 0

    def statistic(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        hits, true, called = (counter @ weights.T).reshape(3, k, -1).transpose(0, 2, 1)  # each (B, K)
        means = (weights @ losses) / weights.sum(axis=1, keepdims=True)
        return np.concatenate([macro(hits, true, called, absent), means], axis=1)

    return statistic


def _auroc(probabilities: Floats, y: Ints) -> Statistic:
    """Macro one-against-rest area under the ROC curve of weighted rows; classes that a draw lacks are left out."""
    k = probabilities.shape[1]
    areas = [_area(probabilities[:, c], y == c) for c in (range(k) if k > 2 else (1,))]

    def statistic(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        each = np.concatenate([area(weights) for area in areas], axis=1)  # (B, K)
        known = np.isfinite(each)
        mean = _ratio(np.where(known, each, 0).sum(axis=1), known.sum(axis=1))
        return np.where(known.any(axis=1), mean, np.nan)[:, None]

    return statistic


def _area(scores: Floats, positive: NDArray[np.bool_]) -> Statistic:
    """Area under the ROC curve as 1 - P(negative above positive) - P(tie) / 2, for weighted rows (Mann-Whitney).

    P positives in order make P + 1 gaps. A negative with `left` positives below it and `right` not above it puts half
    its weight into gap `left` and half into gap `right`; gap g costs the weight of the first g positives.
    """
    up = np.flatnonzero(positive)
    up = up[np.argsort(scores[up])]
    down = np.flatnonzero(~positive)
    left, right = (np.searchsorted(scores[up], scores[down], side=side) for side in ("left", "right"))
    halves = (np.full(2 * down.size, 0.5), (np.concatenate([left, right]), np.tile(down, 2)))
    gaps = sparse.csr_array(halves, shape=(up.size + 1, scores.size))

    def statistic(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        below = np.zeros((up.size + 1, len(weights)))  # (P + 1, B)
        np.cumsum(weights.T[up], axis=0, out=below[1:])
        spread = gaps @ weights.T  # (P + 1, B)
        pairs = below[-1] * spread.sum(axis=0)
        lost = _ratio((below * spread).sum(axis=0), pairs)
        return np.where(pairs > 0, 1 - lost, np.nan)[:, None]

    return statistic


def to_json(scores: Scores) -> dict[str, Any]:
    """The scores as plain dicts, lists, numbers and strings that `json` writes; nan and infinity become None."""
    plain: dict[str, Any] = _plain(asdict(scores))
    return plain


def _plain(part: Any) -> Any:
    match part:
        case dict():
            return {str(name): _plain(inner) for name, inner in part.items()}
        case tuple():
            return [_plain(inner) for inner in part]
        case np.ndarray():
            return part.tolist()
        case float() if not math.isfinite(part):
            return None
    return part


def from_json(record: Mapping[str, Any]) -> Scores:
    """The scores that `to_json` wrote.

    Raises:
        DataError: the record is not such a one.
    """
    try:
        k = len(record["classes"])
        return Scores(
            **_revived(record)
            | {
                "classes": tuple(record["classes"]),
                "top_k": {int(top): _estimate(part) for top, part in record["top_k"].items()},
                "confusion": np.asarray(record["confusion"], dtype=np.int64).reshape(k, k),
                "per_class": tuple(ClassScore(**_revived(row)) for row in record["per_class"]),
            }
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"this is no record of scores ({type(error).__name__}: {error}); measure again") from error


def _revived(record: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _estimate(part) if isinstance(part, Mapping) and "value" in part else part
        for name, part in record.items()
    }


def _estimate(part: Mapping[str, Any]) -> Estimate:
    value = math.nan if part["value"] is None else float(part["value"])
    high = math.inf if part["high"] is None else float(part["high"])
    return Estimate(value, float(part["low"]), high, str(part["method"]), float(part["level"]))
