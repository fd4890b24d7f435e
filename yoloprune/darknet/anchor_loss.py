"""What ``[yolo]`` and ``[Gaussian_yolo]`` teach, see :mod:`yoloprune.darknet.loss`.

Reference: AlexeyAB/darknet ``src/yolo_layer.c`` (``delta_yolo_box``, ``delta_yolo_class``),
``src/gaussian_yolo_layer.c``.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from yoloprune.darknet.boxes import best_truth, iou_delta
from yoloprune.darknet.heads import (
    AnchorOptions,
    DetectionHead,
    GaussianYoloHead,
    GaussianYoloOptions,
    YoloHead,
    YoloOptions,
)
from yoloprune.darknet.lessons import (
    BY_PREDICTION,
    BY_TRUTH,
    CLASS_ONLY,
    Grid,
    Lessons,
    by_cell,
    focal_factor,
    gather,
    lessons_by_prediction,
    lessons_by_truth,
    valid_truths,
)

CLASS_MATCH = 0.25
"""A prediction can be ignored as background only if a class probability is above this."""
SIGMA_FLOOR = 0.3
"""What ``[Gaussian_yolo]`` adds to each standard deviation."""


class Rule(ABC):
    """What differs between ``[yolo]`` and ``[Gaussian_yolo]``."""

    options: AnchorOptions
    focal = False
    ignored_learn_class = False

    def point(self, truth: Tensor) -> Tensor:
        """The relative point ``[K, 2]`` of truths ``[K, 5]`` that their cell holds."""
        return truth[:, :2]

    @abstractmethod
    def smooth_background(self, obj: Tensor, iou: Tensor) -> Tensor:
        """Unweighted objectness delta above ``ignore_thresh``, with ``objectness_smooth``."""

    @abstractmethod
    def keeps_objectness(self, delta: Tensor) -> Tensor:
        """Where a truth leaves the objectness delta as it is."""

    @abstractmethod
    def taught_before(self, delta: Tensor, cls: Tensor) -> Tensor:
        """Whether the class deltas ``[K, C]`` show an earlier lesson, ``[K, 1]``."""

    @abstractmethod
    def averages(self, obj_delta: Tensor) -> Tensor:
        """Where the box delta is averaged over a cell's classes."""

    @abstractmethod
    def box(self, lessons: Lessons, values: Tensor, pred: Tensor, grid: Grid) -> Tensor:
        """Weighted box deltas ``[K, box entries]`` of activated values and predicted boxes."""

    def class_weight(self, cls: Tensor) -> Tensor:
        """Weight of each class ``[K]``, from ``counters_per_class``."""
        weights = self.options.class_multipliers
        if not weights:
            return torch.ones_like(cls, dtype=torch.float32)
        return torch.tensor(weights, device=cls.device)[cls]

    def bounded(self, delta: Tensor) -> Tensor:
        """Without NaN and infinity, and no larger than ``max_delta``."""
        delta = torch.nan_to_num(delta, nan=0.0, posinf=0.0, neginf=0.0)
        bound = self.options.max_delta
        return delta if bound is None else delta.clamp(-bound, bound)

    def _offsets(self, lessons: Lessons, grid: Grid) -> tuple[Tensor, Tensor]:
        """Where the truth lies in its cell, and its size over the anchor's, ``[K, 2]`` each."""
        corner = torch.stack((lessons.column, lessons.row), dim=1)
        ratio = lessons.truth[:, 2:] * grid.net / grid.anchors[lessons.slot]
        return self.point(lessons.truth) * grid.cells - corner, ratio


def _filled(pred: Tensor) -> Tensor:
    """Predicted boxes with sides of exactly 0 made 1, as Darknet does against NaN."""
    size = pred[:, 2:]
    return torch.cat((pred[:, :2], torch.where(size == 0, 1.0, size)), dim=1)


def _area_weight(lessons: Lessons) -> Tensor:
    """``[K, 1]``: small truths weigh up to twice as much as large ones."""
    return 2 - lessons.truth[:, 2:3] * lessons.truth[:, 3:4]


