"""BatchNorm statistics that belong to the weights that are validated and saved.

Running statistics are an average over the training steps before: momentum .03 still holds 14 %
of what was 65 steps ago. Sparsity changes in a few steps what enters the layers, so that on
small data sets they are those of another network, and accuracy is lost though the weights are
right.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from yoloprune.train.keeping import student_of

SHARE = 8
"""One in so many training pictures gives statistics: with forward passes only, 4 % of an epoch."""
LEAST, MOST = 32, 128
"""Pictures, about, whatever that share is. On 32, variances come within 3 % of those on 205."""


@torch.no_grad()
def recalibrate(model: nn.Module, batches: Iterable[Tensor], names: Collection[str]) -> None:
    """Replace running statistics by the mean of those of some batches, in place.

    All else stays as it is. What a pass does not reach keeps its statistics.

    Args:
        model: in evaluation mode.
        batches: inputs ``[B, 3, H, W]`` in 0 … 1; each counts alike.
        names: of the BatchNorms to do it to.

    Reference: Wu & Johnson 2021, "Rethinking 'Batch' in BatchNorm", section 3 ("PreciseBN").
    """
    norms = [module for name, module in model.named_modules() if name in names]
    with _averaging([norm for norm in norms if isinstance(norm, _BatchNorm)]):
        for batch in batches:
            model(batch)


@contextmanager
def _averaging(norms: list[_BatchNorm]) -> Iterator[None]:
    """Let BatchNorms take the mean of what they see from here on."""
    kept = [
        (norm, norm.training, norm.momentum, count)
        for norm in norms
        if (count := norm.num_batches_tracked) is not None
    ]
    for norm, *_, count in kept:
        norm.train()
        norm.momentum = None  # torch's word for a mean of all
        norm.num_batches_tracked = torch.zeros_like(count)
    try:
        yield
    finally:
        for norm, training, momentum, count in kept:
            norm.train(training)
            norm.momentum, norm.num_batches_tracked = momentum, count


class Recalibration:
    """Recalibrates the averaged model at the end of an epoch, on the last pictures of it.

    They are taken as training saw them, augmented: on plain ones a network that needed nothing
    loses .03 of its AP, for it was trained on batches of these. So there is nothing to load and
    nothing random to use up. Layers that are frozen keep what they have.
    """

    def __init__(self) -> None:
        self._seen: list[Tensor] = []
        self._batches = 0

    def take(self, trainer: Any, images: Tensor, at: int) -> None:
        """Be shown the inputs of a training batch, ``[B, 3, H, W]``, the one numbered ``at``."""
        if at == 0:
            self._seen.clear()
            pictures = min(max(len(trainer.train_loader.dataset) // SHARE, LEAST), MOST)
            self._batches = math.ceil(pictures / len(images))
        left = len(trainer.train_loader) - 1 - at
        if left <= self._batches or trainer.args.time:  # which may end an epoch at any batch
            self._seen.append(images.detach().cpu())
            del self._seen[: -self._batches - 1]  # one more, for the last may be a small one

    def __call__(self, trainer: Any) -> None:
        """Do it, where the sparsity that was asked for is reached: at ``on_train_epoch_end``."""
        taken = self.taken()
        if not taken or not trainer.sparsity.done(trainer.progress):
            return
        batches = (images.to(trainer.device) for images in taken)
        student = student_of(trainer.model)
        names = {name for name, module in student.named_modules() if module.training}
        recalibrate(student_of(trainer.ema.ema), batches, names)

    def taken(self) -> list[Tensor]:
        """The batches to do it on, which are forgotten here; none is much smaller than others."""
        seen, self._seen = self._seen, []
        whole = [images for images in seen if 2 * len(images) >= len(seen[0])]
        return whole[-self._batches :]
