"""The table of rules, from the name of an ATen operation to a small function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from yoloprune.channels.tracer import Tracer

Rule = Callable[[Tracer, str, Sequence[Any], Any], None]
"""``rule(tracer, op name, arguments, result)``."""

RULES: dict[str, Rule] = {}


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
