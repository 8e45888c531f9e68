"""From the frozen head to a tuned network, where that pays: the plan, the trainings, and what is shipped.

Every recipe is trained on part of the pictures and judged on the rest (fold by fold where the whole set must be
predicted, else on one fold), then once more on all of them for the same number of epochs, if the budget allows. Nothing
here sees the test pictures.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from graftage import world
from graftage.data.catalog import Catalog
from graftage.data.decode import Limits
from graftage.errors import OptionError
from graftage.features.backbone import Backbone, Weights, build, random_weights, read_weights, with_flat_output
from graftage.features.engine import Forward, choose_device, has_bfloat16, open_forward
from graftage.learn import defaults
from graftage.learn.defaults import Family, Recipe
from graftage.learn.head import Head
from graftage.learn.search import Candidate, Searched, Trial, fit_head, judge
from graftage.learn.temperature import softmax
from graftage.progress import Journal
from graftage.settings import Settings
from graftage.states import States
from graftage.tracking import Tracker

if TYPE_CHECKING:
    from torch import nn

    from graftage.features.stages import Cut
    from graftage.features.views import Pictures, View
    from graftage.learn.network import Network
    from graftage.learn.tune import Batches, Epoch, Task, Training

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

ALPHAS = (0.25, 0.5, 0.75, 1.0)  # on the way from the head's weights, 0, to the tuned ones
_SAVE_SECONDS = 30.0
_FEW = 100  # pictures below which auto does not tune: what is gained could not be told from luck
_GOOD = 0.02  # held-out error of the head below which auto does not tune (methods: nothing left to gain)
_JUDGED_ON = 400  # pictures that should be held out to judge a recipe, by taking more folds
_HELD_AT_MOST = 400  # of one fold, where no more folds are to be had
_LEAST_EPOCHS = 2  # below which auto does not begin
_ENOUGH_EPOCHS = 8  # below which no time is spent on training once more on all pictures
_FULL_MINUTES = 20  # without a budget, auto tries the whole network where that takes no longer
_RESERVE = 12.0  # seconds kept for converting the tuned network, the test pictures and the report
_FLIPS_ASKED = 300  # pictures whose mirror images are looked at
_PILOT = 0.2  # share of the epochs that the pilot takes
_PILOT_FROM = 15  # epochs planned, from which a pilot costs less than it can save


@dataclass(frozen=True, eq=False)
class Ground:
    """What the trainings stand on.

    Attributes:
        settings, backbone, forward, journal: of the run.
        pictures: those that are learnt from, n of them.
        X: float32 (n, D) their frozen features; y: int64 (n,) their classes; held: int64 (n,) the fold of each.
        classes: K names.
        searched: the frozen heads.
        head: the trial of the head that would be shipped.
        fit: how the square is made.
        whole: whether held-out predictions of all pictures are needed, since there is no test set.
        started: when the run began, on `time.monotonic`.
    """

    settings: Settings
    backbone: Backbone
    forward: Forward
    journal: Journal
    pictures: "Pictures"
    X: NDArray[np.float32]
    y: Ints
    held: Ints
    classes: tuple[str, ...]
    searched: Searched
    head: Trial
    fit: str
    whole: bool
    started: float


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
    """

    backbone: Backbone
    weights: Weights
    head: Head
    trial: Trial
    logits: NDArray[np.float32] | None
    others: tuple[Trial, ...]


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


def ground_pictures(catalog: Catalog, rows: Ints, backbone: Backbone, fit: Any, settings: Settings) -> "Pictures":
    """The pictures that are learnt from, to be read again and again."""
    from graftage.features.views import Pictures

    entries = [catalog.entries[i] for i in rows]
    return Pictures(
        tuple(e.path for e in entries),
        tuple(e.digest for e in entries),
        backbone.preprocess.with_fit(fit),
        Limits(max_bytes=settings.max_bytes, max_pixels=settings.max_pixels),
        settings.repair,
    )


