"""Latency tables: what they are made from, what they foretell, and how they are kept."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nets import Chain, Concat
from torch import nn

from yoloprune.channels import trace
from yoloprune.errors import MeasureError, PlanError
from yoloprune.measure.runtimes import RuntimeOptions
from yoloprune.measure.size import count
from yoloprune.models.door import load
from yoloprune.prune.clock import BLOCKS, FEATURES, Clock, LatencyTable, Reader, Timed
from yoloprune.prune.cost import Costs
from yoloprune.prune.profile import (
    ProfileOptions,
    fitted,
    foretold,
    homes,
    innermost,
    ladder,
    profile,
    spent,
    structure_of,
)

HERE = RuntimeOptions(runtime="torch", imgsz=(64, 64))


def table(**changes: Any) -> LatencyTable:
    """Of a chain: a millisecond each call of ``a.0``, and .01 each product of ``b.0``."""
    told: dict[str, Any] = {
        "model": "chain.pt", "structure": "abc", "runtime": HERE, "version_of": "1", "machine": "m",
        "full": 2.0, "networks": (Timed(macs=1.0, ms=2.0, spread=0.1, predicted=1.9),),
        "modules": {"a.0": (1.0, 0, 0, 0, 0, 0, 0), "b.0": (0, 0, 0, 0.01, 0, 0, 0)},
    }  # fmt: skip
    return LatencyTable(**{**told, **changes})


def test_features_by_hand() -> None:
    graph = trace(Chain())
    reader = Reader(graph)
    kept = np.ones(graph.n_units, dtype=bool)
    a = next(axis.units for axis in graph.axes if axis.tensor == "a.0.weight" and axis.dim == 0)
    kept[a[:3]] = False  # 8 → 5 of a, and b keeps its 6
    rows = dict(zip(reader.paths, reader.features(kept).tolist(), strict=True))
    assert rows["b.0"] == [1, 5, 6, 30, 64, 256, 1024]
    assert rows["a.0"][:3] == [1, 0, 5]  # a picture's channels are of no unit
    assert rows["a.1"] == [1, 5, 5, 0, 0, 0, 0]


def test_a_concatenation_costs_by_what_it_writes() -> None:
    graph = trace(Concat())
    reader = Reader(graph)
    rows = dict(zip(reader.paths, reader.features(np.ones(graph.n_units, bool)), strict=True))
    assert rows["out"][:4].tolist() == [1, 8, 4, 32]


def test_a_clock_adds_up_modules() -> None:
    graph = trace(Chain())
    clock = Clock(graph, table())
    kept = np.ones(graph.n_units, dtype=bool)
    assert clock.ms(kept) == pytest.approx(1 + 0.01 * 8 * 6)
    kept[next(a.units for a in graph.axes if a.tensor == "b.0.weight" and a.dim == 0)[:2]] = False
    assert clock.ms(kept) == pytest.approx(1 + 0.01 * 8 * 4)
    assert clock.by_module(kept)["b.0"] == pytest.approx(0.32)
    assert sum(clock.by_module(kept).values()) == pytest.approx(clock.ms(kept))


def test_a_table_of_another_network_is_refused() -> None:
    with pytest.raises(PlanError, match=r"chain\.pt.*this one has no a\.0"):
        Clock(trace(nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1))), table())


def test_tables_are_read_as_they_were_written(tmp_path: Path) -> None:
    made = table()
    made.write(tmp_path / "t.json")
    assert LatencyTable.read(tmp_path / "t.json") == made


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d.update(version=9), "version 9"),
        (lambda d: d.pop("modules"), "modules"),
        (lambda d: d.update(modules={"a": [1.0]}), "too few or too many"),
        (lambda d: d["modules"].update({"a.0": [-1.0] * FEATURES}), "negative or not finite"),
        (lambda d: d.update(full=float("nan")), "negative or not finite"),
        (lambda d: d.update(networks=[]), "no network"),
        (lambda d: d["runtime"].update(runtime="abacus"), "abacus"),
        (lambda d: d.update(extra=1), "extra"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, change: Any, words: str) -> None:
    data = json.loads(json.dumps(asdict(table())))
    change(data)
    (tmp_path / "t.json").write_text(json.dumps(data))
    with pytest.raises(Exception, match=words) as caught:
        LatencyTable.read(tmp_path / "t.json")
    assert isinstance(caught.value, PlanError | MeasureError)
    assert "\n" not in str(caught.value)


def test_what_is_no_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text("[1, 2")
    with pytest.raises(PlanError, match="is no latency table"):
        LatencyTable.read(tmp_path / "t.json")


def test_nodes_find_their_modules() -> None:
    known = {"", "model.2", "model.2.m.0.cv1.conv", "model.22", "model.22.cv3.0"}
    known |= {"model.22.cv3.0.0", "model.22.cv3.0.0.1", "model.22.cv3.0.0.1.conv", "model.2.m.0"}
    known |= {"model.2.m.0.cv1"}
    assert innermost("/model.2/m.0/cv1/conv/Conv_nchwc", known) == "model.2.m.0.cv1.conv"
    assert innermost("/model.2/Split", known) == "model.2"
    again = "/model.22/cv3.0/cv3.0.0/cv3.0.0.1/conv/Conv"
    assert innermost(again, known) == "model.22.cv3.0.0.1.conv"
    assert innermost("model.22.cv3.0", known) == "model.22.cv3.0"  # as torch names it
    assert innermost("Softmax_12", known) == ""


def test_a_block_with_one_layer_is_booked_on_it() -> None:
    paths = ("", "0", "0.conv", "0.bn", "0.act", "1", "1.cv1", "1.cv1.conv", "1.cv2", "1.cv2.conv")
    heavy = np.array([path.endswith("conv") for path in paths])
    found = {path: paths[i] for path, i in homes(paths, heavy).items()}
    assert {found[path] for path in ("0", "0.conv", "0.bn", "0.act")} == {"0.conv"}
    assert found["1.cv1"] == "1.cv1.conv"
    assert found["1"] == "1"  # of two
    assert found[""] == ""


def test_modules_add_up_to_what_a_network_takes_unwatched() -> None:
    found = spent(
        {"": 0, "a": 1}, [{"/a/Conv": 1.0, "/x": 1.0}, {"/a/Conv": 3.0}], np.array([3.0, 6.0])
    )
    assert found.tolist() == [[1.5, 1.5], [0.0, 6.0]]
    with pytest.raises(MeasureError, match="did not tell"):
        spent({"": 0}, [{}], np.array([1.0]))


def test_a_fit_finds_the_factors_again() -> None:
    random = np.random.default_rng(0)
    widths = random.integers(1, 9, (30, 2)) * 8
    into, out = widths.T
    features = np.stack(
        [np.ones(30), into, out, *(into * out if b == 1 else _whole(into, out, b) for b in BLOCKS)],
        1,
    )[:, None, :].astype(float)
    truth = np.array([0.5, 0.01, 0.0, 0.0, 0.0, 0.002, 0.0])
    totals = (features * truth).sum((1, 2))
    factors = fitted(features, totals[:, None], totals)
    assert (features * factors).sum((1, 2)) == pytest.approx(totals)
    assert foretold(features, totals[:, None], totals) == pytest.approx(totals)
    assert (factors >= 0).all()


def _whole(into: np.ndarray, out: np.ndarray, block: int) -> np.ndarray:
    return np.ceil(into / block) * block * np.ceil(out / block) * block


def test_a_ladder_goes_down_in_steps() -> None:
    model = load("yolov8n.yaml")[0]
    graph = trace(model)
    costs = Costs(model, graph, count(model, 64))
    found = ladder(graph, ProfileOptions(runtime=HERE, model="", networks=8))
    macs = [costs.macs(kept) / costs.full.macs for kept in found]
    assert macs[0] > 0.6
    assert macs[-1] < 0.12
    for kept in found:
        for group in graph.groups:
            left = int(kept[group.units].sum())
            assert left % 8 == 0 or left == group.units.size


def test_a_table_is_made_in_torch() -> None:
    model = load("yolov8n.yaml")[0]
    graph = trace(model)
    seen: list[tuple[int, int]] = []
    how = ProfileOptions(
        runtime=HERE, model="yolov8n.yaml", networks=6,
        progress=lambda done, total: seen.append((done, total)),
    )  # fmt: skip
    found = profile(model, graph, how)
    assert seen[-1] == (56, 56)  # eight rounds of seven networks
    assert found.structure == structure_of(model)
    assert len(found.networks) == 7
    assert found.networks[0].macs == 1
    assert found.full == found.networks[0].ms > 0
    clock = Clock(graph, found)
    every, none = np.ones(graph.n_units, bool), ~graph.prunable
    assert 0 < clock.ms(none) < clock.ms(every)
    times = clock.by_module(every)
    convs = sum(ms for path, ms in times.items() if path.endswith("conv"))
    assert convs > 0.2 * clock.ms(every)  # it knows where the time goes
