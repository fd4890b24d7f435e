"""Overlap of boxes, and the direction in which Darknet moves one towards another.

Boxes are centre x, centre y, width, height in the last dimension.

Reference: AlexeyAB/darknet ``src/box.c``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

PAIRS_AT_ONCE = 1 << 19
"""Prediction-truth pairs whose IoU is held in memory at a time."""


def box_iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU of boxes ``[..., 4]`` and ``[..., 4]``, broadcast."""
    ax, ay, aw, ah = a.unbind(-1)
    bx, by, bw, bh = b.unbind(-1)
    wide = torch.minimum(ax + aw / 2, bx + bw / 2) - torch.maximum(ax - aw / 2, bx - bw / 2)
    high = torch.minimum(ay + ah / 2, by + bh / 2) - torch.maximum(ay - ah / 2, by - bh / 2)
    inter = wide.clamp_(min=0).mul_(high.clamp_(min=0))
    union = aw * ah + bw * bh - inter
    return torch.where(inter > 0, inter / union, 0)


def shape_iou(a: Tensor, b: Tensor, kind: str) -> Tensor:
    """IoU of one kind of two sizes ``[..., 2]`` about one centre, broadcast.

    With one centre, the distance term of DIoU is 0.
    """
    aw, ah = a.unbind(-1)
    bw, bh = b.unbind(-1)
    inter = torch.minimum(aw, bw) * torch.minimum(ah, bh)
    union = aw * ah + bw * bh - inter
    iou = torch.where(inter > 0, inter / union, 0)
    if kind == "giou":
        hull = torch.maximum(aw, bw) * torch.maximum(ah, bh)
        return iou - (hull - union) / hull
    if kind == "ciou":
        aspect = 4 / math.pi**2 * (torch.atan(bw / bh) - torch.atan(aw / ah)).square()
        return iou - aspect * aspect / (1 - iou + aspect + 1e-6)
    return iou


def _edges(box: Tensor) -> tuple[Tensor, Tensor]:
    """Low (left, top) and high (right, bottom) edges, ``[K, 2]`` each."""
    return box[:, :2] - box[:, 2:] / 2, box[:, :2] + box[:, 2:] / 2


def iou_delta(pred: Tensor, truth: Tensor, kind: str) -> Tensor:
    """Darknet's direction in which an IoU grows (``dx_box_iou``).

    Not the gradient: widths and heights count twice, and boxes that miss each other get the
    formula's value with a negative side of the intersection.

    Args:
        pred: ``[K, 4]``.
        truth: ``[K, 4]``.
        kind: one of :data:`~yoloprune.darknet.heads.IOU_KINDS`.

    Returns:
        ``[K, 4]``, by centre x, centre y, width, height; may hold NaN for empty boxes.
    """
    low, high = _edges(pred)
    truth_low, truth_high = _edges(truth)
    side = high - low
    inter_side = torch.minimum(high, truth_high) - torch.maximum(low, truth_low)
    area, inter = side.prod(1, keepdim=True), inter_side.prod(1, keepdim=True)
    union = area + (truth_high - truth_low).prod(1, keepdim=True) - inter
    hull_side = torch.maximum(high, truth_high) - torch.minimum(low, truth_low)

    # What one unit of each edge adds to an area is the area's other side.
    other, inter_other, hull_other = side.flip(1), inter_side.flip(1), hull_side.flip(1)
    inter_low = torch.where(low > truth_low, -inter_other, 0)
    inter_high = torch.where(high < truth_high, inter_other, 0)
    union_low, union_high = -other - inter_low, other - inter_high
    by_low = (union * inter_low - inter * union_low) / (union * union)
    by_high = (union * inter_high - inter * union_high) / (union * union)
    by_low = torch.where(union > 0, by_low, 0)
    by_high = torch.where(union > 0, by_high, 0)
    # A box so small that its edges fall together moves by its high edge alone.
    by_low = torch.where(low < high, by_low, by_high)
    missed = (inter_side <= 0).any(1, keepdim=True)
    if kind == "giou":
        hull = hull_side.prod(1, keepdim=True)
        hull_low = torch.where(low < truth_low, -hull_other, 0)
        hull_high = torch.where(high > truth_high, hull_other, 0)
        more_low = (hull * union_low - union * hull_low) / (hull * hull)
        more_high = (hull * union_high - union * hull_high) / (hull * hull)
        by_low = torch.where(missed, more_low, by_low + torch.where(hull > 0, more_low, 0))
        by_high = torch.where(missed, more_high, by_high + torch.where(hull > 0, more_high, 0))
    delta = torch.cat((by_low + by_high, by_high - by_low), dim=1)
    if kind in ("diou", "ciou"):
        more, diagonal = _distance_delta(pred, truth, hull_side)
        if kind == "ciou":
            more[:, 2:] += _aspect_delta(pred, truth, inter / union)
        delta = torch.where(missed, more, delta + torch.where(diagonal > 0, more, 0))
    return delta


def _distance_delta(pred: Tensor, truth: Tensor, hull_side: Tensor) -> tuple[Tensor, Tensor]:
    """DIoU's distance term, ``[K, 4]``, and the hull's squared diagonal, ``[K, 1]``."""
    low, high = _edges(pred)
    truth_low, truth_high = _edges(truth)
    distance = (pred[:, :2] - truth[:, :2]).square().sum(1, keepdim=True)
    diagonal = hull_side.square().sum(1, keepdim=True)
    outer_low, outer_high = (low < truth_low).float(), (high > truth_high).float()
    by_centre = 2 * hull_side * (outer_high - outer_low) * distance
    by_size = 2 * hull_side * 0.5 * (outer_high + outer_low) * distance
    towards = 2 * (truth[:, :2] - pred[:, :2]) * diagonal
    more = torch.cat((towards - by_centre, by_size), dim=1) / (diagonal * diagonal)
    return more, diagonal


def _aspect_delta(pred: Tensor, truth: Tensor, iou: Tensor) -> Tensor:
    """CIoU's aspect term by width and height, ``[K, 2]``."""
    aspect = torch.atan(truth[:, 2:3] / truth[:, 3:4]) - torch.atan(pred[:, 2:3] / pred[:, 3:4])
    loss = 4 / math.pi**2 * aspect * aspect
    weight = loss / (1 - iou + loss + 1e-6)
    return weight * 8 / math.pi**2 * aspect * torch.cat((pred[:, 3:4], -pred[:, 2:3]), dim=1)


def best_truth(boxes: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """The truth that each predicted box overlaps most.

    Args:
        boxes: ``[B, 4, N]``, relative.
        truth: ``[B, T, 5]``; those of width 0 overlap nothing.

    Returns:
        ``(iou, index)``, ``[B, N]`` each: 0 where no truth is touched.
    """
    images, _, count = boxes.shape
    best, index = boxes.new_zeros(images, count), boxes.new_zeros(images, count, dtype=torch.long)
    step = max(1, PAIRS_AT_ONCE // max(1, images * count))
    pred = boxes.transpose(1, 2).unsqueeze(1)
    for start in range(0, truth.shape[1], step):
        iou, at = box_iou(pred, truth[:, start : start + step, None, :4]).max(dim=1)
        better = iou > best
        best, index = torch.where(better, iou, best), torch.where(better, at + start, index)
    return best, index
