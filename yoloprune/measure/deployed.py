"""What a runtime gets to see of a network: its convolutions and operations, BatchNorms fused."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from yoloprune.errors import MeasureError, first_line
from yoloprune.measure.convs import Conv
from yoloprune.measure.fuse import fuse
from yoloprune.measure.images import InputSize, input_shape
from yoloprune.measure.macs import MacTracker


@dataclass(frozen=True, slots=True)
class Op:
    """One operation that some devices do badly.

    Attributes:
        kind: one of ``KINDS``.
        layer: path of the module that does it.
        size: longest side of its window, in pixels; 1 where it has none.
    """

    kind: str
    layer: str
    size: int = 1


@dataclass(frozen=True, slots=True)
class Deployed:
    """A network as deployed.

    Attributes:
        convs: in the order of the forward pass; one that runs several times stands once.
        ops: in that order, too.
    """

    convs: tuple[Conv, ...]
    ops: tuple[Op, ...]


_ACTIVATIONS = {
    "silu": "SiLU",
    "mish": "Mish",
    "leaky_relu": "LeakyReLU",
    "hardswish": "Hardswish",
    "gelu": "GELU",
    "elu": "ELU",
    "softplus": "Softplus",
}
_ELSE = (
    "max pool", "nearest resize", "bilinear resize", "channel slice", "spatial slice", "softmax",
    "grouped conv", "depthwise conv", "transposed conv", "conv",
)  # fmt: skip
KINDS = (*_ACTIVATIONS.values(), *_ELSE)
"""Kinds of operations that are told apart."""


def deployed(model: nn.Module, imgsz: InputSize) -> Deployed:
    """Look at a network as it would be deployed, with BatchNorms where they cannot be fused.

    Args:
        model: takes ``[1, C, H, W]``. Not modified.
        imgsz: side of the square input, or ``(height, width)``, in pixels; or its whole shape.

    Raises:
        MeasureError: the model does not run on such an input.
    """
    told = getattr(model, "yaml", None) or {}
    image = torch.zeros(input_shape(imgsz, channels=told.get("channels", 3)))
    watcher = _Watcher(image)
    try:
        watcher.watch(_as_deployed(model, image), image)
    except RuntimeError as exc:
        raise MeasureError(
            f"{type(model).__name__}: cannot run on an input of {list(image.shape)}: "
            f"{first_line(exc)}"
        ) from exc
    return Deployed(tuple(dict.fromkeys(watcher.convs)), tuple(dict.fromkeys(watcher.ops)))


def _as_deployed(model: nn.Module, image: Tensor) -> nn.Module:
    """A copy with its BatchNorms fused, or as it is where they cannot be."""

    def copied() -> nn.Module:
        return copy.deepcopy(model).cpu().float().eval()

    try:
        return fuse(copied(), image)
    except MeasureError:
        return copied()


class _Watcher(MacTracker):  # type: ignore[no-untyped-call]
    """Sees every convolution and operation of a forward pass."""

    def __init__(self, image: Tensor) -> None:
        super().__init__()
        self.convs: list[Conv] = []
        self.ops: list[Op] = []
        self._picture = tuple(image.shape[1:])

    def __torch_dispatch__(
        self,
        func: torch._ops.OpOverload[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Carry out one operation, and note it."""
        result = super().__torch_dispatch__(func, types, args, kwargs)
        name = func._schema.name.removeprefix("aten::").rstrip("_")
        layer = self._layer()
        if name in ("convolution", "_convolution") and args[1].dim() == 4:
            self._conv(layer, args, result)
        elif name in _ACTIVATIONS:
            self.ops.append(Op(_ACTIVATIONS[name], layer))
        elif name == "max_pool2d_with_indices":
            self.ops.append(Op("max pool", layer, max(args[1])))
        elif name.startswith("upsample_"):
            kind = "nearest resize" if "nearest" in name else "bilinear resize"
            self.ops.append(Op(kind, layer))
        elif name in ("_softmax", "softmax"):
            self.ops.append(Op("softmax", layer))
        elif func.is_view and isinstance(args[0], Tensor):
            self._slice(layer, args[0], result)
        return result

    def _layer(self) -> str:
        """The module at work; of one that many share (an activation), that which calls it."""
        inner, outer = self._stack[-1], self._stack[-2] if len(self._stack) > 1 else ""
        return inner if inner.startswith(outer) else outer

    def _conv(self, layer: str, args: Sequence[Any], result: Tensor) -> None:
        image, weight, transposed, groups = args[0], args[1], args[6], args[8]
        conv = Conv(
            layer=layer,
            inputs=image.shape[1],
            outputs=result.shape[1],
            groups=groups,
            kernel=(weight.shape[2], weight.shape[3]),
            transposed=transposed,
            reads_picture=tuple(image.shape[1:]) == self._picture,
        )
        self.convs.append(conv)
        size = max(conv.kernel)
        self.ops.append(Op("conv", layer, size))
        if transposed:
            self.ops.append(Op("transposed conv", layer, size))
        elif conv.depthwise:
            self.ops.append(Op("depthwise conv", layer, size))
        elif groups > 1:
            self.ops.append(Op("grouped conv", layer, size))

    def _slice(self, layer: str, given: Tensor, result: Any) -> None:
        """A view of a part of a feature map, whatever operation took it."""
        parts = list(result) if isinstance(result, (list, tuple)) else [result]
        if given.dim() != 4 or not all(isinstance(part, Tensor) for part in parts):
            return
        for part in parts:
            if part.dim() != 4 or part.shape[0] != given.shape[0] or part.numel() >= given.numel():
                continue
            if part.shape[2:] == given.shape[2:]:
                self.ops.append(Op("channel slice", layer))
            elif part.shape[1] == given.shape[1]:
                self.ops.append(Op("spatial slice", layer))
