"""Which prediction is taught which truth, in the order in which Darknet does it.

Reference: AlexeyAB/darknet ``src/yolo_layer.c`` (``process_batch``), ``src/gaussian_yolo_layer.c``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from yoloprune.darknet.boxes import shape_iou
from yoloprune.darknet.heads import AnchorOptions

CLASS_ONLY, BY_PREDICTION, BY_TRUTH = range(3)
"""Why a prediction is taught a truth, in the order in which Darknet does it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lessons:
    """Which truth is taught to which prediction, in Darknet's order.

    Attributes:
        image: ``[K]``.
        slot: ``[K]``, place of the anchor in the layer.
        row: ``[K]``.
        column: ``[K]``.
        truth: ``[K, 4]``, relative.
        cls: ``[K]``, class.
        iou: ``[K]``, of truth and prediction; only where the prediction is the reason.
        reason: ``[K]``: :data:`CLASS_ONLY`, :data:`BY_PREDICTION` or :data:`BY_TRUTH`.
    """

    image: Tensor
    slot: Tensor
    row: Tensor
    column: Tensor
    truth: Tensor
    cls: Tensor
    iou: Tensor
    reason: Tensor

    def __getitem__(self, index: Tensor) -> Lessons:
        return Lessons(**{f.name: getattr(self, f.name)[index] for f in fields(self)})

    def __len__(self) -> int:
        return len(self.image)

    @staticmethod
    def of(
        where: tuple[Tensor, Tensor, Tensor, Tensor],
        taught: Tensor,
        reason: int,
        iou: Tensor | None = None,
    ) -> Lessons:
        """Lessons for one reason.

        Args:
            where: image, slot, row and column, ``[K]`` each.
            taught: truths ``[K, 5]``: relative box and class.
            reason: of all of them.
            iou: ``[K]``; None where the prediction is not the reason.
        """
        image, slot, row, column = where
        return Lessons(
            image=image,
            slot=slot,
            row=row,
            column=column,
            truth=taught[:, :4],
            cls=taught[:, 4].long(),
            iou=torch.zeros_like(taught[:, 0]) if iou is None else iou,
            reason=torch.full_like(image, reason),
        )

    @staticmethod
    def join(parts: Sequence[Lessons]) -> Lessons:
        """All lessons of several lists."""
        names = [f.name for f in fields(Lessons)]
        return Lessons(**{n: torch.cat([getattr(part, n) for part in parts]) for n in names})


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """Cells and anchors of a layer; pairs are horizontal, vertical.

    Attributes:
        cells: ``[2]``, columns and rows.
        net: ``[2]``, size of the network's input in pixels.
        anchors: ``[na, 2]``, pixels.
    """

    cells: Tensor
    net: Tensor
    anchors: Tensor


def by_cell(lessons: Lessons, shape: torch.Size) -> tuple[Lessons, Tensor, Tensor]:
    """Sort lessons by cell, the order within a cell kept; each cell's first lesson and count."""
    _, anchors, _, rows, columns = shape
    flat = (lessons.image * anchors + lessons.slot) * rows + lessons.row
    flat, order = torch.sort(flat * columns + lessons.column, stable=True)
    _, count = torch.unique_consecutive(flat, return_counts=True)
    return lessons[order], count.cumsum(0) - count, count


def valid_truths(truth: Tensor, classes: int) -> Tensor:
    """``[B, T]``: truths that are no padding and of a class that the head knows."""
    cls = truth[..., 4].long()
    return (truth[..., 2:4] > 0).all(-1) & (cls >= 0) & (cls < classes)


def cells_of(point: Tensor, cells: Tensor) -> tuple[Tensor, Tensor]:
    """Column and row that hold relative points ``[..., 2]``; those outside go to the border."""
    at = (point * cells).long().clamp(min=0).minimum(cells.long() - 1)
    return at[..., 0], at[..., 1]


def lessons_by_truth(
    options: AnchorOptions,
    point: Callable[[Tensor], Tensor],
    truth: Tensor,
    valid: Tensor,
    grid: Grid,
) -> Lessons:
    """Each truth to its best anchor, if this layer has it, and to those above ``iou_thresh``."""
    anchors = truth.new_tensor(options.anchors) / grid.net
    size = truth[:, :, None, 2:4]
    best = shape_iou(anchors, size, "iou").argmax(dim=2, keepdim=True)
    slots = torch.full((len(anchors),), -1, device=truth.device)
    slots[list(options.mask)] = torch.arange(len(options.mask), device=truth.device)
    chosen = valid[..., None] & (slots[best] >= 0)
    if options.iou_thresh < 1:
        more = shape_iou(anchors, size, options.iou_thresh_kind) > options.iou_thresh
        more = more & valid[..., None] & (slots >= 0)
        chosen = torch.cat((chosen, more.scatter(2, best, False)), dim=2)
    image, at, place = chosen.nonzero(as_tuple=True)
    taught = truth[image, at]
    column, row = cells_of(point(taught), grid.cells)
    slot = slots[torch.where(place == 0, best[image, at, 0], place - 1)]
    return Lessons.of((image, slot, row, column), taught, BY_TRUTH)


def lessons_by_prediction(
    where: Tensor, iou: Tensor, index: Tensor, truth: Tensor, reason: int
) -> Lessons:
    """The best truth of each prediction in ``where`` ``[B, na, H, W]``."""
    image, slot, row, column = where.nonzero(as_tuple=True)
    taught = truth[image, index[where]]
    return Lessons.of((image, slot, row, column), taught, reason, iou[where])


def gather(values: Tensor, lessons: Lessons) -> Tensor:
    """``[B, na, E, H, W]`` → ``[K, E]``."""
    index = (lessons.image, lessons.slot, lessons.row, lessons.column)
    return values.permute(0, 1, 3, 4, 2)[index]


def focal_factor(prob: Tensor) -> Tensor:
    """Darknet's focal weight (alpha 0.5, gamma 2) of the true class's probability."""
    prob = prob + 1e-15
    return -0.5 * (1 - prob) * (2 * prob * prob.log() + prob - 1)
