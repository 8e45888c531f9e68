"""Where a network can be cut in two, so that what is frozen runs once and only what is tuned runs again.

A timm network is a chain of units (stem, blocks, pooling). Cut before one of them, the first part gives an activation
per picture, the second turns it into features. Whether a cut is true is not assumed: both parts are run on made-up
pictures, and the cut is refused unless they give what the whole network gives.
"""

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

_CHAINS = (nn.Sequential, nn.ModuleList)
_AGREEMENT = 1e-4  # largest relative difference between the parts in turn and the whole


class Uncut(Exception):
    """A network that cannot be cut here: its units do not form a simple chain."""


@dataclass(frozen=True)
class Cut:
    """A place to cut.

    Attributes:
        unit: name of the first unit after the cut.
        shape: of one picture's activation there, without the batch axis.
        share: of the network's multiplications that lie after the cut, 0 to 1.
    """

    unit: str
    shape: tuple[int, ...]
    share: float

    @property
    def width(self) -> int:
        """Numbers per picture."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Unit:
    """A link of the chain: its name, the shape of one picture's input (empty if it is no single tensor), its cost."""

    name: str
    shape: tuple[int, ...]
    multiplications: int


def units(module: nn.Module, size: int) -> tuple[Unit, ...]:
    """The links of the chain up to the last map, in the order in which they run.

    Args:
        module: timm network without classifier, in evaluation mode.
        size: side of its square input, pixels.
    """
    found: dict[str, tuple[int, ...]] = {}
    cost: dict[str, int] = {}
    names = dict(_links(module))
    handles = [link.register_forward_pre_hook(_shapes_into(found, name)) for name, link in names.items()]
    handles += [
        leaf.register_forward_hook(_cost_into(cost, name)) for name, link in names.items() for leaf in link.modules()
    ]
    try:
        with torch.no_grad():
            _features_of(module)(torch.zeros(2, 3, size, size))
    finally:
        for handle in handles:
            handle.remove()
    return tuple(Unit(name, shape, cost.get(name, 0)) for name, shape in found.items())


def stage_cuts(module: nn.Module, size: int) -> tuple[Cut, ...]:
    """The cuts at the beginning of a stage or block, from the first to the last."""
    chain = units(module, size)
    total = max(1, sum(unit.multiplications for unit in chain))
    cuts, left, before = [], float(total), ""
    for unit in chain:
        stage = _stage(unit.name)
        if stage != before and before and unit.shape:
            cuts.append(Cut(unit.name, unit.shape, left / total))
        left -= unit.multiplications
        before = stage
    return tuple(cuts)


def stage_names(module: nn.Module, size: int) -> tuple[str, ...]:
    """Name prefixes of the stages, from the first to the last."""
    return tuple(dict.fromkeys(_stage(unit.name) for unit in units(module, size)))


def units_before(module: nn.Module, size: int, cut: Cut) -> tuple[str, ...]:
    """Name prefixes of all that lies before a cut."""
    names = [unit.name for unit in units(module, size)]
    return tuple(f"{name}." for name in names[: names.index(cut.unit)])


def _stage(unit: str) -> str:
    return ".".join(unit.split(".")[:2])


def choose_cut(cuts: tuple[Cut, ...], share: float) -> Cut:
    """The cut whose share after it is nearest to `share`."""
    if not cuts:
        raise Uncut("it has no stages")
    return min(cuts, key=lambda cut: abs(cut.share - share))


def flat_map(module: nn.Module, size: int) -> tuple[int, ...]:
    """Shape of one picture's last map or tokens."""
    with torch.no_grad():
        return tuple(_features_of(module)(torch.zeros(1, 3, size, size)).shape[1:])


def flattened(module: nn.Module, size: int) -> nn.Module:
    """The network up to its last map, flattened: (n, 3, S, S) → (n, D). What lies behind the map is dropped."""
    chain = {unit.name for unit in units(module, size)}
    for name, link in list(_links(module)):
        if name not in chain and any(True for _ in link.parameters()):
            _replace(module, name)
    return _Flattened(module)


