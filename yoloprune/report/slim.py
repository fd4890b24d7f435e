"""The page and the model card of one ``slim``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yoloprune.channels.graph import ChannelGraph
from yoloprune.measure.changed import Changed
from yoloprune.prune.plan import PrunePlan
from yoloprune.prune.score import Scores
from yoloprune.prune.sensitivity import Sensitivity
from yoloprune.report.card import Card, write_card
from yoloprune.report.charts import Layer
from yoloprune.report.conditions import conditions, flat, machine
from yoloprune.report.deciding import budget_part, max_drop_part, scores_chart, search_part
from yoloprune.report.fastpath import off_words
from yoloprune.report.layers import layers_part
from yoloprune.report.page import Head, Part, write_page
from yoloprune.report.pictures import changed_part
from yoloprune.report.sensing import sensitivity_part
from yoloprune.report.sides import METRICS, TILES, Row, compare, takeaway
from yoloprune.report.spread import spread_part

if TYPE_CHECKING:
    pass

_STATES = {"works": "good", "needs training": "same", "dead": "bad"}


def write_slim_page(
    target: Path,
    result: Mapping[str, Any],
    plan: PrunePlan,
    graph: ChannelGraph,
    scores: Scores,
    changed: Changed | None = None,
    sensitivity: Sensitivity | None = None,
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
        sensitivity: what set the shares of its parts, if that was measured.

    Returns:
        The file that was written.

    Raises:
        PlanError: the plan does not fit the graph.
        YoloPruneError: the folder cannot be written to.
    """
    held = not (result.get("files") or {}).get("model", True)
    rows = compare(result["before"], result["after"], held=held)
    layers = layers_of(graph, plan, result)
    parts = [
        Part(name="tiles", title="", data={"rows": [row for row in rows if row.key in TILES]}),
        Part(name="sides", title="Before and after", data={"rows": rows}),
        max_drop_part(result.get("max_drop")),
        layers_part(
            layers, "Layer by layer", off=result.get("fast_path"), repair=result.get("repair")
        ),
        changed
        and changed_part(
            changed.counts, changed.changes, changed.classes, changed.images, "the full network"
        ),
        budget_part(layers, result, plan),
        search_part(result.get("search")),
        None if sensitivity is None else sensitivity_part(sensitivity, plan),
        spread_part(result.get("spreads"), scores_chart(result, plan, graph, scores)),
        _made(result, plan),
    ]
    return write_page(target, _head(rows, result, plan), [part for part in parts if part])


def write_slim_card(target: Path, result: Mapping[str, Any]) -> Path:
    """Write the model card of a slim network.

    Args:
        target: the file.
        result: as :func:`write_slim_page` takes it.

    Returns:
        The file that was written.

    Raises:
        YoloPruneError: the folder cannot be written to.
    """
    rows, files = compare(result["before"], result["after"]), result["files"]["model"]
    after, name = result["after"], Path(files[0]).stem
    card = Card(
        name=name,
        origin=str(result["model"]),
        takeaway=takeaway(f"{Path(str(result['model'])).name}, slimmed", rows),
        files=files,
        figures=[
            ("", "before", "after", "change"),
            *((row.name, row.before, row.after, row.change) for row in rows),
        ],
        method=_method(result),
        command=result.get("command") or "",
        date=result.get("date") or "",
        metrics={name: {key: after[key] for key in METRICS if after.get(key) is not None}},
        data=result.get("data"),
        split=result.get("split"),
        notes=[f"It {result['verdict']['words']}."] if result.get("verdict") else [],
    )
    return write_card(target, card)


def _head(rows: list[Row], result: Mapping[str, Any], plan: PrunePlan) -> Head:
    name = Path(str(result.get("model") or (plan.source.path if plan.source else "model"))).name
    verdict = result.get("verdict")
    return Head(
        title=f"{name}, slimmed",
        over=["yoloprune slim", name, *([result["date"][:10]] if result.get("date") else [])],
        takeaway=takeaway(f"{name}, slimmed", rows),
        method=_method(result),
        badge="cut is exact" if _difference(result) is not None else "",
        verdict=verdict and {
            "state": _STATES[verdict["state"]],
            "words": f"The slim network {verdict['words']}.",
            "next": verdict["next"],
        },
        notes=result.get("warnings", plan.notes),
    )  # fmt: skip


def _method(result: Mapping[str, Any]) -> list[str]:
    """How it was measured, in three sentences."""
    timing = result["before"].get("latency") or {}
    said = []
    if timing:
        size = " × ".join(map(str, result.get("imgsz") or ()))
        said.append(
            "Latency is the median of "
            f"{len(timing.get('times_ms', ()))} forward passes without non-maximum suppression, "
            f"batch {timing.get('batch', 1)}{f' at {size} pixels' if size else ''}, both networks "
            f"fused and timed in turn in one process on {machine(result.get('environment'))}."
        )
    figures = [key for key in METRICS if result["before"].get(key) is not None]
    if figures:
        by = (result["before"].get("by") or {}).get(figures[0], "")
        where = f" on the {result['split']} split of {result['data']}" if result.get("data") else ""
        said.append(
            f"{METRICS[figures[0]]} is measured{where}{f' by {by}' if by else ''}, of both "
            "networks alike."
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
        if math.isfinite(one["before"]) and math.isfinite(one["after"])
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
