"""The same sides and coefficients as `sides`, for engines that have no float64: to the last bit but for lanczos (C).

Float32 alone would put a coefficient a unit or two of 2^-22 wrong, which is a grey level here and there. So what Pillow
keeps in float64 is kept in pairs of float32, and whole numbers in int32. Weights are worked out where the filter
reaches and nowhere else, a few for each pixel of the square, and then laid out in rows.
"""

import math
from dataclasses import fields

import torch

from graftage.features.pairs import Pair, total
from graftage.features.preprocess import Preprocess
from graftage.features.sides import BITS, GAP, SUPPORT, Side, filtered

_WIDEST = 4.0  # blocks of a pixel: of more, larger blocks are made
_NEAR = 2.0**-30  # of a pixel: a place that close to a whole one is taken for it
# (3|x| - 5)|x|² + 2 and ((5 - |x|)|x| - 8)|x| + 4: twice Pillow's bicubic filter, within 1 and beyond
_CUBIC = ((3.0, -5.0, 0.0, 2.0), (-1.0, 5.0, -8.0, 4.0))


class InPairs:
    """Sides and coefficients as `sides.InFloat64` has them, in float32 and int32, of both sides in one go."""

    def __init__(self, preprocess: Preprocess) -> None:
        self._preprocess = preprocess
        self._reach = SUPPORT[preprocess.interpolation]

    def sides(self, height: torch.Tensor, width: torch.Tensor) -> tuple[Side, Side]:
        """Of a picture whose height and width are int64 without dimensions."""
        both = self._both(torch.stack([height, width]), torch.stack([width, height]))
        tall, broad = (Side(*(getattr(both, field.name)[i] for field in fields(Side))) for i in range(2))
        return tall, broad

    def _both(self, length: torch.Tensor, other: torch.Tensor) -> Side:
        """A record of two sides, each of its tensors (2,)."""
        size, n = self._preprocess.size, length.to(torch.float32)
        start, end = Pair(torch.zeros_like(n)), Pair(n)
        out, left = torch.full_like(n, size), torch.zeros_like(n)
        if self._preprocess.fit == "crop":
            part = Pair(torch.minimum(n, other.to(torch.float32))) * Pair.near(self._preprocess.crop_pct)
            start = (Pair(n) - part).scaled(0.5)
            end = start + part
        if self._preprocess.fit == "pad":
            out = inset(length, torch.maximum(length, other), size)
            left = torch.floor((size - out) / 2)
        near = Pair(torch.full_like(n, _NEAR))
        scale = (end - start) / Pair(out)
        factor = torch.clamp((scale.scaled(1 / GAP) + near).floor(), min=1.0)
        support = scale * Pair(torch.full_like(n, self._reach - 0.5))
        first = torch.clamp((start - support + near).floor(), min=0.0)
        last = torch.minimum(-(near - end - support).floor(), n)
        first, last = torch.where(factor > 1, first, 0.0), torch.where(factor > 1, last, n)
        begins, ends = ((place - Pair(first)) / Pair(factor) for place in (start, end))
        blocks = torch.ceil((last - first) / factor - 1e-4)
        return Side(out, left, first, last, factor, blocks, begins.high, ends.high)

    def coefficients(self, *sides: Side) -> list[torch.Tensor]:
        """Of each side Pillow's fixed-point coefficients (S, L), float32: whole numbers of 2^-22."""
        size = self._preprocess.size
        start, end, out, left, length = (
            torch.stack([getattr(side, name) for side in sides])[:, None, None]  # (n, 1, 1)
            for name in ("start", "end", "out", "left", "length")
        )
        scale = Pair(end - start) / Pair(out)
        wide = scale.where(~scale.below(1.0), 1.0)
        place = torch.arange(size, dtype=torch.float32)[None, :, None] - left  # (n, S, 1)
        centre = Pair(start) + Pair(place + 0.5) * scale
        begin = torch.floor(centre.high - self._reach * wide.high) - 1
        count = 2 * math.ceil(self._reach * _WIDEST) + 4
        at = begin + torch.arange(count, dtype=torch.float32)  # (n, S, T)
        inverse = Pair(torch.ones_like(end)) / wide
        weights = self._weights(abs((Pair(at + 0.5) - centre) * inverse))
        weights = weights.where((at >= 0) & (at < length), 0.0)
        whole = total(weights, 1)
        share = (weights / whole.where(whole.high != 0, 1.0)).scaled(2.0**BITS)
        fixed = torch.sign(share.high) * (abs(share) + Pair(torch.full_like(share.high, 0.5))).floor()
        fixed = torch.where((place >= 0) & (place < out), fixed, 0.0)
        return [_laid_out(fixed[i], begin[i], side.blocks) for i, side in enumerate(sides)]

    def _weights(self, x: Pair) -> Pair:
        """The filter at distances of 0 and more, up to a factor that goes out again."""
        name = self._preprocess.interpolation
        if name == "bilinear":
            return (Pair(torch.ones_like(x.high)) - x).where(x.below(1.0), 0.0)
        if name == "lanczos":
            return Pair(filtered(x.high, name))
        near = x.below(1.0)
        cube, square, plain, rest = (
            Pair(torch.where(near, within, beyond)) for within, beyond in zip(*_CUBIC, strict=True)
        )
        return (((cube * x + square) * x + plain) * x + rest).where(x.below(2.0), 0.0)


