"""Copies of models that share every tensor but the ones that are to differ."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from yoloprune.channels.copying import copy_modules


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter and buffer by its qualified name, each once."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def replica(model: nn.Module, changed: Mapping[str, Tensor]) -> nn.Module:
    """Copy the modules of a model, but not its tensors.

    Args:
        model: not modified.
        changed: qualified name → the tensor that takes its place in the copy; a parameter
            stays one, with the same ``requires_grad``.

    Returns:
        A model whose other parameters and buffers *are* those of ``model``: for looking at,
        never for training.
    """
    tensors = tensors_of(model)
    memo: dict[int, Any] = {id(tensor): tensor for tensor in tensors.values()}
    memo.update({id(tensors[name]): as_kind(tensors[name], new) for name, new in changed.items()})
    return copy_modules(model, memo)


def as_kind(old: Tensor, new: Tensor) -> Tensor:
    """``new`` as a parameter where ``old`` is one, else as it is."""
    if isinstance(old, nn.Parameter):
        return nn.Parameter(new, requires_grad=old.requires_grad)
    return new
