"""What ``[region]`` teaches: Darknet's deltas, see :mod:`yoloprune.darknet.loss`.

Reference: AlexeyAB/darknet ``src/region_layer.c``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from yoloprune.darknet.boxes import best_truth, box_iou, shape_iou
from yoloprune.darknet.heads import RegionHead, RegionOptions
from yoloprune.darknet.lessons import (
    BY_TRUTH,
    CLASS_ONLY,
    Lessons,
    by_cell,
    cells_of,
    focal_factor,
    gather,
    lessons_by_prediction,
    valid_truths,
)

REGION_WARM_UP = 12800
"""Images during which ``[region]`` pulls every box to its anchor."""


def region_delta(head: RegionHead, values: Tensor, truth: Tensor, seen: int) -> Tensor:
    """Darknet's delta of ``[region]``, ``[B, na, E, H, W]``.

    Here a later truth replaces what an earlier one taught to the same prediction.
    """
    options: RegionOptions = head.options
    images, _, _, rows, columns = values.shape
    cells = truth.new_tensor((columns, rows))
    valid = valid_truths(truth, head.classes)
    truth = torch.where(valid[..., None], truth, 0)
    centre, obj = values[:, :, :2].sigmoid(), values[:, :, 4].sigmoid()
    pred = head.boxes(values, 1, 1) / cells.repeat(2).view(4, 1, 1)
    iou, index = best_truth(pred.transpose(1, 2).reshape(images, 4, -1), truth)
    iou, index = iou.view_as(obj), index.view_as(obj)

    delta = torch.zeros_like(values)
    above = iou > options.thresh
    aim = iou if options.classfix == -1 else torch.where(above, obj, 0)
    delta[:, :, 4] = options.noobject_scale * (aim - obj) * obj * (1 - obj)
    if seen < REGION_WARM_UP:
        delta[:, :, :2] = 0.01 * (0.5 - centre) * centre * (1 - centre)
        delta[:, :, 2:4] = -0.01 * values[:, :, 2:4]
    if options.classfix > 0:
        lessons = lessons_by_prediction(above, iou, index, truth, CLASS_ONLY)
        _region_classes(head, lessons, values, delta, by_objectness=options.classfix == 2)
    lessons = _region_lessons(options, truth, valid, pred, cells, head.anchors)
    if len(lessons):
        lessons, start, count = by_cell(lessons, values.shape)
        lessons = lessons[start + count - 1]
        _region_boxes(head, lessons, values, pred, cells, delta)
        _region_classes(head, lessons, values, delta, by_objectness=False)
    return delta


def _region_lessons(
    options: RegionOptions,
    truth: Tensor,
    valid: Tensor,
    pred: Tensor,
    cells: Tensor,
    anchors: Tensor,
) -> Lessons:
    """Each truth to the prediction of its cell whose shape is the closest."""
    image, at = valid.nonzero(as_tuple=True)
    taught = truth[image, at]
    column, row = cells_of(taught[:, :2], cells)
    sizes = pred[image, :, 2:4, row, column]
    if options.bias_match:
        sizes = (anchors / cells).expand_as(sizes)
    slot = shape_iou(sizes, taught[:, None, 2:4], "iou").argmax(dim=1)
    return Lessons.of((image, slot, row, column), taught, BY_TRUTH)


def _region_boxes(
    head: RegionHead,
    lessons: Lessons,
    values: Tensor,
    pred: Tensor,
    cells: Tensor,
    delta: Tensor,
) -> None:
    """Write box and objectness deltas of one lesson a cell."""
    options: RegionOptions = head.options
    raw = gather(values, lessons)
    centre, obj = raw[:, :2].sigmoid(), raw[:, 4].sigmoid()
    corner = torch.stack((lessons.column, lessons.row), dim=1)
    offset = lessons.truth[:, :2] * cells - corner
    size = (lessons.truth[:, 2:] * cells / head.anchors[lessons.slot]).log()
    aim = box_iou(gather(pred, lessons), lessons.truth) if options.rescore else 1.0
    rows = torch.cat(
        (
            options.coord_scale * (offset - centre) * centre * (1 - centre),
            options.coord_scale * (size - raw[:, 2:4]),
            (options.object_scale * (aim - obj) * obj * (1 - obj))[:, None],
        ),
        dim=1,
    )
    view = delta[:, :, :5].permute(0, 1, 3, 4, 2)
    view[lessons.image, lessons.slot, lessons.row, lessons.column] = rows


def _region_classes(
    head: RegionHead, lessons: Lessons, values: Tensor, delta: Tensor, *, by_objectness: bool
) -> None:
    """Write class deltas of one lesson a cell."""
    options: RegionOptions = head.options
    raw = gather(values, lessons)
    active = head.activate_entries(raw.T[None, None, :, None])[0, 0, :, 0].T
    probs, at = active[:, 5:], lessons.cls[:, None]
    rows = options.class_scale * (torch.zeros_like(probs).scatter(1, at, 1.0) - probs)
    if by_objectness:
        rows = rows * active[:, 4:5]
    if options.focal_loss:
        rows = rows * focal_factor(probs.gather(1, at))
    view = delta[:, :, 5:].permute(0, 1, 3, 4, 2)
    view[lessons.image, lessons.slot, lessons.row, lessons.column] = rows
