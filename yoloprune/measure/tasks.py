"""How well a model does what it is for, whatever its task.

Boxes are measured by pycocotools: those of detectors, and those that segment and pose models draw
beside their masks and key points. What pycocotools is not given here (masks, key points, turned
boxes, classes of whole pictures) is measured by Ultralytics' own validators, on the model in
memory and on a data set that was read here; the record says whose number each is.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from yoloprune.errors import DataError, MeasureError, first_line
from yoloprune.measure.accuracy import Accuracy, Seen, check_class_count, evaluate
from yoloprune.measure.copies import device_of, find_device, float32_copy
from yoloprune.measure.data import Dataset, load_dataset
from yoloprune.measure.detect import DetectOptions, class_count
from yoloprune.measure.environment import environment
from yoloprune.measure.handover import handed_over, only_what_was_handed
from yoloprune.measure.images import input_size
from yoloprune.measure.resolve import check_split, describe
from yoloprune.measure.sound import check_finite
from yoloprune.models.checkpoint import task_of
from yoloprune.models.quiet import quiet_ultralytics

COCO = "pycocotools"
BOXES = ("detect", "segment", "pose")
"""Tasks whose boxes are measured here."""
_STOCK: Mapping[str, Mapping[str, str]] = {
    "segment": {"mask_AP": "metrics/mAP50-95(M)", "mask_AP50": "metrics/mAP50(M)"},
    "pose": {"keypoint_AP": "metrics/mAP50-95(P)", "keypoint_AP50": "metrics/mAP50(P)"},
    "obb": {"rotated_AP": "metrics/mAP50-95(B)", "rotated_AP50": "metrics/mAP50(B)"},
    "classify": {"top1": "metrics/accuracy_top1", "top5": "metrics/accuracy_top5"},
}
"""Task → our name of a number → Ultralytics' name of it."""
MEASURED = tuple(dict.fromkeys((*BOXES, *_STOCK)))
"""Every task that is measured."""
SHOWN = ("AP", "AP50", *(name for task in _STOCK.values() for name in task))
"""The numbers that stand for a model where there is no room for all of them."""


def look(data: str | Path, split: str = "val") -> None:
    """Find the pictures of a data set whose task is not known yet.

    Raises:
        DataError: it is missing or malformed, or has no such split.
    """
    check_split(split)
    if not Path(data).is_dir():  # a folder may be one of classes
        describe(data).images(split)


def check_measured(model: nn.Module) -> str:
    """The task of a model, if it is measured.

    Raises:
        MeasureError: it is not, or the model's boxes are read in another way.
    """
    task = task_of(model)
    if task not in MEASURED:
        raise MeasureError(
            f"{type(model).__name__}: task {task} is not measured, expected one of "
            f"{', '.join(MEASURED)}."
        )
    if task in BOXES:
        class_count(model)
    return task


def check_boxes(model: nn.Module) -> None:
    """Make sure that a model draws upright boxes.

    Raises:
        MeasureError: it does something else.
    """
    task = task_of(model)
    if task not in BOXES:
        raise MeasureError(
            f"{type(model).__name__}: task {task} draws no upright boxes, expected one of "
            f"{', '.join(BOXES)}. Use Ultralytics' own predict."
        )


def check_data(model: nn.Module, data: str | Path, split: str = "val") -> Dataset | None:
    """Read what a model is to be measured on, as its task reads it, before any other work.

    Returns:
        The pictures and boxes of the split; None for a task without upright boxes.

    Raises:
        DataError: the data set is missing, malformed, or of another task.
        MeasureError: the task is not measured, or the model knows other classes.
    """
    task = check_measured(model)
    check_split(split)
    if task in BOXES:
        dataset = load_dataset(data, split=split, task=task)
        check_class_count(model, dataset)
        return dataset
    if task == "classify":
        if not (Path(data) / split).is_dir():
            raise DataError(f"{data}: has no folder {split}, expected a folder a class in it.")
        return None
    describe(data).images(split)
    return None


