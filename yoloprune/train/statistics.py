"""BatchNorm statistics that belong to the weights that are validated and saved.

Running statistics are an average over the training steps before: momentum .03 still holds 14 %
of what was 65 steps ago. Sparsity changes in a few steps what enters the layers, so that on
small data sets they are those of another network, and accuracy is lost though the weights are
right.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from ultralytics.data.augment import classify_transforms
from ultralytics.data.dataset import ClassificationDataset

from yoloprune.train.keeping import student_of

SHARE = 8
"""One in so many training pictures gives statistics: with forward passes only, 4 % of an epoch."""
LEAST, MOST = 32, 128
"""Pictures, whatever that share is. On 32, variances come within some 3 % of those on all."""


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
    """Callback of ``on_train_epoch_end``: recalibrates the averaged model from training pictures.

    Always from the same pictures, without augmentation, so that nothing random is used up and
    the same weights get the same statistics. Layers that are frozen keep theirs.
    """

    def __call__(self, trainer: Any) -> None:
        """Do it, where the sparsity that was asked for is reached."""
        if not trainer.sparsity.done(trainer.progress):
            return
        student = student_of(trainer.model)
        names = {name for name, module in student.named_modules() if module.training}
        recalibrate(student_of(trainer.ema.ema), _batches(trainer), names)


def _batches(trainer: Any) -> Iterator[Tensor]:
    """Inputs of a sample of the training pictures; no batch is of one picture alone."""
    pictures = plain(trainer.train_loader.dataset, trainer.args)
    count = min(max(len(pictures) // SHARE, LEAST), MOST, len(pictures))
    if count < 2:  # a variance over one place needs more
        return
    random = np.random.default_rng(abs(int(trainer.args.seed)))
    sample = random.choice(len(pictures), count, replace=False)
    size = max(2, int(trainer.batch_size) // max(int(trainer.world_size), 1))
    for part in np.array_split(sample, max(1, count // size)):
        images = torch.stack([pictures[int(index)]["img"] for index in part]).to(trainer.device)
        yield images.float() / 255 if images.dtype == torch.uint8 else images


def plain(dataset: Any, args: Any) -> Any:
    """A view of a training set that gives its pictures without augmentation.

    Args:
        dataset: Ultralytics'; not modified.
        args: settings of the run.
    """
    view = copy.copy(dataset)
    if isinstance(view, ClassificationDataset):
        view.torch_transforms = classify_transforms(size=args.imgsz)
        return view
    view.augment = view.rect = False
    if view.cache != "ram":
        view.ims = [None] * len(view.ims)  # what mosaics keep may be of another size
    view.transforms = view.build_transforms(copy.copy(args))
    return view
