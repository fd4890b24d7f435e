"""Average precision as COCO defines it, by pycocotools.

AP is the mean over IoU thresholds 0.50, 0.55 … 0.95 and over the classes that the data set
shows; AP50 and AP75 are those at one threshold. APs, APm and APl count only objects of less
than 32², of up to 96², and of more pixels of their picture, by the area of their box. AR100 is
the recall at the same thresholds. pycocotools ranks at most 100 detections of a class in a
picture, whatever ``max_det`` says. All are fractions, not percent.

Reference: https://cocodataset.org/#detection-eval
"""

from __future__ import annotations

import contextlib
import io
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import nn

from yoloprune.errors import MeasureError
from yoloprune.measure.copies import device_of, find_device
from yoloprune.measure.data import Dataset
from yoloprune.measure.detect import Detections, DetectOptions, class_count, clips, detect, nms_iou
from yoloprune.measure.environment import Environment, environment
from yoloprune.measure.images import input_size
from yoloprune.measure.labels import LabelArray
from yoloprune.measure.sound import check_finite

FloatArray = NDArray[np.float64]
logger = logging.getLogger(__name__)

# Positions in pycocotools' summary of twelve numbers.
_STATS = {"AP": 0, "AP50": 1, "AP75": 2, "APs": 3, "APm": 4, "APl": 5, "AR100": 8}


