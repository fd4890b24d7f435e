"""``train``: one call for training, sparsifying and fine-tuning, both families."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from yoloprune.errors import DataError, TrainError
from yoloprune.models import save
from yoloprune.plan import Budget

if TYPE_CHECKING:
    from yoloprune.train.sparsity import Sparsity


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainOptions:
    """How to train.

    Attributes:
        data: Ultralytics data YAML.
        epochs: passes over the training split.
        imgsz: side of the square input, pixels.
        batch: pictures a step.
        device: as Ultralytics reads it: ``cpu``, ``0``, ``0,1``.
        seed: of everything random.
        sparsity: L1 factor on the gammas of prunable units; or the budget of the cut to come,
            whose units are then brought to exact zero; None is neither.
        resume: go on from ``weights/last.pt`` of an interrupted run in the same folder.
        extra: further Ultralytics settings, passed through.
    """

    data: str
    epochs: int
    imgsz: int
    batch: int = 16
    device: str = ""
    seed: int = 0
    sparsity: float | Budget | None = None
    resume: bool = False
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainResult:
    """What training left behind.

    Attributes:
        best: the EMA of the epoch with the best validation AP.
        last: the EMA of the last epoch.
        files: model files in the input's own format, ``best`` first.
        folder: everything that was written.
    """

    best: nn.Module
    last: nn.Module
    files: tuple[Path, ...]
    folder: Path


def train(model: nn.Module, out: Path, options: TrainOptions) -> TrainResult:
    """Train a copy of ``model``; its structure is kept.

    Args:
        model: a detector; not modified.
        out: folder for checkpoints (``weights/last.pt``, ``weights/best.pt``) and curves.
        options: how.

    Raises:
        DataError: the data set cannot be read.
        TrainError: training failed.
    """
    from yoloprune.checkpoint import read_checkpoint

    weights = out / "weights"
    state = _progress(weights / "last.pt") if options.resume else _Progress.NONE
    if state is not _Progress.FINISHED:
        settings = _settings(model, out, options)
        if state is _Progress.BEGUN:
            settings |= {"resume": str(weights / "last.pt"), "model": str(weights / "last.pt")}
        trainer = _trainer(model, settings, options)
        if state is _Progress.NONE:
            trainer.model = trainer.get_model(weights=model)
        if options.sparsity is not None:
            trained = trainer.model if isinstance(trainer.model, nn.Module) else model
            trainer.sparsity = _sparsity(trained, options.sparsity)
        trainer.train()
    best = read_checkpoint(weights / "best.pt")
    last = read_checkpoint(weights / "last.pt")
    files = (*save(best, weights / "best"), *save(last, weights / "last"))
    return TrainResult(best=best, last=last, files=files, folder=out)


class _Progress(Enum):
    """How far an earlier run in the folder came."""

    NONE = auto()
    BEGUN = auto()
    FINISHED = auto()


def _progress(last: Path) -> _Progress:
    if not last.is_file():
        return _Progress.NONE
    from yoloprune.checkpoint import is_finished

    # Ultralytics will unpickle it without restriction: what is refused here never gets there
    return _Progress.FINISHED if is_finished(last) else _Progress.BEGUN


def _trainer(model: nn.Module, settings: dict[str, Any], options: TrainOptions) -> Any:
    from yoloprune.train.trainer import trainer_for

    kind = trainer_for(model)
    try:
        return kind(overrides=settings)
    except (RuntimeError, FileNotFoundError) as exc:
        raise DataError(f"{options.data}: {_first_line(exc)}") from exc
    except (SyntaxError, TypeError, ValueError) as exc:
        raise TrainError(f"--set: {_first_line(exc)}") from exc


def _settings(model: nn.Module, out: Path, options: TrainOptions) -> dict[str, Any]:
    from yoloprune.checkpoint import task_of

    if "," in options.device:
        # Ultralytics starts its workers anew from settings, which carry neither model nor sparsity
        raise TrainError(
            f"--device: several devices are not supported yet, got {options.device}. Name one."
        )
    out = out.resolve()
    return {
        "task": task_of(model),
        "mode": "train",
        "model": "yoloprune.pt",  # a name only: the trainer is handed the model itself
        "data": options.data,
        "epochs": options.epochs,
        "imgsz": options.imgsz,
        "batch": options.batch,
        "device": options.device or None,
        "seed": options.seed,
        "project": str(out.parent),
        "name": out.name,
        "exist_ok": True,
        **options.extra,
    }


def _sparsity(model: nn.Module, wish: float | Budget) -> Sparsity:
    from yoloprune.channels.trace import trace
    from yoloprune.train.sparsity import l1, planned

    graph = trace(model)
    return planned(model, graph, wish) if isinstance(wish, Budget) else l1(model, graph, wish)


def _first_line(exc: BaseException) -> str:
    return str(exc).strip().splitlines()[0] if str(exc).strip() else type(exc).__name__


def parse_sparsity(text: str, budget: Budget) -> float | Budget | None:
    """Read ``--sparsity``: a strength, ``0`` for none, or ``auto`` for the units of a budget.

    Raises:
        TrainError: it is neither.
    """
    if text == "auto":
        return budget
    try:
        strength = float(text)
    except ValueError:
        strength = -1.0
    if not 0 <= strength < float("inf"):
        raise TrainError(f"--sparsity: must be auto or a number of at least 0, got {text}.")
    return strength or None


def parse_settings(items: Sequence[str]) -> dict[str, Any]:
    """Read ``key=value`` settings; values are YAML scalars.

    Raises:
        TrainError: an item has no ``=``.
    """
    import yaml

    settings: dict[str, Any] = {}
    for item in items:
        key, equals, value = item.partition("=")
        if not equals or not key:
            raise TrainError(f"--set: expected key=value, got '{item}'.")
        settings[key.strip()] = yaml.safe_load(value)
    return settings
