"""The preset that keeps a good start: what moves, when, and by how much."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import slims
import torch
from torch import nn

from tests.nets import CONV, randomised
from yoloprune.darknet.cfg import parse_cfg
from yoloprune.darknet.network import DarknetModel
from yoloprune.errors import TrainError
from yoloprune.prune.budget import Budget
from yoloprune.train.options import SparsityOptions, TrainOptions, parse_settings
from yoloprune.train.preset import Schedule, settings
from yoloprune.train.run import train
from yoloprune.train.trainer import KeepingDetectionTrainer

pytestmark = pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad=True")

HEAD = (
    "[convolutional]\nfilters=14\nsize=1\nstride=1\nactivation=linear\n"
    "[yolo]\nmask=0,1\nanchors=10,10,30,30\nclasses=2\nnum=2\n"
)


def network() -> nn.Module:
    torch.manual_seed(0)
    text = "[net]\nwidth=64\nheight=64\nchannels=3\n" + CONV.format(8) + CONV.format(8)
    return randomised(DarknetModel(parse_cfg(text + HEAD)))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return slims.pictures(tmp_path_factory.mktemp("data"), "detect", count=10)


def options(data: Path, epochs: int = 2, **more: Any) -> TrainOptions:
    extra = {"plots": False, "verbose": False, "val": False, **more.pop("extra", {})}
    return TrainOptions(
        data=str(data), epochs=epochs, imgsz=64, batch=2, device="cpu", preset="keep",
        extra=extra, **more,
    )  # fmt: skip


class Watched:
    """Learning rates of each step, and the weights before it."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.rates: list[dict[str, float]] = []
        self.before: list[dict[str, torch.Tensor]] = []
        self.settings: dict[str, Any] = {}
        real = KeepingDetectionTrainer.optimizer_step

        def step(trainer: Any) -> None:
            groups = trainer.optimizer.param_groups
            self.rates.append({g["param_group"]: g["lr"] for g in groups})
            state = trainer.model.state_dict()
            self.before.append({name: value.clone() for name, value in state.items()})
            self.settings = vars(trainer.args)
            real(trainer)

        patch.setattr(KeepingDetectionTrainer, "optimizer_step", step)


