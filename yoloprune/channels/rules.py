"""What each operation does to channels: a table from ATen name to a small function.

Views need no entry to carry ids (see :mod:`~yoloprune.channels.shadow`), only to be judged:
one that takes some channels and leaves others freezes them, because after a cut it would take
other ones. An operation without an entry freezes every channel that enters it, by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from yoloprune.channels.elementwise import leading, pointwise, unify_pairs
from yoloprune.channels.ids import IdArray, line
from yoloprune.channels.layers import batch_norm, convolution, dense
from yoloprune.channels.reshape import reshape
from yoloprune.channels.shadow import key
from yoloprune.channels.table import RULES, is_pointwise, rule, tensors_in
from yoloprune.channels.tracer import Tracer


def follow(tracer: Tracer, func: Any, args: Sequence[Any], out: Any) -> None:
    """Apply the rule of one ATen operation to what it read and what it made."""
    name = func._schema.name.removeprefix("aten::")
    found = RULES.get(name) or RULES.get(name.removesuffix("_"))
    if found is None and is_pointwise(func):
        found = pointwise
    if found is not None:
        found(tracer, name, args, out)
    elif any(tracer.shadows.has(t) for t in tensors_in(args)):
        tracer.freeze(tensors_in(args), f"{name} has no rule")
    if not (func.is_view or found in (conv, norm_layer, linear)):
        _keep_bare_parameters(tracer, tensors_in(args), out)


def _keep_bare_parameters(tracer: Tracer, tensors: list[Tensor], out: Any) -> None:
    """Parameters that an operation read without following channels must keep their size.

    One that gave a vector with which nothing is done yet is judged by what that meets.
    """
    followed = isinstance(out, Tensor) and tracer.shadows.number(out) in tracer.vectors
    for tensor in tensors if not followed else ():
        for source in tracer.vectors.get(tracer.shadows.number(tensor), (tensor,)):
            owner = tracer.tensors.get(key(source))
            if owner is not None and source.numel() > 1 and not tracer.shadows.has(source):
                tracer.keep_whole(owner[0])


# --- operations that keep channels where they are


@rule(
    "max_pool2d_with_indices",
    "max_pool3d_with_indices",
    "max_pool2d",
    "avg_pool1d",
    "avg_pool2d",
    "avg_pool3d",
    "adaptive_avg_pool1d",
    "adaptive_avg_pool2d",
    "adaptive_avg_pool3d",
    "_adaptive_avg_pool2d",
    "_adaptive_avg_pool3d",
    "adaptive_max_pool2d",
    "adaptive_max_pool3d",
    "fractional_max_pool2d",
    "fractional_max_pool3d",
    "upsample_nearest1d",
    "upsample_nearest2d",
    "upsample_nearest3d",
    "_upsample_nearest_exact1d",
    "_upsample_nearest_exact2d",
    "_upsample_nearest_exact3d",
    "upsample_linear1d",
    "upsample_bilinear2d",
    "_upsample_bilinear2d_aa",
    "upsample_trilinear3d",
    "upsample_bicubic2d",
    "_upsample_bicubic2d_aa",
    "grid_sampler_2d",
    "grid_sampler_3d",
    "reflection_pad1d",
    "reflection_pad2d",
    "reflection_pad3d",
    "replication_pad1d",
    "replication_pad2d",
    "replication_pad3d",
)
def spatial(tracer: Tracer, name: str, args: Sequence[Any], out: Any) -> None:
    """Works on each plane for itself: the leading two axes keep their channels."""
    ids = tracer.get(args[0])
    if ids is None:
        return
    result = out[0] if isinstance(out, tuple) else out
    lead = 2 if ids.ndim >= 3 else 1
    if any(tracer.ids.varies(ids, axis) for axis in range(lead, ids.ndim)):
        tracer.freeze([args[0]], f"{name} across channels")
        return
    top = ids[(slice(None),) * lead + (slice(0, 1),) * (ids.ndim - lead)]
    tracer.shadows.put(result, top)


@rule("constant_pad_nd")
def pad(tracer: Tracer, name: str, args: Sequence[Any], out: Tensor) -> None:
    """Padding along axes without channels; channels that are made up freeze the rest."""
    ids = tracer.get(args[0])
    if ids is None:
        return
    amounts = args[1]
    padded = [ids.ndim - 1 - i // 2 for i, amount in enumerate(amounts) if amount]
    if any(tracer.ids.varies(ids, axis) for axis in padded):
        tracer.freeze([args[0]], "padded with channels")
        return
    tracer.shadows.put(
        out, ids[tuple(slice(0, 1) if a in padded else slice(None) for a in range(ids.ndim))]
    )


# --- operations over an axis


def _axes(dims: Any, ndim: int) -> list[int]:
    if dims is None or (isinstance(dims, (list, tuple)) and not dims):
        return list(range(ndim))
    listed = dims if isinstance(dims, (list, tuple)) else [dims]
    return [int(d) % max(ndim, 1) for d in listed]


@rule(
    "sum",
    "mean",
    "amax",
    "amin",
    "max",
    "min",
    "prod",
    "any",
    "all",
    "argmax",
    "argmin",
    "logsumexp",
    "median",
    "count_nonzero",
    "nansum",
)
def reduction(tracer: Tracer, name: str, args: Sequence[Any], out: Any) -> None:
    """Folds axes away: fine unless channels differ along them."""
    if len(args) > 1 and isinstance(args[1], Tensor):
        pointwise(tracer, name, args, out)
        return
    _reduce(tracer, name, args, out, args[1] if len(args) > 1 else None)


@rule("var", "std", "var_mean", "std_mean")
def spread(tracer: Tracer, name: str, args: Sequence[Any], out: Any) -> None:
    """As :func:`reduction`; without axes the second argument may be a flag."""
    dims = args[1] if len(args) > 1 and not isinstance(args[1], bool) else None
    _reduce(tracer, name, args, out, dims)


@rule("norm", "linalg_vector_norm")
def norm(tracer: Tracer, name: str, args: Sequence[Any], out: Any) -> None:
    """As :func:`reduction`, with the order of the norm before the axes."""
    _reduce(tracer, name, args, out, args[2] if len(args) > 2 else None)


def _reduce(tracer: Tracer, name: str, args: Sequence[Any], out: Any, dims: Any) -> None:
    ids = tracer.get(args[0])
    if ids is None:
        return
    axes = _axes(dims, ids.ndim)
    for axis in axes:
        if tracer.ids.is_row_axis(ids, axis):
            # Rows are folded index by index: the same indices must go in each.
            tracer.ids.unify(np.broadcast_to(ids[leading(axis)], ids.shape), ids)
        elif tracer.ids.varies(ids, axis):
            tracer.freeze([args[0]], f"{name} over channels")
            return
    kept = ids[tuple(slice(0, 1) if a in axes else slice(None) for a in range(ids.ndim))]
    for result in out if isinstance(out, (tuple, list)) else (out,):
        if isinstance(result, Tensor):
            tracer.shadows.put(result, kept.reshape(_folded(kept, axes, result.ndim)))


def _folded(kept: IdArray, axes: list[int], ndim: int) -> tuple[int, ...]:
    if kept.ndim == ndim:
        return kept.shape
    return tuple(size for axis, size in enumerate(kept.shape) if axis not in axes)


@rule("_softmax", "_log_softmax", "softmax", "log_softmax", "_safe_softmax", "cumsum", "cumprod")
def along(tracer: Tracer, name: str, args: Sequence[Any], out: Tensor) -> None:
    """Mixes along one axis and keeps the shape."""
    ids = tracer.get(args[0])
    if ids is None:
        return
    if tracer.ids.varies(ids, int(args[1]) % ids.ndim):
        tracer.freeze([args[0]], f"{name.strip('_')} over channels")
    else:
        tracer.shadows.share(out, args[0])


@rule("sort", "topk", "kthvalue", "mode")
def ranking(tracer: Tracer, name: str, args: Sequence[Any], out: Any) -> None:
    """Picks along one axis, which must not be one of channels."""
    ids = tracer.get(args[0])
    if ids is None:
        return
    dims = [a for a in args[1:] if isinstance(a, int) and not isinstance(a, bool)]
    dim = (dims[0] if name == "sort" else dims[1]) if len(dims) > (name != "sort") else -1
    if tracer.ids.varies(ids, dim % ids.ndim):
        tracer.freeze([args[0]], f"{name} over channels")
        return
    first = ids[leading(dim % ids.ndim)]
    for result in out:
        tracer.shadows.put(result, first)


@rule("native_layer_norm")
def layer_norm(tracer: Tracer, name: str, args: Sequence[Any], out: Any) -> None:
    """Exact only where no channel lies on the normalised axes."""
    ids = tracer.get(args[0])
    if ids is None:
        return
    if any(tracer.ids.varies(ids, ids.ndim - 1 - i) for i in range(len(args[1]))):
        tracer.freeze([args[0]], "LayerNorm over channels is not exact after a cut")
    else:
        tracer.shadows.share(out[0], args[0])


@rule("native_group_norm")
def group_norm(tracer: Tracer, name: str, args: Sequence[Any], out: Any) -> None:
    """A group's mean and spread change with each channel that it loses."""
    tracer.freeze([args[0]], "GroupNorm over channels is not exact after a cut")


