"""Fine-tuning that keeps a good start.

A cut network whose layers were fitted anew is nearly what it is to become. The usual schedule is
for networks that are far from it: its first steps undo in an epoch what repair gave. Here

* The learning rate is small, rises over a tenth of the steps for all parameters alike, and falls
  by a cosine to a hundredth, step by step: also a single epoch is a whole schedule.
* Over the first tenth of the steps norms and biases move alone, and Adam gathers its moments.
* A short training sees pictures much as they are, a longer one sees mosaics until two fifths of
  its epochs are left.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from yoloprune.train.options import Preset, TrainOptions

SHORT = 5
"""Epochs up to which a training is short."""
_RATE, FULL = 0.0001, 10
"""Learning rate of a single epoch, and epochs from which on it is as many times that."""
_WARM_UP = 0.1
"""Share of the steps over which the learning rate rises."""
_END = 0.01
"""Of the learning rate, at the end."""


def settings(preset: Preset, epochs: int, batch: int) -> dict[str, Any]:
    """Ultralytics settings of a preset.

    Args:
        preset: ``keep`` or ``stock``, which has none.
        epochs: of the whole training.
        batch: pictures a step.
    """
    if preset == "stock":
        return {}
    short = epochs <= SHORT
    return {
        "optimizer": "AdamW",
        "lr0": _RATE * min(epochs, FULL),
        "lrf": _END,
        "momentum": 0.9,
        "nbs": batch,
        "cos_lr": True,
        "warmup_epochs": 0.0,  # it is done here, step by step
        "warmup_bias_lr": 0.0,
        "close_mosaic": epochs if short else math.ceil(0.4 * epochs),
        **({"mosaic": 0.0, "scale": 0.1, "translate": 0.05} if short else {}),
    }


@dataclass(frozen=True, slots=True)
class Schedule:
    """Callback of ``on_train_batch_start`` that sets the learning rates of the step to come.

    Attributes:
        warm_up: share of the steps over which they rise.
        norms_alone: share of the steps, from the first, in which only norms and biases move.
        end: of the learning rate at the end, as a share of its peak.
    """

    warm_up: float = _WARM_UP
    norms_alone: float = _WARM_UP
    end: float = _END

    @staticmethod
    def of(options: TrainOptions) -> Schedule:
        """What the options of a training ask for."""
        end = float(options.extra.get("lrf", _END))
        return Schedule(norms_alone=1.0 if options.only == "norms" else _WARM_UP, end=end)

    def __call__(self, trainer: Any) -> None:
        """Set them."""
        done = trainer.progress
        for group in trainer.optimizer.param_groups:
            held = done <= self.norms_alone and group["param_group"] not in ("bn", "bias")
            group["lr"] = 0.0 if held else group["initial_lr"] * self.factor(done)

    def factor(self, done: float) -> float:
        """The learning rate as a share of its peak.

        Args:
            done: share of all steps that the present one completes, in (0, 1].
        """
        if done < self.warm_up:
            return done / self.warm_up
        left = (done - self.warm_up) / (1 - self.warm_up)
        return self.end + (1 - self.end) * (1 + math.cos(math.pi * left)) / 2
