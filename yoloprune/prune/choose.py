"""By what channels are chosen where the user leaves it open, and over what they are compared."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, cast, get_args

import numpy as np

from yoloprune.channels.graph import ChannelGraph, IntArray
from yoloprune.errors import PlanError
from yoloprune.prune.alive import sparsity_warning
from yoloprune.prune.budget import Budget
from yoloprune.prune.own import find_criterion, score_by
from yoloprune.prune.planner import Planner
from yoloprune.prune.score import Reduce, Scores, score
from yoloprune.prune.sighted import RECON

if TYPE_CHECKING:
    from torch import Tensor, nn

    from yoloprune.prune.evidence import Evidence, Lessons
    from yoloprune.prune.search import SearchRecord

Scope = Literal["global", "local", "isomorphic"]
"""Whether one threshold holds for the whole network, or the same share goes of every group, or of
every class of groups that have one structure."""

_ALIVE = (
    "not sparse: live channels go, and nothing is repaired. Expect to lose accuracy until it is "
    "trained; give pictures with --calib, or let `yoloprune train --percent` make the cut free."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What channels are chosen by.

    Attributes:
        scores: of every unit.
        scope: over what they are compared; None where a plan was given, and nothing is.
        why: in words, why these.
        compares: whether a score says how much its unit matters, and not only its rank.
        budget: what a planner is to be asked for.
        curves: whether a score says what its part loses when it goes as far, so that under a limit
            shares are set by what parts lose against what they cost.
        search: how shares were searched for, if they were.
        notes: what a reader should know, a sentence each.
    """

    scores: Scores
    scope: Scope | None
    why: str
    compares: bool
    budget: Budget
    curves: bool = False
    search: SearchRecord | None = None
    notes: tuple[str, ...] = ()


def parse_scope(text: str | None) -> Scope | None:
    """The scope that a text names; None where it is left open.

    Raises:
        PlanError: it names none.
    """
    if text is not None and text not in get_args(Scope):
        raise PlanError(f"--scope: unknown, got {text!r}, expected {', '.join(get_args(Scope))}.")
    return cast("Scope | None", text)


def check_criterion(
    criterion: str | None, scope: Scope | None, *, pictures: bool, search: bool = False
) -> None:
    """Refuse what cannot be, before any work.

    Raises:
        PlanError: the criterion is unknown, or it or a search lacks what it looks at.
    """
    if search and not pictures:
        raise PlanError("--search: looks at pictures. Name some with --calib.")
    entry = None if criterion is None else find_criterion(criterion)
    ranks = entry is None or entry.ranks
    if search and (scope not in (None, "local") or (scope is None and not ranks)):
        raise PlanError(
            f"--search: looks for shares of stages, --scope {scope or 'global'} sets them itself. "
            "Add --scope local."
        )
    if entry is None:
        return
    if entry.looks != "weights" and not pictures:
        raise PlanError(f"--criterion {criterion}: looks at pictures. Name some with --calib.")
    if entry.ranks and scope not in (None, "local"):
        raise PlanError(
            f"--scope {scope}: {criterion} compares channels within their groups only, expected "
            "local."
        )


