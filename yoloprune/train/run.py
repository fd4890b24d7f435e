"""``train``: one call for training, sparsifying and fine-tuning, both families."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from enum import Enum, auto
from pathlib import Path
from subprocess import CalledProcessError
from typing import Any

from torch import nn

from yoloprune.darknet.network import DarknetModel
from yoloprune.errors import DataError, TrainError, first_line
from yoloprune.files import check_space, held
from yoloprune.measure.handover import handed_over, only_what_was_handed, pictures_handed_over
from yoloprune.measure.sound import check_finite
from yoloprune.models.door import save
from yoloprune.progress import stage
from yoloprune.train.folder import (
    HANDED,
    Begun,
    check_same,
    forget,
    refuse_results,
    settings_of,
    tidy,
)
from yoloprune.train.options import DistillOptions, TrainOptions
from yoloprune.train.zeros import KeptZeros

log = logging.getLogger(__name__)

_BYTES = 40
"""Of disk a parameter needs in training: state with moments, checkpoints, and these anew."""
DIS = 6.0
"""Ultralytics' default weight of its distillation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainResult:
    """What training left behind.

    Attributes:
        best: the EMA of the epoch with the best validation AP; the last where nothing is measured.
        last: the EMA of the last epoch.
        files: model files in the input's own format, ``best`` first.
        folder: everything that was written.
        metrics: of ``best`` on the validation split, by Ultralytics' names and measure; None where
            it was not measured in this process.
        sparsity: the last line of ``sparsity.jsonl``; None without sparsity.
    """

    best: nn.Module
    last: nn.Module
    files: tuple[Path, ...]
    folder: Path
    metrics: dict[str, float] | None = None
    sparsity: dict[str, Any] | None = None


def train(model: nn.Module, out: str | Path, options: TrainOptions) -> TrainResult:
    """Train a copy of ``model``; its structure is kept.

    In public it is ``yoloprune.train_model``, for ``yoloprune.train`` is the package around it.

    Args:
        model: a detector; not modified.
        out: folder for checkpoints (``weights/last.pt``, ``weights/best.pt``) and curves.
        options: how.

    Raises:
        DataError: the data set cannot be read.
        MeasureError: a parameter is not finite.
        TrainError: training failed, there are no zeros to keep, or the folder holds another run's
            results, or a run that was begun otherwise.
        YoloPruneError: another process is at work in the folder, or the disk is full.
    """
    check_finite(model)
    out = Path(out)
    if options.keep_zeros:
        KeptZeros(model)  # or there is nothing to keep
    alone = "RANK" not in os.environ
    with held(out, alone=alone):
        if alone:
            tidy(out)
        return _train(model, out, options)


def _train(model: nn.Module, out: Path, options: TrainOptions) -> TrainResult:
    from ultralytics.utils import RANK

    from yoloprune.models.checkpoint import fake_quantisation, read_checkpoint, write_checkpoint
    from yoloprune.train.exact import FILE
    from yoloprune.train.log import LOG, read_log

    weights = out / "weights"
    options = _settled(model, out, options)
    if RANK in {-1, 0}:
        check_space(out, _BYTES * sum(p.numel() for p in model.parameters()))
    progress = _progress(weights) if options.resume else _Progress.NONE
    begun = _begun(model, out, options, progress) if RANK in {-1, 0} else None
    metrics: dict[str, float] | None = None
    if progress in (_Progress.NONE, _Progress.BEGUN):
        trainer = _trained(model, out, options, progress)
        metrics = trainer.final_metrics
        if RANK > 0:  # files are the first process's business
            averaged = trainer.ema.ema
            return TrainResult(best=averaged, last=averaged, files=(), folder=out)
    files: list[Path] = []
    models = {}
    for name in ("best", "last"):  # last comes last: when it is finished, all is
        checkpoint = weights / f"{name}.pt"
        with stage("saving"):
            models[name], quantisation = read_checkpoint(checkpoint), fake_quantisation(checkpoint)
            _keep_size(models[name])
            if quantisation is None or isinstance(models[name], DarknetModel):
                files += save(models[name], weights / name)
            else:
                files.append(checkpoint)
            if quantisation is not None or progress is _Progress.TRAINED:
                write_checkpoint(models[name], checkpoint, quantisation)
    (weights / FILE).unlink(missing_ok=True)
    if begun is not None:
        names = tuple(file.relative_to(out).as_posix() for file in files)
        replace(begun, files=names).write(out)
    rows = read_log(out / LOG) if options.sparsity is not None else []
    return TrainResult(
        best=models["best"],
        last=models["last"],
        files=tuple(files),
        folder=out,
        metrics=metrics,
        sparsity=rows[-1] if rows else None,
    )


