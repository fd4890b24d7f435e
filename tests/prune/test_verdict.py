"""What is said of a cut network, from what was measured."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from nets import Chain

from yoloprune.channels import trace
from yoloprune.measure.pictures import Pictures
from yoloprune.models.door import load
from yoloprune.prune.calibrate import repair_warnings
from yoloprune.prune.repair import LayerRepair, RepairRecord
from yoloprune.prune.verdict import head_error, judge


def record(**errors: float) -> RepairRecord:
    layers = tuple(
        LayerRepair(path=path, before=1.0, after=error, pull=0.1, rows=9, seconds=0.0)
        for path, error in errors.items()
    )
    return RepairRecord(pictures=8, held_out=2, drift=None, layers=layers, seconds=1.0)


def said(before: float | None, after: float | None, **more: Any) -> Any:
    given: dict[str, Any] = {
        "head_error": None, "free": False, "arbitrary": False, "even": False, "model": "m.pt",
        "data": None, "repair": None,
    }  # fmt: skip
    sides = [{} if v is None else {"AP": v} for v in (before, after)]
    given |= more
    return judge(sides[0], sides[1], given.pop("repair"), **given)


@pytest.mark.parametrize(
    ("after", "state", "epochs"),
    [(0.60, "works", 0), (0.57, "needs training", 5), (0.5, "needs training", 20),
     (0.3, "needs training", 40), (0.01, "dead", 100), (0.0, "dead", 100)],
)  # fmt: skip
def test_accuracy_decides_where_it_was_measured(after: float, state: str, epochs: int) -> None:
    found = said(0.61, after, data="d.yaml", free=True, head_error=0.9, repair=record())
    assert (found.state, found.epochs) == (state, epochs)
    assert f"AP {after:.3f}, before the cut 0.610" in found.words
    if epochs:
        assert found.next == f"yoloprune train m.pt --data d.yaml --epochs {epochs}"
    else:
        assert found.next == "yoloprune export m.pt --format onnx"


@pytest.mark.parametrize(
    ("error", "state", "epochs"),
    [(0.02, "works", 0), (0.08, "needs training", 5), (0.3, "needs training", 20),
     (0.7, "dead", 100)],
)  # fmt: skip
def test_else_the_error_on_pictures(error: float, state: str, epochs: int) -> None:
    found = said(None, None, repair=record(), head_error=error)
    assert (found.state, found.epochs) == (state, epochs)
    assert f"off by {error:.1%}" in found.words


def test_other_shares_than_even_ones_are_named_where_training_is_needed() -> None:
    for after, named in ((0.3, True), (0.01, True), (0.609, False)):
        found = said(0.61, after, even=True, repair=record())
        assert ("--search 2m" in found.words) is named
    assert "--search" not in said(0.61, 0.3, repair=record()).words


def test_else_the_scales() -> None:
    assert said(None, None, free=True).state == "works"
    dead = said(None, None)
    assert dead.state == "dead" and "--calib" in dead.next


def test_the_error_of_the_head_is_that_of_the_layers_that_end_the_network() -> None:
    graph = trace(Chain())
    assert head_error(record(**{"a.0": 0.9, "b.0": 0.8, "out": 0.25}), graph) == 0.25
    assert head_error(record(**{"a.0": 0.9}), graph) is None


def test_a_choice_by_scores_that_are_all_alike_is_called_arbitrary() -> None:
    assert said(0.61, 0.3, arbitrary=True).words.endswith("so that the choice was arbitrary)")
    assert "arbitrary" not in said(0.61, 0.3).words
    assert "arbitrary" not in said(0.61, 0.61, arbitrary=True).words  # it works: who cares


def test_heads_of_darknet_end_it_too_though_what_they_select_is_frozen_for_another_reason() -> None:
    graph = trace(load("yoloprune-demo.cfg", scratch=True)[0])
    heads = {
        axis.module
        for axis in graph.out_axes
        if "output of the model" in {graph.frozen.get(int(unit)) for unit in axis.units}
    }
    assert heads
    made = record(**dict.fromkeys(heads, 0.25), inside=0.9)
    assert head_error(made, graph) == 0.25
    assert head_error(replace(made, left_out=True, apart=(0.6, 9.0)), graph) == 0.6


def test_a_repair_that_is_left_out_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    shots = Pictures(files=(), images=torch.zeros(1, 3, 8, 8), source="shots", placements=())
    assert repair_warnings(record(), shots) == []
    harmed = replace(record(), left_out=True, apart=(0.6, 9.0))
    (text,) = repair_warnings(harmed, shots)
    assert "went from an error of 0.6 to 9 of its variance" in text and text in caplog.text