def measure(
    model: nn.Module,
    data: str | Path,
    options: DetectOptions,
    *,
    split: str = "val",
    seen: Seen | None = None,
) -> dict[str, Any]:
    """Measure a model of any task that is measured.

    Args:
        model: not modified.
        data: a data YAML, a Darknet ``.data`` file, or the folder of a classification data set.
        options: input size, thresholds, device. Ultralytics' validators keep their own ways of
            resizing and of clipping.
        split: of the data set.
        seen: is given the upright boxes that were detected, where the task has any.

    Returns:
        JSON-able: ``task``; ``metrics``, fractions; ``by``, whose number each of them is;
        ``boxes``, true where the COCO metrics are of upright boxes; what else
        :class:`~yoloprune.measure.accuracy.Accuracy` records, where it was asked.

    Raises:
        DataError: the data set is missing, malformed, or of another task.
        MeasureError: the task is not measured, or the measurement failed.
    """
    check_finite(model)
    dataset = check_data(model, data, split)
    task, start = task_of(model), time.perf_counter()
    if dataset is None:
        record = _bare_record(model, options)
    else:
        record = _record(evaluate(model, dataset, options, seen))
    if task in _STOCK:
        found = _stock(model, task, data, split, options)
        record["metrics"] |= found
        record["by"] |= dict.fromkeys(found, _ultralytics())
    record["seconds"] = time.perf_counter() - start
    return {"task": task, "boxes": dataset is not None, **record}


def _record(accuracy: Accuracy) -> dict[str, Any]:
    record = accuracy.to_dict()
    record["by"] = dict.fromkeys(record["metrics"], COCO)
    return record


def _bare_record(model: nn.Module, options: DetectOptions) -> dict[str, Any]:
    """The record of a task of which nothing is measured here."""
    place = device_of(model) if options.device is None else find_device(options.device)
    return {
        "metrics": {},
        "by": {},
        "imgsz": input_size(options.imgsz),
        "conf": options.conf,
        "environment": asdict(environment(place)),
    }


def _ultralytics() -> str:
    import ultralytics

    return f"ultralytics {ultralytics.__version__}"


def _stock(
    model: nn.Module, task: str, data: str | Path, split: str, options: DetectOptions
) -> dict[str, float]:
    """What Ultralytics' own validator says of a model."""
    device = device_of(model) if options.device is None else find_device(options.device)
    with (
        tempfile.TemporaryDirectory() as folder,
        quiet_ultralytics(),
        only_what_was_handed(),
    ):
        handed = handed_over(data, Path(folder), task=task)
        args: dict[str, Any] = {
            "task": task,
            "mode": "val",
            "model": "yoloprune.pt",  # a name only: the validator is handed the model itself
            "data": str(handed),
            "split": split,
            "imgsz": max(input_size(options.imgsz)),
            "batch": options.batch,
            "max_det": options.max_det,
            "conf": options.conf,
            "device": str(device.index or 0) if device.type == "cuda" else device.type,
            "plots": False,
            "save_json": False,
            "rect": False,
            "workers": 0,
        }
        if options.iou is not None:
            args["iou"] = options.iou
        try:
            validator = _validator(task)(args=args, save_dir=Path(folder) / "val")
            found = validator(model=float32_copy(model, device))
        except (
            AssertionError, FileNotFoundError, IndexError, KeyError, RuntimeError, TypeError,
            ValueError,
        ) as exc:  # fmt: skip
            line = first_line(exc)
            raise MeasureError(f"{data}: cannot be measured for task {task}: {line}") from exc
    return {ours: float(found[theirs]) for ours, theirs in _STOCK[task].items()}


def _validator(task: str) -> Any:
    from ultralytics.models import yolo

    return {
        "segment": yolo.segment.SegmentationValidator,
        "pose": yolo.pose.PoseValidator,
        "obb": yolo.obb.OBBValidator,
        "classify": yolo.classify.ClassificationValidator,
    }[task]
