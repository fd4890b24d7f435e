"""Calls that must be seen before ATen takes them apart, because it forgets what was asked for.

``x.chunk(2, 1)`` asks for equal halves, whatever the size; by the time it is a slice, the
bounds are numbers. ``x.view(b, self.c, -1)`` names an attribute that must follow.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from yoloprune.channels.ids import IdArray, line
from yoloprune.channels.layers import dense
from yoloprune.channels.provenance import TracedInt, terms_of
from yoloprune.channels.table import tensors_in
from yoloprune.channels.tracer import Tracer

Call = Callable[[], Any]
Handler = Callable[[Tracer, Sequence[Any], Mapping[str, Any], Call], Any]
"""``handler(tracer, args, kwargs, call)``: runs ``call`` and returns its result."""

HANDLERS: dict[Any, Handler] = {}


def handles(*functions: Any) -> Callable[[Handler], Handler]:
    """Enter a handler for each of ``functions``."""

    def enter(handler: Handler) -> Handler:
        for function in functions:
            if function in HANDLERS:
                raise ValueError(f"two handlers for {function}")
            HANDLERS[function] = handler
        return handler

    return enter


def intercept(tracer: Tracer, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Run one call of the torch API under the tracer's eyes."""

    def call() -> Any:
        return func(*args, **kwargs)

    if tracer.quiet:
        return call()
    handler = HANDLERS.get(func)
    if handler is not None:
        return handler(tracer, args, kwargs, call)
    for value in _traced(args, kwargs):
        tracer.on_rigid(value)
    return call()


def _traced(args: Any, kwargs: Mapping[str, Any]) -> Iterator[TracedInt]:
    for value in (*args, *kwargs.values()):
        if isinstance(value, TracedInt):
            yield value
        elif isinstance(value, (tuple, list)):
            yield from (item for item in value if isinstance(item, TracedInt))


def _quietly(tracer: Tracer, call: Call) -> Any:
    tracer.quiet = True
    try:
        return call()
    finally:
        tracer.quiet = False


def argument(
    args: Sequence[Any], kwargs: Mapping[str, Any], place: int, name: str, default: Any
) -> Any:
    """One of the arguments of a call, by its place or its name."""
    return args[place] if len(args) > place else kwargs.get(name, default)


# --- sizes handed out


@handles(torch.Tensor.shape.__get__)  # type: ignore[attr-defined]
def shape(tracer: Tracer, args: Sequence[Any], kwargs: Mapping[str, Any], call: Call) -> Any:
    """``x.shape``: sizes that remember the channels behind them."""
    ids = tracer.get(args[0])
    return call() if ids is None else torch.Size(_sizes(tracer, ids))


@handles(torch.Tensor.size)
def size(tracer: Tracer, args: Sequence[Any], kwargs: Mapping[str, Any], call: Call) -> Any:
    """``x.size()`` and ``x.size(1)``."""
    ids = tracer.get(args[0])
    if ids is None:
        return call()
    dim = argument(args, kwargs, 1, "dim", None)
    sizes = _sizes(tracer, ids)
    return torch.Size(sizes) if dim is None else sizes[dim]


def _sizes(tracer: Tracer, ids: IdArray) -> list[int]:
    return [
        n if n <= 1 or tracer.ids.is_row_axis(ids, axis) else tracer.size(ids, axis)
        for axis, n in enumerate(ids.shape)
    ]


# --- sizes asked for


def _asking(tracer: Tracer, wanted: list[int | None] | None, call: Call) -> Any:
    tracer.shape = wanted
    try:
        return call()
    finally:
        tracer.shape = None


def _listed(args: Sequence[Any], kwargs: Mapping[str, Any], *names: str) -> list[Any]:
    """Sizes given one by one, or as one sequence."""
    given = list(args[1:]) or [kwargs[name] for name in names if name in kwargs]
    if len(given) == 1 and isinstance(given[0], (tuple, list)):
        return list(given[0])
    return given


@handles(torch.Tensor.view, torch.Tensor.reshape, torch.reshape)
def view(tracer: Tracer, args: Sequence[Any], kwargs: Mapping[str, Any], call: Call) -> Any:
    """Remember what each size was asked as while the reshape is judged."""
    wanted = _listed(args, kwargs, "shape", "size")
    numbers = all(isinstance(n, int) for n in wanted)
    return _asking(tracer, wanted if numbers else None, call)


@handles(torch.Tensor.view_as, torch.Tensor.reshape_as)
def view_as(tracer: Tracer, args: Sequence[Any], kwargs: Mapping[str, Any], call: Call) -> Any:
    """The sizes of another tensor."""
    ids = tracer.get(args[1])
    sizes = list(args[1].shape) if ids is None else _sizes(tracer, ids)
    return _asking(tracer, list(sizes), call)


@handles(torch.Tensor.unflatten, torch.unflatten)
def unflatten(tracer: Tracer, args: Sequence[Any], kwargs: Mapping[str, Any], call: Call) -> Any:
    """One axis becomes several."""
    dim = argument(args, kwargs, 1, "dim", 0)
    sizes = list(argument(args, kwargs, 2, "sizes", ()))
    before = args[0].dim()
    wanted: list[int | None] = [None] * before
    wanted[dim % before : dim % before + 1] = sizes
    return _asking(tracer, wanted, call)


