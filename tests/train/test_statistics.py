"""Statistics of the averaged model: those of its own weights, on the training pictures."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import slims
import torch
from torch import Tensor, nn

from tests.nets import CONV, randomised
from yoloprune.darknet.cfg import parse_cfg
from yoloprune.darknet.network import DarknetModel
from yoloprune.prune.budget import Budget
from yoloprune.train import statistics
from yoloprune.train.options import SparsityOptions, TrainOptions
from yoloprune.train.run import train
from yoloprune.train.statistics import Recalibration, recalibrate

pytestmark = pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad=True")

HEAD = (
    "[convolutional]\nfilters=14\nsize=1\nstride=1\nactivation=linear\n"
    "[yolo]\nmask=0,1\nanchors=10,10,30,30\nclasses=2\nnum=2\n"
)
COUNT = 8
STATISTICS = ("running_mean", "running_var")
STILL = dict.fromkeys(("mosaic", "fliplr", "hsv_h", "hsv_s", "hsv_v", "scale", "translate"), 0.0)


def network() -> nn.Module:
    torch.manual_seed(0)
    text = "[net]\nwidth=64\nheight=64\nchannels=3\n" + CONV.format(16) + CONV.format(24)
    return randomised(DarknetModel(parse_cfg(text + HEAD)))


def options(data: Path, method: str | None = "auto", **more: Any) -> TrainOptions:
    budget = Budget(percent=0.5, min_channels=2)
    strength = 0.0 if method == "auto" else 1.0
    return TrainOptions(
        data=str(data),
        epochs=2,
        imgsz=64,
        batch=4,
        device="cpu",
        sparsity=None
        if method is None
        else SparsityOptions(budget=budget, method=method, strength=strength),  # type: ignore[arg-type]
        extra={
            "plots": False, "verbose": False, "optimizer": "AdamW", "lr0": 0.01, "nbs": 4,
            "warmup_epochs": 0, "close_mosaic": 0, "workers": 0, **STILL, **more,
        },
    )  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return slims.pictures(tmp_path_factory.mktemp("data"), "detect", count=COUNT)


def of_first_layer(model: Any, data: Path) -> tuple[Tensor, Tensor]:
    """Mean and variance of what enters the first BatchNorm, over all training pictures."""
    files = sorted((data.parent / "images/train").glob("*.jpg"))
    pictures = np.stack([cv2.imread(str(file))[..., ::-1] for file in files])
    inputs = torch.from_numpy(pictures.copy()).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        seen = model.model[0].conv(inputs).transpose(0, 1).flatten(1)
    return seen.mean(1), seen.var(1)


def test_they_are_the_mean_over_the_batches_and_nothing_else_changes() -> None:
    kept = nn.BatchNorm2d(4)  # not named
    net: Any = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1), kept).eval()
    net[2].unused = nn.BatchNorm2d(4)  # not reached
    before = copy.deepcopy(net.state_dict())
    batches = [torch.rand(n, 3, 5, 5) for n in (2, 3)]
    recalibrate(net, batches, {"1", "2.unused"})
    seen = [net[0](batch).transpose(0, 1).flatten(1) for batch in batches]
    torch.testing.assert_close(net[1].running_mean, (seen[0].mean(1) + seen[1].mean(1)) / 2)
    torch.testing.assert_close(net[1].running_var, (seen[0].var(1) + seen[1].var(1)) / 2)
    changed = {k for k, v in net.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == {"1.running_mean", "1.running_var"}
    assert not any(module.training for module in net)
    assert net[1].momentum == 0.1


@pytest.mark.parametrize("method", ["auto", "l1", "prox", "group"])
def test_what_is_saved_has_those_of_its_weights(method: str, data: Path, tmp_path: Path) -> None:
    result = train(network(), tmp_path, options(data, method))
    for model in (result.best, result.last):
        norm: Any = model.model[0].bn  # type: ignore[index, union-attr]
        mean, variance = of_first_layer(model, data)
        torch.testing.assert_close(norm.running_mean, mean, rtol=0.01, atol=2e-3)
        torch.testing.assert_close(norm.running_var, variance, rtol=0.03, atol=1e-5)


def test_training_itself_is_undisturbed(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    augmented = {"fliplr": 0.5, "mosaic": 1.0, "scale": 0.5, "nbs": 8}
    with_them = train(network(), tmp_path / "a", options(data, **augmented)).last.state_dict()
    monkeypatch.setattr(statistics, "recalibrate", lambda *_: None)
    without = train(network(), tmp_path / "b", options(data, **augmented)).last.state_dict()
    differ = {k for k, v in without.items() if not torch.equal(v, with_them[k])}
    assert differ == {f"model.{layer}.bn.{name}" for layer in (0, 1) for name in STATISTICS}


def test_frozen_layers_keep_theirs(data: Path, tmp_path: Path) -> None:
    start: Any = network()
    result: Any = train(start, tmp_path, options(data, "l1", freeze=1)).last
    for layer, same in ((0, True), (1, False)):
        before, after = (m.model[layer].bn.running_var for m in (start, result))
        assert torch.allclose(before, after, rtol=1e-3) == same, layer


def test_they_are_taken_only_once_the_sparsity_stands(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    monkeypatch.setattr(statistics, "recalibrate", lambda *_: seen.append("taken"))
    for method, times in ((None, 0), ("auto", 1), ("l1", 2)):  # auto: from .7 of two epochs
        seen.clear()
        train(network(), tmp_path / str(method), options(data, method, val=False))
        assert len(seen) == times, method


def taken(
    pictures: int, batch: int, time: float | None = None, stop: int | None = None
) -> list[int]:
    """Sizes of the batches that an epoch leaves to take statistics from."""
    sizes = [min(batch, pictures - first) for first in range(0, pictures, batch)]
    loader = type("Loader", (), {"__len__": lambda _: len(sizes), "dataset": range(pictures)})()
    trainer = SimpleNamespace(train_loader=loader, args=SimpleNamespace(time=time))
    recalibration = Recalibration()
    for at, size in enumerate(sizes):
        recalibration.take(trainer, torch.zeros(size, 1, 1, 1), at)
    for at, size in enumerate(sizes[:stop]):
        recalibration.take(trainer, torch.full((size, 1, 1, 1), float(at)), at)
    found = recalibration.taken()
    numbers = [int(images[0]) for images in found]
    assert numbers == sorted(set(numbers)) and recalibration.taken() == []
    return [len(images) for images in found]


def test_a_few_whole_batches_at_the_end_of_the_epoch_are_enough() -> None:
    assert taken(205, 16) == [16, 13]  # an eighth is less than 32
    assert taken(11, 4) == [4, 4, 3]
    assert taken(205, 64) == [64]  # of 13 would be too few
    assert taken(801, 16) == [16] * 7  # an eighth; the last is of one picture
    assert taken(5000, 16) == [16] * 7 + [8]  # 128 is most
    assert taken(3, 1) == [1, 1, 1]


def test_an_epoch_that_may_end_early_is_watched_from_its_start() -> None:
    assert taken(5000, 16, time=0.1, stop=100) == [16] * 8
    assert taken(5000, 16, stop=100) == []


@pytest.mark.slow
@pytest.mark.parametrize("task", ["segment", "pose", "obb", "classify"])
def test_every_task_has_pictures_for_them(task: str, tmp_path: Path) -> None:
    data = slims.pictures(tmp_path / "data", task)
    suffix = {"segment": "-seg", "pose": "-pose", "obb": "-obb", "classify": "-cls"}[task]
    result = train(slims.stock(f"yolov8n{suffix}"), tmp_path / "run", options(data, "l1"))
    norm: Any = result.last.model[0].bn  # type: ignore[index, union-attr]
    start: Any = slims.stock(f"yolov8n{suffix}").model[0].bn  # type: ignore[index, union-attr]
    assert (norm.running_var / start.running_var).log().abs().median() > 0.5