@dataclass(frozen=True, slots=True, kw_only=True)
class CocoMetrics:
    """The COCO summary, as fractions; None where the data set shows no object of that size.

    Attributes:
        AP, AP50, AP75, APs, APm, APl, AR100: see the module.
        AP_by_class: class name → AP, None for a class that the data set does not show.
    """

    AP: float
    AP50: float
    AP75: float
    APs: float | None
    APm: float | None
    APl: float | None
    AR100: float
    AP_by_class: Mapping[str, float | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """One evaluation of one model on one data set.

    Attributes:
        metrics: the COCO summary.
        images: pictures that were evaluated, those without objects included.
        instances: labelled objects in them.
        detections: detections above ``conf`` after NMS.
        imgsz: input size, height and width, in pixels.
        conf, nms_iou, max_det: how detections were chosen.
        clip: whether boxes were clipped to their picture.
        seconds: wall time from the first picture to the last number.
        environment: where it was measured.
    """

    metrics: CocoMetrics
    images: int
    instances: int
    detections: int
    imgsz: tuple[int, int]
    conf: float
    nms_iou: float
    max_det: int
    clip: bool
    seconds: float
    environment: Environment

    def to_dict(self) -> dict[str, Any]:
        """The record as JSON-able data; ``metrics`` holds the seven summary numbers only."""
        record = asdict(self)
        record["AP_by_class"] = dict(record["metrics"].pop("AP_by_class"))
        return record


Seen = Callable[[Dataset, Sequence[Detections]], None]
"""Is given all that a model detected in a data set."""


def evaluate(
    model: nn.Module, dataset: Dataset, options: DetectOptions, seen: Seen | None = None
) -> Accuracy:
    """Measure the average precision of a detector.

    Args:
        model: see `detect`; not modified.
        dataset: the split to measure on.
        options: how to detect; the default ``conf`` of 0.001 is what AP wants.
        seen: is given the detections.

    Raises:
        DataError: a picture cannot be read.
        MeasureError: the model knows another number of classes than the data set, the data set
            shows no object, its parameters are not finite, or its output is malformed.
    """
    check_finite(model)
    check_classes(model, dataset)
    place = device_of(model) if options.device is None else find_device(options.device)
    start = time.perf_counter()
    found = list(detect(model, dataset.images, options))
    metrics = coco_metrics(found, dataset)
    if seen is not None:
        seen(dataset, found)
    return Accuracy(
        metrics=metrics,
        images=len(dataset.images),
        instances=dataset.instances,
        detections=sum(len(one.scores) for one in found),
        imgsz=input_size(options.imgsz),
        conf=options.conf,
        nms_iou=nms_iou(model, options),
        max_det=options.max_det,
        clip=clips(model, options),
        seconds=time.perf_counter() - start,
        environment=environment(place),
    )


def coco_metrics(
    detections: Sequence[Detections], dataset: Dataset, *, sizes: bool = True
) -> CocoMetrics:
    """Compare detections with the labels of a data set.

    Args:
        detections: one entry an image of ``dataset``, in its order.
        dataset: labels and names.
        sizes: compare small, medium and large objects by themselves, too, which takes three times
            as long again; else APs, APm and APl are None.

    Raises:
        MeasureError: the counts of images differ, or no image shows an object.
    """
    if len(detections) != len(dataset.images):
        raise MeasureError(
            f"detections: of {len(detections)} images, expected {len(dataset.images)}."
        )
    if not dataset.instances:
        raise MeasureError(
            f"{dataset.source}: the {dataset.split} split shows no object, so AP has no meaning."
        )
    truth = [
        truth_boxes(labels, one.width, one.height)
        for labels, one in zip(dataset.labels, detections, strict=True)
    ]
    class_ids = [labels[:, 0].astype(np.int64) for labels in dataset.labels]
    with contextlib.redirect_stdout(io.StringIO()):
        expected = _coco(truth, class_ids, None, len(dataset.names))
        found = _coco(
            [one.boxes_xyxy.astype(np.float64) for one in detections],
            [one.classes for one in detections],
            [one.scores for one in detections],
            len(dataset.names),
        )
        result = COCOeval(expected, found, "bbox")
        if not sizes:  # the first range is that of all objects
            result.params.areaRng, result.params.areaRngLbl = result.params.areaRng[:1], ["all"]
        result.evaluate()
        result.accumulate()
        result.summarize()
    return _metrics(result, dataset.names)


def check_classes(model: nn.Module, dataset: Dataset) -> None:
    """Refuse a data set of other classes; warn of one that names them in another order.

    Raises:
        MeasureError: it names another number of classes than the model knows.
    """
    check_class_count(model, dataset)
    names: Any = model.names
    known = class_count(model)
    ordered = tuple(names[i] for i in range(known)) if isinstance(names, dict) else tuple(names)
    if ordered != dataset.names and sorted(ordered) == sorted(dataset.names):
        logger.warning(
            "%s: names the model's classes in another order; AP compares ids, not names.",
            dataset.source,
        )


def check_class_count(model: nn.Module, dataset: Dataset) -> None:
    """Refuse a data set of other classes.

    Raises:
        MeasureError: it names another number of classes than the model knows.
    """
    known, shown = class_count(model), len(dataset.names)
    if known != shown:
        raise MeasureError(
            f"{dataset.source}: names {shown} classes, the model knows {known}."
            " Is this the data set that it was trained for?"
        )


def truth_boxes(labels: LabelArray, width: int, height: int) -> FloatArray:
    """``[n, 5]`` class, cx, cy, w, h as fractions → ``[n, 4]`` xyxy in pixels of a picture."""
    centre, half = labels[:, 1:3], labels[:, 3:5] / 2
    boxes = np.concatenate((centre - half, centre + half), axis=1)
    scaled: FloatArray = boxes * np.array([width, height, width, height], dtype=np.float64)
    return scaled


def _coco(
    boxes_xyxy: Sequence[NDArray[Any]],
    class_ids: Sequence[NDArray[Any]],
    scores: Sequence[NDArray[Any]] | None,
    classes: int,
) -> Any:
    """Build pycocotools' index in memory. Ids start at 1: it reads an id of 0 as 'no match'."""
    annotations: list[dict[str, Any]] = []
    for image, (boxes, ids) in enumerate(zip(boxes_xyxy, class_ids, strict=True)):
        for row, ((x1, y1, x2, y2), class_id) in enumerate(
            zip(boxes.tolist(), ids.tolist(), strict=True)
        ):
            annotation = {
                "id": len(annotations) + 1,
                "image_id": image,
                "category_id": class_id,
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "area": (x2 - x1) * (y2 - y1),
                "iscrowd": 0,
            }
            if scores is not None:
                annotation["score"] = float(scores[image][row])
            annotations.append(annotation)
    index = COCO()
    index.dataset = {
        "images": [{"id": image} for image in range(len(boxes_xyxy))],
        "categories": [{"id": class_id} for class_id in range(classes)],
        "annotations": annotations,
    }
    index.createIndex()
    return index


def _metrics(result: Any, names: Sequence[str]) -> CocoMetrics:
    # precision: [IoU threshold, recall, class, area, limit of detections]; -1 stands for none.
    by_class: dict[str, float | None] = {}
    for class_id, name in enumerate(names):
        precision = result.eval["precision"][:, :, class_id, 0, -1]
        key = name if name not in by_class else f"{name} #{class_id}"
        by_class[key] = float(precision.mean()) if precision.min() >= 0 else None
    stats = {name: float(result.stats[i]) for name, i in _STATS.items()}
    by_size = {name: stats[name] if stats[name] >= 0 else None for name in ("APs", "APm", "APl")}
    return CocoMetrics(
        AP=stats["AP"],
        AP50=stats["AP50"],
        AP75=stats["AP75"],
        AR100=stats["AR100"],
        AP_by_class=by_class,
        **by_size,
    )
