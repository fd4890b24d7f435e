"""The table of rules, from the name of an ATen operation to a small function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from yoloprune.channels.tracer import Tracer

Rule = Callable[[Tracer, str, Sequence[Any], Any], None]
"""``rule(tracer, op name, arguments, result)``."""

RULES: dict[str, Rule] = {}

_POINTWISE = """
    abs add addcdiv addcmul atan atan2 bitwise_and bitwise_not bitwise_or bitwise_xor ceil celu
    clamp clamp_max clamp_min clone cos cosh div elu eq erf exp expm1 floor floor_divide fmod ge
    gelu gt hardshrink hardsigmoid hardswish hardtanh isinf isnan le leaky_relu lerp log log1p
    log2 log_sigmoid_forward logical_and logical_not logical_or logical_xor logit lt masked_fill
    maximum minimum mish mul nan_to_num ne neg pow reciprocal relu relu6 remainder round
    rrelu_with_noise rsqrt rsub selu sigmoid sign silu sin sinh softplus softshrink sqrt square sub
    tan tanh threshold true_divide where
"""
POINTWISE = frozenset(_POINTWISE.split())
"""Operations that work element by element, by name: which of them carry torch's tag of that name
differs by release (2.11 has none on ``leaky_relu``, 2.14 none on ``hardswish``)."""


def is_pointwise(func: Any) -> bool:
    """Whether an ATen operation works element by element, by its tag or its name."""
    name = func._schema.name.removeprefix("aten::").removesuffix("_")
    return torch.Tag.pointwise in func.tags or name in POINTWISE


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Enter a function into the table under each of ``names``."""

    def enter(function: Rule) -> Rule:
        for name in names:
            if name in RULES:
                raise ValueError(f"two rules for {name}")
            RULES[name] = function
        return function

    return enter


def tensors_in(args: Any) -> list[Tensor]:
    """Every tensor in nested arguments."""
    if isinstance(args, Tensor):
        return [args]
    if isinstance(args, dict):
        return [t for a in args.values() for t in tensors_in(a)]
    if isinstance(args, (list, tuple)):
        return [t for a in args for t in tensors_in(a)]
    return []
