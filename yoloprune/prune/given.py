"""A plan that is read from a file instead of made: checked, and counted anew."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from yoloprune.channels.graph import ChannelGraph, IntArray
from yoloprune.measure.pictures import Pictures
from yoloprune.prune.budget import Budget
from yoloprune.prune.choose import Choice
from yoloprune.prune.clock import Clock
from yoloprune.prune.contradictions import check_layers
from yoloprune.prune.plan import VERSION, Origin, PrunePlan, Reached
from yoloprune.prune.score import Scores
from yoloprune.prune.shorter import Shorter
from yoloprune.prune.timing import LatencyRecord

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What is to be cut, and how that came about.

    Attributes:
        model: full size, its grouped routes split where that was asked for, and without the whole
            blocks that go.
        graph: its channels.
        size: height and width of its input in pixels, or its whole shape.
        pictures: to calibrate on, if there are any.
        choice: what the plan was made from.
        plan: which channels go.
        clock: what plans take, where time is limited.
        latency: how a limit to it was met.
        shorter: the blocks that went, if any did.
    """

    model: nn.Module
    graph: ChannelGraph
    size: tuple[int, int] | torch.Size
    pictures: Pictures | None
    choice: Choice
    plan: PrunePlan
    clock: Clock | None = None
    latency: LatencyRecord | None = None
    shorter: Shorter | None = None

    @property
    def teacher(self) -> nn.Module:
        """What the cut is repaired against: the full network by the names of ``model``."""
        return self.model if self.shorter is None else self.shorter.teacher

    @property
    def budget(self) -> Budget:
        """The plan's, for ``model``: where blocks went, shares are amounts."""
        budget = self.plan.budget
        return budget if self.shorter is None else self.shorter.amounts(budget)

    def warnings(self, alive: str | None, *, repair: bool) -> list[str]:
        """What a reader should know before the cut.

        Args:
            alive: that channels go which are switched on, if so.
            repair: whether pictures are to mend that.
        """
        mends = repair and self.pictures is not None
        short = [] if self.shorter is None else list(self.shorter.notes())
        alive_ = [alive] if alive and not mends else []
        return [*short, *self.choice.notes, *alive_, *self.plan.notes]


def plan_of(given: Path | PrunePlan) -> PrunePlan:
    """A plan, read where a file is given.

    Raises:
        PlanError: it is no plan.
    """
    return PrunePlan.read(given) if isinstance(given, Path) else given


def called(given: Path | PrunePlan, *, path: bool = False) -> str:
    """What a plan is called: by the name of its file, or by the whole ``path``."""
    if isinstance(given, PrunePlan):
        return "the plan"
    return str(given) if path else given.name


def given_plan(given: Path | PrunePlan, graph: ChannelGraph, source: Origin) -> PrunePlan:
    """Fit a plan to a network.

    Its rows are taken as they are; what it reaches is counted anew.

    Args:
        given: the plan, or its file.
        graph: the channels of the network.
        source: the network's file.

    Returns:
        The plan for this file. Its notes say where it differs from what it was made for.

    Raises:
        PlanError: it is no plan, or contradicts the network or itself.
    """
    plan, name = plan_of(given), called(given)
    remove = check_layers(graph, plan.layers, called(given, path=True))
    reached = _reached(graph, remove)
    edited = (plan.reached.channels, plan.reached.units) != (reached.channels, reached.units)
    notes = [] if edited else list(plan.notes)
    if edited:
        notes.append(
            f"{name}: was edited: it takes {reached.channels} channels, and "
            f"{plan.reached.channels} when it was made."
        )
    asked = plan.budget.blocks
    if asked != len(plan.blocks):
        notes.append(
            f"{name}: was edited: it takes {len(plan.blocks)} blocks out, and {asked} when it "
            "was made."
        )
    notes += _elsewhere(plan, source, name)
    notes += _floors(graph, plan, name)
    reached = reached if edited else replace(reached, threshold=plan.reached.threshold)
    return replace(plan, source=source, reached=reached, notes=tuple(notes), version=VERSION)


def choice_of(plan: PrunePlan, graph: ChannelGraph, given: Path | PrunePlan) -> Choice:
    """What stands where channels are chosen, for a plan that says so itself: no scores."""
    values = np.full(graph.n_units, np.nan)
    missing = "no score, for the plan was given"
    return Choice(
        scores=Scores(values=values, criterion=plan.criterion, missing=missing),
        scope=None,
        why=f"as {called(given)} says",
        compares=False,
        budget=plan.budget,
    )


def no_channels(
    graph: ChannelGraph, asked: Budget, origin: Origin, blocks: tuple[str, ...]
) -> tuple[Choice, PrunePlan]:
    """The choice and the plan of a cut in which whole blocks alone go.

    Args:
        graph: channels of the network without them.
        asked: that blocks alone met.
        origin: the model file.
        blocks: their names.
    """
    why = f"blocks alone {'met the budget' if asked.takes_channels else 'were asked for'}"
    values = np.full(graph.n_units, np.nan)
    scores = Scores(values=values, criterion="none", missing=f"no score, for {why}")
    choice = Choice(scores=scores, scope=None, why=why, compares=False, budget=asked)
    reached = _reached(graph, np.zeros(0, dtype=np.int64))
    plan = PrunePlan(
        criterion="none", budget=asked, reached=reached, layers={}, source=origin, blocks=blocks
    )
    return choice, plan


def _reached(graph: ChannelGraph, remove: IntArray) -> Reached:
    channels = graph.channels
    total, gone = int(channels[graph.prunable].sum()), int(channels[remove].sum())
    return Reached(
        percent=gone / max(total, 1),
        channels=gone,
        prunable_channels=total,
        units=int(remove.size),
        threshold=0.0,
    )


def _elsewhere(plan: PrunePlan, source: Origin, name: str) -> Iterator[str]:
    """Say so where the plan was made for another file."""
    made_for = plan.source
    if made_for is not None and made_for.sha256 and made_for.sha256 != source.sha256:
        same = "whose contents were others" if made_for.path == source.path else "another file"
        yield (
            f"{name}: was made for {made_for.path} ({same}), and is applied to {source.path}: the "
            "same channels go, whether or not they matter as little there."
        )


def _floors(graph: ChannelGraph, plan: PrunePlan, name: str) -> Iterator[str]:
    """Say so where rows do not keep to the plan's own budget."""
    budget = plan.budget
    thin: dict[str, list[str]] = {"few": [], "share": [], "odd": []}
    for axis in graph.out_axes:
        size, lost = axis.units.size, len(plan.layers.get(axis.module, ()))
        if not lost:
            continue
        kept = size - lost
        if kept < min(budget.min_channels, size):
            thin["few"].append(axis.module)
        if lost > size * budget.max_layer_prune + 1e-9:
            thin["share"].append(axis.module)
        if kept % budget.round_to:
            thin["odd"].append(axis.module)
    words = {
        "few": f"fewer than {budget.min_channels} channels are kept",
        "share": f"more than {budget.max_layer_prune:g} of the channels go",
        "odd": f"the kept channels are no multiple of {budget.round_to}",
    }
    for key, paths in thin.items():
        if paths:
            more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
            yield f"{name}: {words[key]} in {paths[0]}{more}, against the plan's own budget."
