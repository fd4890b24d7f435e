"""Ultralytics' detection trainer, kept honest: structure kept, pictures as the model asks."""

from __future__ import annotations

import logging
from copy import deepcopy
from typing import Any, cast

import torch
from torch import nn
from ultralytics.data import YOLODataset, build_yolo_dataset
from ultralytics.data.augment import Compose, LetterBox
from ultralytics.models.yolo.detect import DetectionTrainer
from ultralytics.utils.torch_utils import unwrap_model

from yoloprune.darknet.network import DarknetModel, current_cfg, with_classes
from yoloprune.errors import TrainError
from yoloprune.train.sparsity import Sparsity

log = logging.getLogger(__name__)


class StructureKeeping:
    """Trainer mix-in: trains a copy of the model it is given, whatever its channel counts.

    Stock Ultralytics rebuilds the network from ``model.yaml`` and copies the tensors that still
    fit, so that a slim model grows back. This one never rebuilds.

    Attributes:
        sparsity: applied after each optimizer step, before the EMA takes the weights in.
    """

    sparsity: Sparsity | None = None

    def get_model(
        self, cfg: Any = None, weights: nn.Module | None = None, verbose: bool = True
    ) -> nn.Module:
        """A copy of ``weights``, adapted to the data set's classes where these differ."""
        if not isinstance(weights, nn.Module):
            return super().get_model(cfg, weights, verbose)  # type: ignore[misc,no-any-return]
        data: dict[str, Any] = self.data  # type: ignore[attr-defined]
        return fit_classes(weights, data["names"])

    def optimizer_step(self) -> None:
        """Step, then make sparse, then let the EMA follow."""
        if self.sparsity is None:
            super().optimizer_step()  # type: ignore[misc]
            return
        ema, self.ema = self.ema, None  # type: ignore[has-type]
        super().optimizer_step()  # type: ignore[misc]
        self.ema = ema
        model = unwrap_model(self.model)  # type: ignore[attr-defined]
        self.sparsity.step(model, self.optimizer)  # type: ignore[attr-defined]
        if ema:
            ema.update(self.model)  # type: ignore[attr-defined]
            self.sparsity.follow(model, ema.ema)


class KeepingDetectionTrainer(StructureKeeping, DetectionTrainer):  # type: ignore[misc]
    """Ultralytics' detection trainer with the structure kept, for both families."""

    def build_dataset(self, img_path: str, mode: str = "train", batch: int | None = None) -> Any:
        """The stock data set, but stretched to the input for models that are not letterboxed."""
        model: Any = self.model
        model = unwrap_model(model)
        if getattr(model, "letterbox", True):
            return super().build_dataset(img_path, mode, batch)
        args: Any = self.args
        dataset: Any = build_yolo_dataset(
            args,
            img_path,
            batch or 1,  # only rectangular batches, which these are not, ask
            self.data,
            mode=mode,
            stride=max(int(model.stride.max()), 32),
        )
        dataset.__class__ = StretchedDataset
        dataset.transforms = dataset.build_transforms(args)
        return dataset

    def set_model_attributes(self) -> None:
        """Attach names and hyperparameters, and let the loss be built anew from them."""
        super().set_model_attributes()  # type: ignore[no-untyped-call]
        model: Any = unwrap_model(cast(nn.Module, self.model))
        model.criterion = None


class StretchedDataset(YOLODataset):
    """Pictures stretched to the square input instead of letterboxed, as Darknet resizes them."""

    def build_transforms(self, hyp: Any = None) -> Any:
        """The stock transforms, without padding."""
        transforms = super().build_transforms(hyp)
        stretch(transforms)
        return transforms


def stretch(transforms: Any) -> None:
    """Turn every ``LetterBox`` in a tree of Ultralytics transforms into a plain resize."""
    if isinstance(transforms, LetterBox):
        transforms.scale_fill = True
    elif isinstance(transforms, Compose):
        for transform in transforms.transforms:
            stretch(transform)
    pre = getattr(transforms, "pre_transform", None)
    if pre is not None:
        stretch(pre)


def fit_classes(model: nn.Module, names: dict[int, str]) -> nn.Module:
    """A copy of a detector for these classes; only the class outputs are new where they differ.

    Args:
        model: a detector. Not modified.
        names: class number → name.

    Returns:
        The copy: float32, every floating-point parameter trainable.
    """
    copy = deepcopy(model).float()
    classes = len(names)
    if classes != len(getattr(model, "names", names)):
        if not isinstance(copy, DarknetModel):
            raise TrainError(
                f"the model has {len(copy.names)} classes, the data {classes}. "  # type: ignore[arg-type]
                "Another number of classes is not supported yet for Ultralytics models."
            )
        copy = _darknet_classes(copy, classes)
        log.warning(
            "The model has %d classes, the data %d: its class outputs start anew.",
            len(model.names),  # type: ignore[arg-type]
            classes,
        )
    for parameter in copy.parameters():
        parameter.requires_grad_(parameter.dtype.is_floating_point)
    return copy


@torch.no_grad()
def _darknet_classes(model: DarknetModel, classes: int) -> DarknetModel:
    """The same network with other heads; box and objectness outputs keep their weights."""
    other = DarknetModel(with_classes(current_cfg(model), classes))
    other.header, other.letterbox = model.header, model.letterbox
    layers: Any = model.model
    heads = {index - 1: layers[index] for index in model.heads}
    for old, new in zip(layers, other.model, strict=True):
        if old.i not in heads:
            new.load_state_dict(old.state_dict())
            continue
        anchors = heads[old.i].num_anchors
        kept = heads[old.i].entries - model.nc
        for name, value in old.state_dict().items():
            target = new.state_dict()[name]
            rows = target.view(anchors, -1, *target.shape[1:])
            rows[:, :kept] = value.view(anchors, -1, *value.shape[1:])[:, :kept]
    return other
