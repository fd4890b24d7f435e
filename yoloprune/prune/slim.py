"""The only module that knows the order of the stages."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yoloprune.channels.trace import trace
from yoloprune.darknet.network import DarknetModel
from yoloprune.darknet.split import split_routes
from yoloprune.errors import FormatError, PlanError
from yoloprune.files import check_space, check_writable
from yoloprune.measure.environment import environment
from yoloprune.measure.pictures import Pictures, find_pictures
from yoloprune.measure.progress import progress
from yoloprune.measure.size import count
from yoloprune.measure.sound import check_finite
from yoloprune.measure.tasks import check_data
from yoloprune.models.door import Source, digest, input_size_of, save
from yoloprune.prune.alive import are_alike
from yoloprune.prune.areas import with_areas
from yoloprune.prune.budget import Budget
from yoloprune.prune.calibrate import (
    calibration,
    calibration_source,
    drift_warning,
    lessons_for,
    measured_shares,
    repair_on,
    searched,
)
from yoloprune.prune.choose import Choice, Scope, alive_warning, check_criterion, choose_scores
from yoloprune.prune.clock import Clock
from yoloprune.prune.cost import Costs
from yoloprune.prune.cut import cut_units, kept_units
from yoloprune.prune.given import Decision, choice_of, given_plan
from yoloprune.prune.made import Made, story, verdict
from yoloprune.prune.plan import Origin, PrunePlan
from yoloprune.prune.planner import Planner
from yoloprune.prune.repair import RepairRecord
from yoloprune.prune.score import Reduce, Scores
from yoloprune.prune.search import SearchOptions
from yoloprune.prune.selftest import tested_cut
from yoloprune.prune.sensitivity import Sensitivity
from yoloprune.prune.sides import account, cost, quality
from yoloprune.prune.stopwatch import Stopwatch
from yoloprune.prune.timing import LatencyRecord, TimingOptions, clock_for, meet

if TYPE_CHECKING:
    from torch import nn

    from yoloprune.channels.graph import ChannelGraph

log = logging.getLogger(__name__)

_FLOAT = 4
"""Bytes of a parameter in a file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlimOptions:
    """How to slim.

    Attributes:
        budget: how much is to go, and what must stay; not looked at where there is a plan.
        out: folder for the model, the plan and the report.
        criterion: what ``--criterion`` takes; None for what suits the network.
        scope: ``global``, ``local`` or ``isomorphic``; None for the criterion's own.
        reduce: how a unit's channels become one score.
        compensate: fold the constants of removed channels into their consumers.
        calib: pictures to repair with: a folder, a pattern, a list or a data set; None takes the
            train split of ``data`` where that is given.
        calib_images: how many of them.
        repair: fit what is left to what the full network gave, where there are pictures.
        search: seconds to look for better shares than even ones; 0 does not.
        sensitivity: file of ``yoloprune sensitivity``, whose curves set the shares.
        seed: of the search.
        plan: file of a plan that is carried out as it is; nothing is chosen then.
        split_routes: write grouped routes as convs of their own (Darknet).
        data: data set to measure on; None measures none.
        split: of the data set.
        imgsz: input size for all measurements; None is the model's own.
        batch: pictures a pass in latency.
        device: where to measure.
        repeats: timed passes; 0 times nothing.
        timing: where a limit to latency is meant; needed where the budget has one.
    """

    budget: Budget
    out: Path
    criterion: str | None = None
    scope: Scope | None = None
    reduce: Reduce = "mean"
    compensate: bool = True
    calib: str | None = None
    calib_images: int = 64
    repair: bool = True
    search: float = 0.0
    sensitivity: Path | None = None
    seed: int = 0
    plan: Path | None = None
    split_routes: bool = False
    data: str | None = None
    split: str = "val"
    imgsz: int | tuple[int, int] | None = None
    batch: int = 1
    device: str = "cpu"
    repeats: int = 30
    timing: TimingOptions | None = None


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
        repair: what was fitted anew; None where nothing was.
    """

    model: nn.Module
    plan: PrunePlan
    graph: ChannelGraph
    scores: Scores
    summary: dict[str, Any]
    repair: RepairRecord | None = None


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
    stages = Stopwatch()
    decision = decide(model, source, options, stages)
    dense, size = model, decision.size
    made = _make(decision, options, stages)
    stem = f"{source.model.stem}-slim"
    files = stages.run("save", save, made.model, options.out / stem)
    search_log(options.out, source).unlink(missing_ok=True)
    plan_path = options.out / f"{files[0].stem}-plan.json"
    made.plan.write(plan_path)
    before, after = _measured(dense, made.model, source, files, size, options, stages)
    summary = {
        "model": str(source.model),
        "imgsz": list(size),
        **account(made.plan, before, after),
        **story(made, compensate=options.compensate),
        "verdict": verdict(made, before, after, files[0], options.data),
        "files": {"model": [str(f) for f in files], "plan": str(plan_path)},
        "seconds": stages.seconds,
        "environment": asdict(environment(options.device)),
    }
    return SlimResult(
        model=made.model,
        plan=made.plan,
        graph=made.graph,
        scores=made.choice.scores,
        summary=summary,
        repair=made.repair,
    )


def decide(model: nn.Module, source: Source, options: SlimOptions, stages: Stopwatch) -> Decision:
    """All up to the plan: check, trace, and choose what goes or read it.

    Args:
        model: a loaded detector; not modified.
        source: the files it came from.
        options: how; nothing but the log of a search is written to its folder.
        stages: told what each took.

    Raises:
        YoloPruneError: as :func:`slim`.
    """
    _check(model, options)
    if options.split_routes:
        if not isinstance(model, DarknetModel):
            raise FormatError("--split-routes: is for Darknet models only.")
        model = stages.run("split", split_routes, model)
    size = input_size_of(model, options.imgsz)
    pictures = stages.run(
        "pictures",
        calibration,
        model,
        _source(options),
        size,
        options.calib_images,
        asked=options.calib is not None,
    )
    graph = stages.run("trace", trace, model)
    origin = Origin(path=source.parameters.name, sha256=digest(source))
    latency: LatencyRecord | None = None
    if options.plan is not None:
        plan = stages.run("plan", given_plan, options.plan, graph, origin)
        choice = choice_of(plan, graph, options.plan)
    else:
        clock = stages.run("profile", _clock, model, graph, options)
        costs = Costs(model, graph, count(model, size), clock) if options.budget.limits else None
        planner = Planner(graph, costs)
        options = replace(options, budget=with_areas(options.budget, model))
        planner.bounds(options.budget)  # what is wrong with its ratios is said before any scoring
        choice = _chosen(model, planner, size, pictures, source, options, stages)
        if clock is not None:
            by, latency = stages.run("time", meet, model, planner, choice.scores, options.budget)
            choice = replace(choice, budget=by)
        asked = options.budget
        plan = stages.run("plan", planner.plan, choice.scores, choice.budget, origin, asked=asked)
    return Decision(
        model=model,
        graph=graph,
        size=size,
        pictures=pictures,
        choice=choice,
        plan=plan,
        latency=latency,
    )


def _chosen(
    model: nn.Module,
    planner: Planner,
    size: tuple[int, int],
    pictures: Pictures | None,
    source: Source,
    options: SlimOptions,
    stages: Stopwatch,
) -> Choice:
    """Score, by curves or a search where these are asked for."""
    choice: Choice = stages.run("score", _scored, model, planner, size, pictures, options)
    if options.sensitivity is not None:
        choice = measured_shares(choice, planner.graph, options.sensitivity)
    if options.search and pictures is not None:
        how = SearchOptions(
            seconds=options.search,
            seed=options.seed,
            device=options.device,
            log=search_log(options.out, source),
        )
        choice = stages.run("search", _searched, model, planner, choice, pictures, how, options)
    return choice


def _make(decision: Decision, options: SlimOptions, stages: Stopwatch) -> Made:
    """Cut, test, repair."""
    model, graph, pictures = decision.model, decision.graph, decision.pictures
    choice, plan = decision.choice, decision.plan
    remove = plan.remove(graph)
    alive = alive_warning(model, graph, choice, remove)
    warnings = decision.warnings(alive, repair=options.repair)
    for text in warnings:
        log.warning("warning: %s", text)
    thin = stages.run("cut", cut_units, model, graph, remove, compensate=options.compensate)
    test = stages.run("self_test", tested_cut, model, graph, remove, thin, options.compensate)
    record = None
    if pictures is not None and options.repair:
        kept = kept_units(graph, remove)
        done = stages.run("repair", repair_on, model, thin, graph, kept, pictures, options.device)
        thin, record = done.model, done.record
        warnings += drift_warning(record, pictures)
    return Made(
        model=thin,
        graph=graph,
        choice=choice,
        plan=plan,
        test=test,
        repair=record,
        free=alive is None,
        arbitrary=choice.compares and are_alike(choice.scores, graph),
        warnings=warnings,
        latency=decision.latency,
    )


def _clock(model: nn.Module, graph: ChannelGraph, options: SlimOptions) -> Clock | None:
    """What plans take, where time is limited."""
    if options.budget.latency is None:
        return None
    if options.timing is None:
        raise PlanError("--latency: is meant in some runtime. Say which with --runtime.")
    with progress("latency table") as advance:
        return clock_for(model, graph, replace(options.timing, progress=advance))


def _searched(
    model: nn.Module,
    planner: Planner,
    choice: Choice,
    pictures: Pictures,
    how: SearchOptions,
    options: SlimOptions,
) -> Choice:
    """Shares that are searched for: at the multiply-adds where time is limited."""
    if options.budget.latency is None:
        return searched(model, planner.graph, choice, pictures, how)
    assert planner.costs is not None
    kept = kept_units(planner.graph, planner.choose(choice.scores, choice.budget))
    at = replace(options.budget, latency=None, macs=float(max(planner.costs.macs(kept), 2)))
    return searched(model, planner.graph, replace(choice, budget=at), pictures, how)


def _measured(
    dense: nn.Module,
    thin: nn.Module,
    source: Source,
    files: tuple[Path, ...],
    size: tuple[int, int],
    options: SlimOptions,
    stages: Stopwatch,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Records of both sides."""
    origin = (source.model, source.weights) if source.weights else (source.model,)
    models = {"before": dense, "after": thin}
    how = {"batch": options.batch, "device": options.device, "repeats": options.repeats}
    paths = {"before": origin, "after": files}
    records = stages.run("measure", cost, models, paths, size, **how)
    if options.data:
        for name, model in models.items():
            where = {"split": options.split, "device": options.device}
            records[name] |= stages.run("val", quality, model, options.data, size, **where)
    return records["before"], records["after"]


