"""Rules of the layers that hold parameters: convolution, linear, BatchNorm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from yoloprune.channels.graph import Role
from yoloprune.channels.ids import IdArray, line
from yoloprune.channels.tracer import Tracer


def convolution(tracer: Tracer, args: Sequence[Any], out: Tensor) -> None:
    """Dense, grouped, depthwise or transposed.

    Args:
        tracer: is written to.
        args: of ``aten::convolution``: input ``[1, C_in, ...]``, weight, bias, stride,
            padding, dilation, transposed, output padding, groups.
        out: ``[1, C_out, ...]``.
    """
    x, weight, bias = args[0], args[1], args[2]
    transposed, groups = bool(args[6]), int(args[8])
    name = tracer.name_of(weight)
    if name is None:
        tracer.freeze([x, weight], "convolution with computed weights")
        return
    ids = tracer.get(x)
    incoming, mixed = _channel_line(tracer, ids, 1)
    n_out = out.shape[1]
    if groups == 1:
        outgoing = _dense(tracer, name, incoming, n_out, transposed)
    elif x.shape[1] == groups:
        outgoing = _depthwise(tracer, name, incoming, n_out, transposed)
    else:
        outgoing = _grouped(tracer, name, incoming, n_out, groups, transposed)
    if isinstance(bias, Tensor):
        _vector(tracer, bias, outgoing)
    if mixed:
        tracer.ids.freeze(outgoing, f"a convolution over an axis of channels in {tracer.where}")
    else:
        tracer.shadows.put(out, outgoing.reshape(1, -1, *([1] * (out.ndim - 2))))
    _made(tracer, out, name)


def _channel_line(tracer: Tracer, ids: IdArray | None, dim: int) -> tuple[IdArray | None, bool]:
    """The channels along ``dim``, and whether others differ along another axis (now frozen)."""
    if ids is None:
        return None, False
    if any(axis != dim % ids.ndim for axis in tracer.ids.varying(ids)):
        where = tracer.where
        tracer.ids.freeze(np.unique(ids), f"the layer {where} works along an axis of channels")
        return None, True
    found = line(ids, dim % ids.ndim)
    if not found.any():
        return None, False
    return tracer.filled(found, "joined with values without channels"), False


def _outgoing(tracer: Tracer, name: str, dim: int, n: int) -> IdArray:
    known = tracer.axes.get((name, dim))
    return known.ids.ravel() if known is not None else tracer.ids.fresh(n)


def _dense(
    tracer: Tracer, name: str, incoming: IdArray | None, n_out: int, transposed: bool
) -> IdArray:
    out_dim, in_dim = (1, 0) if transposed else (0, 1)
    outgoing = tracer.bind(name, out_dim, _outgoing(tracer, name, out_dim, n_out), "out")
    if incoming is not None:
        tracer.bind(name, in_dim, incoming, "in")
    else:
        tracer.keep_whole(name, in_dim)
    return outgoing


def _depthwise(
    tracer: Tracer, name: str, incoming: IdArray | None, n_out: int, transposed: bool
) -> IdArray:
    """One group a channel: ids pass through, repeated where each has several kernels."""
    tracer.depthwise.add(name.rpartition(".")[0])
    if incoming is None:
        # An input without channels (a picture): each plane stays.
        known = tracer.axes.get((name, 0))
        ids = known.ids if known is not None else tracer.ids.fresh(n_out)
        tracer.ids.freeze(ids, f"depthwise on a tensor without channels in {tracer.where}")
    else:
        ids = np.repeat(incoming, n_out // incoming.size)
        if transposed:
            tracer.bind(name, 0, incoming, "affine")
            return ids
    return tracer.bind(name, 0, ids, "affine")


def _grouped(
    tracer: Tracer,
    name: str,
    incoming: IdArray | None,
    n_out: int,
    groups: int,
    transposed: bool,
) -> IdArray:
    """Each group reads and writes channels of its own, the same number of them."""
    module = name.rpartition(".")[0]
    if transposed:
        known = tracer.axes.get((name, 1))
        rows = tracer.ids.fresh(n_out).reshape(groups, -1) if known is None else known.ids
        tracer.bind(name, 1, rows, "out")
        outgoing = rows.ravel()
    else:
        outgoing = tracer.bind(name, 0, _outgoing(tracer, name, 0, n_out), "out")
    if n_out == groups:
        tracer.ids.freeze(outgoing, f"one channel in each of {groups} groups of {module}")
    _balance(tracer, outgoing.reshape(groups, -1), f"{groups} groups out of {module}")
    if incoming is not None:
        _balance(tracer, incoming.reshape(groups, -1), f"{groups} groups into {module}")
        if transposed:
            tracer.bind(name, 0, incoming, "in")
        else:
            tracer.bind(name, 1, incoming.reshape(groups, -1), "in")
    else:
        tracer.keep_whole(name, 0 if transposed else 1)
    return outgoing


def _balance(tracer: Tracer, rows: IdArray, reason: str) -> None:
    tracer.ids.balance(tuple(rows), reason)


def dense(tracer: Tracer, args: Sequence[Any], out: Tensor) -> None:
    """A linear layer.

    Args:
        tracer: is written to.
        args: input ``[..., C_in]``, weight ``[C_out, C_in]``, bias or ``None``.
        out: ``[..., C_out]``.
    """
    x, weight = args[0], args[1]
    bias = args[2] if len(args) > 2 else None
    name = tracer.name_of(weight)
    ids = tracer.get(x)
    if name is None:
        tracer.freeze([x, weight], "linear layer with computed weights")
        return
    if ids is not None and not tracer.ids.varies(ids, ids.ndim - 1) and tracer.ids.varying(ids):
        _mixer(tracer, name, ids, bias, out)
        return
    incoming, mixed = _channel_line(tracer, ids, -1)
    outgoing = tracer.bind(name, 0, _outgoing(tracer, name, 0, out.shape[-1]), "out")
    if incoming is not None:
        tracer.bind(name, 1, incoming, "in")
    else:
        tracer.keep_whole(name, 1)
    if isinstance(bias, Tensor):
        _vector(tracer, bias, outgoing)
    if mixed:
        tracer.ids.freeze(outgoing, f"{tracer.where} works along an axis of channels")
    else:
        tracer.shadows.put(out, outgoing)
    _made(tracer, out, name)


def _mixer(tracer: Tracer, name: str, ids: IdArray, bias: Any, out: Tensor) -> None:
    """A linear layer over positions: each channel passes, the layer itself stays whole."""
    outgoing = tracer.bind(name, 0, _outgoing(tracer, name, 0, out.shape[-1]), "out")
    tracer.keep_whole(name, 1)
    tracer.ids.freeze(outgoing, f"{tracer.where} mixes positions, not channels")
    if isinstance(bias, Tensor):
        _vector(tracer, bias, outgoing)
    tracer.shadows.put(out, ids[..., :1])


def batch_norm(tracer: Tracer, args: Sequence[Any], out: Tensor) -> None:
    """BatchNorm with its running statistics.

    Args:
        tracer: is written to.
        args: input ``[1, C, ...]``, weight, bias, running mean, running variance.
        out: same shape as the input.
    """
    found, mixed = _channel_line(tracer, tracer.get(args[0]), 1)
    if found is None or mixed:
        for name in map(tracer.name_of, args[1:5]):
            if name is not None:
                tracer.keep_whole(name)
        return
    for vector in args[1:5]:
        if isinstance(vector, Tensor):
            _vector(tracer, vector, found)
    tracer.shadows.put(out, found.reshape(1, -1, *([1] * (out.ndim - 2))))
    reads = tracer.reads[-1]
    producer = reads.made_by.get(tracer.shadows.number(args[0]))
    norm, leaf = (tracer.name_of(args[1]) or "").rpartition(".")[::2]
    own = leaf == "weight" and tracer.name_of(args[3]) == f"{norm}.running_mean".lstrip(".")
    if producer is not None and own:
        reads.normed[tracer.shadows.number(args[0])] = norm


def _vector(tracer: Tracer, vector: Tensor, ids: IdArray) -> None:
    """One number a channel: a bias, or a tensor of a BatchNorm."""
    name = tracer.name_of(vector)
    role: Role = "affine"
    if name is not None:
        tracer.bind(name, 0, ids, role)
    else:
        tracer.ids.freeze(ids, f"values for each channel are computed in {tracer.where}")


def _made(tracer: Tracer, out: Tensor, weight: str) -> None:
    tracer.reads[-1].made_by[tracer.shadows.number(out)] = weight.rpartition(".")[0]
