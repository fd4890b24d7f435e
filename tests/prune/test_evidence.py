"""Pictures with labels, and with what the network itself sees, as the loss takes them."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from yoloprune.errors import DataError, MeasureError, PlanError
from yoloprune.prune.evidence import (
    Lessons,
    check_teachable,
    is_labelled,
    labelled_lessons,
    self_taught,
)


class Sees(nn.Module):
    """A detector of two classes that always says the same."""

    def __init__(self, rows: list[list[float]], letterbox: bool = True) -> None:
        super().__init__()
        self.names, self.letterbox, self.task = {0: "a", 1: "b"}, letterbox, "detect"
        self.said = torch.tensor(rows).reshape(-1, 6).T[None]  # xywh and two scores each

    def forward(self, x: Tensor) -> Tensor:
        return self.said.expand(len(x), -1, -1)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Three pictures of 40 × 20 pixels, of which the third has no label file."""
    rng = np.random.default_rng(0)
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for k in range(3):
        image = rng.integers(0, 255, (20, 40, 3), dtype=np.uint8)
        cv2.imwrite(str(tmp_path / "images" / f"{k}.png"), image)
    (tmp_path / "labels" / "0.txt").write_text("1 0.5 0.5 0.5 0.4\n0 0.25 0.25 0.1 0.1\n")
    (tmp_path / "labels" / "1.txt").write_text("")
    path = tmp_path / "data.yaml"
    path.write_text("train: images\nval: images\nnames: [a, b]\n")
    return path


def test_labels_are_moved_with_the_picture(data: Path) -> None:
    boxed = labelled_lessons(Sees([]), str(data), (96, 64), 8)
    assert boxed is not None and [len(rows) for rows in boxed.labels] == [2, 0, 0]
    # 40 × 20 becomes 64 × 32, with 32 rows of grey above and below.
    assert boxed.labels[0] == pytest.approx(
        np.array([[1, 0.5, 0.5, 0.5, 0.4 / 3], [0, 0.25, 40 / 96, 0.1, 0.1 / 3]])
    )
    stretched = labelled_lessons(Sees([], letterbox=False), str(data), (64, 64), 8)
    assert stretched is not None
    assert stretched.labels[0] == pytest.approx(
        np.array([[1, 0.5, 0.5, 0.5, 0.4], [0, 0.25, 0.25, 0.1, 0.1]])
    )


def test_other_classes_are_refused_and_no_labels_are_none(data: Path) -> None:
    data.write_text("train: images\nval: images\nnames: [a, b, c]\n")
    with pytest.raises(DataError, match="names 3 classes, the model knows 2. Give the data set"):
        labelled_lessons(Sees([]), str(data), (64, 64), 8)
    for file in (data.parent / "labels").iterdir():
        file.unlink()
    assert labelled_lessons(Sees([]), str(data), (64, 64), 8) is None


def test_what_has_labels(data: Path, tmp_path: Path) -> None:
    assert is_labelled(data)
    assert not is_labelled(tmp_path / "images")
    assert not is_labelled(str(tmp_path / "images" / "*.png"))
    data.write_text("val: images\nnames: [a, b]\n")
    assert not is_labelled(data)


def test_a_batch_is_what_ultralytics_losses_take() -> None:
    images = torch.randint(0, 255, (3, 3, 4, 4), dtype=torch.uint8)
    labels = (np.array([[1, 0.1, 0.2, 0.3, 0.4]]), np.zeros((0, 5)), np.full((2, 5), 0.5))
    given = Lessons(images=images, labels=labels, told="by hand")
    batch = given.batch(0, 3, torch.device("cpu"))
    torch.testing.assert_close(batch["img"], images.float() / 255)
    assert batch["batch_idx"].tolist() == [0, 2, 2]
    assert batch["cls"].shape == (3, 1) and batch["cls"][0, 0] == 1
    assert batch["bboxes"][0].tolist() == pytest.approx([0.1, 0.2, 0.3, 0.4])
    alone = given.batch(1, 1, torch.device("cpu"))
    assert alone["bboxes"].shape == (0, 4) and alone["cls"].shape == (0, 1)


def test_what_the_network_is_sure_of_stands_for_labels() -> None:
    sure, unsure = [16.0, 8.0, 8.0, 4.0, 0.1, 0.9], [40.0, 20.0, 8.0, 8.0, 0.2, 0.2]
    outside = [62.0, 30.0, 8.0, 8.0, 0.5, 0.0]  # half of it lies right of and below the picture
    found = self_taught(Sees([sure, unsure, outside]), torch.zeros(9, 3, 32, 64))
    assert found.own and "no labels" in found.told and "in 9 of 9 pictures" in found.told
    for rows in found.labels:
        assert rows == pytest.approx(
            np.array([[1, 0.25, 0.25, 0.125, 0.125], [0, 61 / 64, 29 / 32, 6 / 64, 6 / 32]])
        )
    with pytest.raises(DataError, match=r"^--calib: the network sees nothing with a score above"):
        self_taught(Sees([unsure]), torch.zeros(2, 3, 32, 64))


def test_what_has_no_loss_to_ask_is_refused() -> None:
    model = Sees([])
    check_teachable(model, "fisher")
    model.task = "segment"
    with pytest.raises(PlanError, match=r"^--criterion fisher: asks the loss of detectors, got"):
        check_teachable(model, "fisher")
    model.task, model.names = "detect", {}
    with pytest.raises(MeasureError, match="has no class names"):
        check_teachable(model, "fisher")
