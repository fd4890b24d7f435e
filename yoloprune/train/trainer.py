"""Ultralytics' trainers, kept honest: structure kept, pictures as the model asks."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from torch import nn
from ultralytics.data import YOLODataset, build_yolo_dataset
from ultralytics.data.augment import Compose, LetterBox
from ultralytics.engine.trainer import BaseTrainer
from ultralytics.models.rtdetr.train import RTDETRTrainer
from ultralytics.models.yolo.classify import ClassificationTrainer
from ultralytics.models.yolo.depth import DepthTrainer
from ultralytics.models.yolo.detect import DetectionTrainer
from ultralytics.models.yolo.obb import OBBTrainer
from ultralytics.models.yolo.pose import PoseTrainer
from ultralytics.models.yolo.segment import SegmentationTrainer
from ultralytics.models.yolo.semantic import SemanticSegmentationTrainer
from ultralytics.models.yolo.world import WorldTrainer
from ultralytics.models.yolo.world.train import on_pretrain_routine_end
from ultralytics.models.yolo.yoloe import YOLOESegTrainer, YOLOETrainer
from ultralytics.nn.tasks import (
    RTDETRDetectionModel,
    WorldModel,
    YOLOEModel,
    YOLOESegModel,
)
from ultralytics.utils.torch_utils import (
    unwrap_model,
)

from yoloprune.errors import TrainError
from yoloprune.models.checkpoint import task_of
from yoloprune.train.keeping import StructureKeeping


def trainer_for(model: nn.Module | str | Path, *, trust: bool = False) -> type[BaseTrainer]:
    """The trainer that keeps the structure of a model.

    For ``YOLO("slim.pt").train(trainer=trainer_for("slim.pt"), data=...)``; stock training of
    such a file stops, since it would grow the model back.

    Args:
        model: a model, or the file of one: ``.pt``, ``.cfg`` or ``.yaml``.
        trust: unpickle a ``.pt`` that names classes beyond torch's and Ultralytics' own, which
            can run any code.

    Returns:
        A subclass of the stock trainer of the model's task.

    Raises:
        FormatError: the file is missing, malformed or not safe.
        TrainError: there is no trainer for such a model.
    """
    if not isinstance(model, nn.Module):
        from yoloprune.models.door import load

        model = load(model, scratch=Path(model).suffix.lower() == ".cfg", trust=trust)[0]
    for kind, trainer in _BY_CLASS.items():
        if isinstance(model, kind):
            return trainer
    task = task_of(model)
    if task not in _BY_TASK:
        raise TrainError(
            f"{type(model).__name__}: cannot be trained, its task is {task!r}, expected one of "
            f"{', '.join(_BY_TASK)}."
        )
    return _BY_TASK[task]


class KeepingDetectionTrainer(StructureKeeping, DetectionTrainer):
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


class KeepingSegmentationTrainer(StructureKeeping, SegmentationTrainer):
    """Ultralytics' trainer of instance segmentation, with the structure kept."""


class KeepingPoseTrainer(StructureKeeping, PoseTrainer):  # type: ignore[misc]
    """Ultralytics' trainer of poses, with the structure kept."""


class KeepingOBBTrainer(StructureKeeping, OBBTrainer):  # type: ignore[misc]
    """Ultralytics' trainer of rotated boxes, with the structure kept."""


class KeepingSemanticTrainer(StructureKeeping, SemanticSegmentationTrainer):
    """Ultralytics' trainer of semantic segmentation, with the structure kept."""


class KeepingDepthTrainer(StructureKeeping, DepthTrainer):  # type: ignore[misc]
    """Ultralytics' trainer of depth, with the structure kept."""


class KeepingRTDETRTrainer(StructureKeeping, RTDETRTrainer):
    """Ultralytics' trainer of RT-DETR, with the structure kept."""


class KeepingClassificationTrainer(StructureKeeping, ClassificationTrainer):
    """Ultralytics' trainer of picture classes, with the structure kept."""

    def _kept(self, weights: nn.Module) -> nn.Module:
        model: Any = super()._kept(weights)
        model.args = self.args
        for module in model.modules():
            if isinstance(module, nn.Dropout) and self.args.dropout:
                module.p = self.args.dropout
        return cast(nn.Module, model)


class KeepingWorldTrainer(StructureKeeping, WorldTrainer):  # type: ignore[misc]
    """Ultralytics' trainer of YOLO-World, with the structure kept."""

    def _kept(self, weights: nn.Module) -> nn.Module:
        model = super()._kept(weights)
        if on_pretrain_routine_end not in self.callbacks["on_pretrain_routine_end"]:
            self.add_callback("on_pretrain_routine_end", on_pretrain_routine_end)
        return model


class KeepingYOLOETrainer(StructureKeeping, YOLOETrainer):
    """Ultralytics' trainer of YOLOE boxes, with the structure kept."""


class KeepingYOLOESegTrainer(StructureKeeping, YOLOESegTrainer):
    """Ultralytics' trainer of YOLOE masks, with the structure kept."""


# the first that a model is an instance of
_BY_CLASS: dict[type[nn.Module], type[BaseTrainer]] = {
    YOLOESegModel: KeepingYOLOESegTrainer,
    YOLOEModel: KeepingYOLOETrainer,
    WorldModel: KeepingWorldTrainer,
    RTDETRDetectionModel: KeepingRTDETRTrainer,
}
_BY_TASK: dict[str, type[BaseTrainer]] = {
    "detect": KeepingDetectionTrainer,
    "segment": KeepingSegmentationTrainer,
    "pose": KeepingPoseTrainer,
    "obb": KeepingOBBTrainer,
    "classify": KeepingClassificationTrainer,
    "semantic": KeepingSemanticTrainer,
    "depth": KeepingDepthTrainer,
}


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
