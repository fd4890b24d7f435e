"""Masks put on a network and made permanent, by ``torch.nn.utils.prune`` itself."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from yoloprune.errors import MaskError, typed_line
from yoloprune.mask.files import Mask, read_masks
from yoloprune.mask.methods import AboveThreshold, NofM
from yoloprune.mask.spec import MaskSpec, Method
from yoloprune.mask.targets import WEIGHT, chosen_layers
from yoloprune.measure.sound import check_finite
from yoloprune.prune.own import imported

Layers = Mapping[str, nn.Module]
_Masker = Callable[[Layers, MaskSpec], None]
_MASKERS: dict[Method, _Masker] = {}


def mask_model(model: nn.Module, spec: MaskSpec) -> nn.Module:
    """Mask weights of a copy of a network; no layer gets smaller by it.

    Args:
        model: not modified. Masks that it carries stay, and the new ones combine with them.
        spec: which weights, and how they are chosen.

    Returns:
        The copy, its masks as ``torch.nn.utils.prune`` keeps them: ``weight_orig`` and
        ``weight_mask``. Before it is saved, fused or copied it wants :func:`made_permanent`.

    Raises:
        MaskError: the network has no such layers, a file or a class does not fit it, or more is
            to go than is there.
        MeasureError: a parameter is not finite.
    """
    check_finite(model)
    masked = _copied(model)
    layers = chosen_layers(masked, spec.kind, spec.layers)
    with torch.no_grad(), _seeded(spec.seed):
        if spec.further:
            _take_up(layers)
        _MASKERS[spec.method](layers, spec)
        _lay_out(layers)
    return masked


def _lay_out(layers: Layers) -> None:
    """Lay masks out in memory as their weights are.

    Else the product would take on the mask's layout, and be faster or slower in torch by that.
    """
    for module in layers.values():
        if f"{WEIGHT}_mask" in module._buffers:
            whole, mask = getattr(module, f"{WEIGHT}_orig"), getattr(module, f"{WEIGHT}_mask")
            module._buffers[f"{WEIGHT}_mask"] = torch.empty_like(whole).copy_(mask)
            setattr(module, WEIGHT, whole * getattr(module, f"{WEIGHT}_mask"))


def made_permanent(model: nn.Module) -> nn.Module:
    """Make the masks of a copy of a network permanent: zeros in place, and nothing else.

    Args:
        model: not modified.

    Returns:
        The copy, with the parameters, their names and their order that it had before masks.
    """
    plain = _copied(model)
    with torch.no_grad():
        for module in plain.modules():
            names = _masked_names(module)
            for name in names:
                prune.remove(module, name)
            if names:  # torch puts them last
                order = sorted(module._parameters, key=lambda name: name != WEIGHT)
                module._parameters = {name: module._parameters[name] for name in order}
    return plain


def is_pruned(model: nn.Module) -> bool:
    """Whether a network carries masks that are not permanent yet."""
    return bool(prune.is_pruned(model))


def masks_of(model: nn.Module) -> dict[str, Mask]:
    """Masks of a network, permanent or not: name of a weight → true where it stays.

    A weight without a zero is left out; a permanent mask is where the weight is exactly zero.
    """
    from yoloprune.mask.sparsity import own_tensors
    from yoloprune.mask.targets import layers_of

    found = {}
    for path, module in layers_of(model):
        weight = dict(own_tensors(module))[WEIGHT].detach()
        stays: Mask = (weight != 0).cpu().numpy()
        if not stays.all():
            found[f"{path}.{WEIGHT}"] = stays
    return found


def left_out(model: nn.Module, spec: MaskSpec) -> tuple[str, ...]:
    """Layers that were named, and that N:M does not fit."""
    if spec.method != "n_m":
        return ()
    layers = chosen_layers(model, spec.kind, spec.layers)
    return tuple(path for path, module in layers.items() if not _fits(module, spec))


def masker(method: Method) -> Callable[[_Masker], _Masker]:
    """Enter a way to mask into the table."""

    def enter(function: _Masker) -> _Masker:
        if method in _MASKERS:
            raise ValueError(f"{method} is there already")
        _MASKERS[method] = function
        return function

    return enter


@masker("random_unstructured")
def _random_unstructured(layers: Layers, spec: MaskSpec) -> None:
    for path, module in layers.items():
        with _told(path):
            prune.random_unstructured(module, WEIGHT, amount=_amount(spec))


@masker("l1_unstructured")
def _l1_unstructured(layers: Layers, spec: MaskSpec) -> None:
    for path, module in layers.items():
        with _told(path):
            prune.l1_unstructured(module, WEIGHT, amount=_amount(spec))


@masker("random_structured")
def _random_structured(layers: Layers, spec: MaskSpec) -> None:
    for path, module in layers.items():
        with _told(path):
            prune.random_structured(module, WEIGHT, amount=_amount(spec), dim=_axis(module, spec))


@masker("ln_structured")
def _ln_structured(layers: Layers, spec: MaskSpec) -> None:
    for path, module in layers.items():
        with _told(path):
            dim = _axis(module, spec)
            prune.ln_structured(module, WEIGHT, amount=_amount(spec), n=spec.n, dim=dim)


@masker("global_unstructured")
def _global_unstructured(layers: Layers, spec: MaskSpec) -> None:
    kind, given = prune.L1Unstructured, {"amount": _amount(spec)}
    if spec.custom is not None:
        kind = _class_of(spec.custom)
        given = _arguments(kind, spec)
    pairs = [(module, WEIGHT) for module in layers.values()]
    with _told("all layers together") if spec.custom is None else _foreign(spec, "all layers"):
        prune.global_unstructured(pairs, pruning_method=kind, **given)
    if spec.custom is not None:
        _check_masks(layers, spec)


@masker("n_m")
def _n_m(layers: Layers, spec: MaskSpec) -> None:
    n, m = spec.pattern
    fitting = {path: module for path, module in layers.items() if _fits(module, spec)}
    if not fitting:
        raise MaskError(f"--pattern {n}:{m}: no layer's input channels can be divided by {m}.")
    for path, module in fitting.items():
        with _told(path):
            _apply(NofM, module, n=n, m=m, dim=_inputs(module))


@masker("percentile")
def _percentile(layers: Layers, spec: MaskSpec) -> None:
    sizes = [_weight(module).detach().abs().flatten().cpu().numpy() for module in layers.values()]
    assert spec.amount is not None
    threshold = float(np.quantile(np.concatenate(sizes), spec.amount, method="lower"))
    for path, module in layers.items():
        with _told(path):
            _apply(AboveThreshold, module, threshold=threshold)


@masker("custom")
def _custom(layers: Layers, spec: MaskSpec) -> None:
    if spec.mask is not None:
        shapes = {f"{path}.{WEIGHT}": tuple(_weight(one).shape) for path, one in layers.items()}
        for name, mask in read_masks(spec.mask, shapes).items():
            module = layers[name.removesuffix(f".{WEIGHT}")]
            prune.custom_from_mask(module, WEIGHT, mask=torch.from_numpy(mask).to(_weight(module)))
        return
    assert spec.custom is not None
    kind = _class_of(spec.custom)
    given = _arguments(kind, spec)
    for path, module in layers.items():
        with _foreign(spec, path):
            _apply(kind, module, **given)
    _check_masks(layers, spec)


def _apply(kind: Any, module: nn.Module, **given: Any) -> None:
    """Mask a layer by a class of torch's kind."""
    kind.apply(module, WEIGHT, **given)


