"""Timing of models whose duration and order are known; fusing that keeps outputs."""

from __future__ import annotations

import copy
import json
import time
from typing import ClassVar

import pytest
import torch
from torch import nn
from ultralytics.nn.tasks import DetectionModel

from yoloprune.errors import MeasureError
from yoloprune.measure.deployed import deployed
from yoloprune.measure.fuse import fuse, is_fused
from yoloprune.measure.latency import LatencyOptions, LatencySample, measure_latency


class Sleeper(nn.Module):
    """Takes a known time and notes that it was called."""

    calls: ClassVar[list[str]] = []

    def __init__(self, name: str, ms: float) -> None:
        super().__init__()
        self.name, self.ms = name, ms

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls.append(self.name)
        time.sleep(self.ms / 1e3)
        return x


def sample(*times_ms: float) -> LatencySample:
    options = LatencyOptions(imgsz=8, warmup=0, repeats=1)
    made = measure_latency({"a": nn.Identity()}, options)["a"]
    fields = {name: getattr(made, name) for name in made.__dataclass_fields__}
    return LatencySample(**{**fields, "times_ms": times_ms})


def test_models_take_turns_and_warm_up() -> None:
    Sleeper.calls.clear()
    models = {"slow": Sleeper("slow", 12), "fast": Sleeper("fast", 4)}

    samples = measure_latency(models, LatencyOptions(imgsz=8, warmup=2, repeats=5))

    assert list(samples) == ["slow", "fast"]
    assert Sleeper.calls[-14:] == ["slow", "fast"] * 7
    assert len(samples["slow"].times_ms) == 5
    assert 12 <= samples["slow"].min_ms < 12 + 8
    assert 4 <= samples["fast"].min_ms < 4 + 8


def test_quartiles_by_hand() -> None:
    times = sample(1, 2, 3, 4, 5, 6, 7, 8, 100)

    assert (times.median_ms, times.iqr_ms, times.min_ms) == (5, 4, 1)
    assert times.noisy
    assert not sample(100, 101, 102, 103, 104).noisy
    assert sample(3).iqr_ms == 0