def adapt(ground: Ground, states: States) -> Adapted:
    """Carries out the recipe asked for, and says why it ships what it ships."""
    name = ground.settings.recipe
    if name == "linear":
        return Adapted("linear", "the head alone was asked for", None, {})
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


# ---------------------------------------------------------------- the plan


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
        return f"plan: {self.recipe}: {', '.join(parts)}; about {_time(self.seconds)}"


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
    for folds, refit, enough in ((wanted, True, _ENOUGH_EPOCHS), (1, True, _ENOUGH_EPOCHS), (1, False, least)):
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


def _time(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 100
        else f"{seconds / 60:.0f} min"
        if seconds < 6000
        else f"{seconds / 3600:.1f} h"
    )


# ---------------------------------------------------------------- carrying it out


@dataclass(frozen=True, eq=False)
class Ready:
    """One recipe, ready to train.

    Attributes:
        recipe: complete.
        backbone: with the output that its head wants.
        weights: that the network starts from.
        body: makes the module that is trained, as it starts.
        stages: of that module, for the layer decay.
        frozen: name prefixes in that module that do not move.
        cut: where the frozen part ends, if it is run beforehand.
        forward: the engine of that part.
        family: of the network.
    """

    recipe: Recipe
    backbone: Backbone
    weights: Weights
    body: "Callable[[], nn.Module]"
    stages: tuple[str, ...]
    frozen: tuple[str, ...]
    cut: "Cut | None"
    forward: Forward | None
    family: Family = "plain"

    @property
    def tensor_shape(self) -> tuple[int, ...]:
        """Of one picture's input."""
        size = self.backbone.preprocess.size
        if self.cut:
            return self.cut.shape
        return (self.backbone.info.features,) if self.forward else (size, size, 3)


def overridden(recipe: Recipe, settings: Settings) -> Recipe:
    """The recipe with every hyperparameter that the user named."""
    names = {"model_ema_decay": "ema"}
    fields = (
        *("epochs", "batch_size", "opt", "lr", "head_lr", "weight_decay", "momentum", "layer_decay", "warmup"),
        *("clip_grad", "smoothing", "mixup", "cutmix", "drop_path", "model_ema_decay", "patience", "aa", "crop_scale"),
        *("hflip", "vflip", "reprob", "views", "tail_share", "lora_rank", "balance"),
    )
    given = {names.get(f, f): getattr(settings, f) for f in fields if getattr(settings, f) not in (None, "")}
    if settings.bn:
        given["frozen_statistics"] = settings.bn == "frozen"
    if recipe.trainable not in ("tail", "head"):
        given.pop("views", None)
    return replace(recipe, **given)


def _carry_out(ground: Ground, states: States) -> Adapted:
    settings, journal = ground.settings, ground.journal
    facts = {"settings": _facts(settings), "pictures": list(ground.pictures.digests)}
    kept = world.agreed(states.begin(facts, resume=settings.resume) if not world.rank() else None)
    with journal.stage("prepare tuning"):
        ground = _without_harmful_flips(ground)
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
    judged = [found for each in plans if (found := _judge(ground, ready[each.recipe], each, states)) is not None]
    story["epochs"] = [vars(record) for found in judged for record in found.records]
    if not judged:
        return _head_ships(ground, "a pilot on one fold was no better than the head", story)
    best = min(judged, key=lambda found: found.trial.log_loss)
    reason = _verdict(ground, best)
    story |= {"tuned": best.numbers(ground), "hyperparameters": vars(best.ready.recipe)}
    if settings.recipe == "auto" and not best.better(ground):
        return _head_ships(ground, reason, story)
    journal.row(f"ships: {best.plan.recipe}, {reason}")
    tuned = _finish(ground, best, states)
    story |= {"epochs": [*story["epochs"], *[vars(r) for r in tuned[1]]]}
    return Adapted(best.plan.recipe, reason, tuned[0], {**story, "shipped": best.plan.recipe, "reason": reason})


