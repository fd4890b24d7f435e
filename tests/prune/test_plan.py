"""The planner on hand-made and random graphs, and the plan's JSON.

The oracles are hand-counted graphs, a naive one-by-one walk written here, and invariants that
are recounted from the graph with plain loops.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yoloprune.channels.graph import Balance, ChannelGraph, Group, TensorAxis
from yoloprune.errors import PlanError, YoloPruneError
from yoloprune.prune.budget import Budget
from yoloprune.prune.plan import Origin, PrunePlan
from yoloprune.prune.planner import Planner, plan
from yoloprune.prune.score import Scores


def graph_of(
    layers: dict[str, list[int]],
    readers: dict[str, list[int]] | None = None,
    balances: list[tuple[list[int], ...]] | None = None,
    frozen: dict[int, str] | None = None,
) -> ChannelGraph:
    """A graph from plain lists: layer → unit of each output, reader → units it takes in."""
    axes = [
        TensorAxis(
            tensor=f"{name}.weight", dim=0, units=np.array(units, dtype=np.int64), role="out"
        )
        for name, units in layers.items()
    ]
    axes += [
        TensorAxis(tensor=f"{name}.weight", dim=1, units=np.array(units, dtype=np.int64), role="in")
        for name, units in (readers or {}).items()
    ]
    n_units = 1 + max(int(axis.units.max()) for axis in axes)
    stands_in: defaultdict[int, list[int]] = defaultdict(list)
    for i, axis in enumerate(axes):
        for unit in sorted(set(axis.units.tolist())):
            stands_in[unit].append(i)
    classes: defaultdict[tuple[int, ...], list[int]] = defaultdict(list)
    for unit in range(n_units):
        classes[tuple(stands_in[unit])].append(unit)
    groups = tuple(
        Group(
            index=i,
            units=np.array(units, dtype=np.int64),
            layers=tuple(axes[j].module for j in where if axes[j].role == "out"),
        )
        for i, (where, units) in enumerate(classes.items())
    )
    return ChannelGraph(
        n_units=n_units,
        frozen=frozen or {},
        axes=tuple(axes),
        fields=(),
        balances=tuple(
            Balance(parts=tuple(np.array(p, dtype=np.int64) for p in parts), reason="test")
            for parts in balances or []
        ),
        groups=groups,
    )


def scores_of(values: object) -> Scores:
    return Scores(values=np.asarray(values, dtype=np.float64), criterion="gamma")


def loose(percent: float, **more: float) -> Budget:
    """A budget whose floors bind as little as possible."""
    return Budget(**{"percent": percent, "min_channels": 1, "max_layer_prune": 1.0, **more})


def assert_holds(graph: ChannelGraph, remove: np.ndarray, budget: Budget) -> None:
    """Recount every promise with plain Python."""
    gone = set(remove.tolist())
    assert gone.isdisjoint(graph.frozen)
    for axis in graph.axes:
        kept = sum(unit not in gone for unit in axis.units.tolist())
        size = axis.units.size
        assert kept >= 1
        if axis.role == "out":
            assert kept >= min(budget.min_channels, size), axis.tensor
            assert size - kept <= size * budget.max_layer_prune + 1e-9, axis.tensor
            assert kept == size or kept % budget.round_to == 0, axis.tensor
    for group in graph.groups:
        kept = sum(unit not in gone for unit in group.units.tolist())
        assert kept == group.units.size or kept % budget.round_to == 0
    for balance in graph.balances:
        counts = {sum(u not in gone for u in part.tolist()) for part in balance.parts}
        assert len(counts) == 1, balance


# Hand-counted graphs ------------------------------------------------------------------------


def test_lowest_scores_go_and_the_percent_is_of_channels() -> None:
    # Units 0-3 stand in one conv, 4-7 in two (a shortcut): 4 + 2 * 4 = 12 channels.
    graph = graph_of({"a": [0, 1, 2, 3], "b": [4, 5, 6, 7], "c": [4, 5, 6, 7]})
    scores = scores_of([0.1, 0.9, 0.8, 0.7, 0.6, 0.2, 0.5, 0.3])
    made = plan(graph, scores, loose(0.4))
    # 0.4 * 12 = 4.8: unit 0 (1 channel), then 5 and 7 (2 each) give 5.
    assert made.layers == {"a": (0,), "b": (1, 3), "c": (1, 3)}
    assert made.reached.channels == 5
    assert made.reached.prunable_channels == 12
    assert made.reached.units == 3
    assert made.reached.percent == pytest.approx(5 / 12)
    assert made.reached.threshold == 0.3
    assert made.remove(graph).tolist() == [0, 5, 7]
    assert made.notes == ()


def test_exact_percent_is_not_overshot_by_rounding_error() -> None:
    graph = graph_of({f"l{i}": list(range(i * 10, i * 10 + 10)) for i in range(10)})
    for percent in (0.07, 0.3, 0.55):  # 0.55 * 100 is 55.00000000000001 in floats
        made = plan(graph, scores_of(np.arange(100.0) % 10), loose(percent))
        assert made.reached.channels == round(percent * 100)


def test_ties_go_by_unit_number() -> None:
    graph = graph_of({"a": [0, 1, 2, 3], "b": [4, 5, 6, 7]})
    assert Planner(graph).choose(scores_of(np.zeros(8)), loose(0.5)).tolist() == [0, 1, 2, 4]


def test_floor_in_channels_passes_over_a_layer_and_goes_on_elsewhere() -> None:
    graph = graph_of({"a": [0, 1, 2, 3], "b": [4, 5, 6, 7]})
    remove = Planner(graph).choose(scores_of([0, 0, 0, 0, 5, 6, 7, 8]), loose(0.5, min_channels=2))
    assert remove.tolist() == [0, 1, 4, 5]


def test_floor_as_a_share() -> None:
    graph = graph_of({"a": list(range(10)), "b": list(range(10, 20))})
    remove = Planner(graph).choose(scores_of(np.arange(20.0)), loose(0.45, max_layer_prune=0.7))
    assert remove.tolist() == [0, 1, 2, 3, 4, 5, 6, 10, 11]


def test_a_layer_narrower_than_the_floor_stays_whole() -> None:
    graph = graph_of({"a": [0, 1, 2], "b": list(range(3, 19))})
    remove = Planner(graph).choose(scores_of(np.arange(19.0)), loose(0.4, min_channels=8))
    assert remove.tolist() == list(range(3, 11))


def test_a_reader_of_one_half_is_never_left_without_input() -> None:
    # The layer keeps its floor by its second half, but a conv reads only the first.
    graph = graph_of({"a": list(range(8))}, {"half": [0, 1, 2, 3], "rest": [4, 5, 6, 7]})
    remove = Planner(graph).choose(scores_of(np.arange(8.0)), loose(0.5))
    assert remove.tolist() == [0, 1, 2, 4]


def test_two_halves_pair_rank_by_rank() -> None:
    # Each half loses its own lowest; pair means: (0+3)/2, (1+4)/2, (2+50)/2, (90+60)/2.
    graph = graph_of({"a": list(range(8))}, balances=[([0, 1, 2, 3], [4, 5, 6, 7])])
    scores = scores_of([2, 0, 90, 1, 3, 60, 4, 50])
    assert Planner(graph).choose(scores, loose(0.25)).tolist() == [1, 4]
    assert Planner(graph).choose(scores, loose(0.5)).tolist() == [1, 3, 4, 6]
    assert Planner(graph).choose(scores, loose(0.75)).tolist() == [0, 1, 3, 4, 6, 7]


def test_a_frozen_unit_in_one_half_keeps_the_best_of_the_other() -> None:
    graph = graph_of({"a": list(range(6))}, balances=[([0, 1, 2], [3, 4, 5])], frozen={0: "asked"})
    remove = Planner(graph).choose(scores_of([0, 1, 2, 9, 3, 4]), loose(0.8))
    assert remove.tolist() == [1, 2, 4, 5]


def test_nested_chunks_stay_balanced_in_small_bundles() -> None:
    # a is cut in two halves, and each half in two again: quarters must be equal.
    inner = [([0, 1, 2, 3], [4, 5, 6, 7]), ([8, 9, 10, 11], [12, 13, 14, 15])]
    graph = graph_of(
        {"a": list(range(16))}, balances=[(list(range(8)), list(range(8, 16))), *inner]
    )
    scores = scores_of(np.random.default_rng(0).random(16))
    remove = Planner(graph).choose(scores, loose(0.25))
    assert remove.size == 4
    by_quarter = scores.values.reshape(4, 4).argmin(axis=1) + np.arange(0, 16, 4)
    assert remove.tolist() == by_quarter.tolist()


def test_nested_chunks_do_not_grow_into_one_chain() -> None:
    # Each half ranks its units in an order of its own; paired unit by unit, the pairs within
    # the halves would tie nearly everything together, and no small share could go.
    quarters = np.arange(64).reshape(4, 16).tolist()
    inner = [(quarters[0], quarters[1]), (quarters[2], quarters[3])]
    outer = (quarters[0] + quarters[1], quarters[2] + quarters[3])
    graph = graph_of({"a": list(range(64))}, balances=[outer, *inner])
    scores = scores_of(np.random.default_rng(1).random(64))
    for share in range(1, 15):
        assert Planner(graph).choose(scores, loose(share / 16)).size == 4 * share


def test_units_shared_by_both_halves_need_no_partner() -> None:
    # 0 and 1 are added to themselves over the halves; only 2|4 and 3|5 are pairs.
    graph = graph_of({"a": [0, 1, 2, 3, 0, 1, 4, 5]}, balances=[([0, 1, 2, 3], [0, 1, 4, 5])])
    remove = Planner(graph).choose(scores_of([1, 9, 2, 8, 3, 7]), loose(0.5))
    assert remove.tolist() == [0, 2, 4]


def test_rounding_keeps_more_and_makes_up_for_it_elsewhere() -> None:
    # Unrounded, 32 of 64 would go: 13 of a, 19 of b. Kept counts must be 8s: 19 → 24, 13 → 16;
    # 8 + 16 = 24 are gone, so the threshold moves until a third block of 8 is full.
    graph = graph_of({"a": list(range(32)), "b": list(range(32, 64))})
    values = np.concatenate([np.arange(32) * 3.0 + 0.5, np.arange(32) * 2.0])
    made = plan(graph, scores_of(values), loose(0.5, round_to=8))
    # The next block of a is full at score 45.5, of b at 46: a wins.
    assert {path: len(out) for path, out in made.layers.items()} == {"a": 16, "b": 16}
    assert made.reached.percent == 0.5
    assert made.layers["a"] == tuple(range(16))


def test_rounding_holds_for_layers_made_of_several_groups() -> None:
    # Groups of 24 and 40 in one layer, multiples of 16: the first can only stay whole or lose 8.
    graph = graph_of(
        {"a": list(range(64)), "b": list(range(64, 128))},
        {"x": list(range(24)), "y": list(range(24, 64)), "z": list(range(64, 128))},
    )
    for seed in range(20):
        scores = scores_of(np.random.default_rng(seed).random(128))
        budget = loose(0.4, round_to=16)
        made = plan(graph, scores, budget)
        assert_holds(graph, made.remove(graph), budget)
        assert made.reached.percent >= 0.4


def test_an_original_that_is_no_multiple_may_stay_whole() -> None:
    # Only three of a's 20 are low: 17 would be kept, which rounds up to more than 20.
    graph = graph_of({"a": list(range(20)), "b": list(range(20, 52))})
    scores = scores_of(np.r_[np.zeros(3), np.full(17, 9.0), np.full(32, 1.0)])
    remove = Planner(graph).choose(scores, loose(0.3, round_to=16))
    assert remove.tolist() == list(range(20, 36))


def test_floors_that_hold_the_plan_back_are_told() -> None:
    graph = graph_of({"a": list(range(16))})
    made = plan(graph, scores_of(np.arange(16.0)), Budget(percent=0.9, max_layer_prune=1.0))
    assert made.reached.channels == 8
    assert made.notes == (
        "asked for 90.0%, reached 50.0%: the rest is held by --min-channels 8, "
        "--max-layer-prune 1.",
    )


def test_unscored_units_stay_and_are_told() -> None:
    graph = graph_of({"a": [0, 1, 2], "head": [3, 4]})
    scores = Scores(
        values=np.array([1.0, 2, 3, np.nan, np.nan]), criterion="gamma", missing="no scale"
    )
    made = plan(graph, scores, loose(0.6))
    assert made.layers == {"a": (0, 1)}
    assert made.reached.prunable_channels == 3
    assert made.notes == ("2 channels are kept because they have no scale: head.",)


@pytest.mark.parametrize(
    ("flag", "value"),
    [("percent", v) for v in (0, 1, 1.5, -0.1, float("nan"), float("inf"), True, "0.5")]
    + [("min_channels", v) for v in (0, -1, 1.5, True)]
    + [("max_layer_prune", v) for v in (0, 1.01, float("nan"))]
    + [("round_to", v) for v in (0, 2.0)],
)
def test_budget_refuses_by_flag(flag: str, value: object) -> None:
    with pytest.raises(PlanError, match=rf"^--{flag.replace('_', '-')}: must be .* got .*\.$"):
        Budget(**{"percent": 0.5, flag: value})


def test_nothing_to_remove_is_an_error() -> None:
    graph = graph_of({"a": [0, 1, 2, 3]})
    with pytest.raises(PlanError, match="none of 4 prunable channels can go.*min-channels 8"):
        plan(graph, scores_of(np.arange(4.0)), Budget(percent=0.5))
    with pytest.raises(PlanError, match="no channel is both prunable and scored"):
        plan(graph, scores_of(np.full(4, np.nan)), Budget(percent=0.5))
    with pytest.raises(PlanError, match=r"shape \(3,\), expected \(4,\)"):
        plan(graph, scores_of(np.zeros(3)), Budget(percent=0.5))


def test_a_grouped_transposed_conv_lists_its_outputs_by_group() -> None:
    graph = graph_of({"a": list(range(8))}, {"next": list(range(8))})
    (out, reader) = graph.axes
    grouped = replace(graph, axes=(replace(out, units=out.units.reshape(2, 4), dim=1), reader))
    budget = loose(0.7, min_channels=4)
    remove = Planner(grouped).choose(scores_of(np.arange(8.0)), budget)
    assert remove.tolist() == [0, 1, 2, 4]  # neither group may run empty


def test_a_unit_that_stands_twice_in_a_layer_counts_twice_in_its_multiple() -> None:
    # Groups of 2, both multiples of 2, but the layer holds unit 0 twice.
    graph = graph_of({"a": [0, 0, 1, 2, 3], "b": list(range(4, 12))}, {"x": [0, 1], "y": [2, 3]})
    budget = loose(0.45, round_to=2)
    remove = Planner(graph).choose(scores_of(np.arange(12.0)), budget)
    assert_holds(graph, remove, budget)


def test_unequal_parts_are_an_error() -> None:
    graph = graph_of({"a": [0, 1, 2]}, balances=[([0, 1], [2])])
    with pytest.raises(PlanError, match="parts hold 2, 1 units"):
        Planner(graph)


# Random graphs ------------------------------------------------------------------------------


@st.composite
def graphs(draw: st.DrawFn) -> ChannelGraph:
    """Layers that share units, cats and slices as readers, frozen units, tangled balances."""
    layers: dict[str, list[int]] = {}
    n = 0
    for i in range(draw(st.integers(1, 6))):
        width = draw(st.integers(1, 24))
        units = list(range(n, n + width))
        n += width
        layers[f"l{i}"] = units
        if draw(st.booleans()):
            layers[f"tied{i}"] = units
    if draw(st.booleans()):  # a layer tied to parts of others
        layers["mixed"] = draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=12))
    readers = {}
    for i in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, n - 1))
        readers[f"r{i}"] = list(range(start, draw(st.integers(start + 1, n))))
    balances = []
    for _ in range(draw(st.integers(0, 4))):
        count = draw(st.integers(2, 3))
        size = draw(st.integers(1, max(1, n // count)))
        if draw(st.booleans()):  # a chunk of consecutive units, may overlap others
            start = draw(st.integers(0, max(0, n - count * size)))
            pool = list(range(start, min(n, start + count * size)))
        else:
            pool = draw(st.lists(st.integers(0, n - 1), min_size=count, max_size=18))
        size = len(pool) // count
        if size:
            balances.append(tuple(pool[k * size : (k + 1) * size] for k in range(count)))
    frozen = dict.fromkeys(draw(st.lists(st.integers(0, n - 1), max_size=4)), "drawn")
    return graph_of(layers, readers, balances, frozen)


@st.composite
def cases(draw: st.DrawFn) -> tuple[ChannelGraph, Scores, Budget]:
    graph = draw(graphs())
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    values = rng.random(graph.n_units)
    if draw(st.booleans()):  # many exact ties, as proximal steps make them
        values = np.maximum(values - 0.5, 0)
    values[rng.random(graph.n_units) < 0.05] = np.nan
    budget = Budget(
        percent=draw(st.floats(0.01, 0.99)),
        min_channels=draw(st.sampled_from([1, 2, 8])),
        max_layer_prune=draw(st.sampled_from([0.3, 0.9, 1.0])),
        round_to=draw(st.sampled_from([1, 1, 2, 4, 8])),
    )
    reduce = draw(st.sampled_from(["mean", "max", "sum"]))
    return graph, Scores(values=values, criterion="gamma", reduce=reduce), budget


@settings(max_examples=300, deadline=None)
@given(cases())
def test_every_constraint_holds_on_random_graphs(
    case: tuple[ChannelGraph, Scores, Budget],
) -> None:
    graph, scores, budget = case
    remove = Planner(graph).choose(scores, budget)
    assert_holds(graph, remove, budget)
    assert not np.isnan(scores.values[remove]).any()
    assert np.array_equal(remove, Planner(graph).choose(scores, budget))


def naive(graph: ChannelGraph, scores: Scores, budget: Budget) -> list[int]:
    """One by one, lowest first, skipping what breaks a floor: for graphs without balances."""
    kept = {i: axis.units.tolist() for i, axis in enumerate(graph.axes)}
    free = [
        u
        for u in range(graph.n_units)
        if u not in graph.frozen and scores.values[u] == scores.values[u]
    ]
    channels = graph.channels
    target = budget.percent * sum(int(channels[u]) for u in free) - 1e-9
    gone: list[int] = []
    done = 0
    for unit in sorted(free, key=lambda u: (scores.values[u], u)):
        if done >= target:
            break
        fits = True
        for i, axis in enumerate(graph.axes):
            left, size = [u for u in kept[i] if u != unit], axis.units.size
            if len(left) == len(kept[i]):
                continue
            floor = 1
            if axis.role == "out":
                floor = max(
                    min(budget.min_channels, size), size - int(size * budget.max_layer_prune + 1e-9)
                )
            fits &= len(left) >= floor
        if fits:
            kept = {i: [u for u in units if u != unit] for i, units in kept.items()}
            gone.append(unit)
            done += int(channels[unit])
    return sorted(gone)


@settings(max_examples=200, deadline=None)
@given(cases())
def test_without_balances_it_equals_the_naive_walk(
    case: tuple[ChannelGraph, Scores, Budget],
) -> None:
    graph, scores, budget = case
    graph = replace(graph, balances=())
    budget = replace(budget, round_to=1)
    assert Planner(graph).choose(scores, budget).tolist() == naive(graph, scores, budget)


@settings(max_examples=100, deadline=None)
@given(cases())
def test_lower_scores_go_first_within_a_group(
    case: tuple[ChannelGraph, Scores, Budget],
) -> None:
    graph, scores, budget = case
    # Without balances and ties to half a group, units of a group differ by score alone.
    graph = replace(graph, balances=())
    gone = set(Planner(graph).choose(scores, budget).tolist())
    for group in graph.groups:
        free = [u for u in group.units.tolist() if u not in graph.frozen]
        free = [u for u in free if not np.isnan(scores.values[u])]
        times = {sum(int((a.units == u).sum()) for a in graph.axes) for u in free}
        if len(times) == 1:
            highest = max((scores.values[u] for u in free if u in gone), default=-1)
            assert all(scores.values[u] >= highest for u in free if u not in gone)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.integers(1, 8), min_size=2, max_size=6),
    st.floats(0.05, 0.8),
    st.sampled_from([8, 16]),
    st.integers(0, 2**32 - 1),
)
def test_rounding_reaches_the_percent_within_one_block(
    widths: list[int], percent: float, round_to: int, seed: int
) -> None:
    # Layers that are multiples, floor of one block: all but one block of each can go.
    starts = np.cumsum([0, *widths]) * round_to
    graph = graph_of({f"l{i}": list(range(starts[i], starts[i + 1])) for i in range(len(widths))})
    scores = scores_of(np.random.default_rng(seed).random(graph.n_units))
    budget = loose(percent, round_to=round_to)
    remove = Planner(graph).choose(scores, budget)
    assert_holds(graph, remove, budget)
    possible = (sum(widths) - len(widths)) * round_to
    target = percent * graph.n_units
    if target <= possible:
        assert target - 1e-9 <= remove.size < target + round_to
    else:
        assert remove.size == possible


# The file -----------------------------------------------------------------------------------


def sample_plan() -> PrunePlan:
    graph = graph_of({"a": [0, 1, 2, 3], "b": [4, 5, 6, 7]})
    source = Origin(path="net.weights", sha256="0" * 64)
    return plan(graph, scores_of(np.arange(8.0)), loose(0.6), source)


@settings(max_examples=50, deadline=None)
@given(cases())
def test_json_round_trip_on_random_graphs(case: tuple[ChannelGraph, Scores, Budget]) -> None:
    graph, scores, budget = case
    try:
        made = plan(graph, scores, budget)
    except PlanError:
        return
    again = PrunePlan.from_json(made.to_json())
    assert again == made
    assert np.array_equal(again.remove(graph), Planner(graph).choose(scores, budget))


def test_file_round_trip_is_plain_json_and_leaves_nothing_beside(tmp_path: Path) -> None:
    made = sample_plan()
    made.write(tmp_path / "plan.json")
    assert [p.name for p in tmp_path.iterdir()] == ["plan.json"]
    assert PrunePlan.read(tmp_path / "plan.json") == made
    data = json.loads((tmp_path / "plan.json").read_text())
    assert data["layers"] == {"a": [0, 1, 2], "b": [0, 1]}
    assert data["source"] == {"path": "net.weights", "sha256": "0" * 64}


def test_a_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "plan.json"
    path.write_text("old")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(YoloPruneError, match="plan.json: cannot be written: No space left"):
        sample_plan().write(path)
    assert [p.name for p in tmp_path.iterdir()] == ["plan.json"]
    assert path.read_text() == "old"


def test_the_empty_plan_is_the_identity() -> None:
    empty = replace(sample_plan(), layers={})
    graph = graph_of({"a": [0, 1, 2, 3], "b": [4, 5, 6, 7]})
    assert empty.remove(graph).tolist() == []
    assert PrunePlan.from_json(empty.to_json()) == empty


def _set(path: str, value: object):
    def edit(data: dict) -> None:
        *parents, last = path.split(".")
        for key in parents:
            data = data[key]
        if value is KeyError:
            del data[last]
        else:
            data[last] = value

    return edit


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (_set("version", 4), r"p.json: version: this yoloprune reads 1, 2, 3, got 4"),
        (_set("version", "1"), r"p.json: version: got '1', expected a whole number"),
        (_set("budget", []), r"p.json: budget: got \[\], expected an object"),
        (_set("budget.percent", 1.5), r"p.json: budget: --percent: must be above 0 .* got 1.5"),
        (_set("budget.percent", "x"), r"p.json: budget.percent: got 'x', expected a finite number"),
        (_set("budget.round_to", True), r"p.json: budget.round_to: got True"),
        (_set("budget.extra", 1), r"p.json: budget.extra: is unknown"),
        (_set("reached.units", KeyError), r"p.json: reached.units: is missing"),
        (_set("notes", [1]), r"p.json: notes: got \[1\], expected a list of texts"),
        (_set("source.sha256", 5), r"p.json: source.sha256: got 5, expected text"),
        (_set("layers.a", [0, 0]), r"p.json: layers.a\[1\]: got 0, expected an index above 0"),
        (_set("layers.a", [-1]), r"p.json: layers.a\[0\]: got -1, expected an index above -1"),
        (_set("layers.a", [1.0]), r"p.json: layers.a\[0\]: got 1.0"),
        (_set("layers.a", "x" * 99), r"p.json: layers.a: got 'x{36}\.\.\., expected a list"),
        (_set("comment", "hi"), r"p.json: comment: is unknown"),
    ],
)
def test_a_damaged_plan_is_refused_by_path(edit, message: str) -> None:
    data = json.loads(sample_plan().to_json())
    edit(data)
    with pytest.raises(PlanError, match=message) as caught:
        PrunePlan.from_json(json.dumps(data), "p.json")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    ["", "nan", "[" * 100_000, '{"version": 1, "version": 1}', "[]", '{"version": NaN}'],
)
def test_what_is_no_plan_is_refused(text: str) -> None:
    with pytest.raises(PlanError, match=r"^p\.json: "):
        PrunePlan.from_json(text, "p.json")


def test_unreadable_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="no such file"):
        PrunePlan.read(tmp_path / "none.json")
    (tmp_path / "binary.json").write_bytes(b"\x00\xff")
    with pytest.raises(PlanError, match="is not text"):
        PrunePlan.read(tmp_path / "binary.json")
    (tmp_path / "file").write_text("")
    with pytest.raises(YoloPruneError, match="cannot be written"):
        sample_plan().write(tmp_path / "file" / "plan.json")


# A real graph -------------------------------------------------------------------------------


def test_a_traced_yolov8n_is_planned_within_every_constraint() -> None:
    import torch
    from ultralytics.nn.tasks import DetectionModel

    from yoloprune.channels.trace import trace
    from yoloprune.prune.score import score

    model = DetectionModel("yolov8n.yaml", verbose=False)
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0, 1, generator=generator)
    graph = trace(model)
    assert len(graph.balances) == 8  # the chunk of each C2f
    planner, scores = Planner(graph), score(model, graph)
    for budget in (
        Budget(percent=0.5),
        Budget(percent=0.5, round_to=8),
        loose(0.9, min_channels=4),
        loose(0.7, round_to=16),
    ):
        remove = planner.choose(scores, budget)
        assert_holds(graph, remove, budget)
        made = planner.plan(scores, budget)
        assert made.remove(graph).tolist() == remove.tolist()
        assert PrunePlan.from_json(made.to_json()) == made
        # One bundle is a pair of a shortcut's units at most; one block, so many of them.
        channels = int(graph.channels[graph.prunable].sum())
        most = 2 * int(graph.channels.max()) * budget.round_to
        assert 0 <= made.reached.channels - budget.percent * channels < most


@pytest.mark.parametrize("round_to", [1, 8])
def test_it_is_fast_enough_to_be_asked_while_training(round_to: int) -> None:
    # As many layers and units as YOLOv8n, each read by a cat of two, halves balanced.
    layers, readers, balances = {}, {}, []
    for i in range(48):
        units = list(range(i * 48, i * 48 + 48))
        layers[f"l{i}"] = units
        readers[f"r{i}"] = list(range(max(0, (i - 1) * 48), i * 48 + 24))
        if i % 6 == 0:
            balances.append((units[:24], units[24:]))
    graph = graph_of(layers, readers, balances)
    planner, budget = Planner(graph), Budget(percent=0.5, round_to=round_to)
    scores = scores_of(np.random.default_rng(0).random(graph.n_units))
    took = []
    for _ in range(7):
        start = time.perf_counter()
        planner.choose(scores, budget)
        took.append(time.perf_counter() - start)
    # 10 ms is the aim and is met with room; the bound allows for a busy machine.
    assert min(took) < 0.03, took