# --- operations that put tensors together or take them apart


@rule("cat")
def cat(tracer: Tracer, name: str, args: Sequence[Any], out: Tensor) -> None:
    """Joins along one axis; along the others the parts must lose the same channels."""
    parts = [t for t in args[0] if t.numel()]
    dim = int(args[1]) % out.ndim if len(args) > 1 else 0
    _join(tracer, parts, [tracer.get(t) for t in parts], dim, out)


@rule("stack")
def stack(tracer: Tracer, name: str, args: Sequence[Any], out: Tensor) -> None:
    """Joins along a new axis."""
    dim = int(args[1]) % out.ndim if len(args) > 1 else 0
    found = [tracer.get(t) for t in args[0]]
    _join(tracer, args[0], [None if s is None else np.expand_dims(s, dim) for s in found], dim, out)


def _join(
    tracer: Tracer,
    parts: Sequence[Tensor],
    found: Sequence[IdArray | None],
    dim: int,
    out: Tensor,
) -> None:
    shadows = [s for s in found if s is not None]
    if not shadows:
        return
    others = sorted({a for s in shadows for a in tracer.ids.varying(s)} - {dim})
    if others:
        bare = [t for t, s in zip(parts, found, strict=True) if s is None]
        along = any(tracer.ids.varies(s, dim) for s in shadows)
        if bare or len(others) > 1 or along:
            tracer.freeze(parts, "joined across channels")
        else:
            lines = [line(s, others[0]) for s in shadows]
            for other in lines[1:]:
                unify_pairs(tracer, lines[0], other)
    ndim = out.ndim
    shape = tuple(out.shape)
    pieces = []
    for tensor, ids in zip(parts, found, strict=True):
        size = shape[:dim] + (tensor.shape[dim] if tensor.ndim == ndim else 1,) + shape[dim + 1 :]
        pieces.append(np.zeros(size, dtype=np.int32) if ids is None else ids)
    tracer.shadows.put(out, np.concatenate(pieces, axis=dim))


