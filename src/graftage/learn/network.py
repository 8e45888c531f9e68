"""A pretrained body and a head as one module that learns: what moves, how fast, and what stays as it was."""

import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from graftage.errors import OptionError
from graftage.learn.defaults import Family, Recipe
from graftage.learn.head import Head

Arrays = dict[str, NDArray[np.generic]]

_NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm)
_SELF_SUPERVISED = re.compile(r"dino|\bmae\b|\.mae|beit|ijepa|_ssl|data2vec", re.IGNORECASE)


class Network(nn.Module):
    """Pictures or activations → logits.

    Args:
        body: (b, ...) → (b, D).
        head: a linear layer from D, or one with a hidden layer before it.
        unit: bring features to length 1 first, as `Head.transform` "unit" does.
    """

    def __init__(self, body: nn.Module, head: nn.Module, *, unit: bool) -> None:
        super().__init__()
        self.body, self.head, self.unit = body, head, unit

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (b, K)."""
        features = self.body(x)
        logits: torch.Tensor = self.head(functional.normalize(features, dim=1) if self.unit else features)
        return logits

    def to_head(self) -> Head:
        """The head as it is kept in the model file."""
        layers = [layer for layer in self.head.modules() if isinstance(layer, nn.Linear)]
        arrays = [(layer.weight.detach().cpu().numpy(), layer.bias.detach().cpu().numpy()) for layer in layers]
        return Head.linear("unit" if self.unit else "plain", *arrays[-1], hidden=arrays[0] if len(arrays) > 1 else None)


class Normalised(nn.Module):
    """uint8 squares (b, S, S, 3) → the body's features: normalisation inside, as in every engine."""

    def __init__(self, body: nn.Module, scale: NDArray[np.float32], shift: NDArray[np.float32]) -> None:
        super().__init__()
        self.body = body
        self.register_buffer("scale", torch.from_numpy(scale).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("shift", torch.from_numpy(shift).view(1, 3, 1, 1), persistent=False)

    scale: torch.Tensor
    shift: torch.Tensor

    def forward(self, squares: torch.Tensor) -> torch.Tensor:
        """Features (b, D)."""
        chw = squares.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.channels_last)  # (b, 3, S, S)
        features: torch.Tensor = self.body(chw * self.scale + self.shift)
        return features


def linear_head(start: Head) -> nn.Linear:
    """The fitted head on unit-length features, as the layer that fine-tuning begins with (LP-FT, Kumar et al. 2022)."""
    assert (start.transform, start.kernel) == ("unit", ""), "only a linear head on unit-length features can be a layer"
    layer = nn.Linear(start.features, start.n_classes)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(start.weights))
        layer.bias.copy_(torch.from_numpy(start.bias))
    return layer


def fresh_head(features: int, hidden: int, n_classes: int, *, seed: int) -> nn.Module:
    """A head that knows nothing; `hidden` 0 leaves the hidden layer out. Glorot's start, as Keras' Dense."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        widths = [features, hidden, n_classes] if hidden else [features, n_classes]
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            linear = nn.Linear(before, after)
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)
            layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1]) if hidden else layers[0]


def family_of(module: nn.Module, architecture: str) -> Family:
    """The kind of network, by its norms and by what its name says of its pretraining."""
    if any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in module.modules()):
        return "batchnorm"
    if any(isinstance(m, nn.LayerNorm | nn.GroupNorm) for m in module.modules()):
        return "selfsupervised" if _SELF_SUPERVISED.search(architecture) else "layernorm"
    return "plain"


def statistics_frozen(recipe: Recipe) -> bool:
    """Whether batch normalisation keeps its statistics."""
    return recipe.frozen_statistics or recipe.trainable != "all"


def set_training(network: nn.Module, recipe: Recipe) -> None:
    """Training mode, but batch normalisation keeps its statistics where the recipe says so."""
    network.train()
    if statistics_frozen(recipe):
        for module in network.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()


def follow_statistics(network: nn.Module, steps_per_epoch: int) -> None:
    """Lets running statistics of batch normalisation follow within a tenth of an epoch, ten steps where that is more.

    PyTorch's momentum 1 − max(1 − 10/s, 0.9) for s steps an epoch (Kornblith et al. 2019, appendix). Networks that come
    from TensorFlow have 0.01: after a short training their statistics would still be those of the beginning.
    """
    for _, layer in normalisations(network):
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            layer.momentum = 1 - max(1 - 10 / steps_per_epoch, 0.9)


def choose_trainable(body: nn.Module, recipe: Recipe, *, frozen: tuple[str, ...] = ()) -> None:
    """Sets which parameters of the body move, never those whose names begin with `frozen`; "lora" gets its adapters."""
    if recipe.trainable == "lora":
        add_adapters(body, recipe.lora_rank)
        return
    body.requires_grad_(recipe.trainable in ("tail", "all"))
    if recipe.trainable == "norm":
        for module in body.modules():
            if isinstance(module, _NORMS):
                module.requires_grad_(True)
        for name, parameter in body.named_parameters():
            if name.endswith("bias"):
                parameter.requires_grad_(True)
    for name, parameter in body.named_parameters():
        if name.startswith(frozen or ("\0",)):
            parameter.requires_grad_(False)


def add_adapters(body: nn.Module, rank: int) -> None:
    """Low-rank adapters (Hu et al. 2022) beside every dense and every ungrouped convolution of the body.

    Raises:
        OptionError: the peft library is not installed.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise OptionError("recipe lora needs the peft library: pip install 'graftage[lora]'") from error
    names = [
        name
        for name, m in body.named_modules()
        if isinstance(m, nn.Linear) or (isinstance(m, nn.Conv2d) and m.groups == 1)
    ]
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=names, lora_dropout=0.0)
    inject_adapter_in_model(config, body)


