"""Calls that are followed by way of an equal one, because ATen has one operation for all of it.

What runs while a network is traced is put together from calls whose rules are known; the cut
network runs its own call again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from yoloprune.channels.functions import Call, argument, handles, intercept
from yoloprune.channels.tracer import Tracer


@handles(F.glu)
def glu(tracer: Tracer, args: Sequence[Any], kwargs: Mapping[str, Any], call: Call) -> Any:
    """``a · σ(b)`` of the two halves."""
    x, dim = argument(args, kwargs, 0, "input", None), argument(args, kwargs, 1, "dim", -1)
    a, b = intercept(tracer, torch.chunk, (x, 2, dim), {})
    return a * torch.sigmoid(b)


@handles(torch.channel_shuffle, torch.native_channel_shuffle)
def channel_shuffle(
    tracer: Tracer, args: Sequence[Any], kwargs: Mapping[str, Any], call: Call
) -> Any:
    """The first of each group, then the second of each."""
    x, groups = argument(args, kwargs, 0, "input", None), argument(args, kwargs, 1, "groups", 1)
    n, _, *sides = x.shape
    x = intercept(tracer, torch.Tensor.view, (x, n, groups, -1, *sides), {})
    return intercept(tracer, torch.Tensor.reshape, (x.transpose(1, 2), n, -1, *sides), {})


@handles(torch.pixel_unshuffle)
def pixel_unshuffle(
    tracer: Tracer, args: Sequence[Any], kwargs: Mapping[str, Any], call: Call
) -> Any:
    """Each channel becomes as many as a square of pixels has."""
    x = argument(args, kwargs, 0, "input", None)
    by = argument(args, kwargs, 1, "downscale_factor", 1)
    if x.dim() != 4:
        return call()
    n, _, h, w = x.shape
    x = intercept(tracer, torch.Tensor.view, (x, n, -1, h // by, by, w // by, by), {})
    x = x.permute(0, 1, 3, 5, 2, 4)
    return intercept(tracer, torch.Tensor.reshape, (x, n, -1, h // by, w // by), {})


@handles(F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout)
def dropout(tracer: Tracer, args: Sequence[Any], kwargs: Mapping[str, Any], call: Call) -> Any:
    """Which values it drops has nothing to do with channels."""
    return argument(args, kwargs, 0, "input", None)


@handles(F.pad)
def pad(tracer: Tracer, args: Sequence[Any], kwargs: Mapping[str, Any], call: Call) -> Any:
    """Circular padding is put together from slices, and keeps planes as any other does."""
    mode = argument(args, kwargs, 2, "mode", "constant")
    if mode != "circular":
        return call()
    sides = argument(args, kwargs, 1, "pad", ())
    return F.pad(argument(args, kwargs, 0, "input", None), sides, "replicate")


@handles(F.instance_norm)
def instance_norm(
    tracer: Tracer, args: Sequence[Any], kwargs: Mapping[str, Any], call: Call
) -> Any:
    """Each plane by its own mean and spread, then a scale and a shift a channel."""
    names = ("input", "running_mean", "running_var", "weight", "bias")
    x, mean, var, weight, bias = (argument(args, kwargs, i, n, None) for i, n in enumerate(names))
    own = argument(args, kwargs, 5, "use_input_stats", True)
    if not own:
        return F.batch_norm(x, mean, var, weight, bias)
    line = (1, -1) + (1,) * (x.dim() - 2)
    x = F.instance_norm(x)
    if weight is not None:
        x = x * intercept(tracer, torch.Tensor.view, (weight, *line), {})
    if bias is not None:
        x = x + intercept(tracer, torch.Tensor.view, (bias, *line), {})
    assert isinstance(x, Tensor)
    return x