def _without_harmful_flips(ground: Ground) -> Ground:
    """Left-right flips switched off where they turn one class into another, unless the user has decided."""
    if ground.settings.hflip is not None:
        return ground
    from graftage.learn.augment import flips_change_label

    train, rows = parts(ground.y, ground.held, 0, at_most=_FLIPS_ASKED, seed=ground.settings.seed)
    head, pictures = start_head(ground, train), ground.pictures

    def mirrored(row: int) -> NDArray[np.float32]:
        square = np.ascontiguousarray(pictures.preprocess.square(pictures.pixels(row))[:, ::-1])
        (features,) = ground.forward(square[None])
        own: NDArray[np.float32] = features
        return own

    with ThreadPoolExecutor(_threads()) as pool:
        flipped = np.stack(list(pool.map(mirrored, rows.tolist())))
    p, q = softmax(head.logits(ground.X[rows])), softmax(head.logits(flipped))
    reason = flips_change_label(p, q, ground.y[rows], ground.classes)
    if not reason:
        return ground
    ground.journal.note(f"no left-right flips in training: {reason}; --hflip 0.5 brings them back")
    return replace(ground, settings=replace(ground.settings, hflip=0.0))


def _facts(settings: Settings) -> dict[str, object]:
    """The settings that a state belongs to: all that shape the result."""
    free = ("output", "resume", "overwrite", "workers", "track", "max_bytes", "max_pixels")
    return {name: value for name, value in vars(settings).items() if name not in free}


def prepare(ground: Ground, name: str) -> Ready:
    """The network of a recipe, taken apart where part of it is frozen."""
    from graftage.features.stages import stage_names
    from graftage.learn.network import Normalised, family_of

    info, size = ground.backbone.info, ground.backbone.preprocess.size
    if name == "classic":
        return _classic(ground)
    start = random_weights(info.architecture, seed=ground.settings.seed) if name == "scratch" else None
    weights = read_weights(ground.backbone) if start is None else start
    module = build(info.architecture, weights)
    family = family_of(module, info.architecture)
    balanced = ground.settings.metric != "accuracy"
    recipe = overridden(defaults.recipe(name, family=family, n=len(ground.y), balanced=balanced), ground.settings)
    if name == "tail":
        return replace(_tail(ground, recipe, module, weights), family=family)

    def body() -> "nn.Module":
        own = build(info.architecture, weights)
        _set_drop_path(own, recipe.drop_path)
        return Normalised(own.requires_grad_(True), *ground.backbone.preprocess.scale_and_shift())

    return Ready(recipe, ground.backbone, weights, body, stage_names(module, size), (), None, None, family)


def _tail(ground: Ground, recipe: Recipe, module: "nn.Module", weights: Weights) -> Ready:
    from graftage.features.stages import (
        Uncut,
        after_cut,
        check_cut,
        choose_cut,
        stage_cuts,
        stage_names,
        units_before,
    )
    from graftage.learn.network import Normalised

    size, info = ground.backbone.preprocess.size, ground.backbone.info
    cuts = stage_cuts(module, size)
    if not cuts:
        raise OptionError(f"{info.architecture} has no stages, so it has no tail; take --recipe full, norm or linear")
    cut = choose_cut(cuts, recipe.tail_share)
    stages = stage_names(module, size)
    try:
        if not recipe.views:
            raise Uncut("fresh views were asked for")
        check_cut(module, cut, size)
    except Uncut as reason:
        ground.journal.note(f"the frozen part runs anew in every epoch: {reason}")
        before = tuple(f"body.{prefix}" for prefix in units_before(module, size, cut))

        def whole() -> "nn.Module":
            own = build(info.architecture, weights)
            return Normalised(own.requires_grad_(True), *ground.backbone.preprocess.scale_and_shift())

        return Ready(replace(recipe, views=0), ground.backbone, weights, whole, stages, before, None, None)
    device = choose_device(ground.settings.device)
    forward = open_forward(ground.backbone, ground.backbone.preprocess, device=device, precision="float32", cut=cut)

    def tail() -> "nn.Module":
        return after_cut(build(info.architecture, weights), cut)

    return Ready(recipe, ground.backbone, weights, tail, stages, (), cut, forward)


