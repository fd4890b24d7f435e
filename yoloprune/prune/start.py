"""Where a search begins: shares by what every part, pruned alone, loses and costs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import numpy as np

from yoloprune.prune.apart import Seen
from yoloprune.prune.knapsack import knapsack
from yoloprune.prune.score import Scores
from yoloprune.prune.selftest import silenced
from yoloprune.prune.sensitivity import Measurement, Part, Sensitivity, alone, by_curves, parts
from yoloprune.prune.trials import Candidate, Trials

Way = Literal["repaired", "silenced", "none"]
"""How a part is looked at: cut and repaired, or its channels silenced only, which is quicker."""
SHARE = 0.5
"""Of each part that goes."""
_OF_TIME = 0.6
"""Share of a search's time that measuring may take."""


def way_for(trials: Trials, scores: Scores, judge: Seen, seconds: float) -> Way:
    """The better way to look at every part for which there is time."""
    every = parts(trials.graph)
    if not every:
        return "none"
    ways: tuple[Way, ...] = ("repaired", "silenced")
    for way in ways:
        begin = time.perf_counter()
        lost(trials, scores, judge, every[len(every) // 2], way)
        if (time.perf_counter() - begin) * len(every) < _OF_TIME * seconds:
            return way
    return "none"


def lost(trials: Trials, scores: Scores, judge: Seen, part: Part, way: str) -> float | None:
    """How far the network is from the full one with one part pruned; None where none can be."""
    remove = alone(trials.planner, part, scores, SHARE)
    if not remove.size:
        return None
    if way == "silenced":
        return judge.apart(silenced(trials.full, trials.graph, remove).eval())
    return judge.apart(trials.repaired(Candidate(scores, trials.budget, remove)))


def measured_start(
    trials: Trials,
    scores: Scores,
    judge: Seen,
    way: Way,
    known: dict[str, float],
    told: Callable[[str, float], None],
) -> Scores:
    """Scores by which parts lose least for what they cost, as places in (0, 1).

    Args:
        trials: of the network.
        scores: each unit's place in its group.
        judge: what the full network sees.
        way: how to look.
        known: part → what it loses, of those that were measured before.
        told: called with each further one.
    """
    rows = []
    for part in parts(trials.graph):
        found = known.get(part.name)
        if found is None:
            found = lost(trials, scores, judge, part, way)
            if found is None:
                continue
            told(part.name, found)
        share = float(np.isin(part.units, alone(trials.planner, part, scores, SHARE)).mean())
        one = {"part": part.name, "share": SHARE, "removed": share, "macs": 0.0, "seconds": 0.0}
        rows.append(Measurement(**one, before=found, after=None))  # type: ignore[arg-type]
    curves = Sensitivity(
        model="", identity="", by="sight", full=0.0, criterion=scores.criterion,
        measured=tuple(rows),
    )  # fmt: skip
    made = knapsack(trials.planner, by_curves(scores, trials.graph, curves), trials.limit).values
    units = np.flatnonzero(~np.isnan(made))
    order = units[np.lexsort((scores.values[units], made[units]))]
    values = np.full_like(made, np.nan)
    values[order] = (np.arange(order.size) + 0.5) / max(order.size, 1)
    return replace(scores, values=values)
