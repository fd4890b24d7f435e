"""AP by closed forms, and against the reference numbers of other implementations."""

# ruff: noqa: SIM300 - AP is no constant, though it is spelt like one

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import ClassVar

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from yoloprune.errors import MeasureError
from yoloprune.measure.accuracy import coco_metrics, evaluate
from yoloprune.measure.data import Dataset, load_dataset
from yoloprune.measure.detect import Detections, DetectOptions, decode
from yoloprune.measure.images import stretch


def dataset(*labels: list[list[float]], names: tuple[str, ...] = ("a", "b", "c")) -> Dataset:
    return Dataset(
        names=names,
        images=tuple(Path(f"{i}.jpg") for i in range(len(labels))),
        labels=tuple(np.array(rows, dtype=np.float64).reshape(-1, 5) for rows in labels),
        source=Path("d.yaml"),
        split="val",
    )


def seen(*rows: list[float]) -> Detections:
    """One picture of 200 x 100; rows are x1, y1, x2, y2, score, class."""
    table = np.array(rows, dtype=np.float32).reshape(-1, 6)
    return Detections(
        image=Path("0.jpg"),
        width=200,
        height=100,
        boxes_xyxy=table[:, :4],
        scores=table[:, 4],
        classes=table[:, 5].astype(np.int64),
    )


def test_perfect_detections() -> None:
    truth = dataset([[0, 0.5, 0.5, 0.5, 0.5]], [[1, 0.25, 0.5, 0.1, 0.2]], [])
    found = [seen([50, 25, 150, 75, 0.9, 0]), seen([40, 40, 60, 60, 0.8, 1]), seen()]

    metrics = coco_metrics(found, truth)

    assert metrics.AP == pytest.approx(1) and metrics.AP50 == pytest.approx(1)
    assert metrics.AR100 == pytest.approx(1)
    assert metrics.AP_by_class == {"a": pytest.approx(1), "b": pytest.approx(1), "c": None}
    # 100 x 50 pixels are medium, 20 x 20 small; nothing is larger than 96 x 96.
    assert (metrics.APs, metrics.APm) == (pytest.approx(1), pytest.approx(1))
    assert metrics.APl is None


def test_half_of_the_objects_found() -> None:
    # Precision 1 up to recall 0.5: 51 of COCO's 101 recall points.
    truth = dataset([[0, 0.25, 0.5, 0.2, 0.4], [0, 0.75, 0.5, 0.2, 0.4]])

    metrics = coco_metrics([seen([30, 30, 70, 70, 0.9, 0])], truth)

    assert metrics.AP == pytest.approx(51 / 101)
    assert metrics.AR100 == pytest.approx(0.5)


def test_a_loose_box_counts_up_to_its_overlap() -> None:
    # 39 of 50 columns, IoU 0.78: right at 0.50, 0.55 … 0.75, six thresholds of ten.
    truth = dataset([[0, 0.25, 0.5, 0.25, 0.4]])

    metrics = coco_metrics([seen([25, 30, 64, 70, 0.9, 0])], truth)

    assert metrics.AP50 == pytest.approx(1) and metrics.AP75 == pytest.approx(1)
    assert metrics.AP == pytest.approx(0.6)


def test_a_false_alarm_above_the_hit_halves_precision() -> None:
    truth = dataset([[0, 0.25, 0.5, 0.2, 0.4]])
    hit, alarm = [30.0, 30, 70, 70, 0.8, 0], [130.0, 30, 170, 70, 0.9, 0]

    assert coco_metrics([seen(hit, alarm)], truth).AP == pytest.approx(0.5)


def test_nothing_found_is_zero() -> None:
    truth = dataset([[0, 0.25, 0.5, 0.2, 0.4]])

    metrics = coco_metrics([seen()], truth)

    assert (metrics.AP, metrics.AP50, metrics.AR100) == (0, 0, 0)


def test_a_false_alarm_in_a_picture_without_objects_counts() -> None:
    truth = dataset([[0, 0.25, 0.5, 0.2, 0.4]], [])
    found = [seen([30, 30, 70, 70, 0.8, 0]), seen([30, 30, 70, 70, 0.9, 0])]

    assert coco_metrics(found, truth).AP == pytest.approx(0.5)


def test_a_split_without_objects_means_nothing() -> None:
    with pytest.raises(MeasureError, match=r"d\.yaml: the val split shows no object"):
        coco_metrics([seen()], dataset([]))


def test_pycocotools_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    coco_metrics([seen()], dataset([[0, 0.25, 0.5, 0.2, 0.4]]))

    assert capsys.readouterr() == ("", "")


class Constant(nn.Module):
    """Sees one box of class 0 in the middle of any picture."""

    names: ClassVar = {0: "a", 1: "b"}

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        side = images.shape[-1]
        row = torch.tensor([side / 2, side / 2, side / 2, side / 2, 0.9, 0.0])
        return row[None, :, None].repeat(len(images), 1, 1)


