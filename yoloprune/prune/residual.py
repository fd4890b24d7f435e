"""Residual blocks of Ultralytics' networks: x + f(x), told from the classes of their modules."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from ultralytics.nn.modules import block as stock

NUMBERED = "model"
"""Path of the container whose modules are wired by number, and not one behind the other."""
HALVES = {
    stock.PSABlock: ("attn", "ffn"),
    stock.ABlock: ("attn", "mlp"),
    stock.PSA: ("attn", "ffn"),
}
"""Modules that add twice → what they add each time."""
_NO_PATH = "gives its branch alone, without what it was given (add=False)"
_BRANCH = "its branch ends in what cannot be brought to zero"


@dataclass(frozen=True, slots=True)
class Residual:
    """Something that a network can do without.

    Attributes:
        name: path of the module that goes.
        module: path of the module that adds; ``name`` itself, or the one around it.
        kind: class of the latter.
        silencing: qualified names of the tensors that, zero, make the branch give zero.
    """

    name: str
    module: str
    kind: str
    silencing: tuple[str, ...]


def residuals(model: nn.Module) -> tuple[list[Residual], dict[str, str]]:
    """The blocks that can go, and why others cannot: path → reason."""
    found: list[Residual] = []
    bound: dict[str, str] = {}
    paths = {id(module): path for path, module in model.named_modules()}
    for path, module in model.named_modules():
        parts = list(_parts(module))
        if not parts:
            continue
        around, _, key = path.rpartition(".")
        reason = _bound(model, module, around, key, paths)
        for half, tails in parts:
            name = f"{path}.{half}" if half else path
            silencing = None if tails is None else _silencing(path, tails)
            if reason or silencing is None:
                bound[name] = reason or _BRANCH
            else:
                found.append(Residual(name, path, type(module).__name__, silencing))
    return found, bound


def _parts(module: Any) -> Iterator[tuple[str, list[tuple[str, nn.Module]] | None]]:
    """What a module adds: its place in the module, and the layers that the branch ends in."""
    if isinstance(module, stock.Bottleneck):
        yield "", _tail("cv2", module.cv2) or _tail("cv1", module.cv1)
    elif isinstance(module, stock.CIB):
        yield "", _tail("cv1.4", module.cv1[4])
    elif isinstance(module, stock.GhostBottleneck):
        last: Any = module.conv[2]
        yield "", [("conv.2.cv1", last.cv1), ("conv.2.cv2", last.cv2)]
    elif isinstance(module, stock.ResNetBlock):
        yield "", [("cv3", module.cv3)]
    elif isinstance(module, stock.HGBlock):
        yield "", [("ec", module.ec)]
    elif isinstance(module, stock.A2C2f) and module.gamma is not None:
        yield "", [("", module)]
    elif type(module) in HALVES:
        for half in HALVES[type(module)]:
            yield half, _tail(half, getattr(module, half))


def _tail(path: str, module: Any) -> list[tuple[str, nn.Module]] | None:
    """The layers in which a branch ends; nothing of one that only hands on."""
    if isinstance(module, stock.Attention | stock.AAttn):
        return [(f"{path}.proj", module.proj)]
    if isinstance(module, nn.Sequential) and len(module):
        return _tail(f"{path}.{len(module) - 1}", module[-1])
    return None if isinstance(module, nn.Identity | nn.Sequential) else [(path, module)]


def _silencing(path: str, tails: list[tuple[str, Any]]) -> tuple[str, ...] | None:
    """The tensors to bring to zero; None where that does not silence the branch."""
    names: list[str] = []
    for tail, layer in tails:
        if isinstance(layer, stock.A2C2f):
            names.append(f"{path}.gamma")
            continue
        conv, act = getattr(layer, "conv", None), getattr(layer, "act", None)
        if not isinstance(conv, nn.Conv2d) or not isinstance(act, nn.Module):
            return None
        if act(torch.zeros(1, conv.out_channels, 1, 1)).any():
            return None
        part = "bn" if isinstance(getattr(layer, "bn", None), nn.BatchNorm2d) else "conv"
        owner = getattr(layer, part)
        names += [f"{path}.{tail}.{part}.{name}" for name, _ in owner.named_parameters()]
    return tuple(names)


def _bound(
    model: nn.Module, module: Any, around: str, key: str, paths: dict[int, str]
) -> str | None:
    """Why a module cannot go; None where it can."""
    if not getattr(module, "add", True):
        return _NO_PATH
    adds_path = isinstance(module, stock.GhostBottleneck | stock.ResNetBlock)
    if adds_path and not isinstance(module.shortcut, nn.Identity):
        return "adds a layer of what it was given, no identity"
    owner = model.get_submodule(around)
    if isinstance(module, stock.ResNetBlock):
        before = owner[int(key) - 1] if isinstance(owner, nn.Sequential) and int(key) else None
        if not isinstance(before, stock.ResNetBlock):
            return "activates its sum, and what stands before it does not"
    if isinstance(owner, nn.Sequential):
        return None
    if isinstance(owner, nn.ModuleList) and listed_in(model, around) is not None:
        return None
    return f"stands in {type(owner).__name__}, which expects it"


def listed_in(model: nn.Module, path: str) -> tuple[str, str] | None:
    """The module that joins what its blocks give, and its layer that reads that.

    Args:
        model: any.
        path: of a ``ModuleList``.

    Returns:
        Paths of both; None of a list of something else.
    """
    around, _, key = path.rpartition(".")
    owner = model.get_submodule(around) if around else model
    if key != "m":
        return None
    if isinstance(owner, stock.C2f | stock.A2C2f | stock.C2fAttn):
        return around, f"{around}.cv2"
    return (around, f"{around}.cv3") if isinstance(owner, stock.C3f) else None
