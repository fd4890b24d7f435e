"""Surgery: a new model without the removed channels.

:func:`slice_axis` and :func:`slice_grouped` work on tensors; :func:`cut_units` applies them to
a copy of a model. Nothing is ranked and nothing decided here, and the model that is given
stays as it is.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from yoloprune.channels.copying import copy_modules
from yoloprune.channels.graph import BoolArray, ChannelGraph, IntArray, IntField, TensorAxis
from yoloprune.errors import CutError
from yoloprune.prune.compensate import compensate as compensated
from yoloprune.prune.compensate import new_bias_axes
from yoloprune.prune.replica import as_kind, tensors_of
from yoloprune.prune.selftest import SelfTest, self_test

__all__ = ["SelfTest", "cut_units", "kept_units", "self_test", "slice_axis", "slice_grouped"]


def cut_units(
    model: nn.Module, graph: ChannelGraph, remove: IntArray, *, compensate: bool = True
) -> nn.Module:
    """Remove units from a copy of a model.

    Args:
        model: the model that ``graph`` was traced from. Not modified.
        graph: its channels.
        remove: int64, units that go.
        compensate: fold the constants that removed channels leave behind into what read them,
            see :mod:`yoloprune.prune.compensate`.

    Returns:
        A new model of the same classes; every parameter is a new object of the same dtype,
        device and ``requires_grad``. What stays keeps its order.

    Raises:
        CutError: a unit is out of range or frozen, a balance would break, a tensor would be
            left empty, or the graph is of another model.
    """
    kept = kept_units(graph, remove)
    tensors = tensors_of(model)
    for axis in graph.axes:
        _check_axis(axis, tensors.get(axis.tensor))
    source = compensated(model, graph, remove).model if compensate else model
    return _sliced(source, graph, kept)


def kept_units(graph: ChannelGraph, remove: IntArray) -> BoolArray:
    """Check a choice of units against the graph.

    Args:
        graph: the channels of the model.
        remove: int64, units that go.

    Returns:
        Bool ``[n_units]``: which units stay.

    Raises:
        CutError: as :func:`cut_units`.
    """
    remove = np.asarray(remove, dtype=np.int64)
    if remove.size and not (remove.min() >= 0 and remove.max() < graph.n_units):
        raise CutError(
            f"unit {remove.max()} is out of range, expected 0 to {graph.n_units - 1}. "
            "Was the plan made for this model?"
        )
    kept = np.ones(graph.n_units, dtype=bool)
    kept[remove] = False
    for unit in remove:
        if int(unit) in graph.frozen:
            raise CutError(f"unit {unit}: must stay ({graph.frozen[int(unit)]}).")
    for axis in graph.axes:
        if not kept[axis.units].any(axis=-1).all():
            raise CutError(
                f"{axis.module}: nothing would remain of its {axis.units.shape[-1]} channels "
                f"({axis.tensor}, axis {axis.dim}). Lower the share to remove."
            )
    for balance in graph.balances:
        counts = [int(kept[part].sum()) for part in balance.parts]
        if len(set(counts)) > 1:
            raise CutError(f"{balance.reason}: equal numbers must stay, got {counts}.")
    return kept


def slice_axis(tensor: Tensor, *, dim: int, keep: IntArray) -> Tensor:
    """Keep the named indices of one axis.

    Args:
        tensor: any shape. Not modified.
        dim: the axis.
        keep: int64, sorted, unique, in ``[0, tensor.shape[dim])``.

    Returns:
        A new tensor, same dtype and device.
    """
    index = torch.from_numpy(keep).to(tensor.device)
    return tensor.index_select(dim, index)


def slice_grouped(tensor: Tensor, *, dim: int, keep: IntArray) -> Tensor:
    """Keep, in each group of a grouped convolution, indices of its own.

    Args:
        tensor: ``[C_out, C_in / groups, ...]`` for ``dim`` 1 (the other axis holds the
            groups, one after the other). Not modified.
        dim: the axis that shrinks, 0 or 1.
        keep: int64 ``[groups, K]``: sorted indices along ``dim`` in each group.

    Returns:
        New tensor, ``K`` long along ``dim``.
    """
    groups = tensor.chunk(keep.shape[0], 1 - dim)
    kept = [slice_axis(part, dim=dim, keep=row) for part, row in zip(groups, keep, strict=True)]
    return torch.cat(kept, 1 - dim)


def _sliced(source: nn.Module, graph: ChannelGraph, kept: BoolArray) -> nn.Module:
    """Copy a model, taking the kept part of every tensor that an axis names."""
    tensors = tensors_of(source)
    by_tensor: defaultdict[str, list[TensorAxis]] = defaultdict(list)
    for axis in (*graph.axes, *new_bias_axes(tensors, graph)):
        if not kept[axis.units].all():
            by_tensor[axis.tensor].append(axis)
    memo: dict[int, Any] = {}
    for name, axes in by_tensor.items():
        old = tensors[name]
        memo[id(old)] = as_kind(old, _slice(old.detach(), axes, kept))
    before = {path: _weight_count(module) for path, module in source.named_modules()}
    try:
        slim = copy_modules(source, memo)
    except Exception as exc:  # deepcopy runs foreign code
        raise CutError(f"{type(source).__name__}: cannot be copied, got {exc}.") from exc
    for found in graph.fields:
        _patch(slim, found, kept)
    _refresh(slim, before)
    return slim


def _slice(tensor: Tensor, axes: Iterable[TensorAxis], kept: BoolArray) -> Tensor:
    # In any order: groups stay equal, so the rows of a grouped weight stand group by group.
    for axis in axes:
        stays = kept[axis.units]
        if axis.units.ndim == 1:
            tensor = slice_axis(tensor, dim=axis.dim, keep=np.flatnonzero(stays))
        else:
            width = int(stays[0].sum())
            keep = np.nonzero(stays)[1].reshape(-1, width)
            tensor = slice_grouped(tensor, dim=axis.dim, keep=keep)
    return tensor.contiguous()


def _check_axis(axis: TensorAxis, tensor: Tensor | None) -> None:
    if tensor is None:
        raise CutError(f"{axis.tensor}: is not in this model. Was it traced from another one?")
    if axis.units.shape[-1] != tensor.shape[axis.dim]:
        raise CutError(
            f"{axis.tensor}: axis {axis.dim} has {tensor.shape[axis.dim]} channels, the graph "
            f"has {axis.units.shape[-1]}. Was it traced from another model?"
        )


def _patch(slim: nn.Module, found: IntField, kept: BoolArray) -> None:
    """Set an integer attribute to the number of its units that stay."""
    module = slim.get_submodule(found.module)
    count = int(kept[found.units].sum())
    if found.index is None:
        setattr(module, found.attr, count)
        return
    items = list(getattr(module, found.attr))
    items[found.index] = count
    setattr(module, found.attr, type(getattr(module, found.attr))(items))


def _weight_count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _refresh(slim: nn.Module, before: Mapping[str, int]) -> None:
    """Drop what the copy remembers of the old sizes."""
    for path, module in slim.named_modules():
        # A shape kept from the last call, where the class itself starts with none.
        if getattr(type(module), "shape", ...) is None and "shape" in vars(module):
            del module.shape
        # Ultralytics notes the number of parameters of each numbered layer.
        if vars(module).get("np") == before[path]:
            module.np = _weight_count(module)
