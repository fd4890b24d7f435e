"""Distillation: a slim network learns from the dense one beside the labels.

Ultralytics models learn features through Ultralytics' own distillation, which the run's
settings switch on; what heads say, and all of it for Darknet networks, is here. The teacher's
loss is added to the criterion of the student, so that the student stays the model it is:
checkpoints, EMA and surgery never see the teacher.

Its weight fades over the training: Cho & Hariharan 2019, "On the Efficacy of Knowledge
Distillation", section 4.2, stop listening early for the same reason.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from yoloprune.darknet.heads import DetectionHead, RegionHead
from yoloprune.darknet.network import DarknetModel
from yoloprune.errors import TrainError
from yoloprune.models.door import load
from yoloprune.train.features import HeadInputs, attention_transfer, widened
from yoloprune.train.keeping import student_of
from yoloprune.train.options import DistillOptions

LOSS = "dis_loss"


class DistillingCriterion:
    """A student's criterion, with what its teacher says added to the loss.

    Everything else that a trainer asks of a criterion is the student's own.

    Args:
        base: the student's criterion.
        teacher: in evaluation mode.
        difference: (student's predictions, teacher's) → the loss of a mean picture, a scalar.
        weight: gives the weight of it, asked for every batch.
    """

    def __init__(
        self,
        base: Any,
        teacher: nn.Module,
        difference: Callable[[Any, Any], Tensor],
        weight: Callable[[], float],
    ) -> None:
        self.base, self.teacher = base, teacher
        self.difference, self.weight = difference, weight

    def __call__(self, preds: Any, batch: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """As the student's, with one more part: ``dis_loss``."""
        loss, items = self.base(preds, batch)
        if not torch.is_grad_enabled():
            return loss, items
        with torch.no_grad():
            said = self.teacher(batch["img"])
        extra = self.weight() * self.difference(preds, said[1] if isinstance(said, tuple) else said)
        parts = torch.cat([loss.view(-1), extra.view(1) * batch["img"].shape[0]])
        return parts, {**items, LOSS: extra.detach()}

    def __getattr__(self, name: str) -> Any:
        """The student's criterion's own attributes."""
        if name == "base":  # not there yet while a copy is being made
            raise AttributeError(name)
        return getattr(self.base, name)


def distil(trainer: Any, options: DistillOptions) -> None:
    """Let a trainer's model learn from a teacher from now on.

    Raises:
        TrainError: teacher and student differ in what they say, or cannot be compared.
        FormatError: the teacher's file cannot be loaded.
    """
    student: Any = student_of(trainer.model)
    trainer.taught = (LOSS,)
    if options.mode == "feature" and not isinstance(student, DarknetModel):
        return  # Ultralytics does it
    teacher = load_teacher(options).to(trainer.device)
    if options.mode == "output":
        difference = outputs_apart(student, teacher, options)
    else:
        difference = _features_apart(student, teacher, options)

    def weight() -> float:
        left = 1.0 - float(trainer.progress) if options.fade else 1.0
        return options.weight * left

    base = getattr(student, "criterion", None) or student.init_criterion()
    student.criterion = DistillingCriterion(base, teacher, difference, weight)


def load_teacher(options: DistillOptions) -> nn.Module:
    """The teacher, frozen, in evaluation mode.

    Raises:
        FormatError: its file cannot be loaded.
    """
    teacher, _ = load(options.teacher, trust=options.trust)
    return teacher.eval().requires_grad_(False)


def check_teacher(student: nn.Module, options: DistillOptions) -> None:
    """Find out before any training whether a student can learn from a teacher.

    Raises:
        TrainError: it cannot.
        FormatError: the teacher's file cannot be loaded.
    """
    teacher = load_teacher(options)
    if isinstance(student, DarknetModel):
        _pairs(student, teacher, options)
    else:
        _check_detect(student, teacher, options)
        if options.mode == "feature" and Path(options.teacher).suffix.lower() != ".pt":
            raise TrainError(
                f"--teacher: must be a .pt for --distil feature, got {options.teacher}."
            )


