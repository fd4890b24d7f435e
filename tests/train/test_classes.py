"""Another number of classes: class outputs are new, every other weight is the old one."""

from __future__ import annotations

import logging
import math
from copy import deepcopy
from typing import Any

import pytest
import slims
import torch
from torch import nn

from yoloprune.errors import TrainError
from yoloprune.train.classes import fit_classes

# config → tensors that have one row a class, found by hand in Ultralytics' heads
CLASS_TENSORS = {
    "yolov8n": 6,  # 3 scales, weight and bias
    "yolov10n": 12,  # two heads
    "yolo26n": 12,
    "yolov8n-seg": 6,
    "yolo26n-seg": 14,  # two heads and the semantic branch
    "yolov8n-pose": 6,
    "yolov8n-obb": 6,
    "yolov8n-cls": 2,
    "yolo26n-sem": 4,  # main and auxiliary classifier
    "rtdetr-l": 15,  # embedding, encoder's head, six decoder heads
}
NEW = {0: "a", 1: "b", 2: "c", 3: "d", 4: "e"}


@pytest.fixture(scope="module")
def yolo() -> nn.Module:
    return slims.slim("yolov8n")


@pytest.mark.parametrize("name", CLASS_TENSORS)
def test_only_class_outputs_are_new(name: str, caplog: pytest.LogCaptureFixture) -> None:
    model: Any = slims.stock(name) if "rtdetr" in name else slims.slim(name)
    old = len(model.names)
    before = deepcopy(model.state_dict())
    with caplog.at_level(logging.WARNING, "yoloprune"):
        copy: Any = fit_classes(model, NEW)
    assert f"The model has {old} classes, the data 5: its class outputs start anew" in caplog.text
    after = copy.state_dict()
    assert list(after) == list(before)
    changed = [key for key in after if after[key].shape != before[key].shape]
    assert len(changed) == CLASS_TENSORS[name]
    for key, value in after.items():
        if key in changed:
            assert value.shape == (5, *before[key].shape[1:]) and value.isfinite().all()
            assert before[key].shape[0] == old
        else:
            assert torch.equal(value, before[key]), key
    assert all(
        torch.equal(a, b) for a, b in zip(before.values(), model.state_dict().values(), strict=True)
    )
    assert copy.yaml["nc"] == 5 and copy.names == NEW
    x = torch.rand(2, 3, 64, 64)
    rows = {
        "yolov8n": 4 + 5,
        "yolov8n-pose": 4 + 5 + 51,
        "yolov8n-obb": 4 + 5 + 1,
        "yolov8n-cls": 5,
    }
    with torch.no_grad():
        result = copy.eval()(x)
    if name in rows:
        assert result[0].shape[1] == rows[name]


def test_new_biases_expect_one_object_in_a_hundred_cells_of_a_picture(yolo: nn.Module) -> None:
    head: Any = fit_classes(yolo, NEW).model[-1]  # type: ignore[index,union-attr]
    for branch, stride in zip(head.cv3, (8, 16, 32), strict=True):
        expected = math.log(5 / 5 / (640 / stride) ** 2)
        assert branch[-1].bias.tolist() == pytest.approx([expected] * 5)
    assert head.no == 64 + 5


def test_a_known_name_keeps_its_output(yolo: nn.Module, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "yoloprune"):
        copy: Any = fit_classes(yolo, {0: "new", 1: " Thing 7", 2: "thing 3"})
    assert "the data 3, of which 2 are known by name" in caplog.text
    old: Any = yolo
    for new, before in zip(copy.model[-1].cv3, old.model[-1].cv3, strict=True):
        assert torch.equal(new[-1].weight[1:], before[-1].weight[[7, 3]])
        assert torch.equal(new[-1].bias[1:], before[-1].bias[[7, 3]])
        assert not torch.equal(new[-1].weight[0], before[-1].weight[0])


def test_the_same_classes_in_another_order_are_followed(yolo: nn.Module) -> None:
    names = {i: f"thing {79 - i}" for i in range(80)}
    copy: Any = fit_classes(yolo, names)
    old: Any = yolo
    for new, before in zip(copy.model[-1].cv3, old.model[-1].cv3, strict=True):
        assert torch.equal(new[-1].weight, before[-1].weight.flip(0))


@pytest.mark.parametrize("form", ["thing {}", "something else {}", "{}"])
def test_as_many_classes_change_nothing(
    form: str, yolo: nn.Module, caplog: pytest.LogCaptureFixture
) -> None:
    copy = fit_classes(yolo, {i: form.format(i) for i in range(80)})
    for a, b in zip(copy.state_dict().values(), yolo.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert not caplog.text


def test_text_models_have_no_class_outputs() -> None:
    model: Any = slims.stock("yolov8s-world")
    copy: Any = fit_classes(model, NEW)
    for a, b in zip(copy.state_dict().values(), model.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert copy.model[-1].nc == 5


def test_an_unknown_head_says_so(yolo: nn.Module) -> None:
    model: Any = deepcopy(yolo)
    head = nn.Identity()
    head.i = 22  # type: ignore[assignment]
    model.model[-1] = head
    with pytest.raises(TrainError, match=r"model.22 \(Identity\): its class outputs are not known"):
        fit_classes(model, NEW)
