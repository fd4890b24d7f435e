"""The only module that knows the order of the stages."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yoloprune.channels.trace import trace
from yoloprune.darknet.network import DarknetModel
from yoloprune.darknet.split import split_routes
from yoloprune.errors import CutError, FormatError
from yoloprune.files import check_space, check_writable
from yoloprune.measure.detect import DetectOptions
from yoloprune.measure.environment import environment
from yoloprune.measure.latency import LatencyOptions, LatencySample, measure_latency
from yoloprune.measure.size import count, file_bytes
from yoloprune.measure.sound import check_finite
from yoloprune.measure.tasks import SHOWN, check_data, measure
from yoloprune.models.door import Source, digest, input_size_of, save
from yoloprune.prune.cut import SelfTest, cut_units, self_test
from yoloprune.prune.plan import Budget, Origin, PrunePlan
from yoloprune.prune.planner import Planner
from yoloprune.prune.score import Reduce, Scores, score, sparsity_warning

if TYPE_CHECKING:
    from torch import nn

    from yoloprune.channels.graph import ChannelGraph, IntArray

log = logging.getLogger(__name__)

_FLOAT = 4
"""Bytes of a parameter in a file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlimOptions:
    """How to slim.

    Attributes:
        budget: how much is to go, and what must stay.
        out: folder for the model, the plan and the report.
        criterion: name in the criteria table.
        reduce: how a unit's channels become one score.
        compensate: fold the constants of removed channels into their consumers.
        split_routes: write grouped routes as convs of their own (Darknet).
        data: data set to measure on; None measures none.
        split: of the data set.
        imgsz: input size for all measurements; None is the model's own.
        batch: pictures a pass in latency.
        device: where to measure.
        repeats: timed passes; 0 times nothing.
    """

    budget: Budget
    out: Path
    criterion: str = "gamma"
    reduce: Reduce = "mean"
    compensate: bool = True
    split_routes: bool = False
    data: str | None = None
    split: str = "val"
    imgsz: int | tuple[int, int] | None = None
    batch: int = 1
    device: str = "cpu"
    repeats: int = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class SlimResult:
    """What slimming gave.

    Attributes:
        model: the slim model.
        plan: what was removed.
        summary: the machine-readable record that ``--json`` writes; its ``warnings`` are plain
            sentences that were logged before the cut.
        graph: the channels that it was chosen from.
        scores: what each unit was worth.
    """

    model: nn.Module
    plan: PrunePlan
    graph: ChannelGraph
    scores: Scores
    summary: dict[str, Any]


class _Stages:
    """Wall time by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def run(self, name: str, stage: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Run one stage, and add up what it took."""
        start = time.perf_counter()
        result = stage(*args, **options)
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
        return result


def slim(model: nn.Module, source: Source, options: SlimOptions) -> SlimResult:
    """Trace, score, plan, cut, test, save and measure.

    Args:
        model: a loaded detector; not modified.
        source: the files it came from.
        options: how.

    Raises:
        MeasureError: a parameter is not finite.
        PlanError: the budget cannot be met.
        CutError: the self-test found that outputs changed; nothing is written.
    """
    _check(model, options)
    stages = _Stages()
    dense = model
    if options.split_routes:
        if not isinstance(model, DarknetModel):
            raise FormatError("--split-routes: is for Darknet models only.")
        model = stages.run("split", split_routes, model)
    graph = stages.run("trace", trace, model)
    scores = stages.run(
        "score", score, model, graph, criterion=options.criterion, reduce=options.reduce
    )
    planner = stages.run("plan", Planner, graph)
    origin = Origin(path=source.parameters.name, sha256=digest(source))
    plan: PrunePlan = stages.run("plan", planner.plan, scores, options.budget, origin)
    remove = plan.remove(graph)
    warning = sparsity_warning(scores, graph, remove)
    warnings = [*([warning] if warning else []), *plan.notes]
    for text in warnings:
        log.warning("warning: %s", text)
    thin = stages.run("cut", cut_units, model, graph, remove, compensate=options.compensate)
    test = stages.run("self_test", _tested, model, graph, remove, thin, options.compensate)

    stem = f"{source.model.stem}-slim"
    files = stages.run("save", save, thin, options.out / stem)
    plan_path = options.out / f"{files[0].stem}-plan.json"
    plan.write(plan_path)
    size = input_size_of(model, options.imgsz)
    before, after = stages.run("measure", _compare, dense, thin, source, files, size, options)
    if options.data:
        for record, one in ((before, dense), (after, thin)):
            record |= stages.run("val", _quality, one, options.data, size, options)
    summary = {
        **_account(plan, before, after),
        "model": str(source.model),
        "criterion": options.criterion,
        "compensate": options.compensate,
        "imgsz": list(size),
        "self_test": {"max_rel_diff": test.max_rel_diff, "dtype": test.dtype},
        "files": {"model": [str(f) for f in files], "plan": str(plan_path)},
        "seconds": stages.seconds,
        "warnings": warnings,
        "environment": asdict(environment(options.device)),
    }
    return SlimResult(model=thin, plan=plan, graph=graph, scores=scores, summary=summary)


