"""The only module that knows the order of the stages."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from yoloprune.errors import PlanError
from yoloprune.measure.changed import Changed, Sights
from yoloprune.measure.environment import environment
from yoloprune.measure.fastpath import compared, notes
from yoloprune.measure.held_back import HELD_BACK, hold_back
from yoloprune.measure.size import count
from yoloprune.measure.spread import spreads
from yoloprune.models.door import Source, save
from yoloprune.prune.alive import are_alike
from yoloprune.prune.budget import Budget
from yoloprune.prune.calibrate import (
    repair_on,
    repair_warnings,
)
from yoloprune.prune.choose import alive_warning
from yoloprune.prune.cut import cut_units, kept_units
from yoloprune.prune.deciding import decided, prepare
from yoloprune.prune.drop import DropOptions, DropRecord, smallest_within
from yoloprune.prune.fingerprint import fingerprint
from yoloprune.prune.given import Decision
from yoloprune.prune.made import Made, story, verdict
from yoloprune.prune.options import SlimOptions
from yoloprune.prune.plan import PrunePlan
from yoloprune.prune.ready import Inputs, Ready, Shape, forget_searches, stem_of
from yoloprune.prune.repair import RepairRecord
from yoloprune.prune.score import Scores
from yoloprune.prune.selftest import tested_cut
from yoloprune.prune.sides import account, cost, quality
from yoloprune.prune.stopwatch import Stopwatch

if TYPE_CHECKING:
    from torch import nn

    from yoloprune.channels.graph import ChannelGraph

log = logging.getLogger(__name__)


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
        changed: what it sees beside the full network; None without labelled pictures.
    """

    model: nn.Module
    plan: PrunePlan
    graph: ChannelGraph
    scores: Scores
    summary: dict[str, Any]
    repair: RepairRecord | None = None
    changed: Changed | None = None


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
    with _parted(options, source) as (parted, asked):
        stages = Stopwatch()
        ready, made, dropped = _cut(model, source, parted, asked.split, stages)
        stem = f"{source.model.stem}-slim"
        files = stages.run("save", save, made.model, parted.out / stem)
        _forget(parted.out, source.model.stem)
        plan_path = parted.out / f"{files[0].stem}-plan.json"
        made.plan.write(plan_path)
        result = _told(model, ready, made, dropped, files, parted, asked, stages)
        result.summary["files"] |= {
            "model": [str(f) for f in files],
            "plan": str(plan_path),
            **({} if parted is asked else {"data": str(parted.data)}),
        }
        return result


def slim_in_memory(
    model: nn.Module,
    source: Source | None,
    options: SlimOptions,
    inputs: Inputs | None = None,
) -> SlimResult:
    """As :func:`slim`, of any network, and nothing is saved.

    Args:
        model: not modified.
        source: the files it came from, if any.
        options: how; its folder keeps only what a search can go on with.
        inputs: what the network is run on, where it is not of a family with files of its own.

    Returns:
        Bytes in its summary are those of parameters and buffers, as they are held.

    Raises:
        YoloPruneError: as :func:`slim`; and of a split that is to be held back, for that is
            written.
    """
    if options.split == HELD_BACK:
        raise PlanError(f"--split {HELD_BACK}: is written beside the results. Save these.")
    stages = Stopwatch()
    ready, made, dropped = _cut(model, source, options, options.split, stages, inputs)
    _forget(options.out, stem_of(model, source))
    return _told(model, ready, made, dropped, (), options, options, stages)


@contextmanager
def _parted(options: SlimOptions, source: Source) -> Iterator[tuple[SlimOptions, SlimOptions]]:
    """Options that measure on a part of the train split, where that is asked; and those given."""
    if options.split != HELD_BACK:
        yield options, options
        return
    if options.data is None:
        raise PlanError(f"--split {HELD_BACK}: is of a data set. Give --data.")
    stem = options.out / f"{source.model.stem}-{HELD_BACK}"
    try:
        data = hold_back(options.data, stem, seed=options.seed)
        yield replace(options, data=str(data), split="val"), options
    except BaseException:
        for end in (".yaml", "-train.txt", "-val.txt"):
            stem.with_name(stem.name + end).unlink(missing_ok=True)
        raise


def _cut(
    model: nn.Module,
    source: Source | None,
    options: SlimOptions,
    split: str,
    stages: Stopwatch,
    inputs: Inputs | None = None,
) -> tuple[Ready, Made, DropRecord | None]:
    """All up to the cut, tested and repaired; ``split`` is the one that was asked for."""
    ready = prepare(model, source, options, stages, inputs)
    if options.budget.max_drop is None:
        return ready, _make(decided(ready, options, stages), options, stages), None
    return ready, *_within_drop(ready, options, split, stages)


