"""How a cut was decided, as parts of a page: budget, search, trials, scores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from yoloprune.channels.graph import ChannelGraph
from yoloprune.prune.plan import PrunePlan
from yoloprune.prune.score import Scores
from yoloprune.report.charts import Counts, Layer, histogram
from yoloprune.report.figures import share
from yoloprune.report.page import Part
from yoloprune.report.scatter import Axes, Point, scatter

if TYPE_CHECKING:
    from markupsafe import Markup


def budget_part(layers: list[Layer], result: Mapping[str, Any], plan: PrunePlan) -> Part:
    """What was asked for and what was reached, and by which rules."""
    budget = plan.budget
    rules = [
        ("criterion", _criterion(result, plan)),
        ("channels kept in each layer, at least", str(budget.min_channels)),
        ("share of a layer that may go, at most", share(budget.max_layer_prune)),
        ("kept counts are multiples of", str(budget.round_to)),
        *([("whole blocks out", ", ".join(plan.blocks))] if plan.blocks else []),
    ]
    data = {
        "reached": plan.reached,
        "asked": budget.asked,
        "percent": budget.percent,
        "rules": rules,
        "changed": sum(layer.after < layer.before for layer in layers),
        "layers": len(layers),
    }
    return Part(name="budget", title="Asked and reached", data=data)


def scores_chart(
    result: Mapping[str, Any], plan: PrunePlan, graph: ChannelGraph, scores: Scores
) -> dict[str, Any] | None:
    """The scores that decided; None where they are ranks, or the plan was given."""
    goes = np.zeros(graph.n_units, dtype=bool)
    goes[plan.remove(graph)] = True
    counted = graph.prunable & np.isfinite(scores.values)
    if result.get("scope") in ("local", "isomorphic") or not counted.any():
        return None
    return _scores(scores.values[counted & ~goes], scores.values[goes], plan)


def _scores(kept: Any, removed: Any, plan: PrunePlan) -> dict[str, Any]:
    """Scores of the units, the removed apart from the kept."""
    threshold = plan.reached.threshold
    values = np.concatenate([kept, removed])
    # A few far outliers would press everything else into one bar; the last bar holds them.
    top = float(np.quantile(values, 0.995)) if values.size else 1.0
    edges = np.linspace(0, max(top, threshold, 1e-12) * 1.02, 61)
    kept, removed = (
        np.histogram(np.minimum(part, edges[-1]), edges)[0].tolist() for part in (kept, removed)
    )
    name = "|γ| of each unit" if plan.criterion == "gamma" else f"{plan.criterion} of each unit"
    series = [
        Counts(values=kept, kind="after", name="kept"),
        Counts(values=removed, kind="gone faint", name="removed"),
    ]
    return {
        "title": f"What decided: {name}",
        "words": (
            f"The highest score removed is {threshold:.4g}; kept units to the left of it are held "
            "by a floor, a multiple or a balance. The last bar holds all beyond it."
        ),
        "key": [("kept", "after"), ("removed", "gone")],
        "mark": "highest removed",
        "svg": histogram(edges.tolist(), series, name, threshold),
    }


def search_part(record: Mapping[str, Any] | None) -> Part | None:
    """What the page says of a search."""
    if record is None:
        return None
    stages = []
    for stage in record["stages"]:
        first, last = stage["layers"][0], stage["layers"][-1]
        name = first if first == last else f"{first} … {last}"
        stages.append((name, stage["channels"], stage["even"], stage["found"]))
    data = {
        **{key: record[key] for key in ("kept", "trials", "gains", "parts")},
        "seconds": f"{record['seconds']:.0f}",
        "nearer": share(1 - record["found_unseen"] / max(record["even_unseen"], 1e-12)),
        "stages": stages,
    }
    return Part(name="search", title="Shares of stages", data=data)


def max_drop_part(record: Mapping[str, Any] | None) -> Part | None:
    """What the page says of a search within a bound on AP."""
    if record is None:
        return None
    trials = record["trials"]
    data = {
        "svg": _trials(record),
        "split": record["split"],
        "figure": record["figure"],
        "again": f"{record['again']:.4f}",
        "trials": [(t["macs"], f"{t['value']:.4f}", f"{t['drop']:.4f}", t["held"]) for t in trials],
    }
    title = f"The smallest within a drop of {record['bound']:g}"
    return Part(name="max_drop", title=title, data=data)


def _trials(record: Mapping[str, Any]) -> Markup:
    """Accuracy of the cuts that were tried over their share of the multiply-adds."""
    figure = record["figure"]
    points = [Point(x=100.0, y=record["full"], kind="before", label="full", weight=2)]
    for index, trial in enumerate(record["trials"]):
        text = f"{share(trial['macs'], 1)}, {figure} {trial['value']:.4f}"
        chosen = index == record["chosen"]
        points.append(
            Point(
                x=100 * trial["macs"], y=trial["value"],
                kind="after" if trial["held"] else "gone", ringed=chosen,
                label=f"{share(trial['macs'])}" if chosen else "", title=text, weight=int(chosen),
            )
        )  # fmt: skip
    axes = Axes(
        x="multiply-adds, % of the full network's", y=figure,
        floor=record["full"] - record["bound"], zero=True,
    )  # fmt: skip
    return scatter(points, axes, f"{figure} of the cuts that were tried over their multiply-adds")


def _criterion(result: Mapping[str, Any], plan: PrunePlan) -> str:
    """By what channels were chosen, and why."""
    if "why" not in result:
        return plan.criterion
    if result["scope"] is None:  # the plan was given
        return f"{plan.criterion}, {result['why']}"
    where = {
        "global": "over the whole network",
        "local": "the same share of every group",
        "isomorphic": "the same share of every class of groups of one structure",
    }
    shares = where[result["scope"]]
    if (result.get("search") or {}).get("kept"):
        shares = "shares of stages that were searched for"
    return f"{plan.criterion}, {shares}: {result['why']}"
