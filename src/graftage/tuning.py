"""From the frozen head to a tuned network, where that pays: the plan, the judgement, and what is shipped.

Every recipe is trained on part of the pictures and judged on the rest (fold by fold where the whole set must be
predicted, else on one fold), then once more on all of them for the same number of epochs, if the budget allows. Nothing
here sees the test pictures.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from graftage import world
from graftage.costs import measure_cost
from graftage.errors import OptionError
from graftage.features.facts import Backbone, Weights
from graftage.features.variants import is_varied
from graftage.ground import Ground, without_harmful_flips
from graftage.judging import Judged, held_in_fold, judge_recipe, verdict
from graftage.learn.defaults import Recipe
from graftage.learn.head import Head
from graftage.learn.search import Trial
from graftage.learn.temperature import softmax
from graftage.plans import Cost, Plan, plan
from graftage.recipes import Ready, prepare
from graftage.settings import Settings
from graftage.states import States
from graftage.training import inputs_of, make_task, run_task, starting_network

if TYPE_CHECKING:
    from graftage.learn.network import Network
    from graftage.learn.task import Epoch

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

_FEW = 100  # pictures below which auto does not tune: what is gained could not be told from luck
_GOOD = 0.02  # held-out error of the head below which auto does not tune (methods: nothing left to gain)
_LEAST_EPOCHS = 2  # below which auto does not begin
_FULL_MINUTES = 20  # without a budget, auto tries the whole network where that takes no longer
_RESERVE = 20.0  # seconds kept for converting the tuned networks, the test pictures, the detector and the report


@dataclass(frozen=True, eq=False)
class Tuned:
    """A tuned network that ships.

    Attributes:
        backbone: with the output that the head wants.
        weights: of the whole network.
        head: linear, or with a hidden layer.
        trial: how it did on the pictures held out.
        logits: float32 (n, K) held-out logits of all pictures, or None where only some were held out.
        others: the other ways between head and tuned weights, as trials, where all pictures were held out.
        held: int64 (h,), ascending, places of the pictures held out while judging; held_logits: float32 (h, K) theirs.
        apart: int64 (a,), those of them that the first network judged never saw.
        apart_weights: of that network; None where it is the one that ships.
    """

    backbone: Backbone
    weights: Weights
    head: Head
    trial: Trial
    logits: NDArray[np.float32] | None
    others: tuple[Trial, ...]
    held: Ints
    held_logits: NDArray[np.float32]
    apart: Ints
    apart_weights: Weights | None


@dataclass(frozen=True, eq=False)
class Adapted:
    """What became of the recipe asked for.

    Attributes:
        shipped: "linear", or the name of the recipe whose network ships.
        reason: why, in a sentence.
        tuned: the network, or None where the frozen head ships.
        story: everything for metrics.json: plan, recipe, epochs.
    """

    shipped: str
    reason: str
    tuned: Tuned | None
    story: Mapping[str, Any]


def adapt(ground: Ground, states: States) -> Adapted:
    """Carries out the recipe asked for, and says why it ships what it ships.

    Raises:
        OptionError: the recipe cannot tune this network: several together, several layers, or one of Keras.
    """
    name = ground.settings.recipe
    if name == "linear":
        return Adapted("linear", "the head alone was asked for", None, {})
    if is_varied(ground.backbone.info.architecture, ground.backbone.info.output):
        if name == "auto":
            return _head_ships(ground, "several networks or layers together are not tuned", {})
        raise OptionError(
            f"recipe {name} tunes one network with its own feature vector; several networks or layers together know "
            "linear only"
        )
    if name == "auto" and (reason := _hopeless(ground)):
        return _head_ships(ground, reason, {})
    if ground.backbone.info.architecture.startswith("keras/") and name != "classic":
        if name == "auto":
            return _head_ships(ground, "Keras networks are tuned by recipe classic only", {})
        raise OptionError(
            f"recipe {name} is for timm networks, Keras ones know linear and classic; take a timm/ backbone"
        )
    return _carry_out(ground, states)


def _hopeless(ground: Ground) -> str:
    """Why tuning cannot pay, known before it begins; "" if it may."""
    n, error = len(ground.y), 1 - ground.head.accuracy(ground.y)
    if n < _FEW:
        return f"with {n} pictures a gain could not be told from luck (from {_FEW} on)"
    if error < _GOOD:
        return f"the head alone is wrong on {100 * error:.1f} % of held-out pictures: there is too little to gain"
    return ""


def _head_ships(ground: Ground, reason: str, story: Mapping[str, Any]) -> Adapted:
    ground.journal.row(f"ships: the head on frozen features, since {reason}")
    return Adapted("linear", reason, None, {**story, "shipped": "linear", "reason": reason})


def _carry_out(ground: Ground, states: States) -> Adapted:
    settings, journal = ground.settings, ground.journal
    facts = {"settings": _facts(settings), "pictures": list(ground.pictures.digests)}
    kept = world.agreed(states.begin(facts, resume=settings.resume) if not world.rank() else None)
    with journal.stage("prepare tuning"):
        ground = without_harmful_flips(ground)
        first = prepare(ground, "tail" if settings.recipe == "auto" else settings.recipe)
        plans = world.agreed([Plan(**p) for p in kept["plans"]] if kept else _plans(ground, first))
        ready = {p.recipe: first if p.recipe == first.recipe.name else prepare(ground, p.recipe) for p in plans}
    if not kept and not world.rank():
        states.keep_plan(facts, {"plans": [vars(p) for p in plans]})
    story: dict[str, Any] = {"plan": [vars(p) for p in plans], "asked": settings.recipe}
    if not plans:
        return _head_ships(ground, f"the budget of {settings.budget} is too short to tune the network", story)
    for each in plans:
        journal.row(each.line())
    judged = [found for each in plans if (found := judge_recipe(ground, ready[each.recipe], each, states)) is not None]
    story["epochs"] = [vars(record) for found in judged for record in found.records]
    if not judged:
        return _head_ships(ground, "a pilot on one fold was no better than the head", story)
    best = min(judged, key=lambda found: found.trial.log_loss)
    reason = verdict(ground, best)
    story |= {"tuned": best.numbers(ground), "hyperparameters": vars(best.ready.recipe)}
    if settings.recipe == "auto" and not best.better(ground):
        return _head_ships(ground, reason, story)
    journal.row(f"ships: {best.plan.recipe}, {reason}")
    tuned = _finish(ground, best, states)
    story |= {"epochs": [*story["epochs"], *[vars(r) for r in tuned[1]]]}
    return Adapted(best.plan.recipe, reason, tuned[0], {**story, "shipped": best.plan.recipe, "reason": reason})


def _facts(settings: Settings) -> dict[str, object]:
    """The settings that a state belongs to: all that shape the result."""
    free = ("output", "resume", "overwrite", "workers", "track", "max_bytes", "max_pixels", "coverage", "max_error")
    return {name: value for name, value in vars(settings).items() if name not in free}


def _plans(ground: Ground, first: Ready) -> list[Plan]:
    """What the time is for: the recipe asked for; with auto the tail, and the whole network where affordable."""
    auto, left = ground.settings.recipe == "auto", _left(ground)
    cost = measure_cost(ground, first) if auto or left is not None else Cost(0, 0, 0)
    ground.journal.log(event="cost", recipe=first.recipe.name, left=left, **vars(cost))
    full = _full_plan(ground, left) if auto else None
    budget = 0.5 * left if left is not None and full else left
    own = _plan(ground, first.recipe, cost, budget, _LEAST_EPOCHS if auto else 1)
    return [each for each in (own, full) if each is not None]


def _plan(ground: Ground, recipe: Recipe, cost: Cost, budget: float | None, least: int) -> Plan | None:
    k = int(ground.held.max()) + 1
    return plan(recipe, cost, n=len(ground.y), k=k, whole=ground.whole, budget=budget, least=least)


def _full_plan(ground: Ground, left: float | None) -> Plan | None:
    """The whole network beside the tail, if half of the time holds all its epochs.

    With fewer, time was better spent on more epochs of the tail in every trial on training folds.
    """
    ready = prepare(ground, "full")
    found = _plan(ground, ready.recipe, measure_cost(ground, ready), left and 0.5 * left, ready.recipe.epochs)
    return found if found and (left is not None or found.seconds <= 60 * _FULL_MINUTES) else None


def _left(ground: Ground) -> float | None:
    seconds = ground.settings.seconds()
    if seconds is None:
        return None
    return seconds - (time.monotonic() - ground.started) - _RESERVE


def _finish(ground: Ground, judged: Judged, states: States) -> tuple[Tuned, tuple["Epoch", ...]]:
    """The network that ships: trained on all pictures, or, where the time was too short, that of the fold."""
    from graftage.learn.network import between

    ready = judged.ready
    records: tuple[Epoch, ...] = ()
    start, end = judged.first
    first = None
    if judged.plan.refit:
        first = _weights_at(ground, ready, between(start, end, judged.alpha))[1]
        name = f"{ready.recipe.name}, all pictures"
        with inputs_of(ground, ready) as batches:
            rows = np.arange(len(ground.y))
            task = make_task(ground, ready, batches, rows, rows[:0], name)
            start, training = run_task(ground, replace(task, stop_after=judged.epochs), name, states)
            end, records = training.weights(), tuple(training.records)
    network, weights = _weights_at(ground, ready, between(start, end, judged.alpha))
    held = judged.logits.astype(np.float32)
    whole = len(judged.rows) == len(ground.y)
    ship = Tuned(
        backbone=ready.backbone,
        weights=weights,
        head=network.to_head(),
        trial=judged.trial,
        logits=held if whole else None,
        others=judged.others if whole else (),
        held=judged.rows,
        held_logits=held,
        apart=held_in_fold(ground, 0),
        apart_weights=first,
    )
    return ship, records


def _weights_at(ground: Ground, ready: Ready, arrays: Any) -> "tuple[Network, Weights]":
    network = starting_network(ground, ready, None)
    _load(network, arrays, ready)
    return network, _whole_weights(network, ready)


def _load(network: "Network", arrays: Any, ready: Ready) -> None:
    from graftage.learn.network import add_adapters, load_arrays, merge_adapters

    if ready.recipe.trainable == "lora":
        add_adapters(network.body, ready.recipe.lora_rank)
        load_arrays(network, arrays)
        merge_adapters(network.body)
        return
    load_arrays(network, arrays)


def _whole_weights(network: "Network", ready: Ready) -> Weights:
    """The network's state dict, tuned where it was tuned."""
    own = {name.removeprefix("body."): t.detach().cpu().numpy() for name, t in network.body.state_dict().items()}
    return {name: np.asarray(own.get(name, array)) for name, array in ready.weights.items()}


def probabilities(tuned: Tuned, X: NDArray[np.float32]) -> Floats:
    """Calibrated probabilities (n, K) from the tuned network's features."""
    return softmax(tuned.head.logits(X) / tuned.trial.temperature)
