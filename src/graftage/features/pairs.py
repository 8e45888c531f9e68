"""Numbers of 48 bits as sums of two float32, for engines that compute in float32 alone (P).

The classical error-free transformations (Dekker 1971, Knuth 1969). They hold if each operation rounds to nearest, in
the order written; a product fused with the sum after it does no harm, since every such product is exact, and a quotient
that is off by a few last bits is put right by its remainder.
"""

from dataclasses import dataclass

import torch

_SPLIT = 4097.0  # 2^12 + 1: takes a float32 apart into two of 12 bits


@dataclass(frozen=True)
class Pair:
    """Numbers high + low, `low` at most half a last place of `high`, both float32 tensors of shapes that broadcast.

    So `high` is the number rounded to float32. Where float32 holds all of them, `low` is None, which saves operations.
    """

    high: torch.Tensor
    low: torch.Tensor | None = None

    @classmethod
    def near(cls, value: float) -> "Pair":
        """A constant to 48 bits."""
        high = torch.tensor(value, dtype=torch.float32)
        return cls(high, torch.tensor(value - float(high), dtype=torch.float32))

    def __neg__(self) -> "Pair":
        return Pair(-self.high, None if self.low is None else -self.low)

    def __add__(self, other: "Pair") -> "Pair":
        high, rest = _sum(self.high, other.high)
        if self.low is None or other.low is None:
            low = other.low if self.low is None else self.low
            return Pair(high, rest) if low is None else Pair(*_ordered_sum(high, rest + low))
        low, last = _sum(self.low, other.low)
        high, rest = _ordered_sum(high, rest + low)
        return Pair(*_ordered_sum(high, rest + last))

    def __sub__(self, other: "Pair") -> "Pair":
        return self + -other

    def __mul__(self, other: "Pair") -> "Pair":
        high, rest = _product(self.high, other.high)
        crosses = [a * b for a, b in ((self.high, other.low), (other.high, self.low)) if b is not None]
        return Pair(*_ordered_sum(high, rest + sum(crosses[1:], crosses[0]))) if crosses else Pair(high, rest)

    def __truediv__(self, other: "Pair") -> "Pair":
        first = self.high / other.high
        rest = self - Pair(first) * other
        return Pair(*_ordered_sum(first, rest.high / other.high))

    def __abs__(self) -> "Pair":
        less = self.high < 0
        low = None if self.low is None else torch.where(less, -self.low, self.low)
        return Pair(torch.where(less, -self.high, self.high), low)

    def scaled(self, power: float) -> "Pair":
        """Times a power of two."""
        return Pair(self.high * power, None if self.low is None else self.low * power)

    def floor(self) -> torch.Tensor:
        """The largest whole number that is not larger, float32; below 2^23."""
        whole = torch.floor(self.high)
        return whole if self.low is None else whole + torch.floor((self.high - whole) + self.low)

    def below(self, value: float) -> torch.Tensor:
        """Whether it is less than a number that float32 holds."""
        less = self.high < value
        return less if self.low is None else less | ((self.high == value) & (self.low < 0))

    def where(self, condition: torch.Tensor, other: float) -> "Pair":
        """Itself where the condition holds, else a number that float32 holds."""
        low = None if self.low is None else torch.where(condition, self.low, 0.0)
        return Pair(torch.where(condition, self.high, other), low)


def _sum(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """a + b rounded, and what rounding took."""
    s = a + b
    t = s - a
    return s, (a - (s - t)) + (b - t)


def _ordered_sum(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The same where |a| is at least |b|."""
    s = a + b
    return s, b - (s - a)


def _halves(a: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    c = a * _SPLIT
    high = c - (c - a)
    return high, a - high


def _product(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """a · b rounded, and what rounding took."""
    p = a * b
    (a1, a2), (b1, b2) = _halves(a), _halves(b)
    return p, (((a1 * b1 - p) + a1 * b2) + a2 * b1) + a2 * b2


def total(values: Pair, bits: int) -> Pair:
    """Sum over the last axis, kept as an axis of one, of up to 32 numbers below 2^`bits`: exact but for 2^-36 of them.

    Their leading 18 bits behind the point and the 18 that follow are summed as whole numbers, which float32 does
    exactly in any order.
    """
    assert bits <= 1, "five bits for the number of terms, 18 behind the point: no more than one is left"
    step = 2.0**-18
    upper = torch.floor(values.high / step) * step
    rest = values.high - upper if values.low is None else (values.high - upper) + values.low
    middle = torch.floor(rest / step**2) * step**2
    return Pair(upper.sum(-1, keepdim=True)) + Pair(middle.sum(-1, keepdim=True))