@rule("repeat")
def repeat(tracer: Tracer, name: str, args: Sequence[Any], out: Tensor) -> None:
    """Copies side by side: each channel stands several times, in the same order."""
    ids = tracer.get(args[0])
    if ids is not None:
        ids = ids.reshape((1,) * (len(args[1]) - ids.ndim) + ids.shape)
        tracer.shadows.put(out, np.tile(ids, [int(n) for n in args[1]]))


@rule("flip")
def flip(tracer: Tracer, name: str, args: Sequence[Any], out: Tensor) -> None:
    """The other way round: what is left keeps its (reversed) order."""
    ids = tracer.get(args[0])
    if ids is not None:
        tracer.shadows.put(out, np.flip(ids, tuple(_axes(args[1], ids.ndim))))


@rule("roll", "index_select", "gather", "index", "tril", "triu")
def rerun(tracer: Tracer, name: str, args: Sequence[Any], out: Tensor) -> None:
    """Rearranges elements: allowed along axes that carry no channels."""
    ids = tracer.get(args[0])
    if ids is None:
        return
    touched = _touched(name, args, ids.ndim)
    masks = name == "index" and any(t.dtype == torch.bool for t in tensors_in(args[1]))
    if not touched or masks:
        tracer.freeze([args[0]], f"{name} by a mask")
        return
    if any(tracer.ids.varies(ids, axis) for axis in touched):
        tracer.freeze([args[0]], f"{name} along channels")
        return
    if name == "index" and touched != list(range(touched[0], touched[-1] + 1)):
        tracer.freeze([args[0]], "index with gaps")
        return
    first = ids[tuple(slice(0, 1) if a in touched else slice(None) for a in range(ids.ndim))]
    if name == "index":
        width = max(t.ndim for t in args[1] if isinstance(t, Tensor))
        start = touched[0]
        rest = first.shape[start + len(touched) :]
        first = first.reshape(first.shape[:start] + (1,) * width + rest)
    if any(n not in (1, size) for n, size in zip(first.shape, out.shape, strict=True)):
        tracer.freeze([args[0]], f"{name} of part of an axis")
    else:
        tracer.shadows.put(out, first)


