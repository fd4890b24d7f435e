"""Which integers follow which channels, and what that asks of the channels.

While a model runs, every size that meets an axis with channels leaves an equation: *this
polynomial of attributes and shapes equals the number of channels left on this line*. Settling
them yields the attributes that a cut must patch, equal counts that were only implied, and
channels that must stay because a size cannot follow them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from math import lcm

import numpy as np
from numpy.typing import NDArray

from yoloprune.channels.graph import Balance, BoolArray, IntArray, IntField
from yoloprune.channels.ids import IdArray, Ids, RawBalance, line
from yoloprune.channels.provenance import Attr, Dim, Monomial, Source, Terms


@dataclass(frozen=True, slots=True)
class Equation:
    """``terms`` must equal the number of kept channels of ``ids``, or never change (``None``)."""

    terms: Terms
    ids: IdArray | None
    reason: str


class Units:
    """The trace's ids, renumbered: unit of each id, and why a unit must stay."""

    def __init__(self, ids: Ids, order: Iterable[IdArray]) -> None:
        """Number the classes of ids in the order in which they appear in ``order``."""
        listed = [ids.find(part).ravel() for part in order]
        roots = np.concatenate(listed) if listed else np.zeros(0, dtype=np.int32)
        distinct, first = np.unique(roots, return_index=True)
        distinct = distinct[np.argsort(first)]
        distinct = distinct[distinct != 0]
        self.n = int(distinct.size)
        number = np.full(ids.count, -1, dtype=np.int64)
        number[distinct] = np.arange(self.n)
        self._of_id = number[ids.find(np.arange(ids.count, dtype=np.int32))]
        self.why: dict[int, str] = {}
        self.frozen: BoolArray = np.zeros(self.n, dtype=bool)
        given = np.flatnonzero(ids.why)
        for i in given[np.argsort(ids.why[given], kind="stable")]:
            if self._of_id[i] >= 0:
                self.why.setdefault(int(self._of_id[i]), ids.reasons[ids.why[i]])
        self.frozen[list(self.why)] = True

    def of(self, ids: IdArray) -> IntArray:
        """Unit of each id, same shape; -1 for an id that stands in no tensor of the model."""
        units: IntArray = self._of_id[ids]
        return units

    def freeze(self, units: IntArray, reason: str) -> bool:
        """Keep these units; whether any of them was free until now."""
        units = np.unique(units)
        units = units[units >= 0]
        new = units[~self.frozen[units]]
        self.frozen[new] = True
        self.why.update((int(unit), reason) for unit in new)
        return bool(new.size)


@dataclass
class Sizes:
    """Collects equations while a model runs, and settles them.

    Attributes:
        values: value of each attribute when it was read.
        rigid: attributes whose value enters the arithmetic.
    """

    equations: list[Equation] = field(default_factory=list)
    values: dict[Attr, int] = field(default_factory=dict)
    rigid: set[Attr] = field(default_factory=set)

    def require(self, terms: Terms, ids: IdArray | None, reason: str) -> None:
        """Add an equation."""
        self.equations.append(Equation(terms, ids, reason))

    def rigid_in_use(self) -> set[Attr]:
        """Attributes that size a line of channels although their value must not change."""
        used = {
            source
            for equation in self.equations
            if equation.ids is not None
            for monomial in equation.terms
            for source, _ in monomial
            if isinstance(source, Attr)
        }
        return used & self.rigid

    def settle(
        self, units: Units, raw: Sequence[RawBalance]
    ) -> tuple[tuple[Balance, ...], tuple[IntField, ...]]:
        """Freeze until everything agrees; then name the balances and the attributes."""
        while True:
            balances = _Balances(units)
            changed = False
            uneven: list[RawBalance] = []
            for balance in raw:
                parts = [units.of(p) for p in balance.parts]
                if _once_each(parts):
                    changed |= balances.add(parts, balance.reason)
                else:
                    uneven.append(balance)
            definitions, conflict = self._define(units)
            changed |= conflict
            for equation in self.equations:
                changed |= _check(equation, definitions, self.values, units, balances)
            for balance in uneven:
                changed |= _check_uneven(balance, units, balances)
            if not changed:
                return balances.distinct(), _fields(definitions, units)

    def _define(self, units: Units) -> tuple[dict[Attr, IntArray], bool]:
        """The line whose count each attribute is, from equations that name it alone."""
        definitions: dict[Attr, IntArray] = {}
        fixed = set(self.rigid)
        for equation in self.equations:
            source = _single(equation.terms)
            if source is None:
                continue
            found = None if equation.ids is None else units.of(equation.ids)
            if found is None or (found < 0).any():
                # A constant, or a line with places that no tensor of the model holds.
                fixed.add(source)
            if found is not None:
                definitions.setdefault(source, found)
        conflict = False
        for attr in [a for a in definitions if a in fixed]:
            reason = f"{attr.module}.{attr.name} must keep its value"
            conflict |= units.freeze(definitions.pop(attr), reason)
        return definitions, conflict


