"""Runtimes that a network is deployed in, each behind the same few calls.

A session holds one network, ready to run on one random picture batch of a fixed size. It can be
run, and asked where the time goes, layer by layer, where the runtime tells.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from importlib.util import find_spec
from typing import Any, Literal, get_args

import torch

from yoloprune.errors import MeasureError
from yoloprune.models.door import torch_device

RuntimeName = Literal["torch", "onnxruntime", "openvino"]
RUNTIMES: tuple[RuntimeName, ...] = get_args(RuntimeName)
FloatPrecision = Literal["fp32", "fp16"]
_PACKAGES = {"torch": "torch", "onnxruntime": "onnxruntime", "openvino": "openvino"}
_WARM, _BLOCK = 2, 6
"""Passes of a network before those that count, each time it is its turn; and those that do."""

Nodes = Mapping[str, float]
"""Place in the model, as slashes or dots divide it → milliseconds of a pass."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeOptions:
    """Where and how a network runs.

    Attributes:
        runtime: name of it.
        imgsz: height and width of the input in pixels.
        batch: pictures a pass.
        device: ``cpu``, or as torch spells it; OpenVINO also takes ``GPU`` and ``NPU``.
        precision: of weights and activations.
        threads: that compute, on a CPU.

    Raises:
        MeasureError: the runtime is unknown, or a number means nothing.
    """

    runtime: RuntimeName
    imgsz: tuple[int, int]
    batch: int = 1
    device: str = "cpu"
    precision: FloatPrecision = "fp32"
    threads: int = 1

    def __post_init__(self) -> None:
        """Check every range."""
        if self.runtime not in RUNTIMES:
            raise MeasureError(
                f"--runtime: unknown, got {self.runtime!r}, expected {', '.join(RUNTIMES)}."
            )
        if self.precision not in get_args(FloatPrecision):
            raise MeasureError(f"--precision: got {self.precision!r}, expected fp32 or fp16.")
        if self.batch < 1 or self.threads < 1:
            raise MeasureError(
                f"--batch and --threads: must be at least 1, got {self.batch} and {self.threads}."
            )
        if self.precision == "fp16" and self.runtime == "torch" and self.device == "cpu":
            raise MeasureError("--precision fp16: torch only emulates it on a CPU. Use fp32.")

    @property
    def words(self) -> str:
        """In words: ``onnxruntime, cpu, fp32, batch 1, 1 thread, 320 x 320``."""
        height, width = self.imgsz
        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        return (
            f"{self.runtime}, {self.device}, {self.precision}, batch {self.batch}, {threads}, "
            f"{width} x {height}"
        )


@dataclass(frozen=True, slots=True)
class Session:
    """One network in one runtime.

    Attributes:
        run: one pass.
        watch: one pass of which the runtime notes where its time goes.
        nodes: what the watched passes came to: the lower quartile of each node.
    """

    run: Callable[[], Any]
    watch: Callable[[], Any]
    nodes: Callable[[], Nodes]


@dataclass(slots=True)
class Times:
    """Passes of several networks, timed in turn.

    Attributes:
        ms: by network, milliseconds of every pass that counts.
    """

    ms: list[list[float]] = field(default_factory=list)

    @property
    def usual(self) -> list[float]:
        """Lower quartile of each network: whatever else a machine does only adds to a time."""
        return [lower_quartile(times) for times in self.ms]

    @property
    def spreads(self) -> list[float]:
        """Distance between the quartiles as a share of the median, of each network."""
        return [_spread(times) for times in self.ms]


def usual(times: Mapping[str, Sequence[float]]) -> Nodes:
    """Lower quartile of each node's times."""
    return {name: lower_quartile(found) for name, found in times.items()}


def lower_quartile(times: Sequence[float]) -> float:
    """Of at least two times."""
    return statistics.quantiles(times, n=4, method="inclusive")[0]


def _spread(times: Sequence[float]) -> float:
    low, middle, high = statistics.quantiles(times, n=4, method="inclusive")
    return (high - low) / middle


def version_of(runtime: RuntimeName) -> str:
    """Of an installed runtime.

    Raises:
        MeasureError: it is not installed.
    """
    if find_spec(_PACKAGES[runtime]) is None:
        raise MeasureError(
            f"--runtime {runtime}: is not installed. pip install {_PACKAGES[runtime]}."
        )
    try:
        return metadata.version(_PACKAGES[runtime])
    except metadata.PackageNotFoundError:  # such as onnxruntime-gpu, which has another name
        return str(__import__(_PACKAGES[runtime]).__version__)


def time_in_turn(
    sessions: Sequence[Session],
    rounds: int,
    *,
    watched: bool = False,
    advance: Callable[[int], None] = lambda n: None,
) -> Times:
    """Time networks block by block, round after round, so that drift meets all alike.

    Args:
        sessions: to time.
        rounds: turns of each, of six passes that count after two that do not.
        watched: run so many watched passes in each turn, too, which do not count.
        advance: called with 1 after each turn of one.
    """
    times = Times([[] for _ in sessions])
    for _ in range(rounds):
        for session, found in zip(sessions, times.ms, strict=True):
            for turn in range(_WARM + _BLOCK):
                start = time.perf_counter()
                session.run()
                if turn >= _WARM:
                    found.append(1e3 * (time.perf_counter() - start))
            for _ in range(_BLOCK if watched else 0):
                session.watch()
            advance(1)
    return times


def runtime_here(
    name: str | None,
    *,
    device: str,
    threads: int | None,
    size: tuple[int, int],
    batch: int = 1,
    precision: str = "fp32",
) -> RuntimeOptions:
    """Where a network will run, of what a user says of it.

    Args:
        name: of the runtime; None for ONNX Runtime where it is installed, else torch.
        device: as it was typed; empty for the CPU, in torch for a GPU where there is one.
        threads: that compute; None for as many as torch uses.
        size: height and width of the input in pixels.
        batch: pictures a pass.
        precision: of weights and activations.

    Raises:
        MeasureError: the runtime is unknown, or a number means nothing.
    """
    found = name or ("onnxruntime" if find_spec("onnxruntime") else "torch")
    if found == "openvino":
        place = device or "cpu"
    else:
        place = torch_device(device) if device or found == "torch" else "cpu"
    return RuntimeOptions(
        runtime=found,  # type: ignore[arg-type]
        imgsz=size,
        batch=batch,
        device=place,
        precision=precision,  # type: ignore[arg-type]
        threads=threads or torch.get_num_threads(),
    )
