"""What criteria look at beside weights: pictures, and what is to be seen in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from yoloprune.errors import DataError, PlanError
from yoloprune.measure.copies import device_of, find_device, float32_copy
from yoloprune.measure.detect import DetectOptions, class_count, decode, nms_iou
from yoloprune.measure.labels import LabelArray, empty_labels, label_path, read_labels
from yoloprune.measure.pictures import Pictures, load_pictures
from yoloprune.measure.resolve import describe
from yoloprune.models.checkpoint import task_of

CONFIDENT = 0.25
"""Score from which on what a network sees is taken for a label."""
_MOST = 300
"""Objects a picture that are."""
_AT_ONCE = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Lessons:
    """Pictures, and what is to be seen in them.

    Attributes:
        images: ``[N, C, H, W]``: float in 0 … 1, or uint8.
        labels: one float64 ``[n, 5]`` a picture: class, centre x, centre y, width, height as
            fractions of the sides of ``images``.
        told: by whom, for people.
        own: whether it was the network itself.
    """

    images: Tensor
    labels: Sequence[LabelArray]
    told: str
    own: bool = False

    def batch(self, start: int, count: int, device: torch.device) -> dict[str, Any]:
        """Pictures from ``start`` on as Ultralytics' losses take them, for both families."""
        chosen = self.labels[start : start + count]
        rows = torch.from_numpy(np.concatenate([empty_labels(), *chosen])).float().to(device)
        numbers = np.repeat(np.arange(len(chosen)), [len(one) for one in chosen])
        return {
            "img": as_input(self.images[start : start + count], device),
            "batch_idx": torch.from_numpy(numbers).float().to(device),
            "cls": rows[:, :1],
            "bboxes": rows[:, 1:],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What a criterion may look at.

    Attributes:
        images: ``[N, C, H, W]``: float in 0 … 1, or uint8.
        lessons: for criteria that ask the loss.
        device: where; None is where the model is.
    """

    images: Tensor
    lessons: Lessons | None = None
    device: str | None = None

    def place(self, model: nn.Module) -> torch.device:
        """Where to run a model."""
        return device_of(model) if self.device is None else find_device(self.device)


def as_input(images: Tensor, device: torch.device) -> Tensor:
    """Pictures as a network takes them: float32 in 0 … 1."""
    images = images.to(device)
    return images.float() / 255 if images.dtype == torch.uint8 else images.float()


def check_teachable(model: nn.Module, criterion: str) -> None:
    """Make sure that there is a loss to ask.

    Raises:
        PlanError: the model is no detector.
        MeasureError: its boxes are read in another way.
    """
    task = task_of(model)
    if task != "detect":
        raise PlanError(
            f"--criterion {criterion}: asks the loss of detectors, got a model for {task!r}. Take "
            "activation or recon, which look at pictures alone."
        )
    class_count(model)


def is_labelled(source: str | Path) -> bool:
    """Whether a text names a data set with a train split."""
    path = Path(source)
    named = path.suffix.lower() in {".yaml", ".yml", ".data"}
    bare = path.name == str(source) and not path.exists() and not set("*?[") & set(str(source))
    return (named or (bare and not path.suffix)) and bool(describe(path).entries.get("train"))


def labelled_lessons(
    model: nn.Module, source: str, size: tuple[int, int], count: int
) -> Lessons | None:
    """Pictures of a data set's train split with their labels.

    Args:
        model: says how pictures are fitted to its input.
        source: the data set.
        size: height and width of the input in pixels.
        count: pictures, at random where there are more.

    Returns:
        None where none of them has a label file.

    Raises:
        DataError: its classes are not the model's, or a label file is malformed.
    """
    found = load_pictures(model, source, size, count=count)
    if not any(label_path(file) for file in found.files):
        return None
    classes, known = len(describe(source).names), class_count(model)
    if classes != known:
        raise DataError(
            f"{source}: names {classes} classes, the model knows {known}. Give the data set that "
            "it was trained for, or pictures without labels by --calib."
        )
    labels = tuple(_in_input(found, i, classes, size) for i in range(len(found.files)))
    return Lessons(images=found.images, labels=labels, told=f"the labels of {source}")


def _in_input(found: Pictures, index: int, classes: int, size: tuple[int, int]) -> LabelArray:
    """The labels of one picture, moved to where the input shows them."""
    path = label_path(found.files[index])
    if path is None:
        return empty_labels()
    labels, at = read_labels(path, classes=classes), found.placements[index]
    sides = np.array([at.width * at.scale_x, at.height * at.scale_y] * 2)
    offset = np.array([at.offset_x, at.offset_y, 0.0, 0.0])
    height, width = size
    boxes = (labels[:, 1:] * sides + offset) / np.array([width, height] * 2)
    return np.concatenate([labels[:, :1], boxes], axis=1)


def self_taught(model: nn.Module, images: Tensor, device: str | None = None) -> Lessons:
    """Pictures with what the network itself sees in them for labels.

    Args:
        model: a detector. Not modified.
        images: ``[N, C, H, W]``: float in 0 … 1, or uint8.
        device: where; None is where the model is.

    Raises:
        DataError: it is sure of nothing in any of them.
    """
    place = device_of(model) if device is None else find_device(device)
    runner, classes = float32_copy(model, place), class_count(model)
    sides = (int(images.shape[-2]), int(images.shape[-1]))
    iou = nms_iou(model, DetectOptions(imgsz=sides))
    labels: list[LabelArray] = []
    for start in range(0, len(images), _AT_ONCE):
        with torch.no_grad():
            output = runner(as_input(images[start : start + _AT_ONCE], place))
            found = decode(
                output, classes=classes, conf=CONFIDENT, iou=iou, max_det=_MOST,
                end2end=bool(getattr(model, "end2end", False)),
            )  # fmt: skip
        labels += [_relative(rows.double().cpu().numpy(), sides) for rows in found]
    seen = sum(len(rows) > 0 for rows in labels)
    if not seen:
        raise DataError(
            f"--calib: the network sees nothing with a score above {CONFIDENT:g} in any of "
            f"{len(images)} pictures, so that they teach nothing. Give pictures of what it is for, "
            "or labels by --data."
        )
    told = (
        f"no labels: what the network itself sees with a score above {CONFIDENT:g} stands for "
        f"them, in {seen} of {len(images)} pictures"
    )
    return Lessons(images=images, labels=labels, told=told, own=True)


def _relative(rows: LabelArray, sides: tuple[int, int]) -> LabelArray:
    """Detections ``[n, 6]`` in pixels → labels ``[n, 5]``, of what lies inside the picture."""
    height, width = sides
    corners = np.clip(rows[:, :4] / np.array([width, height] * 2), 0, 1)
    centre = (corners[:, :2] + corners[:, 2:]) / 2
    made = np.concatenate([rows[:, 5:6], centre, corners[:, 2:] - corners[:, :2]], axis=1)
    return made[(made[:, 3:] > 0).all(1)]
