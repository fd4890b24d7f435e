"""What a pickle may name, and what it may do with it: the tables of the restricted unpickler.

A class that is named becomes a :class:`KnownClass`, of which bare objects may be made; one of a
handful of functions a :class:`KnownFunction`, which may be called; anything else is refused.
"""

from __future__ import annotations

import collections
import enum
import importlib
import pathlib
import pickle
import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn


class UnknownGlobalError(pickle.UnpicklingError):
    """A pickle names something that is not known to be harmless.

    Attributes:
        name: module and name, as the pickle has them.
    """

    def __init__(self, name: str) -> None:
        super().__init__(f"names {name}")
        self.name = name


class MisuseError(pickle.UnpicklingError):
    """A pickle asks for something that no checkpoint needs."""


@dataclass(frozen=True, slots=True)
class KnownClass:
    """A class that may be rebuilt, never called."""

    kind: type


@dataclass(frozen=True, slots=True)
class KnownFunction:
    """A function that a pickle may call."""

    call: Callable[..., Any]


_RENAMED = {
    "ultralytics.yolo.utils": "ultralytics.utils",
    "ultralytics.yolo.v8": "ultralytics.models.yolo",
    "ultralytics.yolo.data": "ultralytics.data",
}
"""Modules of checkpoints before Ultralytics 8.0.44 → today's."""
_ALIASES = {
    "ultralytics.nn.modules.block.Silence": "torch.nn.modules.linear.Identity",  # YOLOv9e
    "ultralytics.nn.tasks.YOLOv10DetectionModel": "ultralytics.nn.tasks.DetectionModel",
    "ultralytics.utils.loss.v10DetectLoss": "ultralytics.utils.loss.E2EDetectLoss",
}
"""Classes that have another name today."""
_MODULE_PACKAGES = ("torch.nn.modules", "ultralytics.nn.modules")
"""Whose submodules hold layers."""
_MODEL_MODULES = {*_MODULE_PACKAGES, "ultralytics.nn.tasks"}
"""Of which nothing but layers and models may be rebuilt."""
_CLASS_MODULES = {
    *_MODEL_MODULES,
    "ultralytics.nn.distill_model",
    "ultralytics.models.utils.loss",
    "ultralytics.models.utils.ops",
    "ultralytics.utils.loss",
    "ultralytics.utils.tal",
    "torchvision.ops.misc",
    "torchvision.ops.drop_block",
    "torchvision.ops.stochastic_depth",
    "torchvision.models.resnet",
    "torchvision.transforms.transforms",
}
"""Modules whose own classes may be rebuilt: those of layers, losses and transforms."""
_PLAIN_CLASSES = {
    "types.SimpleNamespace",
    "ultralytics.utils.IterableSimpleNamespace",
    "collections.OrderedDict",
    "collections.Counter",
}
_ENUMS = {"torchvision.transforms.functional.InterpolationMode"}
_PATHS = {
    f"{module}.{name}"
    for module in ("pathlib", "pathlib._local")
    for name in ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath", "Path")
}


def today(module: str, name: str) -> tuple[str, str]:
    """Module and name by which a class goes now."""
    for old, new in _RENAMED.items():
        if module == old or module.startswith(f"{old}."):
            module = new + module[len(old) :]
    full = f"{module}.{name}"
    module, _, name = _ALIASES.get(full, full).rpartition(".")
    if f"{module}.{name}" in _PATHS:
        module, name = "pathlib", "Path"
    return module, name


def made(token: Any, arguments: tuple[Any, ...]) -> Any:
    """A bare object of a known class, whose constructor was not called."""
    if not isinstance(token, KnownClass) or arguments:
        raise MisuseError("makes an object of what is no known class")
    kind: Any = token.kind
    return kind.__new__(kind)


def find_global(module: str, name: str) -> Any:
    """What a pickle may do with something that it names.

    Returns:
        A token, or a plain value (a dtype, a storage type of torch).

    Raises:
        UnknownGlobalError: it is not known to be harmless.
    """
    full = f"{module}.{name}"
    if full in _FUNCTIONS:
        return _FUNCTIONS[full]
    if full in _PATHS:
        return KnownFunction(_path)
    plain = _torch_value(full)
    if plain is not None:
        return plain
    module, name = today(module, name)
    kind = _resolved(module, name)
    if kind is not None:
        if f"{module}.{name}" in _ENUMS and issubclass(kind, enum.Enum):
            return KnownFunction(kind)
        if f"{module}.{name}" in _PLAIN_CLASSES or may_rebuild(module, kind):
            return KnownClass(kind)
    raise UnknownGlobalError(full)


def _resolved(module: str, name: str) -> type | None:
    """A class by its name; only modules that may hold known ones are imported."""
    package = module.rpartition(".")[0]
    known = module in _CLASS_MODULES or package in _MODULE_PACKAGES
    if not (known or f"{module}.{name}" in _PLAIN_CLASSES | _ENUMS or is_own(module)):
        return None
    try:
        found = getattr(importlib.import_module(module), name, None)
    except ImportError:
        return None
    return found if isinstance(found, type) else None


def is_own(module: str) -> bool:
    """Whether a module holds Darknet layers of ours."""
    return module.startswith("yoloprune.darknet.")


def may_rebuild(module: str, kind: type) -> bool:
    """Whether a class is a layer, loss or transform that holds what it was given and no more."""
    if module.rpartition(".")[0] in _MODULE_PACKAGES or module in _MODEL_MODULES:
        return issubclass(kind, nn.Module)
    return (module in _CLASS_MODULES or is_own(module)) and kind.__module__ == module


