"""Searching for shares: same cost, nearer to the full network, gone on with after a kill."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import yoloprune.prune.search as searching
from yoloprune.channels import trace
from yoloprune.channels.graph import ChannelGraph
from yoloprune.errors import DataError
from yoloprune.measure.size import count
from yoloprune.prune.budget import Budget
from yoloprune.prune.choose import within_groups
from yoloprune.prune.course import Course
from yoloprune.prune.cut import cut_units, kept_units
from yoloprune.prune.planner import Planner
from yoloprune.prune.repair import RepairOptions, repair
from yoloprune.prune.score import Scores, score
from yoloprune.prune.search import Searched, SearchOptions, search

BUDGET = Budget(percent=0.5, min_channels=1)
SIDE = 32


class Lopsided(nn.Module):
    """Two branches of one cost; the output hears one of them a hundred times louder."""

    def __init__(self, stem: int = 8) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, stem, 3, padding=1)
        self.loud = nn.Sequential(nn.Conv2d(stem, 24, 3, padding=1), nn.ReLU(), nn.Conv2d(24, 4, 1))
        self.soft = nn.Sequential(nn.Conv2d(stem, 24, 3, padding=1), nn.ReLU(), nn.Conv2d(24, 4, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.loud(x) + 0.01 * self.soft(x)


def pictures(n: int = 16) -> Tensor:
    return torch.rand(n, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


def found(
    options: SearchOptions, stem: int = 8
) -> tuple[nn.Module, ChannelGraph, Scores, Searched]:
    model = Lopsided(stem).eval()
    graph = trace(model)
    scores = within_groups(score(model, graph, criterion="l2"), graph)
    return model, graph, scores, search(model, graph, scores, BUDGET, pictures(), options)


def test_the_branch_that_is_heard_keeps_more_at_the_same_cost() -> None:
    model, graph, scores, result = found(SearchOptions(seconds=60, trials=40))
    remove = Planner(graph).choose(result.scores, result.budget)
    even = Planner(graph).choose(scores, BUDGET)
    thin, other = (cut_units(model, graph, units) for units in (remove, even))
    assert count(thin, SIDE).macs == pytest.approx(count(other, SIDE).macs, rel=0.01)
    assert thin.loud[0].out_channels > 16 > 8 > thin.soft[0].out_channels
    assert result.record.kept
    assert result.record.begun is not None
    assert result.record.found <= result.record.begun < result.record.even
    assert result.record.found < 0.6 * result.record.even
    assert result.record.found_unseen < 0.6 * result.record.even_unseen
    fresh = torch.rand(4, 3, SIDE, SIDE)
    errors = []
    for cut, units in ((thin, remove), (other, even)):
        kept = kept_units(graph, units)
        mended = repair(model, cut, graph, kept, pictures(), RepairOptions()).model
        with torch.no_grad():
            errors.append(float((mended(fresh) - model(fresh)).square().mean()))
    assert errors[0] < 0.6 * errors[1]
    shares = {stage.layers: stage for stage in result.record.stages}
    assert shares["loud.0",].found < shares["loud.0",].even < shares["soft.0",].found


def test_shares_stay_even_where_pictures_that_were_kept_back_say_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    judges = iter([_Judge(1.0, 0.5), _Judge(1.0, 2.0)])  # the even cut, others
    monkeypatch.setattr(searching.Trials, "seen", lambda self, pictures: next(judges))
    _, _, scores, result = found(SearchOptions(seconds=60, trials=9))
    assert not result.record.kept and result.record.begun == 0.5
    assert (result.record.found_unseen, result.record.even_unseen) == (2.0, 1.0)
    assert result.scores is scores and result.budget == BUDGET
    assert all(stage.found == stage.even for stage in result.record.stages)


class _Judge:
    """Says one thing first, and another ever after."""

    def __init__(self, first: float, then: float) -> None:
        self.values = [first, then]

    def apart(self, model: nn.Module) -> float:
        return self.values.pop(0) if len(self.values) > 1 else self.values[0]


def test_a_search_that_was_killed_goes_on_as_if_it_had_not_been(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = found(SearchOptions(seconds=600, trials=12))[3]
    log = tmp_path / "search.json"
    tried = searching.Course.tell

    def killed(self: Course, shifts: np.ndarray, apart: float | None) -> None:  # type: ignore[type-arg]
        tried(self, shifts, apart)
        if self.told == 8:
            raise KeyboardInterrupt

    monkeypatch.setattr(searching.Course, "tell", killed)
    with pytest.raises(KeyboardInterrupt):
        found(SearchOptions(seconds=600, trials=12, log=log))
    monkeypatch.setattr(searching.Course, "tell", tried)
    assert len(json.loads(log.read_text())["trials"]) == 7  # the eighth was not written yet
    proposed = []
    real = searching.Course.propose
    monkeypatch.setattr(
        searching.Course, "propose", lambda self: proposed.append(self) or real(self)
    )
    again = found(SearchOptions(seconds=600, trials=12, log=log))[3]
    assert len(proposed) == 5
    assert np.array_equal(whole.scores.values, again.scores.values, equal_nan=True)
    assert replace(whole.record, seconds=0) == replace(again.record, seconds=0)


def test_trials_of_another_search_are_left_alone(tmp_path: Path) -> None:
    log = tmp_path / "search.json"
    found(SearchOptions(seconds=600, trials=3, log=log))
    other = json.loads(log.read_text())
    log.write_text(json.dumps({**other, "identity": "of something else"}))
    assert found(SearchOptions(seconds=600, trials=2, log=log))[3].record.trials == 2
    log.write_text("{")
    assert found(SearchOptions(seconds=600, trials=2, log=log))[3].record.trials == 2
    assert json.loads(log.read_text())["identity"] == other["identity"]


def test_time_ends_it() -> None:
    assert found(SearchOptions(seconds=1e-9))[3].record.trials == 0


def test_patience_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(searching.Trials, "candidate", lambda self, shifts: None)
    record = found(SearchOptions(seconds=60, patience=4))[3].record
    assert record.trials == 3 + 1 + 4  # each part, one step downhill, four at random
    assert record.gains == 0 and not record.kept


def test_few_pictures_are_refused_in_a_line() -> None:
    model = Lopsided()
    graph = trace(model)
    scores = within_groups(score(model, graph, criterion="l2"), graph)
    with pytest.raises(DataError, match="--search: has 7 pictures, expected at least 8"):
        search(model, graph, scores, BUDGET, pictures(7), SearchOptions(seconds=1))


def test_it_begins_where_all_parts_lose_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "search.json"
    model, graph, _, result = found(SearchOptions(seconds=600, trials=0, log=log), 64)
    record = result.record
    assert (record.parts, record.way, record.trials) == (3, "repaired", 0)
    assert record.kept and record.begun == record.found
    assert record.begun is not None and record.begun < 0.7 * record.even
    remove = Planner(graph).choose(result.scores, result.budget)
    thin = cut_units(model, graph, remove)
    assert thin.loud[0].out_channels > thin.soft[0].out_channels
    curves = json.loads(log.read_text())["curves"]
    assert curves["loud.0"] > 10 * curves["soft.0"]
    monkeypatch.setattr("yoloprune.prune.start.lost", None)  # nothing is measured again
    again = found(SearchOptions(seconds=600, trials=0, log=log), 64)[3]
    assert np.array_equal(result.scores.values, again.scores.values, equal_nan=True)


def test_where_time_is_short_parts_are_silenced_only(monkeypatch: pytest.MonkeyPatch) -> None:
    took = iter([0.0, 9.0, 9.0, 9.5])  # seconds before and after each look
    clock = type("Clock", (), {"perf_counter": staticmethod(lambda: next(took))})
    monkeypatch.setattr("yoloprune.prune.start.time", clock)
    record = found(SearchOptions(seconds=12, trials=0))[3].record
    assert record.way == "silenced" and record.parts == 3
