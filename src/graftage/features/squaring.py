"""`Preprocess.square` as arithmetic on tensors, so that an exported network takes pictures of any size (C).

Pillow resizes 8-bit pictures with whole numbers: first, where a picture is four times too large or more, means over
blocks (`Image.reduce`), then a horizontal and a vertical pass whose coefficients are multiples of 2^-22, each with its
result rounded to 8 bits. The same whole numbers come out here. Every sum stays below 2^24, so that float32 holds it
exactly whatever the order of its terms: coefficients are split into an upper and a lower half of 11 bits each, and
carried over afterwards. What the coefficients themselves are made of is float64, in Pillow's own order of operations
(Pillow's `Resample.c` and `Reduce.c`); engines that know float32 alone get them up to a unit or two of 2^-22.

Pillow 13 takes the vertical pass first for pictures that lose more that way; the graph follows the Pillow that is
installed where it is made, which is the one that the model was trained with.
"""

import math
from fractions import Fraction
from functools import cached_property

import PIL
import torch
from torch import nn

from graftage.features.preprocess import Preprocess

_SUPPORT = {"bilinear": 1.0, "bicubic": 2.0, "lanczos": 3.0}  # Pillow's filters, in pixels of the coarser grid
KNOWN = tuple(_SUPPORT)
_BITS = 22  # of Pillow's coefficients, for 8-bit pictures
_HALF = 2.0 ** (_BITS // 2)
_EXACT = 2.0**24  # up to here float32 holds every whole number
_NEAR = 1e-3  # pixels: in float32 a place that close to a whole one is taken for it
_TALL_FIRST = int(PIL.__version__.split(".")[0]) >= 13
_DENOMINATOR = 1000  # of `crop_pct` as a fraction
_GAP = 2.0  # Preprocess's `reducing_gap`
_LARGEST = 2**20  # pixels of a side


class Square(nn.Module):
    """Upright pixels, uint8 (H, W, 3), of any size → float32 (3, S, S): the whole numbers of `Preprocess.square`.

    Args:
        preprocess: what to do; its interpolation must be one of `KNOWN`.
        exact: coefficients in float64; False for engines that would compute them in float32 anyway.
    """

    taken: torch.Tensor
    fill: torch.Tensor

    def __init__(self, preprocess: Preprocess, *, exact: bool = True) -> None:
        super().__init__()
        if preprocess.interpolation not in KNOWN:
            raise ValueError(f"interpolation must be one of {', '.join(KNOWN)}, got {preprocess.interpolation!r}")
        self._preprocess, self._exact = preprocess, exact
        self._type = torch.float64 if exact else torch.float32
        self._near = 0.0 if exact else _NEAR
        colour = [round(255 * min(max(m, 0.0), 1.0)) for m in preprocess.mean]
        self.register_buffer("fill", torch.tensor(colour, dtype=torch.float32).view(3, 1, 1), persistent=False)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """The square."""
        height, width = (torch.full((), n, dtype=torch.int64) for n in pixels.shape[:2])
        turn = self._turn(height, width)
        rows, columns = torch.where(turn, width, height), torch.where(turn, height, width)
        down, across = self._axis(rows, columns), self._axis(columns, rows)
        x = pixels.permute(2, 0, 1).to(torch.float32).reshape(3, -1)  # (3, H·W)
        one = torch.ones_like(width)
        x = _reduced(x, (torch.where(turn, one, width), torch.where(turn, width, one)), down, across)  # (3, H', W')
        x = x.reshape(3 * down.blocks, across.blocks) @ self._coefficients(across).T
        x = _rounded(x, dim=1).reshape(3, down.blocks, -1)  # (3, H', S)
        x = x.permute(1, 0, 2).reshape(down.blocks, -1)  # (H', 3·S)
        x = _rounded(self._coefficients(down) @ x, dim=0).reshape(self._preprocess.size, 3, -1)
        x = x.permute(1, 0, 2)  # (3, S, S)
        if self._preprocess.fit == "pad":
            x = torch.where(down.inside[:, None] & across.inside[None, :], x, self.fill)
        return torch.where(turn, x.transpose(1, 2), x)

    def _turn(self, height: torch.Tensor, width: torch.Tensor) -> torch.Tensor:
        """Whether Pillow takes the vertical pass first: then the picture is turned, since all else is alike.

        From Pillow 13 on it does so where that pass takes away more than twice as many pixels as the horizontal one.
        """
        down, across = self._axis(height, width), self._axis(width, height)
        less, other = down.length - down.out, across.length - across.out
        return (less > torch.clamp(2 * other, min=0.0)) & _TALL_FIRST

    def _axis(self, length: torch.Tensor, other: torch.Tensor) -> "_Axis":
        """What happens along one side of a picture, in Pillow's and `Preprocess`'s own order of operations."""
        size = self._preprocess.size
        n, m = length.to(self._type), other.to(self._type)
        start, end, out, left = torch.zeros_like(n), n, torch.full_like(n, size), torch.zeros_like(n)
        if self._preprocess.fit == "crop":
            side = torch.minimum(n, m) * self._preprocess.crop_pct
            start = (n - side) / 2
            end = start + side
        if self._preprocess.fit == "pad":
            out = self._inset(length, other)
            left = torch.floor((size - out) / 2)
        factor = torch.clamp(torch.floor((end - start) / out / _GAP + self._near / size), min=1.0)
        reach = _SUPPORT[self._preprocess.interpolation] - 0.5
        return _Axis(n, torch.minimum(n, m), factor, start, end, out, left, size, reach, self._near)

    def _inset(self, length: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        """Pixels of a padded picture within the square; of two whole numbers as near Python takes the even one."""
        size, longest = self._preprocess.size, torch.maximum(length, other)
        if self._exact:
            return torch.clamp(torch.round(length.to(self._type) * (size / longest.to(self._type))), min=1.0)
        whole, rest = _whole_division(length * size, longest)
        up = (2 * rest + whole - 2 * torch.div(whole, 2, rounding_mode="floor") > longest).to(torch.int64)
        return torch.clamp(whole + up, min=1).to(self._type)

    def _coefficients(self, axis: "_Axis") -> torch.Tensor:
        """Pillow's fixed-point coefficients (2S, L): upper halves, then lower halves, in units of 2^-11 and 2^-22."""
        size = self._preprocess.size
        start, end = axis.start.to(torch.float32), axis.end.to(torch.float32)  # as Pillow takes them
        scale = (end - start).to(self._type) / axis.out
        wide = torch.clamp(scale, min=1.0)
        place = torch.arange(size, dtype=self._type)[:, None] - axis.left  # (S, 1)
        if self._exact:
            whole, rest = torch.zeros_like(place), start.to(self._type) + (place + 0.5) * scale
        else:
            whole, rest = self._split_centre(axis, place)
        at = torch.arange(axis.blocks, dtype=self._type)[None, :]  # (1, L)
        weights = _filter(((at - whole) - rest + 0.5) * (1.0 / wide), self._preprocess.interpolation)
        weights = torch.where(at < axis.length, weights, 0.0)
        total = weights.sum(1, keepdim=True)
        share = weights / torch.where(total == 0, 1.0, total) * 2.0**_BITS
        fixed = torch.sign(share) * torch.floor(torch.abs(share) + 0.5)
        fixed = torch.where(axis.inside[:, None], fixed, 0.0)
        upper = torch.floor(fixed / _HALF)
        return torch.cat([upper, fixed - upper * _HALF]).to(torch.float32)

    def _split_centre(self, axis: "_Axis", place: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Where the filter is centred, (S, 1), as whole pixels and a rest, by whole numbers: float32 has few digits."""
        size, part = self._preprocess.size, Fraction(self._preprocess.crop_pct).limit_denominator(_DENOMINATOR)
        steps, n, first = (2 * place + 1).to(torch.int64), axis.n.to(torch.int64), axis.first.to(torch.int64)
        if self._preprocess.fit == "crop":
            unit = size * part.denominator
            taken = axis.short.to(torch.int64) * part.numerator
            number, by = (
                n * unit + taken * (steps - size) - 2 * unit * first,
                torch.full_like(n, 2 * unit * axis.factor),
            )
        else:
            number, by = steps * n, 2 * axis.out.to(torch.int64) * axis.factor
        whole, rest = _whole_division(number, by)
        return whole.to(self._type), rest.to(self._type) / by


class _Axis:
    """One side of a picture, from what is taken of its n pixels and where its `out` pixels lie in the square.

    Tensors without dimensions, but for `inside` (S,); `factor` and `blocks` are sizes.
    """

    def __init__(
        self,
        n: torch.Tensor,
        short: torch.Tensor,
        factor: torch.Tensor,
        start: torch.Tensor,
        end: torch.Tensor,
        out: torch.Tensor,
        left: torch.Tensor,
        size: int,
        reach: float,
        near: float,
    ) -> None:
        # Pillow cuts out what the filter can reach before it makes blocks, and nothing where it makes none
        support = (end - start) / out * reach
        first = torch.clamp(torch.floor(start - support + near), min=0.0)
        last = torch.minimum(torch.ceil(end + support - near), n)
        self.first, self.last = torch.where(factor > 1, first, 0.0), torch.where(factor > 1, last, n)
        self.length = torch.ceil((self.last - self.first) / factor - 1e-4)
        self.start, self.end = (start - self.first) / factor, (end - self.first) / factor
        place = torch.arange(size, dtype=n.dtype)
        self.n, self.short = n, short
        self.out, self.left, self.inside = out, left, (place >= left) & (place < left + out)
        self._factor = factor

    @cached_property
    def factor(self) -> int:
        """Pixels that make a block."""
        return _size(self._factor)

    @cached_property
    def blocks(self) -> int:
        """How many there are, the last perhaps not whole."""
        return _size(self.length)


def _size(value: torch.Tensor) -> int:
    """The value as a size of tensors; while a graph is made, a symbol."""
    size = value.to(torch.int64).item()
    assert isinstance(size, int | torch.SymInt)
    torch._check(size >= 1)
    torch._check(size <= _LARGEST)
    return size


def _filter(x: torch.Tensor, name: str) -> torch.Tensor:
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


def _rounded(sums: torch.Tensor, *, dim: int) -> torch.Tensor:
    """Sums with upper and lower halves of the coefficients → 8 bits: (upper · 2^11 + lower + 2^21) >> 22, clipped."""
    upper, lower = sums.chunk(2, dim)
    carried = upper + torch.floor(lower / _HALF) + _HALF / 2
    return torch.clamp(torch.floor(carried / _HALF), 0.0, 255.0)


def _reduced(x: torch.Tensor, strides: tuple[torch.Tensor, torch.Tensor], down: _Axis, across: _Axis) -> torch.Tensor:
    """Means over blocks, as Pillow's `reduce` rounds them: pixels (3, H·W) → (3, H', W')."""
    rows, row_counts = _blocks(down)
    columns, column_counts = _blocks(across)
    places = rows[0][:, None] * strides[0] + columns[0][None, :] * strides[1]
    x = x.index_select(1, places.reshape(-1))
    x = x.reshape(3, down.blocks, down.factor, across.blocks, across.factor)
    x = x * rows[1].reshape(down.blocks, down.factor, 1, 1) * columns[1].reshape(across.blocks, across.factor)
    return _divided(x.sum((2, 4)), torch.clamp(row_counts[:, None] * column_counts[None, :], min=1.0))


def _blocks(axis: _Axis) -> tuple[tuple[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Which pixels make blocks, whether they count (1 or 0), and how many count in each block."""
    place = torch.arange(axis.blocks * axis.factor, dtype=axis.first.dtype) + axis.first
    counts = (place < axis.last).to(torch.float32)
    pixel = torch.minimum(place, axis.last - 1).to(torch.int64)
    return (pixel, counts), counts.reshape(axis.blocks, axis.factor).sum(1)


def _divided(sums: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
    """((sum + count // 2) · (2^24 // count)) >> 24 in whole numbers below 2^24."""
    sums = sums + torch.floor(count / 2)
    inverse, rest = _division(torch.full_like(count, _EXACT), count)
    quotient, over = _division(sums, count)
    return quotient - (over * inverse < quotient * rest).to(torch.float32)


def _division(number: torch.Tensor, by: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Quotient and rest of whole numbers, also where an engine's division is off by one in its last bit."""
    quotient = torch.floor(number / by)
    rest = number - quotient * by
    step = (rest >= by).to(torch.float32) - (rest < 0).to(torch.float32)
    return quotient + step, rest - step * by


def _whole_division(number: torch.Tensor, by: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The same of int64 tensors, for engines that divide them as float32; the rest is at least 0."""
    quotient = torch.div(number, by, rounding_mode="floor")
    rest = number - quotient * by
    step = (rest >= by).to(torch.int64) - (rest < 0).to(torch.int64)
    return quotient + step, rest - step * by
