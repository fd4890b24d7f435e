"""The tracer on nets whose units were worked out by hand."""

from __future__ import annotations

import copy
import re

import nets
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from yoloprune.channels import trace
from yoloprune.channels.graph import ChannelGraph
from yoloprune.errors import TraceError

R = range

# Layer → units of its outputs, and of its inputs; the units are numbered in module order.
OUT: dict[type[nn.Module], dict[str, list[int]]] = {
    nets.Chain: {"a.0": [*R(8)], "b.0": [*R(8, 14)], "out": [*R(14, 18)]},
    nets.Residual: {
        "a.0": [*R(8)], "b.0": [*R(8, 14)], "c.0": [*R(8)], "out": [*R(14, 18)],
    },
    nets.Concat: {"a.0": [*R(3)], "b.0": [*R(3, 8)], "out": [*R(8, 12)]},
    nets.Chunked: {"a.0": [*R(8)], "m.0": [*R(4, 8)], "out": [*R(8, 12)]},
    nets.GroupedRoute: {"a.0": [*R(8)], "b.0": [*R(8, 12)], "out": [*R(12, 16)]},
    nets.Depthwise: {"a.0": [*R(8)], "out": [*R(8, 12)]},
    nets.Grouped: {"a.0": [*R(8)], "g.0": [*R(8, 14)], "out": [*R(14, 18)]},
    nets.Shared: {
        "a.0": [*R(6)], "b.0": [*R(6)], "head.0": [*R(6, 11)], "out": [*R(11, 15)],
    },
    nets.SqueezeExcite: {
        "a.0": [*R(8)], "down": [*R(8, 11)], "up": [*R(8)], "out": [*R(11, 15)],
    },
    nets.UpDown: {
        "a.0": [*R(8)], "b.0": [*R(8)], "up": [*R(8, 13)], "out": [*R(13, 17)],
    },
    nets.Classifier: {"a.0": [*R(6)], "fc": [*R(6, 11)], "out": [*R(11, 15)]},
    # Two heads, each query 0-2 and key 3-5 (one unit a pair), value 6-9.
    nets.Heads: {
        "a.0": [*R(8)],
        "qkv.0": [8, 9, 10, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 15, 16, 17, 18, 19, 20, 21],
        "out": [*R(22, 26)],
    },
    # Queries 8-11 and 12-15 of two heads, the same units again as keys, then the values.
    nets.PackedHeads: {
        "a.0": [*R(8)], "qkv": [*R(8, 16), *R(8, 16), *R(16, 24)], "proj": [*R(24, 30)],
        "out": [*R(30, 34)],
    },
    nets.WholeHeads: {
        "a.0": [*R(8)], "qkv.0": [8] * 9 + [9] * 9 + [10] * 9 + [11] * 9, "out": [*R(12, 16)],
    },
    nets.Shuffled: {"a.0": [0, 1, 2, 3, 0, 1, 2, 3], "out": [*R(4, 8)]},
    nets.PixelShuffled: {"a.0": [0, 0, 0, 0, 1, 1, 1, 1], "out": [*R(2, 6)]},
    nets.SummedStack: {"a.0": [*R(8)], "out": [*R(8, 12)], "b.0": [*R(8)]},
    nets.ChunkThree: {"a.0": [0, 1, 2] * 3, "out": [*R(3, 7)]},
    nets.Einsum: {"a.0": [*R(8)], "out": [*R(8, 12)], "b.0": [*R(8)]},
}  # fmt: skip

