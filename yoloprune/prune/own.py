"""Criteria of the user's own: ``module:function``, or an entry point of an installed package.

A function takes a copy of the traced model, its :class:`~yoloprune.channels.graph.ChannelGraph`
and how tied channels become one score (``mean``, ``max``, ``sum``, ``norm``), and gives float64
``[n_units]``: the lowest go first, NaN never goes. Packages name theirs in the group
``yoloprune.criteria``.

Importing a module runs it: this is for names that the user typed, never for those of a file.
"""

from __future__ import annotations

import importlib
import sys
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

import numpy as np

from yoloprune.channels.copying import copy_modules
from yoloprune.channels.graph import ChannelGraph
from yoloprune.errors import PlanError, typed_line
from yoloprune.prune import sighted  # noqa: F401  # fills the table
from yoloprune.prune.score import CRITERIA, Criterion, Reduce, Scores, score

if TYPE_CHECKING:
    from torch import nn

    from yoloprune.prune.evidence import Evidence

GROUP = "yoloprune.criteria"
"""Of entry points."""


def known_criteria() -> tuple[str, ...]:
    """Names of the table and of entry points; nothing is imported for it."""
    return (*CRITERIA, *sorted(set(entry_points(group=GROUP).names) - set(CRITERIA)))


def find_criterion(name: str) -> Criterion:
    """The criterion that a name stands for.

    Args:
        name: of the table; ``module:function``, the module in the current folder or installed; or
            an entry point.

    Raises:
        PlanError: there is none of that name, or it cannot be imported.
    """
    if name in CRITERIA:
        return CRITERIA[name]
    try:
        if ":" not in name:
            found = entry_points(group=GROUP)
            if name not in found.names:
                raise PlanError(
                    f"--criterion: unknown, got {name!r}, expected {', '.join(known_criteria())}, "
                    "or one of your own as module:function."
                )
            made = found[name].load()
        else:
            made = imported(name)
    except PlanError:
        raise
    except Exception as exc:  # foreign code
        raise PlanError(f"--criterion {name}: cannot be imported: {typed_line(exc)}") from exc
    if not callable(made):
        raise PlanError(f"--criterion {name}: is no function, got {type(made).__name__}.")
    return Criterion(function=made, missing=f"no score by {name}")


def imported(name: str) -> Any:
    """What the user's ``module:name`` is; the module in the current folder or installed.

    Raises:
        Exception: whatever importing it raises.
    """
    module, _, attribute = name.partition(":")
    sys.path.insert(0, "")  # the current folder, as with `python -m`
    try:
        return getattr(importlib.import_module(module), attribute)
    finally:
        sys.path.remove("")


def score_by(
    model: nn.Module,
    graph: ChannelGraph,
    name: str,
    reduce: Reduce = "mean",
    evidence: Evidence | None = None,
) -> Scores:
    """Score by a criterion of the table, or by one of the user's own, whose result is checked.

    Args:
        model: the traced model. Not modified, whatever the user's function does.
        graph: its channels.
        name: what :func:`find_criterion` takes.
        reduce: how a unit's channels become one score.
        evidence: what criteria of the table look at beside weights.

    Raises:
        PlanError: there is none of that name, it fails, or it gives something else.
    """
    if name in CRITERIA:
        return score(model, graph, criterion=name, reduce=reduce, evidence=evidence)
    own = find_criterion(name)
    try:
        found: Any = own.function(copy_modules(model, {}), graph, reduce)
        found = found.detach().cpu().numpy() if hasattr(found, "detach") else found
        values = np.array(found, dtype=np.float64)
    except Exception as exc:  # foreign code
        raise PlanError(f"--criterion {name}: failed: {typed_line(exc)}") from exc
    if values.shape != (graph.n_units,):
        raise PlanError(
            f"--criterion {name}: gave shape {values.shape}, expected ({graph.n_units},): one "
            "number a unit."
        )
    if np.isinf(values).any() or np.isnan(values[graph.prunable]).all():
        raise PlanError(
            f"--criterion {name}: gave {int(np.isfinite(values).sum())} finite numbers for "
            f"{graph.n_units} units, expected none infinite, and NaN only for units that must stay."
        )
    return Scores(values=values, criterion=name, reduce=reduce, missing=own.missing)
