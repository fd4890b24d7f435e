"""``yoloprune.slim``: the whole way from a network to a smaller one, in one call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from yoloprune.api.given import (
    Calibration,
    Model,
    Network,
    device_for,
    example_of,
    inputs_of,
    network,
    path_of,
)
from yoloprune.api.result import Slimmed, slimmed
from yoloprune.api.wording import speaks_arguments
from yoloprune.errors import DataError, PlanError
from yoloprune.measure.targets import rounding
from yoloprune.prune.asking import Amount, budget_of, half_if_nothing, seconds_of, timing_of
from yoloprune.prune.budget import Budget
from yoloprune.prune.choose import parse_scope
from yoloprune.prune.options import SlimOptions
from yoloprune.prune.plan import PrunePlan
from yoloprune.prune.ready import Inputs, Shape
from yoloprune.prune.score import parse_reduce
from yoloprune.prune.slim import slim_in_memory
from yoloprune.prune.timing import TimingOptions

Ratios = Mapping[str, Any] | str | PathLike[str] | None
"""Shares of single layers: ``{"backbone.*": 0.3, "head.*": 0}``, or a YAML file of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What :func:`slim` was given, argument by argument; it explains each."""

    model: Model
    example_input: Tensor | None
    weights: str | PathLike[str] | None
    percent: float | None
    macs: Amount
    params: Amount
    bytes: Amount
    precision: str | None
    latency: Amount
    runtime: str | None
    threads: int | None
    latency_table: str | PathLike[str] | None
    max_drop: float | None
    ratios: Ratios
    blocks: int
    min_channels: int
    max_layer_prune: float
    round_to: int | None
    target: str | None
    criterion: str | None
    scope: str | None
    reduce: str
    compensate: bool
    calib: Calibration | None
    calib_images: int
    repair: bool
    search: str | float
    sensitivity: str | PathLike[str] | None
    seed: int
    plan: PrunePlan | str | PathLike[str] | None
    split_routes: bool
    data: str | PathLike[str] | None
    split: str
    imgsz: int | tuple[int, int] | None
    device: str | None
    repeats: int
    trust: bool

    @property
    def limits(self) -> dict[str, Amount]:
        """What may stay."""
        return {
            "macs": self.macs, "params": self.params, "bytes": self.bytes, "latency": self.latency,
        }  # fmt: skip

    def choosing(self) -> list[str]:
        """Arguments that say what goes, and were given."""
        names = (
            "percent", *self.limits, "precision", "runtime", "threads", "latency_table",
            "max_drop", "ratios", "blocks", "criterion", "scope", "search", "sensitivity",
        )  # fmt: skip
        return [name for name in names if getattr(self, name) not in (None, 0)]

    def budget(self, model: nn.Module, file: Path | None) -> Budget:
        """What a planner is asked for.

        Args:
            model: whose type says what bytes are counted in, where nothing else does.
            file: that it came from.
        """
        others = {"ratios": self.ratios, "max_drop": self.max_drop, "blocks": self.blocks}
        precision, ratios = self.precision, self.ratios
        if precision is None and self.bytes is not None and file is None:
            half = next((p.dtype.itemsize == 2 for p in model.parameters()), False)
            precision = "fp16" if half else "fp32"
        return budget_of(
            half_if_nothing(self.percent, {**self.limits, **others}),
            self.limits,
            precision,
            (self.min_channels, self.max_layer_prune, rounding(self.round_to, self.target)),
            file=file or "",
            ratios=Path(ratios) if isinstance(ratios, str | PathLike) else ratios,
            max_drop=self.max_drop,
            blocks=self.blocks,
        )

    def timing(self, given: Network, size: Shape, round_to: int) -> TimingOptions | None:
        """Where a limit to latency is meant; of pictures only."""
        if isinstance(size, torch.Size):
            return None
        return timing_of(
            self.latency, self.runtime, path_of(self.latency_table), device=self.device or "",
            threads=self.threads, size=size, batch=1, round_to=round_to,
            model="" if given.source is None else given.source.model.name,
        )  # fmt: skip

    def options(self, given: Network, inputs: Inputs, folder: Path) -> SlimOptions:
        """As the pipeline takes them.

        Args:
            given: the network.
            inputs: what it is run on.
            folder: for what searches keep.
        """
        budget = self.budget(given.model, None if given.source is None else given.source.model)
        size = inputs.size(given.model, self.imgsz)
        return SlimOptions(
            budget=budget,
            out=folder,
            criterion=self.criterion,
            scope=parse_scope(self.scope),
            reduce=parse_reduce(self.reduce),
            compensate=self.compensate,
            calib=fspath(self.calib) if isinstance(self.calib, str | PathLike) else None,
            calib_images=self.calib_images,
            repair=self.repair,
            search=seconds_of(self.search, "--search"),
            sensitivity=path_of(self.sensitivity),
            seed=self.seed,
            plan=self.plan if isinstance(self.plan, PrunePlan) else path_of(self.plan),
            split_routes=self.split_routes,
            target=self.target,
            data=None if self.data is None else fspath(self.data),
            split=self.split,
            imgsz=self.imgsz,
            device=device_for(given, self.device),
            repeats=self.repeats,
            timing=self.timing(given, size, budget.round_to),
        )


@speaks_arguments
def slim(
    model: Model,
    example_input: Tensor | None = None,
    *,
    weights: str | PathLike[str] | None = None,
    percent: float | None = None,
    macs: Amount = None,
    params: Amount = None,
    bytes: Amount = None,  # noqa: A002  # the name that its flag has
    precision: str | None = None,
    latency: Amount = None,
    runtime: str | None = None,
    threads: int | None = None,
    latency_table: str | PathLike[str] | None = None,
    max_drop: float | None = None,
    ratios: Ratios = None,
    blocks: int = 0,
    min_channels: int = 8,
    max_layer_prune: float = 0.9,
    round_to: int | None = None,
    target: str | None = None,
    criterion: str | None = None,
    scope: str | None = None,
    reduce: str = "mean",
    compensate: bool = True,
    calib: Calibration | None = None,
    calib_images: int = 64,
    repair: bool = True,
    search: str | float = 0,
    sensitivity: str | PathLike[str] | None = None,
    seed: int = 0,
    plan: PrunePlan | str | PathLike[str] | None = None,
    split_routes: bool = False,
    data: str | PathLike[str] | None = None,
    split: str = "val",
    imgsz: int | tuple[int, int] | None = None,
    device: str | None = None,
    repeats: int = 0,
    trust: bool = False,
) -> Slimmed:
    """Make a network smaller: trace, choose, cut, test, repair, measure.

    Nothing is written, and the network that is given stays as it is. Limits are shares below 1 of
    what the full network has, or amounts; all of them hold. Without any, half of the channels go.

    Args:
        model: a ``.pt``, ``.cfg`` or ``.yaml``; a ``(cfg, weights)`` pair; or any ``nn.Module``.
        example_input: ``[B, ...]``, a batch as ``model`` takes it; a detector needs none.
        weights: of a ``.cfg``.
        percent: share of the prunable channels that goes, in (0, 1).
        macs: multiply-adds of one input that may stay: ``0.5`` or ``"2.1G"``.
        params: parameters that may stay: ``0.5`` or ``"3M"``.
        bytes: of weights that may stay: ``0.5`` or ``"2MB"``.
        precision: of these: fp32, fp16, int8; None is what the model keeps its numbers in.
        latency: time of a pass that may stay: ``0.5`` or ``"12ms"``.
        runtime: where that is meant: torch, onnxruntime, openvino.
        threads: that compute there.
        latency_table: file of ``yoloprune profile`` that tells times instead.
        max_drop: AP on ``data`` that may be lost; the smallest such cut is searched.
        ratios: shares of single layers, see :data:`Ratios`.
        blocks: whole residual blocks that go first.
        min_channels: that every layer keeps at least.
        max_layer_prune: share of its channels that a layer loses at most, in (0, 1].
        round_to: kept counts are multiples of it; None: 8, or what ``target`` wants.
        target: name of what the network will run on.
        criterion: what ranks channels; None takes what suits the network.
        scope: global, local or isomorphic: over what they are compared.
        reduce: mean, max, sum, norm: how the scores of tied channels become one.
        compensate: fold the constants of removed channels into what reads them.
        calib: inputs to repair on, without labels, see :data:`~yoloprune.api.given.Calibration`.
        calib_images: how many of them, at most.
        repair: fit what is left to what the full network gave, where there is ``calib``.
        search: seconds, or ``"3m"``, to look for better shares than even ones.
        sensitivity: file of ``yoloprune sensitivity``, whose curves set the shares.
        seed: of all that is random.
        plan: is carried out instead of choosing; may be a file.
        split_routes: write grouped routes of a Darknet network as convs of their own.
        data: data set to measure AP on, before and after.
        split: of it.
        imgsz: side, or height and width, in pixels, if not the model's own.
        device: where to work; None: where a module lies, and for files a GPU if there is one.
        repeats: timed passes of each side for ``latency_ms``; 0 times nothing.
        trust: unpickle a ``.pt`` of unknown classes, which can run any code.

    Raises:
        YoloPruneError: FormatError, TraceError, PlanError, CutError … and what is wrong.
    """
    return _slimmed(Asked(**locals()))  # whose names are those of the arguments


def _slimmed(asked: Asked) -> Slimmed:
    if asked.plan is not None and asked.choosing():
        raise PlanError(f"plan: says what goes. Leave {', '.join(asked.choosing())} out.")
    given = network(asked.model, asked.weights, trust=asked.trust)
    inputs = _inputs(given, asked.example_input, asked.calib, asked.calib_images)
    with TemporaryDirectory(prefix="yoloprune-") as folder:
        options = asked.options(given, inputs, Path(folder))
        found = slim_in_memory(given.model, given.source, options, inputs)
    return slimmed(found, given.model, given.source, detector=given.detector)


def _inputs(given: Network, example: Tensor | None, calib: Calibration | None, most: int) -> Inputs:
    """What the network is run on."""
    one = example_of(example, given)
    if calib is None:
        return Inputs(example=one)
    pictures = inputs_of(calib, one, most)
    if pictures is None and not given.detector:
        raise DataError(
            f"calib: got a path. How {type(given.model).__name__} is fed its pictures (sizes, "
            "means) only you know: give inputs as it takes them, a tensor [N, ...] or a DataLoader."
        )
    return Inputs(example=one, pictures=pictures)
