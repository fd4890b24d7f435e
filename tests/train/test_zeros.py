"""Masked weights stay zero through a training, and all else trains as under torch's own masks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import slims
import torch
from torch import nn

from tests.nets import CONV, Chain, randomised
from yoloprune.darknet.cfg import parse_cfg
from yoloprune.darknet.network import DarknetModel
from yoloprune.errors import TrainError
from yoloprune.mask.masking import made_permanent, mask_model, masks_of
from yoloprune.mask.sparsity import sparsity
from yoloprune.mask.spec import MaskSpec
from yoloprune.prune.budget import Budget
from yoloprune.train.keeping import student_of
from yoloprune.train.options import SparsityOptions, TrainOptions
from yoloprune.train.run import train
from yoloprune.train.trainer import KeepingDetectionTrainer
from yoloprune.train.zeros import KeptZeros

pytestmark = pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad=True")

HEAD = (
    "[convolutional]\nfilters=14\nsize=1\nstride=1\nactivation=linear\n"
    "[yolo]\nmask=0,1\nanchors=10,10,30,30\nclasses=2\nnum=2\n"
)
EPOCHS = 3


def network(*, masked: bool = True) -> nn.Module:
    torch.manual_seed(0)
    text = "[net]\nwidth=64\nheight=64\nchannels=3\n" + CONV.format(16) + CONV.format(24)
    model = randomised(DarknetModel(parse_cfg(text + CONV.format(32) + HEAD)))
    if not masked:
        return model
    masked = mask_model(model, MaskSpec(method="global_unstructured", amount=0.5))
    scales = MaskSpec(method="l1_unstructured", amount=0.25, kind="bn")
    return made_permanent(mask_model(masked, scales))


def options(data: Path, **more: Any) -> TrainOptions:
    extra = {
        "plots": False, "verbose": False, "optimizer": "AdamW", "lr0": 0.01, "nbs": 8,
        "weight_decay": 0.01, "warmup_epochs": 1, "close_mosaic": 1,
    }  # fmt: skip
    given = {"keep_zeros": True, "resume": True, **more}
    return TrainOptions(
        data=str(data), epochs=EPOCHS, imgsz=64, batch=4, device="cpu", extra=extra, **given
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return slims.pictures(tmp_path_factory.mktemp("data"), "detect", count=11)


@pytest.fixture(scope="module")
def undisturbed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    train(network(), folder, options(data))
    return folder


def test_steps_are_those_under_masks_of_torch() -> None:
    """Momentum, decay and clipping see what they see where a hook multiplies the mask in."""
    model = Chain()
    hooked = mask_model(model, MaskSpec(method="l1_unstructured", amount=0.5, kind="both"))
    plain = made_permanent(hooked)
    zeros = KeptZeros(plain)
    optimizers = [torch.optim.SGD(m.parameters(), 0.1, momentum=0.9) for m in (hooked, plain)]
    for _ in range(5):
        x = torch.rand(4, 3, 16, 16)
        for one, optimizer in zip((hooked, plain), optimizers, strict=True):
            optimizer.zero_grad()
            one(x).square().sum().backward()
            if one is plain:
                zeros.stop_gradients(plain)
            nn.utils.clip_grad_norm_(one.parameters(), 1.0)
            optimizer.step()
        zeros.hold(plain)
    for (name, ours), theirs in zip(
        plain.named_parameters(), made_permanent(hooked).parameters(), strict=True
    ):
        torch.testing.assert_close(ours, theirs, msg=name)
    assert not torch.equal(plain.a[0].weight, made_permanent(mask_model(
        model, MaskSpec(method="l1_unstructured", amount=0.5))).a[0].weight)  # fmt: skip


def test_zeros_stay_and_the_rest_learns(undisturbed: Path) -> None:
    before = network().state_dict()
    for name in ("best", "last"):
        loaded: Any = torch.load(undisturbed / f"weights/{name}.pt", weights_only=False)["model"]
        after = loaded.float().state_dict()
        masks = masks_of(network())
        assert set(masks) > {"model.0.conv.weight", "model.1.bn.weight"}
        for key, stays in masks.items():
            live = torch.from_numpy(stays)
            assert (after[key][~live] == 0).all(), key
            assert (after[key][live] != before[key][live]).float().mean() > 0.9, key


def test_without_it_they_grow_back(data: Path, tmp_path: Path) -> None:
    result = train(network(), tmp_path, options(data, keep_zeros=False))
    assert sparsity(network()).share("conv") == pytest.approx(0.5, abs=0.02)
    assert sparsity(result.last).share("conv") < 0.01


@pytest.mark.parametrize(("epoch", "batch"), [(1, 1), pytest.param(2, 0, marks=pytest.mark.slow)])
def test_a_killed_run_ends_as_an_undisturbed_one(
    epoch: int, batch: int, data: Path, undisturbed: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Also where a live weight has become zero meanwhile: it is none of those that are held."""

    class KilledError(Exception):
        pass

    real = KeepingDetectionTrainer.run_callbacks

    def run_callbacks(self: Any, name: str) -> None:
        real(self, name)
        if name == "on_train_batch_end" and self._batches >= 3 * epoch + batch + 1:
            raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(KeepingDetectionTrainer, "run_callbacks", run_callbacks)
        with pytest.raises(KilledError):
            train(network(), tmp_path, options(data))
    state = torch.load(tmp_path / "weights/state.pt", weights_only=False)
    assert state["zeros"].keys() == masks_of(network()).keys()
    train(network(), tmp_path, options(data))
    for name in ("best", "last"):
        file = f"weights/{name}.weights"
        assert (tmp_path / file).read_bytes() == (undisturbed / file).read_bytes()
    with pytest.raises(TrainError, match="keep_zeros: True → None"):
        train(network(), tmp_path, options(data, keep_zeros=False))


def test_a_resumed_run_holds_what_it_held(data: Path, tmp_path: Path) -> None:
    zeros = KeptZeros(network())
    grown = network()
    with torch.no_grad():
        grown.get_parameter("model.0.conv.weight")[0].zero_()
    again = KeptZeros(grown)
    name = "model.0.conv.weight"
    assert again.masks[name].sum() > zeros.masks[name].sum()
    again.load_state_dict(zeros.state_dict())
    assert torch.equal(again.masks[name], zeros.masks[name])


def test_zeros_and_sparsity_go_together(data: Path, tmp_path: Path) -> None:
    wish = SparsityOptions(budget=Budget(percent=0.3, min_channels=2), criterion="gamma")
    seen = []
    real = KeepingDetectionTrainer.optimizer_step

    def step(self: Any) -> None:
        real(self)
        seen.append(sparsity(student_of(self.ema.ema)).share("conv"))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(KeepingDetectionTrainer, "optimizer_step", step)
        result = train(network(), tmp_path, options(data, sparsity=wish))
    assert result.sparsity is not None and result.sparsity["zero_share"] > 0.2
    share = sparsity(network()).share("conv")
    assert min(seen) >= share and sparsity(result.last).share("conv") >= share


def test_a_network_without_zeros_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainError, match="--keep-zeros: no weight of a convolution and no scale"):
        train(network(masked=False), tmp_path / "run", options(data))
    assert not (tmp_path / "run").exists()