@handles(torch.Tensor.expand_as)
def expand_as(tracer: Tracer, args: Sequence[Any], kwargs: Mapping[str, Any], call: Call) -> Any:
    """Axes of channels must lose the same ones as the tensor that gives the size."""
    ids, other = tracer.get(args[0]), tracer.get(args[1])
    if ids is not None:
        lead = args[1].dim() - ids.ndim
        for axis in tracer.ids.varying(ids):
            if other is None:
                tracer.freeze(args[:1], "expanded to a tensor without channels")
            else:
                tracer.ids.unify(line(ids, axis), line(other, lead + axis))
    return call()


@handles(torch.Tensor.expand, torch.Tensor.broadcast_to, torch.broadcast_to)
def expand(tracer: Tracer, args: Sequence[Any], kwargs: Mapping[str, Any], call: Call) -> Any:
    """A size that is asked for on an axis of channels must follow them."""
    ids = tracer.get(args[0])
    if ids is not None:
        wanted = _listed(args, kwargs, "size", "shape")
        lead = len(wanted) - ids.ndim
        for axis in tracer.ids.varying(ids):
            _follow_size(tracer, wanted[lead + axis], ids, axis)
    return call()


@handles(torch.Tensor.repeat, torch.Tensor.tile, torch.tile)
def repeat(tracer: Tracer, args: Sequence[Any], kwargs: Mapping[str, Any], call: Call) -> Any:
    """How often channels are repeated must not depend on how many there are."""
    if tracer.shadows.has(args[0]):
        for n in _listed(args, kwargs, "repeats", "dims"):
            if isinstance(n, TracedInt):
                reason = f"channels are repeated by a traced number in {tracer.where}"
                tracer.sizes.require(n.terms, None, reason)
    return call()


def _follow_size(tracer: Tracer, wanted: int, ids: IdArray, axis: int) -> None:
    if wanted in (-1, 1):
        return
    reason = f"a fixed number of channels is asked for in {tracer.where}"
    tracer.sizes.require(terms_of(wanted), line(ids, axis), reason)


# --- axes cut into sections


@handles(torch.Tensor.chunk, torch.chunk)
def chunk(tracer: Tracer, args: Sequence[Any], kwargs: Mapping[str, Any], call: Call) -> Any:
    """Equal sections, whatever the size: equal numbers must stay in each."""
    n = int(argument(args, kwargs, 1, "chunks", 1))
    dim = int(argument(args, kwargs, 2, "dim", 0))
    ids = tracer.get(args[0])
    if ids is None or not _shrinks(tracer, ids, dim % ids.ndim):
        return call()
    total = ids.shape[dim]
    if total % n:
        tracer.freeze([args[0]], f"chunk({n}) of {total} channels")
    elif n > 1:
        rows = _rows(tracer, ids, dim % ids.ndim)
        parts = tuple(part for row in rows for part in np.split(row, n))
        tracer.ids.balance(parts, f"chunk({n}) in {tracer.where}")
    return _quietly(tracer, call)


