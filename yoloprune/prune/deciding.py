"""All of slimming up to the plan: checks, pictures, scores, shares, and what goes."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch

from yoloprune.channels.trace import trace
from yoloprune.darknet.network import DarknetModel
from yoloprune.darknet.split import split_routes
from yoloprune.errors import FormatError, PlanError
from yoloprune.files import check_space, check_writable
from yoloprune.measure.pictures import Pictures, find_pictures
from yoloprune.measure.size import count
from yoloprune.measure.sound import check_finite
from yoloprune.measure.targets import rounding
from yoloprune.measure.tasks import check_data
from yoloprune.models.door import Source
from yoloprune.progress import progress
from yoloprune.prune.areas import with_areas
from yoloprune.prune.budget import Budget
from yoloprune.prune.calibrate import (
    calibration,
    calibration_source,
    lessons_for,
    measured_shares,
    searched,
    shared_out,
)
from yoloprune.prune.choose import Choice, check_criterion, choose_scores, is_sparse
from yoloprune.prune.clock import Clock
from yoloprune.prune.cost import Costs
from yoloprune.prune.cut import kept_units
from yoloprune.prune.given import (
    Decision,
    called,
    choice_of,
    given_plan,
    no_channels,
    plan_of,
)
from yoloprune.prune.options import SlimOptions
from yoloprune.prune.plan import Origin, PrunePlan
from yoloprune.prune.planner import Planner
from yoloprune.prune.ready import Inputs, Ready, Shape, origin_of, search_log, stem_of
from yoloprune.prune.search import SearchOptions
from yoloprune.prune.sensitivity import Sensitivity
from yoloprune.prune.shorter import Shorter, shorter
from yoloprune.prune.stopwatch import Stopwatch
from yoloprune.prune.timing import LatencyRecord, clock_for, meet

if TYPE_CHECKING:
    from torch import nn

    from yoloprune.channels.graph import ChannelGraph


_FLOAT = 4
"""Bytes of a parameter in a file."""


def decide(model: nn.Module, source: Source, options: SlimOptions, stages: Stopwatch) -> Decision:
    """All up to the plan: check, trace, and choose what goes or read it.

    Args:
        model: a loaded detector; not modified.
        source: the files it came from.
        options: how; nothing but the log of a search is written to its folder.
        stages: told what each took.

    Raises:
        PlanError: the budget bounds what AP may fall by, which only cuts can tell.
        YoloPruneError: as :func:`slim`.
    """
    if options.budget.max_drop is not None:
        raise PlanError(
            "--dry-run: --max-drop cuts and measures before it knows the plan. Leave one out."
        )
    return decided(prepare(model, source, options, stages), options, stages)


def prepare(
    model: nn.Module,
    source: Source | None,
    options: SlimOptions,
    stages: Stopwatch,
    inputs: Inputs | None = None,
) -> Ready:
    """Check, read the pictures, take whole blocks out, trace.

    Args:
        model: as :func:`decide`.
        source: the files it came from; None for a network in memory.
        options: how.
        stages: told what each took.
        inputs: of a network in memory.

    Raises:
        YoloPruneError: as :func:`decide`.
    """
    inputs = inputs or Inputs()
    _check(model, options, given=inputs.pictures is not None)
    if options.split_routes:
        if not isinstance(model, DarknetModel):
            raise FormatError("--split-routes: is for Darknet models only.")
        model = stages.run("split", split_routes, model)
    size = inputs.size(model, options.imgsz)
    if isinstance(size, torch.Size):
        _check_other_input(size, options)
    pictures = inputs.pictures or stages.run(
        "pictures",
        calibration,
        model,
        _source(options),
        size,
        options.calib_images,
        asked=options.calib is not None,
    )
    short: Shorter | None = stages.run("blocks", _shorter, model, size, pictures, options)
    model = model if short is None else short.model
    graph = stages.run("trace", trace, model, inputs.example)
    if short is not None and options.plan is None:
        short.check_ratios(options.budget, graph)
    return Ready(
        model=model, source=source, graph=graph, size=size, pictures=pictures, shorter=short
    )


def _shorter(
    model: nn.Module, size: Shape, pictures: Pictures | None, options: SlimOptions
) -> Shorter | None:
    """The network without whole blocks, where some are to go."""
    wanted: int | tuple[str, ...] = options.budget.blocks
    where = "--blocks"
    if options.plan is not None:
        wanted, where = plan_of(options.plan).blocks, called(options.plan, path=True)
    if not wanted:
        return None
    assert not isinstance(size, torch.Size)
    how = {"repair": options.repair, "device": options.device}
    return shorter(model, size, wanted, pictures, where=where, **how)  # type: ignore[arg-type]


def decided(ready: Ready, options: SlimOptions, stages: Stopwatch) -> Decision:
    """Choose what goes, or read it."""
    model, graph, source = ready.model, ready.graph, ready.source
    origin = origin_of(model, source)
    clock: Clock | None = None
    latency: LatencyRecord | None = None
    if options.plan is not None:
        plan = stages.run("plan", given_plan, options.plan, graph, origin)
        choice = choice_of(plan, graph, options.plan)
    else:
        clock = stages.run("profile", _clock, model, graph, options)
        size = count(model, ready.size)
        costs = Costs(model, graph, size, clock) if options.budget.limits else None
        planner = Planner(graph, costs)
        options = replace(options, budget=with_areas(options.budget, model))
        planner.bounds(options.budget)  # what is wrong with its ratios is said before any scoring
        choice, plan, latency = _planned(ready, planner, options, origin, stages)
    return Decision(
        model=model,
        graph=graph,
        size=ready.size,
        pictures=ready.pictures,
        choice=choice,
        plan=plan,
        clock=clock,
        latency=latency,
        shorter=ready.shorter,
    )


def _planned(
    ready: Ready, planner: Planner, options: SlimOptions, origin: Origin, stages: Stopwatch
) -> tuple[Choice, PrunePlan, LatencyRecord | None]:
    """Choose what goes: scores, shares, and the plan; and how a limit to latency was met."""
    asked, short, latency = options.budget, ready.shorter, None
    if short is not None:
        options = replace(options, budget=short.amounts(asked))
        if _met(planner, options.budget):
            return *no_channels(planner.graph, asked, origin, short.names), None
    choice = _chosen(ready, planner, options, stages)
    if asked.latency is not None:
        shares = partial(shared_out, planner, choice)
        by, latency = stages.run("time", meet, ready.model, planner, shares, options.budget)
        choice = replace(choice, budget=by)
    shared = stages.run("share", shared_out, planner, choice, choice.budget)
    choice = replace(choice, scores=shared)
    timed = short is not None and latency is not None and latency.met is not False
    if short and timed and not planner.choose(choice.scores, choice.budget).size:
        return *no_channels(planner.graph, asked, origin, short.names), latency
    plan = stages.run("plan", planner.plan, choice.scores, choice.budget, origin, asked=asked)
    return choice, plan if short is None else replace(plan, blocks=short.names), latency


def _met(planner: Planner, budget: Budget) -> bool:
    """Whether a network keeps to a budget with all of its channels; of latency only cuts tell."""
    shares = budget.percent is not None or any(rule.takes for rule in budget.ratios)
    if shares or budget.latency is not None:
        return False
    if planner.costs is None:
        return True
    there = planner.costs.limited(np.ones(planner.graph.n_units, dtype=bool), budget)
    return all(there[name] <= limit for name, limit in planner.costs.limits(budget).items())


def _chosen(ready: Ready, planner: Planner, options: SlimOptions, stages: Stopwatch) -> Choice:
    """Score, by curves or a search where these are asked for."""
    model, pictures = ready.model, ready.pictures
    choice: Choice = stages.run("score", _known_or_scored, ready, planner, options)
    if options.sensitivity is not None:
        choice = measured_shares(choice, planner.graph, options.sensitivity)
    if options.search and pictures is not None:
        how = SearchOptions(
            seconds=options.search,
            seed=options.seed,
            device=options.device,
            log=search_log(options.out, stem_of(model, ready.source), options.budget),
        )
        choice = stages.run("search", _searched, model, planner, choice, pictures, how, options)
    return choice


def _known_or_scored(ready: Ready, planner: Planner, options: SlimOptions) -> Choice:
    """Scores do not depend on how much goes, but for whether that is switched off."""
    model, budget = ready.model, options.budget
    if budget.max_drop is None:
        return _scored(model, planner, ready.size, ready.pictures, options)
    free = options.criterion is None and options.scope != "local"
    free = free and is_sparse(model, planner, budget, options.reduce)
    if free not in ready.known:
        ready.known[free] = _scored(model, planner, ready.size, ready.pictures, options)
    return replace(ready.known[free], budget=budget)


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


def _check(model: nn.Module, options: SlimOptions, *, given: bool) -> None:
    """All that can be known to fail before any work; ``given``: pictures are there already."""
    check_finite(model)
    if options.plan is None and options.budget.blocks:
        _check_blocks(options)
    rounding(None, options.target)
    check_writable(options.out)
    check_space(options.out, 2 * _FLOAT * sum(p.numel() for p in model.parameters()))
    if options.data:
        check_data(model, options.data, options.split)
    source = None if given else _source(options)
    if source is not None:
        find_pictures(source)
    search = options.search > 0
    if options.sensitivity is not None:
        Sensitivity.read(options.sensitivity)
        if search or options.scope not in (None, "local"):
            raise PlanError(
                "--sensitivity: sets the shares of all parts. Leave --search and --scope out."
            )
    if options.budget.max_drop is not None and options.plan is not None:
        raise PlanError("--max-drop: chooses what goes, and --plan says it. Leave one out.")
    if options.budget.max_drop is not None and options.data is None:
        raise PlanError("--max-drop: measures AP. Give --data.")
    budget = options.budget
    shared = budget.percent is None and not budget.limits and budget.max_drop is None
    if shared and (search or options.sensitivity is not None):
        flag = "search" if search else "sensitivity"
        raise PlanError(
            f"--{flag}: --ratios alone sets the shares here. Add --percent or a limit, which the "
            "other layers are to meet."
        )
    if search and not options.repair:
        raise PlanError("--search: compares repaired cuts. Leave --no-repair out.")
    pictures = given or source is not None
    check_criterion(options.criterion, options.scope, pictures=pictures, search=search)


def _check_other_input(shape: torch.Size, options: SlimOptions) -> None:
    """What is done with pictures of three channels alone."""
    asks = {
        "--data": options.data is not None,
        "--blocks": options.plan is None and options.budget.blocks > 0,
        "--latency": options.budget.latency is not None,
    }
    given = [flag for flag, there in asks.items() if there]
    if given:
        raise PlanError(
            f"{', '.join(given)}: works on pictures [1, 3, H, W] only, got an input of "
            f"{list(shape)}."
        )


def _check_blocks(options: SlimOptions) -> None:
    """What whole blocks cannot stand beside."""
    budget = options.budget
    if options.sensitivity is not None:
        raise PlanError(
            "--sensitivity: was measured with the blocks that --blocks takes out. Slim twice: "
            "--blocks first, then measure what is left."
        )
    if budget.latency is not None and budget.latency < 1:
        raise PlanError(
            f"--latency: {budget.latency:g} is a share of the full network's, and with --blocks "
            "the shorter one is timed. Give an amount, such as 12ms."
        )
    chooses = {
        "--search": options.search > 0,
        "--criterion": options.criterion is not None,
        "--scope": options.scope is not None,
    }
    given = [flag for flag, there in chooses.items() if there]
    if given and not budget.takes_channels and budget.max_drop is None:
        raise PlanError(
            f"{', '.join(given)}: chooses channels, and --blocks alone takes none. Add --percent "
            "or a limit."
        )


def _source(options: SlimOptions) -> str | None:
    """What names the pictures to calibrate on."""
    return calibration_source(
        options.calib, options.data, repair=options.repair, criterion=options.criterion
    )


def _scored(
    model: nn.Module,
    planner: Planner,
    size: Shape,
    pictures: Pictures | None,
    options: SlimOptions,
) -> Choice:
    sources = (options.calib, options.data)
    lessons = None
    if not isinstance(size, torch.Size):  # what is read from files are pictures
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
