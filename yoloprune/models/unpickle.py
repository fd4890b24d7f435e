"""Reads checkpoints by an unpickler that rebuilds objects and calls nothing that does work.

A pickle is a program: it names classes and functions, and says what to call with which arguments.
Here it may make an object of a known class *without calling the class* (``__new__`` and the
attributes that were stored), call the handful of functions that put tensors and plain values
together, and nothing else. A class or a function that a pickle names stays a token until one of
these uses it, so that none can be smuggled into a model as a hook or as an activation.

torch's own restricted unpickler is not enough: it *calls* every class that is allowed, and among
the classes of a checkpoint are some whose constructor opens files and URLs.
"""

from __future__ import annotations

import collections
import io
import pickle
import types
import zipfile
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from yoloprune.models.known import (
    KnownClass,
    KnownFunction,
    MisuseError,
    UnknownGlobalError,
    find_global,
    is_own,
    made,
    may_rebuild,
    today,
)

__all__ = ["MisuseError", "UnknownGlobalError", "load", "load_trusted"]

MAX_STORED_BYTES = 1 << 34
"""Bytes that a checkpoint's records may unpack to: a zip of kilobytes can claim any number."""


def load_trusted(path: Path) -> Any:
    """Read what a file holds, whatever that runs; modules that were renamed are found.

    Raises:
        ModuleNotFoundError: it names a package that is not installed.
        Exception: whatever it raises.
    """
    return _loaded(path, _Trusting)


class _Trusting(pickle.Unpickler):
    """Python's unpickler, with the names of today."""

    def find_class(self, module: str, name: str) -> Any:
        return super().find_class(*today(module, name))


