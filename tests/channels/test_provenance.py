"""Integers that remember where they came from."""

from __future__ import annotations

import copy
import math
from fractions import Fraction

import pytest

from yoloprune.channels.provenance import Attr, Source, TracedInt, terms_of

A, B = Attr("m", "a"), Attr("m", "b")


@pytest.fixture
def told() -> list[int]:
    return []


def read(value: int, source: Source, told: list[int]) -> TracedInt:
    return TracedInt.of(value, source, lambda n: told.append(int(n)))


def evaluate(value: int, at: dict[Source, int]) -> Fraction:
    """The polynomial at other values of its sources."""
    total = Fraction(0)
    for monomial, coefficient in terms_of(value).items():
        for source, power in monomial:
            coefficient *= Fraction(at[source]) ** power
        total += coefficient
    return total


def test_arithmetic_follows_the_sources(told: list[int]) -> None:
    def formula(a: int, b: int) -> list[int]:
        return [
            a * 2 + b, 2 * a - b, 7 - a, -a + 1, a // 2, a * b // 2, (a + b) * 3, a * b // b,
            sum([a, b]),
        ]  # fmt: skip

    traced = formula(read(6, A, told), read(4, B, told))
    assert [int(v) for v in traced] == formula(6, 4)
    assert [evaluate(v, {A: 10, B: 8}) for v in traced] == formula(10, 8)
    assert told == []


def test_values_used_otherwise_are_told(told: list[int]) -> None:
    a = read(9, A, told)
    assert a**-0.5 == pytest.approx(1 / 3)
    assert math.sqrt(a) == 3
    assert (a / 2, 2 / a, float(a), a * 1.5) == (4.5, 2 / 9, 9.0, 13.5)
    assert told == [9] * 6


def test_inexact_division_and_remainder_are_plain(told: list[int]) -> None:
    a = read(7, A, told)
    assert a // 2 == 3 and not isinstance(a // 2, TracedInt)
    assert type(a % 4) is int


def test_it_is_an_int_to_everyone_else(told: list[int]) -> None:
    a = read(3, A, told)
    assert [10, 20, 30, 40][a] == 40
    assert list(range(a)) == [0, 1, 2]
    assert a == 3 and a < 4 and {3: "x"}[a] == "x"
    assert [0] * a == [0, 0, 0]
    assert type(copy.deepcopy(a)) is int
    assert told == []