def outputs_apart(
    student: nn.Module, teacher: nn.Module, options: DistillOptions
) -> Callable[[Any, Any], Tensor]:
    """What tells how far a student's predictions are from its teacher's, for a mean picture.

    Raises:
        TrainError: both differ in what they say.
    """
    if not isinstance(student, DarknetModel):
        return _detect_apart(student, teacher, options)
    heads = [head for head, _ in _pairs(student, teacher, options)]

    def apart(preds: list[Tensor], said: list[Tensor]) -> Tensor:
        parts = [darknet_output(h, *both) for h, *both in zip(heads, preds, said, strict=True)]
        return torch.stack(parts).sum()

    return apart


def _features_apart(
    student: DarknetModel, teacher: nn.Module, options: DistillOptions
) -> Callable[[Any, Any], Tensor]:
    _pairs(student, teacher, options)
    ours, theirs = HeadInputs(student), HeadInputs(teacher)

    def apart(preds: Any, said: Any) -> Tensor:
        levels = zip(ours.take(), theirs.take(), strict=True)
        return torch.stack([attention_transfer(*both) for both in levels]).sum()

    return apart


def darknet_output(head: DetectionHead, raw: Tensor, said: Tensor) -> Tensor:
    """How far the raw output of a Darknet head is from a teacher's, a mean picture's sum.

    Objectness counts everywhere; boxes and classes count by the teacher's objectness. The
    gradient of each raw value is student minus teacher, as Darknet's own deltas are.

    Args:
        head: of the student.
        raw: ``[B, na * E, H, W]``, what enters it.
        said: the same of the teacher.

    Returns:
        Scalar, at least 0.

    Reference: Mehta & Ozturk 2018, "Object detection at 200 Frames Per Second", section 3.2,
    with cross-entropy in place of its squared errors on probabilities.
    """
    ours, theirs = (head.activate_entries(head.split(widened(x))) for x in (raw, said))
    at = head.box_entries
    sure = theirs[:, :, at : at + 1].clamp(0, 1)
    box = 0.5 * (ours[:, :, :at] - theirs[:, :, :at]).square() * sure
    objectness = _bernoulli(ours[:, :, at : at + 1], theirs[:, :, at : at + 1])
    plain = isinstance(head, RegionHead) and not head.options.softmax  # no probabilities there
    classes, taught = ours[:, :, at + 1 :], theirs[:, :, at + 1 :]
    apart = 0.5 * (classes - taught).square() if plain else _bernoulli(classes, taught)
    return (box.sum() + objectness.sum() + (apart * sure).sum()) / raw.shape[0]


def _bernoulli(ours: Tensor, theirs: Tensor) -> Tensor:
    """Kullback-Leibler divergence of each probability from the teacher's."""
    tiny = 1e-6
    p, q = theirs.clamp(tiny, 1 - tiny), ours.clamp(tiny, 1 - tiny)
    return p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()


def _pairs(
    student: DarknetModel, teacher: Any, options: DistillOptions
) -> list[tuple[DetectionHead, DetectionHead]]:
    """Heads of both that say the same things."""
    if not isinstance(teacher, DarknetModel):
        raise TrainError(
            f"{options.teacher}: is no Darknet network, so a Darknet one cannot learn from it."
        )
    ours, theirs = (
        [m for m in model.modules() if isinstance(m, DetectionHead)] for model in (student, teacher)
    )
    for a, b in zip(ours, theirs, strict=False):
        if type(a) is not type(b) or a._sizes != b._sizes or a.classes != b.classes:
            break
    else:
        if len(ours) == len(theirs):
            return list(zip(ours, theirs, strict=True))
    raise TrainError(
        f"{options.teacher}: its heads differ from the student's, got {_said(theirs)}, expected "
        f"{_said(ours)} with the same anchors. A teacher is the dense network of the same cfg."
    )


