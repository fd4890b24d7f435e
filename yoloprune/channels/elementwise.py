"""Operations that work element by element: what meets becomes one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from yoloprune.channels.ids import NONE, IdArray, unrepeated
from yoloprune.channels.shadow import key
from yoloprune.channels.table import rule, tensors_in
from yoloprune.channels.tracer import Tracer


@rule(
    "_to_copy",
    "contiguous",
    "native_dropout",
    "dropout",
    "bernoulli",
    "zeros_like",
    "ones_like",
    "empty_like",
    "full_like",
    "rand_like",
    "randn_like",
    "copy",
    "_prelu_kernel",
)
def pointwise(tracer: Tracer, name: str, args: Sequence[Any], out: Any) -> None:
    """Elementwise: what meets element by element becomes one."""
    result = out[0] if isinstance(out, (tuple, list)) else out
    if not isinstance(result, Tensor):
        return
    operands = tensors_in(list(args))
    if name == "copy_":
        operands = operands[1:]
        if tracer.shadows.has(result) and not tracer.shadows.has(operands[0]):
            tracer.shadows.put(result, np.zeros((), dtype=np.int32))
    carriers = [t for t in operands if tracer.shadows.has(t)]
    if not carriers:
        _compute(tracer, operands, result)
        return
    others = [t for t in operands if t.numel() > 1 and not any(t is c for c in carriers)]
    if len(carriers) == 1 and not others and carriers[0].shape == result.shape:
        if carriers[0] is not result:
            tracer.shadows.share(result, carriers[0])
        return
    ids = _meet(tracer, name, carriers, others, tuple(result.shape))
    tracer.shadows.put(result, ids)


def _compute(tracer: Tracer, operands: list[Tensor], result: Tensor) -> None:
    """Remember a vector that comes of parameters alone: ``weight * (var + eps).rsqrt()``."""
    vectors = [tracer.vector_of(t) for t in operands if t.numel() > 1]
    fits = max(result.shape, default=0) == result.numel() and key(result) not in tracer.tensors
    if vectors and all(vectors) and fits:
        sources = {id(source): source for found in vectors for source in found}
        tracer.vectors[tracer.shadows.number(result)] = tuple(sources.values())


def _meet(
    tracer: Tracer,
    name: str,
    carriers: list[Tensor],
    others: list[Tensor],
    shape: tuple[int, ...],
) -> IdArray:
    """Unify operands that broadcast together; the ids of the result."""
    found = [ids for ids in map(tracer.get, carriers) if ids is not None]
    _note_sides(tracer, name, found)
    aligned = [_align(ids, len(shape)) for ids in found]
    axes = [tracer.ids.varying(ids) for ids in aligned]
    varied = {axis for found in axes for axis in found}
    for tensor in others:
        size = _align_shape(tuple(tensor.shape), len(shape))
        if not any(size[axis] > 1 for axis in varied):
            continue
        own = tracer.param_ids(tensor)
        if own is not None:
            aligned.append(_align(own, len(shape)))
            axes.append(tracer.ids.varying(aligned[-1]))
        else:
            tracer.freeze(carriers, f"{name} with a tensor that was made for this many channels")
    result = np.broadcast_to(np.zeros((), dtype=np.int32), shape)
    order = sorted(range(len(aligned)), key=lambda i: (-len(axes[i]), -aligned[i].size))
    for ids in (aligned[i] for i in order):
        stretched = [a for a in varied if ids.shape[a] == 1 and shape[a] > 1]
        spread = [a for a in stretched if tracer.ids.varies(result, a)]
        if spread and ids.any():
            tracer.ids.freeze(np.unique(ids), f"spread over other channels in {tracer.where}")
            continue
        wide = np.broadcast_to(ids, shape)
        if unrepeated(result).any():
            unify_pairs(tracer, result, wide)
            first, other = unrepeated(result), unrepeated(wide)
            result = np.broadcast_to(np.where(first == NONE, other, first), shape)
        else:
            result = wide
    return result


def _note_sides(tracer: Tracer, name: str, sides: list[IdArray]) -> None:
    """Keep what is multiplied by what, and what is added to others."""
    kind = name.removesuffix("_")
    if len(sides) == 2 and kind in ("mul", "add", "sub", "rsub"):
        one, other = (set(np.unique(unrepeated(ids)).tolist()) for ids in sides)
        if kind == "mul":
            tracer.gates.append((one, other))
        else:
            tracer.added |= one | other


def unify_pairs(tracer: Tracer, a: IdArray, b: IdArray) -> None:
    """Unify two arrays of one shape, looking at each pair of lines once."""
    a, b = np.broadcast_arrays(unrepeated(a), unrepeated(b))
    keep = tuple(
        slice(None) if (a != a[leading(i)]).any() or (b != b[leading(i)]).any() else slice(0, 1)
        for i in range(a.ndim)
    )
    a, b = a[keep], b[keep]
    lonely = (a == NONE) != (b == NONE)
    if lonely.any():
        alone = np.where(a == NONE, b, a)[lonely]
        tracer.ids.freeze(np.unique(alone), f"meets elements without channels in {tracer.where}")
    tracer.ids.unify(a, b)


def leading(axis: int) -> tuple[slice, ...]:
    """The index that keeps only the first entry along ``axis``."""
    return (slice(None),) * axis + (slice(0, 1),)


def _align(ids: IdArray, ndim: int) -> IdArray:
    return ids.reshape((1,) * (ndim - ids.ndim) + ids.shape)


def _align_shape(shape: tuple[int, ...], ndim: int) -> tuple[int, ...]:
    return (1,) * (ndim - len(shape)) + shape