def test_every_step_has_its_rate_and_norms_go_first(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = Watched(monkeypatch)
    train(network(), tmp_path, options(data, epochs=4))
    assert len(seen.rates) == 20
    bias = [rates["bias"] for rates in seen.rates]
    assert bias == pytest.approx([rates["bn"] for rates in seen.rates])
    peak = 0.0004
    assert bias[0] == pytest.approx(peak / 2) and bias[1] == pytest.approx(peak)
    assert bias[1:] == sorted(bias[1:], reverse=True) and max(bias) <= peak
    assert bias[-1] == pytest.approx(peak / 100)
    assert [rates["weight"] for rates in seen.rates[:2]] == [0, 0]
    assert [rates["weight"] for rates in seen.rates[2:]] == bias[2:]
    first, third, last = seen.before[0], seen.before[2], seen.before[-1]
    for name, value in first.items():
        if name.endswith("conv.weight"):
            assert torch.equal(value, third[name]) and not torch.equal(value, last[name]), name
        if name.endswith(("bn.weight", "bn.bias")):
            assert not torch.equal(value, third[name]), name


def test_only_norms_leaves_all_other_weights(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = Watched(monkeypatch)
    train(network(), tmp_path, options(data, only="norms"))
    assert {rates["weight"] for rates in seen.rates} == {0}
    first, last = seen.before[0], seen.before[-1]
    moved = {name for name, value in first.items() if not torch.equal(value, last[name])}
    assert moved and not any(name.endswith("conv.weight") for name in moved)


class KilledError(Exception):
    """The power went."""


def test_a_killed_run_goes_on_exactly(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(network(), tmp_path / "whole", options(data, epochs=3)).last.state_dict()
    real = KeepingDetectionTrainer.run_callbacks

    def killed(self: Any, name: str) -> None:
        real(self, name)
        if name == "on_train_batch_end" and self.epoch == 2:
            raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(KeepingDetectionTrainer, "run_callbacks", killed)
        with pytest.raises(KilledError):
            train(network(), tmp_path / "killed", options(data, epochs=3))
    seen = Watched(monkeypatch)
    again = train(network(), tmp_path / "killed", options(data, epochs=3, resume=True)).last
    assert len(seen.rates) == 5
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in whole.items())


def test_it_is_gone_on_with_as_it_was_begun(data: Path, tmp_path: Path) -> None:
    train(network(), tmp_path, options(data, epochs=1))
    extra = {"plots": False, "verbose": False, "val": False}
    other = TrainOptions(
        data=str(data), epochs=1, imgsz=64, batch=2, device="cpu", extra=extra, resume=True
    )  # fmt: skip
    with pytest.raises(TrainError, match="changed since: preset: keep → None"):
        train(network(), tmp_path, other)


def test_what_the_user_sets_goes_before_it(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = Watched(monkeypatch)
    train(network(), tmp_path, options(data, extra={"lr0": 0.002, "lrf": 0.5, "mosaic": 0.7}))
    rates = [rates["bn"] for rates in seen.rates]
    assert max(rates) == pytest.approx(0.002) and rates[-1] == pytest.approx(0.001)
    assert seen.settings["mosaic"] == 0.7 and seen.settings["optimizer"] == "AdamW"


def test_it_fits_the_length_of_the_training() -> None:
    assert settings("stock", 5, 16) == {}
    short, long = settings("keep", 5, 16), settings("keep", 40, 8)
    assert short["mosaic"] == 0 and "mosaic" not in long
    assert long["close_mosaic"] == 16 and long["nbs"] == 8
    rates = [settings("keep", epochs, 16)["lr0"] for epochs in (1, 2, 5, 10, 40)]
    assert rates == pytest.approx([0.0001, 0.0002, 0.0005, 0.001, 0.001])


@pytest.mark.parametrize("steps", [1, 7, 1000])
def test_a_schedule_of_any_length_rises_once_and_falls_to_its_end(steps: int) -> None:
    schedule = Schedule()
    factors = [schedule.factor((i + 1) / steps) for i in range(steps)]
    top = factors.index(max(factors))
    assert factors[: top + 1] == sorted(factors[: top + 1])
    assert factors[top:] == sorted(factors[top:], reverse=True)
    assert factors[-1] == pytest.approx(0.01) and top <= 0.15 * steps


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"preset": "gentle"}, "--preset: unknown, got 'gentle', expected keep, stock."),
        ({"preset": "stock", "only": "norms"}, "--only norms: needs --preset keep."),
        ({"preset": "keep", "only": "convs"}, "--only: unknown, got 'convs', expected norms."),
        (
            {"preset": "keep", "sparsity": SparsityOptions(budget=Budget(percent=0.5))},
            "--preset keep: is for fine-tuning",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(flags: dict[str, Any], message: str) -> None:
    with pytest.raises(TrainError, match=message):
        TrainOptions(data="d.yaml", epochs=1, imgsz=64, **flags)


@pytest.mark.parametrize(
    ("item", "value"),
    [("lr0=1e-3", 0.001), ("lr0=1E-2", 0.01), ("lr0=.5e-1", 0.05), ("box=7", 7), ("name=1e", "1e")],
)
def test_settings_are_read_as_ultralytics_reads_them(item: str, value: object) -> None:
    from ultralytics.cfg import smart_value

    assert list(parse_settings([item]).values()) == [value]
    assert smart_value(item.partition("=")[2]) == value


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"lr00": 0.1}, "--set lr00: is no setting of Ultralytics. Did you mean lr0?"),
        ({"lr0": "abc"}, "--set lr0=abc: "),
        ({"fraction": -1.0}, "--set fraction=-1.0: "),
        ({"optimizer": "Foo"}, "--set optimizer=Foo: unknown"),
    ],
)
def test_wrong_settings_are_told_before_anything_is_written(
    extra: dict[str, object], message: str
) -> None:
    with pytest.raises(TrainError, match=message):
        TrainOptions(data="d.yaml", imgsz=64, extra=extra)
