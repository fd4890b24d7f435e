"""Two gloo processes on the CPU, against one process with the same batch over all."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import slims
import torch
import yaml
from ultralytics.utils.dist import find_free_network_port

from tests.nets import CONV, randomised
from yoloprune.channels.trace import trace
from yoloprune.darknet.cfg import parse_cfg
from yoloprune.darknet.network import DarknetModel
from yoloprune.models.door import load, save
from yoloprune.prune.budget import Budget
from yoloprune.prune.cut import cut_units
from yoloprune.train.equip import Equip
from yoloprune.train.options import SparsityOptions, TrainOptions
from yoloprune.train.run import train
from yoloprune.train.trainer import KeepingDetectionTrainer

WORKER = Path(__file__).with_name("distributed_worker.py")
HEAD = (
    "[convolutional]\nfilters=14\nsize=1\nstride=1\nactivation=linear\n"
    "[yolo]\nmask=0,1\nanchors=10,10,30,30\nclasses=2\nnum=2\n"
)
TWO = ["-m", "torch.distributed.run", "--nproc_per_node", "2"]
EPOCHS = 3


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A slim network, whose structure is not that of any description."""
    torch.manual_seed(0)
    text = "[net]\nwidth=64\nheight=64\nchannels=3\n" + CONV.format(16) + CONV.format(24)
    full = randomised(DarknetModel(parse_cfg(text + CONV.format(32) + HEAD)))
    graph = trace(full)
    thin = cut_units(full, graph, np.flatnonzero(graph.prunable)[::5])
    return save(thin, tmp_path_factory.mktemp("model") / "thin.cfg")[0]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same picture sixteen times: both processes see batches with the same statistics."""
    folder = tmp_path_factory.mktemp("data")
    picture = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    for i in range(16):
        for kind, suffix in (("images", "png"), ("labels", "txt")):
            (folder / kind).mkdir(exist_ok=True)
            file = folder / kind / f"{i}.{suffix}"
            if kind == "images":
                cv2.imwrite(str(file), picture)
            else:
                file.write_text("0 0.3 0.3 0.2 0.2\n1 0.6 0.7 0.5 0.4\n")
    file = folder / "data.yaml"
    names = {0: "0", 1: "1"}
    file.write_text(
        yaml.safe_dump({"path": str(folder), "train": "images", "val": "images", "names": names})
    )
    return file


def run(out: Path, model: Path, data: Path, *launcher: str) -> dict[str, Any]:
    if launcher:
        launcher = (*launcher, "--master_port", str(find_free_network_port()))
    command = [sys.executable, *launcher, str(WORKER), str(model), str(data), str(out), str(EPOCHS)]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return {file.stem: torch.load(file, weights_only=True) for file in sorted(out.glob("*.pt"))}


@pytest.mark.slow
def test_two_processes_are_one_with_the_whole_batch(
    model: Path, data: Path, tmp_path: Path
) -> None:
    one = run(tmp_path / "one", model, data)
    two = run(tmp_path / "two", model, data, *TWO)
    assert {state["how"] for state in two.values()} == {("DistributedDataParallel", 2)}
    start = dict(load(model)[0].named_parameters())
    for epoch in range(EPOCHS):
        alone, first, second = (
            states[f"{name}-{epoch}"] for states, name in ((one, "alone"), (two, "0"), (two, "1"))
        )
        assert torch.equal(first["zeros"], second["zeros"])
        assert torch.equal(first["zeros"], alone["zeros"])
        for name, value in first["parameters"].items():
            assert value.shape == start[name].shape
            assert torch.equal(value, second["parameters"][name]), name  # bit for bit
            torch.testing.assert_close(value, alone["parameters"][name], rtol=1e-4, atol=1e-5)
    last = two[f"0-{EPOCHS - 1}"]
    assert last["zeros"].sum() > 10
    moved = max(float((v - start[n]).detach().abs().max()) for n, v in last["parameters"].items())
    assert moved > 0.01
    result, _ = load(tmp_path / "two/run/weights/last.cfg")
    assert [p.shape for p in result.parameters()] == [p.shape for p in start.values()]


@pytest.mark.slow
def test_the_command_line_runs_under_torchrun(model: Path, tmp_path: Path) -> None:
    data = slims.pictures(tmp_path / "data", "detect", count=8)
    command = [
        sys.executable, *TWO, "--master_port", str(find_free_network_port()),
        "-m", "yoloprune", "train", str(model), "--data", str(data), "--epochs", "2",
        "--imgsz", "64", "--batch", "4", "--device", "cpu", "--percent", "0.4",
        "--min-channels", "2", "--set", "plots=False", "-o", str(tmp_path / "run"),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("results in") == 1  # one process speaks
    assert (tmp_path / "run/weights/last.cfg").is_file()
    assert (tmp_path / "run/sparsity.png").is_file()


class StartedError(Exception):
    """The workers would run now."""


def test_what_workers_of_several_devices_are_handed(
    model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ultralytics starts them from a file; without GPUs it is read here, not run."""
    started: list[Any] = []

    def start(command: list[str], check: bool) -> None:
        state = torch.load(Path(command[-1]).with_suffix(".pt"), weights_only=False)
        started.append((command, state))
        raise StartedError

    monkeypatch.setattr("ultralytics.engine.trainer.subprocess.run", start)
    real = KeepingDetectionTrainer.__init__

    def with_two(self: Any, *args: Any, **more: Any) -> None:
        real(self, *args, **more)
        self.ddp, self.world_size = True, 2

    monkeypatch.setattr(KeepingDetectionTrainer, "__init__", with_two)
    out = tmp_path / "run"
    out.mkdir()
    (out / "mine.txt").write_text("stays")
    sparsity = SparsityOptions(budget=Budget(percent=0.4), criterion="gamma")
    options = TrainOptions(data=str(data), epochs=1, imgsz=64, device="cpu", sparsity=sparsity)
    with pytest.raises(StartedError):
        train(load(model)[0], out, options)
    assert (out / "mine.txt").read_text() == "stays"
    ((command, state),) = started
    assert "torch.distributed.run" in command
    assert state["trainer"] is KeepingDetectionTrainer
    (equip,) = state["callbacks"]["on_pretrain_routine_end"][-1:]
    assert equip == Equip(options)
    shapes = [p.shape for p in state["model"].parameters()]
    assert shapes == [p.shape for p in load(model)[0].parameters()]