def _said(heads: list[DetectionHead]) -> str:
    return ", ".join(f"{h.num_anchors} anchors × {h.classes} classes" for h in heads)


def _detect_apart(
    student: nn.Module, teacher: nn.Module, options: DistillOptions
) -> Callable[[Any, Any], Tensor]:
    head: Any = _check_detect(student, teacher, options)
    gains: Any = student.args

    def apart(preds: Any, said: Any) -> Tensor:
        branches = [b for b in ("one2many", "one2one") if isinstance(preds, dict) and b in preds]
        if not branches:
            return detect_output(preds, said, head.reg_max, gains.cls, gains.dfl)
        parts = [
            detect_output(preds[b], said[b], head.reg_max, gains.cls, gains.dfl) for b in branches
        ]
        return torch.stack(parts).mean()

    return apart


def detect_output(
    preds: Mapping[str, Tensor], said: Mapping[str, Tensor], reg_max: int, cls: float, dfl: float
) -> Tensor:
    """How far the output of an Ultralytics ``Detect`` head is from a teacher's.

    Args:
        preds: ``scores`` ``[B, classes, N]`` before the sigmoid, ``boxes`` ``[B, 4 · reg_max, N]``.
        said: the same of the teacher.
        reg_max: bins of a box side's distribution; 1: the side itself.
        cls: weight of the classes, as in the loss of the labels.
        dfl: weight of the boxes.

    Returns:
        Scalar: divergence of the classes, and of the sides' distributions where the teacher is
        sure, both over the teacher's total confidence, as Ultralytics divides by the targets'.

    Reference: Zheng et al. 2022, "Localization Distillation for Dense Object Detection".
    """
    scores, boxes = preds["scores"].float(), preds["boxes"].float()
    taught = said["scores"].float().sigmoid()
    sure = taught.amax(1)
    total = sure.sum().clamp(min=1.0)
    apart = F.binary_cross_entropy_with_logits(scores, taught, reduction="sum")
    said_scores = said["scores"].float()  # logits: autocast on a GPU refuses probabilities here
    least = F.binary_cross_entropy_with_logits(said_scores, taught, reduction="sum")
    if reg_max == 1:
        sides = (boxes - said["boxes"].float()).abs().mean(1)
    else:
        shape = (boxes.shape[0], 4, reg_max, -1)
        ours = boxes.view(shape).log_softmax(2)
        theirs = said["boxes"].float().view(shape).log_softmax(2)
        sides = (theirs.exp() * (theirs - ours)).sum(2).mean(1)
    return cls * (apart - least) / total + dfl * (sides * sure).sum() / total


def _check_detect(student: Any, teacher: Any, options: DistillOptions) -> nn.Module:
    """The student's head, if the teacher's says the same things."""
    from ultralytics.nn.modules import Detect

    if hasattr(student, "set_classes") or hasattr(teacher, "set_classes"):
        raise TrainError(
            "--teacher: classes given as texts change from picture to picture in training, so "
            "that student and teacher would speak of different ones."
        )
    ours, theirs = student.model[-1], getattr(teacher, "model", [None])[-1]
    if not isinstance(ours, Detect):
        raise TrainError(f"--teacher: needs a Detect head, got {type(ours).__name__}.")
    if not isinstance(theirs, Detect) or isinstance(teacher, DarknetModel):
        raise TrainError(f"{options.teacher}: has no Detect head, got {type(theirs).__name__}.")
    mine, other = (
        (h.nc, h.reg_max, h.stride.tolist(), hasattr(h, "one2one_cv2")) for h in (ours, theirs)
    )
    if mine != other:
        raise TrainError(
            f"{options.teacher}: its head differs from the student's, got {other}, expected {mine} "
            "(classes, bins, strides, end to end)."
        )
    return ours
