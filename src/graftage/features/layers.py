"""Feature vectors from several maps of a network, and from several networks, side by side (C).

Every part is brought to length 1 before they are joined, so that none drowns the others by its scale.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional

_AGREEMENT = 1e-4  # largest relative difference between a network's own feature vector and the one from its last map
_QUARTERS = 4  # a network whose maps all have the same size (a transformer) is taken at quarters of its depth


class Shallow(Exception):
    """A network that does not give this many maps."""


class Layered(nn.Module):
    """A timm network's own feature vector, and the means of earlier maps: (n, 3, S, S) → (n, D).

    Args:
        body: timm network without classifier.
        layers: how many vectors, 2 or more.

    Raises:
        Shallow: the network does not give them, or not so that its own feature vector comes out the same.
    """

    def __init__(self, body: nn.Module, layers: int) -> None:
        super().__init__()
        self._indices = earlier_maps(body, layers)
        for name, child in body.named_children():  # the parts keep the names that they have in the whole
            self.add_module(name, child)
        for name, parameter in body.named_parameters(recurse=False):
            self.register_parameter(name, parameter)
        for name, buffer in body.named_buffers(recurse=False):
            self.register_buffer(name, buffer)
        object.__setattr__(self, "_body", body)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """All parts, each of length 1."""
        return torch.cat([functional.normalize(part.flatten(1)) for part in self.parts(x)], dim=1)

    def parts(self, x: torch.Tensor) -> list[torch.Tensor]:
        """The network's own vector (n, D₁), then the means of earlier maps (n, Dᵢ), from late to early."""
        body: Any = self._body
        last, maps = body.forward_intermediates(x, indices=self._indices, output_fmt="NCHW")
        return [body.forward_head(last), *(each.mean((2, 3)) for each in reversed(maps))]

    _body: nn.Module


class Beside(nn.Module):
    """Several networks that look at the same square: (n, 3, S, S) → (n, D₁ + D₂ + …).

    The square comes normalised as the first one wants it; `scale` and `shift` (3,) make of that what another wants.
    """

    def __init__(self, bodies: Sequence[nn.Module], scales: Sequence[torch.Tensor], shifts: Sequence[torch.Tensor]):
        super().__init__()
        for i, (body, scale, shift) in enumerate(zip(bodies, scales, shifts, strict=True)):
            part = nn.Module()
            part.body = body
            part.register_buffer("scale", scale)
            part.register_buffer("shift", shift)
            self.add_module(str(i), part)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """All networks' features, each of length 1."""
        found = []
        for part in self.children():
            inner: Any = part
            found.append(inner.body(x * inner.scale.view(1, 3, 1, 1) + inner.shift.view(1, 3, 1, 1)).flatten(1))
        return torch.cat([functional.normalize(features) for features in found], dim=1)


def earlier_maps(body: nn.Module, layers: int) -> list[int]:
    """Which of the network's maps, from early to late, are taken beside its own feature vector."""
    known: Any = getattr(body, "feature_info", None)
    rows: list[Any] = list(getattr(known, "info", known) or [])
    if not rows or not hasattr(body, "forward_intermediates") or not hasattr(body, "forward_head"):
        raise Shallow("timm gives none of its earlier maps")
    even = len({row["reduction"] for row in rows}) == 1
    step = max(1, len(rows) // _QUARTERS) if even else 1
    found = [len(rows) - 1 - step * i for i in range(layers - 1, 0, -1)]
    if found[0] < 0:
        raise Shallow(f"it has {len(rows)} maps")
    return found


def check(layered: Layered, body: nn.Module, size: int) -> tuple[int, ...]:
    """Widths of the parts, once it is proven that the first of them is what the network itself gives.

    Raises:
        Shallow: it is not.
    """
    x = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(20))
    try:
        with torch.no_grad():
            wanted, parts = body(x), layered.parts(x)
    except (RuntimeError, TypeError, ValueError, AttributeError, IndexError, AssertionError) as error:
        raise Shallow(
            f"its maps cannot be taken ({type(error).__name__}: {str(error).splitlines()[0][:80]})"
        ) from error
    own = parts[0]
    gap = float((own - wanted).norm() / wanted.norm().clamp_min(1e-12)) if own.shape == wanted.shape else float("inf")
    if not gap <= _AGREEMENT:
        raise Shallow("its own feature vector does not come out the same")
    return tuple(part.flatten(1).shape[1] for part in parts)