def _check(model: nn.Module, options: SlimOptions) -> None:
    """All that can be known to fail before any work."""
    check_finite(model)
    check_writable(options.out)
    check_space(options.out, 2 * _FLOAT * sum(p.numel() for p in model.parameters()))
    if options.data:
        check_data(model, options.data, options.split)


def _quality(
    model: nn.Module, data: str, imgsz: tuple[int, int], options: SlimOptions
) -> dict[str, Any]:
    """How good a model of its task is, and whose numbers these are."""
    detect = DetectOptions(imgsz=imgsz, device=options.device)
    found = measure(model, data, detect, split=options.split)
    metrics = found["metrics"]
    return {**{key: metrics[key] for key in SHOWN if key in metrics}, "by": found["by"]}


def _account(plan: PrunePlan, before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """What was asked, what was reached, and both sides of it."""
    saved = {key: 1 - after[key] / before[key] for key in ("params", "macs")}
    return {
        "asked": asdict(plan.budget),
        "reached": {**asdict(plan.reached), **saved},
        "before": before,
        "after": after,
    }


def _tested(
    model: nn.Module, graph: ChannelGraph, remove: IntArray, thin: nn.Module, compensated: bool
) -> SelfTest:
    """The self-test of the very model that is about to be written."""
    result = self_test(model, graph, remove, thin, compensated=compensated)
    if result.max_rel_diff == float("inf"):
        raise CutError(
            "self-test: an output is no finite number, or only one of the cut and the uncut model "
            "gives infinity there. Nothing was written; does the model give numbers before it?"
        )
    if not result.passed:
        raise CutError(
            f"self-test: the cut changes the output by {result.max_rel_diff:.2g} of its scale, "
            f"expected at most {result.tolerance:g}. Nothing was written; please report this model."
        )
    return result


def _compare(
    dense: nn.Module,
    thin: nn.Module,
    source: Source,
    files: tuple[Path, ...],
    imgsz: tuple[int, int],
    options: SlimOptions,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Size and latency of both, timed in turn."""
    times: dict[str, LatencySample] = {}
    if options.repeats:
        how = LatencyOptions(
            imgsz=imgsz, batch=options.batch, device=options.device, repeats=options.repeats
        )
        times = measure_latency({"before": dense, "after": thin}, how)
    origin = (source.model, source.weights) if source.weights else (source.model,)
    records = []
    for name, model, paths in (("before", dense, origin), ("after", thin, files)):
        size = count(model, imgsz)
        record: dict[str, Any] = {
            "params": size.params,
            "macs": size.macs,
            "bytes": file_bytes(paths),
        }
        if name in times:
            record |= {
                "latency_ms": times[name].median_ms,
                "latency_iqr_ms": times[name].iqr_ms,
                "latency": times[name].to_dict(),
            }
        records.append(record)
    return records[0], records[1]