class _YoloRule(Rule):
    """``src/yolo_layer.c``."""

    def __init__(self, options: YoloOptions) -> None:
        self.options: YoloOptions = options
        self.focal = options.focal_loss

    def smooth_background(self, obj: Tensor, iou: Tensor) -> Tensor:
        """The IoU."""
        return iou - obj

    def keeps_objectness(self, delta: Tensor) -> Tensor:
        """With ``objectness_smooth``, a truth only fills what nothing else has set."""
        return (delta != 0) & bool(self.options.objectness_smooth)

    def taught_before(self, delta: Tensor, cls: Tensor) -> Tensor:
        """By the delta of the class that is to be taught."""
        return delta.gather(1, cls[:, None]) != 0

    def averages(self, obj_delta: Tensor) -> Tensor:
        """Only when several anchors may learn one truth."""
        return (obj_delta != 0) & (self.options.iou_thresh < 1)

    def box(self, lessons: Lessons, values: Tensor, pred: Tensor, grid: Grid) -> Tensor:
        """``delta_yolo_box``."""
        options = self.options
        weight = options.iou_normalizer * self.class_weight(lessons.cls)[:, None]
        if options.iou_loss == "mse":
            offset, ratio = self._offsets(lessons, grid)
            size = (ratio / 4).sqrt() if options.new_coords else ratio.log()
            aim = torch.cat((offset, size), dim=1)
            return _area_weight(lessons) * (aim - values[:, :4]) * weight
        delta = iou_delta(_filled(pred), lessons.truth, options.iou_loss)
        if not options.new_coords:
            delta[:, 2:] *= values[:, 2:4].exp()
        return self.bounded(delta * weight)


class _GaussianRule(Rule):
    """``src/gaussian_yolo_layer.c``."""

    def __init__(self, options: GaussianYoloOptions) -> None:
        self.options: GaussianYoloOptions = options
        self.ignored_learn_class = options.objectness_smooth
        self.shift = {"center": 0.0, "left_top": -0.5, "right_bottom": 0.5}[options.yolo_point]

    def point(self, truth: Tensor) -> Tensor:
        """Centre or corner."""
        return truth[:, :2] + self.shift * truth[:, 2:4]

    def smooth_background(self, obj: Tensor, iou: Tensor) -> Tensor:
        """The squared IoU."""
        return iou * iou - obj

    def keeps_objectness(self, delta: Tensor) -> Tensor:
        """Never."""
        return torch.zeros_like(delta, dtype=torch.bool)

    def taught_before(self, delta: Tensor, cls: Tensor) -> Tensor:
        """By the delta of the first class, whichever is to be taught."""
        return delta[:, :1] != 0

    def averages(self, obj_delta: Tensor) -> Tensor:
        """Always."""
        return torch.ones_like(obj_delta, dtype=torch.bool)

    def box(self, lessons: Lessons, values: Tensor, pred: Tensor, grid: Grid) -> Tensor:
        """``delta_gaussian_yolo_box``: means and standard deviations take turns."""
        options = self.options
        mean, sigma = values[:, 0:8:2], values[:, 1:8:2]
        offset, ratio = self._offsets(lessons, grid)
        wide = (torch.cat((offset, ratio.log()), dim=1) - mean) / sigma
        floored = sigma + SIGMA_FLOOR
        density = (-0.5 * wide * wide).exp() / (math.sqrt(2 * math.pi) * floored)
        share = 0.5 * density / (density + 1e-9) * _area_weight(lessons)
        by_mean = share * wide / sigma
        by_sigma = share * (wide * wide / sigma - 1 / floored)
        if options.iou_loss != "mse":
            by_mean = iou_delta(_filled(pred), lessons.truth, options.iou_loss)
            by_mean[:, :2] += self.shift * by_mean[:, 2:]
            by_mean[:, 2:] *= mean[:, 2:].exp()
        by_mean = by_mean * (options.iou_normalizer * self.class_weight(lessons.cls)[:, None])
        by_sigma = by_sigma * options.uc_normalizer
        return self.bounded(torch.stack((by_mean, by_sigma), dim=2).flatten(1))


def rule_of(head: DetectionHead) -> Rule:
    """The rule of a head's kind."""
    if isinstance(head, YoloHead):
        return _YoloRule(head.options)
    if isinstance(head, GaussianYoloHead):
        return _GaussianRule(head.options)
    raise TypeError(f"no loss for {type(head).__name__}")