def load(path: Path) -> Any:
    """Read what a ``torch.save`` file holds, onto the CPU.

    Raises:
        UnknownGlobalError: it names what is not known to be harmless.
        MisuseError: it calls, builds or claims what no checkpoint needs.
        Exception: it is damaged; what, depends on the damage.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            stored = sum(info.file_size for info in archive.infolist())
        if any(name.rpartition("/")[2] == "constants.pkl" for name in names):
            raise MisuseError("is a TorchScript archive, which is a program and no checkpoint")
        if stored > max(MAX_STORED_BYTES, 4 * path.stat().st_size):
            raise MisuseError(f"claims {stored} bytes")
    elif _starts_as_tar(path):
        raise MisuseError("is in a form that torch has not written since 2017")
    return _loaded(path, _Unpickler)


def _starts_as_tar(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(265)[257:262] == b"ustar"


def _loaded(path: Path, unpickler: Any) -> Any:
    """What ``torch.load`` makes of a file, handed an unpickler as it takes a pickle module."""
    module: Any = types.ModuleType("yoloprune_pickle")
    module.Unpickler = unpickler
    module.load = lambda file, **options: unpickler(file, **options).load()
    module.loads = lambda data, **options: unpickler(io.BytesIO(data), **options).load()
    return torch.load(path, map_location="cpu", weights_only=False, pickle_module=module)


_PythonUnpickler: Any = vars(pickle)["_Unpickler"]


class _Unpickler(_PythonUnpickler):  # type: ignore[misc]
    """Python's own unpickler, with everything that makes or calls an object taken over."""

    dispatch: ClassVar[dict[int, Any]] = dict(_PythonUnpickler.dispatch)

    def find_class(self, module: str, name: str) -> Any:
        return find_global(module, name)

    def get_extension(self, code: int) -> None:
        raise MisuseError("uses the registry of extensions")

    def load_reduce(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        self.append(_called(function, arguments))

    def load_newobj(self) -> None:
        arguments, kind = self.stack.pop(), self.stack.pop()
        self.append(made(kind, arguments))

    def load_newobj_ex(self) -> None:
        named, arguments, kind = self.stack.pop(), self.stack.pop(), self.stack.pop()
        if named:
            raise MisuseError("makes an object with named arguments")
        self.append(made(kind, arguments))

    def _instantiate(self, kind: Any, arguments: Any) -> None:
        """Of the oldest protocols: an object of a class and its arguments."""
        self.append(_called(kind, tuple(arguments)))

    def load_build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        _fill(target, state)

    def load_append(self) -> None:
        value = self.stack.pop()
        _extend(self.stack[-1], [value])

    def load_appends(self) -> None:
        values = self.pop_mark()
        _extend(self.stack[-1], values)

    def load_additems(self) -> None:
        values = self.pop_mark()
        if type(self.stack[-1]) is not set:
            raise MisuseError("adds to what is no set")
        self.stack[-1].update(values)

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        _put(self.stack[-1], [key, value])

    def load_setitems(self) -> None:
        values = self.pop_mark()
        _put(self.stack[-1], values)


for _operation, _name in (
    (pickle.REDUCE, "load_reduce"),
    (pickle.NEWOBJ, "load_newobj"),
    (pickle.NEWOBJ_EX, "load_newobj_ex"),
    (pickle.BUILD, "load_build"),
    (pickle.APPEND, "load_append"),
    (pickle.APPENDS, "load_appends"),
    (pickle.ADDITEMS, "load_additems"),
    (pickle.SETITEM, "load_setitem"),
    (pickle.SETITEMS, "load_setitems"),
):
    _Unpickler.dispatch[_operation[0]] = getattr(_Unpickler, _name)


def _extend(target: Any, values: list[Any]) -> None:
    if type(target) is not list:
        raise MisuseError("appends to what is no list")
    _check_plain(values)
    target.extend(values)


def _put(target: Any, values: list[Any]) -> None:
    if type(target) not in (dict, collections.OrderedDict, collections.Counter):
        raise MisuseError("sets items of what is no mapping")
    _check_plain(values)
    for key, value in zip(values[0::2], values[1::2], strict=True):
        target[key] = value


def _called(function: Any, arguments: Any) -> Any:
    """What a known function gives; a known class is made without arguments only."""
    if not isinstance(arguments, tuple):
        raise MisuseError("calls with what are no arguments")
    if isinstance(function, KnownFunction):
        return function.call(*arguments)
    if isinstance(function, KnownClass) and not arguments:
        return made(function, arguments)
    name = (
        function.kind.__qualname__ if isinstance(function, KnownClass) else type(function).__name__
    )
    raise MisuseError(f"calls {name}, which no checkpoint needs")


def _fill(target: Any, state: Any) -> None:
    """Give a bare object the attributes that were stored of it."""
    kind: Any = type(target)
    if isinstance(target, np.dtype):
        _check_order(state)
        return
    if is_own(kind.__module__) and "__setstate__" in vars(kind):  # of a frozen dataclass
        _check_plain(state if isinstance(state, list) else [state])
        target.__setstate__(state)
        return
    if isinstance(state, tuple) and len(state) == 2 and not state[1]:
        state = state[0]
    if not isinstance(state, dict) or not all(isinstance(key, str) for key in state):
        raise MisuseError(f"fills a {kind.__name__} with what are no attributes")
    _check_plain(list(state.values()))
    if kind in _plain_types():
        target.__dict__.update(state)
    elif not may_rebuild(kind.__module__, kind):
        raise MisuseError(f"fills a {kind.__name__}")
    elif not isinstance(target, nn.Module):
        target.__dict__.update(state)
    elif kind.__module__.startswith("torch.nn."):
        kind.__setstate__(target, state)
    else:
        _set_module_state(target, state)


_set_module_state: Any = nn.Module.__setstate__


def _plain_types() -> tuple[type, ...]:
    from ultralytics.utils import IterableSimpleNamespace

    return types.SimpleNamespace, IterableSimpleNamespace, collections.OrderedDict


def _check_plain(values: list[Any]) -> None:
    """Refuse a class or a function as a value: it would be called when the model runs."""
    for value in values:
        if isinstance(value, KnownClass | KnownFunction):
            raise MisuseError("stores a class or a function where a value belongs")
        if isinstance(value, tuple):
            _check_plain(list(value))


def _check_order(state: Any) -> None:
    """The state of a NumPy dtype may say its byte order, and nothing else."""
    if not isinstance(state, tuple) or len(state) < 2 or state[1] not in ("<", "=", "|"):
        raise MisuseError("has numbers of another byte order")
