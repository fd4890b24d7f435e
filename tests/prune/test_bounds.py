"""Shares of single layers, in small nets and real ones: what matches, holds and is told."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nets import Chain, Concat, Residual
from random_nets import RandomNet
from torch import Tensor, nn

from yoloprune.channels.graph import ChannelGraph
from yoloprune.channels.trace import trace
from yoloprune.darknet.cfg import read_cfg
from yoloprune.darknet.network import DarknetModel
from yoloprune.errors import PlanError
from yoloprune.measure.size import count
from yoloprune.models.door import load
from yoloprune.prune.areas import with_areas
from yoloprune.prune.bounds import Bounds, resolve
from yoloprune.prune.budget import Budget
from yoloprune.prune.cost import Costs
from yoloprune.prune.cut import cut_units
from yoloprune.prune.plan import PrunePlan
from yoloprune.prune.planner import Planner
from yoloprune.prune.ratios import Rule, parse_ratios
from yoloprune.prune.score import Scores

REPO = Path(__file__).resolve().parents[2]


class Case:
    """A network, random scores of its channels, and what plans of it cost."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.graph: ChannelGraph = trace(model)
        self.costs = Costs(model, self.graph, count(model, 64))
        self.planner = Planner(self.graph, self.costs)
        values = np.random.default_rng(0).random(self.graph.n_units)
        self.scores = Scores(values=values, criterion="random")

    def plan(self, rules: dict[str, Any], **budget: Any) -> PrunePlan:
        loose = {"min_channels": 1, "max_layer_prune": 1.0, **budget}
        asked = Budget(**loose, ratios=parse_ratios(rules, "rules"))
        return self.planner.plan(self.scores, with_areas(asked, self.model))

    def gone(self, rules: dict[str, Any], **budget: Any) -> dict[str, int]:
        """Channels that each layer loses."""
        found = self.plan(rules, **budget).layers
        return {axis.module: len(found.get(axis.module, ())) for axis in self.graph.out_axes}

    def sizes(self) -> dict[str, int]:
        return {axis.module: int(axis.units.size) for axis in self.graph.out_axes}


@cache
def real(name: str) -> Case:
    if name.endswith(".yaml"):
        return Case(load(name)[0].eval())
    return Case(DarknetModel(read_cfg(REPO / "cfg" / name)).eval())


# Names --------------------------------------------------------------------------------------


def test_the_last_rule_that_matches_holds_alone() -> None:
    layers = ("model.2.cv1.conv", "model.2.cv2.conv", "model.22.cv1.conv")

    def found(*patterns: str) -> dict[str, str]:
        rules = tuple(Rule(pattern=p, share=0.1) for p in patterns)
        return {path: rule.pattern for path, rule in resolve(layers, rules).items()}

    assert found("model.2") == dict.fromkeys(layers[:2], "model.2")
    assert found("model.2*") == dict.fromkeys(layers, "model.2*")
    assert found("model.2.*", "*.cv1.conv") == {
        layers[0]: "*.cv1.conv", layers[1]: "model.2.*", layers[2]: "*.cv1.conv",
    }  # fmt: skip
    assert found("*.cv1.conv", "model.2.*") == {
        layers[0]: "model.2.*", layers[1]: "model.2.*", layers[2]: "*.cv1.conv",
    }  # fmt: skip
    assert found("model.2.cv2.conv") == {layers[1]: "model.2.cv2.conv"}


@pytest.mark.parametrize(
    ("pattern", "near"),
    [("model.4.cv1.convs", "model.4.cv1.conv"), ("modle.22.*", "model.22"), ("cv1", "matches no")],
)
def test_a_pattern_that_matches_nothing_is_told_with_near_names(pattern: str, near: str) -> None:
    with pytest.raises(PlanError, match=re.escape(f"ratios: {pattern}: matches no layer")) as found:
        real("yolov8n.yaml").plan({pattern: 0.1})
    assert near in str(found.value)


