"""The method: twins compare as one, slower is found slower, noise is told, and AP is the file's."""

from __future__ import annotations

import copy
import itertools
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor, nn

from yoloprune.channels.trace import trace
from yoloprune.errors import MeasureError
from yoloprune.measure.bench import BenchOptions, bench
from yoloprune.measure.bench_group import Entrant
from yoloprune.measure.bench_result import BenchResult
from yoloprune.measure.data import Dataset, load_dataset
from yoloprune.measure.demo_data import ShapesSpec, write_shapes
from yoloprune.measure.detect import DetectOptions
from yoloprune.measure.gpu import gpu_state, read_state, throttled
from yoloprune.measure.memory import peak_mb
from yoloprune.measure.runtimes import PROFILED, RuntimeOptions, missing
from yoloprune.measure.tasks import measure
from yoloprune.models.door import load
from yoloprune.prune.budget import Budget
from yoloprune.prune.cut import cut_units, kept_units
from yoloprune.prune.planner import Planner
from yoloprune.prune.score import Scores

REPO = Path(__file__).parents[2]
CFG = REPO / "cfg/yoloprune-demo.cfg"
WEIGHTS = REPO / "weights/yoloprune-demo-dense.weights"
SIDE = 96


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("data")
    return load_dataset(write_shapes(folder, ShapesSpec(images=3, val=6, seed=3)))


@pytest.fixture(scope="module")
def dense() -> nn.Module:
    return load(CFG, WEIGHTS)[0]


@pytest.fixture(scope="module")
def slim(dense: nn.Module) -> nn.Module:
    """A third of the channels that can go is gone."""
    graph = trace(dense)
    scores = Scores(values=np.arange(graph.n_units) % 7.0, criterion="any", missing="none")
    plan = Planner(graph).choose(scores, Budget(percent=0.3))
    return cut_units(dense, graph, np.flatnonzero(~kept_units(graph, plan)))


def entrant(name: str, model: nn.Module) -> Entrant:
    return Entrant(name=name, model=model, files=(CFG, WEIGHTS))


def options(folder: Path, **more: Any) -> BenchOptions:
    settings: dict[str, Any] = {
        "runtimes": ("torch",), "repeats": 6, "imgsz": (SIDE, SIDE), "folder": folder,
        "memory": False,
    }  # fmt: skip
    return BenchOptions(**settings | more)


class Odd(nn.Module):
    """A network that does something else, too, in every pass."""

    def __init__(
        self, model: nn.Module, times: int = 1, sleeps: tuple[float, ...] = (0.0,)
    ) -> None:
        super().__init__()
        self.inner, self.times, self.names = model, times, model.names
        self.sleeps = itertools.cycle(sleeps)

    def __deepcopy__(self, memo: Any) -> Odd:
        return self

    def forward(self, x: Tensor) -> Any:
        time.sleep(next(self.sleeps))
        for _ in range(self.times - 1):
            self.inner(x)
        return self.inner(x)


def test_twins_and_a_network_that_is_slower_by_construction(
    dense: nn.Module, tmp_path: Path
) -> None:
    thrice = Odd(copy.deepcopy(dense), times=3)
    entrants = [entrant("one", dense), entrant("twin", dense), entrant("thrice", thrice)]
    found = bench(entrants, "one", options(tmp_path, repeats=16))
    one, twin, slow = found.rows
    same, slower = found.versus(twin), found.versus(slow)
    assert same is not None and slower is not None
    assert 0.75 < same.ratio < 1.33  # other processes disturb this machine
    assert same.low < 1.1 and same.high > 0.9
    assert slower.clear and 2 < 1 / slower.ratio < 4.5
    assert len(one.times_ms) % one.turns == 0 and one.turns == 16
    assert [model.baseline for model in found.models] == [True, False, False]


def test_noise_is_warned_of(dense: nn.Module, tmp_path: Path) -> None:
    noisy = Odd(copy.deepcopy(dense), sleeps=(0.0, 0.0, 0.0, 0.1))
    found = bench([entrant("noisy", noisy)], "noisy", options(tmp_path, repeats=12))
    assert found.rows[0].noisy
    assert " !" in found.to_markdown()


