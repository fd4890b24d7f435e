"""How much of a network is exactly zero."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from yoloprune.mask.targets import CONVS

Group = Literal["conv", "bn", "other"]
_ORIG = "_orig"
"""What torch.nn.utils.prune calls a masked parameter behind its name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSparsity:
    """Zeros of one parameter.

    Attributes:
        layer: path of the module that has it.
        name: of it there, as ``weight``.
        group: ``conv`` the weight of a convolution, ``bn`` the scales of a BatchNorm, ``other``.
        shape: of it.
        zeros: values that are exactly 0, masks applied.
        dead_outputs: slices along the first axis that are zero all over.
    """

    layer: str
    name: str
    group: Group
    shape: tuple[int, ...]
    zeros: int
    dead_outputs: int

    @property
    def size(self) -> int:
        """How many values."""
        return int(torch.Size(self.shape).numel())

    @property
    def share(self) -> float:
        """Of them that are zero."""
        return self.zeros / self.size if self.size else 0.0


@dataclass(frozen=True, slots=True)
class ModelSparsity:
    """Zeros of a network.

    Attributes:
        tensors: every parameter, in the order of the network.
    """

    tensors: tuple[TensorSparsity, ...]

    def share(self, group: Group | None = None) -> float:
        """Share of zeros in the parameters of a group, of all where it is None."""
        taken = [one for one in self.tensors if group in (None, one.group)]
        size = sum(one.size for one in taken)
        return sum(one.zeros for one in taken) / size if size else 0.0

    @property
    def layers(self) -> dict[str, float]:
        """Path of a module with parameters of its own → share of zeros in these together."""
        zeros, sizes = dict[str, int](), dict[str, int]()
        for one in self.tensors:
            zeros[one.layer] = zeros.get(one.layer, 0) + one.zeros
            sizes[one.layer] = sizes.get(one.layer, 0) + one.size
        return {layer: zeros[layer] / size for layer, size in sizes.items() if size}

    @property
    def dead_layers(self) -> tuple[str, ...]:
        """Convolutions all of whose weights are zero."""
        return tuple(
            one.layer for one in self.tensors if one.group == "conv" and one.zeros == one.size
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-able: the shares, by layer and by tensor, too."""
        return {
            "overall": self.share(),
            "conv": self.share("conv"),
            "bn": self.share("bn"),
            "dead_layers": list(self.dead_layers),
            "layers": self.layers,
            "tensors": [{**asdict(one), "share": one.share} for one in self.tensors],
        }


def sparsity(model: nn.Module) -> ModelSparsity:
    """Count the exact zeros of every parameter, under its mask where it has one.

    Args:
        model: masked, made permanent, or any other. Not modified.
    """
    return ModelSparsity(tuple(_tensors(model)))


def _tensors(model: nn.Module) -> Iterator[TensorSparsity]:
    seen: set[int] = set()
    for layer, module in model.named_modules():
        for name, value in own_tensors(module):
            kept = module._parameters.get(name, module._parameters.get(name + _ORIG))
            if id(kept) in seen:  # not of the value, which may be a product that lives no longer
                continue
            seen.add(id(kept))
            values = value.detach()
            zero = values == 0
            rows = zero.flatten(1).all(1) if zero.dim() > 1 else zero.flatten()
            yield TensorSparsity(
                layer=layer,
                name=name,
                group=_group(module, name),
                shape=tuple(values.shape),
                zeros=int(zero.sum()),
                dead_outputs=int(rows.sum()),
            )


def own_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """A module's parameters as its forward pass sees them, the weight first."""
    names = {
        name.removesuffix(_ORIG) if f"{name.removesuffix(_ORIG)}_mask" in module._buffers else name
        for name, value in module._parameters.items()
        if value is not None
    }
    for name in sorted(names, key=lambda name: (name != "weight", name)):
        masked = module._buffers.get(f"{name}_mask")
        value = getattr(module, name)
        if masked is not None:  # the attribute is what the last forward pass left
            value = getattr(module, name + _ORIG).detach() * masked
        yield name, value


def _group(module: nn.Module, name: str) -> Group:
    if name != "weight":
        return "other"
    if isinstance(module, CONVS):
        return "conv"
    return "bn" if isinstance(module, _BatchNorm) else "other"
