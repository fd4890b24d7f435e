"""Parameters, multiply-adds and bytes of a model.

Convention: 1 MAC = one multiply-add, of one image. Convolutions (zero padding counted like
anything else), transposed convolutions, linear layers and the matrix products of attention
count; what costs one operation an element or less (BatchNorm, bias, activation, pooling,
resizing, addition, softmax) does not. So a model has the same MACs before and after its
BatchNorms are fused; branches that Ultralytics' ``fuse()`` merges or drops (RepConv, the
one-to-many heads of YOLOv10 and YOLO26) count as long as they run. ``gflops`` is
2 · MACs · 1e-9, Darknet's BFLOPs.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from yoloprune.errors import MeasureError, first_line
from yoloprune.measure.copies import device_of, structural_copy
from yoloprune.measure.environment import Environment, environment
from yoloprune.measure.images import InputSize, input_shape
from yoloprune.measure.macs import MacTracker, Shape

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerSize:
    """One module that owns parameters or computes.

    Attributes:
        name: path of the module; empty for the model itself.
        type: name of its class.
        in_shape, out_shape: of its first tensor argument and result in the last call, batch
            included; None for a module that the forward pass does not call.
        params: parameters that it owns itself, not those of modules inside it. A parameter
            that several modules share counts in the first.
        macs: multiply-adds of its own, over all calls.
    """

    name: str
    type: str
    in_shape: Shape | None
    out_shape: Shape | None
    params: int
    macs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """What a model weighs and computes.

    Attributes:
        params: all parameters.
        macs: multiply-adds for one image.
        imgsz: height and width of the input that was counted, in pixels; what stands for them in
            an input that is no picture.
        layers: in the order of ``named_modules()``.
        uncounted: operation → calls, of those without a rule: their cost is missing in
            ``macs``. Empty when the count is whole.
        environment: where it was counted.
    """

    params: int
    macs: int
    imgsz: tuple[int, ...]
    layers: tuple[LayerSize, ...]
    uncounted: Mapping[str, int]
    environment: Environment

    @property
    def gflops(self) -> float:
        """``2 · macs / 1e9``."""
        return 2 * self.macs / 1e9

    def to_dict(self) -> dict[str, Any]:
        """The record as JSON-able data."""
        return {**asdict(self), "uncounted": dict(self.uncounted), "gflops": self.gflops}


def count(model: nn.Module, imgsz: InputSize, *, channels: int = 3) -> Size:
    """Count the parameters and multiply-adds of a model on one image.

    One forward pass is watched; its convolutions and matrix products are not carried out, only
    their shapes, so that counting takes a fraction of an inference.

    Args:
        model: takes ``[1, channels, H, W]``. Not modified.
        imgsz: side of the square input, or ``(height, width)``, in pixels; or its whole shape.
        channels: channels of the input, where the shape does not say.

    Raises:
        MeasureError: the model does not run on such an input.
    """
    shape = input_shape(imgsz, channels=channels)
    runner = structural_copy(model)
    parameter = next(model.parameters(), torch.empty(0))
    image = torch.zeros(shape, dtype=parameter.dtype, device=parameter.device)
    tracker = MacTracker()
    try:
        tracker.watch(runner, image)
    except RuntimeError as exc:
        reason = first_line(exc)
        raise MeasureError(
            f"{type(model).__name__}: cannot run on an input of {list(image.shape)}: {reason}"
        ) from exc
    if tracker.unknown:
        logger.warning("not in the MACs, for want of a rule: %s", dict(tracker.unknown))
    return Size(
        params=sum(p.numel() for p in model.parameters()),
        macs=sum(tracker.macs.values()),
        imgsz=tuple(shape[2:]),
        layers=tuple(_layers(runner, tracker)),
        uncounted=dict(tracker.unknown),
        environment=environment(device_of(model)),
    )


def file_bytes(paths: Iterable[str | Path]) -> int:
    """Bytes of a model's files together.

    Raises:
        MeasureError: one does not exist.
    """
    total = 0
    for path in map(Path, paths):
        try:
            total += path.stat().st_size
        except OSError as exc:
            raise MeasureError(f"{path}: cannot be measured: {exc.strerror}.") from exc
    return total


def held_bytes(model: nn.Module) -> int:
    """Bytes of a model's parameters and stored buffers as they are held."""
    return sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())


def _layers(model: nn.Module, tracker: MacTracker) -> Iterator[LayerSize]:
    seen: set[int] = set()
    for name, module in model.named_modules():
        own = [p for p in module.parameters(recurse=False) if id(p) not in seen]
        seen.update(map(id, own))
        if not own and not tracker.macs[name]:
            continue
        in_shape, out_shape = tracker.shapes.get(name, (None, None))
        yield LayerSize(
            name=name,
            type=type(module).__name__,
            in_shape=in_shape,
            out_shape=out_shape,
            params=sum(p.numel() for p in own),
            macs=tracker.macs[name],
        )