def merge_adapters(body: nn.Module) -> None:
    """Adds every adapter to the weights that it stands beside, and takes it away: the plain network is back."""
    for name, module in list(body.named_modules()):
        if hasattr(module, "base_layer") and hasattr(module, "merge"):
            merging: Any = module
            merging.merge()
            parent, _, leaf = name.rpartition(".")
            body.get_submodule(parent)._modules[leaf] = merging.base_layer


def groups(network: Network, recipe: Recipe, stages: tuple[str, ...]) -> list[dict[str, Any]]:
    """Parameter groups of the optimiser, each with its peak learning rate under "peak".

    Args:
        network: its parameters that require gradients are taken.
        recipe: rates, layer decay, weight decay.
        stages: name prefixes of the body's stages from first to last; each earlier stage has `layer_decay` less.
    """
    found: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            peak = recipe.head_lr if name.startswith("head.") else recipe.lr * _decay(name, recipe, stages)
            found.setdefault((peak, parameter.ndim > 1), []).append(parameter)
    return [
        {"params": members, "peak": peak, "lr": peak, "weight_decay": recipe.weight_decay if matrix else 0.0}
        for (peak, matrix), members in sorted(found.items(), key=lambda item: item[0])
    ]


def _decay(name: str, recipe: Recipe, stages: tuple[str, ...]) -> float:
    plain = name.removeprefix("body.").removeprefix("body.")
    after = next((len(stages) - 1 - i for i, stage in enumerate(stages) if plain.startswith(f"{stage}.")), len(stages))
    return float(recipe.layer_decay**after)


def optimiser(parameter_groups: list[dict[str, Any]], recipe: Recipe) -> torch.optim.Optimizer:
    """AdamW, Adam, or SGD with Nesterov's momentum."""
    if recipe.opt == "sgd":
        return torch.optim.SGD(
            parameter_groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=recipe.momentum > 0, foreach=False
        )
    kind = torch.optim.Adam if recipe.opt == "adam" else torch.optim.AdamW
    return kind(parameter_groups, lr=recipe.lr, foreach=False)


def to_arrays(module: nn.Module) -> Arrays:
    """The module's state dict as arrays of its own."""
    return {name: tensor.detach().cpu().numpy().copy() for name, tensor in module.state_dict().items()}


def load_arrays(module: nn.Module, arrays: Arrays) -> None:
    """The inverse of `to_arrays`."""
    module.load_state_dict({name: torch.from_numpy(np.array(array)) for name, array in arrays.items()})


def between(start: Arrays, end: Arrays, alpha: float) -> Arrays:
    """(1 − α) start + α end, tensor by tensor (WiSE-FT, Wortsman et al. 2022); α = 0 gives the very bits of `start`."""
    if alpha == 0:
        return dict(start)
    return {name: _mean(start[name], array, alpha) if array.dtype.kind == "f" else array for name, array in end.items()}


def _mean(start: NDArray[Any], end: NDArray[Any], alpha: float) -> NDArray[np.generic]:
    return np.asarray((1 - alpha) * start + alpha * end, dtype=end.dtype)


def normalisations(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The layers with running statistics."""
    for name, module in network.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            yield name, module
