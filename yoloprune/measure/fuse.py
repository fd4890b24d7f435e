"""Fold BatchNorms into the convolutions before them, for timing what would be deployed."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval

from yoloprune.channels.table import tensors_in
from yoloprune.errors import MeasureError

# float32 rounding over a deep network stays well below it, a wrong fusion far above.
_TOLERANCE = 1e-3


def is_fused(model: nn.Module) -> bool:
    """Whether no BatchNorm is left."""
    return not any(isinstance(module, _BatchNorm) for module in model.modules())


def fuse(model: nn.Module, example: torch.Tensor) -> nn.Module:
    """Fuse a model in place, by Ultralytics' own method where it has one.

    Elsewhere a BatchNorm is fused into the convolution whose very output it reads in a forward
    pass. A BatchNorm without such a convolution stays.

    Args:
        model: in eval mode. Modified.
        example: an input, ``[B, 3, H, W]``.

    Returns:
        The model.

    Raises:
        MeasureError: the fused model gives other outputs; it cannot be timed in its place.
    """
    own: Any = getattr(model, "fuse", None)
    if callable(own) and hasattr(model, "is_fused"):
        own(verbose=False)
        return model
    if is_fused(model):
        return model
    with torch.no_grad():
        before = _numbers(model(example))
        for conv_name, norm_name in _pairs(model, example):
            conv: Any = model.get_submodule(conv_name)
            norm: Any = model.get_submodule(norm_name)
            _replace(model, conv_name, fuse_conv_bn_eval(conv, norm))
            _replace(model, norm_name, nn.Identity())
        after = _numbers(model(example))
    pairs = zip(before, after, strict=True)
    if any(float((a - b).abs().max()) > _TOLERANCE * (1 + float(b.abs().max())) for b, a in pairs):
        raise MeasureError(f"{type(model).__name__}: fusing its BatchNorms changes its output.")
    return model


def _pairs(model: nn.Module, example: torch.Tensor) -> list[tuple[str, str]]:
    """Names of convolutions and of the BatchNorms that read their output, each met once."""
    made: dict[int, str] = {}
    alive: list[torch.Tensor] = []  # an id means something only as long as its tensor lives
    pairs: list[tuple[str, str]] = []

    def conv_hook(name: str) -> Any:
        def hook(module: nn.Module, args: Any, result: torch.Tensor) -> None:
            made[id(result)] = name
            alive.append(result)

        return hook

    def norm_hook(name: str) -> Any:
        def hook(module: nn.Module, args: Any) -> None:
            if id(args[0]) in made:
                pairs.append((made[id(args[0])], name))

        return hook

    hooks = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            hooks.append(module.register_forward_hook(conv_hook(name)))
        elif isinstance(module, _BatchNorm) and module.running_mean is not None:
            hooks.append(module.register_forward_pre_hook(norm_hook(name)))
    model(example)
    for handle in hooks:
        handle.remove()
    convs, norms = [conv for conv, _ in pairs], [norm for _, norm in pairs]
    # A module that runs twice, in other company each time, cannot be folded.
    return [p for p in pairs if convs.count(p[0]) == 1 and norms.count(p[1]) == 1]


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, attribute = name.rpartition(".")
    setattr(model.get_submodule(parent), attribute, module)


def _numbers(output: Any) -> list[torch.Tensor]:
    """What a model gives, however it is packed."""
    return [t for t in tensors_in(output) if t.is_floating_point() and t.numel()]
