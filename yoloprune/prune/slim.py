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
from yoloprune.measure.size import count
from yoloprune.measure.sound import check_finite
from yoloprune.measure.tasks import check_data
from yoloprune.models.door import Source, digest, input_size_of, save
from yoloprune.prune.alive import are_alike
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
from yoloprune.prune.cost import Costs
from yoloprune.prune.cut import cut_units, kept_units
from yoloprune.prune.plan import Origin, PrunePlan
from yoloprune.prune.planner import Planner
from yoloprune.prune.repair import RepairRecord
from yoloprune.prune.score import Reduce, Scores
from yoloprune.prune.search import SearchOptions
from yoloprune.prune.selftest import SelfTest, tested_cut
from yoloprune.prune.sensitivity import Sensitivity
from yoloprune.prune.shorter import Shorter, no_channels, shorter
from yoloprune.prune.sides import account, both
from yoloprune.prune.stopwatch import Stopwatch
from yoloprune.prune.verdict import head_error, judge

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
        budget: how much is to go, and what must stay; None where blocks alone go.
        blocks: how many whole blocks go, before any channel.
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
        split_routes: write grouped routes as convs of their own (Darknet).
        data: data set to measure on; None measures none.
        split: of the data set.
        imgsz: input size for all measurements; None is the model's own.
        batch: pictures a pass in latency.
        device: where to measure.
        repeats: timed passes; 0 times nothing.
    """

    budget: Budget | None
    out: Path
    blocks: int = 0
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
    _check(model, options)
    stages = Stopwatch()
    dense = model
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
    short = stages.run("blocks", _shorter, model, size, pictures, options)
    made = _make(model, source, size, pictures, options, stages, short)
    stem = f"{source.model.stem}-slim"
    files = stages.run("save", save, made.model, options.out / stem)
    search_log(options.out, source).unlink(missing_ok=True)
    plan_path = options.out / f"{files[0].stem}-plan.json"
    made.plan.write(plan_path)
    origin = (source.model, source.weights) if source.weights else (source.model,)
    sides = {"before": (dense, origin), "after": (made.model, files)}
    before, after = both(sides, size, stages, **_measuring(options))
    summary = {
        "model": str(source.model),
        "imgsz": list(size),
        **account(made.plan, before, after),
        **_story(made, options),
        "blocks": None if short is None else short.to_dict(),
        "verdict": _verdict(made, before, after, files[0], options),
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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Made:
    """A cut and repaired model, and how it came about.

    Attributes:
        free: whether only channels went that were switched off.
        arbitrary: whether they were chosen by scores that hardly differ.
    """

    model: nn.Module
    graph: ChannelGraph
    choice: Choice
    plan: PrunePlan
    test: SelfTest
    repair: RepairRecord | None
    free: bool
    arbitrary: bool
    warnings: list[str]


def _shorter(
    model: nn.Module, size: tuple[int, int], pictures: Pictures | None, options: SlimOptions
) -> Shorter | None:
    """The network without whole blocks, where some are to go."""
    if not options.blocks:
        return None
    how = {"repair": options.repair, "device": options.device}
    return shorter(model, size, options.blocks, options.budget, pictures, **how)  # type: ignore[arg-type]


def _make(
    model: nn.Module,
    source: Source,
    size: tuple[int, int],
    pictures: Pictures | None,
    options: SlimOptions,
    stages: Stopwatch,
    short: Shorter | None,
) -> _Made:
    """Trace, choose, cut, test, repair."""
    teacher = model
    if short is not None:
        model, teacher = short.model, short.teacher
    graph = stages.run("trace", trace, model)
    choice, plan = _chosen(model, graph, source, size, pictures, options, stages, short)
    remove = plan.remove(graph)
    alive = alive_warning(model, graph, choice, remove) if plan.layers else None
    mends = pictures is not None and options.repair
    warnings = [*choice.notes, *([alive] if alive and not mends else []), *plan.notes]
    for text in warnings:
        log.warning("warning: %s", text)
    thin = stages.run("cut", cut_units, model, graph, remove, compensate=options.compensate)
    test = stages.run("self_test", tested_cut, model, graph, remove, thin, options.compensate)
    record = None if short is None else short.repair
    if pictures is not None and options.repair and plan.layers:
        kept = kept_units(graph, remove)
        done = stages.run("repair", repair_on, teacher, thin, graph, kept, pictures, options.device)
        thin, record = done.model, done.record
    if pictures is not None and record is not None:
        warnings += drift_warning(record, pictures)
    return _Made(
        model=thin,
        graph=graph,
        choice=choice,
        plan=plan,
        test=test,
        repair=record,
        free=alive is None and short is None,
        arbitrary=choice.compares and are_alike(choice.scores, graph),
        warnings=warnings,
    )


def _chosen(
    model: nn.Module,
    graph: ChannelGraph,
    source: Source,
    size: tuple[int, int],
    pictures: Pictures | None,
    options: SlimOptions,
    stages: Stopwatch,
    short: Shorter | None,
) -> tuple[Choice, PrunePlan]:
    """Which channels go, and by what they are chosen."""
    budget = options.budget if short is None else short.left
    names = () if short is None else short.names
    if budget is None:
        origin = Origin(path=source.parameters.name, sha256=digest(source))
        choice, plan = no_channels(model, graph, size, options.budget, origin)
        return choice, replace(plan, blocks=names)
    costs = Costs(model, graph, count(model, size)) if budget.limits else None
    planner = Planner(graph, costs)
    choice = stages.run("score", _scored, model, planner, budget, size, pictures, options)
    if options.sensitivity is not None:
        choice = measured_shares(choice, graph, options.sensitivity)
    if options.search and pictures is not None:
        how = SearchOptions(
            seconds=options.search,
            seed=options.seed,
            device=options.device,
            log=search_log(options.out, source),
        )
        choice = stages.run("search", searched, model, graph, choice, pictures, how)
    plan = stages.run("plan", _planned, planner, choice, source, options)
    return choice, replace(plan, blocks=names)


def _measuring(options: SlimOptions) -> dict[str, Any]:
    """How both sides are measured."""
    names = ("batch", "device", "repeats", "data", "split")
    return {name: getattr(options, name) for name in names}


def _story(made: _Made, options: SlimOptions) -> dict[str, Any]:
    """How a cut came about."""
    return {
        "criterion": made.plan.criterion,
        "scope": made.choice.scope,
        "why": made.choice.why,
        "search": None if made.choice.search is None else made.choice.search.to_dict(),
        "compensate": options.compensate,
        "self_test": {"max_rel_diff": made.test.max_rel_diff, "dtype": made.test.dtype},
        "repair": None if made.repair is None else made.repair.to_dict(),
        "warnings": made.warnings,
    }


def _verdict(
    made: _Made, before: dict[str, Any], after: dict[str, Any], file: Path, options: SlimOptions
) -> dict[str, Any]:
    """What the cut leaves behind."""
    found = judge(
        before,
        after,
        made.repair,
        head_error=None if made.repair is None else head_error(made.repair, made.graph),
        free=made.free,
        arbitrary=made.arbitrary,
        model=str(file),
        data=options.data,
    )
    return asdict(found)


def _check(model: nn.Module, options: SlimOptions) -> None:
    """All that can be known to fail before any work."""
    check_finite(model)
    if options.budget is None and not options.blocks:
        raise PlanError("budget: is empty. Give --percent, --macs, --params, --bytes or --blocks.")
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
    budget: Budget,
    size: tuple[int, int],
    pictures: Pictures | None,
    options: SlimOptions,
) -> Choice:
    sources = (options.calib, options.data)
    lessons = lessons_for(model, options.criterion, sources, size, options.calib_images)
    return choose_scores(
        model,
        planner.graph,
        budget,
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


def _planned(planner: Planner, chosen: Choice, source: Source, options: SlimOptions) -> PrunePlan:
    origin = Origin(path=source.parameters.name, sha256=digest(source))
    return planner.plan(chosen.scores, chosen.budget, origin, asked=options.budget)
