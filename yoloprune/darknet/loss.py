"""Darknet's training losses: what ``[yolo]``, ``[Gaussian_yolo]`` and ``[region]`` teach.

Darknet has no loss function that it differentiates. Each layer writes a *delta*, the direction
in which its raw input shall move, and logs the sum of its squares. Many of these deltas are the
gradient of no function: the IoU losses leave out factors (the sigmoid's slope, the anchors'
size, a half for widths), what a delta becomes depends on the order of the truths, and an
averaging step divides by the number of positive class deltas. So the delta is computed as
Darknet does, without autograd, for the few cells that hold truths, all images at once, and handed
to autograd as minus the gradient; the value reported is the sum of squares that Darknet logs.

Reference: AlexeyAB/darknet ``src/yolo_layer.c`` (``process_batch``, ``delta_yolo_box``,
``delta_yolo_class``), ``src/gaussian_yolo_layer.c``, ``src/region_layer.c``, ``src/box.c``.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from yoloprune.darknet.boxes import best_truth, box_iou, iou_delta, shape_iou
from yoloprune.darknet.heads import (
    AnchorOptions,
    DetectionHead,
    GaussianYoloHead,
    GaussianYoloOptions,
    RegionHead,
    RegionOptions,
    YoloHead,
    YoloOptions,
)

CLASS_MATCH = 0.25
"""A prediction can be ignored as background only if a class probability is above this."""
SIGMA_FLOOR = 0.3
"""What ``[Gaussian_yolo]`` adds to each standard deviation."""
REGION_WARM_UP = 12800
"""Images during which ``[region]`` pulls every box to its anchor."""
LARGEST_LOSS = 1e30
"""Bound of the reported values, which are squares: the delta may be finite where they are not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LossParts:
    """One head's loss, scalars. The gradient of ``total`` is minus Darknet's delta.

    The values are sums of squared deltas over the batch, as Darknet logs them (before it
    divides by the batch); they are not integrals of the gradients.

    Attributes:
        total: ``box + obj + cls``.
        box: centre, size and uncertainty.
        obj: objectness.
        cls: classes.
    """

    total: Tensor
    box: Tensor
    obj: Tensor
    cls: Tensor


def darknet_loss(
    head: DetectionHead, raw: Tensor, truth: Tensor, *, seen: int = REGION_WARM_UP
) -> LossParts:
    """Darknet's loss of one head, summed over the batch.

    Args:
        head: the head that ``raw`` goes into.
        raw: ``[B, na * E, H, W]``, any float type.
        truth: ``[B, T, 5]``: centre x, centre y, width, height relative to the image, class.
            Width 0 pads; truths of a class that the head lacks are left out, as in Darknet.
        seen: images that the network was trained on so far; ``[region]`` alone asks for it.

    Returns:
        The parts, float32 scalars that carry the gradient of ``raw``.
    """
    with torch.no_grad():
        values, truths = head.split(raw.detach()).float(), truth.float()
        if isinstance(head, RegionHead):
            delta = _region_delta(head, values, truths, seen)
        else:
            delta = _anchor_delta(head, _rule(head), values, truths)
    box, obj, cls = _MinusDelta.apply(head.split(raw).float(), delta, head.box_entries)
    return LossParts(total=box + obj + cls, box=box, obj=obj, cls=cls)


