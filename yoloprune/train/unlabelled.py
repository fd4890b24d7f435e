"""Learning without labels: what a teacher says and what enters its heads is the only loss.

Both look at a picture by statistics that are held, the teacher's its own, the student's those that
it was cut and repaired with.

The student's own criterion is left out altogether: with no labels it would teach that there is
nothing in any picture. Augmentation, optimizer and averaging are those of every training, and the
teacher looks at the same augmented pictures as its student.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from yoloprune.errors import TrainError
from yoloprune.measure.data import readable
from yoloprune.measure.pictures import find_pictures
from yoloprune.models.checkpoint import task_of
from yoloprune.train.distil import check_teacher, load_teacher, outputs_apart
from yoloprune.train.features import HeadInputs, unexplained
from yoloprune.train.keeping import student_of
from yoloprune.train.options import DistillOptions, TrainOptions
from yoloprune.train.preset import FULL

OUTPUT, FEATURE = "out_loss", "feat_loss"
_MOST = 0.001
"""Learning rate."""
_LEAST = 1e-6
"""Share of features below which they count no more."""


class TeacherCriterion:
    """A criterion that reads no label: how far a student is from its teacher.

    What is said differs in unit by family, and by a hundred times in size; what is unexplained of
    features is a share. Each batch weighs them alike, by what they are in it: so no weight is to be
    tuned, and none of both is bought with the other.

    Args:
        student: whose predictions it is given.
        teacher: in evaluation mode.
        apart: (student's predictions, teacher's) → the loss of a mean picture, a scalar.
    """

    def __init__(
        self, student: nn.Module, teacher: nn.Module, apart: Callable[[Any, Any], Tensor]
    ) -> None:
        self.teacher, self.apart = teacher, apart
        self.ours, self.theirs = HeadInputs(student), HeadInputs(teacher)

    def __call__(self, preds: Any, batch: Mapping[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of a batch ``img`` ``[B, 3, H, W]``: one value a part, and the parts by name."""
        if not torch.is_grad_enabled():  # a copy of the student is validated
            return NoLoss()(preds, batch)
        image: Tensor = batch["img"]
        with torch.no_grad():
            said = self.teacher(image)
        said = said[1] if isinstance(said, tuple) else said
        levels = zip(self.ours.take(), self.theirs.take(), strict=True)
        feature = torch.stack([unexplained(*both) for both in levels]).sum()
        output = self.apart(preds, said)
        alike = output.detach() / feature.detach().clamp(min=_LEAST)
        items = {OUTPUT: output.detach(), FEATURE: feature.detach()}
        return torch.stack((output, alike * feature)) * image.shape[0], items


class NoLoss:
    """Criterion of the averaged model, whose validation measures accuracy and no loss."""

    def __call__(self, preds: Any, batch: Mapping[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """Nothing."""
        return torch.zeros(1), {}


def learning_rate(classes: int, epochs: int) -> float:
    """The peak of the preset ``keep`` where a teacher is all.

    By the number of classes, as Ultralytics' ``optimizer=auto`` has it, but for the least of them:
    networks of many classes have seen far more than the pictures at hand show, and are spoilt
    sooner. Few epochs have less of it, as in :mod:`yoloprune.train.preset`.

    Args:
        classes: of the model.
        epochs: of the whole training.
    """
    return min(_MOST, 0.01 / (4 + classes)) * min(1.0, epochs / FULL)


def learn(trainer: Any, options: DistillOptions) -> None:
    """Let a trainer's model learn from a teacher alone from now on.

    Raises:
        TrainError: teacher and student differ in what they say, or cannot be compared.
        FormatError: the teacher's file cannot be loaded.
    """
    student: Any = student_of(trainer.model)
    trainer.taught = (OUTPUT, FEATURE)
    trainer.holds_norms = True  # as the teacher's do, or the same inputs would differ
    teacher = load_teacher(options).to(trainer.device)
    student.criterion = TeacherCriterion(student, teacher, outputs_apart(student, teacher, options))
    if trainer.ema:
        trainer.ema.ema.criterion = NoLoss()


def check_unlabelled(student: nn.Module, options: DistillOptions) -> None:
    """Find out before any training whether a student can learn from a teacher alone.

    Raises:
        TrainError: it cannot.
        FormatError: the teacher's file cannot be loaded.
    """
    task = task_of(student)
    if task != "detect":
        raise TrainError(
            f"--pictures: learning without labels is for detection, got a model for {task!r}. "
            "Train it with --data."
        )
    check_teacher(student, replace(options, mode="output"))


def chosen_pictures(options: TrainOptions) -> tuple[tuple[Path, ...], int]:
    """The pictures to learn on, and how many passes over them.

    Raises:
        DataError: nothing is there, or none can be read.
    """
    assert options.pictures is not None
    pictures, _ = readable(find_pictures(options.pictures), Path(options.pictures))
    if options.steps is None:
        return pictures, options.epochs
    epochs = math.ceil(options.steps / math.ceil(len(pictures) / options.batch))
    count = min(len(pictures), math.ceil(options.steps / epochs) * options.batch)
    order = np.random.default_rng(options.seed).permutation(len(pictures))
    return tuple(pictures[i] for i in sorted(order[:count])), epochs