@pytest.mark.parametrize("runtime", [*PROFILED, "opencv", "opencv-darknet"])
def test_ap_is_that_of_the_file_and_the_same_everywhere(
    runtime: Any, dense: nn.Module, slim: nn.Module, data: Dataset, tmp_path: Path
) -> None:
    if missing(runtime):
        pytest.skip(missing(runtime) or "")
    entrants = [entrant("dense", dense), entrant("slim", slim)]
    how = options(tmp_path, runtimes=(runtime,), repeats=2, data=data)
    found = bench(entrants, "dense", how)
    wanted = measure(dense, data.source, DetectOptions(imgsz=SIDE, device="cpu"))["metrics"]
    row = found.rows[0]
    assert not found.failures
    assert wanted["AP"] > 0.1
    assert row.ap == pytest.approx(wanted["AP"], abs=0.003)
    assert row.agreement is not None and row.agreement < 5e-3
    assert row.pre_ms and row.post_ms and row.peak_mb is None
    assert found.images == 6 and found.split == "val"
    if runtime != "torch":
        file = tmp_path / row.file
        assert row.bytes == sum(p.stat().st_size for p in [file, *file.glob("*")] if p.is_file())
    assert found.rows[1].bytes < row.bytes or runtime == "torch"
    assert sum(one.truths for one in found.counts if one.by == "class") == data.instances
    assert found.models[1].fast_path is not None and found.models[0].fast_path is None
    assert BenchResult.from_dict(found.to_dict()) == found


def test_ap_follows_the_file_and_not_the_model(
    dense: nn.Module, slim: nn.Module, data: Dataset, tmp_path: Path
) -> None:
    """A file that is not what its model says is scored as it is."""
    if missing("onnxruntime"):
        pytest.skip("onnxruntime is not installed")
    how = options(tmp_path, runtimes=("onnxruntime",), repeats=1, data=data)
    first = bench([entrant("dense", dense)], "dense", how).rows[0]
    other = bench([entrant("slim", slim)], "slim", how).rows[0]
    assert first.ap != other.ap
    shutil.copy(tmp_path / other.file, tmp_path / first.file)
    row = bench([entrant("dense", dense)], "dense", how).rows[0]
    assert (row.ap, row.bytes, row.file) == (other.ap, other.bytes, first.file)
    assert row.agreement is not None and row.agreement > 0.01


def test_files_of_an_earlier_network_of_that_name_are_not_taken(
    dense: nn.Module, slim: nn.Module, tmp_path: Path
) -> None:
    if missing("onnxruntime"):
        pytest.skip("onnxruntime is not installed")
    how = options(tmp_path, runtimes=("onnxruntime",), repeats=1)
    before = bench([entrant("mine", dense)], "mine", how)
    after = bench([entrant("mine", slim)], "mine", how, before)
    assert after.rows[0].bytes < before.rows[0].bytes
    assert after.rows[0].agreement is not None and after.rows[0].agreement < 1e-3


def test_what_one_runtime_cannot_do_is_noted_and_the_rest_is_measured(
    dense: nn.Module, tmp_path: Path
) -> None:
    how = options(tmp_path, runtimes=("torch", "opencv-darknet"), batches=(1, 2), repeats=1)
    found = bench([entrant("dense", dense)], "dense", how)
    assert [row.key[1:] for row in found.rows] == [
        ("torch", "cpu", "fp32", 1, 1), ("torch", "cpu", "fp32", 2, 1),
        ("opencv-darknet", "cpu", "fp32", 1, 1),
    ]  # fmt: skip
    assert [one.reason for one in found.failures] == [
        "batch 2: gives the boxes of one picture a pass. Give --batch 1"
    ]


def test_eight_bits_without_pictures_are_noted(dense: nn.Module, tmp_path: Path) -> None:
    how = options(
        tmp_path, runtimes=("torch", "onnxruntime"), precisions=("fp32", "int8"), repeats=1
    )
    found = bench([entrant("dense", dense)], "dense", how)
    assert {row.precision for row in found.rows} == {"fp32"}
    reasons = {one.runtime: one.reason for one in found.failures}
    assert reasons["torch"] == "is not brought to 8 bits here"
    if missing("onnxruntime") is None:
        assert "needs pictures to calibrate on" in reasons["onnxruntime"]