def _settled(model: nn.Module, out: Path, options: TrainOptions) -> TrainOptions:
    """Options with a criterion that stands: as the run was begun, else by the network."""
    from ultralytics.utils import RANK

    from yoloprune.channels.trace import trace
    from yoloprune.train.criterion import settled

    asked = options.sparsity
    if asked is None or asked.criterion is not None:
        return options
    begun = Begun.read(out) if options.resume else None
    before = None if begun is None else begun.settings.get("sparsity")
    if isinstance(before, dict) and before.get("criterion"):
        sparsity, why = replace(asked, criterion=before["criterion"]), "as the run was begun"
    else:
        sparsity, why = settled(asked, model, trace(model))
    if sparsity.method == "auto" and RANK in {-1, 0}:
        log.info("--criterion %s, %s", sparsity.criterion, why)
        if sparsity.criterion == "taylor" and begun is None:
            log.info(
                "a network that was not trained sparse does better when it is cut and repaired "
                "first: `yoloprune slim --search 3m`, then train"
            )
    return replace(options, sparsity=sparsity)


def _begun(model: nn.Module, out: Path, options: TrainOptions, progress: _Progress) -> Begun:
    """The record of the run, as it is begun or gone on with.

    Raises:
        TrainError: there are another run's results, or it was begun otherwise.
    """
    begun = Begun.read(out) if options.resume else None
    now = settings_of(model, options)
    if begun is not None:
        check_same(out, begun, now)
        return begun
    if progress is _Progress.NONE:
        if options.overwrite:
            forget(out)
        else:
            refuse_results(out)
    begun = Begun(settings=now)
    begun.write(out)
    return begun


def _keep_size(model: nn.Module) -> None:
    """Let a Darknet network's cfg say the size that it was trained at."""
    from yoloprune.darknet.network import DarknetModel, resize

    args = getattr(model, "args", None) or {}
    if isinstance(model, DarknetModel) and isinstance(args.get("imgsz"), int):
        side = args["imgsz"]
        if side % int(model.stride.max()) == 0:  # else Ultralytics rounded it for itself
            resize(model, (side, side))


class _Progress(Enum):
    """How far an earlier run in the folder came."""

    NONE = auto()
    BEGUN = auto()
    TRAINED = auto()
    FINISHED = auto()


def _progress(weights: Path) -> _Progress:
    if not (weights / "last.pt").is_file():
        return _Progress.NONE
    from yoloprune.models.checkpoint import is_finished
    from yoloprune.train.exact import read_state

    # Ultralytics will unpickle it without restriction: what is refused here never gets there
    if is_finished(weights / "last.pt"):
        return _Progress.FINISHED
    if (weights / "best.pt").is_file():
        is_finished(weights / "best.pt")
    state = read_state(weights)
    if state is None:  # killed in its first epoch, between the checkpoint and the state
        return _Progress.NONE
    return _Progress.TRAINED if state["stop"] else _Progress.BEGUN


def _trained(model: nn.Module, out: Path, options: TrainOptions, progress: _Progress) -> Any:
    """A trainer that has done its work."""
    from matplotlib import rc_context

    from yoloprune.train.voice import heard

    trusted = options.distil is not None and options.distil.trust
    safe = nullcontext() if trusted else _restricted()
    with safe, only_what_was_handed(), heard(options.verbose), ExitStack() as waiting:
        if not options.verbose:
            waiting.enter_context(stage("preparing"))
        trainer = _prepared(model, out, options, progress)
        if trainer.ddp:  # workers draw what they do, on the same terminal
            waiting.close()
        else:
            trainer.add_callback("on_train_start", lambda _: waiting.close())
        try:
            with rc_context({"text.parse_math": False}):  # a $ in a class name is a $ in plots
                trainer.train()
        except (
            AssertionError, IndexError, OSError, RuntimeError, ValueError, CalledProcessError
        ) as exc:  # fmt: skip
            raise TrainError(f"training failed: {first_line(exc)}") from exc
    return trainer


@contextmanager
def _restricted() -> Iterator[None]:
    """Let Ultralytics, here and in its workers, unpickle known classes only."""
    from ultralytics.nn import tasks

    from yoloprune.darknet.network import register_safe_classes

    register_safe_classes()
    flag, before = "ULTRALYTICS_SAFE_LOAD", tasks.SAFE_LOAD
    kept = os.environ.get(flag)
    tasks.SAFE_LOAD, os.environ[flag] = True, "1"
    try:
        yield
    finally:
        tasks.SAFE_LOAD = before
        os.environ.pop(flag)
        if kept is not None:
            os.environ[flag] = kept


