"""Copies of models to measure on, so that a model that was given stays as it was; devices."""

from __future__ import annotations

import copy
from itertools import chain

import torch
from torch import nn

from yoloprune.channels.copying import copy_modules
from yoloprune.errors import MeasureError, first_line


def structural_copy(model: nn.Module) -> nn.Module:
    """Copy the modules of a model, in eval mode, but share its parameters and buffers.

    Forward passes leave traces outside of parameters: training flags, cached anchor grids.
    They land on the copy, which costs no tensor memory. Nothing that writes to parameters
    (``.to``, ``.half``, fusing) may be called on it.
    """
    tensors = chain(model.parameters(), model.buffers())
    return copy_modules(model, {id(tensor): tensor for tensor in tensors}).eval()


def float32_copy(model: nn.Module, device: torch.device) -> nn.Module:
    """Copy a model for float32 inference on a device, sharing tensors where they fit as is."""
    tensors = list(chain(model.parameters(), model.buffers()))
    if all(
        t.device == device and (t.dtype == torch.float32 or not t.is_floating_point())
        for t in tensors
    ):
        return structural_copy(model)
    return copy.deepcopy(model).to(device).float().eval()


def device_of(model: nn.Module) -> torch.device:
    """The device of a model's first parameter; the CPU for a model without any."""
    parameter = next(model.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device


def find_device(name: str) -> torch.device:
    """Look a device up by torch's name for it, or by the number of a CUDA GPU.

    Raises:
        MeasureError: there is no such device here.
    """
    try:
        device = torch.device(f"cuda:{name}" if name.isdecimal() else name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as exc:
        reason = first_line(exc)
        raise MeasureError(f"device {name!r}: not available here: {reason}") from exc
    return device
