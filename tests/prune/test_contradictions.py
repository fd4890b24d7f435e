"""Every contradiction of a plan, named by layer and channel."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import nets
import numpy as np
import pytest
from torch import nn

from yoloprune.channels import trace
from yoloprune.channels.graph import ChannelGraph
from yoloprune.channels.producers import remove_to_layers
from yoloprune.errors import PlanError
from yoloprune.models.door import load
from yoloprune.prune.contradictions import check_layers
from yoloprune.prune.cut import kept_units

Layers = Mapping[str, Sequence[int]]


def graph_of(net: type[nn.Module]) -> ChannelGraph:
    return nets.traced(nets.randomised(net()))


@pytest.mark.parametrize("net", nets.EXACT, ids=lambda net: net.__name__)
def test_what_can_go_goes(net: type[nn.Module]) -> None:
    graph = graph_of(net)
    remove = nets.random_units(graph)
    found = check_layers(graph, remove_to_layers(graph, remove))
    assert found.dtype == np.int64
    assert found.tolist() == remove.tolist()
    assert check_layers(graph, {}).size == 0


CASES = {
    "no such layer": (
        nets.Chain, {"a.O": [1]},
        "p.json: a.O: no layer of this model has this name. Is a.0 meant?",
    ),
    "a block": (nets.Chain, {"b": [1]}, "b: no layer of this model has this name. Is b.0 meant?"),
    "nothing like it": (nets.Chain, {"q?": [1]}, "q?: no layer of this model has this name. Was"),
    "a norm": (nets.Chain, {"a.1": [1]}, "a.1: creates no channels that could go, it takes those "
               "of a.0 0–7. Name these instead."),
    "depthwise": (nets.Depthwise, {"dw.0": [1]}, "dw.0: creates no channels that could go, it "
                  "takes those of a.0 0–7"),
    "out of range": (nets.Chain, {"b.0": [2, 6, 99]}, "b.0: has no output channel 6, 99, expected "
                     "0 to 5."),
    "negative": (nets.Chain, {"b.0": [-1]}, "b.0: has no output channel -1, expected 0 to 5."),
    "frozen": (nets.Chain, {"out": [0, 2]}, "out: channels 0, 2 must stay (output of the model). "
               "Take out [0, 2]."),
    "tied, both listed": (
        nets.Residual, {"a.0": [2, 5], "c.0": [5]},
        "a.0: channel 2 can only go together with channel 2 of c.0, which the plan keeps. Add [2] "
        "to c.0, or take [2] out of a.0.",
    ),
    "tied, one listed": (
        nets.Residual, {"c.0": [2, 5]},
        'c.0: channels 2, 5 can only go together with channels 2, 5 of a.0, which the plan keeps. '
        'Add "a.0": [2, 5], or take [2, 5] out of c.0.',
    ),
    "unequal halves": (
        nets.GroupedRoute, {"a.0": [0, 1, 4]},
        "a.0: equal numbers must stay on the 2 sides of chunk(2) in the model, the plan keeps 2 of "
        "4 (a.0 0–3) against 3 of 4 (a.0 4–7).",
    ),
    "unequal groups": (
        nets.Grouped, {"g.0": [0, 1]},
        "g.0: equal numbers must stay on the 2 sides of 2 groups out of g.0, the plan keeps 1 of 3 "
        "(g.0 0–2) against 3 of 3 (g.0 3–5).",
    ),
    "empty layer": (nets.Chain, {"a.0": list(range(8))}, "a.0: all 8 output channels of a.0 would "
                    "go. Take at least one back."),
    "empty, tied": (
        nets.GroupedRoute, {"a.0": list(range(8))}, "a.0: all 8 output channels of a.0 would go."
    ),
}  # fmt: skip


@pytest.mark.parametrize(("net", "layers", "message"), CASES.values(), ids=CASES)
def test_each_is_named(net: type[nn.Module], layers: Layers, message: str) -> None:
    with pytest.raises(PlanError, match=re.escape(message)) as found:
        check_layers(graph_of(net), layers, "p.json")
    assert "contradictions" not in str(found.value)


def test_a_reader_of_one_part_is_never_left_without_input() -> None:
    with pytest.raises(PlanError) as found:
        check_layers(graph_of(nets.GroupedRoute), {"a.0": [4, 5, 6, 7]})
    text = str(found.value)
    assert text.startswith("plan: 2 contradictions: (1) a.0: nothing would be left of the 4 chan")
    assert "that b.0 takes (a.0 4–7). Take at least one back. (2) a.0: equal numbers mus" in text


def test_several_are_told_with_their_number() -> None:
    layers = {"x.0": [0], "out": [1], "b.0": [0, 77], "a.0": [*range(8)], "y": [3]}
    with pytest.raises(PlanError) as found:
        check_layers(graph_of(nets.Chain), layers, "p.json")
    text = str(found.value)
    assert text.startswith("p.json: 5 contradictions: (1) x.0: no layer")
    assert "(2) out: channel 1 must stay" in text and "(3) b.0: has no output channel 77" in text
    assert text.endswith("And 2 more.") and "(4)" not in text and "\n" not in text


@pytest.fixture(scope="module")
def yolov8n() -> ChannelGraph:
    return trace(load("yolov8n.yaml")[0])


def test_a_real_network(yolov8n: ChannelGraph) -> None:
    def told(layers: Layers) -> str:
        with pytest.raises(PlanError) as found:
            check_layers(yolov8n, layers)
        return str(found.value)

    assert "model.22.cv2.0.2: channel 3 must stay (output of the mod" in told(
        {"model.22.cv2.0.2": [3]}
    )
    assert "Is model.22.cv2.0.2 meant?" in told({"model.22.cv2.0.3": [3]})
    assert (
        "model.2.cv1.conv: channel 20 can only go together with channel 4 of model.2.m.0.cv2.conv, "
        'which the plan keeps. Add "model.2.m.0.cv2.conv": [4]'
    ) in told({"model.2.cv1.conv": [4, 20]})
    assert (
        "equal numbers must stay on the 2 sides of chunk(2) in model.2, the plan keeps 15 of 16 "
        "(model.2.cv1.conv 0–15) against 16 of 16 (model.2.cv1.conv 16–31"
    ) in told({"model.2.cv1.conv": [4]})
    good = {"model.2.cv1.conv": [4, 20], "model.2.m.0.cv2.conv": [4], "model.0.conv": [0, 15]}
    remove = check_layers(yolov8n, good)
    assert remove.size == 4  # 4 | 20 with 4 of the other | 0 | 15
    assert {path: list(out) for path, out in remove_to_layers(yolov8n, remove).items()} == good
    assert int((~kept_units(yolov8n, remove)).sum()) == 4