def test_a_noisy_sample_warns_by_itself(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = iter([0.0, 0.010, 1.0, 1.010, 2.0, 2.020, 3.0, 3.030])
    monkeypatch.setattr("yoloprune.measure.latency.time.perf_counter", lambda: next(ticks))

    samples = measure_latency({"a": nn.Identity()}, LatencyOptions(imgsz=8, warmup=0, repeats=4))

    assert samples["a"].times_ms == pytest.approx((10, 10, 20, 30))
    # Median 15, quartiles 10 and 22.5.
    assert "a: times vary, the IQR is 83 % of the median of 15.00 ms. Is the" in caplog.text


def test_several_noisy_samples_are_one_warning(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    durations = iter([0.010, 0.010, 0.010, 0.020, 0.030, 0.010, 0.030, 0.070, 0.010])
    clock, starts = [0.0], [True]

    def now() -> float:
        starts[0], begins = not starts[0], starts[0]
        clock[0] += 0 if begins else next(durations)
        return clock[0]

    monkeypatch.setattr("yoloprune.measure.latency.time.perf_counter", now)
    models = {"a": nn.Identity(), "b": nn.Identity(), "c": nn.Identity()}
    samples = measure_latency(models, LatencyOptions(imgsz=8, warmup=0, repeats=3))

    assert [sample.noisy for sample in samples.values()] == [True, True, False]
    (record,) = caplog.records
    assert record.getMessage().startswith("b: times vary, the IQR is 100 % of the median of 30.00")
    assert "(2 of 3 vary, this one most)" in record.getMessage()


def test_threads_are_set_recorded_and_restored() -> None:
    class Threads(nn.Module):
        seen: ClassVar[list[int]] = []

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.seen.append(torch.get_num_threads())
            return x

    before = torch.get_num_threads()

    samples = measure_latency({"a": Threads()}, LatencyOptions(imgsz=8, threads=2, repeats=1))

    assert set(Threads.seen) == {2}
    assert samples["a"].threads == samples["a"].environment.threads == 2
    assert torch.get_num_threads() == before


def test_the_input_has_the_size_asked_for() -> None:
    class Shapes(nn.Module):
        seen: ClassVar[list[tuple[int, ...]]] = []

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.seen.append((*x.shape, float(x.min()) >= 0, float(x.max()) <= 1))
            return x

    measure_latency({"a": Shapes()}, LatencyOptions(imgsz=(16, 24), batch=3, repeats=1))

    assert Shapes.seen[-1] == (3, 3, 16, 24, True, True)


def random_statistics(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -1, 1)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.uniform_(module.bias, -1, 1)
    return model.eval()


def plain_net() -> nn.Module:
    return random_statistics(
        nn.Sequential(
            nn.Conv2d(3, 8, 3, bias=False),
            nn.BatchNorm2d(8),
            nn.SiLU(),
            nn.Sequential(nn.Conv2d(8, 4, 1), nn.BatchNorm2d(4)),
            nn.ReLU(),
        )
    )


def test_fusing_a_plain_net_keeps_its_output() -> None:
    model, image = plain_net(), torch.rand(2, 3, 16, 16)
    before = model(image)

    fused = fuse(copy.deepcopy(model), image)

    assert is_fused(fused) and not is_fused(model)
    torch.testing.assert_close(fused(image), before)


def test_a_norm_without_a_convolution_stays() -> None:
    model = random_statistics(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.BatchNorm2d(4)))

    assert not is_fused(fuse(model, torch.rand(1, 3, 8, 8)))


class Branch(nn.Module):
    """A convolution whose output is read beside its BatchNorm, too; given by name."""

    def __init__(self, *, reads: bool = True) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
        self.reads = reads

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        x = self.conv(x)
        y = self.bn(x)
        return {"shape": torch.tensor(y.shape), "sum": y + x if self.reads else y}


def test_outputs_that_are_packed_by_name_are_compared() -> None:
    model, image = random_statistics(Branch(reads=False)), torch.rand(1, 3, 8, 8)
    assert is_fused(fuse(model, image))


def test_a_network_that_cannot_be_fused_is_looked_at_as_it_is() -> None:
    seen = deployed(random_statistics(Branch()), 8)
    assert [conv.layer for conv in seen.convs] == ["conv"]


def test_fusing_what_someone_else_reads_is_refused() -> None:
    with pytest.raises(MeasureError, match="fusing its BatchNorms changes its output"):
        fuse(random_statistics(Branch()), torch.rand(1, 3, 8, 8))


def test_stock_models_are_timed_fused_and_left_as_they_were() -> None:
    model = DetectionModel("yolov8n.yaml", verbose=False).train()
    before = copy.deepcopy(model.state_dict())

    samples = measure_latency({"a": model}, LatencyOptions(imgsz=64, warmup=1, repeats=2))

    assert samples["a"].fused
    assert samples["a"].precision == "float32"
    assert model.training
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_darknet_models_are_timed_fused() -> None:
    from yoloprune.models.door import load

    model, _ = load("yolov4-tiny.cfg", scratch=True)

    samples = measure_latency({"a": model}, LatencyOptions(imgsz=64, warmup=0, repeats=1))

    assert samples["a"].fused


def test_record_is_json() -> None:
    samples = measure_latency({"a": plain_net()}, LatencyOptions(imgsz=16, repeats=3))

    record = json.loads(json.dumps(samples["a"].to_dict()))
    assert len(record["times_ms"]) == 3 and record["fused"] is True
    assert record["median_ms"] == pytest.approx(sorted(record["times_ms"])[1])
    assert record["environment"]["cpu"] and record["device"] == "cpu"


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"batch": 0}, "batch: got 0"),
        ({"repeats": 0}, "repeats: got 0"),
        ({"threads": 0}, "threads: got 0"),
        ({"half": True}, "half: expected a GPU"),
        ({"imgsz": 0}, "imgsz: got 0x0"),
    ],
)
def test_options_that_mean_nothing_are_refused(fault: dict[str, int], message: str) -> None:
    with pytest.raises(MeasureError, match=message):
        LatencyOptions(**{"imgsz": 8, **fault})


def test_models_that_cannot_run_are_refused() -> None:
    with pytest.raises(MeasureError, match="expected at least one"):
        measure_latency({}, LatencyOptions(imgsz=8))
    with pytest.raises(MeasureError, match=r"bad: cannot run on an input of \[1, 3, 2, 2\]"):
        measure_latency({"bad": plain_net()}, LatencyOptions(imgsz=2))
    with pytest.raises(MeasureError, match="device 'meat': not available"):
        measure_latency({"a": plain_net()}, LatencyOptions(imgsz=16, device="meat"))