def anchor_delta(head: DetectionHead, rule: Rule, values: Tensor, truth: Tensor) -> Tensor:
    """Darknet's delta of ``[yolo]`` or ``[Gaussian_yolo]``, ``[B, na, E, H, W]``.

    Args:
        head: the head.
        rule: its kind's.
        values: raw ``[B, na, E, H, W]``.
        truth: ``[B, T, 5]``.
    """
    options, at = rule.options, head.box_entries
    images, _, _, rows, columns = values.shape
    cells = truth.new_tensor((columns, rows))
    grid = Grid(cells=cells, net=cells * head.stride, anchors=head.anchors)
    valid = valid_truths(truth, head.classes)
    truth = torch.where(valid[..., None], truth, 0)

    likeliest = values[:, :, at + 1 :].amax(dim=2, keepdim=True)
    dense = head.activate_entries(torch.cat((values[:, :, : at + 1], likeliest), dim=2))
    obj, matched = dense[:, :, at], dense[:, :, at + 1] > CLASS_MATCH
    pred = head.boxes(dense, head.stride, head.stride) / grid.net.repeat(2).view(4, 1, 1)
    iou, index = best_truth(pred.transpose(1, 2).reshape(images, 4, -1), truth)
    iou, index = iou.view_as(obj), index.view_as(obj)

    delta = torch.zeros_like(values)
    ignored = matched & (iou > options.ignore_thresh)
    spared = rule.smooth_background(obj, iou) if options.objectness_smooth else 0.0
    delta[:, :, at] = options.obj_normalizer * torch.where(ignored, spared, -obj)

    lessons = [lessons_by_truth(rule.options, rule.point, truth, valid, grid)]
    if options.truth_thresh < 1:
        above = iou > options.truth_thresh
        lessons.insert(0, lessons_by_prediction(above, iou, index, truth, BY_PREDICTION))
    if rule.ignored_learn_class:
        lessons.insert(0, lessons_by_prediction(ignored, iou, index, truth, CLASS_ONLY))
    _teach(head, rule, Lessons.join(lessons), values, pred, grid, delta)
    return delta.mul_(options.delta_normalizer) if options.delta_normalizer != 1 else delta


def _teach(
    head: DetectionHead,
    rule: Rule,
    lessons: Lessons,
    values: Tensor,
    pred: Tensor,
    grid: Grid,
    delta: Tensor,
) -> None:
    """Write the deltas of the cells that are taught something into ``delta``.

    A cell may be taught several truths, and each lesson sees what the one before has left, so
    the first lessons of all cells go first, then all second ones.
    """
    if not len(lessons):
        return
    at = head.box_entries
    lessons, start, count = by_cell(lessons, values.shape)
    active = gather(values, lessons)
    active = head.activate_entries(active.T[None, None, :, None])[0, 0, :, 0].T
    box = rule.box(lessons, active, gather(pred, lessons), grid)
    box = torch.where((lessons.reason == CLASS_ONLY)[:, None], 0, box)
    first = lessons[start]
    state = gather(delta, first)
    for turn in range(int(count.max())):
        cell = (count > turn).nonzero().squeeze(1)
        at_turn = start[cell] + turn
        now, seen, probs = lessons[at_turn], state[cell], active[at_turn]
        weight = rule.class_weight(now.cls)
        state[cell, :at] = seen[:, :at] + box[at_turn]
        state[cell, at] = _obj_delta(rule, now, weight, seen[:, at], probs[:, at])
        state[cell, at + 1 :] = _cls_delta(
            rule, now, weight[:, None], seen[:, at + 1 :], probs[:, at + 1 :]
        )
    shares = (state[:, at + 1 :] > 0).sum(dim=1).clamp(min=1)
    shares = torch.where(rule.averages(state[:, at]), shares, 1)
    state[:, :at] /= shares[:, None]
    delta.permute(0, 1, 3, 4, 2)[first.image, first.slot, first.row, first.column] = state


def _obj_delta(rule: Rule, lessons: Lessons, weight: Tensor, delta: Tensor, obj: Tensor) -> Tensor:
    """Objectness deltas ``[k]`` after a lesson; ``delta`` are those before."""
    options = rule.options
    aim = lessons.iou.square() if options.objectness_smooth else 1.0
    by_prediction = options.obj_normalizer * (aim - obj)
    by_truth = weight * options.obj_normalizer * (1 - obj)
    by_truth = torch.where(rule.keeps_objectness(delta), delta, by_truth)
    return torch.where(
        lessons.reason == BY_TRUTH,
        by_truth,
        torch.where(lessons.reason == BY_PREDICTION, by_prediction, delta),
    )


def _cls_delta(
    rule: Rule, lessons: Lessons, weight: Tensor, delta: Tensor, probs: Tensor
) -> Tensor:
    """Class deltas ``[k, C]`` after a lesson; ``delta`` are those before."""
    options = rule.options
    true = torch.zeros_like(probs, dtype=torch.bool).scatter(1, lessons.cls[:, None], True)
    aim = true * (1 - options.label_smooth_eps) + 0.5 * options.label_smooth_eps
    anew = aim - probs
    more = torch.where(true, anew * weight, delta)
    if rule.focal:
        anew = (true.float() - probs) * focal_factor(probs.gather(1, lessons.cls[:, None]))
    elif options.class_multipliers:
        anew = torch.where(true, anew * weight * options.cls_normalizer, anew)
    delta = torch.where(rule.taught_before(delta, lessons.cls), more, anew)
    if options.objectness_smooth:
        by_iou = true & (lessons.reason == BY_PREDICTION)[:, None]
        delta = torch.where(by_iou, weight * (lessons.iou.square()[:, None] - probs), delta)
    return delta
