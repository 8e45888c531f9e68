"""Where a network still knows one part of a picture from another, and what makes features of that (C).

A seam parts a network in two: up to a map (or tokens) whose cells each belong to a place in the picture, and from there
to the features. It lies as late as can be, where cells mean most. Where single cells of the last map do not reach the
answer, as in a transformer that answers from its class token alone, it lies in the middle: later, the class token has
taken in most of the picture. Whether a seam is true is not assumed: both parts are run, and it is passed over unless
they give what the whole gives.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from graftage.features.building import build
from graftage.features.facts import BackboneInfo
from graftage.features.keras_itself import is_keras
from graftage.features.stages import Cut, Uncut, after_cut, choose_cut, stage_cuts
from graftage.features.variants import is_varied

Layout = Literal["channels first", "channels last", "tokens"]
Part = Callable[[torch.Tensor], torch.Tensor]

_AGREEMENT = 1e-4  # largest relative difference between the parts in turn and the whole
_LEAST_SIDE = 2  # cells: a coarser map tells nothing of where
_MIDDLE = 0.5  # of a transformer's multiplications: a share of 0.1 was the class token's there, 0.6 at the last block
_REACHING = 0.5  # share of the cells that must reach the features


@dataclass(frozen=True, eq=False)
class Seam:
    """A network in two parts.

    Attributes:
        before: normalised squares (b, 3, S, S) → activations (b, *shape).
        after: activations → features (b, D); differentiable.
        layout: where in `shape` the cells are.
        side: the map has side × side cells.
        prefix: tokens before those that belong to places.
        name: what lies at the seam, for a person.
    """

    before: Part
    after: Part
    layout: Layout
    side: int
    prefix: int
    name: str

    def cells(self, values: torch.Tensor) -> torch.Tensor:
        """Values on the activations (b, *shape), summed over channels and laid out in place: (b, side, side)."""
        if self.layout == "channels first":
            return values.sum(1)
        summed = values.sum(-1)
        return summed if self.layout == "channels last" else summed[:, self.prefix :].reshape(-1, self.side, self.side)


def find_seam(info: BackboneInfo, weights: Mapping[str, NDArray[np.generic]], size: int) -> Seam | None:
    """The latest seam of a network, or None where it has none that is true.

    Args:
        info: its architecture and output.
        weights: by the names of its module.
        size: side of the squares, pixels.

    Raises:
        BackboneError: the network cannot be built, or the weights do not fit it.
    """
    if is_keras(info.architecture):
        return _keras_seam(info, weights, size)
    if is_varied(info.architecture, info.output):
        return None  # no single map holds all that the features are made of
    body = build(info.architecture, weights, output=info.output, size=size)
    for before, after, name in _candidates(body, info, size):
        if (seam := _tried(body, before, after, name, size)) is not None:
            return seam
    return None


def _keras_seam(info: BackboneInfo, weights: Mapping[str, NDArray[np.generic]], size: int) -> Seam | None:
    """Keras' classifiers without their top end in a map (n, H, W, C), of which the features are the mean or all."""
    network = build(info.architecture, weights, output="flat")
    with torch.no_grad():
        width = network(torch.zeros(1, 3, size, size)).shape[1]
        channels = build(info.architecture, weights, output="pooled")(torch.zeros(1, 3, size, size)).shape[1]
    side = math.isqrt(width // channels)
    if side < _LEAST_SIDE or side * side * channels != width:
        return None
    flat = info.output == "flat"
    return Seam(
        before=lambda x: network(x).reshape(len(x), side, side, channels),
        after=lambda a: a.flatten(1) if flat else a.mean((1, 2)),
        layout="channels last",
        side=side,
        prefix=0,
        name="the last map",
    )


def _candidates(body: nn.Module, info: BackboneInfo, size: int) -> Iterator[tuple[Part, Part, str]]:
    network: Any = getattr(body, "_body", body)
    if hasattr(network, "forward_features"):
        if info.output == "flat":
            yield network.forward_features, _flat, "the last map"
            return
        if hasattr(network, "forward_head"):
            yield network.forward_features, network.forward_head, "the last map"
    try:
        cuts = stage_cuts(body, size)
    except (RuntimeError, TypeError, ValueError, AttributeError, IndexError):
        return
    for cut in sorted(cuts, key=lambda cut: _preference(cut, cuts)):
        try:
            yield _Until(body, cut), after_cut(body, cut).eval(), f"the map before {cut.unit}"
        except Uncut:
            continue


def _preference(cut: Cut, cuts: tuple[Cut, ...]) -> float:
    """Cuts are tried in this order: the latest first, but of a chain of tokens the one nearest the middle.

    Behind the middle the class token has taken in more and more of the picture, and what it holds has no place.
    """
    if len(cut.shape) == 2:
        return abs(cut.share - choose_cut(cuts, _MIDDLE).share)
    return cut.share


def _flat(activations: torch.Tensor) -> torch.Tensor:
    return activations.flatten(1)


class _Reached(Exception):
    pass


class _Until:
    """The network up to a unit: what would go into it."""

    def __init__(self, body: nn.Module, cut: Cut) -> None:
        self._body, self._unit = body, body.get_submodule(cut.unit)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        found: list[torch.Tensor] = []

        def note(_: nn.Module, inputs: Any) -> None:
            found.append(inputs[0])
            raise _Reached

        handle = self._unit.register_forward_pre_hook(note)
        try:
            self._body(x)
        except _Reached:
            pass
        finally:
            handle.remove()
        return found[0]


def _tried(body: nn.Module, before: Part, after: Part, name: str, size: int) -> Seam | None:
    """The seam, if both parts in turn give what the whole gives and most cells reach the features."""
    generator = torch.Generator().manual_seed(20)
    x = torch.rand(2, 3, size, size, generator=generator)
    try:
        with torch.no_grad():
            wanted, at = body(x), before(x)
        places = _places(body, tuple(at.shape[1:]))
        if places is None:
            return None
        seam = Seam(before, after, *places, name)
        leaf = at.detach().clone().requires_grad_()
        with torch.enable_grad():
            found = after(leaf)
            mixed = (found * torch.randn(found.shape, generator=generator)).sum()
            (slopes,) = torch.autograd.grad(mixed, leaf)
        reached = float((seam.cells(slopes.abs()) > 0).float().mean())
    except (RuntimeError, TypeError, ValueError, AttributeError, IndexError):
        return None
    found = found.detach()
    gap = float((found - wanted).norm() / wanted.norm().clamp_min(1e-12)) if found.shape == wanted.shape else math.inf
    return seam if gap <= _AGREEMENT and reached >= _REACHING else None


def _places(body: nn.Module, shape: tuple[int, ...]) -> tuple[Layout, int, int] | None:
    """(layout, side, prefix) of activations of this shape, or None if they are no square of cells."""
    if len(shape) == 3:
        last = getattr(body, "output_fmt", "NCHW") == "NHWC" if len(set(shape)) == 1 else shape[0] == shape[1]
        side, other = (shape[0], shape[1]) if last else (shape[1], shape[2])
        layout: Layout = "channels last" if last else "channels first"
        return (layout, side, 0) if side == other and side >= _LEAST_SIDE else None
    if len(shape) == 2:
        prefix = getattr(body, "num_prefix_tokens", None)
        prefix = shape[0] - math.isqrt(shape[0]) ** 2 if prefix is None else int(prefix)
        side = math.isqrt(shape[0] - prefix)
        return ("tokens", side, prefix) if side * side + prefix == shape[0] and side >= _LEAST_SIDE else None
    return None