def choose_scores(
    model: nn.Module,
    graph: ChannelGraph,
    budget: Budget,
    *,
    planner: Planner | None = None,
    criterion: str | None = None,
    scope: Scope | None = None,
    reduce: Reduce = "mean",
    pictures: Tensor | None = None,
    lessons: Lessons | None = None,
    device: str | None = None,
) -> Choice:
    """Score units by what is asked for, else by what suits the network.

    Where the criterion is left open: |gamma| over the whole network where its scales were trained
    sparse, that is where the cut by them would take switched-off channels alone; else measured
    error (``recon``) where there are pictures; else the L2 norm of weights within each group, for
    on a network that was not trained sparse one threshold on |gamma| empties whole layers.

    Args:
        model: the traced model.
        graph: its channels.
        budget: how much is to go.
        planner: of the graph, which knows costs where the budget limits any.
        criterion: what :func:`~yoloprune.prune.own.find_criterion` takes, or None.
        scope: ``global``, ``local``, ``isomorphic``, or None for the criterion's own.
        reduce: how a unit's channels become one score.
        pictures: ``[N, C, H, W]``, for criteria that look at them.
        lessons: labelled pictures, for criteria by the loss; None lets what the network itself
            sees in ``pictures`` stand for labels.
        device: where they run the model.

    Returns:
        The scores, and why it was these.

    Raises:
        PlanError: the criterion is unknown, or has nothing to go by.
    """
    check_criterion(criterion, scope, pictures=pictures is not None)
    why = "as asked"
    if criterion is None:
        if scope != "local" and is_sparse(model, planner or Planner(graph), budget, reduce):
            criterion, why = "gamma", "the scales were trained sparse"
        elif pictures is not None and scope != "global":
            criterion, why = RECON, "the scales were not trained sparse, and there are pictures"
        else:
            criterion, scope = "l2", scope or "local"
            why = "the scales were not trained sparse, and there are no pictures"
    evidence = _evidence(model, criterion, pictures, lessons, device)
    scores = score_by(model, graph, criterion, reduce, evidence)
    entry, notes = find_criterion(criterion), tuple[str, ...]()
    if evidence is not None and evidence.lessons is not None:
        why = f"{why}, by {evidence.lessons.told}"
        notes = (f"--criterion {criterion}: {why}",) if evidence.lessons.own else ()
    if entry.ranks:
        scope = "local"
        scores = replace(scores, reduce=_of_places(reduce))
    elif scope == "local":
        scores = within_groups(scores, graph)
    elif scope == "isomorphic":
        from yoloprune.prune.isomorphic import isomorphic_classes

        scores = within(scores, isomorphic_classes(model, graph))
    return Choice(
        scores=scores,
        scope=scope or "global",
        why=why,
        compares=entry.sizes and scope in (None, "global"),
        budget=budget,
        notes=notes,
    )


def _evidence(
    model: nn.Module,
    criterion: str,
    pictures: Tensor | None,
    lessons: Lessons | None,
    device: str | None,
) -> Evidence | None:
    """What a criterion asks for beside weights."""
    looks = find_criterion(criterion).looks
    if looks == "weights" or pictures is None:
        return None
    from yoloprune.prune.evidence import Evidence, check_teachable, self_taught

    if looks == "loss":
        check_teachable(model, criterion)
        lessons = lessons or self_taught(model, pictures, device)
    return Evidence(images=pictures, lessons=lessons, device=device)


def within_groups(scores: Scores, graph: ChannelGraph) -> Scores:
    """Scores that take the same share of every group of interchangeable units.

    Returns:
        For each unit the share of its group that goes before it, in (0, 1); NaN where there was
        no score.
    """
    return within(scores, (group.units for group in graph.groups))


def within(scores: Scores, sets: Iterable[IntArray]) -> Scores:
    """Scores that take the same share of every set of units.

    Args:
        scores: by which units are ranked within each set.
        sets: int64 each, without a unit in common.

    Returns:
        For each unit the share of its set that goes before it, in (0, 1); NaN where there was no
        score, or no set.
    """
    values = np.full_like(scores.values, np.nan)
    for members in sets:
        units = members[~np.isnan(scores.values[members])]
        order = np.argsort(scores.values[units], kind="stable")
        values[units[order]] = (np.arange(units.size) + 0.5) / max(units.size, 1)
    return replace(scores, values=values, reduce=_of_places(scores.reduce))


def _of_places(reduce: Reduce) -> Reduce:
    """How places of balanced units become one place: a sum of them would be none."""
    return "max" if reduce == "max" else "mean"


def alive_warning(
    model: nn.Module, graph: ChannelGraph, choice: Choice, remove: IntArray
) -> str | None:
    """Say so when a plan removes channels that are still switched on.

    Where scores are no sizes, the scales tell, if there are any.

    Args:
        model: the traced model.
        graph: its channels.
        choice: what the plan was made from.
        remove: int64, the units that go.

    Returns:
        One plain line, or None where only switched-off channels go.
    """
    if choice.compares:
        return sparsity_warning(choice.scores, graph, remove)
    try:
        scales = score(model, graph, criterion="gamma")
    except PlanError:  # a network without scales
        return _ALIVE
    return None if sparsity_warning(scales, graph, remove) is None else _ALIVE


def is_sparse(model: nn.Module, planner: Planner, budget: Budget, reduce: Reduce) -> bool:
    """Whether a cut by |gamma| would take switched-off channels alone."""
    try:
        scores = score(model, planner.graph, criterion="gamma", reduce=reduce)
    except PlanError:  # a network without scales
        return False
    remove = planner.choose(scores, budget)
    return bool(remove.size) and sparsity_warning(scores, planner.graph, remove) is None
