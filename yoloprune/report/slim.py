"""The page of one ``slim``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from yoloprune.channels.graph import ChannelGraph
from yoloprune.measure.changed import Changed
from yoloprune.plain import plain
from yoloprune.prune.plan import PrunePlan
from yoloprune.prune.score import Scores
from yoloprune.report.charts import Counts, Layer, histogram, layer_strip
from yoloprune.report.conditions import conditions, flat
from yoloprune.report.fastpath import fast_path, off_words
from yoloprune.report.figures import share
from yoloprune.report.page import Head, Part, write_page
from yoloprune.report.pictures import changed_part
from yoloprune.report.scatter import Axes, Point, scatter
from yoloprune.report.sides import METRICS, SIZES, Row, compare

if TYPE_CHECKING:
    from markupsafe import Markup

_STATES = {"works": "good", "needs training": "same", "dead": "bad"}


def write_slim_page(
    target: Path,
    result: Mapping[str, Any],
    plan: PrunePlan,
    graph: ChannelGraph,
    scores: Scores,
    changed: Changed | None = None,
) -> Path:
    """Write the report: one HTML page, nothing loaded from elsewhere.

    Args:
        target: the file; its folder is made if need be.
        result: what ``slim --json`` holds: ``before`` and ``after`` (``params``, ``macs``,
            ``bytes``, ``latency_ms``, metrics as fractions; a row stands where both have a
            value), ``self_test.max_rel_diff``, ``files``. Read too where they are there:
            ``model`` (its name), ``latency_iqr_ms`` and ``latency`` (how it was timed) beside
            ``latency_ms``, ``imgsz``, ``data``, ``split``, ``environment``, ``seconds`` (of each
            stage), ``command`` and ``date``.
        plan: what was removed.
        graph: the channels of the model before.
        scores: what the plan was made from.
        changed: what the slim network sees beside the full one, where labelled pictures were given.

    Returns:
        The file that was written.

    Raises:
        PlanError: the plan does not fit the graph.
        YoloPruneError: the folder cannot be written to.
    """
    rows = compare(result["before"], result["after"])
    layers = layers_of(graph, plan, result)
    parts = [
        Part(name="tiles", title="", data={"rows": [row for row in rows if row.key in _TILES]}),
        Part(name="sides", title="Before and after", data={"rows": rows}),
        _max_drop(result.get("max_drop")),
        _layers(layers, result),
        changed
        and changed_part(
            changed.counts, changed.changes, changed.classes, changed.images, "the full network"
        ),
        _budget(layers, result, plan),
        _search(result.get("search")),
        _histograms(result, plan, graph, scores),
        _made(result, plan),
    ]
    return write_page(target, _head(rows, result, plan), [part for part in parts if part])


_TILES = (*SIZES, "AP")


def _head(rows: list[Row], result: Mapping[str, Any], plan: PrunePlan) -> Head:
    name = Path(str(result.get("model") or (plan.source.path if plan.source else "model"))).name
    verdict = result.get("verdict")
    return Head(
        title=f"{name}, slimmed",
        over=["yoloprune slim", name, *([result["date"][:10]] if result.get("date") else [])],
        takeaway=takeaway(name, rows),
        method=_method(result),
        badge="cut is exact" if _difference(result) is not None else "",
        verdict=verdict and {
            "state": _STATES[verdict["state"]],
            "words": f"The slim network {verdict['words']}.",
            "next": verdict["next"],
        },
        notes=result.get("warnings", plan.notes),
    )  # fmt: skip


def takeaway(name: str, rows: list[Row]) -> str:
    """What came of a cut, in a sentence with figures."""
    known = {row.key: row for row in rows}
    words = {"macs": "MACs", "params": "parameters"}
    said = []
    for key, noun in words.items():
        row = known.get(key)
        if row is not None:
            said.append(f"{row.headline} {noun}")
    if "latency_ms" in known:
        row = known["latency_ms"]
        clear = row.verdict != "same"
        said.append(row.headline if clear else "no clear change in latency")
    figure = next((known[key] for key in METRICS if key in known), None)
    if figure is None:
        said.append("accuracy not measured")
    else:
        said.append(f"{figure.name} {figure.before} → {figure.after} ({figure.change})")
    return f"{name}, slimmed: {', '.join(said)}."


def _method(result: Mapping[str, Any]) -> list[str]:
    """How it was measured, in three sentences."""
    timing = result["before"].get("latency") or {}
    said = []
    if timing:
        environment = result.get("environment") or {}
        size = " × ".join(map(str, result.get("imgsz") or ()))
        said.append(
            "Latency is the median of "
            f"{len(timing.get('times_ms', ()))} forward passes without non-maximum suppression, "
            f"batch {timing.get('batch', 1)}{f' at {size} pixels' if size else ''}, both networks "
            f"fused and timed in turn in one process on {environment.get('cpu', 'this machine')}."
        )
    figures = [key for key in METRICS if result["before"].get(key) is not None]
    if figures:
        by = (result["before"].get("by") or {}).get(figures[0], "")
        where = f" on the {result['split']} split of {result['data']}" if result.get("data") else ""
        said.append(
            f"{METRICS[figures[0]]} is measured{where}{f' by {by}' if by else ''}, on the saved "
            "network with its own pre-processing."
        )
    difference = _difference(result)
    if difference is not None:
        said.append(
            "The cut network gives what the full one gives with those channels at zero: the "
            f"largest difference is {difference:.2g} of the output's scale."
        )
    return said


def _difference(result: Mapping[str, Any]) -> float | None:
    found: float | None = (result.get("self_test") or {}).get("max_rel_diff")
    return found


def layers_of(graph: ChannelGraph, plan: PrunePlan, result: Mapping[str, Any]) -> list[Layer]:
    """Every layer before and after, in network order, with its error and its fast path."""
    errors = {
        one["path"]: (float(one["before"]), float(one["after"]))
        for one in (result.get("repair") or {}).get("layers", ())
    }
    off = off_words((result.get("fast_path") or {}).get("after"))
    return [
        Layer(
            path=axis.module,
            before=axis.units.size,
            after=axis.units.size - len(plan.layers.get(axis.module, ())),
            error=errors.get(axis.module),
            off=off.get(axis.module, ""),
        )
        for axis in graph.out_axes
    ]


def _layers(layers: list[Layer], result: Mapping[str, Any]) -> Part | None:
    if not layers:
        return None
    record = result.get("repair")
    data = {
        "svg": layer_strip(layers),
        "layers": layers,
        "widest": max(layer.before for layer in layers),
        "fast_path": fast_path(result.get("fast_path")),
        "any_off": any(layer.off for layer in layers),
        "repair": record and {
            "pictures": record["pictures"],
            "held_out": record["held_out"],
            "seconds": f"{record['seconds']:.0f}",
        },
    }  # fmt: skip
    return Part(name="layers", title="Layer by layer", data=data, sortable=True)


def _budget(layers: list[Layer], result: Mapping[str, Any], plan: PrunePlan) -> Part:
    budget = plan.budget
    rules = [
        ("criterion", _criterion(result, plan)),
        ("channels kept in each layer, at least", str(budget.min_channels)),
        ("share of a layer that may go, at most", share(budget.max_layer_prune)),
        ("kept counts are multiples of", str(budget.round_to)),
        *([("whole blocks out", ", ".join(map(plain, plan.blocks)))] if plan.blocks else []),
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


def _histograms(
    result: Mapping[str, Any], plan: PrunePlan, graph: ChannelGraph, scores: Scores
) -> Part | None:
    goes = np.zeros(graph.n_units, dtype=bool)
    goes[plan.remove(graph)] = True
    counted = graph.prunable & np.isfinite(scores.values)
    # Where scores are ranks, or the plan was given, there is nothing to see.
    if result.get("scope") in ("local", "isomorphic") or not counted.any():
        return None
    chart = _scores(scores.values[counted & ~goes], scores.values[goes], plan)
    return Part(name="histograms", title="Scores", data={"charts": [chart]})


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


def _search(record: Mapping[str, Any] | None) -> Part | None:
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


def _max_drop(record: Mapping[str, Any] | None) -> Part | None:
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


def _made(result: Mapping[str, Any], plan: PrunePlan) -> Part:
    """Files, machine, versions, and the command."""
    difference, source = _difference(result), plan.source
    files = list(flat(result.get("files") or {}))
    if difference is not None:
        files.append(("self-test", [f"largest relative difference {difference:.2g}"]))
    if source is not None:
        digest = [f"sha256 {source.sha256}"] if source.sha256 else []
        files.append(("made from", [source.path, *digest]))
    tables = [("Files", files), ("Measured on", list(flat(conditions(result))))]
    data = {"command": result.get("command"), "tables": tables}
    return Part(name="made", title="How it was made", data=data)
