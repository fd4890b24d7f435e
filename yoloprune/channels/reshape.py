"""Axes split and merged: which of them a cut makes shorter, and what that asks of the channels.

``[heads * d] → [heads, d]`` can lose channels in two ways: the same *number* in every row, or
whole rows. ``[heads, d] → [heads * d]`` keeps the order of what is left only when the axis
that shrinks is the inner one. Both are decided here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from yoloprune.channels.ids import IdArray, line, rows_along
from yoloprune.channels.provenance import Attr, Terms, TracedInt, terms_of
from yoloprune.channels.tracer import Tracer


def reshape(tracer: Tracer, ids: IdArray, shape: tuple[int, ...]) -> IdArray:
    """Follow channels through a reshape.

    Args:
        tracer: is written to; ``tracer.shape`` holds what the sizes were asked as.
        ids: ids before, of any shape.
        shape: the shape after.

    Returns:
        The ids after.
    """
    varying = tracer.ids.varying(ids)
    made = ids.reshape(shape)
    if not varying:
        return made
    asked: Sequence[int | None] = tracer.shape or ()
    if len(asked) != len(shape):
        asked = [None] * len(shape)
    for before, after in _groups(ids.shape, shape):
        inside = [axis for axis in before if axis in varying]
        if not inside:
            continue
        moved = _long(ids.shape, before) != _long(shape, after)
        outside = [axis for axis in varying if axis not in before]
        if moved and outside:
            tracer.ids.freeze(np.unique(ids), f"axes of channels are regrouped in {tracer.where}")
            return made
        if len(inside) > 1 and moved:
            _merge(tracer, ids, inside)
        _split(tracer, made, after, asked)
    return made


def _groups(
    before: tuple[int, ...], after: tuple[int, ...]
) -> Iterator[tuple[list[int], list[int]]]:
    """Smallest runs of axes, before and after, that hold the same number of elements."""
    i = j = 0
    while i < len(before) or j < len(after):
        left: list[int] = []
        right: list[int] = []
        a = b = 1
        while True:
            if i < len(before) and (a < b or (a == b and not left)):
                a *= before[i]
                left.append(i)
                i += 1
            elif j < len(after) and (b < a or (a == b and not right)):
                b *= after[j]
                right.append(j)
                j += 1
            else:
                break
        yield left, right


def _long(shape: tuple[int, ...], axes: list[int]) -> list[int]:
    return [shape[axis] for axis in axes if shape[axis] != 1]


def _merge(tracer: Tracer, ids: IdArray, axes: list[int]) -> None:
    """Two or more axes with channels become one: the order must survive a cut."""
    if len(axes) > 2:
        tracer.ids.freeze(np.unique(ids), f"three axes of channels become one in {tracer.where}")
        return
    table = ids[tuple(slice(None) if axis in axes else 0 for axis in range(ids.ndim))]
    rows = tracer.ids.row[table]
    if rows_along(rows):
        return
    if rows_along(rows.T):
        # The axis that shrinks is the outer one: the same indices must go in every row.
        tracer.ids.unify(table[:, :1], table)
        return
    tracer.ids.freeze(np.unique(ids), f"two axes of channels become one in {tracer.where}")


def _split(tracer: Tracer, made: IdArray, axes: list[int], asked: Sequence[int | None]) -> None:
    """Choose the axis that shrinks, tie the rest to it, and check what its size was asked as."""
    varying = [axis for axis in axes if tracer.ids.varies(made, axis)]
    if not varying or (len(varying) == 1 and _keep_rows(tracer, made, varying[0], asked)):
        return
    able = [axis for axis in varying if _can_follow(tracer, asked[axis])]
    reason = f"a reshape in {tracer.where} asks for a fixed number of channels"
    if not able:
        tracer.ids.freeze(np.unique(made), reason)
        return
    shrinks = able[-1]
    for axis in varying:
        if axis > shrinks:
            first = made[(slice(None),) * axis + (slice(0, 1),)]
            tracer.ids.unify(np.broadcast_to(first, made.shape), made)
    outer = [axis for axis in varying if axis < shrinks]
    if outer:
        _balance_rows(tracer, made, outer, shrinks)
    for axis in axes:
        wanted = asked[axis]
        if wanted is None or int(wanted) == -1:
            continue
        if axis == shrinks:
            tracer.sizes.require(terms_of(wanted), line(made, axis), reason)
        elif isinstance(wanted, TracedInt) and made.shape[axis] > 1:
            tracer.sizes.require(wanted.terms, None, reason)


def _keep_rows(tracer: Tracer, made: IdArray, axis: int, asked: Sequence[int | None]) -> bool:
    """For an axis that counts rows: its size must not change. Whether it is one."""
    if not tracer.ids.is_row_axis(made, axis):
        return False
    wanted = asked[axis]
    if isinstance(wanted, TracedInt):
        reason = f"the number of rows in {tracer.where} must stay"
        tracer.sizes.require(wanted.terms, None, reason)
    return True


def _can_follow(tracer: Tracer, wanted: int | None) -> bool:
    """Whether a size that was asked for as ``wanted`` can change with the channels."""
    if wanted is None or int(wanted) == -1:
        return True
    return isinstance(wanted, TracedInt) and not _held(tracer, wanted.terms)


def _held(tracer: Tracer, terms: Terms) -> bool:
    sources = {source for monomial in terms for source, _ in monomial}
    if not sources:
        return True
    return any(isinstance(source, Attr) and source in tracer.held for source in sources)


def _balance_rows(tracer: Tracer, made: IdArray, outer: list[int], shrinks: int) -> None:
    keep = [*outer, shrinks]
    table = made[tuple(slice(None) if axis in keep else 0 for axis in range(made.ndim))]
    rows = table.reshape(-1, made.shape[shrinks])
    tracer.ids.mark_rows(rows)
    tracer.ids.balance(tuple(rows), f"{rows.shape[0]} rows in {tracer.where}")