class DarknetLoss:
    """The criterion of a Darknet model for Ultralytics' trainer and validator.

    Args:
        model: the model, whose :class:`DetectionHead` modules are its heads, in order.
        seen: images that it was trained on before; only ``[region]`` asks.
    """

    loss_names = ("box_loss", "obj_loss", "cls_loss")

    def __init__(self, model: nn.Module, seen: int = 0) -> None:
        self.heads = [m for m in model.modules() if isinstance(m, DetectionHead)]
        self.seen = seen

    def __call__(
        self, preds: Sequence[Tensor], batch: Mapping[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch.

        Args:
            preds: the raw input of each head, ``[B, na * E, H, W]``.
            batch: Ultralytics' batch: ``batch_idx`` ``[N]``, ``cls`` ``[N, 1]``, ``bboxes``
                ``[N, 4]`` as centre, width and height relative to the image.

        Returns:
            ``(loss, items)``. ``loss`` ``[3]`` is box, objectness and class loss, the mean of an
            image times the batch size, so that, like Ultralytics' own, its gradient is the sum
            over the images. ``items`` are the means, detached, by name.
        """
        images = preds[0].shape[0]
        truth = pad_truth(batch, images).to(preds[0].device)
        parts = [
            darknet_loss(head, raw, truth, seen=self.seen)
            for head, raw in zip(self.heads, preds, strict=True)
        ]
        if torch.is_grad_enabled():
            self.seen += images
        loss = torch.stack([torch.stack((p.box, p.obj, p.cls)) for p in parts]).sum(dim=0)
        means = loss.detach() / images
        return loss, dict(zip(self.loss_names, means, strict=True))


def pad_truth(batch: Mapping[str, Tensor], images: int) -> Tensor:
    """Ultralytics' flat labels → ``[images, T, 5]`` with T the largest count, padded with zeros."""
    image = batch["batch_idx"].view(-1).long()
    labels = torch.cat((batch["bboxes"].view(-1, 4), batch["cls"].view(-1, 1)), dim=1).float()
    order = torch.argsort(image, stable=True)
    image, labels = image[order], labels[order]
    counts = torch.bincount(image, minlength=images)
    place = torch.arange(len(image), device=image.device) - (counts.cumsum(0) - counts)[image]
    truth = labels.new_zeros((images, int(counts.max()) if len(image) else 0, 5))
    truth[image, place] = labels
    return truth


class _MinusDelta(torch.autograd.Function):
    """Sums of squared deltas, whose gradient is defined as minus the delta."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, delta: Tensor, box_entries: int) -> tuple[Tensor, ...]:
        ctx.save_for_backward(delta)
        ctx.box_entries = box_entries
        parts = _split_parts(delta, box_entries)
        return tuple(part.square().sum().clamp(max=LARGEST_LOSS) for part in parts)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (delta,) = ctx.saved_tensors
        parts = _split_parts(delta, ctx.box_entries)
        pairs = zip(parts, grads, strict=True)
        return torch.cat([part * -grad for part, grad in pairs], dim=2), None, None


def _split_parts(delta: Tensor, box_entries: int) -> tuple[Tensor, Tensor, Tensor]:
    at = box_entries
    return delta[:, :, :at], delta[:, :, at : at + 1], delta[:, :, at + 1 :]


# ---------------------------------------------------------------------------------------------
# [yolo] and [Gaussian_yolo]: which prediction is taught which truth

CLASS_ONLY, BY_PREDICTION, BY_TRUTH = range(3)
"""Why a prediction is taught a truth, in the order in which Darknet does it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Lessons:
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

    def __getitem__(self, index: Tensor) -> _Lessons:
        return _Lessons(**{f.name: getattr(self, f.name)[index] for f in fields(self)})

    def __len__(self) -> int:
        return len(self.image)

    @staticmethod
    def join(parts: Sequence[_Lessons]) -> _Lessons:
        """All lessons of several lists."""
        names = [f.name for f in fields(_Lessons)]
        return _Lessons(**{n: torch.cat([getattr(part, n) for part in parts]) for n in names})


@dataclass(frozen=True, slots=True, kw_only=True)
class _Grid:
    """Cells and anchors of a layer; pairs are horizontal, vertical.

    Attributes:
        cells: ``[2]``, columns and rows.
        net: ``[2]``, size of the network's input in pixels.
        anchors: ``[na, 2]``, pixels.
    """

    cells: Tensor
    net: Tensor
    anchors: Tensor


def _by_cell(lessons: _Lessons, shape: torch.Size) -> tuple[_Lessons, Tensor, Tensor]:
    """Sort lessons by cell, the order within a cell kept; each cell's first lesson and count."""
    _, anchors, _, rows, columns = shape
    flat = (lessons.image * anchors + lessons.slot) * rows + lessons.row
    flat, order = torch.sort(flat * columns + lessons.column, stable=True)
    _, count = torch.unique_consecutive(flat, return_counts=True)
    return lessons[order], count.cumsum(0) - count, count


def _valid(truth: Tensor, classes: int) -> Tensor:
    """``[B, T]``: truths that are no padding and of a class that the head knows."""
    cls = truth[..., 4].long()
    return (truth[..., 2:4] > 0).all(-1) & (cls >= 0) & (cls < classes)


def _cells_of(point: Tensor, cells: Tensor) -> tuple[Tensor, Tensor]:
    """Column and row that hold relative points ``[..., 2]``; those outside go to the border."""
    at = (point * cells).long().clamp(min=0).minimum(cells.long() - 1)
    return at[..., 0], at[..., 1]


def _lessons_by_truth(rule: _Rule, truth: Tensor, valid: Tensor, grid: _Grid) -> _Lessons:
    """Each truth to its best anchor, if this layer has it, and to those above ``iou_thresh``."""
    options = rule.options
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
    column, row = _cells_of(rule.point(taught), grid.cells)
    return _Lessons(
        image=image,
        slot=slots[torch.where(place == 0, best[image, at, 0], place - 1)],
        row=row,
        column=column,
        truth=taught[:, :4],
        cls=taught[:, 4].long(),
        iou=torch.zeros_like(taught[:, 0]),
        reason=torch.full_like(image, BY_TRUTH),
    )


def _lessons_by_prediction(
    where: Tensor, iou: Tensor, index: Tensor, truth: Tensor, reason: int
) -> _Lessons:
    """The best truth of each prediction in ``where`` ``[B, na, H, W]``."""
    image, slot, row, column = where.nonzero(as_tuple=True)
    taught = truth[image, index[where]]
    return _Lessons(
        image=image,
        slot=slot,
        row=row,
        column=column,
        truth=taught[:, :4],
        cls=taught[:, 4].long(),
        iou=iou[where],
        reason=torch.full_like(image, reason),
    )


# ---------------------------------------------------------------------------------------------
# [yolo] and [Gaussian_yolo]: what it is taught


class _Rule(ABC):
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
    def box(self, lessons: _Lessons, values: Tensor, pred: Tensor, grid: _Grid) -> Tensor:
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

    def _offsets(self, lessons: _Lessons, grid: _Grid) -> tuple[Tensor, Tensor]:
        """Where the truth lies in its cell, and its size over the anchor's, ``[K, 2]`` each."""
        corner = torch.stack((lessons.column, lessons.row), dim=1)
        ratio = lessons.truth[:, 2:] * grid.net / grid.anchors[lessons.slot]
        return self.point(lessons.truth) * grid.cells - corner, ratio


def _filled(pred: Tensor) -> Tensor:
    """Predicted boxes with sides of exactly 0 made 1, as Darknet does against NaN."""
    size = pred[:, 2:]
    return torch.cat((pred[:, :2], torch.where(size == 0, 1.0, size)), dim=1)


def _area_weight(lessons: _Lessons) -> Tensor:
    """``[K, 1]``: small truths weigh up to twice as much as large ones."""
    return 2 - lessons.truth[:, 2:3] * lessons.truth[:, 3:4]


class _YoloRule(_Rule):
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

    def box(self, lessons: _Lessons, values: Tensor, pred: Tensor, grid: _Grid) -> Tensor:
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


class _GaussianRule(_Rule):
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

    def box(self, lessons: _Lessons, values: Tensor, pred: Tensor, grid: _Grid) -> Tensor:
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


def _rule(head: DetectionHead) -> _Rule:
    if isinstance(head, YoloHead):
        return _YoloRule(head.options)
    if isinstance(head, GaussianYoloHead):
        return _GaussianRule(head.options)
    raise TypeError(f"no loss for {type(head).__name__}")


def _anchor_delta(head: DetectionHead, rule: _Rule, values: Tensor, truth: Tensor) -> Tensor:
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
    grid = _Grid(cells=cells, net=cells * head.stride, anchors=head.anchors)
    valid = _valid(truth, head.classes)
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

    lessons = [_lessons_by_truth(rule, truth, valid, grid)]
    if options.truth_thresh < 1:
        above = iou > options.truth_thresh
        lessons.insert(0, _lessons_by_prediction(above, iou, index, truth, BY_PREDICTION))
    if rule.ignored_learn_class:
        lessons.insert(0, _lessons_by_prediction(ignored, iou, index, truth, CLASS_ONLY))
    _teach(head, rule, _Lessons.join(lessons), values, pred, grid, delta)
    return delta.mul_(options.delta_normalizer) if options.delta_normalizer != 1 else delta


def _teach(
    head: DetectionHead,
    rule: _Rule,
    lessons: _Lessons,
    values: Tensor,
    pred: Tensor,
    grid: _Grid,
    delta: Tensor,
) -> None:
    """Write the deltas of the cells that are taught something into ``delta``.

    A cell may be taught several truths, and each lesson sees what the one before has left, so
    the first lessons of all cells go first, then all second ones.
    """
    if not len(lessons):
        return
    at = head.box_entries
    lessons, start, count = _by_cell(lessons, values.shape)
    active = _gather(values, lessons)
    active = head.activate_entries(active.T[None, None, :, None])[0, 0, :, 0].T
    box = rule.box(lessons, active, _gather(pred, lessons), grid)
    box = torch.where((lessons.reason == CLASS_ONLY)[:, None], 0, box)
    first = lessons[start]
    state = _gather(delta, first)
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


def _gather(values: Tensor, lessons: _Lessons) -> Tensor:
    """``[B, na, E, H, W]`` → ``[K, E]``."""
    index = (lessons.image, lessons.slot, lessons.row, lessons.column)
    return values.permute(0, 1, 3, 4, 2)[index]


def _obj_delta(
    rule: _Rule, lessons: _Lessons, weight: Tensor, delta: Tensor, obj: Tensor
) -> Tensor:
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
    rule: _Rule, lessons: _Lessons, weight: Tensor, delta: Tensor, probs: Tensor
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


def focal_factor(prob: Tensor) -> Tensor:
    """Darknet's focal weight (alpha 0.5, gamma 2) of the true class's probability."""
    prob = prob + 1e-15
    return -0.5 * (1 - prob) * (2 * prob * prob.log() + prob - 1)


# ---------------------------------------------------------------------------------------------
# [region]


def _region_delta(head: RegionHead, values: Tensor, truth: Tensor, seen: int) -> Tensor:
    """Darknet's delta of ``[region]``, ``[B, na, E, H, W]``.

    Here a later truth replaces what an earlier one taught to the same prediction.
    """
    options: RegionOptions = head.options
    images, _, _, rows, columns = values.shape
    cells = truth.new_tensor((columns, rows))
    valid = _valid(truth, head.classes)
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
        lessons = _lessons_by_prediction(above, iou, index, truth, CLASS_ONLY)
        _region_classes(head, lessons, values, delta, by_objectness=options.classfix == 2)
    lessons = _region_lessons(options, truth, valid, pred, cells, head.anchors)
    if len(lessons):
        lessons, start, count = _by_cell(lessons, values.shape)
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
) -> _Lessons:
    """Each truth to the prediction of its cell whose shape is the closest."""
    image, at = valid.nonzero(as_tuple=True)
    taught = truth[image, at]
    column, row = _cells_of(taught[:, :2], cells)
    sizes = pred[image, :, 2:4, row, column]
    if options.bias_match:
        sizes = (anchors / cells).expand_as(sizes)
    return _Lessons(
        image=image,
        slot=shape_iou(sizes, taught[:, None, 2:4], "iou").argmax(dim=1),
        row=row,
        column=column,
        truth=taught[:, :4],
        cls=taught[:, 4].long(),
        iou=torch.zeros_like(taught[:, 0]),
        reason=torch.full_like(image, BY_TRUTH),
    )


def _region_boxes(
    head: RegionHead,
    lessons: _Lessons,
    values: Tensor,
    pred: Tensor,
    cells: Tensor,
    delta: Tensor,
) -> None:
    """Write box and objectness deltas of one lesson a cell."""
    options: RegionOptions = head.options
    raw = _gather(values, lessons)
    centre, obj = raw[:, :2].sigmoid(), raw[:, 4].sigmoid()
    corner = torch.stack((lessons.column, lessons.row), dim=1)
    offset = lessons.truth[:, :2] * cells - corner
    size = (lessons.truth[:, 2:] * cells / head.anchors[lessons.slot]).log()
    aim = box_iou(_gather(pred, lessons), lessons.truth) if options.rescore else 1.0
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
    head: RegionHead, lessons: _Lessons, values: Tensor, delta: Tensor, *, by_objectness: bool
) -> None:
    """Write class deltas of one lesson a cell."""
    options: RegionOptions = head.options
    raw = _gather(values, lessons)
    active = head.activate_entries(raw.T[None, None, :, None])[0, 0, :, 0].T
    probs, at = active[:, 5:], lessons.cls[:, None]
    rows = options.class_scale * (torch.zeros_like(probs).scatter(1, at, 1.0) - probs)
    if by_objectness:
        rows = rows * active[:, 4:5]
    if options.focal_loss:
        rows = rows * focal_factor(probs.gather(1, at))
    view = delta[:, :, 5:].permute(0, 1, 3, 4, 2)
    view[lessons.image, lessons.slot, lessons.row, lessons.column] = rows