def _amount(spec: MaskSpec) -> float | int:
    """As torch takes it: a float is a share, an int a number."""
    assert spec.amount is not None
    return int(spec.amount) if spec.amount >= 1 else float(spec.amount)


def _weight(module: nn.Module) -> Tensor:
    weight = getattr(module, WEIGHT)
    assert isinstance(weight, Tensor)
    return weight


def _inputs(module: nn.Module) -> int:
    """Axis of a weight that runs over input channels."""
    return 0 if isinstance(module, nn.ConvTranspose2d) else 1


def _axis(module: nn.Module, spec: MaskSpec) -> int:
    """Axis of a weight that ``--dim`` means; a transposed convolution has the first two swapped."""
    return 1 - spec.dim if isinstance(module, nn.ConvTranspose2d) and spec.dim < 2 else spec.dim


def _fits(module: nn.Module, spec: MaskSpec) -> bool:
    return _weight(module).shape[_inputs(module)] % spec.pattern[1] == 0


def _class_of(custom: str | type[Any]) -> type[Any]:
    """The user's class.

    Raises:
        MaskError: it cannot be imported, or is none of torch's kind.
    """
    found: Any = custom
    if isinstance(custom, str):
        if ":" not in custom:
            raise MaskError(f"--custom: got {custom!r}, expected module:Class.")
        try:
            found = imported(custom)
        except Exception as exc:  # foreign code
            raise MaskError(f"--custom {custom}: cannot be imported: {typed_line(exc)}") from exc
    if not (isinstance(found, type) and issubclass(found, prune.BasePruningMethod)):
        raise MaskError(
            f"--custom {custom}: is no class derived from torch.nn.utils.prune.BasePruningMethod."
        )
    return found