def _touched(name: str, args: Sequence[Any], ndim: int) -> list[int]:
    if name == "roll":
        return _axes(args[2] if len(args) > 2 else None, ndim)
    if name in ("index_select", "gather"):
        return _axes(args[1], ndim)
    if name == "index":
        return [i for i, index in enumerate(args[1]) if isinstance(index, Tensor)]
    return [ndim - 2, ndim - 1]


@rule("pixel_shuffle")
def pixel_shuffle(tracer: Tracer, name: str, args: Sequence[Any], out: Tensor) -> None:
    """Folds r² channels into one plane: they go together."""
    ids = tracer.get(args[0])
    if ids is None:
        return
    if tracer.ids.varying(ids) not in ((), (1,)):
        tracer.freeze([args[0]], "pixel_shuffle across channels")
        return
    blocks = line(ids, 1).reshape(-1, int(args[1]) ** 2)
    tracer.ids.unify(blocks[:, :1], blocks)
    tracer.shadows.put(out, blocks[:, 0].reshape(1, -1, 1, 1))


# --- views, judged


@rule("slice", "narrow")
def slicing(tracer: Tracer, name: str, args: Sequence[Any], out: Tensor) -> None:
    """A slice of an axis of channels with bounds that do not follow a cut."""
    ids = tracer.get(args[0])
    dim = int(args[1]) if len(args) > 1 else 0
    if ids is not None and out.shape[dim] != args[0].shape[dim]:
        _partial(tracer, args[0], ids, dim, "fixed slice of channels")


@rule("select", "unbind", "split", "split_with_sizes", "chunk", "diagonal", "unfold")
def taking(tracer: Tracer, name: str, args: Sequence[Any], out: Any) -> None:
    """Other ways to take part of an axis."""
    ids = tracer.get(args[0])
    if ids is None:
        return
    where = 2 if name in ("split", "split_with_sizes", "chunk") else 1
    dim = int(args[where]) if len(args) > where else 0
    _partial(tracer, args[0], ids, dim, f"fixed {name} of channels")


def _partial(tracer: Tracer, tensor: Tensor, ids: IdArray, dim: int, reason: str) -> None:
    dim %= ids.ndim
    # Rows (heads, groups) all stay, so one of them may be taken by number.
    if tracer.ids.varies(ids, dim) and not tracer.ids.is_row_axis(ids, dim):
        tracer.freeze([tensor], reason)


@rule(
    "permute",
    "transpose",
    "t",
    "unsqueeze",
    "squeeze",
    "expand",
    "alias",
    "detach",
    "movedim",
    "lift_fresh",
)
def plain_view(tracer: Tracer, name: str, args: Sequence[Any], out: Any) -> None:
    """Every element stays what it was; ids come with the storage."""


@rule("view", "_unsafe_view", "_reshape_alias", "reshape")
def view(tracer: Tracer, name: str, args: Sequence[Any], out: Tensor) -> None:
    """Axes split or merged."""
    ids = tracer.get(args[0])
    if ids is not None and isinstance(args[1], (list, tuple)):
        made = reshape(tracer, ids, tuple(out.shape))
        if not tracer.shadows.has(out):
            tracer.shadows.put(out, made)


# --- layers and products


