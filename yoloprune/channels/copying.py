"""Copies of modules: as ``copy.deepcopy`` makes them, in a fraction of its time."""

from __future__ import annotations

import copy
import copyreg
from collections import OrderedDict
from typing import Any

from torch import nn

_new: Any = copyreg.__newobj__  # type: ignore[attr-defined]
_ATOMS = frozenset({type(None), bool, int, float, str, type, type(copy.copy)})
_EMPTY = frozenset({dict, OrderedDict, list, set})


def copy_modules(model: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """Copy a model as ``copy.deepcopy(model, memo)`` does.

    Every module has a dozen attributes that are numbers or empty dictionaries, over which
    deepcopy goes by way of the pickle protocol.

    Args:
        model: not modified.
        memo: ``id`` of an object → what stands for it in the copy, such as tensors that are to
            be shared; is written to.
    """
    states = []
    for module in model.modules():
        state = None if id(module) in memo else _state(module)
        if state is not None:
            memo[id(module)] = _new(type(module))
            states.append((module, state))
    for module, state in reversed(states):  # what stands in a module before the module
        filled = {name: _copied(value, memo) for name, value in state.items()}
        memo[id(module)].__setstate__(filled)
    return copy.deepcopy(model, memo)


def _state(module: nn.Module) -> dict[str, Any] | None:
    """What deepcopy would copy of a module; ``None`` where a module has its own way."""
    if hasattr(type(module), "__deepcopy__"):
        return None
    reduced: Any = module.__reduce_ex__(4)
    make, given, *parts = reduced
    plain = make is _new and given == (type(module),) and not any(parts[1:])
    return parts[0] if plain and isinstance(parts[0], dict) else None


def _copied(value: Any, memo: dict[int, Any]) -> Any:
    kind = type(value)
    if kind in _ATOMS:
        return value
    known = memo.get(id(value))
    if known is not None:
        return known
    if kind in _EMPTY and not value:
        made = memo[id(value)] = kind()
        return made
    if kind is dict and all(type(name) is str for name in value):
        made = memo[id(value)] = {}
        made.update((name, _copied(one, memo)) for name, one in value.items())
        return made
    return copy.deepcopy(value, memo)
