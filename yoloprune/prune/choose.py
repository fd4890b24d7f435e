"""By what channels are chosen where the user leaves it open, and over what they are compared."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, cast, get_args

import numpy as np

from yoloprune.channels.graph import ChannelGraph
from yoloprune.errors import PlanError
from yoloprune.prune.alive import sparsity_warning
from yoloprune.prune.budget import Budget
from yoloprune.prune.own import find_criterion, score_by
from yoloprune.prune.planner import Planner
from yoloprune.prune.score import CRITERIA, Reduce, Scores, score

if TYPE_CHECKING:
    from torch import Tensor, nn

    from yoloprune.prune.search import SearchRecord

Scope = Literal["global", "local"]
"""Whether one threshold holds for the whole network, or every group loses the same share."""
RECON = "recon"
"""The criterion that looks at pictures."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What channels are chosen by.

    Attributes:
        scores: of every unit.
        scope: over what they are compared.
        why: in words, why these.
        compares: whether a score says how much its unit matters, and not only its rank.
        budget: what a planner is to be asked for.
        search: how shares were searched for, if they were.
    """

    scores: Scores
    scope: Scope
    why: str
    compares: bool
    budget: Budget
    search: SearchRecord | None = None


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
    if search and (scope == "global" or (scope is None and criterion not in (None, RECON))):
        raise PlanError(
            "--search: looks for shares of stages, and one threshold for the whole network has "
            "none. Add --scope local."
        )
    if criterion == RECON:
        if not pictures:
            raise PlanError("--criterion recon: looks at pictures. Name some with --calib.")
        if scope == "global":
            raise PlanError(
                "--scope global: recon compares channels within their groups only, expected local."
            )
    elif criterion is not None and criterion not in CRITERIA:
        find_criterion(criterion)


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
        criterion: a name in the criteria table, ``recon``, or None.
        scope: ``global``, ``local``, or None for the criterion's own.
        reduce: how a unit's channels become one score.
        pictures: ``[N, C, H, W]``, for ``recon``.
        device: where ``recon`` runs the model.

    Returns:
        The scores, and why it was these.

    Raises:
        PlanError: the criterion is unknown, or has nothing to go by.
    """
    check_criterion(criterion, scope, pictures=pictures is not None)
    why = "as asked"
    if criterion is None:
        if scope != "local" and _is_sparse(model, planner or Planner(graph), budget, reduce):
            criterion, why = "gamma", "the scales were trained sparse"
        elif pictures is not None and scope != "global":
            criterion, why = RECON, "the scales were not trained sparse, and there are pictures"
        else:
            criterion, scope = "l2", scope or "local"
            why = "the scales were not trained sparse, and there are no pictures"
    if criterion == RECON:
        from yoloprune.prune.recon import removal_order

        assert pictures is not None
        scores = removal_order(model, graph, pictures, device=device)
        return Choice(scores=scores, scope="local", why=why, compares=False, budget=budget)
    scores = score_by(model, graph, criterion, reduce)
    if scope == "local":
        scores = within_groups(scores, graph)
    return Choice(
        scores=scores,
        scope=scope or "global",
        why=why,
        compares=scope != "local",
        budget=budget,
    )


def within_groups(scores: Scores, graph: ChannelGraph) -> Scores:
    """Scores that take the same share of every group of interchangeable units.

    Returns:
        For each unit the share of its group that goes before it, in (0, 1); NaN where there was
        no score.
    """
    values = np.full_like(scores.values, np.nan)
    for group in graph.groups:
        units = group.units[~np.isnan(scores.values[group.units])]
        order = np.argsort(scores.values[units], kind="stable")
        values[units[order]] = (np.arange(units.size) + 0.5) / max(units.size, 1)
    return replace(scores, values=values)


def _is_sparse(model: nn.Module, planner: Planner, budget: Budget, reduce: Reduce) -> bool:
    """Whether a cut by |gamma| would take switched-off channels alone."""
    try:
        scores = score(model, planner.graph, criterion="gamma", reduce=reduce)
    except PlanError:  # a network without scales
        return False
    remove = planner.choose(scores, budget)
    return bool(remove.size) and sparsity_warning(scores, planner.graph, remove) is None
