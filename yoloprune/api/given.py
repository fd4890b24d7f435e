"""What users hand to a public function: networks, examples of their input, pictures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from yoloprune.channels.trace import refuse_untraceable
from yoloprune.darknet.network import DarknetModel
from yoloprune.errors import DataError, TraceError
from yoloprune.measure.copies import device_of
from yoloprune.measure.pictures import Pictures
from yoloprune.models.door import Source, load, torch_device

Model = str | PathLike[str] | tuple[str | PathLike[str], str | PathLike[str]] | nn.Module
"""A file, a ``(cfg, weights)`` pair, or a network in memory."""
Calibration = str | PathLike[str] | Tensor | Iterable[Any]
"""What names pictures (a detector's only), or inputs as the network takes them: a tensor
``[N, ...]``, or batches of which the first tensor is taken, such as a ``DataLoader`` gives."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """A network to work on.

    Attributes:
        model: in evaluation mode where it was loaded; else as it was given.
        source: its files, if it has any.
        detector: whether it is of a family that yoloprune reads and writes files of.
    """

    model: nn.Module
    source: Source | None
    detector: bool


def network(
    model: Model, weights: str | PathLike[str] | None = None, *, trust: bool = False
) -> Network:
    """Load a network, or take it as it is.

    Args:
        model: see :data:`Model`; Ultralytics' ``YOLO`` objects are opened.
        weights: Darknet weights of a ``.cfg``.
        trust: unpickle a ``.pt`` of unknown classes, which can run any code.

    Raises:
        FormatError: a file cannot be read, or the argument is none of these.
    """
    if isinstance(model, nn.Module):
        inner = _unwrapped(model)
        refuse_untraceable(inner)
        return Network(model=inner, source=None, detector=_is_detector(inner))
    if isinstance(model, tuple) and len(model) == 2:
        model, weights = model
    if not isinstance(model, str | PathLike):
        raise TraceError(
            f"model: got {type(model).__name__}, expected a file, a (cfg, weights) pair, or an "
            "nn.Module."
        )
    found, source = load(
        fspath(model), None if weights is None else fspath(weights), trust=trust
    )  # fmt: skip
    return Network(model=found, source=source, detector=True)


def _unwrapped(model: nn.Module) -> nn.Module:
    """The network in a ``YOLO`` object, in what compiles it, or trains it on several devices."""
    while True:
        if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            model = model.module
        elif isinstance(compiled := getattr(model, "_orig_mod", None), nn.Module):
            model = compiled
        else:
            break
    inner = getattr(model, "model", None)
    wrapper = type(model).__module__.startswith("ultralytics.") and hasattr(model, "predictor")
    return inner if wrapper and isinstance(inner, nn.Module) else model


def _is_detector(model: nn.Module) -> bool:
    """Whether it is a Darknet or an Ultralytics network."""
    if isinstance(model, DarknetModel):
        return True
    return any(cls.__module__ == "ultralytics.nn.tasks" for cls in type(model).__mro__)


def example_of(given: Tensor | None, model: Network) -> Tensor | None:
    """One input of the batch that was given, in the network's place and type.

    Args:
        given: ``[B, ...]``; may be None for a detector, whose pictures are known.
        model: that takes it.

    Returns:
        ``[1, ...]``, or None.

    Raises:
        TraceError: it is missing, or no batch.
    """
    if given is None:
        if model.detector:
            return None
        raise TraceError(
            f"example_input: is missing. {type(model.model).__name__} is no YOLO, whose input is "
            "known: give a batch as it takes, such as torch.rand(1, 3, 224, 224)."
        )
    if not isinstance(given, Tensor) or given.ndim < 2 or not len(given):
        got = list(given.shape) if isinstance(given, Tensor) else type(given).__name__
        raise TraceError(
            f"example_input: got {got}, expected one tensor [B, ...], a batch. Wrap a network that "
            "takes more in a module that takes one."
        )
    if not given.is_floating_point() and given.dtype != torch.uint8:
        raise TraceError(
            f"example_input: got {given.dtype}, expected floating-point numbers: cuts are tested "
            "on random ones. Wrap a network of tokens in a module that takes their embeddings."
        )
    weight = next((p for p in model.model.parameters() if p.is_floating_point()), None)
    one = given[:1].detach()
    return one if weight is None else one.to(device=weight.device, dtype=weight.dtype)


def inputs_of(given: Calibration, example: Tensor | None, most: int) -> Pictures | None:
    """Inputs to calibrate on, where they are no names of picture files.

    Args:
        given: see :data:`Calibration`.
        example: ``[1, ...]``, that they must be like.
        most: how many are taken; the first ones.

    Raises:
        DataError: there are fewer than two, they are not alike, or no tensors.
    """
    if isinstance(given, str | PathLike):
        return None
    images = given if isinstance(given, Tensor) else _gathered(given, most)
    images = images[:most].detach().cpu()
    if len(images) < 2:
        raise DataError(
            f"calib: has {len(images)} inputs, expected at least 2, better some dozens."
        )
    if example is not None and (
        images.ndim != example.ndim or (images.ndim > 2 and images.shape[1] != example.shape[1])
    ):
        raise DataError(
            f"calib: has inputs of shape {list(images.shape[1:])}, expected some like "
            f"example_input's {list(example.shape[1:])}."
        )
    if images.is_floating_point() and not bool(images.isfinite().all()):
        raise DataError("calib: holds numbers that are not finite.")
    return Pictures(files=(), images=images, source="calib", placements=())


def _gathered(batches: Iterable[Any], most: int) -> Tensor:
    """The first inputs of some batches."""
    found: list[Tensor] = []
    if not isinstance(batches, Iterable):
        raise DataError(
            f"calib: got {type(batches).__name__}, expected a tensor [N, ...], or batches of them."
        )
    for batch in batches:
        one = _first(batch)
        if one is None:
            raise DataError(
                f"calib: a batch holds no tensor, got {type(batch).__name__}, expected one that "
                "the network takes, or a pair that begins with it."
            )
        if found and one.shape[1:] != found[0].shape[1:]:
            raise DataError(
                f"calib: batches differ: {list(found[0].shape[1:])}, then {list(one.shape[1:])}."
            )
        found.append(one.detach().cpu())
        if sum(map(len, found)) >= most:
            break
    if not found:
        raise DataError("calib: is empty.")
    return torch.cat(found)


def _first(batch: Any) -> Tensor | None:
    """The input in a batch: itself, the first of a pair, or ``img`` of Ultralytics' loaders."""
    if isinstance(batch, Mapping):
        batch = batch.get("img", next(iter(batch.values()), None))
    while isinstance(batch, tuple | list) and batch:
        batch = batch[0]
    return batch if isinstance(batch, Tensor) and batch.ndim else None


def path_of(given: str | PathLike[str] | None) -> Path | None:
    """A path, where there is one."""
    return None if given is None else Path(given)


def device_for(given: Network, device: str | None) -> str:
    """Where to work, as torch spells it: as asked, else where a module lies, or the best there is.

    Args:
        given: the network; one of a file lies nowhere yet.
        device: ``cpu``, ``0``, ``cuda:0`` …
    """
    if device is None and given.source is None:
        return str(device_of(given.model))
    return torch_device(device or "")