IN: dict[type[nn.Module], dict[str, list[int]]] = {
    nets.Chain: {"b.0": [*R(8)], "out": [*R(8, 14)]},
    nets.Concat: {"out": [3, 4, 5, 6, 7, 0, 1, 2]},
    nets.Chunked: {"m.0": [*R(4, 8)], "out": [*R(8), *R(4, 8)]},
    nets.GroupedRoute: {"b.0": [*R(4, 8)], "out": [*R(8, 12), *R(8)]},
    nets.Depthwise: {"out": [i for i in R(8) for _ in R(2)]},
    nets.UpDown: {"b.0": [*R(8)], "up": [*R(8)], "out": [*R(8), *R(8, 13)]},
    nets.Classifier: {"fc": [i for i in R(6) for _ in R(4)], "out": [*R(6, 11)]},
    nets.Heads: {"qkv.0": [*R(8)], "out": [11, 12, 13, 14, 18, 19, 20, 21]},
    nets.WholeHeads: {"qkv.0": [*R(8)], "out": [i for i in R(8, 12) for _ in R(3)]},
    nets.Shuffled: {"out": [0, 0, 1, 1, 2, 2, 3, 3]},
    nets.PixelShuffled: {"out": [0, 1]},
    nets.Reorg: {"out": [*R(8)] * 4},
    nets.ReusedPool: {"out": [*R(8)] * 4},
}

BALANCES: dict[type[nn.Module], list[list[list[int]]]] = {
    nets.Chain: [],
    nets.Chunked: [[[*R(4)], [*R(4, 8)]]],
    nets.GroupedRoute: [[[*R(4)], [*R(4, 8)]]],
    nets.SlicedHalf: [[[*R(4)], [*R(4, 8)]]],
    nets.Grouped: [[[8, 9, 10], [11, 12, 13]], [[*R(4)], [*R(4, 8)]]],
    nets.Heads: [[[8, 9, 10], [15, 16, 17]], [[11, 12, 13, 14], [18, 19, 20, 21]]],
    nets.PackedHeads: [[[*R(8, 12)], [*R(12, 16)], [*R(16, 20)], [*R(20, 24)]]],
    nets.WholeHeads: [],
    nets.Shuffled: [],
    nets.ChunkThree: [],
}


def traced(net: type[nn.Module]) -> ChannelGraph:
    return nets.traced(nets.randomised(net()))


def lines(graph: ChannelGraph, role: str) -> dict[str, list[int]]:
    return {a.module: a.units.ravel().tolist() for a in graph.axes if a.role == role}


@pytest.mark.parametrize("net", OUT, ids=lambda net: net.__name__)
def test_layers_create_the_units_worked_out_by_hand(net: type[nn.Module]) -> None:
    assert lines(traced(net), "out") == OUT[net]


@pytest.mark.parametrize("net", IN, ids=lambda net: net.__name__)
def test_layers_read_the_units_worked_out_by_hand(net: type[nn.Module]) -> None:
    assert lines(traced(net), "in") == IN[net]


@pytest.mark.parametrize("net", BALANCES, ids=lambda net: net.__name__)
def test_balances_are_those_worked_out_by_hand(net: type[nn.Module]) -> None:
    found = [[part.tolist() for part in b.parts] for b in traced(net).balances]
    assert sorted(found) == sorted(BALANCES[net])


def test_grouped_weight_names_the_inputs_of_each_group() -> None:
    graph = traced(nets.Grouped)
    axis = next(a for a in graph.axes if a.module == "g.0" and a.role == "in")
    assert axis.units.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]


@pytest.mark.parametrize("net", nets.EXACT, ids=lambda net: net.__name__)
def test_only_outputs_and_spread_maps_stay(net: type[nn.Module]) -> None:
    graph = traced(net)
    for unit, reason in graph.frozen.items():
        assert reason in ("output of the model", "spread over other channels in the model"), unit
    assert {int(u) for u in lines(graph, "out")["out"]}


@pytest.mark.parametrize(("net", "reason"), nets.FROZEN, ids=lambda x: getattr(x, "__name__", ""))
def test_what_cannot_be_exact_is_frozen_with_its_reason(net: type[nn.Module], reason: str) -> None:
    graph = traced(net)
    told = {graph.frozen.get(unit, "prunable") for unit in lines(graph, "out")["a.0"]}
    assert len(told) == 1
    assert told.pop().removeprefix("_").startswith(reason)


def test_one_channel_spread_over_all_stays_but_they_may_go() -> None:
    graph = traced(nets.SpatialGate)
    out = lines(graph, "out")
    assert "spread over other channels" in graph.frozen[out["gate"][0]]
    assert graph.prunable[out["a.0"]].all()