def test_areas_of_both_families() -> None:
    def tops(name: str, area: str) -> list[int]:
        case = real(name)
        rules = parse_ratios({f"{area}.*": 0.1}, "rules")
        budget = with_areas(Budget(ratios=rules), case.model)
        paths = resolve(tuple(case.sizes()), budget.ratios)
        return sorted({int(path.split(".")[1]) for path in paths})

    eight = "yolov8n.yaml"  # its YAML has ten layers in backbone and thirteen in head
    assert tops(eight, "backbone") == list(range(10))
    assert tops(eight, "neck") == [12, 15, 16, 18, 19, 21]
    assert tops(eight, "head") == [22]
    # Layers 28 and 29 make the first [yolo], 30; 35 and 36 the second. 33 is [upsample].
    assert tops("yolov4-tiny.cfg", "backbone")[-2:] == [26, 27]
    assert tops("yolov4-tiny.cfg", "neck") == [32]
    assert tops("yolov4-tiny.cfg", "head") == [28, 29, 35, 36]
    assert real("yolov4-tiny.cfg").gone({12: 0.25})["model.12.conv"] == 16
    with pytest.raises(PlanError, match=r"backbone: this model does not say what its backbone is"):
        Case(Chain()).plan({"backbone": 0.3})


class Headed(Chain):
    """A chain whose second layer is called head."""

    def __init__(self) -> None:
        super().__init__()
        self.head = self.b
        del self.b

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.head(self.a(x)))


def test_a_module_that_is_called_head_is_no_area() -> None:
    assert Case(Headed()).gone({"head": 0.5}) == {"a.0": 0, "head.0": 3, "out": 0}


# Shares -------------------------------------------------------------------------------------


def test_named_layers_alone_are_cut_where_there_is_no_budget() -> None:
    assert Case(Chain()).gone({"a": 0.3}) == {"a.0": 2, "b.0": 0, "out": 0}  # 2.4 of 8
    assert Case(Chain()).gone({"a": 0.45}) == {"a.0": 4, "b.0": 0, "out": 0}  # 3.6
    assert Case(Chain()).gone({"a": {"min": 0.3}}) == {"a.0": 3, "b.0": 0, "out": 0}
    assert Case(Chain()).gone({"*": 0.5, "b": 0}) == {"a.0": 4, "b.0": 0, "out": 0}


def test_the_lowest_scores_go() -> None:
    case = Case(Chain())
    gone = case.plan({"a": 0.5}).layers["a.0"]
    units = next(axis.units for axis in case.graph.out_axes if axis.module == "a.0")
    assert set(gone) == set(np.argsort(case.scores.values[units])[:4].tolist())


def test_floors_and_ceilings_bound_what_a_budget_takes() -> None:
    case = Case(Chain())  # 8 + 6 channels
    assert case.gone({"a": 0.25}, percent=0.5) == {"a.0": 2, "b.0": 5, "out": 0}
    assert case.gone({"b": 0}, percent=0.4) == {"a.0": 6, "b.0": 0, "out": 0}
    assert case.gone({"b": {"keep": 5}}, percent=0.5) == {"a.0": 6, "b.0": 1, "out": 0}
    assert case.gone({"b": {"max": 0.2}}, percent=0.5) == {"a.0": 6, "b.0": 1, "out": 0}
    assert case.gone({"b": {"min": 0.8}}, percent=0.4) == {"a.0": 1, "b.0": 5, "out": 0}


def test_what_cannot_be_is_told_with_figures() -> None:
    case = Case(Chain())
    notes = case.plan({"a": 0.9}, min_channels=4).notes
    assert notes[0].startswith(
        "ratios: a: 0.9: not met to the channel by 1 of 1 layers: a.0 loses 4 of 8 (50.0%). "
        "Held by --min-channels 4"
    )
    notes = case.plan({"a": 0.5, "out": 0.5}).notes
    assert notes == ("ratios: out: 0.5: stays whole because frozen: out (output of the model).",)


def test_a_floor_holds_after_rounding_and_a_share_is_rounded_up() -> None:
    class Wide(Chain):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 32, 1), nn.Conv2d(32, 32, 1)
            self.out = nn.Conv2d(32, 4, 1)

    case = Case(Wide())
    assert case.gone({"a": {"min": 0.3}, "b": 0.3}, round_to=8) == {"a": 16, "b": 8, "out": 0}
    assert case.gone({"a": {"min": 0.3, "max": 0.4}}, round_to=8)["a"] == 8  # 16 would be half


# Ties ---------------------------------------------------------------------------------------


