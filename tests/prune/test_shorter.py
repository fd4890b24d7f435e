"""Blocks chosen by what is seen, and shorter networks repaired against the full one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from block_nets import SIDE, stock
from torch import Tensor, nn

from yoloprune.channels.trace import trace
from yoloprune.errors import PlanError
from yoloprune.measure.demo_data import ShapesSpec, write_shapes
from yoloprune.measure.size import count
from yoloprune.models.door import Source, load, save
from yoloprune.prune.aligned import Aligned
from yoloprune.prune.apart import Seen
from yoloprune.prune.blocks import find_blocks, remove_blocks
from yoloprune.prune.budget import Budget
from yoloprune.prune.harm import least_harmful
from yoloprune.prune.plan import PrunePlan, Reached
from yoloprune.prune.repair import repair
from yoloprune.prune.slim import SlimOptions, slim


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
    assert sum(one.harm for one in spared) == pytest.approx(apart, rel=1e-2)


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
    how = {"budget": None, "blocks": 2, "repeats": 0, "imgsz": SIDE, "calib": calib, **changes}
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


def test_then_channels_to_a_share_of_the_full_network(tmp_path: Path, shapes: str) -> None:
    full, result = slimmed(
        tmp_path, shapes, budget=Budget(macs=0.7, round_to=8), criterion="l2", scope="local"
    )
    dense, macs = count(full, SIDE).macs, count(result.model, SIDE).macs
    assert 0.6 * dense < macs <= 0.7 * dense
    assert len(result.plan.blocks) == 2 and result.plan.layers
    assert result.plan.budget.macs == 0.7
    short = remove_blocks(full, find_blocks(full, SIDE).named(result.plan.blocks)).model
    assert result.plan.remove(trace(short)).size  # its layers are those of the shorter network


def test_a_budget_that_blocks_alone_meet(tmp_path: Path) -> None:
    _, result = slimmed(tmp_path, None, budget=Budget(macs=0.95))
    assert not result.plan.layers and result.plan.budget.macs == 0.95
    assert result.summary["blocks"]["by"] == "scales"
    assert result.summary["verdict"]["state"] == "dead"  # live blocks went, nothing was repaired


def test_plans_keep_blocks_and_speak_of_them_only_where_there_are_some() -> None:
    reached = Reached(percent=0.0, channels=0, prunable_channels=9, units=0, threshold=0.0)
    plan = PrunePlan(criterion="none", budget=Budget(macs=0.5), reached=reached, layers={})
    assert "blocks" not in json.loads(plan.to_json())
    named = replace(plan, blocks=("model.2.m.0", "model.10.m.0.attn"))
    assert PrunePlan.from_json(named.to_json()) == named
    with pytest.raises(PlanError, match="plan: blocks: got 3, expected a list of texts"):
        PrunePlan.from_json(json.dumps({**json.loads(plan.to_json()), "blocks": 3}))


def test_nothing_to_do_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="--blocks"):
        slimmed(tmp_path, None, blocks=0)
