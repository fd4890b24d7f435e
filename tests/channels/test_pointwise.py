"""Elementwise operations are known by name where torch's release does not tag them."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from yoloprune.channels import table
from yoloprune.channels.trace import trace
from yoloprune.measure.size import count
from yoloprune.models.door import load

ACTIVATIONS = (
    nn.LeakyReLU(0.1), nn.LeakyReLU(0.1, inplace=True), nn.SiLU(), nn.Mish(), nn.GELU(), nn.ELU(),
    nn.CELU(), nn.SELU(), nn.ReLU(), nn.ReLU6(), nn.Hardswish(), nn.Hardsigmoid(), nn.Hardtanh(),
    nn.Sigmoid(), nn.Tanh(), nn.Softplus(), nn.LogSigmoid(), nn.Hardshrink(), nn.Softshrink(),
    nn.Threshold(0.1, 0.0),
)  # fmt: skip


@pytest.fixture
def untagged(monkeypatch: pytest.MonkeyPatch) -> None:
    """A torch that tags no operation as pointwise, as older ones do not tag many."""
    monkeypatch.setattr(table, "torch", SimpleNamespace(Tag=SimpleNamespace(pointwise="none")))


def test_the_fixture_takes_the_tags_away(untagged: None) -> None:
    assert not table.is_pointwise(torch.ops.aten.frac.default)


@pytest.mark.usefixtures("untagged")
@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
def test_channels_pass_every_activation(activation: nn.Module) -> None:
    net = nn.Sequential(nn.Conv2d(3, 6, 1), nn.BatchNorm2d(6), activation, nn.Conv2d(6, 4, 1))
    graph = trace(net.eval(), torch.zeros(1, 3, 8, 8))
    assert graph.prunable.sum() == 6, graph.frozen


@pytest.mark.parametrize("name", ["yolov4-tiny.cfg", "yolov8n.yaml", "yolov5n.yaml"])
def test_graphs_and_costs_are_the_same_without_tags(
    name: str, request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture
) -> None:
    model = load(name, scratch=name.endswith(".cfg"))[0]
    tagged, size = trace(model), count(model, 64)
    request.getfixturevalue("untagged")
    found = trace(model)
    assert found.frozen == tagged.frozen
    assert (found.prunable == tagged.prunable).all()
    assert count(model, 64) == size
    assert "for want of a rule" not in caplog.text
