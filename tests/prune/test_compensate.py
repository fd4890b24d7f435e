"""Constants of removed channels, folded into what reads them.

The oracle is the dense model itself: where the scales of the removed channels are exactly zero,
a compensated cut changes nothing but, at most, the zero-padded border.
"""

from __future__ import annotations

import copy
import logging

import nets
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from yoloprune.channels.graph import ChannelGraph, IntArray
from yoloprune.prune.compensate import compensate, folded_gain
from yoloprune.prune.cut import cut_units, self_test
from yoloprune.prune.selftest import relative_difference


class Pointwise(nn.Module):
    """Readers of every kind without a padded border: BatchNorm, own bias, no bias at all."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nets.conv(3, 8)
        self.normed = nets.conv(8, 6, 1)
        self.biased = nn.Conv2d(6, 6, 1)
        self.bare = nn.Conv2d(14, 5, 1, bias=False)
        self.out = nn.Conv2d(5, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        y = F.relu(self.biased(self.normed(x)))
        return self.out(self.bare(torch.cat((x, y), 1)))


def silent(model: nn.Module, graph: ChannelGraph, remove: IntArray) -> nn.Module:
    """A copy whose removed channels have scales of exactly zero."""
    quiet = copy.deepcopy(model)
    gone = np.isin(np.arange(graph.n_units), remove)
    for axis in graph.axes:
        module = quiet.get_submodule(axis.module)
        if isinstance(module, nn.BatchNorm2d) and axis.tensor.endswith(".weight"):
            with torch.no_grad():
                module.weight[torch.from_numpy(gone[axis.units])] = 0
    return quiet


def prepared(model: nn.Module) -> tuple[nn.Module, ChannelGraph, IntArray]:
    """A model in double precision and units of it whose scales are now zero."""
    model = nets.randomised(model).double()
    graph = nets.traced(model)
    normed = {u for a in graph.axes if a.tensor.endswith("1.weight") for u in a.units.ravel()}
    remove = np.array([u for u in nets.random_units(graph) if u in normed])
    assert remove.size
    return silent(model, graph, remove), graph, remove


def interior(x: Tensor, margin: int) -> Tensor:
    return x[..., margin:-margin, margin:-margin] if margin else x


@pytest.mark.parametrize(
    ("net", "margin"),
    [
        (Pointwise, 0),
        (nets.Chain, 2),
        (nets.Residual, 3),
        (nets.Concat, 1),
        (nets.Chunked, 3),
        (nets.Grouped, 2),
        (nets.Depthwise, 3),
        (nets.ReusedPool, 1),
        (nets.SummedStack, 1),
    ],
    ids=lambda x: getattr(x, "__name__", str(x)),
)
def test_channels_without_scale_go_without_trace(net: type[nn.Module], margin: int) -> None:
    model, graph, remove = prepared(net())
    given = torch.rand(2, 3, 16, 18, dtype=torch.float64)
    slim = cut_units(model, graph, remove)
    plain = cut_units(model, graph, remove, compensate=False)
    with torch.no_grad():
        dense, kept, lost = (_first(m(given)) for m in (model, slim, plain))
    assert relative_difference(interior(dense, margin), interior(kept, margin)) <= 1e-9
    assert relative_difference(interior(dense, margin), interior(lost, margin)) > 0.01


def _first(output: Tensor | tuple[Tensor, ...]) -> Tensor:
    return output if isinstance(output, Tensor) else output[0]


def test_where_each_gain_goes() -> None:
    model, graph, remove = prepared(Pointwise())
    slim = cut_units(model, graph, remove)
    done = compensate(model, graph, remove)
    assert set(done.folded) == {"normed.0", "biased", "bare"} and not done.skipped
    # Its BatchNorm takes it, no bias appears; the bare layer gets one.
    assert slim.normed[0].bias is None
    assert not torch.equal(done.model.normed[1].running_mean, model.normed[1].running_mean)
    assert model.bare.bias is None and slim.bare.bias.shape == (5,)
    assert slim.bare.bias.requires_grad


def test_the_gain_is_what_a_constant_picture_adds() -> None:
    generator = np.random.default_rng(0)
    for groups in (1, 2):
        weight = generator.normal(size=(6, 4 // groups, 3, 5))
        constants = generator.normal(size=4)
        flat = torch.from_numpy(constants).view(1, 4, 1, 1).expand(1, 4, 9, 11)
        direct = F.conv2d(flat, torch.from_numpy(weight), groups=groups)[0, :, 1, 1]
        np.testing.assert_allclose(folded_gain(weight, constants, groups), direct, rtol=1e-12)


def test_compensated_cuts_pass_the_self_test_of_the_same_compensation() -> None:
    model, graph, remove = prepared(nets.Residual())
    slim = cut_units(model, graph, remove)
    assert self_test(model, graph, remove, slim, compensated=True).max_rel_diff <= 1e-9
    assert self_test(model, graph, remove, slim).max_rel_diff > 1e-3


def test_transposed_convolutions_are_skipped_and_told(caplog: pytest.LogCaptureFixture) -> None:
    model, graph, remove = prepared(nets.UpDown())
    with caplog.at_level(logging.INFO, logger="yoloprune"):
        done = compensate(model, graph, remove)
    assert done.skipped.keys() == {"up"}
    assert "transposed" in done.skipped["up"]
    assert any("up: constants of removed channels are not folded" in m for m in caplog.messages)


def test_what_is_not_constant_is_skipped() -> None:
    # The gate spreads a map of the picture over channels that are otherwise constant.
    model, graph, remove = prepared(nets.SpatialGate())
    done = compensate(model, graph, remove)
    assert "not constant" in done.skipped["out"]
    assert "gate" in done.folded


def test_a_shared_reader_of_different_constants_is_skipped() -> None:
    model, graph, remove = prepared(nets.Shared())
    done = compensate(model, graph, remove)
    assert "several times" in done.skipped["head.0"]
    assert "out" in done.folded


def test_layers_that_only_training_calls_are_skipped() -> None:
    model, graph, remove = prepared(nets.TrainOnly())
    assert "does not call it" in compensate(model, graph, remove).skipped["aux"]


def test_compensation_changes_nothing_that_was_given() -> None:
    model, graph, remove = prepared(Pointwise())
    before = copy.deepcopy(model.state_dict())
    compensate(model, graph, remove)
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[k], v) for k, v in after.items())


def test_half_precision_is_compensated_too() -> None:
    model, graph, remove = prepared(Pointwise())
    half = copy.deepcopy(model).half()
    slim = cut_units(half, graph, remove)
    assert {p.dtype for p in slim.parameters()} == {torch.float16}
    exact = cut_units(model, graph, remove)
    assert relative_difference(exact.bare.bias.detach(), slim.bare.bias.detach()) < 1e-2