def _told(
    dense: nn.Module,
    ready: Ready,
    made: Made,
    dropped: DropRecord | None,
    files: tuple[Path, ...],
    options: SlimOptions,
    asked: SlimOptions,
    stages: Stopwatch,
) -> SlimResult:
    """Measure both sides, and say how it came about; ``asked`` is what was asked for at first."""
    size, source = ready.size, ready.source
    sights = Sights(f"{stem_of(dense, source)}-slim" if not files else files[0].stem)
    before, after = _measured(dense, made.model, source, files, size, options, stages, sights)
    changed = sights.compared()
    summary = {
        "model": type(dense).__name__ if source is None else str(source.model),
        "imgsz": list(size),
        "data": asked.data,
        "split": asked.split if asked.data else None,
        **account(made.plan, before, after),
        **story(made, compensate=options.compensate),
        "fast_path": stages.run("fast_path", compared, dense, made.model, options.target, size),
        "max_drop": None if dropped is None else dropped.to_dict(before, after),
        "spreads": spreads({"before": dense, "after": made.model}),
        "changed": None if changed is None else changed.to_dict(),
        "verdict": verdict(made, before, after, files[0] if files else None, asked.data),
        "files": {"model": []},
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
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
        changed=changed,
    )


def _forget(out: Path, stem: str) -> None:
    """Remove what searches kept to go on with."""
    forget_searches(out, stem)
    drop_log(out, stem).unlink(missing_ok=True)


def drop_log(out: Path, stem: str) -> Path:
    """Where ``--max-drop`` keeps its trials until the cut is saved."""
    return out / f"{stem}-max-drop.json"


def _within_drop(
    ready: Ready, options: SlimOptions, split: str, stages: Stopwatch
) -> tuple[Made, DropRecord]:
    """The smallest cut whose AP falls no more than the budget lets it."""
    data = options.data
    assert data is not None
    where = {"split": options.split, "device": options.device}

    def chosen(budget: Budget) -> Decision:
        return decided(ready, replace(options, budget=budget), stages)

    def judged(model: nn.Module) -> dict[str, Any]:
        found: dict[str, Any] = stages.run("val", quality, model, data, ready.size, **where)
        return found

    pictures = None if ready.pictures is None else ready.pictures.images
    settings = replace(options, out=Path(), device="", timing=None)
    identity = fingerprint(ready.model, pictures, settings, ready.size)
    how = DropOptions(
        budget=options.budget,
        full_macs=count(ready.full, ready.size).macs,
        size=ready.size,
        split=split,
        log=drop_log(options.out, stem_of(ready.model, ready.source)),
        identity=identity,
        trials=options.drop_trials,
    )
    return smallest_within(
        judged(ready.full),
        chosen,
        lambda decision: _make(decision, options, stages),
        lambda made: judged(made.model),
        how,
    )


def _make(decision: Decision, options: SlimOptions, stages: Stopwatch) -> Made:
    """Cut, test, repair."""
    model, graph, pictures = decision.model, decision.graph, decision.pictures
    choice, plan, short = decision.choice, decision.plan, decision.shorter
    remove = plan.remove(graph)
    alive = alive_warning(model, graph, choice, remove)
    suits = notes(model, options.target, decision.size, options.budget.round_to)
    warnings = [*suits, *decision.warnings(alive, repair=options.repair)]
    for text in warnings:
        log.warning("warning: %s", text)
    thin = stages.run("cut", cut_units, model, graph, remove, compensate=options.compensate)
    test = stages.run("self_test", tested_cut, model, graph, remove, thin, options.compensate)
    record = None if short is None else short.repair
    if pictures is not None and options.repair:
        if short is None or plan.layers:  # else it was repaired as its blocks went
            kept, teacher = kept_units(graph, remove), decision.teacher
            how = (graph, kept, pictures, options.device)
            done = stages.run("repair", repair_on, teacher, thin, *how)
            thin, record = done.model, done.record
        if record is not None:
            warnings += repair_warnings(record, pictures)
    return Made(
        model=thin,
        graph=graph,
        choice=choice,
        plan=plan,
        test=test,
        repair=record,
        free=alive is None and (short is None or short.free),
        arbitrary=choice.compares and are_alike(choice.scores, graph),
        warnings=warnings,
        latency=decision.latency,
        shorter=short,
    )


def _measured(
    dense: nn.Module,
    thin: nn.Module,
    source: Source | None,
    files: tuple[Path, ...],
    size: Shape,
    options: SlimOptions,
    stages: Stopwatch,
    sights: Sights,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Records of both sides, bytes of tensors where there are no files; ``sights`` learns."""
    origin: tuple[Path, ...] = ()
    if files and source is not None:
        origin = (source.model, source.weights) if source.weights else (source.model,)
    models = {"before": dense, "after": thin}
    how = {"batch": options.batch, "device": options.device, "repeats": options.repeats}
    paths = {"before": origin, "after": files}
    records = stages.run("measure", cost, models, paths, size, **how)
    if options.data:
        assert not isinstance(size, torch.Size)
        for name, model in models.items():
            where = {"split": options.split, "device": options.device, "seen": sights.add}
            records[name] |= stages.run("val", quality, model, options.data, size, **where)
    return records["before"], records["after"]
