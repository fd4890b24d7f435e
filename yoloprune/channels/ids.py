"""Channel ids: where channels begin, which of them turned out to be one, which must stay."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

IdArray = NDArray[np.int32]
NONE = 0
"""The id of an element that carries no channel."""


@dataclass(frozen=True, slots=True)
class RawBalance:
    """Lines of ids of which equal numbers must stay, as the trace met them."""

    parts: tuple[IdArray, ...]
    reason: str


@dataclass
class Ids:
    """A union-find over channel ids.

    The arrays are longer than the ids that were begun, so that a new layer copies none of them:
    places beyond ``count`` stand ready, each its own root.

    Attributes:
        count: how many ids there are, with 0, which is no channel.
        parent: int32 ``[>= count]``: an id of the same class that is nearer to the root; the root
            is its own. ``parent[0] == 0``.
        row: int64 ``[>= count]``: which row of a split axis (heads, groups) the id stood in last;
            0 where it never did.
        why: int32 ``[>= count]``: number of the reason to keep the id; 0 where there is none.
        balances: in the order in which they were asked for.
    """

    count: int = 1
    parent: IdArray = field(default_factory=lambda: np.zeros(1, dtype=np.int32))
    row: NDArray[np.int64] = field(default_factory=lambda: np.zeros(1, dtype=np.int64))
    why: NDArray[np.int32] = field(default_factory=lambda: np.zeros(1, dtype=np.int32))
    reasons: list[str] = field(default_factory=lambda: [""])
    balances: list[RawBalance] = field(default_factory=list)
    rows: int = 0

    def fresh(self, n: int) -> IdArray:
        """Begin ``n`` new channels."""
        new = np.arange(self.count, self.count + n, dtype=np.int32)
        self.count += n
        if self.count > self.parent.size:
            more = np.arange(self.parent.size, 2 * self.count, dtype=np.int32)
            self.parent = np.concatenate((self.parent, more))
            self.row = np.concatenate((self.row, np.zeros(more.size, dtype=np.int64)))
            self.why = np.concatenate((self.why, np.zeros(more.size, dtype=np.int32)))
        return new

    def find(self, ids: IdArray) -> IdArray:
        """The root of each id, same shape. Ways that were long are half as long afterwards."""
        found: IdArray = self.parent[ids]
        while True:
            above = self.parent[found]
            if np.array_equal(above, found):
                return found
            self.parent[ids] = above
            ids, found = found, above

    def unify(self, a: IdArray, b: IdArray) -> None:
        """Make ``a`` and ``b`` one, pair by pair; pairs with an element of no channel are left."""
        ra, rb = np.broadcast_arrays(self.find(a), self.find(b))
        differs = (ra != rb) & (ra != NONE) & (rb != NONE)
        ra, rb = ra[differs], rb[differs]
        while ra.size:
            # The least of all that a root met becomes its parent; the others meet that one next.
            np.minimum.at(self.parent, np.maximum(ra, rb), np.minimum(ra, rb))
            ra, rb = self.find(ra), self.find(rb)
            differs = ra != rb
            ra, rb = ra[differs], rb[differs]

    def freeze(self, ids: IdArray, reason: str, *, tell: bool = False) -> None:
        """Keep these channels for good; the first reason is told, or the one that says so."""
        ids = unrepeated(ids).ravel()
        ids = ids[(ids != NONE) & ((self.why[ids] == 0) | tell)]
        if ids.size:
            if self.reasons[-1] != reason:
                self.reasons.append(reason)
            self.why[ids] = len(self.reasons) - 1

    def balance(self, parts: tuple[IdArray, ...], reason: str) -> None:
        """Ask that equal numbers of every part stay."""
        self.balances.append(RawBalance(tuple(np.array(part) for part in parts), reason))

    def mark_rows(self, lines: IdArray) -> None:
        """Remember that the rows of ``lines`` ``[rows, n]`` lose channels each for itself."""
        numbers = self.rows + 1 + np.arange(lines.shape[0])
        self.rows += lines.shape[0]
        self.row[lines] = numbers[:, None]
        self.row[NONE] = 0

    def is_row_axis(self, ids: IdArray, axis: int) -> bool:
        """Whether ``axis`` counts rows (heads) of which each loses channels for itself."""
        if not ids.size or not self.row[ids.flat[0]] or not self.varies(ids, axis):
            return False
        for other in range(ids.ndim):
            if other != axis and self.varies(ids, other):
                table = ids[
                    tuple(slice(None) if i in (axis, other) else 0 for i in range(ids.ndim))
                ]
                if rows_along(self.row[table if axis < other else table.T]):
                    return True
        return False

    def varies(self, ids: IdArray, axis: int) -> bool:
        """Whether channels differ along ``axis`` (after what is known to be one)."""
        if ids.shape[axis] <= 1 or not ids.strides[axis]:
            return False
        ids = unrepeated(ids)
        first = ids[(slice(None),) * axis + (slice(0, 1),)]
        if not (ids != first).any():
            return False
        found = self.find(ids)
        return bool((found != found[(slice(None),) * axis + (slice(0, 1),)]).any())

    def varying(self, ids: IdArray) -> tuple[int, ...]:
        """The axes along which channels differ."""
        return tuple(axis for axis in range(ids.ndim) if self.varies(ids, axis))


def unrepeated(ids: IdArray) -> IdArray:
    """The same ids with each axis along which memory has them once (stride 0) of size 1."""
    once: IdArray = ids[tuple(slice(None) if step else slice(0, 1) for step in ids.strides)]
    return once


def line(ids: IdArray, axis: int) -> IdArray:
    """The ids along ``axis`` at index 0 of all others."""
    index = tuple(slice(None) if i == axis else 0 for i in range(ids.ndim))
    found: IdArray = ids[index]
    return found


def rows_along(rows: NDArray[np.int64]) -> bool:
    """Whether the second axis of a table of row numbers is the one that shrinks, row by row."""
    known = rows.shape[0] > 1 and bool((rows != 0).all())
    return known and bool((rows == rows[:, :1]).all()) and bool((rows[0] != rows[1]).all())
