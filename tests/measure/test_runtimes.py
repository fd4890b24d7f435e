"""Runtimes: each runs a network, tells where its time goes, and refuses what it cannot do."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from yoloprune.channels import trace
from yoloprune.errors import MeasureError
from yoloprune.measure.runtimes import PROFILED, RuntimeOptions, runtime_here, version_of
from yoloprune.measure.sessions.base import Batch, Nodes, Profiled
from yoloprune.measure.sessions.table import opened
from yoloprune.measure.sessions.turns import lower_quartile, time_in_turn
from yoloprune.measure.sessions.with_onnxruntime import node_times
from yoloprune.models.door import load
from yoloprune.prune.clock import Reader
from yoloprune.prune.profile import homes, innermost


def there(runtime: str) -> None:
    if find_spec(runtime) is None:
        pytest.skip(f"{runtime} is not installed")


@pytest.mark.parametrize("runtime", PROFILED)
@pytest.mark.parametrize("name", ["yolov8n.yaml", "yoloprune-demo.cfg"])
def test_time_goes_to_modules(runtime: str, name: str) -> None:
    there(runtime)
    model = load(name)[0]
    reader = Reader(trace(model))
    known = homes(reader.paths, reader.heavy)
    how = RuntimeOptions(runtime=runtime, imgsz=(64, 64))  # type: ignore[arg-type]
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with opened([model], how) as sessions:
        times = time_in_turn(sessions, 1, block=6, watched=True)
        assert isinstance(sessions[0], Profiled)
        nodes = sessions[0].nodes()
    assert len(times.ms[0]) == 6
    assert all(ms > 0 for ms in times.ms[0])
    inside = {name: ms for name, ms in nodes.items() if innermost(name, known)}
    assert sum(inside.values()) > 0.8 * sum(nodes.values())
    convs = {reader.paths[known[innermost(name, known)]] for name in inside}
    wanted = {path for path, m in model.named_modules() if isinstance(m, torch.nn.Conv2d)}
    assert len(convs & wanted) > 0.9 * len(wanted)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize("runtime", PROFILED)
def test_a_wider_network_takes_longer(runtime: str) -> None:
    there(runtime)
    models = [load(name)[0] for name in ("yolov8n.yaml", "yolov8s.yaml")]
    how = RuntimeOptions(runtime=runtime, imgsz=(160, 160))  # type: ignore[arg-type]
    with opened(models, how) as sessions:
        narrow, wide = time_in_turn(sessions, 2).usual
    assert 1.5 * narrow < wide


def test_threads_are_set_back() -> None:
    before = torch.get_num_threads()
    how = RuntimeOptions(runtime="torch", imgsz=(64, 64), threads=before + 1)
    with opened([load("yoloprune-demo.cfg")[0]], how):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


class Noting(Profiled):
    """Writes down whose turn it is."""

    def __init__(self, letter: str, order: list[str]) -> None:
        self.letter, self.order, self.file = letter, order, None

    export = of_file = None  # type: ignore[assignment]

    def feed(self, batch: Batch) -> None: ...

    def outputs(self) -> list[NDArray[Any]]:
        return []

    def nodes(self) -> Nodes:
        return {}

    def run(self) -> None:
        self.order.append(self.letter)

    def watch(self) -> None:
        self.order.append(self.letter.upper())


def test_networks_take_turns() -> None:
    order: list[str] = []
    made = [Noting(letter, order) for letter in "ab"]
    done: list[int] = []
    times = time_in_turn(made, 2, watched=True, advance=done.append)
    assert "".join(order) == 2 * ("a" * 5 + "A" * 3 + "b" * 5 + "B" * 3)
    assert [len(found) for found in times.ms] == [6, 6]
    assert done == [1, 1, 1, 1]


def test_quartiles() -> None:
    assert lower_quartile([4.0, 1.0, 2.0, 3.0, 100.0]) == 2.0


def test_what_stands_between_is_its_next_neighbours() -> None:
    def event(name: str, ts: int, dur: int) -> dict[str, object]:
        return {"name": name, "ts": ts, "dur": dur, "cat": "Node"}

    events = [
        event("/model.0/conv/Conv_kernel_time", 1, 1000),
        event("ReorderOutput_token_3_kernel_time", 2, 500),
        event("/model.1/Split_kernel_time", 3, 250),
        event("model_run", 0, 9999),
    ]
    found = node_times([*reversed(events), *({**e, "ts": 10 + e["ts"]} for e in events)])  # type: ignore[operator]
    assert found == {"/model.0/conv/Conv": 1.0, "/model.1/Split": 0.75}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"runtime": "abacus"}, "--runtime: unknown, got 'abacus', expected torch"),
        ({"precision": "int3"}, "--precision: got 'int3'"),
        ({"threads": 0}, "at least 1"),
        ({"batch": 0}, "at least 1"),
    ],
)
def test_what_means_nothing_is_refused(change: dict[str, object], words: str) -> None:
    with pytest.raises(MeasureError, match=words):
        RuntimeOptions(**{"runtime": "torch", "imgsz": (64, 64), **change})  # type: ignore[arg-type]


def test_half_precision_that_is_only_emulated_is_refused() -> None:
    how = RuntimeOptions(runtime="torch", imgsz=(64, 64), precision="fp16")
    model = load("yoloprune-demo.cfg")[0]
    with (
        pytest.raises(MeasureError, match="torch: torch only emulates fp16 on a CPU. Use fp32"),
        opened([model], how),
    ):
        pass


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"name": "opencv"}, "--runtime: unknown, got 'opencv', expected torch, onnxruntime"),
        ({"name": "torch", "precision": "int8"}, "--precision: got 'int8', expected fp32 or fp16"),
    ],
)
def test_profiles_are_of_runtimes_that_tell(words: dict[str, str], said: str) -> None:
    with pytest.raises(MeasureError, match=said):
        runtime_here(**{"device": "cpu", "threads": 1, "size": (64, 64), **words})  # type: ignore[arg-type]


def test_devices_that_are_not_there_are_named() -> None:
    model = load("yoloprune-demo.cfg")[0]
    for runtime in ("onnxruntime", "openvino"):
        if find_spec(runtime) is None or torch.cuda.is_available():
            continue
        device = "cuda:0" if runtime == "onnxruntime" else "NPU"
        how = RuntimeOptions(runtime=runtime, imgsz=(64, 64), device=device)  # type: ignore[arg-type]
        with pytest.raises(MeasureError, match="--device"), opened([model], how):
            pass


def test_a_runtime_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("yoloprune.measure.runtimes.find_spec", lambda name: None)
    with pytest.raises(MeasureError, match=r"--runtime openvino: is not installed\. pip install"):
        version_of("openvino")


def test_half_precision_in_onnxruntime() -> None:
    there("onnxruntime")
    how = RuntimeOptions(runtime="onnxruntime", imgsz=(64, 64), precision="fp16")
    with opened([load("yoloprune-demo.cfg")[0]], how) as sessions:
        sessions[0].run()
        found = sessions[0].outputs()[0]
    assert found.dtype in (np.float16, np.float32)
