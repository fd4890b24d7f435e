"""How long a forward pass takes, for several models under the very same conditions.

The models are copied, their BatchNorms fused into the convolutions, warmed up, and timed in
turn (A B A B …) in one process, so that what else the machine does meets all of them alike.
A time is that of the forward pass with the head's decoding; preprocessing and non-maximum
suppression stand apart. On a GPU CUDA events measure it, elsewhere a monotonic clock.
"""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from yoloprune.errors import MeasureError, first_line
from yoloprune.measure.copies import find_device
from yoloprune.measure.environment import Environment, environment
from yoloprune.measure.fuse import fuse, is_fused
from yoloprune.measure.images import InputSize, input_shape
from yoloprune.measure.timed import Timed

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyOptions:
    """How latency is measured.

    Attributes:
        imgsz: side of the square input, or ``(height, width)``, in pixels; or its whole shape.
        batch: images a forward pass.
        device: where the models run, as torch spells it.
        threads: threads that torch computes with, on a CPU. None: as it is set.
        warmup: passes of each model that are not counted.
        repeats: passes of each model that are.
        half: half precision; on a GPU.
    """

    imgsz: InputSize
    batch: int = 1
    device: str = "cpu"
    threads: int | None = None
    warmup: int = 5
    repeats: int = 30
    half: bool = False

    def __post_init__(self) -> None:
        """Refuse numbers that mean nothing."""
        input_shape(self.imgsz)
        for name, least in (("batch", 1), ("warmup", 0), ("repeats", 1), ("threads", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise MeasureError(f"{name}: got {value}, expected >= {least}.")
        if self.half and self.device.startswith("cpu"):
            raise MeasureError("half: expected a GPU, since a CPU only emulates half precision.")


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencySample(Timed):
    """The times of one model.

    Attributes:
        times_ms: every counted pass, in order, in milliseconds for the whole batch.
        batch: images a pass.
        imgsz: height and width of the input, in pixels.
        device: where it ran.
        threads: torch's threads.
        warmup: passes before, not counted.
        precision: ``float32`` or ``float16``.
        fused: no BatchNorm is left in what was timed.
        environment: where it was measured.
    """

    times_ms: tuple[float, ...]
    batch: int
    imgsz: tuple[int, ...]
    device: str
    threads: int
    warmup: int
    precision: str
    fused: bool
    environment: Environment

    @property
    def min_ms(self) -> float:
        """Shortest pass."""
        return min(self.times_ms)

    def to_dict(self) -> dict[str, Any]:
        """The record, and what derives from it, as JSON-able data."""
        derived = {key: getattr(self, key) for key in ("median_ms", "iqr_ms", "min_ms", "noisy")}
        return {**derived, **asdict(self)}


def is_clear(before_ms: float, after_ms: float, *iqrs_ms: float | None) -> bool:
    """Whether two medians differ by more than either spreads; None for a spread not known."""
    return abs(before_ms - after_ms) > max((iqr for iqr in iqrs_ms if iqr is not None), default=-1)


def measure_latency(
    models: Mapping[str, nn.Module], options: LatencyOptions
) -> dict[str, LatencySample]:
    """Time the forward pass of models, in turn.

    Args:
        models: name → model that takes ``[B, 3, H, W]`` in 0 … 1. Not modified.
        options: see `LatencyOptions`.

    Returns:
        Name → times, in the given order. Noisy ones are told in one warning.

    Raises:
        MeasureError: no model is given, the device is not there, or a model does not run.
    """
    if not models:
        raise MeasureError("models: expected at least one to time.")
    device = find_device(options.device)
    dtype = torch.float16 if options.half else torch.float32
    shape = input_shape(options.imgsz, batch=options.batch)
    with _threads(options.threads), torch.inference_mode():
        generator = torch.Generator().manual_seed(0)
        image = torch.rand(*shape, generator=generator)
        runners = {name: _runner(name, model, image) for name, model in models.items()}
        image = image.to(device, dtype)
        runners = {name: runner.to(device, dtype) for name, runner in runners.items()}
        times = _interleave(runners, image, options)
        place = environment(device)
    samples = {
        name: LatencySample(
            times_ms=tuple(times[name]),
            batch=options.batch,
            imgsz=tuple(shape[2:]),
            device=str(device),
            threads=place.threads,
            warmup=options.warmup,
            precision=str(dtype).removeprefix("torch."),
            fused=is_fused(runner),
            environment=place,
        )
        for name, runner in runners.items()
    }
    _warn(samples)
    return samples


def _runner(name: str, model: nn.Module, image: torch.Tensor) -> nn.Module:
    runner = copy.deepcopy(model).cpu().float().eval()
    try:
        return fuse(runner, image[:1])
    except RuntimeError as exc:
        reason = first_line(exc)
        raise MeasureError(
            f"{name}: cannot run on an input of {list(image.shape)}: {reason}"
        ) from exc


def _interleave(
    runners: Mapping[str, nn.Module], image: torch.Tensor, options: LatencyOptions
) -> dict[str, list[float]]:
    clock = _cuda_ms if image.device.type == "cuda" else _clock_ms
    times: dict[str, list[float]] = {name: [] for name in runners}
    for turn in range(options.warmup + options.repeats):
        for name, runner in runners.items():
            elapsed = clock(runner, image)
            if turn >= options.warmup:
                times[name].append(elapsed)
    return times


def _cuda_ms(runner: Callable[..., Any], image: torch.Tensor) -> float:
    event: Any = torch.cuda.Event
    start, end = event(enable_timing=True), event(enable_timing=True)
    torch.cuda.synchronize(image.device)
    start.record()
    runner(image)
    end.record()
    torch.cuda.synchronize(image.device)
    return float(start.elapsed_time(end))


def _clock_ms(runner: Callable[..., Any], image: torch.Tensor) -> float:
    _synchronize(image.device)
    start = time.perf_counter()
    runner(image)
    _synchronize(image.device)
    return (time.perf_counter() - start) * 1e3


def _synchronize(device: torch.device) -> None:
    """Wait for an accelerator that has no events to time with."""
    backend: Any = getattr(torch, device.type, None)
    if device.type != "cpu" and hasattr(backend, "synchronize"):
        backend.synchronize()


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(before if count is None else count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _warn(samples: Mapping[str, LatencySample]) -> None:
    """One line for all that vary, with the worst."""
    noisy = {n: s.iqr_ms / s.median_ms for n, s in samples.items() if s.noisy}
    if not noisy:
        return
    name = max(noisy, key=noisy.__getitem__)
    others = f" ({len(noisy)} of {len(samples)} vary, this one most)" if len(samples) > 1 else ""
    logger.warning(
        "%s: times vary, the IQR is %.0f %% of the median of %.2f ms%s."
        " Is the machine busy? More repeats help.",
        name,
        100 * noisy[name],
        samples[name].median_ms,
        others,
    )