class _Flattened(nn.Module):
    """The parts keep the names that they have in the whole."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        for name, child in body.named_children():
            self.add_module(name, child)
        for name, parameter in body.named_parameters(recurse=False):
            self.register_parameter(name, parameter)
        object.__setattr__(self, "_body", body)  # no submodule: its parts are here already

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        body: Any = self._body
        out: torch.Tensor = body.forward_features(x).flatten(1)
        return out

    _body: nn.Module


def before_cut(module: nn.Module, cut: Cut) -> nn.Module:
    """The frozen part: (n, 3, S, S) → (n, width), flattened."""
    part = copy.deepcopy(module)
    chain = [name for name, _ in _links(part)]
    for name in chain[_position(chain, cut) :]:
        _replace(part, name)
    return _Flattened(part).eval().requires_grad_(False)


def after_cut(module: nn.Module, cut: Cut) -> nn.Module:
    """The other part: (n, *shape) → (n, D). Its parameters keep the names that they have in the whole."""
    part: Any = copy.deepcopy(module)
    chain = [name for name, _ in _links(part)]
    for name in chain[: _position(chain, cut)]:
        _replace(part, name)
    if hasattr(part, "_pos_embed"):  # a method of timm's vision transformers, between two links
        part._pos_embed = _same
    whole: nn.Module = part
    return whole


def check_cut(module: nn.Module, cut: Cut, size: int) -> None:
    """Raises Uncut unless the two parts, one after the other, give what the whole gives."""
    generator = torch.Generator().manual_seed(20)
    x = torch.rand(2, 3, size, size, generator=generator)
    try:
        with torch.no_grad():
            wanted = module(x)
            found = after_cut(module, cut).eval()(before_cut(module, cut)(x).reshape(2, *cut.shape))
    except (RuntimeError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise Uncut(f"cut before {cut.unit}, its parts do not run ({type(error).__name__})") from error
    gap = float((found - wanted).norm() / wanted.norm().clamp_min(1e-12)) if found.shape == wanted.shape else math.inf
    if not gap <= _AGREEMENT:
        raise Uncut(f"cut before {cut.unit}, its parts do not give what the whole gives")


def _links(module: nn.Module, above: str = "") -> Iterator[tuple[str, nn.Module]]:
    for name, child in module.named_children():
        if isinstance(child, _CHAINS) and len(child):
            yield from _links(child, f"{above}{name}.")
        else:
            yield f"{above}{name}", child


def _position(chain: list[str], cut: Cut) -> int:
    if cut.unit not in chain:
        raise Uncut(f"it has no unit {cut.unit}")
    return chain.index(cut.unit)


def _replace(module: nn.Module, name: str) -> None:
    parent, _, leaf = name.rpartition(".")
    module.get_submodule(parent)._modules[leaf] = nn.Identity()


def _features_of(module: nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    found: Callable[[torch.Tensor], torch.Tensor] = getattr(module, "forward_features", module)
    return found


def _shapes_into(found: dict[str, tuple[int, ...]], name: str) -> Callable[[nn.Module, Any], None]:
    def note(_: nn.Module, inputs: Any) -> None:
        single = len(inputs) == 1 and isinstance(inputs[0], torch.Tensor) and name not in found
        found[name] = tuple(inputs[0].shape[1:]) if single else ()

    return note


def _cost_into(cost: dict[str, int], name: str) -> Callable[[nn.Module, Any, Any], None]:
    def note(leaf: nn.Module, _: Any, output: Any) -> None:
        if isinstance(leaf, nn.Conv2d | nn.Linear) and isinstance(output, torch.Tensor):
            cost[name] = cost.get(name, 0) + output.numel() * leaf.weight[0].numel()

    return note


def _same(x: torch.Tensor) -> torch.Tensor:
    return x
