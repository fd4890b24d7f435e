"""Tasks that a user brings, done from the docs alone: their commands, word for word.

Each test takes its commands from the page that a reader would look at, runs them on small pictures,
and then asks whether the task is done, by something other than what the command says of itself.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from docs_reading import blocks
from test_commands import REPO, carry_out, lend, shorter

from yoloprune.measure.size import count
from yoloprune.models.door import load
from yoloprune.prune.plan import PrunePlan

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@pytest.fixture
def mine(tmp_path: Path, shared: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of a reader who has a network, its pictures and its data set."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setenv("YOLOPRUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(str(tmp_path))
    lend(tmp_path, shared)
    yield tmp_path
    sys.modules.pop("mine_criterion", None)


def command(page: str, start: str) -> str:
    """The first command of a page that begins so."""
    path = REPO / "README.md" if page == "README" else REPO / f"docs/{page}.md"
    for block in blocks(path):
        for line in block.commands if block.kind == "console" else []:
            if line.startswith(start):
                return line
    raise AssertionError(f"{page} has no command that begins with {start!r}")


def do(page: str, start: str, *more: str) -> None:
    """Run a command of a page; ``more`` is what only the test adds."""
    line = " ".join([command(page, start), *more])
    carry_out(_console(line), page)


def _console(line: str) -> Any:
    from docs_reading import Block

    return Block(line=0, kind="console", mark="", title="", text=f"$ {line}\n")


def macs(path: Path | str) -> int:
    return count(load(path)[0], 96).macs


def seen_by_stock(path: Path | str) -> list[Any]:
    """What stock Ultralytics sees on a picture, in a process that never saw yoloprune."""
    script = (
        "import sys; from ultralytics import YOLO\n"
        f"found = YOLO({str(path)!r}).predict('pictures', imgsz=96, verbose=False, save=False)\n"
        "assert 'yoloprune' not in sys.modules\n"
        "print(len(found))"
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.split()


def test_shrink_my_pt_to_half(mine: Path) -> None:
    do("start", "yoloprune slim mine.pt", "--no-repair", "--criterion l2")
    assert macs("runs/slim/mine-slim.pt") <= 0.5 * macs("mine.pt")
    assert seen_by_stock("runs/slim/mine-slim.pt")[-1] == "16"


def test_fit_a_limit_of_time(mine: Path) -> None:
    do("guides/deadline", "yoloprune slim mine.pt --latency", "--no-repair --criterion l2")
    plan = PrunePlan.read(mine / "fast/mine-slim-plan.json")
    assert plan.budget.to_dict()["latency"] == 0.6
    assert macs("fast/mine-slim.pt") < 0.9 * macs("mine.pt")


def test_only_pictures_and_no_labels(mine: Path) -> None:
    for labels in mine.rglob("labels"):
        for path in labels.rglob("*.txt"):
            path.unlink()
    (mine / "mine.yaml").unlink()
    do("guides/pictures-only", "yoloprune slim mine.pt --percent", "--json said.json")
    said = json.loads((mine / "said.json").read_text())
    full, thin = load("mine.pt")[0], load("slim/mine-slim.pt")[0]
    paths = sorted((mine / "pictures").iterdir())[8:]  # the others may have been fitted to
    picture = torch.from_numpy(
        np.stack([cv2.resize(cv2.imread(str(p)), (96, 96))[:, :, ::-1] for p in paths])
    )
    batch = picture.permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        near, wanted = thin(batch)[0], full(batch)[0]
    error = float((near - wanted).norm() / wanted.norm())
    assert error < 0.3, said["reached"]


def test_my_cfg_for_opencv(mine: Path) -> None:
    do("guides/darknet", "yoloprune slim mine.cfg --macs")
    thin, _ = load("slim-mine/mine-slim.cfg")
    net = cv2.dnn.readNetFromDarknet("slim-mine/mine-slim.cfg", "slim-mine/mine-slim.weights")
    picture = np.random.default_rng(0).random((1, 3, 160, 160), dtype=np.float32)
    net.setInput(picture)
    theirs = net.forward(net.getUnconnectedOutLayersNames())
    with torch.no_grad():
        ours = thin(torch.from_numpy(picture))[0]
    # OpenCV: rows of cx, cy, w, h as shares of the picture; ours [1, 4 + nc, N] in pixels.
    boxes = np.concatenate([rows[:, :4] for rows in theirs]) * 160
    there = {tuple(np.round(box, 1)) for box in boxes}
    here = {tuple(np.round(box, 1)) for box in ours[0, :4].T.numpy()}
    assert len(there & here) > 0.8 * len(there)


def test_go_on_after_a_crash(mine: Path) -> None:
    """Killed in the middle of the second of three epochs, then the same command and `--resume`."""
    line = command("guides/training", "yoloprune train mine.pt --data")
    line = shorter(line).replace("--epochs 1", "--epochs 3")
    words = [sys.executable, "-m", *line.split()]
    log = mine / "sparse/sparsity.jsonl"
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
    running = subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 600
    while not (log.is_file() and log.read_text().count("\n")):
        assert running.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    running.send_signal(signal.SIGKILL)
    running.wait()
    assert len(log.read_text().splitlines()) < 3
    subprocess.run([*words, "--resume"], env=environment, check=True, capture_output=True)
    assert [json.loads(row)["epoch"] for row in log.read_text().splitlines()] == [1, 2, 3]
    assert (mine / "sparse/weights/best.pt").is_file()


def test_compare_two(mine: Path) -> None:
    do("guides/plans", "yoloprune slim mine.pt --macs 0.7", "-o plans")
    do("guides/plans", "yoloprune slim mine.pt --macs 0.7")
    do("guides/plans", "yoloprune diff", "--json said.json")
    said = json.loads((mine / "said.json").read_text())
    assert said


def test_find_out_why_a_layer_was_kept(mine: Path) -> None:
    do("guides/plans", "yoloprune info", "--json said.json")
    layers = json.loads((mine / "said.json").read_text())["layers"]
    kept = [layer for layer in layers if not layer["prunable"]]
    assert kept
    assert all(layer["reason"] for layer in kept)
    outputs = [layer for layer in kept if layer["name"].startswith("model.22.cv3")]
    assert outputs
    assert all("output" in layer["reason"] for layer in outputs)


def test_export_in_8_bits(mine: Path) -> None:
    onnx = pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    do("guides/int8", "yoloprune export mine.pt")
    (path,) = mine.rglob("mine*int8.onnx")
    kinds = {node.op_type for node in onnx.load(str(path)).graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= kinds
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    picture = np.random.default_rng(0).random((1, 3, 96, 96), dtype=np.float32)
    found = torch.from_numpy(session.run(None, {given.name: picture})[0])
    with torch.no_grad():
        wanted = load("mine.pt")[0](torch.from_numpy(picture))[0]
    assert found.shape == wanted.shape
    assert float((found - wanted).norm() / wanted.norm()) < 0.1


def test_my_own_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    told: dict[str, Any] = {}
    for block in blocks(REPO / "docs/guides/your-own-network.md")[:2]:
        exec(compile(block.text, "your-own-network.md", "exec"), told)
    full, thin = told["model"], told["result"].model
    assert count(thin, 64).macs <= 0.5 * count(full, 64).macs
    assert thin(told["pictures"]).shape == full(told["pictures"]).shape
    assert torch.load("slim.pt", weights_only=False)(told["pictures"]).shape == (32, 1000)
    assert "MACs" in capsys.readouterr().out


def test_plug_it_into_my_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the page says, without what only goes on from it: half the work, the same outputs."""
    monkeypatch.chdir(tmp_path)
    told: dict[str, Any] = {}
    new = 0
    for block in blocks(REPO / "docs/guides/your-own-loop.md")[:3]:
        exec(compile(block.text, "your-own-loop.md", "exec"), told)
        new += sum("sparsity" in line for line in block.text.splitlines())
    assert new <= 5
    full, thin = told["model"].double(), told["result"].model.double()
    example = torch.rand(4, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(thin(example), full(example), rtol=0, atol=1e-12)
    work = [count(model, 32).macs for model in (full, thin)]
    assert work[1] <= 0.5 * work[0]
