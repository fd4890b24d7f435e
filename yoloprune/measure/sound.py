"""Whether the numbers in a model are numbers: what every stage asks before it works on one."""

from __future__ import annotations

from itertools import chain

import torch
from torch import Tensor, nn

from yoloprune.errors import MeasureError


def check_finite(model: nn.Module) -> None:
    """Refuse a model that holds a NaN, an infinity, or a variance below zero.

    Args:
        model: any module; not modified.

    Raises:
        MeasureError: names the first parameter or buffer that does, in the order of the layers.
    """
    tensors = {
        name: tensor
        for name, tensor in chain(model.named_parameters(), model.named_buffers())
        if tensor.is_floating_point() and tensor.numel()
    }
    if not tensors:
        return
    # One answer to the host: on a GPU a question a tensor would wait for the device each time.
    sound = [_is_sound(name, tensor.detach()) for name, tensor in tensors.items()]
    places = {flag.device for flag in sound}
    if all(bool(torch.stack([s for s in sound if s.device == place]).all()) for place in places):
        return
    for name, tensor in tensors.items():
        _check(name, tensor.detach())


def _is_sound(name: str, tensor: Tensor) -> Tensor:
    sound = tensor.isfinite().all()
    return sound & (tensor >= 0).all() if _is_variance(name) else sound


def _is_variance(name: str) -> bool:
    return name.rpartition(".")[2] == "running_var"


def _check(name: str, tensor: Tensor) -> None:
    wild = tensor[~tensor.isfinite()]
    if wild.numel():
        raise MeasureError(
            f"{name}: {wild.numel()} of {tensor.numel()} values are no finite numbers, got "
            f"{float(wild[0])}. Did its training diverge, or is the file damaged?"
        )
    if _is_variance(name) and bool((tensor < 0).any()):
        raise MeasureError(
            f"{name}: {int((tensor < 0).sum())} of {tensor.numel()} variances are below zero, got "
            f"{float(tensor.min()):g}, expected at least 0. Is the file damaged?"
        )
