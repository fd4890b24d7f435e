"""Limits to latency: corrected by what is measured, until they hold."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

from yoloprune.channels import trace
from yoloprune.channels.graph import ChannelGraph
from yoloprune.errors import PlanError
from yoloprune.measure.runtimes import RuntimeOptions
from yoloprune.measure.size import count
from yoloprune.models.door import load
from yoloprune.prune import timing
from yoloprune.prune.budget import Budget
from yoloprune.prune.clock import FEATURES, Clock, LatencyTable, Timed
from yoloprune.prune.cost import Costs
from yoloprune.prune.planner import Planner
from yoloprune.prune.profile import machine_of, structure_of
from yoloprune.prune.score import Scores
from yoloprune.prune.timing import LatencyRecord, TimingOptions, Try, clock_for, meet

HERE = RuntimeOptions(runtime="torch", imgsz=(64, 64))


@pytest.fixture(scope="module")
def net() -> tuple[nn.Module, ChannelGraph]:
    model = load("yolov8n.yaml")[0]
    return model, trace(model)


def table_of(model: nn.Module, graph: ChannelGraph, machine: str | None = None) -> LatencyTable:
    """A millisecond, and one more each million products of channels."""
    convs = {a.module for a in graph.axes if a.role == "out" and a.tensor.endswith(".weight")}
    factors = (0.0, 0.0, 0.0, 1e-5, *[0.0] * (FEATURES - 4))
    return LatencyTable(
        model="n", structure=structure_of(model), runtime=HERE, version_of="1",
        machine=machine or machine_of(HERE), full=4.0,
        networks=(Timed(macs=1.0, ms=4.0, spread=0.0, predicted=4.1),),
        modules={"": (1.0, *[0.0] * (FEATURES - 1)), **dict.fromkeys(convs, factors)},
    )  # fmt: skip


def planner_of(model: nn.Module, graph: ChannelGraph, machine: str | None = None) -> Planner:
    clock = Clock(graph, table_of(model, graph, machine))
    return Planner(graph, Costs(model, graph, count(model, 64), clock))


def met(
    net: tuple[nn.Module, ChannelGraph],
    budget: Budget,
    monkeypatch: pytest.MonkeyPatch,
    *,
    factor: float = 1.3,
    more: float = 0.4,
    machine: str | None = None,
) -> tuple[Planner, Budget, LatencyRecord]:
    """Meet a budget where networks really take ``factor`` times what is foretold, and ``more``."""
    model, graph = net
    planner = planner_of(model, graph, machine)
    everything = np.ones(graph.n_units, dtype=bool)

    def timed(m: Any, g: Any, kept: Any, clock: Clock, asked: float) -> Try:
        full = factor * clock.ms(everything) + more
        said = clock.ms(kept)
        return Try(asked=asked, predicted=said, ms=factor * said + more, full=full, spread=0.01)

    monkeypatch.setattr(timing, "_timed", timed)
    values = np.random.default_rng(0).random(graph.n_units)
    scores = Scores(values=values, criterion="random", missing="none")
    by, record = meet(model, planner, lambda budget: scores, budget)
    assert np.isfinite(planner.choose(scores, by).sum())
    return planner, by, record


def test_shares_are_met_by_what_is_measured(
    net: tuple[nn.Module, ChannelGraph], monkeypatch: pytest.MonkeyPatch
) -> None:
    for share in (0.8, 0.6):
        _, _, record = met(net, Budget(latency=share), monkeypatch)
        last = record.tries[-1]
        assert record.met is True
        assert 0.96 * share <= last.ms / last.full <= share
        assert record.limit == pytest.approx(share * last.full)
        assert len(record.tries) <= 6


def test_the_first_cut_goes_by_the_table_alone_and_is_off(
    net: tuple[nn.Module, ChannelGraph], monkeypatch: pytest.MonkeyPatch
) -> None:
    planner, by, record = met(net, Budget(latency=0.6), monkeypatch)
    first = record.tries[0]
    assert planner.costs is not None and planner.costs.clock is not None
    everything = np.ones(planner.graph.n_units, dtype=bool)
    assert first.asked == pytest.approx(0.6 * planner.costs.clock.ms(everything))
    assert first.ms / first.full > 0.6  # the overhead that the table does not know
    assert by.latency is not None and by.latency < 1000 * first.asked


def test_amounts_are_met_by_what_is_measured(
    net: tuple[nn.Module, ChannelGraph], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, by, record = met(net, Budget(latency=4000.0), monkeypatch, factor=0.8, more=0.1)
    assert record.met is True
    assert record.limit == 4.0
    assert 0.96 * 4 <= record.tries[-1].ms <= 4.0
    assert by.asked != Budget(latency=4000.0).asked


def test_what_floors_hold_out_of_reach_is_said(
    net: tuple[nn.Module, ChannelGraph], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, _, record = met(net, Budget(latency=0.05), monkeypatch)
    assert record.met is False
    assert len(record.tries) == 1


def test_other_limits_hold_beside(
    net: tuple[nn.Module, ChannelGraph], monkeypatch: pytest.MonkeyPatch
) -> None:
    planner, by, record = met(net, Budget(latency=0.9, params=0.3), monkeypatch)
    values = np.random.default_rng(0).random(planner.graph.n_units)
    remove = planner.choose(Scores(values=values, criterion="random", missing="none"), by)
    kept = np.ones(planner.graph.n_units, dtype=bool)
    kept[remove] = False
    assert planner.costs is not None
    assert planner.costs.params(kept) <= 0.3 * planner.costs.full.params
    assert record.met is True


def test_a_table_of_another_machine_only_foretells(
    net: tuple[nn.Module, ChannelGraph],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        _, by, record = met(net, Budget(latency=0.5), monkeypatch, machine="Raspberry Pi 5")
    assert record.tries == ()
    assert record.met is None
    assert by.latency == 0.5
    assert record.limit == 2.0
    assert "Raspberry Pi 5" in caplog.text


def test_tables_are_kept_and_found_again(
    net: tuple[nn.Module, ChannelGraph], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model, graph = net
    made = []

    def profile(m: nn.Module, g: ChannelGraph, options: Any) -> LatencyTable:
        made.append(options)
        return table_of(m, g)

    monkeypatch.setenv("YOLOPRUNE_CACHE", str(tmp_path))
    monkeypatch.setattr(timing, "profile", profile)
    how = TimingOptions(runtime=HERE, model="n")
    first = clock_for(model, graph, how)
    assert clock_for(model, graph, how).table == first.table
    assert len(made) == 1
    clock_for(model, graph, replace(how, runtime=replace(HERE, threads=7)))
    assert len(made) == 2  # of other threads
    for file in (tmp_path / "latency").iterdir():
        file.write_text("{}")
    clock_for(model, graph, how)
    assert len(made) == 3  # what cannot be read is measured again


def test_a_named_table_must_be_of_this_network(
    net: tuple[nn.Module, ChannelGraph], tmp_path: Path
) -> None:
    model, graph = net
    file = tmp_path / "t.json"
    replace(table_of(model, graph), structure="other").write(file)
    with pytest.raises(PlanError, match="is of another network"):
        clock_for(model, graph, TimingOptions(runtime=HERE, table=file))
    table_of(model, graph).write(file)
    assert clock_for(model, graph, TimingOptions(runtime=HERE, table=file)).table.full == 4.0


def test_real_networks_are_timed_beside_each_other(net: tuple[nn.Module, ChannelGraph]) -> None:
    model, graph = net
    clock = Clock(graph, table_of(model, graph))
    kept = np.ones(graph.n_units, dtype=bool)
    for group in graph.groups:
        units = group.units[graph.prunable[group.units]]
        kept[units[8 : units.size]] = False
    planner = Planner(graph)
    values = np.where(kept, 1.0, 0.0)
    scores = Scores(values=values, criterion="x", missing="")
    kept = np.ones(graph.n_units, dtype=bool)
    kept[planner.choose(scores, Budget(percent=0.8))] = False
    found = timing._timed(model, graph, kept, clock, 1.0)
    assert 0 < found.ms < found.full