def _check(model: nn.Module, options: SlimOptions) -> None:
    """All that can be known to fail before any work."""
    check_finite(model)
    check_writable(options.out)
    check_space(options.out, 2 * _FLOAT * sum(p.numel() for p in model.parameters()))
    if options.data:
        check_data(model, options.data, options.split)
    source = _source(options)
    if source is not None:
        find_pictures(source)
    search = options.search > 0
    if options.sensitivity is not None:
        Sensitivity.read(options.sensitivity)
        if search or options.scope not in (None, "local"):
            raise PlanError(
                "--sensitivity: sets the shares of all parts. Leave --search and --scope out."
            )
    shared = options.budget.percent is None and not options.budget.limits
    if shared and (search or options.sensitivity is not None):
        flag = "search" if search else "sensitivity"
        raise PlanError(
            f"--{flag}: --ratios alone sets the shares here. Add --percent or a limit, which the "
            "other layers are to meet."
        )
    if search and not options.repair:
        raise PlanError("--search: compares repaired cuts. Leave --no-repair out.")
    check_criterion(options.criterion, options.scope, pictures=source is not None, search=search)


def _source(options: SlimOptions) -> str | None:
    """What names the pictures to calibrate on."""
    return calibration_source(
        options.calib, options.data, repair=options.repair, criterion=options.criterion
    )


def _scored(
    model: nn.Module,
    planner: Planner,
    size: tuple[int, int],
    pictures: Pictures | None,
    options: SlimOptions,
) -> Choice:
    sources = (options.calib, options.data)
    lessons = lessons_for(model, options.criterion, sources, size, options.calib_images)
    return choose_scores(
        model,
        planner.graph,
        options.budget,
        planner=planner,
        criterion=options.criterion,
        scope=options.scope if options.sensitivity is None else "local",
        reduce=options.reduce,
        pictures=None if pictures is None else pictures.images,
        lessons=lessons,
        device=options.device,
    )


def search_log(out: Path, source: Source) -> Path:
    """Where a search keeps its trials until the cut is saved."""
    return out / f"{source.model.stem}-search.json"
