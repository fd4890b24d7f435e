"""What runs on a GPU, on one: sessions, a bench, repair, sparse training under AMP."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import yoloprune as yp
from yoloprune.channels.trace import trace
from yoloprune.measure.demo_data import ShapesSpec, write_shapes
from yoloprune.measure.runtimes import RuntimeName, RuntimeOptions
from yoloprune.measure.sessions.base import Session, random_batch
from yoloprune.measure.sessions.table import session_class
from yoloprune.models.difference import difference
from yoloprune.models.door import load
from yoloprune.prune.budget import Budget
from yoloprune.prune.choose import choose_scores
from yoloprune.prune.planner import Planner
from yoloprune.train.options import SparsityOptions, TrainOptions
from yoloprune.train.run import train

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU of NVIDIA here")

SIDE = 160


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    spec = ShapesSpec(images=16, val=8, size=SIDE)
    return write_shapes(tmp_path_factory.mktemp("shapes"), spec)


def of(network: nn.Module, name: RuntimeName, precision: str, at: Path, batch: int = 2) -> Session:
    how = RuntimeOptions(
        runtime=name, imgsz=(SIDE, SIDE), batch=batch, device="cuda:0",
        precision=precision,  # type: ignore[arg-type]
    )  # fmt: skip
    return session_class(name).of_model(network, how, at)


@pytest.mark.parametrize(("precision", "most"), [("fp32", 2e-3), ("fp16", 2e-2)])
@pytest.mark.parametrize("network", ["yolov8n.yaml", "yoloprune-demo.cfg"])
@pytest.mark.parametrize("name", ["torch", "torch-cudagraph", "torchscript"])
def test_what_it_gives_is_what_a_processor_gives(
    name: RuntimeName, network: str, precision: str, most: float, tmp_path: Path
) -> None:
    model = load(network)[0]
    session = of(model, name, precision, tmp_path)
    try:
        for seed in (0, 1):  # what it is fed later, not what it was recorded with
            batch = np.random.default_rng(seed).random((2, 3, SIDE, SIDE), dtype=np.float32)
            session.feed(batch)
            session.run()
            found = session.outputs()[0]
            with torch.no_grad():
                made = model(torch.from_numpy(batch))
            wanted = (made[0] if isinstance(made, tuple) else made).numpy()
            assert difference([wanted], [found]) < most
        assert 0 < session.pass_ms() < 1000
    finally:
        session.close()


def test_a_graph_spares_launches(tmp_path: Path) -> None:
    model = load("yolov8n.yaml")[0]
    eager, graph = (of(model, name, "fp32", tmp_path, 1) for name in ("torch", "torch-cudagraph"))
    times = [np.median([one.pass_ms() for _ in range(30)][10:]) for one in (eager, graph)]
    assert times[1] < 0.8 * times[0]


def test_a_bench_has_the_memory_and_the_clocks_of_the_gpu(data: Path, tmp_path: Path) -> None:
    found = yp.bench(
        ["yoloprune-demo.cfg"], data=str(data), imgsz=SIDE, repeats=4, device="0",
        runtimes=["torch", "torch-cudagraph"], precision=["fp32", "fp16"], out=tmp_path / "bench",
    )  # fmt: skip
    assert not found.failures
    assert {(row.runtime, row.precision) for row in found.rows} == {
        (name, kind) for name in ("torch", "torch-cudagraph") for kind in ("fp32", "fp16")
    }
    assert all(row.device == "cuda:0" and (row.peak_mb or 0) > 0 for row in found.rows)
    scores = [row.ap for row in found.rows]
    assert max(scores) - min(scores) < 0.02  # type: ignore[operator,type-var]
    assert "clocks.sm" in found.environment["gpu_state"]


def test_repair_there_is_repair_here(data: Path) -> None:
    model = load("yoloprune-demo.cfg")[0]
    example = torch.from_numpy(random_batch(RuntimeOptions(runtime="torch", imgsz=(SIDE, SIDE))))
    made = [
        yp.slim(
            model, example, macs=0.5, calib=str(data), calib_images=16, imgsz=SIDE, device=where
        )
        for where in ("cpu", "0")
    ]
    here, there = (one.model.cpu() for one in made)
    shapes = [[tuple(p.shape) for p in one.parameters()] for one in (here, there)]
    assert shapes[0] == shapes[1]
    with torch.no_grad():
        outputs = [one(example) for one in (here, there)]
    found = [(o[0] if isinstance(o, tuple) else o).numpy() for o in outputs]
    assert difference([found[0]], [found[1]]) < 0.05


def test_sparse_training_under_amp_comes_to_zeros(data: Path, tmp_path: Path) -> None:
    budget = Budget(percent=0.4)
    options = TrainOptions(
        data=str(data), imgsz=SIDE, device="0", epochs=3, batch=4,
        sparsity=SparsityOptions(budget=budget),
        extra={"amp": True, "plots": False, "val": False, "workers": 0, "verbose": False},
    )  # fmt: skip
    model = train(load("yoloprune-demo.cfg")[0], tmp_path / "run", options).last
    graph = trace(model)
    scores = choose_scores(model, graph, budget, criterion="gamma").scores
    gone = Planner(graph).choose(scores, budget)
    assert len(gone) > 0
    assert np.nanmax(np.abs(scores.values[gone])) == 0
