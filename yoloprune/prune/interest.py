"""Where on pictures a detector sees something, so that repair can look there more closely.

Most of a picture is background. Positions drawn evenly say little of the few places by which
detections, and AP, are made.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from yoloprune.prune.apart import boxes_in, decoded, ready

_SIDE = 40
"""Cells of a map each way."""
_LARGE, _LOOKED_AT = 416, 320
"""Longer side from which on pictures are looked at in a smaller size, and that size."""
_STRIDE = 32
_SHARES = 4.0
"""Boxes that reach no further are shares of the picture (RT-DETR's), not pixels."""
_SURE = 0.1
"""Score from which on a box counts."""
_MOST = 300
"""Boxes that are drawn for a picture."""
_BATCH = 8


def find_interest(model: nn.Module, pictures: Tensor) -> Tensor | None:
    """The largest score of a box over each place.

    Args:
        model: float32, in evaluation mode, where it is to run.
        pictures: ``[N, C, H, W]``: float in 0 … 1, or uint8.

    Returns:
        float32 ``[N, 40, 40]`` in 0 … 1; None of what gives no detections.
    """
    classes = len(getattr(model, "names", ()) or ())
    if not classes or pictures.ndim != 4:
        return None
    maps = []
    for whole in torch.split(pictures, _BATCH):
        part = _smaller(ready(model, whole))
        with torch.no_grad():
            found = boxes_in(decoded(model(part))[0], classes)
        if found is None:
            return None
        corners, scores = found
        if float(corners.abs().max()) < _SHARES:
            corners = corners * corners.new_tensor(part.shape[2:]).flip(0).repeat(2)[:, None]
        maps += [
            _drawn(box.float().cpu(), score.float().cpu(), part.shape[2:])
            for box, score in zip(corners, scores.amax(1), strict=True)
        ]
    return torch.stack(maps)


def _smaller(images: Tensor) -> Tensor:
    """Large pictures in a size in which a network still sees where something is."""
    size = images.shape[2:]
    if max(size) <= _LARGE:
        return images
    scale = _LOOKED_AT / max(size) / _STRIDE
    less = [max(round(side * scale), 1) * _STRIDE for side in size]
    return F.interpolate(images, less, mode="bilinear", antialias=True)


def _drawn(corners: Tensor, scores: Tensor, size: torch.Size) -> Tensor:
    """One picture's map of boxes ``[4, N]`` in pixels; a box covers the cells that it touches."""
    best = scores.topk(min(_MOST, len(scores)))
    best_scores, boxes = best.values[best.values > _SURE], corners[:, best.indices]
    made = torch.zeros(_SIDE, _SIDE)
    cells = boxes[:, : len(best_scores)].T / (torch.tensor(size).flip(0).repeat(2) / _SIDE)
    low, high = cells[:, :2].floor().int(), cells[:, 2:].ceil().int()
    for (x1, y1), (x2, y2), score in zip(
        low.clamp_min(0).tolist(), high.tolist(), best_scores.tolist(), strict=True
    ):
        made[y1:y2, x1:x2].clamp_min_(score)
    return made


def mass(maps: Tensor, size: torch.Size) -> Tensor:
    """How often to look at each position of an output: half evenly, half where something is.

    Args:
        maps: of the pictures of a batch, as :func:`find_interest` gives them.
        size: of the output's two spatial axes.

    Returns:
        float64 ``[B * H * W]``, whose sum is 1.
    """
    mode = "area" if min(size) < _SIDE else "nearest"
    seen = F.interpolate(maps[:, None], tuple(size), mode=mode).flatten().double()
    even = torch.full_like(seen, 1 / len(seen))
    total = seen.sum()
    return even if total == 0 else (even + seen / total) / 2
