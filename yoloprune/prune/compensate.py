"""Compensation: what a removed channel still gave is a constant, and constants can be folded.

A channel whose BatchNorm scale is (near) zero does not carry the picture any more, but it is
not zero either: it gives ``act(beta)`` everywhere. The layer that reads it sees
``sum(W[:, j]) · act(beta_j)`` on top of the rest, which fits into its bias, or into the running
mean of the BatchNorm behind it. No activation needs a rule: the scales are set to zero and the
constants read off one forward pass. Exact but for zero-padded borders.
"""

from __future__ import annotations

import copy
import logging
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from yoloprune.channels.graph import BoolArray, ChannelGraph, IntArray, TensorAxis
from yoloprune.channels.trace import random_input
from yoloprune.prune.replica import replica, tensors_of

log = logging.getLogger(__name__)

FloatArray = NDArray[np.float64]

TOLERANCE = 1e-3
"""Largest spread of a "constant" over the picture, relative to the largest constant."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compensation:
    """A model that no longer needs the removed channels' constants, as far as that goes.

    Attributes:
        model: a copy of full size, in which consumers carry the constants.
        folded: path of each consumer → what its output gained, float64 ``[C_out]``.
        skipped: path of each consumer whose constants could not be folded → why.
    """

    model: nn.Module
    folded: Mapping[str, FloatArray]
    skipped: Mapping[str, str]


def compensate(model: nn.Module, graph: ChannelGraph, remove: IntArray) -> Compensation:
    """Fold the constants of channels that will be removed into the layers that read them.

    Args:
        model: the model that ``graph`` was traced from. Not modified.
        graph: its channels.
        remove: int64, units that will go.

    Returns:
        The compensated model, still of full size, and what was done to it.
    """
    gone = np.zeros(graph.n_units, dtype=bool)
    gone[remove] = True
    readers = {axis.module: axis for axis in graph.axes if axis.role == "in"}
    readers = {path: axis for path, axis in readers.items() if gone[axis.units].any()}
    seen = _constants(model, graph, gone, readers)
    changed: dict[str, Tensor] = {}
    folded: dict[str, FloatArray] = {}
    skipped: dict[str, str] = {}
    for path, axis in readers.items():
        layer = model.get_submodule(path)
        lost = gone[axis.units].ravel()
        given = _unfoldable(layer) or _agreed(seen.get(path, []), lost)
        if isinstance(given, str):
            skipped[path] = given
            continue
        gain = _gain(layer, given, lost)
        if gain.any():
            name, tensor = _shifted(model, path, graph.norm_of.get(path), gain)
            changed[name] = tensor
            folded[path] = gain
    for path, why in skipped.items():
        log.info("%s: constants of removed channels are not folded (%s)", path, why)
    return Compensation(model=_with(model, changed), folded=folded, skipped=skipped)


def folded_gain(weight: FloatArray, constants: FloatArray, groups: int = 1) -> FloatArray:
    """What constant inputs add to the output of a convolution, away from padded borders.

    Args:
        weight: ``[C_out, C_in / groups, ...]``.
        constants: ``[C_in]``: value of each input channel, 0 for those that stay.
        groups: of the convolution.

    Returns:
        float64 ``[C_out]``: ``sum(W over kernel) · c``.
    """
    taps: FloatArray = weight.reshape(*weight.shape[:2], -1).sum(axis=2)
    rows = taps.reshape(groups, -1, taps.shape[1])
    gain: FloatArray = np.einsum("goi,gi->go", rows, constants.reshape(groups, -1))
    return gain.ravel()


def _unfoldable(layer: nn.Module) -> str | None:
    if isinstance(layer, (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)):
        return "a transposed convolution gives each position other taps"
    if not isinstance(layer, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        return f"a {type(layer).__name__} has no known bias"
    return None


def _gain(layer: nn.Module, given: FloatArray, lost: BoolArray) -> FloatArray:
    """What the lost inputs of a layer, at these values, add to its output."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    weight = weight.detach()
    groups = int(getattr(layer, "groups", 1))
    if groups > 1:
        given = np.where(lost, given, 0.0)
    else:
        # The columns that stay need no double precision.
        weight = weight.index_select(1, torch.from_numpy(np.flatnonzero(lost)).to(weight.device))
        given = given[lost]
    return folded_gain(weight.double().cpu().numpy(), given, groups)


def _shifted(model: nn.Module, path: str, norm: str | None, gain: FloatArray) -> tuple[str, Tensor]:
    """The bias with a gain added, else the running mean behind it without, else a new bias."""
    layer = model.get_submodule(path)
    weight = layer.weight
    assert isinstance(weight, Tensor)
    added = torch.from_numpy(gain).to(weight.device)
    mean = None if norm is None else model.get_submodule(norm).running_mean
    if isinstance(layer.bias, Tensor):
        return f"{path}.bias", (layer.bias.detach().double() + added).to(layer.bias.dtype)
    if isinstance(mean, Tensor):
        return f"{norm}.running_mean", (mean.double() - added).to(mean.dtype)
    return f"{path}.bias", added.to(weight.dtype)


