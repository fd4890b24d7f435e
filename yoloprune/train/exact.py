"""Resuming exactly: a killed run goes on as if nothing had happened.

Ultralytics resumes from the averaged weights, rounded to half precision, with other random
numbers. Here all that an epoch depends on is put beside its checkpoint in full precision, and
the randomness of an epoch is a function of the seed and the epoch's number alone.
"""

from __future__ import annotations

import csv
import io
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from ultralytics.utils import RANK
from ultralytics.utils.torch_utils import unwrap_model

from yoloprune.errors import CheckpointError
from yoloprune.files import write_bytes
from yoloprune.models import unpickle

TEACHER = "teacher_model."
FILE = "state.pt"


def seed_epoch(trainer: Any) -> None:
    """Make all randomness of the coming epoch depend on seed, epoch and process only.

    The data loader starts anew, so that batches that workers had fetched ahead do not count;
    the pictures that mosaics draw from are chosen anew, too.
    """
    entropy = (abs(int(trainer.args.seed)), trainer.epoch, RANK + 1)
    seed = int(np.random.SeedSequence(entropy).generate_state(1)[0])
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    loader = trainer.train_loader
    loader.reset()
    if loader.generator is not None:
        loader.generator.manual_seed(seed)
    dataset = loader.dataset
    if getattr(dataset, "buffer", None) is not None and getattr(dataset, "cache", None) != "ram":
        for index in dataset.buffer:
            dataset.ims[index] = dataset.im_hw0[index] = dataset.im_hw[index] = None
        most = min(getattr(dataset, "max_buffer_length", 0), len(dataset))
        dataset.buffer = random.sample(range(len(dataset)), most)


def _without_teacher(state: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in state.items() if not key.startswith(TEACHER)}


def write_state(trainer: Any) -> None:
    """Put all that the next epoch starts from beside the checkpoints."""
    model: nn.Module = unwrap_model(trainer.model)
    criterion = getattr(model, "criterion", None)
    pending = {
        name: parameter.grad
        for name, parameter in model.named_parameters()
        if parameter.grad is not None and trainer.gathering
    }
    state = {
        "epoch": trainer.epoch,
        "stop": bool(trainer.stop),
        "wish": trainer.wish,
        "model": _without_teacher(model.state_dict()),
        "ema": _without_teacher(trainer.ema.ema.state_dict()),
        "updates": trainer.ema.updates,
        "optimizer": trainer.optimizer.state_dict(),
        "scaler": trainer.scaler.state_dict(),
        "best_fitness": _plain(trainer.best_fitness),
        "stopper": {
            "best_fitness": _plain(trainer.stopper.best_fitness),
            "best_epoch": trainer.stopper.best_epoch,
        },
        "seen": getattr(criterion, "seen", None),
        "last_step": trainer.last_step,
        "pending": pending,
        "sparsity": None if trainer.sparsity is None else trainer.sparsity.state_dict(),
        "zeros": None if trainer.zeros is None else trainer.zeros.state_dict(),
    }
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_bytes(trainer.wdir / FILE, buffer.getvalue())


def _plain(value: Any) -> float | None:
    return None if value is None else float(value)


def read_state(folder: Path) -> dict[str, Any] | None:
    """What :func:`write_state` wrote, or None where there is nothing.

    Raises:
        CheckpointError: the file is damaged, or holds more than tensors and plain values.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        state = unpickle.load(path)
    except Exception as exc:  # a damaged pickle can raise anything
        raise CheckpointError(
            f"{path}: is damaged. Remove it to go on from last.pt, less exactly."
        ) from exc
    if not isinstance(state, dict) or "epoch" not in state:
        raise CheckpointError(f"{path}: is no state of a run. Remove it.")
    return state


def apply_state(trainer: Any, state: dict[str, Any]) -> None:
    """Put a trainer where :func:`write_state` found one; its model and optimizer are built."""
    model: Any = unwrap_model(trainer.model)
    for module, key in ((model, "model"), (trainer.ema.ema, "ema")):
        kept = {k: v for k, v in module.state_dict().items() if k.startswith(TEACHER)}
        module.load_state_dict({**kept, **state[key]})
    trainer.ema.updates = state["updates"]
    trainer.optimizer.load_state_dict(state["optimizer"])
    trainer.scaler.load_state_dict(state["scaler"])
    trainer.best_fitness = state["best_fitness"]
    trainer.stopper.__dict__.update(state["stopper"])
    trainer.start_epoch = state["epoch"] + 1
    if state["seen"] is not None:
        if getattr(model, "criterion", None) is None:
            model.criterion = model.init_criterion()
        model.criterion.seen = state["seen"]
    _forget_rows(trainer.csv, state["epoch"] + 1)


def restore_gradients(trainer: Any, state: dict[str, Any]) -> None:
    """Put back gradients that had been gathered for a step to come."""
    model: nn.Module = unwrap_model(trainer.model)
    for name, gradient in state["pending"].items():
        parameter = model.get_parameter(name)
        parameter.grad = gradient.to(parameter)


def _forget_rows(path: Path, epochs: int) -> None:
    """Drop rows of a results table that belong to epochs which will be run again."""
    if not path.is_file():
        return
    rows = list(csv.reader(path.read_text(encoding="utf-8").splitlines()))
    kept = [row for i, row in enumerate(rows) if i == 0 or (row and float(row[0]) <= epochs)]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(kept)
    write_bytes(path, text.getvalue().encode())
