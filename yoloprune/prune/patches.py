"""What a layer reads at chosen positions of its output, as a matrix; and its weight as another.

Convolutions, transposed ones and linear layers are all ``rows @ matrix`` at a position, group by
group: here is where their geometry is, so that whoever fits a layer sees matrices only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
LAYERS = (nn.Linear, *CONVS, *TRANSPOSED)
"""The kinds of layer that are products with a weight."""


def groups_of(layer: nn.Module) -> int:
    """Into how many parts its channels fall that do not see each other."""
    return int(getattr(layer, "groups", 1))


def is_batched(layer: nn.Module, shape: Sequence[int]) -> bool:
    """Whether a tensor of this shape has the batch that a convolution's input should have."""
    return isinstance(layer, nn.Linear) or len(shape) == 2 + len(_kernel(layer))


def positions(layer: nn.Module, out_shape: Sequence[int]) -> int:
    """How many positions an output has, over the whole batch."""
    if isinstance(layer, nn.Linear):
        return math.prod(out_shape[:-1])
    return int(out_shape[0]) * math.prod(out_shape[2:])


def spread(total: int, wanted: int, seed: int, mass: Tensor | None = None) -> Tensor:
    """Positions spread evenly and at random: one in each of ``wanted`` equal stretches.

    Args:
        total: how many there are.
        wanted: how many to take; all where there are no more.
        seed: the same positions for the same seed.
        mass: float64 ``[total]``, by which stretches are equal; their number of positions, if
            None. One that has the mass of several stretches is taken once all the same.

    Returns:
        int64, ascending, each once.
    """
    if total <= wanted:
        return torch.arange(total)
    generator = torch.Generator().manual_seed(seed)
    share = torch.rand(wanted, generator=generator, dtype=torch.double)
    if mass is not None:
        behind = mass.cumsum(0)
        at = (torch.arange(wanted) + share) * (behind[-1] / wanted)
        found = torch.searchsorted(behind, at).clamp_max(total - 1)
        return found[found.diff(prepend=found.new_tensor([-1])) > 0]
    ends = torch.arange(wanted + 1) * total // wanted
    return ends[:-1] + (share * ends.diff()).long()


def written(layer: nn.Module, y: Tensor, at: Tensor) -> Tensor:
    """The output at these positions.

    Args:
        layer: that gave it.
        y: ``[B, C_out, *spatial]``; of a linear layer ``[..., C_out]``.
        at: int64 ``[n]``, over the batch and the spatial axes.

    Returns:
        float32 ``[n, C_out]``.
    """
    if isinstance(layer, nn.Linear):
        return y.reshape(-1, y.shape[-1]).index_select(0, at).float()
    batch, place = at // math.prod(y.shape[2:]), at % math.prod(y.shape[2:])
    return y.flatten(2)[batch, :, place].float()