def _prepared(model: nn.Module, out: Path, options: TrainOptions, progress: _Progress) -> Any:
    """A trainer that only has to be started."""
    from ultralytics.utils import RANK

    from yoloprune.train.distil import check_teacher
    from yoloprune.train.equip import Equip
    from yoloprune.train.exact import FILE
    from yoloprune.train.unlabelled import check_unlabelled

    if os.environ.get("WORLD_SIZE") == "1":
        raise TrainError("torchrun: starts one process only. Start without it.")
    weights = out / "weights"
    settings = _settings(model, out, options)
    if progress is _Progress.BEGUN:
        _check_wish(weights, options)
        settings |= {"resume": str(weights / "last.pt"), "model": str(weights / "last.pt")}
    trainer = _trainer(model, settings, options)
    if progress is _Progress.NONE:
        trainer.model = trainer.get_model(weights=model)
        if options.distil is not None:
            check = check_teacher if options.pictures is None else check_unlabelled
            check(trainer.model, options.distil)
        if RANK in {-1, 0}:  # of this run's first epoch, which begins again
            for name in (FILE, "last.pt", "best.pt"):
                (weights / name).unlink(missing_ok=True)
    told = log.isEnabledFor(logging.INFO)
    trainer.add_callback("on_pretrain_routine_end", Equip(options, told=told))
    return trainer


def _check_wish(weights: Path, options: TrainOptions) -> None:
    """Make sure that a run goes on with what it was begun with.

    Raises:
        TrainError: sparsity or teaching are other ones.
    """
    from yoloprune.train.exact import read_state

    state = read_state(weights)
    before = None if state is None else state.get("wish")
    if before is None or before == options.wish():
        return
    old, new = json.loads(before), json.loads(options.wish())
    keys = [*old, *(key for key in new if key not in old)]
    changed = [f"{k}: {old.get(k)} → {new.get(k)}" for k in keys if old.get(k) != new.get(k)]
    raise TrainError(
        f"--resume: {weights.parent} was begun otherwise, changed since: {'; '.join(changed)}. "
        "Give the same flags, or start anew in another folder."
    )


def _trainer(model: nn.Module, settings: dict[str, Any], options: TrainOptions) -> Any:
    from yoloprune.train.trainer import trainer_for

    kind = trainer_for(model)
    try:
        return kind(overrides=settings)
    except (RuntimeError, FileNotFoundError) as exc:
        raise DataError(f"{options.data or options.pictures}: {first_line(exc)}") from exc
    except (SyntaxError, TypeError, ValueError) as exc:
        raise TrainError(f"--set: {first_line(exc)}") from exc


def _settings(model: nn.Module, out: Path, options: TrainOptions) -> dict[str, Any]:
    from yoloprune.models.checkpoint import task_of
    from yoloprune.train import preset

    out, task = out.resolve(), task_of(model)
    data, epochs = _handed(model, out / HANDED, task, options)
    return {
        "task": task,
        "mode": "train",
        "model": "yoloprune.pt",  # a name only: the trainer is handed the model itself
        "data": str(data),
        "epochs": epochs,
        "imgsz": options.imgsz,
        "batch": options.batch,
        "device": options.device or None,
        "seed": options.seed,
        "project": str(out.parent),
        "name": out.name,
        "exist_ok": True,
        **_distillation(model, options.distil if options.pictures is None else None),
        **preset.settings(options.preset, epochs, options.batch),
        **_rate(model, epochs, options),
        **options.extra,
    }


def _handed(model: nn.Module, folder: Path, task: str, options: TrainOptions) -> tuple[Path, int]:
    """What Ultralytics is handed as data, and how many passes over it."""
    from yoloprune.train.unlabelled import chosen_pictures

    if options.pictures is None:
        assert options.data is not None
        return handed_over(options.data, folder, task=task), options.epochs
    pictures, epochs = chosen_pictures(options)
    names: Any = model.names
    source = options.pictures
    return pictures_handed_over(pictures, names, folder, source=source, data=options.data), epochs


def _rate(model: nn.Module, epochs: int, options: TrainOptions) -> dict[str, Any]:
    """The learning rate of learning without labels, where the preset leaves it open."""
    from yoloprune.train.unlabelled import learning_rate

    if options.pictures is None or options.preset != "keep":
        return {}
    names: Any = model.names
    return {"lr0": learning_rate(len(names), epochs)}


def _distillation(model: nn.Module, options: DistillOptions | None) -> dict[str, Any]:
    """The settings of Ultralytics' own distillation, where it is the one to use."""
    from yoloprune.darknet.network import DarknetModel

    if options is None or options.mode != "feature" or isinstance(model, DarknetModel):
        return {"distill_model": None}
    return {
        "distill_model": str(Path(options.teacher).resolve()),
        "dis": DIS * options.weight,
    }
