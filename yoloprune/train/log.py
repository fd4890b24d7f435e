"""What sparsity training reached, a line an epoch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from yoloprune.files import write_bytes
from yoloprune.measure.quantiles import quantiles

if TYPE_CHECKING:
    from torch import nn

    from yoloprune.train.gammas import Gammas

LOG = "sparsity.jsonl"
BINS = 60


class SparsityLog:
    """Callback of ``on_train_epoch_end``: a line an epoch into ``sparsity.jsonl``.

    It says what the averaged model, the one that is evaluated and saved, has reached: the share
    of prunable units at exact zero, quantiles and a histogram of |gamma|, and the last bound or
    step length. TensorBoard gets the same where Ultralytics has it on.
    """

    def __init__(self, trainer: Any) -> None:
        from yoloprune.train.keeping import student_of

        self._student_of = student_of
        self.path = Path(trainer.save_dir) / LOG
        self.gammas: Gammas = trainer.sparsity.gammas
        self.rows = [row for row in read_log(self.path) if row["epoch"] <= trainer.start_epoch]
        self.top = self.rows[0]["histogram_max"] if self.rows else self._top(trainer.model)

    def _top(self, model: nn.Module) -> float:
        values = self.gammas.read(self._student_of(model)).abs().cpu().numpy()[self.gammas.free]
        return max(1.25 * float(values.max()), 1e-6)

    def __call__(self, trainer: Any) -> None:
        """Write the line."""
        epoch = trainer.epoch + 1
        model = self._student_of(trainer.ema.ema)
        values = self.gammas.read(model).abs().cpu().double().numpy()[self.gammas.free]
        units = np.unique(self.gammas.units[self.gammas.free]).size
        zero = int(self.gammas.zero_units(model).sum())
        counts = np.histogram(values.clip(max=self.top), bins=BINS, range=(0, self.top))[0]
        row = {
            "epoch": epoch,
            "units": units,
            "zero_units": zero,
            "zero_share": zero / units,
            "threshold": trainer.sparsity.threshold,
            "gamma": quantiles(values),
            "histogram_max": self.top,
            "histogram": counts.tolist(),
        }
        self.rows.append(row)
        text = "".join(json.dumps(row) + "\n" for row in self.rows)
        write_bytes(self.path, text.encode())
        _to_tensorboard(row, values, epoch)


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a sparsity log; none where there is no file."""
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _to_tensorboard(row: dict[str, Any], values: Any, epoch: int) -> None:
    from ultralytics.utils.callbacks import tensorboard

    writer = getattr(tensorboard, "WRITER", None)
    if writer is None:
        return
    writer.add_scalar("sparsity/zero_share", row["zero_share"], epoch)
    writer.add_scalar("sparsity/threshold", row["threshold"], epoch)
    for name, value in row["gamma"].items():
        writer.add_scalar(f"sparsity/gamma_{name}", value, epoch)
    writer.add_histogram("sparsity/gamma", values, epoch)