@pytest.fixture
def small_set(tmp_path: Path) -> Path:
    for name in ("1", "2"):
        cv2.imwrite(str(tmp_path / f"{name}.png"), np.zeros((40, 40, 3), dtype=np.uint8))
        (tmp_path / f"{name}.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    path = tmp_path / "d.yaml"
    path.write_text("val: .\nnames: [a, b]\n")
    return path


def test_evaluate_end_to_end(small_set: Path) -> None:
    accuracy = evaluate(Constant(), load_dataset(small_set), DetectOptions(imgsz=64))

    record = json.loads(json.dumps(accuracy.to_dict()))
    assert record["metrics"]["AP"] == pytest.approx(1)
    assert set(record["metrics"]) == {"AP", "AP50", "AP75", "APs", "APm", "APl", "AR100"}
    assert (record["images"], record["instances"], record["detections"]) == (2, 2, 2)
    assert (record["nms_iou"], record["clip"], record["imgsz"]) == (0.7, True, [64, 64])
    assert record["environment"]["torch"] == torch.__version__.split("+")[0]


def test_another_count_of_classes_is_refused(small_set: Path) -> None:
    small_set.write_text("val: .\nnames: [a, b, c]\n")

    with pytest.raises(MeasureError, match="names 3 classes, the model knows 2"):
        evaluate(Constant(), load_dataset(small_set), DetectOptions(imgsz=64))


def test_names_in_another_order_are_warned_of(
    small_set: Path, caplog: pytest.LogCaptureFixture
) -> None:
    small_set.write_text("val: .\nnames: [b, a]\n")

    evaluate(Constant(), load_dataset(small_set), DetectOptions(imgsz=64))

    assert "classes in another order" in caplog.text


@pytest.mark.slow
def test_ap_of_opencvs_outputs(shared: Path, tmp_path: Path) -> None:
    """Our NMS and AP over the outputs of OpenCV's Darknet importer: the reference's own chain."""
    weights = shared / "weights" / "yolo-fastest-1.1.weights"
    cfg = tmp_path / "a.cfg"
    text = weights.with_suffix(".cfg").read_text()
    # OpenCV zeroes scores below 0.2 unless told otherwise.
    cfg.write_text(re.sub(r"^\[yolo\]\s*$", "[yolo]\nthresh=0.00001", text, flags=re.M))
    net = cv2.dnn.readNetFromDarknet(str(cfg), str(weights))
    data = load_dataset(shared / "data" / "coco256" / "coco256.yaml")

    metrics = coco_metrics([opencv_detections(net, path) for path in data.images], data)

    assert metrics.AP == pytest.approx(0.1617, abs=1e-4)
    assert metrics.AP50 == pytest.approx(0.3715, abs=1e-4)
    assert metrics.AP75 == pytest.approx(0.1168, abs=1e-4)


def opencv_detections(net: cv2.dnn.Net, path: Path) -> Detections:
    image = cv2.imread(str(path))
    blob = cv2.dnn.blobFromImage(image, 1 / 255, (320, 320), swapRB=True, crop=False)
    net.setInput(blob)
    rows = np.concatenate(net.forward(net.getUnconnectedOutLayersNames()))
    output = torch.from_numpy(np.concatenate((rows[:, :4] * 320, rows[:, 5:]), axis=1).T.copy())
    (found,) = decode(output[None], classes=80, conf=0.001, iou=0.45, max_det=300)
    boxes = stretch(image, (320, 320))[1].to_picture(found[:, :4], clip=False)
    return Detections(
        image=path,
        width=image.shape[1],
        height=image.shape[0],
        boxes_xyxy=boxes.numpy(),
        scores=found[:, 4].numpy(),
        classes=found[:, 5].long().numpy(),
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "split", "ap", "ap50"),
    [
        ("yolo-fastest-1.1", "val", 0.1617, 0.3715),
        ("yolo-fastest-1.1", "train", 0.1646, 0.3271),
        ("yolo-fastest-1.1-xl", "val", 0.2257, 0.4526),
        ("yolo-fastest-1.1-xl", "train", 0.2411, 0.4504),
    ],
)
def test_darknet_models_reach_the_reference(
    shared: Path, name: str, split: str, ap: float, ap50: float
) -> None:
    from yoloprune.models.door import load

    model, _ = load(shared / "weights" / f"{name}.cfg", shared / "weights" / f"{name}.weights")
    data = load_dataset(shared / "data" / "coco256" / "coco256.yaml", split=split)

    accuracy = evaluate(model, data, DetectOptions(imgsz=320))

    assert accuracy.metrics.AP == pytest.approx(ap, abs=0.003)
    assert accuracy.metrics.AP50 == pytest.approx(ap50, abs=0.003)
    assert (accuracy.nms_iou, accuracy.clip) == (0.45, False)


@pytest.mark.slow
def test_an_ultralytics_model_reaches_the_reference(shared: Path) -> None:
    from ultralytics import YOLO

    model = YOLO(shared / "weights" / "yolov8n-bccd.pt").model
    data = load_dataset(shared / "data" / "bccd" / "bccd.yaml")

    metrics = evaluate(model, data, DetectOptions(imgsz=320)).metrics

    assert metrics.AP == pytest.approx(0.575, abs=0.005)
    assert metrics.AP50 == pytest.approx(0.856, abs=0.005)