def _arguments(kind: type[Any], spec: MaskSpec) -> dict[str, Any]:
    """What of ``amount``, ``n`` and ``dim`` the user's class asks for.

    Raises:
        MaskError: it asks for something else, or for an amount that was not given.
    """
    offered = {"n": spec.n, "dim": spec.dim}
    if spec.amount is not None:
        offered["amount"] = _amount(spec)
    asked = inspect.signature(kind.__init__).parameters
    found = {}
    for name, parameter in list(asked.items())[1:]:
        if name in offered:
            found[name] = offered[name]
        elif parameter.default is parameter.empty and parameter.kind not in (
            parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD
        ):  # fmt: skip
            hint = "Give --amount." if name == "amount" else "Offered are amount, n and dim."
            raise MaskError(f"--custom {_said(spec)}: its __init__ needs {name}. {hint}")
    if spec.amount is not None and "amount" not in found:
        raise MaskError(f"--amount: is not for {_said(spec)}, which takes none. Leave it out.")
    return found


def _said(spec: MaskSpec) -> str:
    return str(getattr(spec.custom, "__qualname__", spec.custom))


def _check_masks(layers: Layers, spec: MaskSpec) -> None:
    """Make sure that foreign code made masks."""
    for path, module in layers.items():
        mask = module._buffers.get(f"{WEIGHT}_mask")
        if mask is None or mask.shape != _weight(module).shape:
            raise MaskError(f"--custom {_said(spec)}: left {path} without a mask of its shape.")
        if not bool(((mask == 0) | (mask == 1)).all()):
            raise MaskError(
                f"--custom {_said(spec)}: its mask of {path} is not all zeros and ones."
            )


def _take_up(layers: Layers) -> None:
    """Make masks of the exact zeros of weights that carry none."""
    for module in layers.values():
        weight = _weight(module)
        if WEIGHT not in _masked_names(module) and bool((weight == 0).any()):
            prune.custom_from_mask(module, WEIGHT, mask=(weight != 0).to(weight))


def _masked_names(module: nn.Module) -> list[str]:
    return [
        hook._tensor_name
        for hook in module._forward_pre_hooks.values()
        if isinstance(hook, prune.BasePruningMethod)
    ]


def _copied(model: nn.Module) -> nn.Module:
    """A copy, of a masked model, too, whose weights torch would not copy after a forward pass."""
    memo: dict[int, Any] = {}
    for module in model.modules():
        for name in _masked_names(module):
            value = getattr(module, name)
            memo[id(value)] = value.detach().clone()
    return copy.deepcopy(model, memo)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Draw from a seed, and leave torch's own random numbers as they were."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


@contextmanager
def _told(where: str) -> Iterator[None]:
    """Name the layer that torch refuses to mask."""
    try:
        yield
    except (ValueError, IndexError, RuntimeError, TypeError) as exc:
        raise MaskError(f"{where}: cannot be masked so: {typed_line(exc)}") from exc


@contextmanager
def _foreign(spec: MaskSpec, where: str) -> Iterator[None]:
    """Tell whatever the user's class raises in one line."""
    try:
        yield
    except Exception as exc:
        raise MaskError(f"--custom {_said(spec)}: failed at {where}: {typed_line(exc)}") from exc
