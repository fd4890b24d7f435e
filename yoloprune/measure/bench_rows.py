"""What ``bench`` keeps of one network, of one row of its table, and of one picture."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from yoloprune.errors import MeasureError
from yoloprune.measure.timed import Timed

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR100")

Box = tuple[float, float, float, float, int, float]
"""x1, y1, x2, y2 in pixels of the picture, class, score."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchModel:
    """One network.

    Attributes:
        name: as it is shown; no other model of the result has it.
        path: of its file.
        params: numbers that it holds.
        macs: multiply-adds of one picture; None where they could not be counted.
        baseline: whether the others are compared with it.
        widths: layer path → output channels, where they are known.
        plan: path of the plan beside the file that says what was cut.
        fast_path: what leaves a target's fast path, as ``slim`` records it.
        digest: of its structure and numbers.
    """

    name: str
    path: str
    params: int
    macs: int | None = None
    baseline: bool = False
    widths: Mapping[str, int] | None = None
    plan: str | None = None
    fast_path: dict[str, Any] | None = None
    digest: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchRow(Timed):
    """One network in one runtime under one set of conditions.

    Attributes:
        model: name of it.
        file: name of the file that was timed.
        bytes: size of that file, or of all in it where it is a folder.
        runtime, runtime_version: what ran it.
        device: where.
        precision: of its weights and activations: ``fp32``, ``fp16`` or ``int8``.
        batch: pictures a pass.
        threads: that computed, on a CPU.
        times_ms: milliseconds of every pass that counts, in order.
        turns: in how many equal turns, between those of other networks, they were taken.
        pre_ms: median milliseconds that a decoded picture takes to become the input.
        post_ms: median milliseconds of a picture's NMS.
        peak_mb: most memory that it took.
        metrics: name, one of ``METRICS``, → fraction; None where the data show no such object.
        agreement: largest difference of its outputs from those of the same model in torch in
            fp32, as a share of their scale.
        kept_float: layers that an int8 file keeps in float.
        notes: what a reader should know, a sentence each.
    """

    model: str
    file: str
    bytes: int
    runtime: str
    runtime_version: str
    device: str
    precision: Literal["fp32", "fp16", "int8"]
    batch: int
    threads: int
    times_ms: tuple[float, ...]
    turns: int = 1
    pre_ms: float | None = None
    post_ms: float | None = None
    peak_mb: float | None = None
    metrics: Mapping[str, float | None] | None = None
    agreement: float | None = None
    kept_float: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse times that no clock gives."""
        if not self.times_ms or not all(0 < time < math.inf for time in self.times_ms):
            raise MeasureError(f"{self.model}: times_ms: expected positive numbers, at least one.")
        if self.turns < 1 or len(self.times_ms) % self.turns:
            raise MeasureError(
                f"{self.model}: turns: got {self.turns}, expected to divide {len(self.times_ms)}."
            )

    @property
    def key(self) -> tuple[str, str, str, str, int, int]:
        """What no two rows share: model, runtime, device, precision, batch, threads."""
        return (self.model, *self.conditions)

    @property
    def conditions(self) -> tuple[str, str, str, int, int]:
        """What two rows must share to be compared: all of the key but the model."""
        return (self.runtime, self.device, self.precision, self.batch, self.threads)

    @property
    def p95_ms(self) -> float:
        """What 19 of 20 passes stay below."""
        if len(self.times_ms) < 2:
            return self.times_ms[0]
        return statistics.quantiles(self.times_ms, n=20, method="inclusive")[-1]

    @property
    def per_second(self) -> float:
        """Pictures a second at the median time."""
        return 1e3 * self.batch / self.median_ms

    @property
    def ap(self) -> float | None:
        """AP of the file that was timed, as a fraction."""
        return self.metrics["AP"] if self.metrics is not None else None


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchFailure:
    """What could not be measured, and why."""

    model: str
    runtime: str
    precision: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchCount:
    """Labelled objects of one kind that a model finds, beside those that the baseline does.

    Attributes:
        model: name of it.
        by: what divides the objects.
        name: of the class, or ``small``, ``medium`` or ``large``.
        truths: labelled objects of the kind.
        baseline: of them found by the baseline.
        found: of them found by the model.
    """

    model: str
    by: Literal["class", "size"]
    name: str
    truths: int
    baseline: int
    found: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchChange:
    """A picture in which a model sees other things than the baseline.

    Attributes:
        model: name of it.
        image: name of the picture's file.
        lost: labelled objects that the baseline finds and the model does not.
        found: detections of the model that fit no label and none of the baseline's.
        boxes_before, boxes_after: what either shows.
        thumbnail: a small JPEG of the picture; boxes are not drawn in it.
        width, height: of the picture, in pixels, which the boxes refer to.
    """

    model: str
    image: str
    lost: int
    found: int
    boxes_before: tuple[Box, ...]
    boxes_after: tuple[Box, ...]
    thumbnail: bytes
    width: int
    height: int
