"""Recipes carried out: rounds, stop rules, and SIGKILL at any moment."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from tests.nets import CONV, randomised
from tests.train import slims
from yoloprune.channels.trace import trace
from yoloprune.darknet.cfg import parse_cfg
from yoloprune.darknet.network import DarknetModel
from yoloprune.errors import RecipeError
from yoloprune.models.door import load, save
from yoloprune.prune import timing
from yoloprune.prune.clock import FEATURES, Clock, LatencyTable, Timed
from yoloprune.prune.profile import structure_of
from yoloprune.rounds import run as rounds
from yoloprune.rounds.recipe import Recipe, read_recipe

pytestmark = pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad=True")

HEAD = (
    "[convolutional]\nfilters=14\nsize=1\nstride=1\nactivation=linear\n"
    "[yolo]\nmask=0,1\nanchors=10,10,30,30\nclasses=2\nnum=2\n"
)
RECIPE: dict[str, Any] = {
    "model": "net.cfg",
    "data": "data/data.yaml",
    "imgsz": 64,
    "batch": 4,
    "device": "cpu",
    "settings": {"plots": False, "verbose": False, "optimizer": "AdamW", "nbs": 8, "lr0": 0.01},
    "train": {"epochs": 2},
    "sparsify": {"epochs": 3},
    "slim": {"percent": 0.3, "step": 0.3, "min_channels": 2, "round_to": 1, "search": 0},
    "finetune": {"epochs": 2, "teacher": "dense"},
    "stop": {"rounds": 2},
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recipes")
    torch.manual_seed(0)
    text = "[net]\nwidth=64\nheight=64\nchannels=3\n" + CONV.format(16) + CONV.format(24)
    save(randomised(DarknetModel(parse_cfg(text + CONV.format(32) + HEAD))), folder / "net.cfg")
    slims.pictures(folder / "data", "detect", count=8)
    return folder


def recipe(place: Path, name: str = "recipe", **changes: Any) -> Path:
    file = place / f"{name}.yaml"
    whole = {**RECIPE, **changes}
    file.write_text(yaml.safe_dump({k: v for k, v in whole.items() if v is not None}))
    return file


def read(place: Path, **changes: Any) -> Recipe:
    return read_recipe(recipe(place, **changes))


@pytest.fixture(scope="module")
def whole(place: Path) -> tuple[Path, rounds.RunResult]:
    out = place / "whole"
    return out, rounds.run_recipe(read(place), out)


def test_a_cut_is_by_the_criterion_and_the_scope_of_the_recipe(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, slim = [], rounds.slim

    def watched(model: Any, source: Any, options: Any) -> Any:
        asked.append((options.criterion, options.scope, options.search))
        return slim(model, source, options)

    monkeypatch.setattr(rounds, "slim", watched)
    cuts = {"percent": 0.3, "min_channels": 2, "criterion": "activation", "scope": "isomorphic"}
    stages = dict.fromkeys(("train", "sparsify", "finetune"))
    out = place / "by"
    rounds.run_recipe(read(place, **stages, slim=cuts, stop={"rounds": 1}), out)
    assert asked == [("activation", "isomorphic", 0.0)]
    (plan,) = (out / "round1" / "slim").glob("*-plan.json")
    assert json.loads(plan.read_text())["criterion"] == "activation"


def channels(path: Path) -> int:
    graph = trace(load(path)[0])
    return int(graph.channels[graph.prunable].sum())


def test_rounds_come_to_growing_shares_of_the_dense_network(
    whole: tuple[Path, rounds.RunResult],
) -> None:
    out, result = whole
    rows = result.record["rounds"]
    assert [row["name"] for row in rows] == ["dense", "round1", "round2"]
    assert channels(out / "dense/net-dense.cfg") == 72
    assert channels(out / "round1/round1.cfg") == 72 - 22  # 30 % are 21.6
    assert channels(out / "round2/round2.cfg") == 72 - 44  # 60 % are 43.2
    assert rows[0]["macs"] > rows[1]["macs"] > rows[2]["macs"]
    assert all(row["latency_ms"] > 0 and 0 <= row["AP"] <= 1 for row in rows)
    assert result.record["accepted"] == "round2"
    assert (out / "result.weights").read_bytes() == (out / "round2/round2.weights").read_bytes()
    model, _ = load(out / "result.cfg")
    assert model.names == {0: "class 0", 1: "class 1"}
    assert [p.shape for p in model.parameters()] == [p.shape for p in result.model.parameters()]
    for picture in ("rounds.png", "round1/sparse/sparsity.png"):
        assert (out / picture).read_bytes().startswith(b"\x89PNG")
    page, card = ((out / name).read_text("utf-8") for name in ("report.html", "result-card.md"))
    for row in rows:
        assert f'data-v="{row["macs"]}"' in page and f'data-v="{row["AP"]}"' in page
    assert "`result.cfg`, `result.weights`" in card
    widths = {one["path"]: (one["before"], one["after"]) for one in result.record["layers"]}
    assert sum(before for before, _ in widths.values()) == 72 + 14
    assert sum(after for _, after in widths.values()) == 72 - 44 + 14
    plan = json.loads((out / "round2/slim/sparse-slim-plan.json").read_text())
    assert plan["reached"]["threshold"] == 0  # auto's zeros only
    assert json.loads((out / "run.json").read_text()) == result.record


def test_a_finished_recipe_does_nothing_again(
    place: Path, whole: tuple[Path, rounds.RunResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("a stage was run again")

    for name in ("train", "slim", "evaluate"):
        monkeypatch.setattr(rounds, name, never)
    out, result = whole
    again = rounds.run_recipe(read(place), out)
    for old, new in zip(result.record["rounds"], again.record["rounds"], strict=True):
        assert {k: v for k, v in old.items() if "latency" not in k} == {
            k: v for k, v in new.items() if "latency" not in k
        }


def test_a_changed_recipe_is_refused_with_what_changed(
    place: Path, whole: tuple[Path, rounds.RunResult]
) -> None:
    slim = {**RECIPE["slim"], "percent": 0.4, "step": 0.2}
    settings = {**RECIPE["settings"], "mosaic": 0.5}
    with pytest.raises(RecipeError) as caught:
        rounds.run_recipe(read(place, slim=slim, settings=settings), whole[0])
    for change in (
        "slim.percent: 0.3 → 0.4",
        "slim.step: 0.3 → 0.2",
        "settings.mosaic: None → 0.5",
    ):
        assert change in str(caught.value)


def test_a_changed_model_or_result_is_refused(
    place: Path, whole: tuple[Path, rounds.RunResult]
) -> None:
    out, _ = whole
    for file, message in (
        (place / "net.weights", "model_sha256"),
        (out / "round1/slim/sparse-slim.weights", "is not what the stage round1/slim left there"),
    ):
        kept = file.read_bytes()
        try:
            file.write_bytes(kept[:-4] + b"\0\0\0\1")
            with pytest.raises(RecipeError, match=message):
                rounds.run_recipe(read(place), out)
        finally:
            file.write_bytes(kept)
    state = out / "state.json"
    kept = state.read_bytes()
    try:
        state.write_bytes(kept[:100])
        with pytest.raises(RecipeError, match=r"state.json: is damaged"):
            rounds.run_recipe(read(place), out)
    finally:
        state.write_bytes(kept)


def test_stop_rules(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without training, AP told by hand: the fall decides, and the round before is the result."""
    aps = iter([0.60, 0.59, 0.59, 0.50, 0.50])  # dense, then each cut and each round

    class Told:
        def __init__(self) -> None:
            self.metrics = type("Metrics", (), {"AP": next(aps), "AP50": 0.7})

    monkeypatch.setattr(rounds, "evaluate", lambda *_: Told())
    bare: dict[str, Any] = {"train": None, "sparsify": None, "finetune": None}
    slim = {"percent": 0.2, "step": 0.2, "min_channels": 2, "round_to": 1, "search": 0}
    stop = {"rounds": 4, "max_ap_drop": 0.05}
    result = rounds.run_recipe(read(place, slim=slim, stop=stop, **bare), place / "drop")
    assert [row["name"] for row in result.record["rounds"]] == ["dense", "round1", "round2"]
    assert result.record["accepted"] == "round1"
    assert result.record["stopped"] == "AP fell by more than 0.05"

    aps = iter([0.5] * 9)
    stop = {"rounds": 4, "target_macs": 0.5}
    result = rounds.run_recipe(read(place, slim=slim, stop=stop, **bare), place / "macs")
    rows = result.record["rounds"]
    assert rows[-1]["macs"] <= 0.5 * rows[0]["macs"] < rows[-2]["macs"]
    assert result.record["accepted"] == rows[-1]["name"] != "round4"
    assert "MACs are at most 50%" in result.record["stopped"]


