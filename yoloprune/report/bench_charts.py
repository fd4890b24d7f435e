"""The scatter plots of a bench: AP over latency, AP over multiply-adds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from yoloprune.measure.bench_result import BenchResult, BenchRow
from yoloprune.report.bench_rows import ap_of, runtimes_of, setting_of, setting_words, settings_of
from yoloprune.report.figures import milliseconds, quantity
from yoloprune.report.page import Part
from yoloprune.report.scatter import Axes, Point, frontier, scatter

if TYPE_CHECKING:
    from markupsafe import Markup

_COLOURS = 8
_SHAPES = {"fp32": "disc", "fp16": "square", "int8": "diamond"}
_LABELLED = 14
"""Points of which each gets a label; of more, those that matter do."""


def latency_part(result: BenchResult) -> Part | None:
    """AP over latency, a chart for each device, batch and number of threads."""
    settings = settings_of(result)
    charts = []
    for setting in settings:
        rows = [r for r in result.rows if setting_of(r) == setting and r.ap is not None]
        if len(rows) > 1:
            title = setting_words(setting)
            charts.append({"title": title, "svg": _latency_chart(result, rows, title)})
    if not charts:
        return None
    runtimes = runtimes_of(result)
    key = [(name, f"round k{index % _COLOURS}") for index, name in enumerate(runtimes)]
    shapes = {"fp32": "round", "fp16": "", "int8": "turned"}
    precisions = [p for p in _SHAPES if any(row.precision == p for row in result.rows)]
    key += [(p, shapes[p]) for p in precisions if len(precisions) > 1]
    data = {
        "charts": charts,
        "key": [*key, ("the baseline", "round hollow")],
        "words": "Up and left is better. The dotted line joins the rows that nothing here beats.",
    }
    return Part(name="charts", anchor="ap-over-latency", title="AP over latency", data=data)


def _latency_chart(result: BenchResult, rows: Sequence[BenchRow], title: str) -> Markup:
    runtimes = runtimes_of(result)
    points = [_point(result, row, runtimes.index(row.runtime)) for row in rows]
    best = {(p.x, p.y) for p in frontier(points)}
    told: set[str] = set()
    shown = []
    for point in sorted(points, key=lambda p: (p.x, -p.y)):
        # The fastest row of a model and precision stands for the others, where there are many.
        new = point.label not in told
        told.add(point.label)
        weight = 2.0 * ((point.x, point.y) in best) + 1.0 * new
        crowded = len(points) > _LABELLED and not new
        shown.append(replace(point, weight=weight, label="" if crowded else point.label))
    axes = Axes(x="milliseconds a pass, median", y="AP", frontier=True, log=True)
    return scatter(shown, axes, f"AP over latency of every row, {title}")


def _point(result: BenchResult, row: BenchRow, colour: int) -> Point:
    assert row.ap is not None
    own = row.model == result.baseline.name
    precision = "" if row.precision == "fp32" else f" {row.precision}"
    return Point(
        x=row.median_ms,
        y=row.ap,
        kind=f"k{colour % _COLOURS}{' hollow' if own else ''}",
        label=f"{row.model}{precision}",
        title=(
            f"{row.model}, {row.runtime} {row.precision}: {milliseconds(row.median_ms)}, "
            f"AP {row.ap:.3f}"
        ),
        shape=_SHAPES[row.precision],
    )


def macs_part(result: BenchResult) -> Part | None:
    """AP over multiply-adds, a point a model."""
    points = []
    for model in result.models:
        accuracy = ap_of(result, model.name)
        if model.macs is not None and accuracy is not None:
            points.append(
                Point(
                    x=model.macs / 1e9, y=accuracy, label=model.name,
                    kind="after hollow" if model.baseline else "after",
                    title=f"{model.name}: {quantity(model.macs)} MACs, AP {accuracy:.3f}",
                    weight=float(model.baseline),
                )
            )  # fmt: skip
    if len(points) < 2:
        return None
    axes = Axes(x="GMACs a picture", y="AP", frontier=True, log=True)
    chart = {"title": "", "svg": scatter(points, axes, "AP over multiply-adds of every model")}
    data = {
        "charts": [chart],
        "key": [("the baseline", "round hollow after"), ("others", "round after")],
        "words": "AP in fp32. MACs are what a cut saves; what of it becomes time, see above.",
    }
    return Part(name="charts", anchor="ap-over-macs", title="AP over MACs", data=data)
