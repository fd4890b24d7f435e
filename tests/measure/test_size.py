"""MACs by hand formula on tiny nets, by torch's own counter and by published numbers."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from ultralytics.nn.tasks import DetectionModel

from yoloprune.errors import MeasureError
from yoloprune.measure.fuse import fuse
from yoloprune.measure.size import count, file_bytes


class Tiny(nn.Module):
    """Every kind of layer that counts, one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.grouped = nn.Conv2d(8, 12, 3, padding=1, groups=4)
        self.depthwise = nn.Conv2d(12, 12, (1, 5), padding=(0, 2), groups=12)
        self.up = nn.ConvTranspose2d(12, 6, 2, stride=2, groups=3)
        self.fc = nn.Linear(6, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.silu(self.bn(self.conv(x)))
        x = self.up(self.depthwise(self.grouped(x)))
        return self.fc(x.mean((2, 3)))


# 16 x 32 pixels; the first convolution halves them, the transposed one doubles them again.
TINY_MACS = {
    "conv": 8 * (8 * 16) * 3 * 9,
    "grouped": 12 * (8 * 16) * 2 * 9,
    "depthwise": 12 * (8 * 16) * 5,
    "up": 12 * (8 * 16) * 2 * 4,
    "fc": 6 * 10,
}
TINY_PARAMS = {
    "conv": 8 * 3 * 9,
    "bn": 16,
    "grouped": 12 * 2 * 9 + 12,
    "depthwise": 12 * 5 + 12,
    "up": 12 * 2 * 4 + 6,
    "fc": 70,
}


def test_tiny_net_by_hand() -> None:
    size = count(Tiny(), (16, 32))

    layers = {layer.name: layer for layer in size.layers}
    assert {name: layer.macs for name, layer in layers.items() if layer.macs} == TINY_MACS
    assert {name: layer.params for name, layer in layers.items()} == TINY_PARAMS
    assert size.macs == sum(TINY_MACS.values())
    assert size.params == sum(TINY_PARAMS.values())
    assert layers["grouped"].in_shape == (1, 8, 8, 16)
    assert layers["grouped"].out_shape == (1, 12, 8, 16)
    assert size.uncounted == {}
    assert size.gflops == pytest.approx(2e-9 * size.macs)


def test_fusing_keeps_the_macs() -> None:
    model = Tiny().eval()
    fused = fuse(copy.deepcopy(model), torch.rand(1, 3, 16, 32))

    assert count(fused, (16, 32)).macs == count(model, (16, 32)).macs
    # 16 of the BatchNorm became 8 of a bias.
    assert count(fused, (16, 32)).params == count(model, (16, 32)).params - 8


class Awkward(nn.Module):
    """A module that runs twice, one that never runs, a functional product, a shared parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.twice = nn.Conv2d(3, 3, 1, bias=False)
        self.never = nn.Conv2d(3, 4, 3)
        self.same = nn.Conv2d(3, 3, 1, bias=False)
        self.same.weight = self.twice.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = self.same(self.twice(self.twice(x))).flatten(2)
        return flat @ flat.transpose(1, 2)


def test_awkward_net_by_hand() -> None:
    size = count(Awkward(), 8)

    layers = {layer.name: (layer.params, layer.macs) for layer in size.layers}
    assert layers == {
        "": (0, 3 * 64 * 3),
        "twice": (9, 2 * 64 * 9),
        "never": (4 * 3 * 9 + 4, 0),
        "same": (0, 64 * 9),
    }
    assert size.params == 9 + 112
    never = next(layer for layer in size.layers if layer.name == "never")
    assert never.in_shape is None and never.out_shape is None


class Attention(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = x.flatten(2).transpose(1, 2)[:, None]
        return F.scaled_dot_product_attention(tokens, tokens, tokens)


def test_attention_by_hand() -> None:
    # 16 tokens of 3 numbers: Q·Kᵀ and its product with V.
    assert count(Attention(), 4).macs == 2 * 16 * 16 * 3


class Fourier(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.fft.rfft2(x).abs()


def test_an_operation_without_a_rule_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    size = count(Fourier(), 8)

    assert size.macs == 0
    assert size.uncounted == {"aten._fft_r2c.default": 1}
    assert "_fft_r2c" in caplog.text


def stock(name: str) -> DetectionModel:
    return DetectionModel(f"{name}.yaml", verbose=False).eval()


@pytest.mark.parametrize("name", ["yolov8n", "yolo11n", "yolo12n", "yolov10n"])
def test_stock_models_count_as_torch_counts_them(name: str) -> None:
    model = stock(name)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.rand(1, 3, 96, 64))

    size = count(model, (96, 64))

    assert 2 * size.macs == counter.get_total_flops()
    assert size.params == sum(p.numel() for p in model.parameters())
    assert size.uncounted == {}


def test_yolov8n_has_the_published_cost() -> None:
    size = count(stock("yolov8n"), 640)

    assert size.gflops == pytest.approx(8.7, abs=0.05)
    assert size.params / 1e6 == pytest.approx(3.2, abs=0.05)


def test_yolov4_tiny_has_the_published_cost() -> None:
    from yoloprune.models.door import load

    model, _ = load("yolov4-tiny.cfg", scratch=True)

    size = count(model, 416)

    assert size.gflops == pytest.approx(6.91, abs=0.01)
    assert size.uncounted == {}


def test_the_model_is_left_as_it_was() -> None:
    model = stock("yolov8n").train()
    before = copy.deepcopy(model.state_dict())

    count(model, 64)

    assert all(module.training for module in model.modules())
    assert not any(module._forward_hooks for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.model[-1].shape is None


def test_an_input_that_does_not_fit_is_refused() -> None:
    with pytest.raises(MeasureError, match=r"Tiny: cannot run on an input of \[1, 4, 8, 8\]"):
        count(Tiny(), 8, channels=4)


def test_record_is_json() -> None:
    record = json.loads(json.dumps(count(Tiny(), (16, 32)).to_dict()))

    assert record["macs"] == sum(TINY_MACS.values())
    assert record["layers"][0]["name"] == "conv"
    assert record["imgsz"] == [16, 32]


def test_file_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"123")
    (tmp_path / "b").write_bytes(b"45")

    assert file_bytes([tmp_path / "a", tmp_path / "b"]) == 5
    with pytest.raises(MeasureError, match="c: cannot be measured"):
        file_bytes([tmp_path / "c"])
