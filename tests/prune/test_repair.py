"""What repair must hold to, whatever the network."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from nets import Chain, Concat, Residual, conv
from torch import Tensor, nn

from yoloprune.channels import trace
from yoloprune.channels.graph import ChannelGraph, IntArray
from yoloprune.errors import DataError
from yoloprune.prune.cut import cut_units, kept_units
from yoloprune.prune.repair import Repaired, RepairOptions, repair


def pictures(count: int = 8, side: int = 24) -> Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(1))


def lively(model: nn.Module) -> nn.Module:
    """Random weights, scales and statistics, so that every channel says something."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_()
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return model.eval()


def units_of(graph: ChannelGraph, path: str, outputs: list[int]) -> IntArray:
    axis = next(axis for axis in graph.out_axes if axis.module == path)
    return np.unique(axis.units.ravel()[outputs])


def mended(
    model: nn.Module, path: str, outputs: list[int], options: RepairOptions | None = None
) -> tuple[nn.Module, Repaired]:
    graph = trace(model)
    remove = units_of(graph, path, outputs)
    slim = cut_units(model, graph, remove)
    before = copy.deepcopy(slim.state_dict())
    done = repair(model, slim, graph, kept_units(graph, remove), pictures(), options)
    assert all(torch.equal(before[k], v) for k, v in slim.state_dict().items())
    return slim, done


def off(model: nn.Module, other: nn.Module, x: Tensor) -> float:
    with torch.no_grad():
        wanted, given = model(x), other(x)
    return float((wanted - given).square().mean() / wanted.var())


def doubled() -> nn.Module:
    """``a``'s channels 4 … 7 say twice what 0 … 3 say, so that losing them is no loss."""
    model = lively(Chain())
    conv_a, norm_a = model.a[0], model.a[1]
    with torch.no_grad():
        conv_a.weight[4:] = conv_a.weight[:4]
        norm_a.running_mean[4:] = norm_a.running_mean[:4]
        for tensor in (norm_a.weight, norm_a.bias, norm_a.running_var):
            tensor[4:] = tensor[:4]
    return model


def test_what_others_say_too_is_not_missed() -> None:
    model = doubled()
    slim, done = mended(model, "a.0", [4, 5, 6, 7])
    x = torch.rand(3, 3, 32, 32)
    assert off(model, slim, x) > 1e-3
    assert off(model, done.model, x) < 1e-8
    assert [layer.path for layer in done.record.layers] == ["a.0", "b.0", "out"]
    first, second, last = done.record.layers
    assert first.pull is None and first.before < 1e-9
    assert second.before > 0.1 > 1e-5 > second.after
    assert last.before < 1e-6  # its input was right already


@pytest.mark.parametrize("make", [Chain, Residual, Concat])
def test_no_layer_is_worse_on_pictures_held_out(make: type[nn.Module]) -> None:
    model = lively(make())
    slim, done = mended(model, "a.0", [1, 2])
    for layer in done.record.layers:
        assert layer.after <= layer.before
    fresh = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(9))
    assert off(model, done.model, fresh) < 0.8 * off(model, slim, fresh)
    assert done.record.pictures == 8 and done.record.held_out == 2


class Kinds(nn.Module):
    """A grouped, a depthwise, a transposed and a plain convolution, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.grouped, self.deep = conv(3, 8), conv(8, 8, groups=2), conv(8, 8, groups=8)
        self.up = nn.ConvTranspose2d(8, 6, 2, 2)
        self.plain = nn.Conv2d(6, 8, 3, 2, 1)
        self.out = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.plain(self.up(self.deep(self.grouped(self.a(x)))).relu())
        return self.out(x.flatten(2).transpose(1, 2))


def test_every_kind_of_layer_is_repaired() -> None:
    model = lively(Kinds())
    slim, done = mended(model, "a.0", [0, 4])
    layers = {layer.path: layer for layer in done.record.layers}
    assert list(layers) == ["a.0", "grouped.0", "deep.0", "up", "plain", "out"]
    for path in ("grouped.0", "deep.0", "up", "plain"):
        assert layers[path].after < layers[path].before, path
    x = torch.rand(3, 3, 32, 32)
    assert off(model, done.model, x) < 0.7 * off(model, slim, x)


def test_few_pictures_at_a_time_give_the_same_repair() -> None:
    torch.manual_seed(0)
    model = lively(Residual())
    _, whole = mended(model, "a.0", [1, 2])
    _, again = mended(model, "a.0", [1, 2])
    _, narrow = mended(model, "a.0", [1, 2], RepairOptions(memory=150_000))
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name])
    x = torch.rand(3, 3, 32, 32)
    assert off(whole.model, narrow.model, x) < 0.02
    rows = [layer.rows for layer in narrow.record.layers]
    assert min(rows) < max(rows) or max(rows) < whole.record.layers[0].rows


def test_where_few_pictures_have_room_more_is_taken_from_each() -> None:
    _, whole = mended(lively(Residual()), "a.0", [1, 2], RepairOptions(rows=200))
    _, narrow = mended(lively(Residual()), "a.0", [1, 2], RepairOptions(rows=200, memory=100_000))
    assert {layer.rows for layer in whole.record.layers} == {200}
    assert all(200 <= layer.rows <= 208 for layer in narrow.record.layers)


class Twice(nn.Module):
    """``b`` is called twice, and two layers share one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = conv(3, 8), nn.Conv2d(8, 8, 1)
        self.one, self.two = nn.Conv2d(8, 4, 1), nn.Conv2d(8, 4, 1)
        self.two.weight = self.one.weight

    def forward(self, x: Tensor) -> Tensor:
        x = self.b(self.b(self.a(x)).relu()).relu()
        return self.one(x) + self.two(x)