@rule("convolution", "_convolution", "mkldnn_convolution", "cudnn_convolution")
def conv(tracer: Tracer, name: str, args: Sequence[Any], out: Tensor) -> None:
    """A convolution ends one set of channels and begins another."""
    convolution(tracer, args, out)


@rule(
    "native_batch_norm",
    "cudnn_batch_norm",
    "miopen_batch_norm",
    "_native_batch_norm_legit",
    "_native_batch_norm_legit_no_training",
    "_batch_norm_with_update",
    "_batch_norm_no_update",
)
def norm_layer(tracer: Tracer, name: str, args: Sequence[Any], out: Any) -> None:
    """One number of each of its tensors for each channel."""
    batch_norm(tracer, args, out[0])


@rule("linear")
def linear(tracer: Tracer, name: str, args: Sequence[Any], out: Tensor) -> None:
    """A dense layer over the last axis."""
    dense(tracer, args, out)


@rule("bmm", "mm")
def product(tracer: Tracer, name: str, args: Sequence[Any], out: Tensor) -> None:
    """Matrix product of activations: the contracted channels of both sides are one."""
    matmul(tracer, args[0], args[1], out)


@rule("baddbmm", "addmm")
def added_product(tracer: Tracer, name: str, args: Sequence[Any], out: Tensor) -> None:
    """As :func:`product`, with something added."""
    matmul(tracer, args[1], args[2], out)
    made = tracer.get(out)
    if made is not None or tracer.shadows.has(args[0]):
        pointwise(tracer, name, [args[0], out], out)


def matmul(tracer: Tracer, a: Tensor, b: Tensor, out: Tensor) -> None:
    """``[.., m, k] @ [.., k, n]`` on ids."""
    left, right = tracer.get(a), tracer.get(b)
    tracer.multiply(_width(tracer, left, right), out.numel() * int(a.shape[-1]))
    if left is None and right is None:
        return
    varies = tracer.ids.varies
    contracted = (left is not None and varies(left, left.ndim - 1)) or (
        right is not None and varies(right, right.ndim - 2)
    )
    if contracted:
        if left is None or right is None:
            tracer.freeze([a, b], "matrix product with fixed values")
        elif varies(left, left.ndim - 2) or varies(right, right.ndim - 1):
            tracer.freeze([a, b], "matrix product across channels")
        else:
            unify_pairs(tracer, left[..., 0, :], right[..., :, 0])
        return
    if left is None or right is None:
        made = left[..., :1] if left is not None else right[..., :1, :]  # type: ignore[index]
        tracer.shadows.put(out, made)
        return
    if varies(left, left.ndim - 2) or varies(right, right.ndim - 1):
        tracer.freeze([a, b], "matrix product of channels")
        return
    unify_pairs(tracer, left[..., :1, 0], right[..., 0, :1])
    tracer.shadows.put(out, left[..., :1, :1])


def _width(tracer: Tracer, left: IdArray | None, right: IdArray | None) -> IdArray | None:
    """The line of channels, over all matrices of a batch, with which a product's cost goes."""
    for ids, axis in ((left, -1), (left, -2), (right, -1), (right, -2)):
        if ids is not None and tracer.ids.varies(ids, ids.ndim + axis):
            return ids[..., 0, :] if axis == -1 else ids[..., :, 0]
    if left is not None:  # only whole matrices (heads) can go
        return left[..., 0, 0]
    return None if right is None else right[..., 0, 0]


@rule(
    "arange",
    "zeros",
    "ones",
    "empty",
    "full",
    "rand",
    "randn",
    "eye",
    "linspace",
    "scalar_tensor",
    "new_zeros",
    "new_ones",
    "new_full",
    "new_empty",
    "new_empty_strided",
    "empty_strided",
    "empty_permuted",
    "_local_scalar_dense",
    "item",
    "is_same_size",
    "equal",
    "set_data",
)
def without_channels(tracer: Tracer, name: str, args: Sequence[Any], out: Any) -> None:
    """Makes or reads plain values."""


@rule("fill", "zero", "random", "uniform", "normal")
def overwrite(tracer: Tracer, name: str, args: Sequence[Any], out: Any) -> None:
    """Fills with plain values in place: channels of the shape remain."""
