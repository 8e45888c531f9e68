"""A recipe trained and judged on training pictures held out, and whether it is better than the frozen head."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from graftage.ground import Ground, parts
from graftage.learn.search import Candidate, Trial, judge
from graftage.plans import Plan
from graftage.recipes import Ready
from graftage.states import States
from graftage.training import inputs_of, logits_between, make_task, run_task

if TYPE_CHECKING:
    from graftage.learn.task import Batches, Epoch

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

ALPHAS = (0.25, 0.5, 0.75, 1.0)  # on the way from the head's weights, 0, to the tuned ones
_HELD_AT_MOST = 400  # of one fold, where no more folds are to be had


@dataclass(frozen=True, eq=False)
class Judged:
    """A recipe trained and judged on pictures held out."""

    ready: Ready
    plan: Plan
    rows: Ints  # held out
    trial: Trial
    others: tuple[Trial, ...]
    logits: Floats  # (len(rows), K) at the chosen α
    alpha: float
    epochs: int  # that the refit takes
    records: tuple["Epoch", ...]
    first: "tuple[Any, Any]"  # start and end weights of the first fold's network

    def gain(self, ground: Ground) -> Floats:
        """Log-loss of the head less that of the tuned network, per picture held out."""
        return np.asarray(ground.head.losses[self.rows].astype(np.float64) - self.trial.losses)

    def better(self, ground: Ground) -> bool:
        """More than one standard error in log-loss or in accuracy, and no worse in the other."""
        loss, right = self.gain(ground), self.gain_in_accuracy(ground)
        if min(loss.mean(), right.mean()) < 0:
            return False
        return bool(max(_errors(loss), _errors(right)) > 1)

    def gain_in_accuracy(self, ground: Ground) -> Floats:
        """1 for each picture held out that only the tuned network has right, -1 for those that only the head has."""
        y = ground.y[self.rows]
        tuned, head = self.trial.predicted == y, ground.head.predicted[self.rows] == y
        return np.asarray(tuned.astype(np.float64) - head)

    def numbers(self, ground: Ground) -> dict[str, Any]:
        """For metrics.json."""
        gain, y = self.gain(ground), ground.y[self.rows]
        return {
            "recipe": self.plan.recipe,
            "held_out": len(self.rows),
            "log_loss": self.trial.log_loss,
            "accuracy": float((self.trial.predicted == y).mean()),
            "head_log_loss": float(ground.head.losses[self.rows].mean()),
            "head_accuracy": float((ground.head.predicted[self.rows] == y).mean()),
            "gain_in_standard_errors": _errors(gain),
            "accuracy_gain_in_standard_errors": _errors(self.gain_in_accuracy(ground)),
            "alpha": self.alpha,
        }


def _errors(gain: Floats) -> float:
    """The mean of paired differences in standard errors of it."""
    return float(gain.mean() / max(gain.std(ddof=1) / np.sqrt(len(gain)), 1e-12))


def verdict(ground: Ground, judged: Judged) -> str:
    """How the tuned network compares with the head, in a sentence."""
    f = judged.numbers(ground)
    change = 100 * (f["accuracy"] - f["head_accuracy"])
    gain = f["gain_in_standard_errors"]
    return (
        f"on {f['held_out']:,} held-out training pictures its log-loss is {f['log_loss']:.3f} against "
        f"{f['head_log_loss']:.3f} of the head ({gain:+.1f} standard errors) and its accuracy {change:+.1f} points "
        f"({f['accuracy_gain_in_standard_errors']:+.1f})"
    )


def judge_recipe(ground: Ground, ready: Ready, plan: Plan, states: States) -> Judged | None:
    """Trains fold by fold; None where the pilot said no."""
    ready = replace(ready, recipe=replace(ready.recipe, epochs=plan.epochs, views=plan.views))
    with inputs_of(ground, ready) as batches:
        if plan.pilot and ground.settings.recipe == "auto" and not _pilot(ground, ready, batches, plan, states):
            return None
        found = [_fold(ground, ready, batches, fold, states) for fold in range(plan.folds)]
    rows = np.concatenate([each.rows for each in found])
    order = np.argsort(rows, kind="stable")
    alphas = ALPHAS if ground.settings.recipe == "auto" else (1.0,)
    stacked = {a: np.concatenate([each.logits[a] for each in found])[order] for a in alphas}
    rows = rows[order]
    trials = {a: _trial(ground, a, z, rows) for a, z in stacked.items()}
    alpha = min(alphas, key=lambda a: trials[a].log_loss)
    others = tuple(trial for a, trial in trials.items() if a != alpha)
    epochs = int(np.median([each.best for each in found]))
    records = tuple(record for each in found for record in each.records)
    return Judged(ready, plan, rows, trials[alpha], others, stacked[alpha], alpha, epochs, records, found[0].weights)


def _trial(ground: Ground, alpha: float, logits: Floats, rows: Ints) -> Trial:
    """A tuned network's held-out logits, judged; its temperature is a cautious one, since few of them are wrong."""
    return judge(logits, ground.y[rows], Candidate("tuned", ground.fit, "unit", alpha), cautious=True)


@dataclass(frozen=True, eq=False)
class Fold:
    """One training with pictures held out."""

    rows: Ints
    logits: dict[float, Floats]
    best: int
    records: tuple["Epoch", ...]
    weights: "tuple[Any, Any]"


def held_in_fold(ground: Ground, fold: int) -> Ints:
    """The pictures that a fold's training does not see, ascending."""
    return parts(ground.y, ground.held, ground.groups, fold, at_most=_at_most(ground), seed=ground.settings.seed)[1]


def _at_most(ground: Ground) -> int | None:
    return None if ground.whole else _HELD_AT_MOST


def _fold(ground: Ground, ready: Ready, batches: "Batches", fold: int, states: States) -> Fold:
    train, rows = parts(ground.y, ground.held, ground.groups, fold, at_most=_at_most(ground), seed=ground.settings.seed)
    name = f"{ready.recipe.name}, fold {fold + 1}"
    task = make_task(ground, ready, batches, train, rows, name)
    start, training = run_task(ground, task, name, states)
    end = training.best[2] if training.best else training.weights()
    best = training.best[1] if training.best else training.epoch
    alphas = ALPHAS if ground.settings.recipe == "auto" else (1.0,)
    logits = {alpha: logits_between(training, start, end, alpha, rows) for alpha in alphas}
    return Fold(rows, logits, best, tuple(training.records), (start, end))


def _pilot(ground: Ground, ready: Ready, batches: "Batches", plan: Plan, states: States) -> bool:
    """Whether a short training on one fold, somewhere on the way to its weights, is no worse than the head."""
    train, rows = parts(ground.y, ground.held, ground.groups, 0, at_most=_HELD_AT_MOST, seed=ground.settings.seed)
    short = replace(ready, recipe=replace(ready.recipe, epochs=plan.pilot))
    name = f"{ready.recipe.name}, pilot"
    start, training = run_task(ground, make_task(ground, short, batches, train, rows, name), name, states)
    end = training.weights()
    found = [_trial(ground, a, logits_between(training, start, end, a, rows), rows) for a in ALPHAS]
    gap = min(found, key=lambda t: t.log_loss).losses.astype(np.float64) - ground.head.losses[rows]
    return bool(gap.mean() <= gap.std(ddof=1) / np.sqrt(len(gap)))
