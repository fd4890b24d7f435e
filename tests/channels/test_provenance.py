"""Integers that remember where they came from."""

from __future__ import annotations

import copy
import math
from fractions import Fraction

import pytest

from yoloprune.channels.provenance import Attr, Source, TracedInt, terms_of

A, B = Attr("m", "a"), Attr("m", "b")


class Told(list[int]):
    """Values that were used otherwise, and pairs that were found equal."""

    def __init__(self) -> None:
        super().__init__()
        self.equal: list[tuple[int, int]] = []

    def on_rigid(self, value: TracedInt) -> None:
        self.append(int(value))

    def on_equal(self, value: TracedInt, other: int) -> None:
        self.equal.append((int(value), int(other)))


@pytest.fixture
def told() -> Told:
    return Told()


def read(value: int, source: Source, told: Told) -> TracedInt:
    return TracedInt.of(value, source, told)


def evaluate(value: int, at: dict[Source, int]) -> Fraction:
    """The polynomial at other values of its sources."""
    total = Fraction(0)
    for monomial, coefficient in terms_of(value).items():
        for source, power in monomial:
            coefficient *= Fraction(at[source]) ** power
        total += coefficient
    return total


def test_arithmetic_follows_the_sources(told: Told) -> None:
    def formula(a: int, b: int) -> list[int]:
        return [
            a * 2 + b, 2 * a - b, 7 - a, -a + 1, a // 2, a * b // 2, (a + b) * 3, a * b // b,
            sum([a, b]),
        ]  # fmt: skip

    traced = formula(read(6, A, told), read(4, B, told))
    assert [int(v) for v in traced] == formula(6, 4)
    assert [evaluate(v, {A: 10, B: 8}) for v in traced] == formula(10, 8)
    assert told == []


def test_values_used_otherwise_are_told(told: Told) -> None:
    a = read(9, A, told)
    assert a**-0.5 == pytest.approx(1 / 3)
    assert math.sqrt(a) == 3
    assert (a / 2, 2 / a, float(a), a * 1.5) == (4.5, 2 / 9, 9.0, 13.5)
    assert told == [9] * 6


def test_inexact_division_and_remainder_are_plain(told: Told) -> None:
    a = read(7, A, told)
    assert a // 2 == 3 and not isinstance(a // 2, TracedInt)
    assert type(a % 4) is int


def test_it_is_an_int_to_everyone_else(told: Told) -> None:
    a = read(3, A, told)
    assert [10, 20, 30, 40][a] == 40
    assert list(range(a)) == [0, 1, 2]
    assert a == 3 and a < 4 and {3: "x"}[a] == "x"
    assert [0] * a == [0, 0, 0]
    assert type(copy.deepcopy(a)) is int
    assert told == []


def test_equality_that_holds_is_told(told: Told) -> None:
    a, b = read(9, A, told), read(9, B, told)
    unequal = a != 9
    assert a == b and not unequal and a in (1, 9) and (a, 2) == (b, 2) and {a: 1}[9] == 1
    assert told.equal == [(9, 9)] * 5
    assert a != 8 and a != "9" and a not in (7, "a")
    assert told.equal == [(9, 9)] * 5 and told == []
