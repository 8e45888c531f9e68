"""What is left of a score once the luck of having been selected is taken out.

Whoever tries 20 configurations on the same pictures and reports the best one's score reports luck as well. BBC-CV
(Tsamardinos, Greasidou and Borboudakis 2018) replays the selection: it keeps the out-of-fold predictions of every
configuration, draws rows with replacement, picks the winner on the drawn rows and scores it on the rows left out.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from graftage.errors import DataError
from graftage.measure.interval import CROSS_VALIDATED, Estimate, Floats, Ints, resamples, wilson
from graftage.measure.scores import Scores, brier, check, log_losses, macro


@dataclass(frozen=True, eq=False)
class Trials:
    """Out-of-fold results of M configurations on the same n rows.

    Attributes:
        losses: (n, M) float32 log-loss, in nats; the winner is the column of lowest mean.
        predicted: (n, M) int, the class called.
        briers: (n, M) float32 Brier score of each row.
    """

    losses: NDArray[np.float32]
    predicted: Ints
    briers: NDArray[np.float32]

    @classmethod
    def of(cls, probabilities: Iterable[Floats], y: Ints) -> "Trials":
        """Trials from the out-of-fold probabilities (n, K) of each configuration; one is held at a time.

        Raises:
            DataError: there is no configuration, or one has no probabilities that fit y.
        """
        rows = [_results(each, y) for each in probabilities]
        if not rows:
            raise DataError("there is no configuration to choose from; give the probabilities of at least one")
        losses, predicted, briers = (np.stack(column, axis=1) for column in zip(*rows, strict=True))
        return cls(losses.astype(np.float32), predicted.astype(np.int32), briers.astype(np.float32))


def _results(probabilities: Floats, y: Ints) -> tuple[NDArray[np.float64], Ints, NDArray[np.float64]]:
    check(probabilities, y)
    return log_losses(probabilities, y), probabilities.argmax(axis=1), brier(probabilities, y)


@dataclass(frozen=True)
class Headline:
    """The averages of one set of predictions; meaning and range as in `Scores`, without intervals."""

    accuracy: float
    balanced_accuracy: float
    macro_precision: float
    macro_recall: float
    macro_f1: float
    log_loss: float
    brier: float


@dataclass(frozen=True, eq=False)
class Corrected:
    """Scores of the selected configuration without the luck of selection.

    Attributes:
        accuracy: 0 to 1, as the following ones; see `Scores`.
        balanced_accuracy: as in `Scores`.
        macro_precision: as in `Scores`.
        macro_recall: as in `Scores`.
        macro_f1: as in `Scores`.
        log_loss: in nats.
        brier: 0 to 2.
        naive: the same of the winner on all rows, luck included.
        winner: the configuration of lowest mean loss on all rows, 0 .. M-1.
        wins: (M,) share of the draws that each configuration won; adds up to 1.
    """

    accuracy: float
    balanced_accuracy: float
    macro_precision: float
    macro_recall: float
    macro_f1: float
    log_loss: float
    brier: float
    naive: Headline
    winner: int
    wins: NDArray[np.float64]


def bbc(
    trials: Trials, y: Ints, groups: Ints, *, n_classes: int, rng: np.random.Generator, draws: int = 1000
) -> Corrected:
    """Bootstrap bias-corrected scores of "the configuration of lowest loss".

    Each draw takes groups with replacement; its winner has the lowest mean loss on the rows taken and is scored on the
    rows left out. Every row then counts once, with the average over the draws that left it out (the "leave-one-out
    bootstrap" form of Efron 1983): averages over classes are taken once and do not suffer from small left-out sets, and
    a single configuration gets exactly its plain score.

    Args:
        trials: results of M configurations on n rows.
        y: (n,) int, 0 .. n_classes-1.
        groups: (n,) int; rows of a group are drawn together.
        n_classes: K.
        rng: source of the draws.
        draws: how many.

    Raises:
        DataError: the shapes do not fit, or all rows are of one group, so that no draw leaves a row out.
    """
    shape = trials.losses.shape
    if not (trials.predicted.shape == trials.briers.shape == shape and y.shape == groups.shape == shape[:1]):
        raise DataError(f"{shape} losses do not fit {y.shape} labels and {groups.shape} groups; give one row a picture")
    if np.unique(groups).size < 2:
        raise DataError("all rows are of one group: a draw of groups leaves nothing out; use an independent test set")
    left_out, wins = _replay(trials.losses.astype(np.float64), groups, rng=rng, draws=draws)
    winner = int(trials.losses.mean(axis=0, dtype=np.float64).argmin())
    alone = np.zeros(shape)
    alone[:, winner] = 1
    naive = _headline(trials, y, alone, n_classes=n_classes)
    honest = _headline(trials, y, left_out, n_classes=n_classes)
    return Corrected(**vars(honest), naive=naive, winner=winner, wins=wins)


def _replay(
    losses: NDArray[np.float64], groups: Ints, *, rng: np.random.Generator, draws: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """How much each row counts for each configuration, (n, M) with rows adding up to 1, and the share of wins (M,)."""
    left_out, wins = np.zeros(losses.shape), np.zeros(losses.shape[1])
    for weights in resamples(groups, rng=rng, draws=draws):
        won = np.eye(losses.shape[1])[(weights @ losses).argmin(axis=1)]  # (B, M)
        left_out += (weights.T == 0).astype(np.float64) @ won
        wins += won.sum(axis=0)
    times = left_out.sum(axis=1, keepdims=True)
    # a row that every draw took (next to impossible) tells nothing and counts nothing
    return np.divide(left_out, times, out=left_out, where=times > 0), wins / draws


def _headline(trials: Trials, y: Ints, counts: NDArray[np.float64], *, n_classes: int) -> Headline:
    """Averages of predictions that count `counts` (n, M)."""
    total = counts.sum()
    hit = (counts * (trials.predicted == y[:, None])).sum(axis=1)  # (n,)
    absent = np.bincount(y, minlength=n_classes) == 0
    right = np.bincount(y, weights=hit, minlength=n_classes)[None].astype(np.float64)  # each (1, K)
    true = np.bincount(y, weights=counts.sum(axis=1), minlength=n_classes)[None].astype(np.float64)
    called = np.bincount(trials.predicted.ravel(), weights=counts.ravel(), minlength=n_classes)[None].astype(np.float64)
    averages = macro(right, true, called, absent)[0]
    means = [
        hit.sum() / total,
        *averages,
        (counts * trials.losses).sum() / total,
        (counts * trials.briers).sum() / total,
    ]
    return Headline(*(float(mean) for mean in means))


def corrected_scores(scores: Scores, corrected: Corrected) -> Scores:
    """The scores of the selected configuration with the luck of selection taken out of the headline numbers.

    Accuracy becomes Wilson's interval around the corrected value with the effective number of rows; the averages over
    classes, log-loss and Brier move by (corrected - naive). Top-k, AUROC, the confusion matrix and the per-class rows
    stay as counted: no correction is known for them. Every interval is that of a cross-validated score
    (`CROSS_VALIDATED`).

    Args:
        scores: of the winner's out-of-fold probabilities.
        corrected: from `bbc` on the trials that it won.
    """
    upper = dict.fromkeys(("balanced_accuracy", "macro_precision", "macro_recall", "macro_f1"), 1.0)
    upper |= {"log_loss": math.inf, "brier": 2.0}
    moved = {
        name: getattr(scores, name).shifted(
            getattr(corrected, name) - getattr(corrected.naive, name), upper=top, method="BBC + bootstrap"
        )
        for name, top in upper.items()
    }
    accuracy = replace(wilson(corrected.accuracy, scores.effective_n / CROSS_VALIDATED**2), method="BBC + wilson")
    return cross_validated(replace(scores, accuracy=accuracy, **moved))


def cross_validated(scores: Scores) -> Scores:
    """The scores with the intervals of cross-validation: `CROSS_VALIDATED` times as wide."""
    unbounded = {"log_loss": math.inf, "brier": 2.0}
    names = [each.name for each in fields(scores) if isinstance(getattr(scores, each.name), Estimate)]
    wider = {
        name: getattr(scores, name).widened(CROSS_VALIDATED, upper=unbounded.get(name, 1.0))
        for name in names
        if name != "accuracy"
    }
    rows = tuple(
        replace(
            row,
            precision=row.precision.widened(CROSS_VALIDATED),
            recall=row.recall.widened(CROSS_VALIDATED),
            f1=row.f1.widened(CROSS_VALIDATED),
        )
        for row in scores.per_class
    )
    top = {k: each.widened(CROSS_VALIDATED) for k, each in scores.top_k.items()}
    return replace(scores, per_class=rows, top_k=top, **wider)