def _classic(ground: Ground) -> Ready:
    """The whole network frozen up to its last map; only a head with a hidden layer learns."""
    from torch import nn

    backbone, weights = with_flat_output(ground.backbone)
    recipe = overridden(defaults.recipe("classic", family="plain", n=len(ground.y)), ground.settings)
    device = choose_device(ground.settings.device)
    forward = open_forward(backbone, backbone.preprocess, device=device, precision="float32", weights=weights)
    return Ready(recipe, backbone, weights, nn.Identity, (), (), None, forward)


def _set_drop_path(module: "nn.Module", rate: float) -> None:
    """Stochastic depth rising from 0 to `rate` over the network's depth, where it has any (Huang et al. 2016)."""
    from timm.layers.drop import DropPath

    for name, parent in module.named_modules():
        for child in ("drop_path", "drop_path1", "drop_path2"):
            if rate and name and child in parent._modules and not isinstance(parent._modules[child], DropPath):
                parent._modules[child] = DropPath(0.0)
    drops = [m for m in module.modules() if isinstance(m, DropPath)]
    for i, drop in enumerate(drops):
        drop.drop_prob = rate * i / max(1, len(drops) - 1)


# ---------------------------------------------------------------- the plans of a run


def _plans(ground: Ground, first: Ready) -> list[Plan]:
    """What the time is for: the recipe asked for; with auto the tail, and the whole network where affordable."""
    auto, left = ground.settings.recipe == "auto", _left(ground)
    cost = _cost(ground, first) if auto or left is not None else Cost(0, 0, 0)
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
    found = _plan(ground, ready.recipe, _cost(ground, ready), left and 0.5 * left, ready.recipe.epochs)
    return found if found and (left is not None or found.seconds <= 60 * _FULL_MINUTES) else None


def _left(ground: Ground) -> float | None:
    seconds = ground.settings.seconds()
    if seconds is None:
        return None
    return seconds - (time.monotonic() - ground.started) - _RESERVE


def _cost(ground: Ground, ready: Ready) -> Cost:
    """What a recipe takes here, by a few seconds of it."""
    from graftage.learn.augment import augmented

    view = 0.0
    if ready.forward is not None:
        pixels, rng = ground.pictures.pixels(0), np.random.default_rng(0)
        start = time.perf_counter()
        for _ in range(4):
            ready.forward(augmented(pixels, ground.pictures.preprocess, _augment(ready.recipe), rng)[None])
        view = (time.perf_counter() - start) / 4 / (1 if ready.forward.batch > 1 else _threads())
    return Cost(5.0, view, 1.1 * _step_seconds(ground, ready))


def _threads() -> int:
    from graftage.features.engine import cores

    return cores()


def _step_seconds(ground: Ground, ready: Ready) -> float:
    """Seconds per picture of a training step, by two steps after a first one, on made-up inputs."""
    from graftage.learn.faster import steady_memory
    from graftage.learn.tune import Training

    batch = min(32, ready.recipe.batch_size, len(ground.y))
    task = _task(ground, ready, _Zeros(ready), np.arange(batch), np.arange(0), "cost")
    training = Training(replace(task, recipe=replace(task.recipe, epochs=10_000), world=_alone()))
    steps = training.run()
    with steady_memory():
        next(steps)
        start = time.perf_counter()
        next(steps)
        next(steps)
        seconds = time.perf_counter() - start
    decode = 0.0
    if ready.forward is None:
        begin = time.perf_counter()
        ground.pictures.preprocess.square(ground.pictures.pixels(0))
        decode = (time.perf_counter() - begin) / _threads()
    return seconds / (2 * batch) + decode


