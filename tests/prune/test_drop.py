"""The smallest cut within a bound on AP: how it bisects, what it keeps, and what it tells."""

from __future__ import annotations

import json
import logging
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from torch import nn

import yoloprune.prune.drop as drop
import yoloprune.prune.slim as pipeline
from yoloprune.channels.trace import trace
from yoloprune.errors import DataError, PlanError
from yoloprune.measure.data import load_dataset
from yoloprune.measure.demo_data import ShapesSpec, write_shapes
from yoloprune.measure.held_back import hold_back
from yoloprune.models.door import Source, load
from yoloprune.prune.budget import Budget
from yoloprune.prune.drop import DropOptions, DropRecord, smallest_within
from yoloprune.prune.options import SlimOptions
from yoloprune.prune.plan import PrunePlan
from yoloprune.prune.planner import Planner
from yoloprune.prune.score import Scores
from yoloprune.prune.slim import slim

REPO = Path(__file__).parents[2]
FULL = 1_000_000


class Bench:
    """Cuts that have what they are asked for, and lose what a curve says."""

    def __init__(self, folder: Path, curve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.curve, self.folder, self.made = curve, folder, list[float]()
        self.asked: list[float] = []
        self.floor, self.step = 0.0, 0.0
        monkeypatch.setattr(drop, "count", lambda model, size: SimpleNamespace(macs=model.macs))

    def decide(self, budget: Budget) -> Any:
        assert budget.macs is not None
        self.asked.append(budget.macs)
        macs = max(budget.macs, self.floor)
        macs -= macs % self.step if self.step else 0
        return SimpleNamespace(plan=SimpleNamespace(layers={"a": macs}), macs=macs)

    def make(self, decision: Any) -> Any:
        self.made.append(decision.macs)
        return SimpleNamespace(
            plan=decision.plan, model=SimpleNamespace(macs=decision.macs * FULL), macs=decision.macs
        )

    def search(self, bound: float = 0.05, **options: Any) -> tuple[Any, DropRecord]:
        budget = Budget(**{"max_drop": bound, **options.pop("budget", {})})
        how = DropOptions(
            budget=budget, full_macs=FULL, size=(64, 64), split="val",
            log=self.folder / "log.json", identity="x",
        )  # fmt: skip
        return smallest_within(
            {"AP": 0.5, "top1": 0.1},
            self.decide,
            self.make,
            lambda made: {"AP": self.curve(made.macs)},
            replace(how, **options),
        )


@pytest.fixture
def line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """AP falls by a tenth over the whole way: .05 of it at half."""
    return Bench(tmp_path, lambda macs: 0.4 + 0.1 * macs, monkeypatch)


def test_seven_trials_come_within_a_hundredth(line: Bench) -> None:
    made, record = line.search(bound=0.07)  # 0.43 is reached at 0.3 of the multiply-adds
    assert [t.asked for t in record.trials[:3]] == [0.5, 0.25, 0.375]
    assert len(record.trials) == 7
    assert 0.3 <= made.macs < 0.3 + 1 / 128
    assert record.trials[record.chosen].macs == made.macs
    assert [t.held for t in record.trials] == [t.drop <= 0.07 for t in record.trials]
    again = record.to_dict({"AP": 0.5}, {"AP": 0.44})
    assert again["again"] == pytest.approx(0.06) and again["figure"] == "AP"
    json.dumps(again)


def test_the_smallest_that_held_is_taken_where_ap_is_not_monotone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    curve = {0.5: 0.49, 0.25: 0.3, 0.375: 0.48, 0.3125: 0.49}
    bench = Bench(tmp_path, lambda macs: curve.get(macs, 0.2), monkeypatch)
    made, record = bench.search(bound=0.02)
    assert made.macs == 0.3125 and record.trials[record.chosen].value == 0.49


def test_a_cut_that_comes_up_again_is_measured_once(line: Bench) -> None:
    line.step = 0.125
    made, record = line.search(bound=0.055)  # held from 0.45 on: 0.5 is the smallest multiple
    assert made.macs == 0.5
    assert len(set(line.made)) == len(line.made) < len(record.trials)
    assert {t.macs for t in record.trials if not t.held} == {0.25, 0.375}


def test_it_ends_where_floors_hold(line: Bench) -> None:
    line.floor = 0.4
    made, record = line.search(bound=0.09)
    assert [t.macs for t in record.trials] == [0.5, 0.4] and made.macs == 0.4


def test_a_limit_is_one_more_constraint(line: Bench) -> None:
    made, _ = line.search(bound=0.07, budget={"macs": 0.4, "params": 0.9})
    assert line.asked[0] == 0.2 and 0.3 <= made.macs <= 0.4
    with pytest.raises(PlanError, match="none of 7 cuts kept to it"):
        line.search(bound=0.01, budget={"macs": 0.5 * FULL}, identity="y")
    assert all(share < 0.5 for share in line.asked)


def test_nothing_within_the_bound_names_the_best(line: Bench) -> None:
    message = (
        "--max-drop 0.0001: none of 7 cuts kept to it; the best lost 0.0008 of AP, at 99.2% of the "
    )
    with pytest.raises(PlanError, match=re.escape(message)):
        line.search(bound=0.0001)


def test_a_killed_search_goes_on(line: Bench, caplog: pytest.LogCaptureFixture) -> None:
    whole = line.search(bound=0.07)[1]
    measured, line.made = list(line.made), []
    made, again = line.search(bound=0.07)  # the log is removed by who saves the result
    assert replace(again, trials=()) == replace(whole, trials=())
    assert again.trials == whole.trials
    assert line.made == [made.macs]  # made once more, as it was made then
    log = line.folder / "log.json"
    record = json.loads(log.read_text())
    record["trials"] = record["trials"][:3]
    log.write_text(json.dumps(record))
    line.made = []
    assert line.search(bound=0.07)[0].macs == made.macs
    assert line.made[: len(measured) - 3] == measured[3:]
    for text in ("{", '{"identity": "x"}', json.dumps({**record, "identity": "z"})):
        log.write_text(text)
        line.made = []
        line.search(bound=0.07)
        assert line.made == measured
    with caplog.at_level(logging.INFO):
        line.search(bound=0.07, identity="w")
    assert "trial 2 of at most 7: 25.0% of the multiply-adds, AP 0.4250" in caplog.text


def test_warnings_are_said_once(line: Bench, caplog: pytest.LogCaptureFixture) -> None:
    make = line.make

    def warns(decision: Any) -> Any:
        logging.getLogger("yoloprune.prune").warning("the same")
        return make(decision)

    line.make = warns  # type: ignore[method-assign]
    line.search(bound=0.07)
    assert caplog.text.count("the same") == 1


@pytest.mark.parametrize("bound", [-0.1, 1.0, float("nan")])
def test_bounds_that_are_none(bound: float) -> None:
    with pytest.raises(PlanError, match="--max-drop: must be at least 0 and below 1, got"):
        Budget(max_drop=bound)


def test_no_plan_is_made_of_a_bound_alone() -> None:
    graph = trace(load("yoloprune-demo.cfg")[0])
    scores = Scores(values=np.zeros(graph.n_units), criterion="random")
    with pytest.raises(PlanError, match="--max-drop: is no plan's budget"):
        Planner(graph).plan(scores, Budget(max_drop=0.1))


# The whole of slim --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shapes")
    return write_shapes(folder, ShapesSpec(images=60, val=8, size=160, seed=3))


def dense() -> tuple[nn.Module, Source]:
    return load("yoloprune-demo.cfg", REPO / "weights/yoloprune-demo-dense.weights")


def options(out: Path, data: Path, **changes: Any) -> SlimOptions:
    budget = changes.pop("budget", Budget(max_drop=0.2, round_to=8))
    return SlimOptions(
        **{
            "budget": budget, "out": out, "data": str(data), "repeats": 0, "calib_images": 8,
            "drop_trials": 2, **changes,
        }
    )  # fmt: skip


def test_what_is_saved_is_the_trial_that_was_chosen(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored = []
    choose = pipeline.smallest_within

    def watched(*args: Any) -> Any:
        found = choose(*args)
        scored.append((tmp_path / "yoloprune-demo-max-drop.json").is_file())
        return found

    monkeypatch.setattr(pipeline, "smallest_within", watched)
    result = slim(*dense(), options(tmp_path, data))
    found = result.summary["max_drop"]
    chosen = found["trials"][found["chosen"]]
    assert scored == [True]
    assert found["trials"][0]["asked"] == 0.5
    before, after = result.summary["before"], result.summary["after"]
    assert found["full"] == before["AP"] and chosen["value"] == pytest.approx(after["AP"], abs=1e-6)
    assert found["again"] == pytest.approx(before["AP"] - after["AP"])
    assert chosen["macs"] == pytest.approx(after["macs"] / before["macs"])
    assert chosen["macs"] <= chosen["asked"] and found["split"] == "val"
    saved = PrunePlan.read(tmp_path / "yoloprune-demo-slim-plan.json")
    assert (saved.budget.max_drop, saved.budget.macs) == (0.2, chosen["asked"])
    assert not (tmp_path / "yoloprune-demo-max-drop.json").exists()


def test_a_part_of_train_is_held_back(data: Path, tmp_path: Path) -> None:
    result = slim(*dense(), options(tmp_path / "out", data, split="held-back"))
    summary = result.summary
    assert summary["max_drop"]["split"] == "held-back"
    made = tmp_path / "out/yoloprune-demo-held-back.yaml"
    assert summary["files"]["data"] == str(made)
    parts = [set(load_dataset(made, split=split).images) for split in ("train", "val")]
    assert [len(part) for part in parts] == [48, 12] and not parts[0] & parts[1]
    assert parts[0] | parts[1] == set(load_dataset(data, split="train").images)
    assert load_dataset(made).names == load_dataset(data).names
    assert str(data) in summary["verdict"]["next"]


def test_what_cannot_be_held_back(data: Path, tmp_path: Path) -> None:
    few = write_shapes(tmp_path / "few", ShapesSpec(images=20, val=2, size=64, seed=1))
    with pytest.raises(DataError, match="has 20 pictures to train on, and --split held-back"):
        slim(*dense(), options(tmp_path / "out", few, split="held-back"))
    with pytest.raises(DataError, match="cannot part folders of classes"):
        hold_back(str(tmp_path), tmp_path / "x")
    with pytest.raises(PlanError, match="--split held-back: is of a data set"):
        slim(*dense(), replace(options(tmp_path / "out", few, split="held-back"), data=None))
    with pytest.raises(PlanError, match="--max-drop: measures AP. Give --data"):
        slim(*dense(), replace(options(tmp_path / "out", few), data=None))
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())
