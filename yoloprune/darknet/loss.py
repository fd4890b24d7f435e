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

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from yoloprune.darknet.anchor_loss import anchor_delta, rule_of
from yoloprune.darknet.heads import DetectionHead, RegionHead
from yoloprune.darknet.region_loss import REGION_WARM_UP, region_delta

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
            delta = region_delta(head, values, truths, seen)
        else:
            delta = anchor_delta(head, rule_of(head), values, truths)
    given = head.split(raw).float()
    # Only from 2.14 on does torch say what it gives.
    box, obj, cls = _MinusDelta.apply(  # type: ignore[no-untyped-call,unused-ignore]
        given, delta, head.box_entries
    )
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