def _torch_value(full: str) -> Any:
    """Dtypes and storage types, which are no code."""
    from torch.serialization import StorageType

    if full in _DTYPES:
        return _DTYPES[full]
    module, _, name = full.rpartition(".")
    if module in ("torch", "torch.storage") and name.endswith("Storage"):
        if name in ("UntypedStorage", "TypedStorage"):
            return getattr(torch.storage, name)
        if hasattr(torch, name):
            storage: Any = StorageType
            return storage(name)
    return None


_DTYPES = {
    f"torch.{name}": value
    for name, value in vars(torch).items()
    if isinstance(value, torch.dtype | torch.memory_format | torch.layout)
}


def _path(*parts: Any) -> Path:
    if not all(isinstance(part, str) for part in parts):
        raise MisuseError("makes a path of what is no text")
    return pathlib.Path(*parts)


def _attribute(owner: Any, name: Any) -> Any:
    """What old checkpoints take by ``getattr``: another forward of a layer, a member of an enum."""
    if not isinstance(name, str):
        raise MisuseError("takes an attribute of no name")
    if isinstance(owner, KnownFunction) and isinstance(owner.call, type):
        members = getattr(owner.call, "__members__", {})
        if name in members:
            return members[name]
    kind = owner.kind if isinstance(owner, KnownClass) else type(owner)
    if name.startswith("forward") and issubclass(kind, nn.Module):
        found = getattr(kind, name, None)
        if isinstance(found, types.FunctionType):
            return found if isinstance(owner, KnownClass) else types.MethodType(found, owner)
    raise MisuseError(f"takes the attribute {name!r}")


def _reconstructed(kind: Any, base: Any, state: Any) -> Any:
    """``copyreg``'s, of protocols before 2, for objects without a state of their own."""
    if base is not object and not (isinstance(base, KnownClass) and base.kind is object):
        raise MisuseError("rebuilds a value of a class of its own")
    if state is not None:
        raise MisuseError("rebuilds an object from a value")
    return made(kind, ())


def _sized(make: Callable[[int], Any]) -> Callable[..., Any]:
    """A constructor that takes values, not a size of any memory that a file asks for."""

    def call(*arguments: Any) -> Any:
        if any(isinstance(one, int) for one in arguments):
            raise MisuseError("asks for memory")
        return make(*arguments)

    return call


def _scalar(dtype: Any, data: Any = None) -> Any:
    if not isinstance(dtype, np.dtype) or dtype.hasobject or not isinstance(data, bytes):
        raise MisuseError("makes a number of what is none")
    return np.frombuffer(data, dtype)[0]


def _dtype(text: Any, *_: Any) -> np.dtype[Any]:
    if not isinstance(text, str) or np.dtype(text).hasobject:
        raise MisuseError("names a dtype of objects")
    return np.dtype(text)


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> torch.Tensor:
    """A tensor within its storage; torch alone would make the storage larger where it is not."""
    if not isinstance(storage, torch.storage.TypedStorage) or not isinstance(offset, int):
        raise MisuseError("makes a tensor of what is no storage")
    room: int = storage._size()  # type: ignore[no-untyped-call]
    sizes, strides = tuple(size), tuple(stride)
    if len(sizes) != len(strides) or not all(isinstance(n, int) for n in (*sizes, *strides)):
        raise MisuseError("makes a tensor of no size")
    last = sum((n - 1) * step for n, step in zip(sizes, strides, strict=True))
    if min((offset, *sizes, *strides)) < 0 or (0 not in sizes and offset + last >= room):
        raise MisuseError("makes a tensor that reaches beyond what is stored")
    rebuild: Any = torch._utils._rebuild_tensor
    tensor: torch.Tensor = rebuild(storage, offset, sizes, strides)
    tensor.requires_grad = bool(rest and rest[0])
    return tensor


def _parameter(data: Any, requires_grad: Any = True, *_hooks: Any) -> nn.Parameter:
    if not isinstance(data, torch.Tensor):
        raise MisuseError("makes a parameter of what is no tensor")
    return nn.Parameter(data, bool(requires_grad))


def _encoded(text: Any, encoding: Any = "latin1") -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1", "utf-8"):
        raise MisuseError("encodes what is no text")
    return text.encode(encoding)


_FUNCTIONS: dict[str, KnownFunction] = {
    "torch._utils._rebuild_tensor": KnownFunction(_tensor),
    "torch._utils._rebuild_tensor_v2": KnownFunction(_tensor),
    "torch._utils._rebuild_parameter": KnownFunction(_parameter),
    **{f"{module}.getattr": KnownFunction(_attribute) for module in ("builtins", "__builtin__")},
    **{
        f"{module}.{kind.__name__}": KnownFunction(_sized(kind))  # type: ignore[arg-type]
        for module in ("builtins", "__builtin__")
        for kind in (set, frozenset, list, dict, tuple, bytearray)
    },
    **{
        f"{module}.{kind.__name__}": KnownFunction(kind)
        for module in ("builtins", "__builtin__")
        for kind in (slice, complex, range)
    },
    "collections.OrderedDict": KnownFunction(collections.OrderedDict),
    "torch.Size": KnownFunction(torch.Size),
    "torch.device": KnownFunction(torch.device),
    "torch.nn.parameter.Parameter": KnownFunction(_parameter),
    "torch.serialization._get_layout": KnownFunction(torch.serialization._get_layout),
    "_codecs.encode": KnownFunction(_encoded),
    "copyreg._reconstructor": KnownFunction(_reconstructed),
    "copy_reg._reconstructor": KnownFunction(_reconstructed),
    "numpy.dtype": KnownFunction(_dtype),
    "numpy.core.multiarray.scalar": KnownFunction(_scalar),
    "numpy._core.multiarray.scalar": KnownFunction(_scalar),
}
