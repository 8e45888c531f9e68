"""How the time is spent on a recipe: epochs, views, folds, from what each of them costs."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from graftage.learn.defaults import Recipe

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

_JUDGED_ON = 400  # pictures that should be held out to judge a recipe, by taking more folds
_TOO_FEW = 100  # held-out pictures of one fold, below which it tells little: more folds come before more epochs
_SOME_EPOCHS = 5  # from which on they do
_ENOUGH_EPOCHS = 8  # below which no time is spent on training once more on all pictures
_PILOT = 0.2  # share of the epochs that the pilot takes
_PILOT_FROM = 15  # epochs planned, from which a pilot costs less than it can save


@dataclass(frozen=True)
class Plan:
    """How the time is spent on one recipe.

    Attributes:
        recipe: its name.
        epochs: of every training.
        views: kept for each picture.
        folds: trainings with pictures held out.
        refit: whether one more training takes all pictures.
        pilot: epochs of a short training that decides whether to go on; 0 for none.
        seconds: expected.
    """

    recipe: str
    epochs: int
    views: int
    folds: int
    refit: bool
    pilot: int
    seconds: float

    def line(self) -> str:
        """For a person."""
        parts = [f"{self.views} views of each picture kept"] if self.views else []
        parts += [f"pilot of {self.pilot} epochs"] if self.pilot else []
        parts += [
            f"{self.folds} training{'s' if self.folds > 1 else ''} of {self.epochs} epochs, judged on held-out pictures"
        ]
        parts += [f"then {self.epochs} epochs on all"] if self.refit else []
        return f"plan: {self.recipe}: {', '.join(parts)}; about {duration(self.seconds)}"


@dataclass(frozen=True)
class Cost:
    """Seconds that a recipe takes: to prepare it, per kept view, per picture of an epoch."""

    fixed: float
    view: float
    picture: float


def plan(recipe: Recipe, cost: Cost, *, n: int, k: int, whole: bool, budget: float | None, least: int) -> Plan | None:
    """The best use of the time, or None where it is too short for `least` epochs.

    Args:
        recipe: epochs and views as they should be.
        cost: measured.
        n: pictures; k: folds that there are.
        whole: every picture must be held out once.
        budget: seconds left, None for as many as it takes.
        least: epochs below which it is not worth while.
    """
    wanted = k if whole else int(np.clip(np.ceil(_JUDGED_ON / (n / k)), 1, k))
    first = _SOME_EPOCHS if n / k < _TOO_FEW else _ENOUGH_EPOCHS
    for folds, refit, enough in ((wanted, True, first), (1, True, _ENOUGH_EPOCHS), (1, False, least)):
        if whole and (folds < k or not refit):
            enough, folds, refit = least, k, True
        passes = folds * (1 - 1 / k) + refit
        views = recipe.views if budget is None else _affordable_views(recipe, cost, n, budget)
        start = cost.fixed + n * (views + 1 if recipe.views else 0) * cost.view
        each = passes * n * cost.picture
        epochs = recipe.epochs if budget is None else min(recipe.epochs, int((budget - start) / each))
        if epochs >= min(enough, recipe.epochs):
            pilot = round(_PILOT * epochs) if budget is None and epochs >= _PILOT_FROM else 0
            return Plan(recipe.name, epochs, views, folds, refit, pilot, start + epochs * each)
    return None


def _affordable_views(recipe: Recipe, cost: Cost, n: int, budget: float) -> int:
    """Views for which at most a quarter of the time goes; at least 1 where there are any."""
    if not recipe.views:
        return 0
    return int(np.clip(0.25 * budget / max(n * cost.view, 1e-9) - 1, 1, recipe.views))


def duration(seconds: float) -> str:
    """So many seconds as a person says it."""
    return (
        f"{seconds:.0f} s"
        if seconds < 100
        else f"{seconds / 60:.0f} min"
        if seconds < 6000
        else f"{seconds / 3600:.1f} h"
    )