def _single(terms: Terms) -> Attr | None:
    if len(terms) == 1:
        ((monomial, coefficient),) = terms.items()
        if coefficient == 1 and len(monomial) == 1 and monomial[0][1] == 1:
            source = monomial[0][0]
            return source if isinstance(source, Attr) else None
    return None


def _fields(definitions: Mapping[Attr, IntArray], units: Units) -> tuple[IntField, ...]:
    return tuple(
        IntField(module=attr.module, attr=attr.name, index=attr.index, units=line_units)
        for attr, line_units in definitions.items()
        if _free(line_units, units).any()
    )


def _free(line_units: IntArray, units: Units) -> BoolArray:
    mask: BoolArray = (line_units >= 0) & ~units.frozen[line_units]
    return mask


def _count(line_units: IntArray, units: Units) -> IntArray:
    """How often each free unit stands in a line."""
    return np.bincount(line_units[_free(line_units, units)], minlength=units.n).astype(np.int64)


def _check(
    equation: Equation,
    definitions: Mapping[Attr, IntArray],
    values: Mapping[Attr, int],
    units: Units,
    balances: _Balances,
) -> bool:
    """Meet one equation by a balance, or freeze what stands in it; whether anything froze."""
    target = np.zeros(0, dtype=np.int64) if equation.ids is None else units.of(equation.ids)
    total = [(Fraction(-1), _count(target, units))]
    for monomial, coefficient in equation.terms.items():
        factor, lines = _reduce(monomial, definitions, values, units)
        if len(lines) > 1 or any(power != 1 for _, power in lines):
            involved = np.concatenate([target, *(found for found, _ in lines)])
            return units.freeze(involved, equation.reason)
        total += [(coefficient * factor, _count(found, units)) for found, _ in lines]
    scale = lcm(*(c.denominator for c, _ in total))
    vector = sum((int(c * scale) * count for c, count in total), np.zeros(units.n, dtype=np.int64))
    if not vector.any() or balances.imply(vector):
        return False
    more, less = np.flatnonzero(vector > 0), np.flatnonzero(vector < 0)
    if more.size == less.size and np.unique(np.abs(vector[vector != 0])).size == 1:
        parts = sorted((more, less), key=lambda part: int(part[0]))
        return balances.add(parts, equation.reason)
    return units.freeze(np.flatnonzero(vector), equation.reason)


def _once_each(parts: list[IntArray]) -> bool:
    """Whether every unit of every part stands there equally often."""
    counts = [np.unique(part[part >= 0], return_counts=True)[1] for part in parts]
    return bool(np.unique(np.concatenate(counts)).size <= 1)


def _check_uneven(balance: RawBalance, units: Units, balances: _Balances) -> bool:
    """A balance in which units repeat: it must follow from the others."""
    first, *rest = [_count(units.of(part), units) for part in balance.parts]
    changed = False
    for other in rest:
        vector = first - other
        if vector.any() and not balances.imply(vector):
            changed |= units.freeze(np.flatnonzero(vector), balance.reason)
    return changed