class Features(nets.Chain):
    def forward(self, x: Tensor) -> list[Tensor]:  # type: ignore[override]
        x = self.a(x)
        return [x, self.out(self.b(x))]


class Stage(nn.Module):
    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor, found: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        x = self.block(x)
        return x, [*found, x]


class Collected(nets.Chain):
    """Stages that hand on what those before them found."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList([Stage(self.a), Stage(self.b)])

    def forward(self, x: Tensor) -> list[Tensor]:  # type: ignore[override]
        found: list[Tensor] = []
        for stage in self.stages:
            x, found = stage(x, found)
        return [found[0], self.out(x)]


@pytest.mark.parametrize(
    ("net", "free"), [(Features, ["b.0"]), (Collected, ["b.0"]), (nets.HandsOn, [])]
)
def test_a_model_that_returns_its_features_keeps_them(
    net: type[nn.Module], free: list[str]
) -> None:
    graph = trace(nets.randomised(net()))
    out = lines(graph, "out")
    assert graph.carried_outputs == ()
    assert not graph.prunable[out["a.0"]].any()
    assert all(graph.prunable[out[path]].all() for path in free)


def test_what_a_head_of_ultralytics_hands_on_is_no_result() -> None:
    from ultralytics.nn.tasks import DetectionModel

    graph = trace(DetectionModel("yolov8n.yaml", verbose=False).eval(), imgsz=32)
    assert graph.carried_outputs
    assert graph.prunable[lines(graph, "out")["model.15.cv2.conv"]].all()


def test_training_only_heads_are_followed() -> None:
    graph = traced(nets.TrainOnly)
    assert graph.unreached == ()
    assert lines(graph, "in")["aux"] == [*range(8)]
    assert {graph.frozen[u] for u in lines(graph, "out")["aux"]} == {"output of the model"}


def test_unreached_parameters_are_told_and_their_surroundings_frozen() -> None:
    graph = traced(nets.Unreached)
    out = lines(graph, "out")
    assert graph.unreached == ("block.aux.weight", "block.aux.bias")
    assert {graph.frozen[u] for u in out["a.0"]} == {
        "block.aux.weight may read them, but no pass reached it"
    }
    assert graph.prunable[out["block.main.0"]].all()


def test_what_a_rare_branch_of_the_model_itself_may_read_stays() -> None:
    class Rare(nets.Chain):
        def __init__(self) -> None:
            super().__init__()
            self.aux, self.rarely = nn.Conv2d(self.a[0].out_channels, 3, 1), False

        def forward(self, x: Tensor) -> Tensor:
            x = self.a(x)
            if self.rarely:
                return self.aux(x)
            return self.out(self.b(x))

    graph = trace(nets.randomised(Rare()))
    out = lines(graph, "out")
    assert graph.unreached == ("aux.weight", "aux.bias")
    assert {graph.frozen[u] for u in out["a.0"]} == {
        "aux.weight may read them, but no pass reached it"
    }
    assert graph.prunable[out["b.0"]].all()


def test_norms_that_alone_read_a_layer() -> None:
    assert trace(nets.randomised(nets.Depthwise())).norm_of == {
        "a.0": "a.1",
        "dw.0": "dw.1",
        "wide.0": "wide.1",
    }

    class Watched(nets.Chain):
        def forward(self, x: Tensor) -> Tensor:
            raw = self.a[0](x)
            return self.out(self.b(self.a[2](self.a[1](raw)) + raw))

    assert trace(nets.randomised(Watched())).norm_of == {"b.0": "b.1"}


def test_integers_that_follow_the_channels() -> None:
    def fields(net: type[nn.Module], *attrs: str) -> dict[tuple[str, str], list[int]]:
        found = {(f.module, f.attr): f.units.tolist() for f in traced(net).fields}
        return {key: units for key, units in found.items() if key[1] in attrs}

    assert fields(nets.Chunked, "c") == {("", "c"): [*range(4)]}
    assert fields(nets.Heads, "heads", "key", "value") == {
        ("", "key"): [8, 9, 10],
        ("", "value"): [11, 12, 13, 14],
    }
    assert fields(nets.WholeHeads, "heads", "width", "all_width") == {
        ("", "heads"): [8, 9, 10, 11],
        ("", "all_width"): [i for i in range(8, 12) for _ in range(3)],
    }
    assert fields(nets.Depthwise, "groups", "in_channels", "out_channels") == {
        ("a.0", "out_channels"): [*range(8)],
        ("dw.0", "groups"): [*range(8)],
        ("dw.0", "in_channels"): [*range(8)],
        ("dw.0", "out_channels"): [*range(8)],
        ("wide.0", "groups"): [*range(8)],
        ("wide.0", "in_channels"): [*range(8)],
        ("wide.0", "out_channels"): [i for i in range(8) for _ in range(2)],
        ("out", "in_channels"): [i for i in range(8) for _ in range(2)],
        ("out", "out_channels"): [*range(8, 12)],
    }


def test_every_field_counts_its_units() -> None:
    for net in nets.EXACT:
        model = nets.randomised(net())
        for field in nets.traced(model).fields:
            assert getattr(model.get_submodule(field.module), field.attr) == field.units.size


def test_groups_are_units_of_the_same_tensors() -> None:
    graph = traced(nets.Residual)
    assert [(g.units.tolist(), g.layers) for g in graph.groups] == [
        ([*range(8)], ("a.0", "c.0")),
        ([*range(8, 14)], ("b.0",)),
        ([*range(14, 18)], ("out",)),
    ]
    halves = traced(nets.Chunked).groups
    assert [g.units.tolist() for g in halves[:2]] == [[*range(4)], [*range(4, 8)]]


def test_an_elementwise_parameter_is_an_axis() -> None:
    axis = next(a for a in traced(nets.Scaled).axes if a.tensor == "gain")
    assert (axis.dim, axis.role, axis.units.tolist()) == (0, "affine", [*range(8)])


def test_tracing_changes_nothing() -> None:
    for net in nets.EXACT:
        model = nets.randomised(net())
        before = copy.deepcopy(model.state_dict())
        attributes = [
            {k: v for k, v in vars(m).items() if isinstance(v, int)} for m in model.modules()
        ]
        nets.traced(model)
        assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
        for module, old in zip(model.modules(), attributes, strict=True):
            now = {k: v for k, v in vars(module).items() if isinstance(v, int)}
            assert now == old
            assert all(type(v) in (int, bool) for v in now.values())
            assert not module._forward_hooks and not module._forward_pre_hooks
        assert not model.training


def test_the_same_model_gives_the_same_graph() -> None:
    model = nets.randomised(nets.Heads())
    one, two = nets.traced(model), nets.traced(model)
    assert [a.tensor for a in one.axes] == [a.tensor for a in two.axes]
    for a, b in zip(one.axes, two.axes, strict=True):
        np.testing.assert_array_equal(a.units, b.units)
    assert one.frozen == two.frozen


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_any_precision_traces_alike(dtype: torch.dtype) -> None:
    graph = nets.traced(nets.randomised(nets.Heads()).to(dtype))
    assert lines(graph, "out") == OUT[nets.Heads]


def test_an_example_may_be_given() -> None:
    graph = trace(nets.randomised(nets.Chain()), torch.zeros(1, 3, 10, 12))
    assert graph.input_shape == (1, 3, 10, 12)
    assert lines(graph, "out") == OUT[nets.Chain]


def test_a_larger_picture_is_tried_where_a_small_one_fails() -> None:
    class Demanding(nets.Chain):
        def forward(self, x: Tensor) -> Tensor:
            if x.shape[-1] < 100:
                raise RuntimeError("too small")
            return super().forward(x)

    assert trace(nets.randomised(Demanding())).input_shape == (1, 3, 128, 128)


def test_a_model_that_fails_is_told_in_one_line() -> None:
    class Broken(nets.Chain):
        def forward(self, x: Tensor) -> Tensor:
            raise ValueError("no way through")

    with pytest.raises(TraceError, match=re.escape("the forward pass fails")) as caught:
        trace(nets.randomised(Broken()))
    assert "no way through" in str(caught.value)
    assert "\n" not in str(caught.value)
