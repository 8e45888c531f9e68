"""`Preprocess.square` as arithmetic on tensors, so that an exported network takes pictures of any size (C).

Pillow resizes 8-bit pictures with whole numbers: first, where a picture is four times too large or more, means over
blocks (`Image.reduce`), then a horizontal and a vertical pass whose coefficients are multiples of 2^-22, each with its
result rounded to 8 bits. The same whole numbers come out here. Every sum stays below 2^24, so that float32 holds it
exactly whatever the order of its terms: coefficients are split into an upper and a lower half of 11 bits each, and
carried over afterwards. What the coefficients themselves are made of is float64 in Pillow (`Resample.c` and
`Reduce.c`): so it is here, or pairs of float32 for engines that know float32 alone.

Pillow 13 takes the vertical pass first for pictures that lose more that way; the graph follows the Pillow that is
installed where it is made, which is the one that the model was trained with.
"""

from dataclasses import fields

import PIL
import torch
from torch import nn

from graftage.features.preprocess import Preprocess
from graftage.features.sides import HALF, SUPPORT, InFloat64, Side
from graftage.features.sides32 import InPairs

KNOWN = tuple(SUPPORT)
_EXACT = 2.0**24  # up to here float32 holds every whole number
_TALL_FIRST = int(PIL.__version__.split(".")[0]) >= 13


class Square(nn.Module):
    """Upright pixels, uint8 (H, W, 3), of any size → float32 (3, S, S): the whole numbers of `Preprocess.square`.

    Args:
        preprocess: what to do; its interpolation must be one of `KNOWN`.
        exact: coefficients in float64; False for engines that would compute them in float32 anyway: then in pairs of
            float32, which give the same but for lanczos.
    """

    fill: torch.Tensor

    def __init__(self, preprocess: Preprocess, *, exact: bool = True) -> None:
        super().__init__()
        if preprocess.interpolation not in KNOWN:
            raise ValueError(f"interpolation must be one of {', '.join(KNOWN)}, got {preprocess.interpolation!r}")
        self._preprocess = preprocess
        self._exact = exact
        self._arithmetic = InFloat64(preprocess) if exact else InPairs(preprocess)
        colour = [round(255 * min(max(m, 0.0), 1.0)) for m in preprocess.mean]
        self.register_buffer("fill", torch.tensor(colour, dtype=torch.float32).view(3, 1, 1), persistent=False)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """The square."""
        height, width = (torch.full((), n, dtype=torch.int64) for n in pixels.shape[:2])
        if not self._exact:
            height, width = (length + _nought(pixels) for length in (height, width))
        tall, broad = self._arithmetic.sides(height, width)
        turn = _turns(tall, broad)
        down, across = _either(turn, broad, tall), _either(turn, tall, broad)
        x = pixels.permute(2, 0, 1).to(torch.float32).reshape(3, -1)  # (3, H·W)
        one = torch.ones_like(width)
        x = _reduced(x, (torch.where(turn, one, width), torch.where(turn, width, one)), down, across)  # (3, H', W')
        from_rows, from_columns = (_halves(fixed) for fixed in self._arithmetic.coefficients(down, across))
        x = x.reshape(3 * down.blocks, across.blocks) @ from_columns.T
        x = _rounded(x, dim=1).reshape(3, down.blocks, -1)  # (3, H', S)
        x = x.permute(1, 0, 2).reshape(down.blocks, -1)  # (H', 3·S)
        x = _rounded(from_rows @ x, dim=0).reshape(self._preprocess.size, 3, -1)
        x = x.permute(1, 0, 2)  # (3, S, S)
        if self._preprocess.fit == "pad":
            size = self._preprocess.size
            x = torch.where(down.inside(size)[:, None] & across.inside(size)[None, :], x, self.fill)
        return torch.where(turn, x.transpose(1, 2), x)


def _nought(pixels: torch.Tensor) -> torch.Tensor:
    """A zero that hangs on a pixel, int64 without dimensions.

    While it prepares a graph, OpenVINO works out in what bounds each size lies that follows from the picture's, time
    and again along all of the arithmetic in pairs: 12 s, but 1 s if the sizes seem to follow from what is in it.
    """
    return torch.clamp(pixels[0, 0, 0].to(torch.int64), max=0)


def _halves(fixed: torch.Tensor) -> torch.Tensor:
    """Fixed-point coefficients (S, L) → (2S, L): upper halves, then lower halves, in units of 2^-11 and 2^-22."""
    upper = torch.floor(fixed / HALF)
    return torch.cat([upper, fixed - upper * HALF]).to(torch.float32)


def _turns(tall: Side, broad: Side) -> torch.Tensor:
    """Whether Pillow takes the vertical pass first: then the picture is turned, since all else is alike.

    From Pillow 13 on it does so where that pass takes away more than twice as many pixels as the horizontal one.
    """
    less, other = tall.length - tall.out, broad.length - broad.out
    return (less > torch.clamp(2 * other, min=0.0)) & _TALL_FIRST


def _either(condition: torch.Tensor, one: Side, other: Side) -> Side:
    """The one where the condition holds, else the other."""
    return Side(*(torch.where(condition, getattr(one, f.name), getattr(other, f.name)) for f in fields(Side)))


def _rounded(sums: torch.Tensor, *, dim: int) -> torch.Tensor:
    """Sums with upper and lower halves of the coefficients → 8 bits: (upper · 2^11 + lower + 2^21) >> 22, clipped."""
    upper, lower = sums.chunk(2, dim)
    carried = upper + torch.floor(lower / HALF) + HALF / 2
    return torch.clamp(torch.floor(carried / HALF), 0.0, 255.0)


def _reduced(x: torch.Tensor, strides: tuple[torch.Tensor, torch.Tensor], down: Side, across: Side) -> torch.Tensor:
    """Means over blocks, as Pillow's `reduce` rounds them: pixels (3, H·W) → (3, H', W')."""
    rows, row_counts = _blocks(down)
    columns, column_counts = _blocks(across)
    places = rows[0][:, None] * strides[0] + columns[0][None, :] * strides[1]
    x = x.index_select(1, places.reshape(-1))
    x = x.reshape(3, down.blocks, down.factor, across.blocks, across.factor)
    x = x * rows[1].reshape(down.blocks, down.factor, 1, 1) * columns[1].reshape(across.blocks, across.factor)
    return _divided(x.sum((2, 4)), torch.clamp(row_counts[:, None] * column_counts[None, :], min=1.0))


def _blocks(axis: Side) -> tuple[tuple[torch.Tensor, torch.Tensor], torch.Tensor]:
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