def read(layer: nn.Module, x: Tensor, out_shape: Sequence[int], at: Tensor) -> Tensor:
    """What a layer reads for its output at these positions.

    Args:
        layer: convolution, transposed convolution or linear layer.
        x: its input.
        out_shape: of its output.
        at: int64 ``[n]``, over the batch and the spatial axes of the output.

    Returns:
        float32 ``[groups, n, taps · C_in / groups]``; times :func:`matrix` (and with the bias) it
        is the output.
    """
    if isinstance(layer, nn.Linear):
        return x.reshape(-1, x.shape[-1]).index_select(0, at).float()[None]
    if isinstance(layer, TRANSPOSED):
        x, steps, paddings = _stretched(layer, x), [1] * (x.ndim - 2), [0] * (x.ndim - 2)
    else:
        x, paddings = _padded(layer, x)
        steps = list(_numbers(layer.stride))
    taps = _taps(x, out_shape[2:], at, _kernel(layer), steps, _spacing(layer), paddings)
    n, kernel, channels = taps.shape
    groups = groups_of(layer)
    grouped = taps.view(n, kernel, groups, channels // groups).permute(2, 0, 1, 3)
    return grouped.reshape(groups, n, -1).float()


def matrix(layer: nn.Module, weight: Tensor) -> Tensor:
    """A layer's weight as ``[groups, taps · C_in / groups, C_out / groups]``."""
    if isinstance(layer, nn.Linear):
        return weight.T[None]
    groups = groups_of(layer)
    if isinstance(layer, TRANSPOSED):
        spatial = list(range(2, weight.ndim))
        turned = weight.flip(spatial).reshape(groups, -1, *weight.shape[1:]).flatten(3)
        return turned.permute(0, 3, 1, 2).flatten(1, 2)
    parts = weight.reshape(groups, -1, *weight.shape[1:]).flatten(3)
    return parts.permute(0, 3, 2, 1).flatten(1, 2)


def weight_of(layer: nn.Module, made: Tensor, shape: Sequence[int]) -> Tensor:
    """The inverse of :func:`matrix`: a weight of this shape."""
    if isinstance(layer, nn.Linear):
        return made[0].T
    kernel = math.prod(_kernel(layer))
    parts = made.reshape(made.shape[0], kernel, -1, made.shape[2])
    if isinstance(layer, TRANSPOSED):
        spatial = list(range(2, len(shape)))
        return parts.permute(0, 2, 3, 1).reshape(*shape).flip(spatial)
    return parts.permute(0, 3, 2, 1).reshape(*shape)


def _taps(
    x: Tensor,
    spatial: Sequence[int],
    at: Tensor,
    kernel: Sequence[int],
    steps: Sequence[int],
    spacing: Sequence[int],
    paddings: Sequence[int],
) -> Tensor:
    """``[n, taps, C]``: the input under each tap; zero outside of the picture."""
    index = [at // math.prod(spatial)]
    inside: Tensor | None = None
    rest = at % math.prod(spatial)
    for axis, size in enumerate(x.shape[2:]):
        behind = math.prod(spatial[axis + 1 :])
        place, rest = rest // behind, rest % behind
        taps = torch.arange(kernel[axis], device=at.device) * spacing[axis] - paddings[axis]
        rows = place[:, None] * steps[axis] + taps
        valid = (rows >= 0) & (rows < size)
        # [n, 1, …, taps of this axis, …, 1], so that the axes span the kernel together.
        shape = [-1, *(len(taps) if i == axis else 1 for i in range(len(kernel)))]
        index.append(rows.clamp(0, size - 1).view(shape))
        mask = valid.view(shape)
        inside = mask if inside is None else inside & mask
    index[0] = index[0].view([-1] + [1] * len(kernel))
    places: tuple[Any, ...] = (index[0], slice(None), *index[1:])
    found: Tensor = x[places]  # advanced axes come first: [n, *kernel, C]
    assert inside is not None
    if any(paddings):
        found = found * inside[..., None]
    return found.flatten(1, -2)


def _padded(layer: nn.Module, x: Tensor) -> tuple[Tensor, list[int]]:
    """The input, and how many zeros are to be thought before it on each axis."""
    given = layer.padding
    if given == "valid":
        return x, [0] * (x.ndim - 2)
    if given == "same":
        kernel, spacing = _kernel(layer), _spacing(layer)
        before = [s * (k - 1) // 2 for k, s in zip(kernel, spacing, strict=True)]
    else:
        before = list(_numbers(given))
    if getattr(layer, "padding_mode", "zeros") == "zeros" or not any(before):
        return x, before
    twice = _numbers(layer._reversed_padding_repeated_twice)
    return F.pad(x, twice, mode=str(layer.padding_mode)), [0] * (x.ndim - 2)


def _stretched(layer: nn.Module, x: Tensor) -> Tensor:
    """The input with zeros between, as a plain convolution reads it to be the transposed one."""
    steps = _numbers(layer.stride)
    sizes = [(n - 1) * step + 1 for n, step in zip(x.shape[2:], steps, strict=True)]
    made = x.new_zeros(*x.shape[:2], *sizes)
    places: tuple[Any, ...] = (..., *(slice(None, None, step) for step in steps))
    made[places] = x
    around: list[int] = []
    more = _numbers(layer.output_padding)
    before = zip(_kernel(layer), _spacing(layer), _numbers(layer.padding), more, strict=True)
    for kernel, spacing, padding, extra in before:
        reach = spacing * (kernel - 1) - padding
        around = [reach, reach + extra, *around]
    return F.pad(made, around)


def _kernel(layer: nn.Module) -> tuple[int, ...]:
    return _numbers(layer.kernel_size)


def _spacing(layer: nn.Module) -> tuple[int, ...]:
    return _numbers(layer.dilation)


def _numbers(given: Any) -> tuple[int, ...]:
    return tuple(int(number) for number in given)
