"""How differently two networks see the same pictures, without labels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from yoloprune.channels.table import tensors_in
from yoloprune.measure.copies import device_of
from yoloprune.prune.replay import Recorder, Replayer

_BATCH = 8
_TAKEN = 0.5
"""Overlap at which a box counts as another one."""
_BOX = 2.0
"""Weight of boxes beside scores."""
_RARE = 0.02
"""A class that is seen by less than this share of the mean class weighs less than others."""


class Seen:
    """What a network sees on some pictures, to hold others against.

    Args:
        model: float32, in evaluation mode, where it is to run.
        pictures: ``[N, C, H, W]``: float in 0 … 1, or uint8.
    """

    def __init__(self, model: nn.Module, pictures: Tensor) -> None:
        self._classes = len(getattr(model, "names", ()) or ())
        self._parts: list[tuple[Tensor, list[Tensor], list[Tensor]]] = []
        for part in torch.split(pictures, _BATCH):
            choices: list[Tensor] = []
            with torch.no_grad(), Recorder(choices):
                self._parts.append((part, choices, decoded(model(ready(model, part)))))

    def apart(self, other: nn.Module) -> float:
        """How far another network is from it; 0 where it sees the same.

        Detections are compared place by place and class by class: squared differences of scores,
        and by the larger score how little boxes overlap, as shares of the squared scores of the
        class; then the mean over classes, as in AP. Other outputs are compared by their squared
        differences, as a share of their variance.
        """
        lost: Tensor | float = 0.0
        scale: Tensor | float = 0.0
        for part, choices, wanted in self._parts:
            with torch.no_grad(), Replayer(choices):
                given = decoded(other(ready(other, part)))
            for a, b in zip(wanted, given, strict=True):
                one, of = _difference(a.float(), b.float(), self._classes)
                lost, scale = lost + one, scale + of
        assert isinstance(lost, Tensor) and isinstance(scale, Tensor)
        return float((lost / (scale + _RARE * scale.mean()).clamp_min(1e-12)).mean())

    def errors(self, other: nn.Module) -> Tensor:
        """How far all that another network gives is from what it gives, picture by picture.

        Returns:
            float64 ``[N]``: mean square difference of all outputs, as a share of their variance;
            NaN where outputs have other shapes, as where there are as many as were found.
        """
        found = []
        for part, choices, wanted in self._parts:
            with torch.no_grad(), Replayer(choices):
                given = decoded(other(ready(other, part)))
            shapes = [a.shape for a in wanted]
            alike = shapes and shapes == [b.shape for b in given]
            if not alike or any(shape[:1] != part.shape[:1] for shape in shapes):
                found.append(torch.full((len(part),), torch.nan, dtype=torch.float64))
                continue
            a, b = (
                torch.cat([x.double().flatten(1) for x in side], 1).cpu()
                for side in (wanted, given)
            )
            found.append((a - b).square().mean(1) / a.var(1, correction=0).clamp_min(1e-24))
        return torch.cat(found)


def ready(model: nn.Module, images: Tensor) -> Tensor:
    """Pictures as a network takes them: float in 0 … 1, where it is."""
    images = images.to(device_of(model))
    return images.float() / 255 if images.dtype == torch.uint8 else images.float()


def decoded(output: Any) -> list[Tensor]:
    """The decoded result alone, where a network hands on what it was made from, too."""
    first = output[0] if isinstance(output, (tuple, list)) and len(output) else output
    if isinstance(first, Tensor):
        return [first]
    return [tensor for tensor in tensors_in(output) if tensor.is_floating_point()]


def _difference(a: Tensor, b: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """By class what is lost, and what it is to be a share of."""
    found = boxes_in(a, classes)
    if found is None:
        return (a - b).square().sum()[None], (a - a.mean()).square().sum()[None]
    corners, scores = found
    others = boxes_in(b, classes)
    assert others is not None
    taken = ((1 - _overlap(corners, others[0])) / _TAKEN).clamp_max(1)[:, None]
    lost = (scores - others[1]).square()
    lost = lost + _BOX * torch.maximum(scores, others[1]).square() * taken
    return lost.sum((0, 2)), scores.square().sum((0, 2))


def boxes_in(output: Tensor, classes: int) -> tuple[Tensor, Tensor] | None:
    """Corners ``[B, 4, N]`` and scores ``[B, classes, N]``; None of what are no detections."""
    if output.ndim != 3 or not classes:
        return None
    rows, columns = output.shape[1:]
    if columns in (6, 4 + classes) and rows > columns:  # one line a detection
        output = output.mT
        if columns == 6 and classes != 2:  # corners, score, class
            kinds = torch.arange(classes, device=output.device)[:, None]
            return output[:, :4], output[:, 4:5] * (output[:, 5:6] == kinds)
    elif rows < 4 + classes:
        return None
    centre, half = output[:, :2], output[:, 2:4] / 2
    return torch.cat((centre - half, centre + half), 1), output[:, 4 : 4 + classes]


def _overlap(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of boxes ``[B, 4, N]``, place by place."""
    sides = torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])
    both = sides.clamp_min(0).prod(1)
    areas = [(box[:, 2:] - box[:, :2]).clamp_min(0).prod(1) for box in (a, b)]
    either = areas[0] + areas[1] - both
    same = (a == b).all(1)  # of boxes without an area, too
    return torch.where(same, 1.0, both / either.clamp_min(1e-30))
