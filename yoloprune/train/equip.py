"""What a run has beyond Ultralytics': sparsity, kept zeros, a teacher, a preset, snapshots, logs.

All of it hangs on one callback, so that it travels wherever Ultralytics takes its callbacks:
into this process, or into the workers that it starts on several devices.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ultralytics.utils import RANK

from yoloprune.channels.trace import trace
from yoloprune.train.distil import distil
from yoloprune.train.keeping import student_of
from yoloprune.train.log import SparsityLog
from yoloprune.train.options import TrainOptions
from yoloprune.train.preset import Schedule
from yoloprune.train.sparsity import sparsity_of
from yoloprune.train.statistics import Recalibration
from yoloprune.train.unlabelled import learn
from yoloprune.train.voice import EpochLines, hear_worker
from yoloprune.train.zeros import KeptZeros


@dataclass(frozen=True, slots=True)
class Equip:
    """Callback of ``on_pretrain_routine_end``: model, optimizer and EMA stand, nothing ran yet.

    Attributes:
        options: of the run.
        told: whether anybody is told how it goes.
    """

    options: TrainOptions
    told: bool = True

    def __call__(self, trainer: Any) -> None:
        """Give the trainer what the options ask for."""
        trainer.snapshots, trainer.wish = self.options.snapshots, self.options.wish()
        sparse: list[dict[str, Any]] = []
        if self.options.sparsity is not None:
            student = student_of(trainer.model)
            trainer.sparsity = sparsity_of(
                student, trace(student), self.options.sparsity, size=self.options.imgsz
            )
            trainer.sparsity.watch(student, trainer.optimizer)
            if trainer.resumed_sparsity is not None:
                trainer.sparsity.load_state_dict(trainer.resumed_sparsity)
            recalibration = Recalibration()
            trainer.shown = recalibration.take
            trainer.add_callback("on_train_epoch_end", recalibration)
            if RANK in {-1, 0}:
                sparsity_log = SparsityLog(trainer)
                trainer.add_callback("on_train_epoch_end", sparsity_log)
                sparse = sparsity_log.rows
        if self.options.keep_zeros:
            trainer.zeros = KeptZeros(student_of(trainer.model))
            if trainer.resumed_zeros is not None:
                trainer.zeros.load_state_dict(trainer.resumed_zeros)
        if self.options.preset == "keep":
            trainer.add_callback("on_train_batch_start", Schedule.of(self.options))
        if self.options.distil is not None:
            teach = distil if self.options.pictures is None else learn
            teach(trainer, self.options.distil)
        if RANK in {-1, 0} and not self.options.verbose:
            hear_worker(told=self.told)
            trainer.lines = EpochLines(trainer, title=self.options.title, sparse=sparse)