def test_runtimes_that_are_absent_are_named(
    dense: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from yoloprune.measure import runtimes

    there = runtimes.find_spec
    monkeypatch.setattr(runtimes, "find_spec", lambda n: None if n == "ncnn" else there(n))
    found = bench([entrant("dense", dense)], "dense", options(tmp_path, runtimes=("torch", "ncnn")))
    assert found.absent == {"ncnn": "is not installed. pip install ncnn pnnx==20260526"}
    with pytest.raises(MeasureError, match="--runtimes: none of them is here: ncnn is not inst"):
        bench([entrant("dense", dense)], "dense", options(tmp_path, runtimes=("ncnn",)))


def test_what_is_known_is_not_measured_again(
    dense: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[BenchResult] = []
    entrants = [entrant("dense", dense)]
    how = options(tmp_path, repeats=1, threads=(1, 2), keep=kept.append)
    bench(entrants, "dense", how)
    assert [len(one.rows) for one in kept] == [1, 2]
    monkeypatch.setattr(
        "yoloprune.measure.bench.measure_group",
        lambda state, group, size_of, advance: (
            pytest.fail("measured again") if group.threads == 1 else None
        ),
    )
    again = bench(entrants, "dense", replace(how, keep=lambda result: None), kept[0])
    assert again.rows == kept[0].rows
    other = bench(entrants, "dense", replace(how, threads=(2,), keep=lambda result: None), kept[0])
    assert other.rows == kept[0].rows  # not asked for, and not lost
    gone_away = classmethod(lambda cls: "is gone")
    monkeypatch.setattr("yoloprune.measure.sessions.with_torch.Torch.absent", gone_away)
    gone = bench(entrants, "dense", replace(how, keep=lambda result: None), kept[0])
    assert gone.rows == kept[0].rows and gone.absent == {"torch": "is gone"}


def test_a_failure_of_one_batch_does_not_speak_for_others(dense: nn.Module, tmp_path: Path) -> None:
    entrants = [entrant("dense", dense)]
    how = options(tmp_path, runtimes=("opencv-darknet",), batches=(2,), repeats=1)
    known = bench(entrants, "dense", how)
    assert not known.rows and len(known.failures) == 1
    both = bench(entrants, "dense", replace(how, batches=(1, 2)), known)
    assert [row.batch for row in both.rows] == [1]
    assert both.failures == known.failures


def test_progress_ends_where_it_said(dense: nn.Module, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    how = options(
        tmp_path, runtimes=("torch", "tensorrt"), repeats=2,
        progress=lambda done, total: seen.append((done, total)),
    )  # fmt: skip
    bench([entrant("dense", dense)], "dense", how)
    assert seen[-1] == (8, 8)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"runtimes": ()}, "--runtimes: expected at least one"),
        ({"repeats": 0}, "--repeats: got 0"),
        ({"threads": (0,)}, "--batch and --threads: must be at least 1"),
        ({"runtimes": ("abacus",)}, "unknown, got 'abacus'"),
    ],
)
def test_what_means_nothing_is_refused(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(MeasureError, match=said):
        options(tmp_path, **change)


def test_sizes_that_exporters_would_round_are_refused(dense: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(MeasureError, match="--imgsz: dense takes multiples of 16, got 100x100"):
        bench([entrant("dense", dense)], "dense", options(tmp_path, imgsz=(100, 100)))


def test_half_precision_that_torch_lacks_is_noted(dense: nn.Module, tmp_path: Path) -> None:
    how = options(tmp_path, precisions=("fp16", "fp32"), repeats=1)
    found = bench([entrant("dense", dense)], "dense", how)
    assert [row.precision for row in found.rows] == ["fp32"]
    assert [one.reason for one in found.failures] == ["torch only emulates fp16 on a CPU. Use fp32"]


def test_the_baseline_takes_part(dense: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(MeasureError, match="--baseline: other is none of the networks"):
        bench([entrant("dense", dense)], "other", options(tmp_path))


def test_a_larger_network_takes_more_memory(tmp_path: Path) -> None:
    if missing("onnxruntime") or not Path("/proc/self/status").exists():
        pytest.skip("needs onnxruntime and /proc")
    from yoloprune.measure.sessions.table import session_class

    kind = session_class("onnxruntime")
    peaks = []
    for side in (32, 320):
        how = RuntimeOptions(runtime="onnxruntime", imgsz=(side, side))
        file = kind.export(load(CFG, WEIGHTS)[0], how, tmp_path)
        peaks.append(peak_mb(file, how))
    small, large = peaks
    assert small is not None and large is not None
    assert 0 < small < large < 2000
    assert peak_mb(tmp_path / "none.onnx", how) is None


def test_a_driver_that_holds_clocks_down_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    line = "NVIDIA X, 550.54, 1410 MHz, 1980 MHz, 2619 MHz, 41, 120.5 W, 700.00 W, {}, 98 %"
    idle = read_state(line.format("0x0000000000000001"))
    hot = read_state(line.format("0x0000000000000040"))
    assert idle["clocks.sm"] == "1410 MHz"
    assert not throttled(idle) and throttled(hot)
    assert not throttled({}) and not throttled({"clocks_throttle_reasons.active": "[N/A]"})
    assert read_state("broken") == {}
    monkeypatch.setenv("PATH", "")
    assert gpu_state(0) == {}
