"""What a network loses against the full one: by what it sees, or by its AP."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from yoloprune.measure.accuracy import check_classes, coco_metrics
from yoloprune.measure.copies import device_of, structural_copy
from yoloprune.measure.data import Dataset
from yoloprune.measure.detect import DetectOptions, detect
from yoloprune.measure.tasks import check_data
from yoloprune.prune.apart import Seen
from yoloprune.prune.prefix import Prefix
from yoloprune.prune.sides import quality


@dataclass(frozen=True, slots=True)
class Judge:
    """Holds networks against the full one.

    Attributes:
        full: what the full network has of what is measured; 0 for a distance.
        lost: takes a network; gives how much less it has.
    """

    full: float
    lost: Callable[[nn.Module], float]


def by_sight(full: nn.Module, pictures: Tensor) -> Judge:
    """By the distance of its detections from the full network's.

    Args:
        full: float32, where networks are to run. Not modified, and to be left as it is.
        pictures: ``[N, C, H, W]``, on which they are held against each other.
    """
    prefix = Prefix(full, pictures.shape)
    noted = structural_copy(full)
    prefix.take_down(noted)
    seen = Seen(noted, pictures)

    def apart(model: nn.Module) -> float:
        quick = structural_copy(model)
        prefix.give_again(quick)
        return seen.apart(quick)

    return Judge(0.0, apart)


def by_data(
    full: nn.Module, data: str, split: str, imgsz: tuple[int, int], *, channels: int = 3
) -> Judge:
    """By the AP of boxes on a data set, or by what else a network of its task is judged by.

    Args:
        full: float32, where networks are to run. Not modified, and to be left as it is.
        data: data set.
        split: of it.
        imgsz: height and width of the input in pixels.
        channels: of the input.

    Raises:
        DataError: the data set is missing, malformed, or of another task.
        MeasureError: the task is not measured, or the model knows other classes.
    """
    dataset = check_data(full, data, split)
    if dataset is not None:
        return _by_boxes(full, dataset, imgsz, channels)

    def top1(model: nn.Module) -> float:
        found = quality(model, data, imgsz, split=split, device=str(device_of(full)))
        return float(found.get("top1", found.get("rotated_AP", 0.0)))

    whole = top1(full)
    return Judge(whole, lambda model: whole - top1(model))


def _by_boxes(full: nn.Module, dataset: Dataset, imgsz: tuple[int, int], channels: int) -> Judge:
    """Each network runs from where it differs from the full one on."""
    check_classes(full, dataset)
    prefix = Prefix(full, torch.Size((1, channels, *imgsz)))
    how = DetectOptions(imgsz=imgsz, device=str(device_of(full)))

    def ap(model: nn.Module, ready: Callable[[nn.Module], object]) -> float:
        quick = copy.deepcopy(model).to(memory_format=torch.channels_last)  # by a fifth, on a CPU
        ready(quick)
        found = list(detect(quick, dataset.images, how))
        return coco_metrics(found, dataset, sizes=False).AP

    whole = ap(full, prefix.take_down)
    return Judge(whole, lambda model: whole - ap(model, prefix.give_again))