def _reduce(
    monomial: Monomial,
    definitions: Mapping[Attr, IntArray],
    values: Mapping[Attr, int],
    units: Units,
) -> tuple[Fraction, list[tuple[IntArray, int]]]:
    """The constant factor of a monomial, and the lines (with powers) that may change."""
    factor = Fraction(1)
    lines: list[tuple[IntArray, int]] = []
    for source, power in monomial:
        found = _line_of(source, definitions, units)
        if found is not None and _free(found, units).any():
            lines.append((found, power))
        else:
            value = source.ids.shape[source.axis] if isinstance(source, Dim) else values[source]
            factor *= Fraction(value) ** power
    return factor, lines


def _line_of(source: Source, definitions: Mapping[Attr, IntArray], units: Units) -> IntArray | None:
    if isinstance(source, Attr):
        return definitions.get(source)
    found = units.of(line(source.ids, source.axis))
    # An axis along which nothing differs is not one that shrinks.
    return found if np.unique(found).size > 1 else None


class _Balances:
    """Balances over units, without repeats and without what others already say."""

    def __init__(self, units: Units) -> None:
        self._units = units
        self._found: list[Balance] = []
        self._known: set[tuple[bytes, ...]] = set()

    def add(self, parts: list[IntArray], reason: str) -> bool:
        """Add one, or freeze what cannot be balanced; whether anything froze."""
        units = self._units
        counted = [np.unique(part[part >= 0], return_counts=True) for part in parts]
        repeats = np.unique(np.concatenate([count for _, count in counted]))
        # Parts that turned out to be the same units (queries and keys) count once.
        lines = list({found.tobytes(): found for found, _ in counted}.values())
        shared = lines[0]
        for other in lines[1:]:
            shared = np.intersect1d(shared, other, assume_unique=True)
        lines = [np.setdiff1d(found, shared, assume_unique=True) for found in lines]
        everything = np.concatenate(lines)
        if not any(_free(found, units).any() for found in lines):
            return False
        apart = np.unique(everything).size == everything.size
        even = len({found.size for found in lines}) == 1 and repeats.size == 1
        if not (apart and even) or not all(_free(found, units).any() for found in lines):
            return units.freeze(everything, reason)
        key = tuple(found.tobytes() for found in lines)
        if key not in self._known:
            self._known.add(key)
            self._known.update((a, b) for a in key for b in key)
            self._found.append(Balance(parts=tuple(lines), reason=reason))
        return False

    def imply(self, vector: IntArray) -> bool:
        """Whether the balances so far make the count that ``vector`` weighs always zero."""
        if (np.abs(vector) <= 1).all():
            key = (np.flatnonzero(vector > 0).tobytes(), np.flatnonzero(vector < 0).tobytes())
            if key in self._known:
                return True
        rows = []
        for balance in self._found:
            first = self._indicator(balance.parts[0])
            rows += [first - self._indicator(part) for part in balance.parts[1:]]
        if not rows:
            return False
        atoms = _distinct_columns(np.stack([*rows, vector])).astype(np.float64)
        known = int(np.linalg.matrix_rank(atoms[:-1]))
        return known == int(np.linalg.matrix_rank(atoms))

    def _indicator(self, part: IntArray) -> NDArray[np.int64]:
        return _count(part, self._units)

    def distinct(self) -> tuple[Balance, ...]:
        """All of them, less those whose parts are put together from finer ones."""
        return tuple(
            balance
            for balance in self._found
            if not _covered(balance, [other for other in self._found if other is not balance])
        )


def _distinct_columns(table: IntArray) -> IntArray:
    """The columns without repeats, told apart by a random sum of their entries."""
    weights = np.random.default_rng(0).integers(1, 2**62, size=table.shape[0])
    _, first = np.unique(weights @ table, return_index=True)
    found: IntArray = table[:, first]
    return found


def _covered(balance: Balance, others: list[Balance]) -> bool:
    """Whether each part is the union of the same parts of finer balances."""
    left = [set(part.tolist()) for part in balance.parts]
    for other in others:
        if len(other.parts) != len(left):
            continue
        pieces = [set(part.tolist()) for part in other.parts]
        smaller = len(pieces[0]) < balance.parts[0].size
        if smaller and all(piece <= rest for piece, rest in zip(pieces, left, strict=True)):
            left = [rest - piece for piece, rest in zip(pieces, left, strict=True)]
    return not left[0]