def _with(model: nn.Module, changed: Mapping[str, Tensor]) -> nn.Module:
    """A replica with these tensors; biases that the model did not have are added."""
    known = tensors_of(model)
    made = replica(model, {name: t for name, t in changed.items() if name in known})
    for name in changed.keys() - known.keys():
        layer = made.get_submodule(name.rpartition(".")[0])
        weight = layer.weight
        assert isinstance(weight, Tensor)
        layer.bias = nn.Parameter(changed[name], requires_grad=weight.requires_grad)
    return made


def new_bias_axes(tensors: Mapping[str, Tensor], graph: ChannelGraph) -> list[TensorAxis]:
    """Axes of biases that the traced model did not have (compensation adds them)."""
    known = {axis.tensor for axis in graph.axes}
    added = []
    for axis in graph.out_axes:
        name = f"{axis.module}.bias"
        if name in tensors and name not in known:
            added.append(TensorAxis(tensor=name, dim=0, units=axis.units.ravel(), role="affine"))
    return added


# --- reading the constants


def _constants(
    model: nn.Module, graph: ChannelGraph, gone: BoolArray, readers: Mapping[str, TensorAxis]
) -> dict[str, list[tuple[FloatArray, FloatArray]]]:
    """For each reader and each of its calls: the value and the spread of each input channel."""
    probe = _silenced(model, graph, gone).eval()
    if any(p.dtype in (torch.float16, torch.bfloat16) for p in probe.parameters()):
        probe = copy.deepcopy(probe).float()
    seen: defaultdict[str, list[tuple[FloatArray, FloatArray]]] = defaultdict(list)
    with torch.no_grad(), _listening(probe, readers, seen):
        probe(random_input(probe, graph.input_shape))
    return seen


def _silenced(model: nn.Module, graph: ChannelGraph, gone: BoolArray) -> nn.Module:
    """Removed channels with scales of zero, or zero rows in layers that no BatchNorm follows."""
    scales = {f"{norm}.weight" for norm in graph.norm_of.values()}
    tensors: dict[str, Tensor] = dict(model.named_parameters())
    tensors |= {name: tensor for name, tensor in model.named_buffers() if name in scales}
    scaled = {path for path, norm in graph.norm_of.items() if f"{norm}.weight" in tensors}
    changed = {}
    for axis in graph.axes:
        if axis.tensor not in tensors or axis.role == "in" or not gone[axis.units].any():
            continue
        owner = model.get_submodule(axis.module)
        norm = isinstance(owner, nn.modules.batchnorm._BatchNorm) or axis.tensor in scales
        made_here = axis.role == "out" and axis.module not in scaled
        if made_here or (norm and axis.tensor.endswith(".weight")):
            changed[axis.tensor] = zeroed(tensors[axis.tensor].detach(), axis, gone)
    return replica(model, changed)


def zeroed(tensor: Tensor, axis: TensorAxis, gone: BoolArray) -> Tensor:
    """A copy in which what belongs to removed units is zero.

    Args:
        tensor: not modified.
        axis: the axis of it that carries units.
        gone: bool ``[n_units]``.
    """
    made = tensor.clone()
    lost = gone[axis.units]
    if lost.ndim == 1:
        index = torch.from_numpy(np.flatnonzero(lost)).to(tensor.device)
        return made.index_fill_(axis.dim, index, 0)
    for part, row in zip(made.chunk(lost.shape[0], 1 - axis.dim), lost, strict=True):
        index = torch.from_numpy(np.flatnonzero(row)).to(tensor.device)
        part.index_fill_(axis.dim, index, 0)
    return made


@contextmanager
def _listening(
    probe: nn.Module,
    readers: Mapping[str, TensorAxis],
    seen: defaultdict[str, list[tuple[FloatArray, FloatArray]]],
) -> Iterator[None]:
    handles = []
    for path in readers:

        def listen(module: nn.Module, args: Any, path: str = path) -> None:
            seen[path].append(_levels(args[0], -1 if isinstance(module, nn.Linear) else 1))

        handles.append(probe.get_submodule(path).register_forward_pre_hook(listen))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _levels(x: Tensor, dim: int) -> tuple[FloatArray, FloatArray]:
    """Value at the middle of each channel, and how far its interior strays from that."""
    planes = x.detach().double().movedim(dim, 0)
    planes = planes[:, 0] if dim == 1 else planes
    for axis in range(1, planes.ndim):
        margin = (planes.shape[axis] - 1) // 3 if dim == 1 else 0
        planes = planes.narrow(axis, margin, planes.shape[axis] - 2 * margin)
    flat = planes.reshape(planes.shape[0], -1)
    middle = flat[:, flat.shape[1] // 2]
    spread = (flat - middle[:, None]).abs().amax(dim=1)
    return middle.cpu().numpy(), spread.cpu().numpy()


def _agreed(seen: list[tuple[FloatArray, FloatArray]], lost: BoolArray) -> FloatArray | str:
    """The constants that all calls of a reader agree on, or why there are none."""
    if not seen:
        return "the evaluation pass does not call it"
    first = seen[0][0]
    scale = max(float(np.abs(first[lost]).max()), 1e-12)
    for value, spread in seen:
        if float(spread[lost].max()) > TOLERANCE * scale:
            return "what it reads of them is not constant over the picture"
        if float(np.abs(value - first)[lost].max()) > TOLERANCE * scale:
            return "it is called several times with other constants"
    return first
