"""A recipe made ready: its hyperparameters, and the network taken apart where a part of it is frozen."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from graftage.errors import OptionError
from graftage.features.building import build, random_weights
from graftage.features.engine import Forward, choose_device, open_forward
from graftage.features.facts import Backbone, Weights
from graftage.features.weights import read_weights, with_flat_output
from graftage.ground import Ground
from graftage.learn import defaults
from graftage.learn.defaults import Family, Recipe
from graftage.settings import Settings

if TYPE_CHECKING:
    from torch import nn

    from graftage.features.stages import Cut

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


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


def prepare(ground: Ground, name: str) -> Ready:
    """The network of a recipe, taken apart where part of it is frozen."""
    from graftage.features.stages import stage_names
    from graftage.learn.network import Normalised, family_of

    info, size = ground.backbone.info, ground.backbone.preprocess.size
    if name == "classic":
        return _classic(ground)
    start = random_weights(info.architecture, seed=ground.settings.seed, size=size) if name == "scratch" else None
    weights = read_weights(ground.backbone) if start is None else start
    module = build(info.architecture, weights, size=size)
    family = family_of(module, info.architecture)
    balanced = ground.settings.metric != "accuracy"
    recipe = overridden(defaults.recipe(name, family=family, n=len(ground.y), balanced=balanced), ground.settings)
    if name == "tail":
        return replace(_tail(ground, recipe, module, weights), family=family)

    def body() -> "nn.Module":
        own = build(info.architecture, weights, size=size)
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
            own = build(info.architecture, weights, size=size)
            return Normalised(own.requires_grad_(True), *ground.backbone.preprocess.scale_and_shift())

        return Ready(replace(recipe, views=0), ground.backbone, weights, whole, stages, before, None, None)
    device = choose_device(ground.settings.device)
    forward = open_forward(ground.backbone, ground.backbone.preprocess, device=device, precision="float32", cut=cut)

    def tail() -> "nn.Module":
        return after_cut(build(info.architecture, weights, size=size), cut)

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