def test_rounds_come_to_a_share_of_the_latency(
    place: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With tables that say that a network takes as long as it has products of channels."""

    def profile(model: Any, graph: Any, options: Any) -> LatencyTable:
        convs = {axis.module for axis in graph.out_axes}
        factors = (0.0, 0.0, 0.0, 1e-4, *[0.0] * (FEATURES - 4))
        table = LatencyTable(
            model="m", structure=structure_of(model), runtime=options.runtime, version_of="1",
            machine="elsewhere", full=1.0, modules=dict.fromkeys(convs, factors),
            networks=(Timed(macs=1.0, ms=1.0, spread=0.0, predicted=1.0),),
        )  # fmt: skip
        return replace(table, full=Clock(graph, table).ms(np.ones(graph.n_units, dtype=bool)))

    monkeypatch.setenv("YOLOPRUNE_CACHE", str(tmp_path))
    monkeypatch.setattr(timing, "profile", profile)
    slim = {**RECIPE["slim"], "percent": None, "step": 0.0, "latency": 0.4, "runtime": "torch"}
    changes = {"train": None, "sparsify": None, "finetune": None}
    result = rounds.run_recipe(read(place, name="time", slim=slim, **changes), place / "time")
    _, first, second = result.record["rounds"]
    assert first["macs"] > second["macs"]
    tables = [LatencyTable.read(file) for file in (tmp_path / "latency").iterdir()]
    full = sorted(table.full for table in tables)
    assert len(full) == 2  # of the dense network and of the first round's
    assert 0.5 < full[0] / full[1] <= 0.4**0.5


def test_rounds_come_to_a_share_of_the_multiply_adds(place: Path) -> None:
    slim = {**RECIPE["slim"], "percent": None, "step": 0.0, "macs": 0.4, "params": 0.7}
    changes = {"train": None, "sparsify": None, "finetune": None}
    result = rounds.run_recipe(read(place, name="limits", slim=slim, **changes), place / "limits")
    dense, first, second = result.record["rounds"]
    assert 0.55 < first["macs"] / dense["macs"] <= 0.4**0.5
    assert 0.33 < second["macs"] / dense["macs"] <= 0.4
    assert second["params"] <= 0.7 * dense["params"]
    assert 0 < first["percent"] < second["percent"] < 1


def test_a_round_that_would_remove_nothing_is_refused(place: Path) -> None:
    run = rounds._Run(read(place), place / "share")
    model = load(place / "net.cfg")[0]
    assert run.share(model, 0.25, 72) == pytest.approx(0.25)
    assert run.share(model, 0.25, 80) == pytest.approx(1 - 0.75 * 80 / 72)
    with pytest.raises(RecipeError, match=r"slim.percent: 5.0% of 80 prunable channels is alread"):
        run.share(model, 0.05, 80)


@pytest.mark.slow
def test_five_sigkills_change_nothing(place: Path, whole: tuple[Path, rounds.RunResult]) -> None:
    """The recipe's own command, killed at random moments, against the undisturbed run."""
    out = place / "killed"
    command = [
        sys.executable, "-m", "yoloprune", "run", str(recipe(place)), "-o", str(out),
    ]  # fmt: skip
    moments = random.Random(time.time_ns())
    waits, done = [], False
    while len(waits) < 5:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        begun, wait = time.monotonic(), moments.uniform(0.5, 7.0)
        while not out.is_dir() and process.poll() is None:  # imports are nobody's work
            time.sleep(0.01)
        try:
            process.wait(wait)
            done = True
            break
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            waits.append(round(time.monotonic() - begun, 2))
    assert done or len(waits) == 5
    last = subprocess.run(command, capture_output=True, text=True, check=False)
    assert last.returncode == 0, (waits, last.stderr[-2000:])
    reference = whole[0]
    names = {p.relative_to(reference) for p in reference.rglob("*") if p.is_file()}
    assert {p.relative_to(out) for p in out.rglob("*") if p.is_file()} == names, waits
    for name in sorted(names):
        if name.suffix in (".cfg", ".weights", ".names") or name.name == "sparsity.jsonl":
            assert (out / name).read_bytes() == (reference / name).read_bytes(), (name, waits)
    ours, theirs = (json.loads((o / "state.json").read_text())["stages"] for o in (out, reference))
    assert ours == theirs, waits
