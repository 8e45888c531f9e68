"""Rules of thumb as functions of the data's size, each with where it comes from. No data is looked at here."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Measured = Literal["test", "cross-validation"]

# From here on a fifth locked away still leaves an interval of about ±2 points at 90 %; below, cross-validation on all
# pictures with the correction for selection is the sharper number (Tsamardinos et al. 2018).
LOCKED_FROM = 2000
_LARGE = 20_000

# A kernel head up to so many pictures keeps them all; above, it keeps this many of them as landmarks (Nyström;
# Williams & Seeger 2001). Eigendecompositions cost n³: 2,500 is about four seconds on two cores.
EXACT_KERNEL = 2500
LANDMARKS = 2048

# Up to so many pictures the arc-cosine kernel is tried beside the gaussian one. On the sets of `bench/accuracy.py` it
# never came out ahead of it, and from here on it would cost seconds.
ARC_COSINE = 1000

# Crop, squash or pad is chosen on all pictures up to LOCKED_FROM (so that the corrected estimate sees the choice) and
# on so many of the training pictures above.
FIT_SAMPLE = 1000

# Multinomial logistic regression is tried while n·D·K·folds stays below this: about a minute on two cores.
LOGISTIC_BUDGET = 4e9


@dataclass(frozen=True)
class Plan:
    """How a set of n pictures is to be measured.

    Attributes:
        test_fraction: share locked away as a test set; 0 means cross-validation on all.
        folds: k of the stratified k-fold that chooses the head.
        repeats: how often the folds are drawn anew.
    """

    test_fraction: float
    folds: int
    repeats: int


def plan(n: int) -> Plan:
    """The split rule by number of usable pictures: repeated folds when small, a locked test set when large."""
    if n < LOCKED_FROM:
        return Plan(0.0, 5, 10 if n <= 100 else 4)
    return Plan(0.2 if n < _LARGE else 0.1, 5 if n < _LARGE else 3, 1)


def ridge_path(scale: float) -> NDArray[np.float64]:
    """Penalties λ (8,) around what unit-length features of pretrained networks need.

    Args:
        scale: mean of the diagonal of the centred kernel; 0, where all pictures are alike, counts as 1. On the sets of
            `bench/accuracy.py` the best λ lay between 0.01 and 3 times it, so two to a decade from 0.003 to 10.
    """
    return (scale or 1.0) * np.logspace(-2.5, 1.0, 8)


def logistic_path() -> NDArray[np.float64]:
    """Inverse penalties C (8,) for unit-length features."""
    return np.logspace(-0.5, 3, 8)


def neighbours(n: int, n_classes: int) -> int:
    """k of the nearest-neighbour baseline: 5 with few pictures per class, else 20 (Caron et al. 2021 use 20)."""
    return 5 if n / n_classes < 10 else 20