def _alone() -> Any:
    from graftage.learn.tune import World

    return World()


class _Zeros:
    """Inputs for timing."""

    def __init__(self, ready: Ready) -> None:
        self._shape, self._kept = ready.tensor_shape, ready.forward is not None

    def training(self, rows: Ints, _: int) -> Any:
        import torch

        zeros = torch.zeros(len(rows), *self._shape, dtype=torch.float32 if self._kept else torch.uint8)
        return zeros.contiguous(memory_format=torch.channels_last) if self._kept and zeros.ndim == 4 else zeros

    def plain(self, rows: Ints) -> Any:
        return self.training(rows, 0)

    def expect(self, _: Ints, __: int) -> None:
        return


# ---------------------------------------------------------------- one recipe judged


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


def _verdict(ground: Ground, judged: Judged) -> str:
    f = judged.numbers(ground)
    change = 100 * (f["accuracy"] - f["head_accuracy"])
    gain = f["gain_in_standard_errors"]
    return (
        f"on {f['held_out']:,} held-out training pictures its log-loss is {f['log_loss']:.3f} against "
        f"{f['head_log_loss']:.3f} of the head ({gain:+.1f} standard errors) and its accuracy {change:+.1f} points "
        f"({f['accuracy_gain_in_standard_errors']:+.1f})"
    )


def _judge(ground: Ground, ready: Ready, plan: Plan, states: States) -> Judged | None:
    """Trains fold by fold; None where the pilot said no."""
    ready = replace(ready, recipe=replace(ready.recipe, epochs=plan.epochs, views=plan.views))
    with _inputs(ground, ready) as batches:
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


def parts(y: Ints, held: Ints, fold: int, *, at_most: int | None, seed: int) -> tuple[Ints, Ints]:
    """Rows learnt from and rows held out; classes that would not be learnt from are, and are not held out."""
    inside = held == fold
    lost = np.setdiff1d(y[inside], y[~inside])
    inside &= ~np.isin(y, lost)
    rows = np.flatnonzero(inside)
    if at_most is not None and len(rows) > at_most:
        rows = np.sort(np.random.default_rng([seed, 6]).permutation(rows)[:at_most])
    rest = np.setdiff1d(np.arange(len(y)), rows)
    return rest, rows


def _fold(ground: Ground, ready: Ready, batches: "Batches", fold: int, states: States) -> Fold:
    at_most = None if ground.whole else _HELD_AT_MOST
    train, rows = parts(ground.y, ground.held, fold, at_most=at_most, seed=ground.settings.seed)
    name = f"{ready.recipe.name}, fold {fold + 1}"
    task = _task(ground, ready, batches, train, rows, name)
    start, training = _train(ground, task, name, states)
    end = training.best[2] if training.best else training.weights()
    best = training.best[1] if training.best else training.epoch
    alphas = ALPHAS if ground.settings.recipe == "auto" else (1.0,)
    logits = {alpha: _logits_between(training, start, end, alpha, rows) for alpha in alphas}
    return Fold(rows, logits, best, tuple(training.records), (start, end))


def _pilot(ground: Ground, ready: Ready, batches: "Batches", plan: Plan, states: States) -> bool:
    """Whether a short training on one fold, somewhere on the way to its weights, is no worse than the head."""
    train, rows = parts(ground.y, ground.held, 0, at_most=_HELD_AT_MOST, seed=ground.settings.seed)
    short = replace(ready, recipe=replace(ready.recipe, epochs=plan.pilot))
    name = f"{ready.recipe.name}, pilot"
    start, training = _train(ground, _task(ground, short, batches, train, rows, name), name, states)
    end = training.weights()
    found = [_trial(ground, a, _logits_between(training, start, end, a, rows), rows) for a in ALPHAS]
    gap = min(found, key=lambda t: t.log_loss).losses.astype(np.float64) - ground.head.losses[rows]
    return bool(gap.mean() <= gap.std(ddof=1) / np.sqrt(len(gap)))


