"""Whether scores tell switched-off channels from live ones."""

from __future__ import annotations

import numpy as np

from yoloprune.channels.graph import ChannelGraph, IntArray
from yoloprune.measure.quantiles import quantiles
from yoloprune.prune.score import Scores

ALIKE = 1.5
"""Scores within such a factor of each other tell no channel from another."""
NEAR_ZERO = 0.05
"""A score under this share of the kept units' median counts as switched off. A channel's part
in the next layer's input goes with gamma: at a twentieth it carries 0.25 % of the power of a
typical channel. Exact zeros of a proximal step pass whatever the scale, and so do the small
remains that a sub-gradient leaves."""

SPARSE_SHARE = 0.9
"""Share of the channels to be removed that must be switched off, else there is a warning."""


def sparsity_warning(scores: Scores, graph: ChannelGraph, remove: IntArray) -> str | None:
    """Say so when a plan removes channels that are still switched on.

    The rule: of the channels that the plan removes, at least :data:`SPARSE_SHARE` must score
    below :data:`NEAR_ZERO` × the median of the prunable channels that it keeps. It compares
    what really goes with what really stays, so it also catches a plan whose floors hold zeros
    back and take live channels in their place.

    Args:
        scores: what the plan was made from.
        graph: the channels of the model.
        remove: int64, the units that go.

    Returns:
        One plain line with the score's quantiles, or ``None`` where the model is sparse enough
        or nothing is removed.
    """
    goes = np.zeros(graph.n_units, dtype=bool)
    goes[remove] = True
    free = graph.prunable & np.isfinite(scores.values)
    weight = graph.channels
    n_removed = int(weight[goes].sum())
    stays = free & ~goes
    if n_removed == 0 or not stays.any():
        return None
    limit = NEAR_ZERO * float(np.median(scores.values[stays]))
    # <=, so that zeros count where the kept ones are all zero too.
    off = int(weight[goes & (scores.values <= limit)].sum())
    if off >= SPARSE_SHARE * n_removed:
        return None
    spread = ", ".join(f"{k} {v:.3g}" for k, v in quantiles(scores.values[free]).items())
    name = "|gamma|" if scores.criterion == "gamma" else scores.criterion
    return (
        f"not sparse: only {off} of the {n_removed} channels to be removed are near zero "
        f"({name} up to {limit:.2g}; quantiles {spread}). Expect to lose accuracy until it is "
        f"fine-tuned; `yoloprune train --percent` first makes the cut free."
    )


def are_alike(scores: Scores, graph: ChannelGraph) -> bool:
    """Whether scores hardly differ, so that a choice by them is arbitrary.

    The rule: four fifths of the prunable units score within a factor of :data:`ALIKE`.
    """
    found = scores.values[graph.prunable & np.isfinite(scores.values)]
    low, high = np.quantile(found, (0.1, 0.9)) if found.size else (1.0, 1.0)
    return bool(0 < high < ALIKE * low)
