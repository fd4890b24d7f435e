"""Blocks chosen by what is seen, and shorter networks repaired against the full one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from block_nets import SIDE, stock
from torch import Tensor, nn

import yoloprune.prune.slim as pipeline
from yoloprune.channels.trace import trace
from yoloprune.errors import PlanError
from yoloprune.measure.demo_data import ShapesSpec, write_shapes
from yoloprune.measure.size import count
from yoloprune.models.door import Source, load, save
from yoloprune.prune.aligned import Aligned
from yoloprune.prune.apart import Seen
from yoloprune.prune.blocks import find_blocks, remove_blocks
from yoloprune.prune.budget import Budget
from yoloprune.prune.deciding import decide
from yoloprune.prune.harm import least_harmful
from yoloprune.prune.options import SlimOptions
from yoloprune.prune.outline import outline
from yoloprune.prune.plan import PrunePlan, Reached
from yoloprune.prune.ratios import parse_ratios
from yoloprune.prune.repair import repair
from yoloprune.prune.slim import slim
from yoloprune.prune.stopwatch import Stopwatch


def pictures(number: int = 6) -> Tensor:
    return torch.rand(number, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(2))


def faint(model: nn.Module, name: str, factor: float) -> None:
    """Bring the branch of a block near to silence."""
    block = next(b for b in find_blocks(model, SIDE).removable if b.name == name)
    with torch.no_grad():
        for parameter in block.silencing:
            model.get_parameter(parameter).mul_(factor)


def seeing(name: str) -> nn.Module:
    """A network that sees something everywhere, where a fresh one sees next to nothing."""
    model = stock(name)
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    with torch.no_grad():
        model.train()(pictures(16))
    for norm in norms:
        norm.momentum = 0.03
    head: Any = model.get_submodule("model")[-1]  # type: ignore[index]
    for branch in head.cv3:
        branch[-1].bias.data.zero_()
    return model.eval()


@pytest.fixture
def yolo() -> nn.Module:
    model = seeing("yolov8n")
    faint(model, "model.6.m.1", 1e-3)
    faint(model, "model.4.m.0", 1e-2)
    return model


def test_those_that_say_nothing_go_first(yolo: nn.Module) -> None:
    found = find_blocks(yolo, SIDE)
    spared = least_harmful(yolo, found, 2, pictures())
    assert [one.block.name for one in spared] == ["model.6.m.1", "model.4.m.0"]
    blind = least_harmful(yolo, found, 2, None)
    assert [one.block.name for one in blind] == ["model.6.m.1", "model.4.m.0"]
    with pytest.raises(PlanError, match="--blocks: the network can spare 6 blocks, got 7"):
        least_harmful(yolo, found, 7, None)


def test_harm_is_that_of_the_block_beside_those_that_went(yolo: nn.Module) -> None:
    found = find_blocks(yolo, SIDE)
    spared = least_harmful(yolo, found, 3, pictures())
    short = remove_blocks(yolo, [one.block for one in spared]).model
    apart = Seen(yolo, pictures()).apart(short)
    assert sum(one.harm or 0.0 for one in spared) == pytest.approx(apart, rel=1e-2)


def test_the_full_network_goes_by_the_names_of_the_shorter_one() -> None:
    model = stock("yolov8n")
    block = next(b for b in find_blocks(model, SIDE).removable if b.name == "model.6.m.0")
    made = remove_blocks(model, [block])
    aligned = Aligned(model, made.names)
    ours = aligned.get_submodule("model.6.m.0.cv1.conv")
    assert ours is model.get_submodule("model.6.m.1.cv1.conv")
    x = pictures(1)
    with torch.no_grad():
        assert torch.equal(aligned(x)[0], model(x)[0])


@pytest.mark.parametrize("name", ["yolov8n", pytest.param("yolo11n", marks=pytest.mark.slow)])
def test_repair_comes_nearer_to_the_full_network(name: str) -> None:
    model = seeing(name)
    blocks = find_blocks(model, SIDE).removable[1:3]
    made = remove_blocks(model, blocks)
    graph = trace(made.model)
    kept = np.ones(graph.n_units, dtype=bool)
    images = pictures(12)
    done = repair(Aligned(model, made.names), made.model, graph, kept, images)
    seen = Seen(model, pictures(12))
    assert seen.apart(done.model) < 0.9 * seen.apart(made.model)
    assert {layer.path for layer in done.record.layers} <= set(made.names)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("shapes")
    spec = ShapesSpec(size=SIDE, images=8, val=2)
    return str(write_shapes(folder, spec))


def slimmed(tmp_path: Path, calib: str | None, **changes: Any) -> tuple[nn.Module, Any]:
    model = seeing("yolov8n")
    file = save(model, tmp_path / "full.pt")[0]
    loaded, _ = load(file)
    how = {"budget": Budget(blocks=2), "repeats": 0, "imgsz": SIDE, "calib": calib, **changes}
    return loaded, slim(loaded, Source(file), SlimOptions(out=tmp_path / "out", **how))


def test_blocks_alone(tmp_path: Path, shapes: str) -> None:
    full, result = slimmed(tmp_path, shapes)
    record = result.summary["blocks"]
    names = {block["name"] for block in record["removed"]}
    assert len(names) == 2 and record["removable"] == 6 and record["by"] == "what is seen"
    assert record["self_test"]["max_rel_diff"] <= 1e-12
    plan = PrunePlan.read(Path(result.summary["files"]["plan"]))
    assert set(plan.blocks) == names and not plan.layers
    assert plan == result.plan
    blocks = find_blocks(full, SIDE)
    gone = sum(b.macs for b in blocks.named(plan.blocks))
    assert count(result.model, SIDE).macs == blocks.macs - gone
    assert result.repair is not None and len(result.repair.layers) > 20
    again, _ = load(result.summary["files"]["model"][0])
    with torch.no_grad():
        assert again(pictures(1))[0].shape == full(pictures(1))[0].shape


def test_then_channels_to_a_share_of_the_full_network(
    tmp_path: Path, shapes: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    teachers = []
    mend = pipeline.repair_on

    def watched(teacher: nn.Module, *args: Any) -> Any:
        teachers.append(teacher)
        return mend(teacher, *args)

    monkeypatch.setattr(pipeline, "repair_on", watched)
    full, result = slimmed(
        tmp_path,
        shapes,
        budget=Budget(blocks=2, macs=0.7, round_to=8),
        criterion="l2",
        scope="local",
    )
    dense, macs = count(full, SIDE).macs, count(result.model, SIDE).macs
    assert 0.6 * dense < macs <= 0.7 * dense
    assert len(result.plan.blocks) == 2 and result.plan.layers
    assert result.plan.budget.macs == 0.7
    (teacher,) = teachers  # what the layers that are left are fitted to is the full network
    assert isinstance(teacher, Aligned) and teacher.full is full
    short = remove_blocks(full, find_blocks(full, SIDE).named(result.plan.blocks)).model
    assert result.plan.remove(trace(short)).size  # its layers are those of the shorter network


def test_a_budget_that_blocks_alone_meet(tmp_path: Path) -> None:
    _, result = slimmed(tmp_path, None, budget=Budget(blocks=2, macs=0.95))
    assert not result.plan.layers and result.plan.budget.macs == 0.95
    assert result.summary["blocks"]["by"] == "scales"
    assert result.summary["verdict"]["state"] == "dead"  # live blocks went, nothing was repaired


def test_plans_keep_blocks_and_speak_of_them_only_where_there_are_some() -> None:
    reached = Reached(percent=0.0, channels=0, prunable_channels=9, units=0, threshold=0.0)
    plan = PrunePlan(criterion="none", budget=Budget(macs=0.5), reached=reached, layers={})
    assert "blocks" not in json.loads(plan.to_json())
    named = replace(plan, blocks=("model.2.m.0", "model.10.m.0.attn"))
    assert PrunePlan.from_json(named.to_json()) == named
    counted = replace(named, budget=Budget(blocks=2, macs=0.5))
    assert PrunePlan.from_json(counted.to_json()) == counted
    with pytest.raises(PlanError, match="plan: blocks: got 3, expected a list of texts"):
        PrunePlan.from_json(json.dumps({**json.loads(plan.to_json()), "blocks": 3}))


def test_nothing_to_do_is_refused() -> None:
    with pytest.raises(PlanError, match="budget: is empty"):
        Budget(blocks=0)
    with pytest.raises(PlanError, match="--blocks: must be a whole number, at least 0, got 1.5"):
        Budget(blocks=1.5)  # type: ignore[arg-type]


def rerun(tmp_path: Path, model: nn.Module, out: str, **how: Any) -> Any:
    options = {"budget": Budget(percent=0.5), "repeats": 0, "imgsz": SIDE, **how}
    return slim(model, Source(tmp_path / "full.pt"), SlimOptions(out=tmp_path / out, **options))


def altered(file: str, target: Path, **changes: Any) -> Path:
    target.write_text(json.dumps({**json.loads(Path(file).read_text()), **changes}))
    return target


@pytest.mark.slow
@pytest.mark.parametrize("budget", [Budget(blocks=2), Budget(blocks=2, percent=0.3, round_to=8)])
def test_a_plan_with_blocks_repeats_its_cut(tmp_path: Path, shapes: str, budget: Budget) -> None:
    full, first = slimmed(tmp_path, shapes, budget=budget)
    file = first.summary["files"]["plan"]
    again = rerun(tmp_path, full, "again", plan=Path(file), calib=shapes)
    ours, theirs = first.model.state_dict(), again.model.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours) and len(ours) == len(theirs)
    assert Path(again.summary["files"]["plan"]).read_text() == Path(file).read_text()
    assert again.summary["blocks"]["by"] == "the plan"
    assert not any("edited" in text for text in again.summary["warnings"])


def test_contradictions_about_blocks_are_named(tmp_path: Path) -> None:
    full, first = slimmed(tmp_path, None)
    file = first.summary["files"]["plan"]
    names = ["model.2.m.0", "model.12.m.0", "model.2.m.0", "nowhere"]
    mine = altered(file, tmp_path / "mine.json", blocks=names)
    with pytest.raises(PlanError) as caught:
        rerun(tmp_path, full, "again", plan=mine)
    text = str(caught.value)
    assert text.startswith(f"{mine}: blocks: model.12.m.0 cannot go, it gives its branch alone")
    assert "; model.2.m.0 stands twice; nowhere is no residual block. Those that can go" in text
    fewer = altered(file, tmp_path / "fewer.json", blocks=["model.2.m.0"])
    found = rerun(tmp_path, full, "fewer", plan=fewer)
    assert found.plan.blocks == ("model.2.m.0",)
    assert (
        "fewer.json: was edited: it takes 1 blocks out, and 2 when it was made."
        in (found.summary["warnings"])
    )


@pytest.mark.slow
def test_shares_and_bounds_of_ap_are_of_the_full_network(tmp_path: Path, shapes: str) -> None:
    told = yaml.safe_load(Path(shapes).read_text())
    told |= {"path": str(Path(shapes).parent), "names": [f"thing {i}" for i in range(80)]}
    data = tmp_path / "data.yaml"
    data.write_text(yaml.safe_dump(told))
    budget = Budget(blocks=2, max_drop=0.5, round_to=8)
    full, found = slimmed(tmp_path, shapes, budget=budget, data=str(data), drop_trials=2)
    trials = found.summary["max_drop"]["trials"]
    macs = count(found.model, SIDE).macs / count(full, SIDE).macs
    chosen = trials[found.summary["max_drop"]["chosen"]]
    assert chosen["macs"] == pytest.approx(macs) and macs <= chosen["asked"]
    assert len(found.plan.blocks) == 2 and found.plan.budget.macs == chosen["asked"]
    assert found.summary["max_drop"]["full"] == found.summary["before"]["AP"]


def test_a_dry_run_holds_limits_against_the_full_network(tmp_path: Path) -> None:
    model = seeing("yolov8n")
    source = Source(save(model, tmp_path / "full.pt")[0])
    options = SlimOptions(budget=Budget(blocks=2, macs=0.7), out=tmp_path, imgsz=SIDE)
    decision = decide(model, source, options, Stopwatch())
    size = count(decision.model, decision.size)
    dry = outline(decision.model, decision.graph, decision.plan, size, budget=decision.budget)
    (limit,) = dry.limits
    assert limit.asked == pytest.approx(0.7 * count(model, SIDE).macs) and limit.holds
    assert dry.before.macs == size.macs < count(model, SIDE).macs
    assert decision.plan.budget.macs == 0.7 and len(decision.plan.blocks) == 2


def test_a_silent_block_goes_free(tmp_path: Path) -> None:
    model = seeing("yolov8n")
    faint(model, "model.6.m.1", 0.0)
    source = Source(save(model, tmp_path / "full.pt")[0])
    how = {"repeats": 0, "imgsz": SIDE, "out": tmp_path / "out"}
    found = slim(model, source, SlimOptions(budget=Budget(blocks=1), **how))  # type: ignore[arg-type]
    assert found.plan.blocks == ("model.6.m.1",) and found.summary["warnings"] == []
    assert found.summary["verdict"]["state"] == "works"


def ruled(pattern: str) -> Budget:
    return Budget(blocks=2, ratios=parse_ratios({pattern: 0.25}, "ratios"))


@pytest.mark.slow
def test_rules_for_layers_mean_those_of_the_full_network(tmp_path: Path) -> None:
    model = seeing("yolov8n")
    faint(model, "model.6.m.0", 1e-4)
    faint(model, "model.4.m.0", 1e-4)
    source = Source(save(model, tmp_path / "full.pt")[0])

    def at(pattern: str) -> Any:
        how = {"repeats": 0, "imgsz": SIDE, "out": tmp_path / "out"}
        return slim(model, source, SlimOptions(budget=ruled(pattern), **how))  # type: ignore[arg-type]

    with pytest.raises(PlanError, match=r"--ratios: model\.6\.m\.0.*: without the blocks .* layer"):
        at("model.6.m.0.cv1.conv")
    assert at("neck").plan.blocks == ("model.4.m.0", "model.6.m.0")
    assert at("model.12.*").plan.layers


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sensitivity": Path("curves.json")}, "--sensitivity: was measured with the blocks"),
        ({"budget": Budget(blocks=1, latency=0.5)}, "--latency: 0.5 is a share of the full"),
        ({"search": 5.0, "scope": "local"}, "--search, --scope: chooses channels"),
    ],
)
def test_what_blocks_cannot_stand_beside(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(PlanError, match=message):
        slimmed(tmp_path, None, **changes)