def _logits_between(training: "Training", start: Any, end: Any, alpha: float, rows: Ints) -> Floats:
    from graftage.learn.network import between, load_arrays

    load_arrays(training.network, between(start, end, alpha))
    training.average = []  # `end` is the average already
    return training.logits(rows)


def _finish(ground: Ground, judged: Judged, states: States) -> tuple[Tuned, tuple["Epoch", ...]]:
    """The network that ships: trained on all pictures, or, where the time was too short, that of the fold."""
    from graftage.learn.network import between

    ready = judged.ready
    records: tuple[Epoch, ...] = ()
    start, end = judged.first
    if judged.plan.refit:
        name = f"{ready.recipe.name}, all pictures"
        with _inputs(ground, ready) as batches:
            rows = np.arange(len(ground.y))
            task = _task(ground, ready, batches, rows, rows[:0], name)
            start, training = _train(ground, replace(task, stop_after=judged.epochs), name, states)
            end, records = training.weights(), tuple(training.records)
    network = _network(ground, ready, None)
    _load(network, between(start, end, judged.alpha), ready)
    weights = _whole_weights(network, ready)
    logits = judged.logits.astype(np.float32) if len(judged.rows) == len(ground.y) else None
    others = judged.others if logits is not None else ()
    return Tuned(ready.backbone, weights, network.to_head(), judged.trial, logits, others), records


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


# ---------------------------------------------------------------- one training


def _augment(recipe: Recipe) -> Any:
    from graftage.learn.augment import KINDS, Augment

    kind = next(kind for kind in KINDS if kind == recipe.aa)
    scale = (recipe.crop_scale, 1.0)
    return Augment(kind, scale=scale, hflip=recipe.hflip, vflip=recipe.vflip, erase=recipe.reprob)


def _view(ground: Ground, ready: Ready) -> "View":
    from graftage.learn.augment import augmented

    augment, preprocess, seed = _augment(ready.recipe), ground.pictures.preprocess, ground.settings.seed

    def view(pixels: NDArray[np.uint8], row: int, number: int) -> NDArray[np.uint8]:
        return augmented(pixels, preprocess, augment, np.random.default_rng([seed, 3, number, row]))

    return view


@contextmanager
def _inputs(ground: Ground, ready: Ready) -> "Iterator[Batches]":
    from graftage.features.inputs import PictureInputs, ViewInputs
    from graftage.features.views import keep_views

    view = _view(ground, ready)
    if ready.forward is None:
        fresh = PictureInputs(ground.pictures, view)
        try:
            yield fresh
        finally:
            fresh.close()
        return
    with ground.journal.stage("frozen part"):
        kept = keep_views(
            ground.pictures,
            view,
            forward=ready.forward,
            views=ready.recipe.views,
            key=f"{_augment(ready.recipe)} {ground.settings.seed}",
            share=(world.rank(), world.size()),
            progress=ground.journal.watcher.progress,
        )
        world.together()
    yield ViewInputs(kept, ready.tensor_shape, seed=ground.settings.seed)


def _network(ground: Ground, ready: Ready, train: Ints | None) -> "Network":
    """The network as it starts: with the head fitted to the rows it learns from, or a fresh one."""
    from graftage.learn.network import Network, fresh_head, linear_head

    recipe, seed = ready.recipe, ground.settings.seed
    if recipe.hidden or not recipe.pretrained or train is None:
        width = ready.backbone.info.features
        head = fresh_head(width, recipe.hidden, len(ground.classes), seed=seed)
        return Network(ready.body(), head, unit=not recipe.hidden)
    return Network(ready.body(), linear_head(start_head(ground, train)), unit=True)


def start_head(ground: Ground, train: Ints) -> Head:
    """The best linear head on unit-length features, fitted to the rows `train`, its temperature folded in."""
    linear = [t for t in ground.searched.trials if _is_layer(t.candidate)]
    trial = min(linear, key=lambda t: t.log_loss)
    head = fit_head(ground.X[train], ground.y[train], trial.candidate, seed=ground.settings.seed)
    return replace(head, weights=head.weights / trial.temperature, bias=head.bias / trial.temperature)


