"""Two plans side by side, counted by hand."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from yoloprune.prune.budget import Budget
from yoloprune.prune.plan import Origin, PrunePlan, Reached
from yoloprune.prune.plandiff import diff_plans

REACHED = Reached(percent=0.5, channels=6, prunable_channels=12, units=6, threshold=0.1)
A = PrunePlan(
    criterion="gamma",
    budget=Budget(percent=0.5),
    reached=REACHED,
    layers={"x": (0, 1, 5), "y": (2, 3, 4)},
    source=Origin(path="n.pt", sha256="ab" * 32),
)
B = replace(
    A,
    criterion="recon",
    budget=Budget(macs=0.5, round_to=4),
    reached=replace(REACHED, channels=4, units=4),
    layers={"z": (7,), "x": (1, 5, 6)},
)


def test_what_both_and_what_one_removes() -> None:
    found = diff_plans(A, B)
    rows = [(row.layer, row.both, row.only_a, row.only_b) for row in found.layers]
    assert rows == [
        ("x", (1, 5), (0,), (6,)),
        ("y", (), (2, 3, 4), ()),
        ("z", (), (), (7,)),
    ]
    assert [row.overlap for row in found.layers] == [0.5, 0.0, 0.0]
    assert not found.same_cut and found.same_model
    assert found.settings == {
        "criterion": ("gamma", "recon"),
        "budget.percent": (0.5, None),
        "budget.macs": (None, 0.5),
        "budget.round_to": (1, 4),
        "reached.channels": (6, 4),
        "reached.units": (6, 4),
    }
    record = json.loads(json.dumps(found.to_dict()))
    totals = {"both": 2, "only_a": 4, "only_b": 2, "overlap": 0.25}
    assert record["totals"] == totals
    assert record["settings"]["budget.macs"] == {"a": None, "b": 0.5}


def test_the_other_way_round_is_the_mirror() -> None:
    one, two = diff_plans(A, B).total, diff_plans(B, A).total
    assert (len(one.only_a), len(one.only_b)) == (len(two.only_b), len(two.only_a)) == (4, 2)


def test_a_plan_is_like_itself() -> None:
    found = diff_plans(A, A)
    assert found.same_cut and found.settings == {} and found.total.overlap == 1
    nothing = replace(A, layers={})
    assert diff_plans(nothing, nothing).same_cut


@pytest.mark.parametrize(
    ("source", "same"),
    [
        (Origin(path="m.pt", sha256="cd" * 32), False),
        (Origin(path="m.pt", sha256="ab" * 32), True),
        (Origin(path="n.pt"), None),
        (None, None),
    ],
)
def test_models_are_told_apart_by_their_digest(source: Origin | None, same: bool | None) -> None:
    found = diff_plans(A, replace(A, source=source))
    assert found.same_model is same
    assert ("source.sha256" in found.settings) == (same is not True)


def test_blocks_are_told_apart() -> None:
    one, two = replace(A, blocks=("m.1", "m.2")), replace(A, blocks=("m.2", "m.5"))
    found = diff_plans(one, two)
    assert (found.blocks.both, found.blocks.only_a, found.blocks.only_b) == (
        ("m.2",), ("m.1",), ("m.5",),
    )  # fmt: skip
    assert not found.same_cut and not found.blocks.same
    assert diff_plans(one, one).same_cut and diff_plans(A, A).blocks.same
    record = json.loads(json.dumps(found.to_dict()))
    assert record["blocks"] == {"both": ["m.2"], "only_a": ["m.1"], "only_b": ["m.5"]}