def _laid_out(values: torch.Tensor, begin: torch.Tensor, length: int) -> torch.Tensor:
    """Rows (S, T) of what begins at places (S, 1) → (S, length), zero elsewhere."""
    place = torch.arange(length, dtype=torch.float32)[None, :] - begin  # (S, L)
    there = (place >= 0) & (place < values.shape[1])
    index = torch.clamp(place, 0.0, values.shape[1] - 1.0).to(torch.int64)
    return torch.where(there, torch.gather(values, 1, index), 0.0)


def inset(length: torch.Tensor, longest: torch.Tensor, size: int) -> torch.Tensor:
    """Pixels of a padded picture within the square: Python's max(1, round(length * (size / longest))), float32 (n,).

    In whole numbers, int64 (int32 where the engine has none). Of two whole numbers as near Python takes the even one,
    unless float64 has put the product above or below the middle.
    """
    whole, rest = whole_division(length * size, longest)
    above = (2 * rest > longest).to(torch.int64)
    odd = whole - 2 * torch.div(whole, 2, rounding_mode="floor")
    moved = _moved(length, longest, size, whole)
    tie = torch.where(moved == 0, odd, (moved > 0).to(torch.int64))
    found = whole + torch.where(2 * rest == longest, tie, above)
    return torch.clamp(found, min=1).to(torch.float32)


def _moved(length: torch.Tensor, longest: torch.Tensor, size: int, whole: torch.Tensor) -> torch.Tensor:
    """Where length · size / longest is `whole` and a half: on which side of it float64 ends, -1, 0 or 1, int64.

    The quotient size / longest is a / b · 2^-t with a / b from 1 to 2, so float64 rounds it to m · 2^-(52 + t), where
    m = (a · 2^52 + error) / b is whole, and the error at most b / 2. The product is then off by length · error / b ·
    2^-(52 + t), and rounded away from the middle if that is more than half of the middle's last place.
    """
    powers = torch.tensor([2**i for i in range(17)])
    up, down = size * powers, longest[:, None] * powers[:13]  # (17,), (n, 13)
    a = torch.where(up >= longest[:, None], up, 2**30).amin(1)
    b = torch.maximum(longest, torch.where(down <= size, down, 0).amax(1))
    rest = a - b * (a >= b).to(torch.int64)
    for _ in range(4):  # a · 2^52 modulo b, in four steps of 13 bits
        rest = whole_division(rest * 2**13, b)[1]
    error = torch.where(2 * rest < b, -rest, b - rest)
    error = torch.where(rest == 0, 0, error)
    place = torch.where(powers <= torch.clamp(whole, min=1)[:, None], powers, 1).amax(1)  # of the middle's first bit
    off = Pair((length * 2).to(torch.float32)) * Pair((torch.abs(error) * _times(b, longest)).to(torch.float32))
    half = Pair((b * place).to(torch.float32)) * Pair(_times(a, torch.full_like(a, size)).to(torch.float32))
    return torch.where((half - off).high < 0, torch.sign(error), 0)


def _times(number: torch.Tensor, of: torch.Tensor) -> torch.Tensor:
    """The quotient of two whole numbers of which one is a multiple of the other."""
    return whole_division(number, of)[0]


def whole_division(number: torch.Tensor, by: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Quotient and rest of int64 tensors, also in engines that divide them as float32; the rest is at least 0."""
    quotient = torch.div(number, by, rounding_mode="floor")
    rest = number - quotient * by
    step = (rest >= by).to(torch.int64) - (rest < 0).to(torch.int64)
    return quotient + step, rest - step * by