def _is_layer(candidate: Candidate) -> bool:
    return candidate.family in ("ridge", "logistic") and candidate.transform == "unit"


def training_device(settings: Settings) -> str:
    """ "cuda" or "mps" where there is one and it is not ruled out, else "cpu"."""
    import torch

    if settings.device in ("auto", "mps") and torch.backends.mps.is_available():
        return "mps"
    if settings.device == "mps":
        raise OptionError("device mps: PyTorch sees no Apple GPU here; use --device cpu or auto")
    return choose_device(settings.device)


def precision_on(device: str, wanted: str) -> str:
    """Mixed precision: "auto" takes bfloat16 where the hardware has it, on older CUDA devices float16."""
    if wanted != "auto":
        return wanted
    if device == "cuda":
        import torch

        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
    return "bfloat16" if device == "cpu" and has_bfloat16() else "none"


def _task(ground: Ground, ready: Ready, batches: Any, train: Ints, held: Ints, name: str) -> "Task":
    from graftage.learn.tune import Task, World

    device = training_device(ground.settings)
    return Task(
        network=_network(ground, ready, train if name != "cost" else None),
        batches=batches,
        y=ground.y,
        n_classes=len(ground.classes),
        train=train,
        held=held,
        recipe=ready.recipe,
        stages=ready.stages,
        seed=ground.settings.seed,
        device=device,
        amp=precision_on(device, ground.settings.amp),
        world=World(world.rank(), world.size()),
        compiled=ground.settings.torchcompile and name != "cost",
        frozen=ready.frozen,
    )


def _train(ground: Ground, task: "Task", name: str, states: States) -> "tuple[Any, Training]":
    """Trains a task to its end, going on from what is kept of it; returns the weights it began with, and itself."""
    from graftage.learn.faster import steady_memory
    from graftage.learn.tune import Training

    training = Training(task)
    start = world.agreed(training.weights())
    if world.size() > 1:
        from graftage.learn.network import load_arrays

        load_arrays(training.network, start)
    key = name.replace(", ", "-").replace(" ", "-")
    kept = states.load(key)
    if kept is not None:
        training.restore(kept)
        ground.journal.row(f"{name}: goes on in epoch {training.epoch + 1}, step {training.step}")
    saved = [time.monotonic()]

    def after_step(now: "Training") -> None:
        ground.journal.watcher.progress(now.epoch * now.steps_per_epoch + now.step, now.last * now.steps_per_epoch)
        if time.monotonic() - saved[0] > _SAVE_SECONDS:
            states.save(key, now.state(), done=False)
            saved[0] = time.monotonic()

    tracked = Tracker.of(ground.settings.track, name, vars(task.recipe))
    with ground.journal.stage(name), steady_memory(), tracked as tracker:
        for record in training.run(after_step):
            ground.journal.row(epoch_line(name, record), **vars(record))
            tracker.log(record)
    states.save(key, training.state(), done=True)
    return start, training


def epoch_line(name: str, record: "Epoch") -> str:
    """One row of the table that grows on the terminal."""
    held = ""
    if record.log_loss is not None and record.accuracy is not None:
        held = f"  held out: log-loss {record.log_loss:.4f}, accuracy {100 * record.accuracy:5.1f} %"
    speed = f"{record.seconds:6.1f} s, {record.pictures_per_second:.0f}/s"
    return f"{name:<20} epoch {record.number:>3}/{record.of:<3} loss {record.train_loss:.4f}{held}  {speed}"


def probabilities(tuned: Tuned, X: NDArray[np.float32]) -> Floats:
    """Calibrated probabilities (n, K) from the tuned network's features."""
    return softmax(tuned.head.logits(X) / tuned.trial.temperature)
