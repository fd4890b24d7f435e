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
from ultralytics.utils.torch_utils import unwrap_model

from yoloprune.checkpoint import task_of
from yoloprune.errors import TrainError
from yoloprune.marker import is_marked, mark
from yoloprune.train.classes import fit_classes
from yoloprune.train.sparsity import Sparsity


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
        from yoloprune.models import load

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


class StructureKeeping:
    """Trainer mix-in: trains a copy of the model it is given, whatever its channel counts.

    Stock Ultralytics rebuilds the network from ``model.yaml`` and copies the tensors that still
    fit, so that a slim model grows back. This one never rebuilds.

    Attributes:
        sparsity: applied after each optimizer step, before the EMA takes the weights in.
    """

    sparsity: Sparsity | None = None
    _counted = -1
    _steps = 0

    def get_model(
        self, cfg: Any = None, weights: nn.Module | None = None, verbose: bool = True
    ) -> nn.Module:
        """A copy of ``weights``, adapted to the data set's classes where these differ.

        Raises:
            TrainError: there is no model to copy, only a description that it does not follow,
                or the data asks for outputs that the model does not have.
        """
        args: Any = self.args  # type: ignore[attr-defined]
        if not isinstance(weights, nn.Module):
            if is_marked(cfg):
                raise TrainError(
                    "pretrained=False: would build the model anew from its YAML, at full size. "
                    "Leave it out to train the slim model."
                )
            return super().get_model(cfg, weights, verbose)  # type: ignore[misc,no-any-return]
        if isinstance(args.pretrained, (str, Path)) and not self.resume:  # type: ignore[attr-defined]
            raise TrainError(
                f"pretrained={args.pretrained}: cannot be copied into a model whose structure is "
                "kept. Train that file itself."
            )
        return self._kept(weights)

    def _kept(self, weights: nn.Module) -> nn.Module:
        data: dict[str, Any] = self.data  # type: ignore[attr-defined]
        model: Any = fit_classes(weights, data["names"])
        shape = getattr(model.model[-1], "kpt_shape", None)
        if shape is not None and tuple(shape) != tuple(data.get("kpt_shape", shape)):
            raise TrainError(
                f"the model has keypoints of shape {list(shape)}, the data "
                f"{list(data['kpt_shape'])}, and only classes may differ."
            )
        model.criterion = None  # of earlier classes and settings
        if hasattr(model, "class_weights"):
            del model.class_weights
        mark(model)
        return cast(nn.Module, model)

    def optimizer_step(self) -> None:
        """Step, then make sparse, then let the EMA follow."""
        if self.sparsity is None:
            super().optimizer_step()  # type: ignore[misc]
            return
        ema, self.ema = self.ema, None  # type: ignore[has-type]
        super().optimizer_step()  # type: ignore[misc]
        self.ema = ema
        model = unwrap_model(self.model)  # type: ignore[attr-defined]
        self.sparsity.step(model, self.optimizer, self._progress())  # type: ignore[attr-defined]
        if ema:
            ema.update(self.model)  # type: ignore[attr-defined]
            self.sparsity.follow(model, ema.ema)

    def save_model(self) -> bool:
        """As stock, but a kill while it writes leaves the checkpoints of the epoch before."""
        trainer: Any = self
        targets = trainer.last, trainer.best
        trainer.last, trainer.best = (path.with_name(f".{path.name}.new") for path in targets)
        written = (trainer.last, trainer.best)
        try:
            done: bool = super().save_model()  # type: ignore[misc]
        finally:
            trainer.last, trainer.best = targets
        for new, target in zip(written, targets, strict=True):
            if new.exists():
                new.replace(target)
        return done

    def _progress(self) -> float:
        """Share of all epochs that the present optimizer step completes, in (0, 1]."""
        trainer: Any = self
        if self._counted != trainer.epoch:
            self._counted, self._steps = trainer.epoch, 0
        self._steps += 1
        batches = max(len(trainer.train_loader), 1)
        share = min(1.0, self._steps * trainer.accumulate / batches)
        return min(1.0, float((trainer.epoch + share) / trainer.epochs))


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


class KeepingSegmentationTrainer(StructureKeeping, SegmentationTrainer):  # type: ignore[misc]
    """Ultralytics' trainer of instance segmentation, with the structure kept."""


class KeepingPoseTrainer(StructureKeeping, PoseTrainer):  # type: ignore[misc]
    """Ultralytics' trainer of poses, with the structure kept."""


class KeepingOBBTrainer(StructureKeeping, OBBTrainer):  # type: ignore[misc]
    """Ultralytics' trainer of rotated boxes, with the structure kept."""


class KeepingSemanticTrainer(StructureKeeping, SemanticSegmentationTrainer):  # type: ignore[misc]
    """Ultralytics' trainer of semantic segmentation, with the structure kept."""


class KeepingDepthTrainer(StructureKeeping, DepthTrainer):  # type: ignore[misc]
    """Ultralytics' trainer of depth, with the structure kept."""


class KeepingRTDETRTrainer(StructureKeeping, RTDETRTrainer):  # type: ignore[misc]
    """Ultralytics' trainer of RT-DETR, with the structure kept."""


class KeepingClassificationTrainer(StructureKeeping, ClassificationTrainer):  # type: ignore[misc]
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


class KeepingYOLOETrainer(StructureKeeping, YOLOETrainer):  # type: ignore[misc]
    """Ultralytics' trainer of YOLOE boxes, with the structure kept."""


class KeepingYOLOESegTrainer(StructureKeeping, YOLOESegTrainer):  # type: ignore[misc]
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
