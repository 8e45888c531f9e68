"""One side of a picture on its way into the square: what is taken of it, and Pillow's coefficients, in float64 (C)."""

import math
from dataclasses import dataclass
from functools import cached_property

import torch

from graftage.features.preprocess import Preprocess

SUPPORT = {"bilinear": 1.0, "bicubic": 2.0, "lanczos": 3.0}  # Pillow's filters, in pixels of the coarser grid
BITS = 22  # of Pillow's coefficients, for 8-bit pictures
HALF = 2.0 ** (BITS // 2)
GAP = 2.0  # Preprocess's `reducing_gap`
_LARGEST = 2**20  # pixels of a side


@dataclass(frozen=True)
class Side:
    """One side of a picture.

    Tensors without dimensions, of whole numbers but for the last two; `factor` and `blocks` are sizes.

    Attributes:
        out: pixels of the square that it fills.
        left: where those begin.
        first: the first pixel that is read.
        last: the pixel behind the last one that is read.
        per_block: pixels that make a block.
        length: blocks, the last perhaps not whole.
        start: where the part that is taken begins, in blocks from `first`.
        end: where it ends.
    """

    out: torch.Tensor
    left: torch.Tensor
    first: torch.Tensor
    last: torch.Tensor
    per_block: torch.Tensor
    length: torch.Tensor
    start: torch.Tensor
    end: torch.Tensor

    @cached_property
    def factor(self) -> int:
        """`per_block` as a size."""
        return _size(self.per_block)

    @cached_property
    def blocks(self) -> int:
        """`length` as a size."""
        return _size(self.length)

    def inside(self, size: int) -> torch.Tensor:
        """Which of the square's pixels it fills, (size,)."""
        place = torch.arange(size, dtype=self.out.dtype)
        return (place >= self.left) & (place < self.left + self.out)


class InFloat64:
    """Sides and coefficients in Pillow's and `Preprocess`'s own order of operations."""

    def __init__(self, preprocess: Preprocess) -> None:
        self._preprocess = preprocess

    def sides(self, height: torch.Tensor, width: torch.Tensor) -> tuple[Side, Side]:
        """Of a picture whose height and width are int64 without dimensions."""
        return self._side(height, width), self._side(width, height)

    def _side(self, length: torch.Tensor, other: torch.Tensor) -> Side:
        size = self._preprocess.size
        n, m = length.to(torch.float64), other.to(torch.float64)
        start, end, out, left = torch.zeros_like(n), n, torch.full_like(n, size), torch.zeros_like(n)
        if self._preprocess.fit == "crop":
            side = torch.minimum(n, m) * self._preprocess.crop_pct
            start = (n - side) / 2
            end = start + side
        if self._preprocess.fit == "pad":
            # not size / tensor: PyTorch makes that size · (1 / tensor), which rounds twice
            out = torch.clamp(torch.round(n * (torch.full_like(n, size) / torch.maximum(n, m))), min=1.0)
            left = torch.floor((size - out) / 2)
        factor = torch.clamp(torch.floor((end - start) / out / GAP), min=1.0)
        # Pillow cuts out what the filter can reach before it makes blocks, and nothing where it makes none
        support = (end - start) / out * (SUPPORT[self._preprocess.interpolation] - 0.5)
        first = torch.where(factor > 1, torch.clamp(torch.floor(start - support), min=0.0), 0.0)
        last = torch.where(factor > 1, torch.minimum(torch.ceil(end + support), n), n)
        length = torch.ceil((last - first) / factor - 1e-4)
        return Side(out, left, first, last, factor, length, (start - first) / factor, (end - first) / factor)

    def coefficients(self, *sides: Side) -> list[torch.Tensor]:
        """Of each side Pillow's fixed-point coefficients (S, L), float64: whole numbers of 2^-22."""
        return [self._coefficients(side) for side in sides]

    def _coefficients(self, side: Side) -> torch.Tensor:
        size, name = self._preprocess.size, self._preprocess.interpolation
        start, end = side.start.to(torch.float32), side.end.to(torch.float32)  # as Pillow takes them
        scale = (end - start).to(torch.float64) / side.out
        wide = torch.clamp(scale, min=1.0)
        place = torch.arange(size, dtype=torch.float64)[:, None] - side.left  # (S, 1)
        centre = start.to(torch.float64) + (place + 0.5) * scale
        at = torch.arange(side.blocks, dtype=torch.float64)[None, :]  # (1, L)
        weights = filtered((at - centre + 0.5) * (1.0 / wide), name)
        weights = torch.where(at < side.length, weights, 0.0)
        total = weights.sum(1, keepdim=True)
        share = weights / torch.where(total == 0, 1.0, total) * 2.0**BITS
        fixed = torch.sign(share) * torch.floor(torch.abs(share) + 0.5)
        return torch.where(side.inside(size)[:, None], fixed, 0.0)


def _size(value: torch.Tensor) -> int:
    """The value as a size of tensors; while a graph is made, a symbol."""
    size = value.to(torch.int64).item()
    assert isinstance(size, int | torch.SymInt)
    torch._check(size >= 1)
    torch._check(size <= _LARGEST)
    return size


def filtered(x: torch.Tensor, name: str) -> torch.Tensor:
    """Pillow's filters, term by term."""
    x = torch.abs(x)
    if name == "bilinear":
        return torch.where(x < 1, 1 - x, 0.0)
    if name == "bicubic":
        near, far = (1.5 * x - 2.5) * x * x + 1, (((x - 5) * x + 8) * x - 4) * -0.5
        return torch.where(x < 1, near, torch.where(x < 2, far, 0.0))
    return torch.where(x < 3, _sinc(x) * _sinc(x / 3), 0.0)


def _sinc(x: torch.Tensor) -> torch.Tensor:
    angle = x * math.pi
    return torch.where(x == 0, 1.0, torch.sin(angle) / torch.where(x == 0, 1.0, angle))
