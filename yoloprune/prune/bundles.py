"""Units that go together: balances joined into bundles, and how many channels each takes where."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from yoloprune.channels.graph import Balance, BoolArray, ChannelGraph, IntArray
from yoloprune.errors import PlanError
from yoloprune.measure.quantiles import FloatArray


@dataclass(frozen=True, slots=True)
class Counts:
    """Counted sets of units, in coordinate form: set ``row[i]`` holds ``unit[i]`` ``times[i]``.

    Attributes:
        size: int64 ``[sets]``: how many channels each set holds, repeats counted.
    """

    row: IntArray
    unit: IntArray
    times: IntArray
    size: IntArray

    @staticmethod
    def of(sets: Sequence[IntArray]) -> Counts:
        """From lists of units, in which a unit may stand more than once."""
        size = np.array([s.size for s in sets], dtype=np.int64)
        if not size.sum():
            empty = np.zeros(0, dtype=np.int64)
            return Counts(empty, empty, empty, size)
        unit = np.concatenate(sets)
        span = int(unit.max()) + 1
        key, times = np.unique(
            np.repeat(np.arange(len(sets)), size) * span + unit, return_counts=True
        )
        return Counts(key // span, key % span, times.astype(np.int64), size)


@dataclass(frozen=True, slots=True)
class Bundles:
    """Units that go together, in the order in which they would go.

    Attributes:
        of_unit: int64 ``[n_units]``: rank of the unit's bundle, -1 where it must stay.
        score: float64 ``[bundles]``, ascending but for the first.
        channels: int64 ``[bundles]``.
        first: how many of them go before all others, whatever their score.
    """

    of_unit: IntArray
    score: FloatArray
    channels: IntArray
    first: int = 0

    def led_by(self, leads: BoolArray) -> Bundles:
        """The same, but those of ``leads``, bool ``[bundles]``, go first; else as before."""
        order = np.argsort(~leads, kind="stable")
        rank = np.empty_like(order)
        rank[order] = np.arange(order.size)
        of_unit = np.where(self.of_unit < 0, -1, rank[self.of_unit])
        return Bundles(of_unit, self.score[order], self.channels[order], int(leads.sum()))

    def count(self, counts: Counts) -> Entries:
        """How many channels of each counted set each bundle takes."""
        n = self.score.size
        bundle = self.of_unit[counts.unit]
        goes = bundle >= 0
        key = counts.row[goes] * n + bundle[goes]
        order = np.argsort(key, kind="stable")
        key = key[order]
        first = np.flatnonzero(np.diff(key, prepend=-1))
        times = np.add.reduceat(counts.times[goes][order], first) if key.size else key
        row, rank = np.divmod(key[first], max(n, 1))
        return Entries(row, rank, times, counts.size, np.searchsorted(row, row))


@dataclass(frozen=True, slots=True)
class Entries:
    """:class:`Counts` by bundle, sorted by set and then by the order of going.

    Attributes:
        start: int64 ``[entries]``: position of the first entry of the same set.
    """

    row: IntArray
    bundle: IntArray
    times: IntArray
    size: IntArray
    start: IntArray

    def running(self, times: IntArray) -> IntArray:
        """Running sum of ``times`` within each set, the entry itself included."""
        total = np.concatenate(([0], np.cumsum(times)))
        return total[1:] - total[self.start]

    def taken(self, removed: BoolArray) -> IntArray:
        """Int64 ``[sets]``: channels that each set loses when these bundles go."""
        return np.bincount(
            self.row, weights=self.times * removed[self.bundle], minlength=self.size.size
        ).astype(np.int64)


@dataclass(frozen=True, slots=True)
class Level:
    """Balances without a unit in common: their pairings are made in one go.

    Attributes:
        units: int64 ``[entries]``, part after part.
        part: int64 ``[entries]``: number of the part.
        left: int64 ``[m]``: positions in ``units`` sorted by part and rank …
        right: int64 ``[m]``: … each to be joined to the one on its left.
    """

    units: IntArray
    part: IntArray
    left: IntArray
    right: IntArray


def levels(balances: Sequence[Balance]) -> list[Level]:
    """Sort balances into levels without common units; short (nested) ones come first."""
    parts_of = {}
    for balance in balances:
        if len({part.size for part in balance.parts}) != 1:
            sizes = ", ".join(str(part.size) for part in balance.parts)
            raise PlanError(f"{balance.reason}: parts hold {sizes} units, expected equal counts.")
        parts = _without_shared(balance.parts)
        if parts[0].size:
            parts_of[b"|".join(part.tobytes() for part in parts)] = parts
    level_of: dict[int, int] = {}
    found: list[list[tuple[IntArray, ...]]] = []
    for parts in sorted(parts_of.values(), key=lambda parts: parts[0].size):
        units = np.unique(np.concatenate(parts)).tolist()
        level = 1 + max((level_of.get(unit, -1) for unit in units), default=-1)
        level_of.update(dict.fromkeys(units, level))
        if level == len(found):
            found.append([])
        found[level].append(parts)
    return [_level(members) for members in found]


def _without_shared(parts: tuple[IntArray, ...]) -> tuple[IntArray, ...]:
    """Leave out units that stand equally often in every part: they keep any balance."""
    n = 1 + max((int(part.max()) for part in parts if part.size), default=0)
    times = np.stack([np.bincount(part, minlength=n) for part in parts])
    uneven = (times != times[0]).any(axis=0)
    return tuple(part[uneven[part]] for part in parts)


def _level(balances: Sequence[tuple[IntArray, ...]]) -> Level:
    units: list[IntArray] = []
    left: list[IntArray] = []
    right: list[IntArray] = []
    start = 0
    for parts in balances:
        first = start + np.arange(parts[0].size)
        for i, part in enumerate(parts):
            units.append(part)
            if i:
                left.append(first)
                right.append(first + i * part.size)
        start += len(parts) * parts[0].size
    part_of = np.repeat(np.arange(len(units)), [part.size for part in units])
    return Level(np.concatenate(units), part_of, np.concatenate(left), np.concatenate(right))


def join(label: IntArray, left: IntArray, right: IntArray) -> IntArray:
    """Union-find by numpy: give joined units the least of their labels.

    Args:
        label: int64 ``[n]``, each the least unit of its class.
        left: int64 ``[m]``: units …
        right: int64 ``[m]``: … each to be joined to the one on its left.
    """
    while True:
        a, b = label[left], label[right]
        if np.array_equal(a, b):
            return label
        parent = np.arange(label.size)
        np.minimum.at(parent, np.maximum(a, b), np.minimum(a, b))
        while not np.array_equal(parent, parent[parent]):
            parent = parent[parent]
        label = parent[label]


def mask(index: IntArray, n: int) -> BoolArray:
    """Bool ``[n]``, true at ``index``."""
    found = np.zeros(n, dtype=bool)
    found[index] = True
    return found


def reach(running: NDArray[np.int64], target: int) -> int:
    """How many leading items bring a running sum to ``target``; all where none does."""
    return min(int(np.searchsorted(running, target)) + 1, running.size)


def distinct_axes(graph: ChannelGraph) -> tuple[list[IntArray], list[IntArray]]:
    """The sets of units that must not run empty: layers, and what no layer stands for.

    Returns:
        The distinct unit lists of layers (``out`` axes), and those of other axes, fields and
        single groups of a grouped convolution that do not hold a whole layer (whose own floor
        would keep them filled).
    """
    layers = {axis.units.tobytes(): axis.units.ravel() for axis in graph.out_axes}
    others: dict[bytes, IntArray] = {}
    for units in (*(axis.units for axis in graph.axes), *(item.units for item in graph.fields)):
        for row in np.atleast_2d(units):
            others.setdefault(row.tobytes(), row)
    whole = [units for units in layers.values() if units.size]
    first = np.array([units[0] for units in whole], dtype=np.int64)
    needed = []
    for key, units in others.items():
        if key in layers or not units.size:
            continue
        inside = mask(units, graph.n_units)
        if not any(inside[whole[i]].all() for i in np.flatnonzero(inside[first])):
            needed.append(units)
    return list(layers.values()), needed