def test_a_layer_that_is_met_twice_is_fitted_to_both() -> None:
    model = lively(Twice())
    slim, done = mended(model, "a.0", [1])
    layers = {layer.path: layer for layer in done.record.layers}
    assert list(layers) == ["a.0", "b"]  # a shared weight belongs to two layers: left alone
    assert layers["b"].rows == 2 * layers["a.0"].rows
    assert off(model, done.model, pictures()) < off(model, slim, pictures())


class Levels(nn.Module):
    """One head over maps of three sizes, as detectors have it."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.head, self.out = conv(3, 8), conv(8, 6), nn.Conv2d(6, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        maps = [self.a(x)]
        maps += [F.avg_pool2d(maps[0], size) for size in (2, 4)]
        return torch.cat([self.out(self.head(x)).flatten(2) for x in maps], 2)


def test_a_head_over_several_maps_is_changed_once() -> None:
    model = lively(Levels())
    conv_a, norm_a = model.a[0], model.a[1]
    with torch.no_grad():  # a's channels 4 … 7 say twice what 0 … 3 say: nothing need be lost
        for tensor in (conv_a.weight, *norm_a.state_dict().values()):
            if tensor.ndim:
                tensor[4:] = tensor[:4]
    slim, done = mended(model, "a.0", [4, 5, 6, 7])
    x = torch.rand(3, 3, 24, 24, generator=torch.Generator().manual_seed(9))
    assert off(model, slim, x) > 1e-3
    assert off(model, done.model, x) < 1e-7


class Picks(nn.Module):
    """Goes on with the three places that ``score`` likes best."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.out = conv(3, 8), nn.Linear(8, 4)
        self.score = nn.Parameter(torch.randn(1, 8, 1, 1))  # no layer, so it is not repaired

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        best = torch.topk(F.conv2d(x, self.score).flatten(1), 3).indices
        return self.out(
            x.flatten(2).gather(2, best[:, None].expand(-1, x.shape[1], -1)).transpose(1, 2)
        )


def test_places_that_the_full_network_picks_are_kept() -> None:
    model = lively(Picks())
    _, done = mended(model, "a.0", [])
    assert max(layer.before for layer in done.record.layers) < 1e-9
    graph = trace(model)
    remove = units_of(graph, "a.0", [2])
    slim = cut_units(model, graph, remove)
    with torch.no_grad():
        slim.score.neg_()  # it would pick the other places
    record = repair(model, slim, graph, kept_units(graph, remove), pictures(64)).record
    assert {layer.path: layer.after for layer in record.layers}["out"] < 0.3


def test_nothing_cut_is_nothing_changed() -> None:
    model = lively(Concat())
    slim, done = mended(model, "a.0", [])
    assert all(layer.pull is None for layer in done.record.layers)
    for name, value in slim.state_dict().items():
        assert torch.equal(value, done.model.state_dict()[name])


class Ramp(nn.Module):
    """Both channels see how fast it brightens to the right; they differ where it darkens."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.out = nn.Conv2d(3, 2, (1, 2), bias=False), nn.Conv2d(2, 1, 1)
        self.act = nn.PReLU(2)
        with torch.no_grad():
            self.a.weight[:] = torch.tensor([-1.0, 1.0])
            self.act.weight[:] = torch.tensor([0.5, 9.0])
            self.out.weight[:] = torch.tensor([1.0, 0.0])[:, None, None]

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.act(self.a(x)))


@pytest.mark.parametrize("both", [False, True], ids=["brightening", "both"])
def test_what_is_worse_as_a_whole_is_left_out(both: bool) -> None:
    model = Ramp().eval()
    ramps = pictures(16, 8).cumsum(-1) / 8  # to the right they all brighten
    if both:
        ramps[:8] = ramps[:8].flip(-1)
    graph = trace(model, torch.rand(1, 3, 8, 8))
    remove = units_of(graph, "a", [0])
    slim = cut_units(model, graph, remove, compensate=False)
    done = repair(model, slim, graph, kept_units(graph, remove), ramps)
    record = done.record
    assert record.left_out is not both
    before, after = record.apart
    (last,) = (layer for layer in record.layers if layer.path == "out")
    if both:
        assert after < before and last.after < last.before and last.pull is not None
        return
    assert after > 4 * max(before, 1)
    assert (last.after, last.pull) == (last.before, None)
    for name, value in slim.state_dict().items():
        assert torch.equal(value, done.model.state_dict()[name])


def test_pictures_of_another_world_are_told_by_their_means() -> None:
    model = lively(Chain())
    with torch.no_grad():
        for block in (model.a, model.b):  # statistics of these very pictures
            block[1].momentum = None
        model.train()
        model(pictures(64))
        model.eval()
    graph = trace(model)
    kept = np.ones(graph.n_units, dtype=bool)
    own = repair(model, model, graph, kept, pictures()).record.drift
    foreign = repair(model, model, graph, kept, pictures() * 0.2).record.drift
    assert own is not None and foreign is not None
    assert own < 0.15 < 0.5 < foreign


def test_one_picture_is_too_few() -> None:
    model = lively(Chain())
    graph = trace(model)
    with pytest.raises(DataError, match="got 1 pictures, expected at least 2"):
        repair(model, model, graph, np.ones(graph.n_units, dtype=bool), pictures(1))


def test_precision_and_constant_weights_stay() -> None:
    model = lively(Chain()).half()
    graph = trace(copy.deepcopy(model).float())
    remove = units_of(graph, "a.0", [1, 2])
    slim = cut_units(model, graph, remove, compensate=False)
    done = repair(model, slim, graph, kept_units(graph, remove), pictures())
    assert {v.dtype for v in done.model.state_dict().values() if v.ndim} == {torch.float16}
    assert not torch.equal(done.model.b[0].weight, slim.b[0].weight)
