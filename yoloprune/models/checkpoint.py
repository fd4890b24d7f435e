"""Ultralytics ``.pt`` checkpoints: read without running what they carry, written stock."""

from __future__ import annotations

import importlib.util
import io
import logging
import warnings
from collections.abc import Mapping
from copy import deepcopy
from datetime import datetime
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from yoloprune.errors import CheckpointError, typed_line
from yoloprune.files import write_bytes
from yoloprune.models.description import check_description
from yoloprune.models.marker import mark, unmarked
from yoloprune.texts import kind_of

log = logging.getLogger(__name__)


def read_checkpoint(path: Path, *, trust: bool = False) -> nn.Module:
    """Read the model of a checkpoint: its EMA where there is one.

    Only objects of torch's, Ultralytics' and yoloprune's Darknet layers are rebuilt, and nothing
    is called, see :mod:`yoloprune.models.unpickle`, unless ``trust`` is set.

    Args:
        path: a ``.pt`` file.
        trust: unpickle whatever the file names. That can run any code.

    Returns:
        The model: float32, evaluation mode, on the CPU.

    Raises:
        CheckpointError: the file is missing, damaged, or names classes that are not known.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file.")
    checkpoint = _unpickle(path, trust)
    model = (
        checkpoint.get("ema") or checkpoint.get("model") if isinstance(checkpoint, dict) else None
    )
    if not isinstance(model, nn.Module):
        raise CheckpointError(f"{path}: holds no model, expected an Ultralytics checkpoint.")
    inner = getattr(model, "student_model", model)  # of Ultralytics' distillation, under way
    if not trust:
        try:
            _check_whole(inner, path)
        except (AttributeError, TypeError, KeyError) as exc:
            raise CheckpointError(f"{path}: is damaged ({typed_line(exc)}).") from exc
    try:
        model = cast(nn.Module, inner).float().eval()
        for parameter in model.parameters():
            parameter.requires_grad_(True)
    except (AttributeError, TypeError, KeyError, RuntimeError) as exc:  # parts that are not there
        raise CheckpointError(f"{path}: is damaged ({typed_line(exc)}).") from exc
    args = checkpoint.get("train_args")
    model.args = dict(args) if isinstance(args, Mapping) else {}  # type: ignore[assignment]
    return model


def _check_whole(model: nn.Module, path: Path) -> None:
    """Make sure that the parts of a model are what they were when it was saved.

    Raises:
        CheckpointError: an attribute of a layer is missing or none of its kind, or the model's own
            description is none that may be built from.
    """
    yaml = getattr(model, "yaml", None)
    if isinstance(yaml, dict) and {"backbone", "head"} & set(yaml):
        check_description(unmarked(yaml), f"{path}: its model.yaml")
    for name, module in model.named_modules():
        where = name or "the model"
        if not isinstance(module, nn.Module):
            raise CheckpointError(f"{path}: is damaged: {where} is no layer.")
        for key in _NEEDED.get(type(module), ()):
            if not hasattr(module, key):
                raise CheckpointError(f"{path}: is damaged: {where} has no {key}.")
        if isinstance(module, nn.Conv2d):
            _check_conv(module, f"{path}: is damaged: {where}")


def _check_conv(conv: nn.Conv2d, where: str) -> None:
    """Compare what a convolution says of itself with the tensor that it has."""
    groups = conv.groups if isinstance(conv.groups, int) and conv.groups > 0 else 0
    weight = conv.weight
    shape = (conv.out_channels, conv.in_channels // max(groups, 1), *conv.kernel_size)
    if not groups or not isinstance(weight, torch.Tensor) or tuple(weight.shape) != shape:
        got = list(weight.shape) if isinstance(weight, torch.Tensor) else type(weight).__name__
        raise CheckpointError(f"{where} has a weight of {got}, expected {list(shape)}.")


_CONV = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups")
_NEEDED: dict[type[nn.Module], tuple[str, ...]] = {
    nn.Conv2d: (*_CONV, "padding_mode", "weight", "bias"),
    nn.ConvTranspose2d: (*_CONV, "output_padding", "weight", "bias"),
    nn.Linear: ("in_features", "out_features", "weight", "bias"),
    nn.BatchNorm2d: (
        *("num_features", "eps", "momentum", "affine", "track_running_stats"),
        *("weight", "bias", "running_mean", "running_var"),
    ),
    nn.MaxPool2d: ("kernel_size", "stride", "padding", "dilation"),
    nn.Upsample: ("size", "scale_factor", "mode"),
}
"""Attributes without which a layer does not run."""


def is_finished(path: Path) -> bool:
    """Whether the training run that wrote a checkpoint came to its end.

    Args:
        path: a ``last.pt``; read by the restricted unpickler.

    Raises:
        CheckpointError: it is damaged, names unknown classes, or is of no training run.
    """
    checkpoint = _unpickle(path, trust=False)
    epoch = checkpoint.get("epoch") if isinstance(checkpoint, dict) else None
    if not isinstance(epoch, int):
        raise CheckpointError(f"{path}: is of no training run, so that none can be resumed.")
    return epoch < 0  # Ultralytics strips a finished run's checkpoint so


def _unpickle(path: Path, trust: bool) -> Any:
    from yoloprune.models import unpickle

    kind = kind_of(path)
    if kind is not None:
        raise CheckpointError(f"{path}: is no checkpoint but {kind}.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's advice is for programmers
            return (unpickle.load_trusted if trust else unpickle.load)(path)
    except unpickle.UnknownGlobalError as exc:
        raise CheckpointError(f"{path}: was not loaded, since it {_named(exc.name)}") from exc
    except unpickle.MisuseError as exc:
        raise CheckpointError(
            f"{path}: was not loaded, since it {exc}. If you trust where it came from, add --trust."
        ) from exc
    except ModuleNotFoundError as exc:
        raise CheckpointError(f"{path}: {_missing(exc.name or str(exc))}") from exc
    except Exception as exc:  # a damaged pickle can raise anything: IndexError, struct.error …
        raise CheckpointError(f"{path}: is damaged, or no checkpoint ({typed_line(exc)}).") from exc


def _named(name: str) -> str:
    """What to say of something that a checkpoint names and that is not known."""
    package = name.partition(".")[0]
    if package in _YOLOV5_PACKAGES:
        return f"names {name}, of another repository. {_YOLOV5}"
    try:
        installed = importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):
        installed = False
    if not installed:
        return f"names {name}. {_missing(package)}"
    return (
        f"names {name}, which no detector needs and which may run code. If you trust where it came "
        "from, add --trust."
    )


_YOLOV5_PACKAGES = ("models", "utils")
_YOLOV5 = (
    "It is a checkpoint of the yolov5 (or yolov7) repository, whose code is not here: take the "
    "same network from Ultralytics, such as yolov5nu.pt, or train its YAML, such as yolov5n.yaml."
)


def _missing(package: str) -> str:
    """What to do about a package that a checkpoint needs."""
    if package.partition(".")[0] in _YOLOV5_PACKAGES:
        return f"needs the package {package}. {_YOLOV5}"
    return f"The package {package} is not installed: install it, then add --trust."


def fake_quantisation(path: Path) -> Mapping[str, Any] | None:
    """What Ultralytics' quantisation-aware training (``quantize=8``) left beside a model.

    Stock ``YOLO()`` puts its fake quantisation back by it, if ModelOpt is installed. It holds for
    the very weights that it was trained with.

    Args:
        path: a ``.pt`` file; read by the restricted unpickler.

    Returns:
        None where the model was trained without.
    """
    checkpoint = _unpickle(path, trust=False)
    state = checkpoint.get("modelopt") if isinstance(checkpoint, dict) else None
    return state if isinstance(state, Mapping) else None


def write_checkpoint(
    model: nn.Module, path: Path, quantisation: Mapping[str, Any] | None = None
) -> None:
    """Write a checkpoint that stock Ultralytics opens, with no yoloprune installed.

    A model that is not what its own YAML describes is marked, so that stock training stops
    with a message instead of growing it back, see :mod:`yoloprune.models.marker`.

    Args:
        model: an Ultralytics model; it is not modified. Stored in half precision, as
            Ultralytics does, unless a value is too large for it.
        path: the ``.pt`` file.
        quantisation: of these weights, see :func:`fake_quantisation`.
    """
    from ultralytics import __version__

    stored: Any = deepcopy(model).cpu()
    if _fits_half(stored):
        stored.half()
    else:
        log.warning("%s: holds values beyond half precision, so it is stored in full.", path)
    if hasattr(stored, "criterion"):
        stored.criterion = None
    _forget_anchors(stored)
    mark(stored)
    args = getattr(model, "args", None) or {}
    args = dict(args) if isinstance(args, dict) else dict(vars(args))
    args = {"task": task_of(model), **args}
    stored.args, stored.task = dict(args), args["task"]
    buffer = io.BytesIO()
    torch.save(
        {
            "epoch": -1,
            "best_fitness": None,
            "model": stored,
            "ema": None,
            "updates": None,
            "optimizer": None,
            "train_args": args,
            "date": datetime.now().astimezone().isoformat(),
            "version": __version__,
            **({} if quantisation is None else {"modelopt": quantisation}),
        },
        buffer,
    )
    write_bytes(path, buffer.getvalue())


def _forget_anchors(model: nn.Module) -> None:
    """Make heads compute their anchors anew, for those of RT-DETR were just rounded to half."""
    module: Any
    for module in model.modules():
        for key, empty in (("shape", None), ("shapes", [])):
            if key in vars(module) and hasattr(module, "anchors"):
                setattr(module, key, empty)


def task_of(model: nn.Module) -> str:
    """What a model does, in Ultralytics' words: ``detect``, ``segment``, ``pose`` and so on."""
    from ultralytics.nn.tasks import RTDETRDetectionModel, guess_model_task

    if isinstance(model, RTDETRDetectionModel):  # which the other does not know
        return "detect"
    return str(getattr(model, "task", None) or guess_model_task(model))


def _fits_half(model: nn.Module) -> bool:
    """Whether no finite value of a model becomes infinite in half precision."""
    limit = torch.finfo(torch.float16).max
    return not any(
        bool(((value.abs() > limit) & value.isfinite()).any())
        for value in model.state_dict().values()
        if value.is_floating_point()
    )


def stock_name(path: Path) -> Path:
    """The path under which stock Ultralytics finds a checkpoint.

    It reads ``yolov5n.pt`` and ``yolov3.pt`` as ``yolov5nu.pt`` and ``yolov3u.pt``, and fetches
    those, whatever lies there; such a name gets its "u" here.
    """
    from ultralytics.utils.checks import check_yolov5u_filename

    safe = path.with_name(check_yolov5u_filename(path.name, verbose=False))
    if safe != path:
        log.warning("Written as %s: stock Ultralytics reads %s by that name.", safe, path.name)
    return safe