def test_contradictions_of_tied_layers_name_both() -> None:
    case = Case(Residual())  # a and c share their channels
    assert case.gone({"a": 0.5}) == {"a.0": 4, "b.0": 0, "c.0": 4, "out": 0}
    with pytest.raises(
        PlanError, match=r"a\.0 and c\.0 share channels: 'a: 0.5' takes 4 of 8, 'c: 0'"
    ):
        case.plan({"a": 0.5, "c": 0})
    with pytest.raises(PlanError, match=r"c\.0 and a\.0 share channels"):
        case.plan({"a": 0.25, "c": {"min": 0.5}})
    assert case.gone({"a": 0.25, "c": {"max": 0.75}})["a.0"] == 2
    made = case.plan({"a": 0.5, "c": {"max": 0.25}})  # a mere ceiling wins, and it is told
    assert len(made.layers["a.0"]) == 2
    assert "a.0 loses 2 of 8 (25.0%)" in made.notes[0]


def test_part_of_a_layer_may_be_tied() -> None:
    case = Case(Concat())
    assert case.gone({"a": 0.34, "b": 0}) == {"a.0": 1, "b.0": 0, "out": 0}


# Real networks ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["yolov8n.yaml", "yolov4-tiny.cfg", "yoloprune-demo.cfg"])
def test_shares_are_exact_up_to_halves_that_are_tied(name: str) -> None:
    case, share = real(name), 0.3
    gone, sizes = case.gone({"backbone.*": share}), case.sizes()
    rules = with_areas(Budget(ratios=parse_ratios({"backbone": share}, "r")), case.model).ratios
    named = resolve(tuple(sizes), rules)
    assert len(named) > 10
    for path in named:
        assert 0 <= round(share * sizes[path]) - gone[path] <= 1, path
    assert not any(gone[path] for path in sizes if path not in named)
    cut_units(case.model, case.graph, case.plan({"backbone": share}).remove(case.graph))


@pytest.mark.parametrize("name", ["yolov8n.yaml", "yolov4-tiny.cfg", "yoloprune-demo.cfg"])
def test_the_rest_meets_the_budget(name: str) -> None:
    case = real(name)
    rules: dict[str, Any] = {"*": {"max": 0.8}, "head": 0, "0": 0.5}
    for budget in ({"macs": 0.6}, {"percent": 0.3}, {"params": 0.7, "round_to": 8}):
        made = case.plan(rules, **budget)
        assert not made.notes or budget.get("round_to"), made.notes
        kept = np.ones(case.graph.n_units, dtype=bool)
        kept[made.remove(case.graph)] = False
        assert case.costs.macs(kept) <= budget.get("macs", 1) * case.costs.full.macs
        assert case.costs.params(kept) <= budget.get("params", 1) * case.costs.full.params
        assert made.reached.percent >= budget.get("percent", 0)
        sizes = case.sizes()
        for path, out in made.layers.items():
            assert len(out) <= 0.8 * sizes[path] + 1e-9
        heads = (22,) if name.endswith(".yaml") else (28, 29, 35, 36)
        if name != "yoloprune-demo.cfg":
            assert not [p for p in made.layers if int(p.split(".")[1]) in heads]
        assert len(made.layers["model.0.conv"]) == sizes["model.0.conv"] // 2


@settings(deadline=None, max_examples=8)
@given(st.integers(0, 60), st.data())
def test_on_random_networks(seed: int, data: st.DataObject) -> None:
    """No ceiling is ever passed, and floors are missed only where that is told."""
    case = Case(RandomNet(seed))
    paths = list(case.sizes())
    value = st.sampled_from([0, 0.25, 0.5, {"max": 0.3}, {"min": 0.3}, {"keep": 3}])
    named = data.draw(st.lists(st.sampled_from(paths), min_size=1, max_size=3, unique=True))
    rules = {path: data.draw(value) for path in named}
    try:
        made = case.plan(rules, percent=data.draw(st.sampled_from([0.2, 0.5])))
    except PlanError as exc:
        if any(words in str(exc) for words in ("share channels", "can go", "no channel is both")):
            return
        raise
    bounds = Bounds(case.graph, parse_ratios(rules, "rules"))
    for path, bound in bounds.layers.items():
        lost = len(made.layers.get(path, ()))
        assert lost <= bound.most
        told = any(note.startswith(f"ratios: {bound.rule.words}:") for note in made.notes)
        assert lost >= bound.least or told