@handles(torch.Tensor.split, torch.split, torch.Tensor.split_with_sizes, torch.split_with_sizes)
def split(tracer: Tracer, args: Sequence[Any], kwargs: Mapping[str, Any], call: Call) -> Any:
    """Sections whose sizes are given: each size must follow its section."""
    given = argument(args, kwargs, 1, "split_size", None)
    given = kwargs.get("split_size_or_sections", kwargs.get("split_sizes", given))
    dim = int(argument(args, kwargs, 2, "dim", 0))
    ids = tracer.get(args[0])
    if ids is None or not _shrinks(tracer, ids, dim % ids.ndim):
        return call()
    total = ids.shape[dim]
    wanted = [given] * -(-total // int(given)) if isinstance(given, int) else list(given)
    if sum(int(n) for n in wanted) != total:
        tracer.freeze([args[0]], f"split of {total} channels by {int(given)}")
        return _quietly(tracer, call)
    edges = np.cumsum([int(n) for n in wanted])[:-1]
    rows = [np.split(row, edges) for row in _rows(tracer, ids, dim % ids.ndim)]
    reason = f"split in {tracer.where}"
    for i, number in enumerate(wanted):
        tracer.sizes.require(terms_of(number), rows[0][i], reason)
        if len(rows) > 1:
            tracer.ids.balance(tuple(row[i] for row in rows), reason)
    return _quietly(tracer, call)


def _shrinks(tracer: Tracer, ids: IdArray, axis: int) -> bool:
    """Whether a cut can make this axis shorter."""
    return tracer.ids.varies(ids, axis) and not tracer.ids.is_row_axis(ids, axis)


def _rows(tracer: Tracer, ids: IdArray, axis: int) -> list[IdArray]:
    """The lines along ``axis``, one for each set of channels that the other axes tell apart."""
    others = [a for a in tracer.ids.varying(ids) if a != axis]
    table = ids[tuple(slice(None) if a in (*others, axis) else 0 for a in range(ids.ndim))]
    last = sum(a < axis for a in others)
    moved = np.moveaxis(table, last, -1)
    return list(moved.reshape(-1, ids.shape[axis]))


@handles(torch.Tensor.__getitem__)
def getitem(tracer: Tracer, args: Sequence[Any], kwargs: Mapping[str, Any], call: Call) -> Any:
    """Slices whose bounds follow the channels, as in ``x[:, : c // 2]``."""
    ids = tracer.get(args[0])
    index = args[1] if isinstance(args[1], tuple) else (args[1],)
    bounds = [b for i in index if isinstance(i, slice) for b in (i.start, i.stop)]
    if ids is None or not any(isinstance(b, TracedInt) for b in bounds):
        for value in _traced(index, {}):
            tracer.on_rigid(value)
        return call()
    if not all(isinstance(i, slice) for i in index) or len(index) > ids.ndim:
        tracer.freeze([args[0]], "slice with several kinds of index")
        return _quietly(tracer, call)
    for axis, part in enumerate(index):
        _bounded(tracer, ids, axis, part)
    return _quietly(tracer, call)


def _bounded(tracer: Tracer, ids: IdArray, axis: int, part: slice) -> None:
    start, stop, step = part.indices(ids.shape[axis])
    if (start, stop, step) == (0, ids.shape[axis], 1) or not tracer.ids.varies(ids, axis):
        return
    negative = any(b is not None and int(b) < 0 for b in (part.start, part.stop))
    if step != 1 or negative or len(tracer.ids.varying(ids)) > 1:
        tracer.ids.freeze(np.unique(ids), f"strided slice of channels in {tracer.where}")
        return
    along = line(ids, axis)
    reason = f"slice of channels in {tracer.where}"
    for bound, place in ((part.start, start), (part.stop, stop)):
        if bound is not None and not (bound is part.start and place == 0):
            tracer.sizes.require(terms_of(bound), along[:place], reason)


# --- layers that ATen takes apart


@handles(F.linear)
def linear(tracer: Tracer, args: Sequence[Any], kwargs: Mapping[str, Any], call: Call) -> Any:
    """A dense layer, before it becomes a matrix product with a transposed weight."""
    x = argument(args, kwargs, 0, "input", None)
    weight = argument(args, kwargs, 1, "weight", None)
    bias = argument(args, kwargs, 2, "bias", None)
    out = _quietly(tracer, call)
    tracer.touch((x, weight, bias))
    dense(tracer, (x, weight, bias), out)
    return out


@handles(F.conv1d, F.conv2d, F.conv3d)
def convolve(tracer: Tracer, args: Sequence[Any], kwargs: Mapping[str, Any], call: Call) -> Any:
    """A depthwise call that names its number of groups, as in ``groups=x.shape[1]``."""
    groups = argument(args, kwargs, 6, "groups", 1)
    ids = tracer.get(argument(args, kwargs, 0, "input", None))
    follows = isinstance(groups, TracedInt) and ids is not None and ids.shape[1] == groups
    if follows and ids is not None:
        _follow_size(tracer, groups, ids, 1)
    for value in _traced(args, kwargs):
        if not (follows and value is groups):
            tracer.on_rigid(value)
    return call()


@handles(F.multi_head_attention_forward)
def multi_head(tracer: Tracer, args: Sequence[Any], kwargs: Mapping[str, Any], call: Call) -> Any:
    """Its heads are packed into one width that its module checks."""
    given = tensors_in((list(args), dict(kwargs)))
    tracer.touch(given)
    tracer.freeze(given, "nn.MultiheadAttention")
    return _quietly(tracer, call)


@handles(F.scaled_dot_product_attention)
def attention(tracer: Tracer, args: Sequence[Any], kwargs: Mapping[str, Any], call: Call) -> Any:
    """``softmax(q kᵀ · scale) v`` over ``[..., tokens, width]``."""
    q, k, v = (argument(args, kwargs, i, n, None) for i, n in enumerate(("query", "key", "value")))
    out = _quietly(tracer, call)
    tracer.touch((q, k, v))
    left, right, value = tracer.get(q), tracer.get(k), tracer.get(v)
    pairs = math.prod(q.shape[:-1]) * int(k.shape[-2])
    for ids, width in ((left, q.shape[-1]), (value, v.shape[-1])):
        tracer.multiply(None if ids is None else ids[..., 0, :], pairs * int(width))
    for ids in (left, right, value):
        if ids is not None and tracer.ids.varies(ids, ids.ndim - 2):
            tracer.freeze((q, k, v), "attention over an axis of channels")
            return out
    if kwargs.get("scale") is None:
        tracer.freeze((q, k), "attention scaled by its width")
    elif left is None or right is None or left.shape[-1] != right.shape[-1]:
        tracer.freeze((q, k), "attention with fixed keys")
    else:
        tracer.ids.unify(left[..., 0, :], right[..., 0, :])
    if value is not None:
        tracer.shadows.put(out, value[..., :1, :])
    return out
