"""Pairs of float32: twice the digits, by operations that round as float32 does."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from graftage.features.pairs import Pair, total
from graftage.features.sides32 import inset

numbers = st.floats(-1e5, 1e5).filter(lambda x: x == 0 or abs(x) > 1e-6)


def exactly(pair: Pair) -> Fraction:
    return Fraction(float(pair.high)) + (0 if pair.low is None else Fraction(float(pair.low)))


def off(found: Pair, expected: Fraction, scale: Fraction) -> float:
    """The error against a scale, in units of 2^-44."""
    return float(abs(exactly(found) - expected) / scale * 2**44) if scale else float(exactly(found) != expected)


@given(numbers, numbers)
def test_sums_products_and_quotients_have_44_bits_and_more(x: float, y: float) -> None:
    a, b = Pair.near(x), Pair.near(y)
    p, q = exactly(a), exactly(b)
    assert off(a + b, p + q, abs(p + q)) <= 1
    assert off(a - b, p - q, abs(p - q)) <= 1
    assert off(a * b, p * q, abs(p * q)) <= 1
    if y:
        assert off(a / b, p / q, abs(p / q)) <= 1


@given(numbers)
def test_the_upper_half_is_the_number_in_float32(x: float) -> None:
    assert float(Pair.near(x).high) == np.float32(x)
    assert float((Pair.near(x) * Pair(torch.tensor(1.0))).high) == np.float32(x)


@given(st.integers(-5000, 5000), st.sampled_from([0.0, 2.0**-35, -(2.0**-35), 0.25, -0.25]))
def test_floor_sees_the_lower_half(whole: int, beyond: float) -> None:
    value = Pair(torch.tensor(float(whole))) + Pair(torch.tensor(beyond))
    assert float(value.floor()) == whole - (beyond < 0)
    assert bool(value.below(float(whole))) == (beyond < 0)
    assert exactly(abs(value)) == abs(exactly(value))


@given(st.lists(st.floats(-2, 2), min_size=1, max_size=32))
def test_a_sum_over_many_is_exact_to_35_bits_behind_the_point(values: list[float]) -> None:
    low = torch.tensor([v - float(np.float32(v)) for v in values])
    found = total(Pair(torch.tensor(values, dtype=torch.float32), low), 1)
    expected = sum(Fraction(float(np.float32(v))) + Fraction(float(e)) for v, e in zip(values, low, strict=True))
    assert found.low is not None
    assert abs(exactly(Pair(found.high[0], found.low[0])) - expected) <= len(values) * Fraction(1, 2**36)


def middles(size: int) -> list[tuple[int, int]]:
    """Lengths and longest sides whose share of the square ends in a half."""
    return [
        (length, longest)
        for longest in range(2, 900)
        for length in range(1, longest)
        if 2 * length * size % longest == 0 and 2 * length * size // longest % 2
    ]


@pytest.mark.parametrize("size", [96, 224, 260])
def test_padded_lengths_are_pythons_also_where_float64_decides(size: int) -> None:
    pairs = middles(size)
    lengths, longest = (torch.tensor(column) for column in zip(*pairs, strict=True))
    expected = [max(1, round(length * (size / most))) for length, most in pairs]
    assert inset(lengths, longest, size).tolist() == expected
    assert expected != [max(1, round(Fraction(length * size, most))) for length, most in pairs]  # float64 decides some
