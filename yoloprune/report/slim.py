"""The report of one ``slim``: a single HTML page that needs nothing else to be read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from yoloprune.channels.graph import ChannelGraph
from yoloprune.files import write_bytes
from yoloprune.measure.latency import is_clear
from yoloprune.plain import plain
from yoloprune.prune.plan import PrunePlan
from yoloprune.prune.score import Scores
from yoloprune.report.fastpath import fast_path
from yoloprune.report.plots import channels_svg, drop_svg, repair_svg, scores_svg

_SIZES = {
    "params": "Parameters",
    "macs": "MACs",
    "bytes": "File size",
    "latency_ms": "Latency",
}
_METRICS = {
    "AP": "AP",
    "AP50": "AP50",
    "AP75": "AP75",
    "APs": "AP small",
    "APm": "AP medium",
    "APl": "AP large",
    "AR100": "AR",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the before/after table, ready to be read.

    Attributes:
        name: the quantity.
        before: its value before, with unit.
        after: its value after.
        change: relative change, or difference for a metric.
        headline: the change in a few words.
        verdict: ``good``, ``bad`` or ``same``.
        spread: how far single measurements of either side lie apart; empty if not measured.
        hint: what a reader must know to judge it; may be empty.
    """

    name: str
    before: str
    after: str
    change: str
    headline: str
    verdict: str
    spread: tuple[str, str] = ("", "")
    hint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerWidth:
    """Output channels of one layer.

    Attributes:
        path: module path.
        before: channels.
        after: channels that are left.
    """

    path: str
    before: int
    after: int


