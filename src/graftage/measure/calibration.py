"""Do the probabilities mean what they say? Reliability with a band, and calibration errors with and without bias.

Confidence is the probability of the called class; the called class is the most probable one.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from graftage.errors import OptionError
from graftage.measure.interval import LEVEL, Floats, Ints
from graftage.measure.scores import brier, check, log_losses

__all__ = ["Reliability", "brier", "calibration_error_debiased", "ece", "log_losses", "perfect_error", "reliability"]

BINS = 15


@dataclass(frozen=True, eq=False)
class Reliability:
    """A reliability diagram; arrays of one length, bins in rising confidence.

    Attributes:
        confidence: mean confidence of each bin, 0 to 1.
        accuracy: share called right in each bin, 0 to 1.
        count: rows of each bin, int64.
        low: lower end of the 95 % consistency band: where the accuracy falls if the confidence is the truth.
        high: its upper end.
    """

    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    count: NDArray[np.int64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


def reliability(probabilities: Floats, y: Ints, *, bins: int = BINS) -> Reliability:
    """Confidence against accuracy in bins of about equal numbers of rows.

    Rows of equal confidence share a bin, so that the order of rows does not matter; then there are fewer bins. The band
    (Bröcker and Smith 2007) holds the middle 95 % of a binomial of `count` trials with the mean confidence.

    Args:
        probabilities: (n, K) float.
        y: (n,) int.
        bins: how many; about 5 are enough below 300 rows.

    Raises:
        DataError: the arrays are no probabilities with labels.
        OptionError: bins is below 1.
    """
    confidence, correct = _confidence(probabilities, y, bins)
    count, mean, accuracy = _binned(_equal_mass(confidence, bins), confidence, correct)
    tail = (1 - LEVEL) / 2
    low, high = (stats.binom.ppf(q, count, np.minimum(mean, 1.0)) / count for q in (tail, 1 - tail))
    return Reliability(mean, accuracy, count, low=low, high=high)


def ece(probabilities: Floats, y: Ints, *, bins: int = BINS) -> float:
    """Plain expected calibration error with bins of equal width, 0 to 1, lower is better (Naeini 2015, Guo 2017).

    A confidence of exactly 1 has a bin of its own, as in torchmetrics. The number is biased: a perfect model gets about
    0.065 from 200 rows and 0.029 from 1000. Use it to compare with figures of others.

    Raises:
        DataError: the arrays are no probabilities with labels.
        OptionError: bins is below 1.
    """
    confidence, correct = _confidence(probabilities, y, bins)
    edges = np.linspace(0, 1, bins + 1)
    count, mean, accuracy = _binned(np.searchsorted(edges, confidence, side="right") - 1, confidence, correct)
    return float(count @ np.abs(mean - accuracy) / y.size)


def calibration_error_debiased(probabilities: Floats, y: Ints, *, bins: int = BINS) -> float:
    """Root of the debiased squared calibration error, 0 to 1, lower is better; 0 where the estimate is below 0.

    Σ_b m_b/n · [(p̄ - ȳ)² - ȳ(1-ȳ)/(m_b-1)] over bins of about equal numbers of rows, with mean confidence p̄ and
    accuracy ȳ of the m_b rows of a bin; a bin of one row adds nothing (Bröcker 2012; Ferro and Fricker 2012; Kumar,
    Liang and Ma 2019). The median for a perfect model is 0 at any number of rows.

    Raises:
        DataError: the arrays are no probabilities with labels.
        OptionError: bins is below 1.
    """
    confidence, correct = _confidence(probabilities, y, bins)
    return _debiased(_equal_mass(confidence, bins), confidence, correct)


def perfect_error(probabilities: Floats, *, rng: np.random.Generator, draws: int = 200, bins: int = BINS) -> float:
    """The debiased error that 95 of 100 models stay below whose confidences are the truth, by simulating their answers.

    Args:
        probabilities: (n, K) float.
        rng: source of the answers.
        draws: models simulated.
        bins: as in `calibration_error_debiased`.
    """
    confidence = probabilities.max(axis=1).astype(np.float64)
    place = _equal_mass(confidence, bins)
    found = [_debiased(place, confidence, rng.random(confidence.size) < confidence) for _ in range(draws)]
    return float(np.quantile(found, LEVEL))


def _debiased(place: Ints, confidence: NDArray[np.float64], correct: NDArray[np.bool_]) -> float:
    count, mean, accuracy = _binned(place, confidence, correct)
    bias = accuracy * (1 - accuracy) / np.maximum(count - 1, 1)
    square = np.where(count > 1, (mean - accuracy) ** 2 - bias, 0.0)
    return float(np.sqrt(max(0.0, float(count @ square) / confidence.size)))


def _confidence(probabilities: Floats, y: Ints, bins: int) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    check(probabilities, y)
    if bins < 1:
        raise OptionError(f"bins is {bins}; give 1 or more")
    return probabilities.max(axis=1).astype(np.float64), probabilities.argmax(axis=1) == y


def _equal_mass(confidence: NDArray[np.float64], bins: int) -> NDArray[np.int64]:
    n, bins = confidence.size, min(bins, confidence.size)
    starts = np.sort(confidence)[np.arange(1, bins) * n // bins]
    return np.searchsorted(starts, confidence, side="right")


def _binned(
    place: Ints, confidence: NDArray[np.float64], correct: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Count, mean confidence and accuracy of the bins that hold rows."""
    count = np.bincount(place)
    held = count > 0
    sums = [np.bincount(place, weights=part)[held] for part in (confidence, correct)]
    return count[held], sums[0] / count[held], sums[1] / count[held]
