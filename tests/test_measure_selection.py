"""The luck of selection: naive scores of the best of many flatter, corrected ones do not (simulation of BBC-CV)."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from graftage.errors import DataError
from graftage.measure.interval import CROSS_VALIDATED, wilson
from graftage.measure.scores import score
from graftage.measure.selection import Corrected, Headline, Trials, bbc, corrected_scores

Ints = NDArray[np.int64]
AVERAGES = tuple(Headline.__dataclass_fields__)


def equals(n: int, m: int, rng: np.random.Generator, *, accuracy: float = 0.85) -> tuple[Trials, Ints]:
    """M configurations of one true accuracy that find the same pictures hard (correlation 0.8)."""
    skill = np.sqrt(0.8) * rng.normal(size=(n, 1)) + np.sqrt(0.2) * rng.normal(size=(n, m))
    y, wrong = rng.integers(0, 2, n), skill > stats.norm.ppf(accuracy)
    losses = wrong.astype(np.float32)
    return Trials(losses, np.where(wrong, 1 - y[:, None], y[:, None]), 2 * losses), y


def run(
    trials: Trials, y: Ints, rng: np.random.Generator, *, groups: Ints | None = None, draws: int = 100
) -> Corrected:
    return bbc(trials, y, np.arange(y.size) if groups is None else groups, n_classes=2, rng=rng, draws=draws)


@pytest.mark.parametrize(("n", "m", "flattery"), [(60, 20, 0.04), (200, 100, 0.02), (1000, 20, 0.005)])
def test_naive_flatters_and_corrected_does_not(n: int, m: int, flattery: float) -> None:
    rng = np.random.default_rng(n)
    found = [run(*equals(n, m, rng), rng) for _ in range(80)]
    assert np.mean([each.naive.accuracy for each in found]) > 0.85 + flattery
    assert abs(np.mean([each.accuracy for each in found]) - 0.85) < 0.01


def test_wilson_around_the_corrected_accuracy_covers() -> None:
    rng = np.random.default_rng(7)
    estimates = [wilson(run(*equals(200, 20, rng), rng, draws=60).accuracy, 200) for _ in range(300)]
    assert 0.93 <= np.mean([each.low <= 0.85 <= each.high for each in estimates]) <= 0.99


def test_a_single_configuration_gets_its_plain_scores() -> None:
    rng = np.random.default_rng(0)
    trials, y = equals(80, 1, rng)
    found = run(trials, y, rng, draws=200)
    for name in AVERAGES:
        assert getattr(found, name) == pytest.approx(getattr(found.naive, name))
    assert found.wins.tolist() == [1.0]


def test_naive_is_the_score_of_the_winner() -> None:
    rng = np.random.default_rng(3)
    y = rng.integers(0, 3, 90)
    runs = []
    for pull in (0.5, 2.0, 1.0):
        powers = np.exp(rng.normal(size=(90, 3)) + pull * np.eye(3)[y])
        runs.append(powers / powers.sum(axis=1, keepdims=True))
    found = bbc(Trials.of(runs, y), y, np.arange(90), n_classes=3, rng=rng, draws=100)
    scores = score(runs[1], y, classes="abc", rng=rng, draws=50)
    assert found.winner == 1
    for name in AVERAGES:
        assert getattr(found.naive, name) == pytest.approx(getattr(scores, name).value, rel=1e-6)
    assert found.wins.sum() == pytest.approx(1)
    assert found.wins.argmax() == 1


def test_a_winner_by_far_needs_no_correction() -> None:
    rng = np.random.default_rng(1)
    trials, y = equals(300, 5, rng)
    trials.losses[:, 2] -= 0.5
    found = run(trials, y, rng)
    assert found.wins[2] == 1
    assert found.accuracy == pytest.approx(found.naive.accuracy)


def test_corrected_is_what_a_slow_replay_gives() -> None:
    """An independent loop: per draw pick, score on the rows left out, average over the draws."""
    rng = np.random.default_rng(4)
    trials, y = equals(120, 10, rng)
    right = trials.predicted == y[:, None]
    slow = []
    for _ in range(1500):
        taken = rng.integers(0, 120, 120)
        out = np.setdiff1d(np.arange(120), taken)
        slow.append(right[out, trials.losses[taken].mean(axis=0).argmin()].mean())
    assert run(trials, y, rng, draws=1500).accuracy == pytest.approx(np.mean(slow), abs=0.004)


def test_rows_of_a_group_are_taken_or_left_together() -> None:
    """With every row beside its copy, drawing rows would let the copy vote for its twin; drawing groups does not."""
    rng = np.random.default_rng(5)
    trials, y = equals(60, 50, rng)
    copied = Trials(*(np.repeat(part, 2, axis=0) for part in (trials.losses, trials.predicted, trials.briers)))
    pairs, single = np.repeat(np.arange(60), 2), run(trials, y, np.random.default_rng(1), draws=600)
    grouped = run(copied, np.repeat(y, 2), np.random.default_rng(1), groups=pairs, draws=600)
    assert grouped.accuracy == pytest.approx(single.accuracy, abs=1e-9)
    ungrouped = run(copied, np.repeat(y, 2), np.random.default_rng(1), draws=600)
    assert ungrouped.accuracy > grouped.accuracy + 0.005


def test_scores_take_the_correction_over() -> None:
    rng = np.random.default_rng(6)
    trials, y = equals(200, 40, rng)
    found = run(trials, y, rng)
    called = trials.predicted[:, found.winner]
    scores = score(np.eye(2)[called], y, classes="ab", rng=rng, draws=200)
    fair = corrected_scores(scores, found)
    assert fair.accuracy.value == pytest.approx(found.accuracy)
    wanted = wilson(found.accuracy, 200 / CROSS_VALIDATED**2)
    assert (fair.accuracy.low, fair.accuracy.high) == (wanted.low, wanted.high)
    assert fair.accuracy.method == "BBC + wilson"
    assert fair.macro_f1.value == pytest.approx(found.macro_f1)
    assert fair.macro_f1.value < scores.macro_f1.value
    for name in ("macro_f1", "balanced_accuracy", "brier", "log_loss", "auroc"):
        one, other = getattr(scores, name), getattr(fair, name)
        assert other.value - other.low == pytest.approx(CROSS_VALIDATED * (one.value - one.low))
    assert fair.brier.value == pytest.approx(scores.brier.value + found.brier - found.naive.brier)
    assert fair.log_loss.value > scores.log_loss.value  # losses have no upper end at 1
    assert {fair.macro_f1.method, fair.log_loss.method, fair.brier.method} == {"BBC + bootstrap"}
    for row, own in zip(scores.per_class, fair.per_class, strict=True):
        assert own == replace(row, precision=own.precision, recall=own.recall, f1=own.f1)
        assert own.recall.value == row.recall.value
        assert own.recall.value - own.recall.low == pytest.approx(CROSS_VALIDATED * (row.recall.value - row.recall.low))


def test_what_does_not_fit_is_refused() -> None:
    rng = np.random.default_rng(0)
    trials, y = equals(20, 3, rng)
    with pytest.raises(DataError, match="do not fit"):
        run(trials, y[:19], rng)
    with pytest.raises(DataError, match="all rows are of one group"):
        run(trials, y, rng, groups=np.zeros(20, dtype=int))
    with pytest.raises(DataError, match="no configuration"):
        Trials.of([], y)
    with pytest.raises(DataError, match="row 0 is no probabilities"):
        Trials.of([np.zeros((20, 2))], y)
