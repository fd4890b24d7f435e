"""Integers that remember where they came from.

A forward pass is full of sizes: ``b, c, h, w = x.shape``, ``self.c``, ``self.num_heads``. When
channels go, some of them must follow. A :class:`TracedInt` is an ordinary ``int`` to the
model; to the tracer it is a polynomial over the places that it was read from.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Protocol

from yoloprune.channels.ids import IdArray


@dataclass(frozen=True, slots=True)
class Attr:
    """An integer attribute of a module: ``model.2`` ``.c``, or one item of a list."""

    module: str
    name: str
    index: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Dim:
    """The size of one axis of an activation, by the channel ids that it carried."""

    ids: IdArray
    axis: int


Source = Attr | Dim
Monomial = tuple[tuple[Source, int], ...]
"""Sources and their powers, sorted by first appearance; empty for the constant term."""
Terms = dict[Monomial, Fraction]


def constant(value: int) -> Terms:
    """The polynomial of a plain number."""
    return {(): Fraction(value)} if value else {}


def terms_of(value: int) -> Terms:
    """The polynomial of a plain or traced integer."""
    return value.terms if isinstance(value, TracedInt) else constant(value)


def _plus(a: Terms, b: Terms, sign: int) -> Terms:
    total = dict(a)
    for monomial, coefficient in b.items():
        total[monomial] = total.get(monomial, Fraction(0)) + sign * coefficient
    return {monomial: c for monomial, c in total.items() if c}


def _join(a: Monomial, b: Monomial, sign: int) -> Monomial:
    powers = dict(a)
    for source, power in b:
        powers[source] = powers.get(source, 0) + sign * power
    return tuple((source, power) for source, power in powers.items() if power)


def _times(a: Terms, b: Terms) -> Terms:
    total: Terms = {}
    for left, x in a.items():
        for right, y in b.items():
            monomial = _join(left, right, 1)
            total[monomial] = total.get(monomial, Fraction(0)) + x * y
    return total


class Watch(Protocol):
    """Who is told what became of traced integers."""

    def on_rigid(self, value: TracedInt) -> None:
        """Its value was used."""

    def on_equal(self, value: TracedInt, other: int) -> None:
        """It was found to equal another integer."""


class TracedInt(int):
    """An ``int`` that knows the polynomial it was computed by.

    Sums, products and exact divisions stay traced. Uses whose result depends on the value in
    another way (a power, a true division, ``float``) are told to ``on_rigid``: the value, and
    so the channels behind it, must not change. An equality that holds is told to ``on_equal``:
    it must hold after a cut, too. Other comparisons and remainders are not: they steer, and the
    self-test of a cut watches over them, as over ``1.5 * n``, which Python computes without
    asking.
    """

    terms: Terms
    watch: Watch

    @staticmethod
    def of(value: int, source: Source, watch: Watch) -> TracedInt:
        """A traced integer read from ``source``."""
        return TracedInt._make(value, {((source, 1),): Fraction(1)}, watch)

    @staticmethod
    def _make(value: int, terms: Terms, watch: Watch) -> TracedInt:
        made = int.__new__(TracedInt, value)
        made.terms = terms
        made.watch = watch
        return made

    def _derive(self, value: int, terms: Terms) -> int:
        return TracedInt._make(value, terms, self.watch)

    def on_rigid(self, value: TracedInt) -> None:
        """Tell of a use that depends on the value."""
        self.watch.on_rigid(value)

    def __eq__(self, other: object) -> bool:
        result = int.__eq__(self, other)
        if result is True and isinstance(other, int) and self is not other:
            self.watch.on_equal(self, other)
        return result

    def __ne__(self, other: object) -> bool:
        result = int.__ne__(self, other)
        if result is False and isinstance(other, int) and self is not other:
            self.watch.on_equal(self, other)
        return result

    __hash__ = int.__hash__

    def axis(self) -> Dim | None:
        """The axis that it is the whole size of; None of what was computed or is an attribute."""
        if len(self.terms) != 1:
            return None
        ((monomial, factor),) = self.terms.items()
        whole = factor == 1 and len(monomial) == 1 and monomial[0][1] == 1
        return monomial[0][0] if whole and isinstance(monomial[0][0], Dim) else None

    def sources(self) -> Iterator[Source]:
        """Every place that the value was read from."""
        for monomial in self.terms:
            for source, _ in monomial:
                yield source

    def __add__(self, other: Any) -> Any:
        if not isinstance(other, int):
            return NotImplemented
        return self._derive(int(self) + int(other), _plus(self.terms, terms_of(other), 1))

    __radd__ = __add__

    def __sub__(self, other: Any) -> Any:
        if not isinstance(other, int):
            return NotImplemented
        return self._derive(int(self) - int(other), _plus(self.terms, terms_of(other), -1))

    def __rsub__(self, other: Any) -> Any:
        if not isinstance(other, int):
            return NotImplemented
        return self._derive(int(other) - int(self), _plus(terms_of(other), self.terms, -1))

    def __mul__(self, other: Any) -> Any:
        if not isinstance(other, int):
            # A list or tuple repeats; a float scales by the value.
            if isinstance(other, float):
                self.on_rigid(self)
                return int(self) * other
            return NotImplemented
        return self._derive(int(self) * int(other), _times(self.terms, terms_of(other)))

    __rmul__ = __mul__

    def __neg__(self) -> int:
        return self._derive(-int(self), {m: -c for m, c in self.terms.items()})

    def __floordiv__(self, other: Any) -> Any:
        if not isinstance(other, int):
            return NotImplemented
        return _quotient(self, other)

    def __rfloordiv__(self, other: Any) -> Any:
        if not isinstance(other, int):
            return NotImplemented
        return _quotient(other, self)

    def __truediv__(self, other: Any) -> Any:
        self.on_rigid(self)
        return int(self) / other

    def __rtruediv__(self, other: Any) -> Any:
        self.on_rigid(self)
        return other / int(self)

    def __pow__(self, other: Any, mod: Any = None) -> Any:
        self.on_rigid(self)
        return pow(int(self), other, mod)

    def __rpow__(self, other: Any, mod: Any = None) -> Any:
        self.on_rigid(self)
        return pow(other, int(self), mod)

    def __float__(self) -> float:
        self.on_rigid(self)
        return float(int(self))

    def __int__(self) -> int:
        return int.__int__(self)

    def __reduce__(self) -> tuple[type[int], tuple[int]]:
        return int, (int(self),)


def _quotient(a: int, b: int) -> int:
    """``a // b``, traced where it is exact and ``b`` is a single term."""
    traced = a if isinstance(a, TracedInt) else b
    assert isinstance(traced, TracedInt)
    below = terms_of(b)
    value = int(a) // int(b)
    if int(a) % int(b) or len(below) != 1:
        return value
    ((divisor, coefficient),) = below.items()
    terms = {_join(m, divisor, -1): c / coefficient for m, c in terms_of(a).items()}
    return traced._derive(value, terms)
