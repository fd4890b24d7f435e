"""What is measured of each task, against stock Ultralytics on the same file."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import yaml
from torch import nn

from yoloprune.errors import DataError, MeasureError
from yoloprune.measure.accuracy import evaluate
from yoloprune.measure.data import load_dataset
from yoloprune.measure.detect import DetectOptions
from yoloprune.measure.labels import parse_labels
from yoloprune.measure.predict import predict_images
from yoloprune.measure.tasks import check_data, measure
from yoloprune.models.door import save

OPTIONS = DetectOptions(imgsz=64, workers=0)
NAMES = {0: "disc", 1: "square"}
STOCK = {
    "segment": ("seg", "mask_AP", "metrics/mAP50-95(M)"),
    "pose": ("pose", "keypoint_AP", "metrics/mAP50-95(P)"),
    "obb": ("obb", "rotated_AP", "metrics/mAP50-95(B)"),
}


def stock(name: str) -> Any:
    """A stock model with random weights that draws more than noise."""
    from ultralytics.nn import tasks

    kinds: dict[str, Any] = {
        "seg": tasks.SegmentationModel, "pose": tasks.PoseModel, "obb": tasks.OBBModel,
        "cls": tasks.ClassificationModel, "sem": tasks.SemanticSegmentationModel,
    }  # fmt: skip
    kind = kinds.get(name.rpartition("-")[2], tasks.DetectionModel)
    options = {"data_kpt_shape": (2, 2)} if name.endswith("pose") else {}
    model = kind(f"{name}.yaml", nc=2, verbose=False, **options).eval()
    model.names = NAMES
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    for branch in getattr(model.model[-1], "cv3", ()):
        nn.init.constant_(branch[-1].bias, -1.0)
        nn.init.normal_(branch[-1].weight, std=0.2)
    if name.endswith("seg"):  # masks that fill their boxes
        for branch in model.model[-1].cv4:
            nn.init.zeros_(branch[-1].weight)
            nn.init.ones_(branch[-1].bias)
        nn.init.constant_(model.model[-1].proto.cv3.bn.bias, 3.0)
    return model


def pictures(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        (folder / split / "images").mkdir(parents=True)
        (folder / split / "labels").mkdir()
        for i in range(4):
            noise = rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)
            cv2.imwrite(str(folder / split / "images" / f"{i}.png"), cv2.resize(noise, (64, 64)))


def data_of(task: str, file: Path, folder: Path) -> Path:
    """A data set whose objects are what the model is surest of, so that it scores above zero."""
    from ultralytics import YOLO

    pictures(folder)
    for split in ("train", "val"):
        images = sorted((folder / split / "images").iterdir())
        for image in images:
            seen = YOLO(file).predict(image, imgsz=64, conf=1e-6, verbose=False, device="cpu")[0]
            drawn = seen.obb if task == "obb" else seen.boxes
            numbers = drawn.xyxyxyxyn[0] if task == "obb" else drawn.xywhn[0]
            if task == "segment":
                numbers = torch.tensor(np.array(seen.masks.xyn[0]))
            if task == "pose":
                numbers = torch.cat((numbers, seen.keypoints.xyn[0].flatten().clamp(0, 1)))
            text = " ".join(f"{v:.6f}" for v in numbers.flatten().clamp(0, 1).tolist())
            label = folder / split / "labels" / f"{image.stem}.txt"
            label.write_text(f"{int(drawn.cls[0])} {text}\n")
    content: dict[str, Any] = {"train": "train/images", "val": "val/images", "names": NAMES}
    if task == "pose":
        content |= {"kpt_shape": [2, 2], "flip_idx": [0, 1]}
    (folder / "data.yaml").write_text(yaml.safe_dump(content))
    return folder / "data.yaml"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("task", STOCK)
def test_it_is_stock_ultralytics_number(task: str, tmp_path: Path) -> None:
    from ultralytics import YOLO

    suffix, ours, theirs = STOCK[task]
    (file,) = save(stock(f"yolov8n-{suffix}"), tmp_path / "model.pt")
    data = data_of(task, file, tmp_path / "data")
    before = sorted(path for path in tmp_path.rglob("*"))
    model = YOLO(file).model.float().eval()
    record = measure(model, data, OPTIONS)
    assert sorted(path for path in tmp_path.rglob("*")) == before
    with contextlib.redirect_stdout(io.StringIO()):
        found = YOLO(file).val(
            data=data, imgsz=64, device="cpu", workers=0, plots=False, rect=False,
            project=str(tmp_path / "val"), verbose=False, conf=0.001, batch=16,
        )  # fmt: skip
    assert record["task"] == task
    assert record["metrics"][ours] == pytest.approx(found.results_dict[theirs], abs=1e-6)
    assert record["metrics"][ours] > 0
    assert record["by"][ours].startswith("ultralytics 8.")
    assert record["boxes"] == (task != "obb")
    if record["boxes"]:
        assert record["by"]["AP"] == "pycocotools"
    if task == "pose":  # the labels are the model's own boxes
        assert record["metrics"]["AP"] > 0.9


def test_top_1_is_counted(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for name in NAMES.values():
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(3):
                colour = np.full((64, 64, 3), 10 * i, dtype=np.uint8)
                cv2.imwrite(str(tmp_path / split / name / f"{i}.png"), colour)
    model = stock("yolov8n-cls")
    with torch.no_grad():
        model.model[-1].linear.bias.copy_(torch.tensor([9.0, -9.0]))
    (tmp_path / "val" / "square" / "2.png").unlink()
    record = measure(model, tmp_path, OPTIONS)
    assert record["metrics"] == {"top1": pytest.approx(0.6), "top5": 1.0}
    assert set(record["by"]) == {"top1", "top5"}
    with pytest.raises(DataError, match="has no folder test, expected a folder a class"):
        check_data(model, tmp_path, "test")


class Drawn(nn.Module):
    """A pose model that sees what the labels say: one box, two key points."""

    task, names = "pose", NAMES

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        row = torch.tensor([32, 32, 28.8, 28.8, 0.9, 0.0, 25, 32, 38, 32])
        return row.view(1, 10, 1).expand(len(x), 10, 1)


def test_pose_labels_are_read_by_their_box_columns(tmp_path: Path) -> None:
    pictures(tmp_path)
    for label in (tmp_path / "val" / "images").iterdir():
        text = "0 0.5 0.5 0.45 0.45 0.4 0.5 0.6 0.5\n"
        (tmp_path / "val" / "labels" / f"{label.stem}.txt").write_text(text)
    data = tmp_path / "data.yaml"
    content = {"train": "train/images", "val": "val/images", "names": NAMES}
    data.write_text(yaml.safe_dump({**content, "kpt_shape": [2, 2]}))
    found = evaluate(Drawn(), load_dataset(data, task="pose"), OPTIONS)
    assert pytest.approx(1.0) == found.metrics.AP
    for shape, message in (
        (None, "has no kpt_shape"),
        ([3, 2], "wrong count of numbers, got 9, expected 11"),
        ([2, 4], r"kpt_shape: expected \[points, 2 or 3\], got \[2, 4\]"),
        ("17", "kpt_shape: expected"),
    ):
        data.write_text(yaml.safe_dump({**content, "kpt_shape": shape}))
        with pytest.raises(DataError, match=message):
            load_dataset(data, task="pose")


def test_key_points_stand_behind_the_box() -> None:
    text = "1 .5 .5 .2 .1 .4 .5 2 0 0 0\n1 .5 .5 .2 .1 .6 .5 2 .1 .2 1\n"
    rows = parse_labels(text, classes=2, where="x", keypoints=6)
    np.testing.assert_array_equal(rows, [[1, 0.5, 0.5, 0.2, 0.1]] * 2)  # two in one box
    with pytest.raises(DataError, match="x:1: wrong count of numbers, got 5, expected 11"):
        parse_labels("1 .5 .5 .2 .1\n", classes=2, where="x", keypoints=6)


def test_what_is_not_measured_is_refused_by_name(tmp_path: Path) -> None:
    model = Drawn()
    for task in ("semantic", "depth"):
        model.task = task  # type: ignore[misc]
        with pytest.raises(MeasureError, match=f"task {task} is not measured, expected one of de"):
            measure(model, tmp_path / "missing.yaml", OPTIONS)
    for task in ("obb", "classify", "semantic", "depth"):
        model.task = task  # type: ignore[misc]
        with pytest.raises(MeasureError, match=f"task {task} draws no upright boxes"):
            predict_images(model, [tmp_path / "missing.png"], OPTIONS)
