"""Slim models stay slim: in training, after a break, for other classes, by stock's own door."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import slims
import torch
from torch import nn
from ultralytics.models.rtdetr.train import RTDETRTrainer
from ultralytics.models.yolo.classify import ClassificationTrainer
from ultralytics.models.yolo.detect import DetectionTrainer
from ultralytics.models.yolo.obb import OBBTrainer
from ultralytics.models.yolo.pose import PoseTrainer
from ultralytics.models.yolo.segment import SegmentationTrainer
from ultralytics.models.yolo.semantic import SemanticSegmentationTrainer
from ultralytics.models.yolo.world import WorldTrainer
from ultralytics.models.yolo.yoloe import YOLOESegTrainer, YOLOETrainer

from yoloprune.errors import CheckpointError, TrainError
from yoloprune.models.checkpoint import read_checkpoint
from yoloprune.models.door import save
from yoloprune.models.marker import is_marked
from yoloprune.train import exact
from yoloprune.train.classes import fit_classes
from yoloprune.train.keeping import StructureKeeping
from yoloprune.train.options import TrainOptions
from yoloprune.train.run import train
from yoloprune.train.trainer import trainer_for

# said once a process by torch about the way in which Ultralytics logs its loss
pytestmark = pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad=True")

TRAINERS = {
    "yolov8n": DetectionTrainer,
    "yolov10n": DetectionTrainer,
    "yolo11n-seg": SegmentationTrainer,
    "yolov8n-pose": PoseTrainer,
    "yolo11n-obb": OBBTrainer,
    "yolo11n-cls": ClassificationTrainer,
    "yolo26n-sem": SemanticSegmentationTrainer,
    "yolov8s-world": WorldTrainer,
    "yoloe-11s": YOLOETrainer,
    "yoloe-11s-seg": YOLOESegTrainer,
}
BCCD = {0: "RBC", 1: "WBC", 2: "Platelets"}


class KilledError(Exception):
    """The power went."""


def kill(trainer: Any) -> None:
    raise KilledError


def shapes(model: nn.Module) -> dict[str, torch.Size]:
    return {key: value.shape for key, value in model.state_dict().items()}


@pytest.fixture(scope="module")
def slim_pt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    (file,) = save(slims.slim("yolov8n"), tmp_path_factory.mktemp("slim") / "slim.pt")
    return file


@pytest.mark.parametrize("name", TRAINERS)
def test_every_task_has_its_trainer(name: str) -> None:
    trainer = trainer_for(slims.stock(name))
    assert issubclass(trainer, StructureKeeping)
    assert trainer.__mro__[trainer.__mro__.index(StructureKeeping) + 1] is TRAINERS[name]


def test_a_darknet_network_has_the_detectors_trainer(repo: Path) -> None:
    assert trainer_for(repo / "cfg" / "yoloprune-demo.cfg").__name__ == "KeepingDetectionTrainer"


def test_rtdetr_has_its_trainer() -> None:
    from ultralytics.nn.tasks import RTDETRDetectionModel

    with torch.device("meta"):
        model = RTDETRDetectionModel("rtdetr-l.yaml", verbose=False)
    assert issubclass(trainer_for(model), RTDETRTrainer)


def test_no_trainer_for_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such file"):
        trainer_for(tmp_path / "slim.pt")


def test_stock_training_stops_with_the_reason(slim_pt: Path, tmp_path: Path) -> None:
    data = slims.pictures(tmp_path / "data", "detect")
    with pytest.raises(KeyError, match="slimmed by yoloprune.*trainer=yoloprune.trainer_for"):
        slims.open_stock(slim_pt).train(data=str(data), **slims.settings(tmp_path))


def test_stock_prediction_validation_and_fusion_never_see_the_mark(
    slim_pt: Path, tmp_path: Path
) -> None:
    data = slims.pictures(tmp_path / "data", "detect", classes=80)
    opened = slims.open_stock(slim_pt)
    assert is_marked(opened.model.yaml)
    quiet = {"imgsz": 64, "verbose": False, "device": "cpu"}
    assert len(opened.predict(str(tmp_path / "data/images/val/0.jpg"), **quiet)) == 1
    opened.val(data=str(data), plots=False, workers=0, project=str(tmp_path), **quiet)
    opened.fuse()
    opened.info()


def test_stock_and_our_trainer_from_python(slim_pt: Path, tmp_path: Path) -> None:
    """The README's line: train, die after the first epoch, and go on."""
    data = slims.pictures(tmp_path / "data", "detect")
    start = read_checkpoint(slim_pt)
    expected = shapes(fit_classes(start, {0: "class 0", 1: "class 1"}))
    opened = slims.open_stock(slim_pt)
    opened.add_callback("on_model_save", kill)
    with pytest.raises(KilledError):
        opened.train(
            trainer=trainer_for(slim_pt),
            data=str(data),
            **slims.settings(tmp_path, epochs=2, nbs=4),
        )
    last = tmp_path / "run" / "weights" / "last.pt"
    content = torch.load(last, weights_only=False)
    assert content["epoch"] == 0 and shapes(content["ema"]) == expected
    with pytest.raises(KeyError, match="slimmed by yoloprune"):
        slims.open_stock(last).train(resume=True)
    again = slims.open_stock(last)
    again.train(trainer=trainer_for(last), resume=True)
    assert shapes(again.model) == expected
    assert again.model.names == {0: "class 0", 1: "class 1"}
    for file in ("best.pt", "last.pt"):
        result: Any = read_checkpoint(last.with_name(file))
        assert shapes(result) == expected
        assert is_marked(result.yaml)
        first = dict(start.named_parameters())["model.0.conv.weight"]
        moved = float((result.model[0].conv.weight - first).abs().max())
        assert 0 < moved < 0.1  # it went on from the weights that it was given


