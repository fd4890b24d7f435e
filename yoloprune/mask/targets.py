"""Which tensors of a network masks are for."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from yoloprune.errors import MaskError, PlanError
from yoloprune.mask.spec import Kind
from yoloprune.prune.areas import located
from yoloprune.prune.bounds import resolve
from yoloprune.prune.ratios import Rule
from yoloprune.prune.repair import FIXED

CONVS = (nn.Conv2d, nn.ConvTranspose2d)
WEIGHT = "weight"
"""The tensor of a layer that is masked; biases never are."""


def layers_of(model: nn.Module, kind: Kind = "both") -> Iterator[tuple[str, nn.Module]]:
    """Convolutions and BatchNorms with scales, by path, in the order of the network.

    Left out is what has the form of a convolution and is a rule: ``DFL``, which takes the mean of
    a distribution, and would be a wrong mean with zeros in it.
    """
    fixed = {
        id(inner)
        for module in model.modules()
        if type(module).__name__ in FIXED
        for inner in module.modules()
    }
    for path, module in model.named_modules():
        if id(module) in fixed:
            continue
        is_conv = isinstance(module, CONVS) and kind != "bn"
        is_norm = isinstance(module, _BatchNorm) and module.affine and kind != "conv"
        if is_conv or is_norm:
            yield path, module


def chosen_layers(model: nn.Module, kind: Kind, patterns: tuple[str, ...]) -> dict[str, nn.Module]:
    """Layers of a kind that patterns name; all where there is no pattern.

    Raises:
        MaskError: there is none, or a pattern matches none.
    """
    found = dict(layers_of(model, kind))
    if not found:
        what = {"conv": "convolution", "bn": "BatchNorm with scales. Is it fused?"}.get(kind, kind)
        raise MaskError(f"--kind {kind}: {type(model).__name__} has no {what}")
    if not patterns:
        return found
    try:
        rules = located([Rule(pattern=name, share=0.0) for name in patterns], model, "--layers")
        return {path: found[path] for path in resolve(tuple(found), rules, "--layers")}
    except PlanError as exc:
        raise MaskError(str(exc)) from exc