def write_slim_report(
    target: Path,
    result: Mapping[str, Any],
    plan: PrunePlan,
    graph: ChannelGraph,
    scores: Scores,
) -> Path:
    """Write the report: one HTML page, no scripts, nothing loaded from elsewhere.

    Args:
        target: the file; its folder is made if need be.
        result: what ``slim --json`` holds: ``before`` and ``after`` (``params``, ``macs``,
            ``bytes``, ``latency_ms``, metrics as fractions; a row stands where both have a
            value), ``self_test.max_rel_diff``, ``files``. Read too where they are there:
            ``model`` (its name), ``latency_iqr_ms`` and ``latency`` (how it was timed) beside
            ``latency_ms``, ``imgsz``, ``environment`` and ``seconds`` (of each stage).
        plan: what was removed.
        graph: the channels of the model before.
        scores: what the plan was made from.

    Returns:
        The file that was written.

    Raises:
        PlanError: the plan does not fit the graph.
        YoloPruneError: the folder cannot be written to.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("slim.html.j2").render(_context(result, plan, graph, scores))
    write_bytes(target, page.encode())
    return target


def _shown(value: object) -> object:
    """What an expression of the template prints; the ends of lines in it are meant."""
    return plain(value, keep="\n") if type(value) is str else value


def layer_widths(graph: ChannelGraph, plan: PrunePlan) -> list[LayerWidth]:
    """Output channels of every layer before and after, in network order."""
    return [
        LayerWidth(
            path=axis.module,
            before=axis.units.size,
            after=axis.units.size - len(plan.layers.get(axis.module, ())),
        )
        for axis in graph.out_axes
    ]


def compare(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Row]:
    """The rows of the before/after table: every quantity that both sides have."""
    rows = []
    for key, name in (_SIZES | _METRICS).items():
        old, new = before.get(key), after.get(key)
        if old is None or new is None:
            continue
        if key in _METRICS:
            rows.append(_metric_row(name, float(old), float(new)))
        else:
            iqr_key = key.replace("_ms", "_iqr_ms")
            timed = iqr_key != key
            spread = (before.get(iqr_key), after.get(iqr_key)) if timed else (None, None)
            rows.append(_size_row(key, name, float(old), float(new), spread))
    return rows


def _size_row(
    key: str, name: str, old: float, new: float, spread: tuple[float | None, float | None]
) -> Row:
    ratio = old / new if new else float("inf")
    verdict = "good" if ratio > 1 else "bad" if ratio < 1 else "same"
    factor = max(ratio, 1 / ratio) if ratio else float("inf")
    words = ("faster", "slower") if key == "latency_ms" else ("smaller", "larger")
    headline = "unchanged"
    if ratio != 1:
        headline = f"{factor:.{2 if factor < 2 else 1}f}× {words[ratio < 1]}"
    hint = ""
    if not is_clear(old, new, *spread):
        hint, verdict = "The difference is within the spread of the measurement.", "same"
        headline = "no clear change"
    before, after = ("" if iqr is None else f"IQR {_number(iqr)}" for iqr in spread)
    return Row(
        name=name,
        before=_quantity(key, old),
        after=_quantity(key, new),
        change=f"{_signed((new - old) / old * 100, 1)} %" if old else "–",
        headline=headline,
        verdict=verdict,
        spread=(before, after),
        hint=hint,
    )


def _metric_row(name: str, old: float, new: float) -> Row:
    difference = _signed(new - old, 3)
    verdict = "same" if abs(new - old) < 0.0005 else "good" if new > old else "bad"
    return Row(
        name=name, before=f"{old:.3f}", after=f"{new:.3f}", change=difference,
        headline=difference, verdict=verdict,
    )  # fmt: skip


def _context(
    result: Mapping[str, Any], plan: PrunePlan, graph: ChannelGraph, scores: Scores
) -> dict[str, Any]:
    """Everything that the template prints."""
    from markupsafe import Markup

    rows = compare(result["before"], result["after"])
    widths = layer_widths(graph, plan)
    remove = plan.remove(graph)
    goes = np.zeros(graph.n_units, dtype=bool)
    goes[remove] = True
    counted = graph.prunable & np.isfinite(scores.values)
    label = "|γ| of each unit" if plan.criterion == "gamma" else f"{plan.criterion} of each unit"
    histogram = None
    # Where scores are ranks, or the plan was given, there is nothing to see.
    if result.get("scope") not in ("local", "isomorphic") and counted.any():
        kept, gone = scores.values[counted & ~goes], scores.values[goes]
        histogram = Markup(scores_svg(kept, gone, plan.reached.threshold, label))
    budget = plan.budget
    model = str(result.get("model") or (plan.source.path if plan.source else "model"))
    return {
        "model": plain(Path(model).name),
        "rows": rows,
        "cards": [row for row in rows if row.name in (*_SIZES.values(), "AP")],
        "budget": [
            ("criterion", _criterion(result, plan)),
            ("channels kept in each layer, at least", str(budget.min_channels)),
            (
                "share of a layer that may go, at most",
                f"{budget.max_layer_prune:.0%}".replace("%", " %"),
            ),
            ("kept counts are multiples of", str(budget.round_to)),
            *([("whole blocks out", ", ".join(map(plain, plan.blocks)))] if plan.blocks else []),
        ],
        "asked": budget.asked,
        "percent": budget.percent,
        "reached": plan.reached,
        "notes": [plain(note) for note in result.get("warnings", plan.notes)],
        "verdict": result.get("verdict"),
        "repair": _repair(result.get("repair")),
        "fast_path": fast_path(result.get("fast_path")),
        "search": _search(result.get("search")),
        "max_drop": _max_drop(result.get("max_drop")),
        "widths": widths,
        "widest": max((width.before for width in widths), default=1),
        "changed": sum(width.after < width.before for width in widths),
        # Markup: these two are made here, of numbers only.
        "channels_svg": Markup(channels_svg([w.before for w in widths], [w.after for w in widths])),
        "scores_svg": histogram,
        "score_label": label,
        "self_test": (result.get("self_test") or {}).get("max_rel_diff"),
        "environment": list(_flat(_conditions(result))),
        "files": list(_flat(result.get("files") or {})),
        "source": plan.source and replace(plan.source, path=plain(plan.source.path)),
    }


_WORST = 8
"""Layers whose error after repair is told by name."""


def _repair(record: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """What the page says of a repair."""
    if record is None:
        return None
    from markupsafe import Markup

    layers = record["layers"]
    worst = sorted(layers, key=lambda layer: -layer["after"])[:_WORST]
    return {
        "pictures": record["pictures"],
        "held_out": record["held_out"],
        "seconds": f"{record['seconds']:.0f}",
        "drift": record["drift"],
        "svg": Markup(
            repair_svg([one["before"] for one in layers], [one["after"] for one in layers])
        ),
        "worst": [
            (plain(one["path"]), f"{one['before']:.1%}", f"{one['after']:.1%}") for one in worst
        ],
    }


def _search(record: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """What the page says of a search."""
    if record is None:
        return None
    stages = []
    for stage in record["stages"]:
        first, last = plain(stage["layers"][0]), plain(stage["layers"][-1])
        name = first if first == last else f"{first} … {last}"
        stages.append((name, stage["channels"], f"{stage['even']:.0%}", f"{stage['found']:.0%}"))
    return {
        **{key: record[key] for key in ("kept", "trials", "gains", "parts")},
        "seconds": f"{record['seconds']:.0f}",
        "nearer": f"{1 - record['found_unseen'] / max(record['even_unseen'], 1e-12):.0%}",
        "stages": stages,
    }


def _max_drop(record: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """What the page says of a search within a bound on AP."""
    if record is None:
        return None
    from markupsafe import Markup

    trials = record["trials"]
    macs, values = ([one[key] for one in trials] for key in ("macs", "value"))
    svg = drop_svg(macs, values, record["full"], record["bound"], record["chosen"])
    return {
        "svg": Markup(svg),
        "bound": f"{record['bound']:g}",
        "split": plain(record["split"]),
        "figure": record["figure"],
        "again": f"{record['again']:.4f}",
        "trials": [
            (f"{t['macs']:.1%}", f"{t['value']:.4f}", f"{t['drop']:.4f}", t["held"]) for t in trials
        ],
    }


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


def _conditions(result: Mapping[str, Any]) -> dict[str, Any]:
    """How and where it was measured, as far as the record says."""
    rows: dict[str, Any] = {}
    if result.get("imgsz"):
        rows["input"] = " × ".join(map(str, result["imgsz"])) + " pixels"
    timing = result["before"].get("latency") or {}
    for key in ("batch", "device", "threads", "precision", "warmup"):
        if key in timing:
            rows[key] = timing[key]
    if "times_ms" in timing:
        rows["timed passes"] = len(timing["times_ms"])
    rows |= result.get("environment") or {}
    if result.get("seconds"):
        stages = (f"{name} {value:.2f}" for name, value in result["seconds"].items())
        rows["seconds a stage"] = ", ".join(stages)
    return rows


def _flat(data: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """A mapping as rows of text; lists one item a line."""
    for key, value in data.items():
        name = plain(str(key).replace("_", " "))
        if isinstance(value, Mapping):
            yield from ((f"{name}: {inner}", text) for inner, text in _flat(value))
        elif isinstance(value, Sequence) and not isinstance(value, str):
            texts = all(isinstance(item, str) for item in value)
            yield name, ("\n" if texts else ", ").join(plain(str(item)) for item in value)
        elif value is not None:
            yield name, plain(str(value))


def _quantity(key: str, value: float) -> str:
    if key == "latency_ms":
        return f"{_number(value)} ms"
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{_number(value / limit)} {unit}{'B' if key == 'bytes' else ''}"
    return f"{value:.0f} B" if key == "bytes" else f"{value:.0f}"


def _number(value: float) -> str:
    """Three significant digits, never in powers of ten."""
    digits = 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0
    return f"{value:.{digits}f}"


def _signed(value: float, digits: int) -> str:
    text = f"{abs(value):.{digits}f}"
    if float(text) == 0:
        return f"±{text}"
    return f"{'−' if value < 0 else '+'}{text}"
