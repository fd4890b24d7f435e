"""Ultralytics ``.pt`` checkpoints: read without running what they carry, written stock."""

from __future__ import annotations

import io
import logging
import re
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from datetime import datetime
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from yoloprune.errors import CheckpointError
from yoloprune.files import write_bytes
from yoloprune.models.marker import mark

log = logging.getLogger(__name__)


def read_checkpoint(path: Path, *, trust: bool = False) -> nn.Module:
    """Read the model of a checkpoint: its EMA where there is one.

    Only classes of torch, Ultralytics and yoloprune's Darknet models are constructed, through
    torch's restricted unpickler, unless ``trust`` is set.

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
    model = cast(nn.Module, inner).float().eval()
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    args = checkpoint.get("train_args")
    model.args = dict(args) if isinstance(args, Mapping) else {}  # type: ignore[assignment]
    return model


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
    from ultralytics.nn.tasks import torch_safe_load

    from yoloprune.darknet.network import register_safe_classes

    if not trust and not hasattr(torch.serialization, "get_unsafe_globals_in_checkpoint"):
        raise CheckpointError(
            f"{path}: cannot be read safely by torch {torch.__version__}, expected 2.6 or later. "
            f"If you trust where it came from, add --trust."
        )
    register_safe_classes()
    try:
        with _neutral_name(path) as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's advice is for programmers
            return torch_safe_load(str(file), safe_only=not trust)[0]
    except Exception as exc:  # a damaged pickle can raise anything: IndexError, struct.error …
        cause = exc.__cause__ or exc
        refused = re.search(r"GLOBAL (\S+)", str(cause))
        if refused and not trust:
            raise CheckpointError(
                f"{path}: was not loaded, since it names {refused[1]}, which no detector needs and "
                f"which may run code. If you trust where it came from, add --trust."
            ) from exc
        first = (str(cause).strip().splitlines() or [""])[0][:160]
        raise CheckpointError(
            f"{path}: is damaged, or no checkpoint ({type(cause).__name__}: {first})."
        ) from exc


@contextmanager
def _neutral_name(path: Path) -> Iterator[Path]:
    """The file under a name that means nothing to Ultralytics.

    It reads ``yolov5n.pt`` as ``yolov5nu.pt``, and fetches that where it is not at hand.
    """
    with tempfile.TemporaryDirectory(prefix="yoloprune-") as folder:
        plain = Path(folder) / "checkpoint.pt"
        try:
            plain.symlink_to(path.resolve())
        except OSError:  # a system, or a user, that may not make links
            shutil.copyfile(path, plain)
        yield plain


def write_checkpoint(model: nn.Module, path: Path) -> None:
    """Write a checkpoint that stock Ultralytics opens, with no yoloprune installed.

    A model that is not what its own YAML describes is marked, so that stock training stops
    with a message instead of growing it back, see :mod:`yoloprune.models.marker`.

    Args:
        model: an Ultralytics model; it is not modified. Stored in half precision, as
            Ultralytics does, unless a value is too large for it.
        path: the ``.pt`` file.
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