def test_what_would_rebuild_is_refused(slim_pt: Path, tmp_path: Path) -> None:
    data = slims.pictures(tmp_path / "data", "detect")
    options = slims.settings(tmp_path, data=str(data), trainer=trainer_for(slim_pt))
    with pytest.raises(TrainError, match="pretrained=False: would build the model anew"):
        slims.open_stock(slim_pt).train(pretrained=False, **options)
    with pytest.raises(TrainError, match="slim.pt: cannot be copied into a model whose structure"):
        slims.open_stock(slim_pt).train(pretrained=str(slim_pt), **options)


def test_a_model_that_is_what_its_yaml_says_trains_as_ever(tmp_path: Path) -> None:
    (file,) = save(slims.stock("yolov8n"), tmp_path / "full.pt")
    data = slims.pictures(tmp_path / "data", "detect")
    opened = slims.open_stock(file)
    opened.train(data=str(data), **slims.settings(tmp_path))
    assert not is_marked(opened.model.yaml)


@pytest.mark.slow
@pytest.mark.parametrize("task", ["segment", "pose", "obb", "classify"])
def test_every_task_trains_and_resumes(task: str, tmp_path: Path) -> None:
    """Through `train`, as the command line does, for other classes."""
    suffix = {"segment": "seg", "classify": "cls"}.get(task, task)
    model = slims.slim(f"yolov8n-{suffix}")
    data = slims.pictures(tmp_path / "data", task)
    expected = shapes(fit_classes(model, {0: "class 0", 1: "class 1"}))
    extra = {"plots": False, "workers": 0, "verbose": False}
    options = TrainOptions(
        data=str(data), epochs=2, imgsz=64, batch=4, device="cpu", extra=extra, resume=True
    )
    kind: Any = trainer_for(model)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kind, "save_model", lambda self: (super(kind, self).save_model(), kill(self)))
        with pytest.raises(KilledError):
            train(model, tmp_path / "run", options)
    result = train(model, tmp_path / "run", options)
    assert shapes(result.best) == shapes(result.last) == expected
    assert result.best.names == {0: "class 0", 1: "class 1"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["yolov8n", "yolov5n", "yolo11n", "yolo12n", "yolov9t", "yolov10n", "yolo26n", "rtdetr-l"],
)
def test_two_epochs_and_a_resume_on_real_pictures(name: str, shared: Path, tmp_path: Path) -> None:
    data = slims.link_bccd(shared, tmp_path / "data")
    model = slims.slim(name)
    slim_size = slims.size(model)
    (file,) = save(model, tmp_path / f"{name}-slim.pt")
    expected = shapes(fit_classes(model, BCCD))
    options = slims.settings(
        tmp_path, data=str(data), epochs=2, imgsz=160, fraction=[0.04, 0.1, 1.0], batch=4
    )
    opened = slims.open_stock(file)
    opened.add_callback("on_model_save", kill)
    with pytest.raises(KilledError):
        opened.train(trainer=trainer_for(file), **options)
    last = tmp_path / "run" / "weights" / "last.pt"
    again = slims.open_stock(file)  # a class of its own for RT-DETR
    again.train(trainer=trainer_for(last), resume=str(last))
    result = read_checkpoint(last.with_name("best.pt"))
    assert shapes(result) == expected
    assert result.names == BCCD
    full = slims.size(slims.stock(name))
    assert slims.size(result) <= slim_size < 0.9 * full


class _Writer:
    """Stands in for the stock trainer: writes what it is told to, or dies half-way."""

    def __init__(self, folder: Path, *, dies: bool) -> None:
        self.last, self.best, self.dies = folder / "last.pt", folder / "best.pt", dies

    def save_model(self) -> bool:
        self.last.write_bytes(b"new")
        if self.dies:
            raise KeyboardInterrupt
        self.best.write_bytes(b"new")
        self.epoch = 0
        return True


@pytest.mark.parametrize("dies", [False, True])
def test_a_checkpoint_is_replaced_whole_or_not_at_all(
    dies: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    states: list[bytes] = []
    monkeypatch.setattr(exact, "write_state", lambda kept: states.append(kept.last.read_bytes()))

    class Keeping(StructureKeeping, _Writer):
        pass

    for name in ("last.pt", "best.pt"):
        (tmp_path / name).write_bytes(b"old")
    trainer = Keeping(tmp_path, dies=dies)
    if dies:
        with pytest.raises(KeyboardInterrupt):
            trainer.save_model()
    else:
        assert trainer.save_model()
    assert trainer.last == tmp_path / "last.pt"
    for path in (trainer.last, trainer.best):
        assert path.read_bytes() == (b"old" if dies else b"new")
    assert states == ([] if dies else [b"new"])  # only beside a checkpoint that is there
