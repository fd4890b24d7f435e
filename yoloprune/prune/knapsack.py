"""Shares by a knapsack: what every part of a network loses against what its width costs.

One threshold for all parts is right where what is lost does not depend on what it brings. Under a
limit to latency it does: some parts bring much time for little, others next to none. So every part
gets one of a ladder of widths, such that the sum of (losses)² is least and every limit holds: a
multiple-choice knapsack. Costs depend on the widths of neighbours; they are taken as they are at
the present widths, the knapsack is solved, and again at the widths that it gave.

Squares, not sums: what two parts lose together is more than what each loses alone, so an even
spread of losses is better than its sum tells. AP of YOLOv5nu fine-tuned on BCCD, repaired, without
training, at .50 / .25 / .11 of the multiply-adds: one threshold .596 / .531 / .358, sums .594 /
.530 / .360, squares .597 / .555 / .391, cubes .591 / .545 / .378; at half of its latency in ONNX
Runtime one threshold .539, squares .549, fourth powers .544.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from yoloprune.channels.graph import BoolArray, IntArray
from yoloprune.prune.budget import Budget
from yoloprune.prune.bundles import mask
from yoloprune.prune.clock import FloatArray
from yoloprune.prune.planner import Planner
from yoloprune.prune.score import Scores
from yoloprune.prune.sensitivity import Part, parts

_RUNGS = 16
"""Shares of a part that are tried."""
_TIMES = 8
_POWER = 2.0
_SECONDS = 5.0
"""The most that one solution may take."""


@dataclass(frozen=True, slots=True)
class _Width:
    """One width of a part.

    Attributes:
        remove: units that go.
        loss: what the last of them is worth, by the scores.
    """

    remove: IntArray
    loss: float


def knapsack(planner: Planner, scores: Scores, budget: Budget) -> Scores:
    """Scores by which a threshold at the budget's limits takes what the knapsack chose.

    Args:
        planner: of the graph, with costs.
        scores: what is lost when a part goes as far as a unit: as of
            :func:`~yoloprune.prune.sensitivity.by_curves`, or places in (0, 1).
        budget: with limits.

    Returns:
        Places in (0, 1): first what goes, in the order of the scores, then the rest.
    """
    assert planner.costs is not None
    ladders = [_ladder(planner, part.units, scores, budget) for part in _parts(planner, scores)]
    begun = ~mask(planner.choose(scores, budget), planner.graph.n_units)
    chosen = [_nearest(ladder, begun) for ladder in ladders]
    best, least = None, np.inf
    slack = dict.fromkeys(budget.limits, 0.0)
    for _ in range(_TIMES):
        found = _solved(planner, ladders, chosen, budget, slack)
        if found is None:
            break
        over = _over(planner, _kept(planner, ladders, found), budget)
        loss = sum(ladder[i].loss ** _POWER for ladder, i in zip(ladders, found, strict=True))
        if all(gap <= 0 for gap in over.values()) and loss < least:
            best, least = found, loss
        if found == chosen and best is not None:
            break
        slack = {name: slack[name] + max(0.0, gap) for name, gap in over.items()}
        chosen = found
    if best is None:  # floors hold what is asked for out of reach, or steps are too coarse
        return scores
    return _as_scores(scores, _kept(planner, ladders, best))


def _parts(planner: Planner, scores: Scores) -> list[Part]:
    scored = ~np.isnan(scores.values)
    return [part for part in parts(planner.graph) if scored[part.units].any()]


def _ladder(planner: Planner, units: IntArray, scores: Scores, budget: Budget) -> list[_Width]:
    """Widths of a part, the full one first."""
    found = {0: _Width(np.zeros(0, dtype=np.int64), 0.0)}
    values = np.full_like(scores.values, np.nan)
    values[units] = scores.values[units]
    own = replace(scores, values=values)
    for share in np.arange(1, _RUNGS) / _RUNGS:
        alone = replace(
            budget, percent=float(share), macs=None, params=None, bytes=None, latency=None
        )
        remove = planner.choose(own, alone)
        if remove.size:
            found[remove.size] = _Width(remove, float(np.nanmax(scores.values[remove])))
    return [found[size] for size in sorted(found)]


def _nearest(ladder: list[_Width], kept: BoolArray) -> int:
    gone = [int((~kept[width.remove]).sum()) - int(kept[width.remove].sum()) for width in ladder]
    return int(np.argmax(gone))


def _kept(planner: Planner, ladders: list[list[_Width]], chosen: list[int]) -> BoolArray:
    kept = np.ones(planner.graph.n_units, dtype=bool)
    for ladder, i in zip(ladders, chosen, strict=True):
        kept[ladder[i].remove] = False
    return kept


def _over(planner: Planner, kept: BoolArray, budget: Budget) -> dict[str, float]:
    """How far each limit is exceeded, below 0 where it holds."""
    assert planner.costs is not None
    limits = planner.costs.limits(budget)
    return {name: n - limits[name] for name, n in planner.costs.limited(kept, budget).items()}


def _solved(
    planner: Planner,
    ladders: list[list[_Width]],
    chosen: list[int],
    budget: Budget,
    slack: dict[str, float],
) -> list[int] | None:
    """The least losses where every part costs what it does beside the others as they are."""
    from scipy.optimize import (  # type: ignore[import-untyped,unused-ignore]
        Bounds,
        LinearConstraint,
        milp,
    )

    names = list(budget.limits)
    room = _over(planner, _kept(planner, ladders, chosen), budget)
    sizes = [len(ladder) for ladder in ladders]
    costs = np.concatenate([_costs(planner, ladders, chosen, j, budget) for j in range(len(sizes))])
    losses = np.array([width.loss for ladder in ladders for width in ladder]) ** _POWER
    one_each = np.repeat(np.eye(len(sizes)), sizes, axis=1)
    scale = np.maximum(np.abs(costs).max(0), 1e-12)
    most = np.array([-room[name] - slack[name] for name in names]) / scale
    found = milp(
        losses / max(float(losses.max()), 1e-30),
        constraints=[
            LinearConstraint(one_each, 1, 1),
            LinearConstraint((costs / scale).T, -np.inf, most),
        ],
        integrality=np.ones(losses.size),
        bounds=Bounds(0, 1),
        options={"mip_rel_gap": 1e-3, "time_limit": _SECONDS},
    )
    if found.x is None:
        return None
    ends = np.cumsum(sizes)
    return [int(np.argmax(found.x[end - n : end])) for end, n in zip(ends, sizes, strict=True)]


def _costs(
    planner: Planner, ladders: list[list[_Width]], chosen: list[int], part: int, budget: Budget
) -> FloatArray:
    """What each width of a part costs beyond its present one: float64 ``[widths, limits]``."""
    assert planner.costs is not None
    kept = _kept(planner, ladders, chosen)
    now = np.array(list(planner.costs.limited(kept, budget).values()), dtype=np.float64)
    kept[ladders[part][chosen[part]].remove] = True
    rows = []
    for width in ladders[part]:
        there = kept.copy()
        there[width.remove] = False
        rows.append(list(planner.costs.limited(there, budget).values()))
    return np.array(rows, dtype=np.float64) - now


def _as_scores(scores: Scores, kept: BoolArray) -> Scores:
    units = np.flatnonzero(~np.isnan(scores.values))
    order = units[np.lexsort((scores.values[units], kept[units]))]
    values = np.full_like(scores.values, np.nan)
    values[order] = (np.arange(order.size) + 0.5) / max(order.size, 1)
    return replace(scores, values=values)
