"""The page of one ``bench``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yoloprune.measure.bench_result import BenchModel, BenchResult, BenchRow
from yoloprune.measure.intervals import Versus
from yoloprune.report.charts import Layer, layer_strip
from yoloprune.report.conditions import flat
from yoloprune.report.fastpath import fast_path, off_words, one_side
from yoloprune.report.figures import milliseconds, plural, quantity, share, signed, times
from yoloprune.report.page import Head, Part, write_page
from yoloprune.report.pictures import changed_part
from yoloprune.report.scatter import Axes, Point, frontier, scatter

if TYPE_CHECKING:
    from markupsafe import Markup

_COLOURS = 8
_SHAPES = {"fp32": "disc", "fp16": "square", "int8": "diamond"}
_LABELLED = 14
"""Points of which each gets a label; of more, those that matter do."""

Setting = tuple[str, int, int]
"""Device, batch, threads."""


def write_bench_page(target: Path, result: BenchResult) -> Path:
    """Write the page of a bench: one HTML file, nothing loaded from elsewhere.

    Args:
        target: the file; its folder is made if need be.
        result: what was measured.

    Returns:
        The file that was written.

    Raises:
        YoloPruneError: the folder cannot be written to.
    """
    parts = [
        _models(result),
        _latency(result),
        _macs(result),
        _table(result),
        changed_part(result.counts, result.changes, result.classes, result.images, "the baseline"),
        *_layers(result),
        _missing(result),
        _made(result),
    ]
    return write_page(target, _head(result), [part for part in parts if part])


def _head(result: BenchResult) -> Head:
    names = [model.name for model in result.models if not model.baseline]
    noisy = sum(row.noisy for row in result.rows)
    notes = []
    if noisy:
        notes.append(
            f"{plural(noisy, 'row')} of {len(result.rows)} vary by more than 10 % (IQR over "
            "median) and are marked: small differences there mean nothing."
        )
    if result.absent:
        notes.append(
            "Not installed, hence not measured: "
            + "; ".join(f"{runtime} ({why})" for runtime, why in result.absent.items())
            + "."
        )
    return Head(
        title=f"{result.baseline.name}, benchmarked",
        over=[
            "yoloprune bench",
            f"{result.baseline.name} against {', '.join(names) or 'nothing'}",
            *([result.date[:10]] if result.date else []),
        ],
        takeaway=result.takeaway(),
        method=_method(result),
        notes=notes,
    )


def _method(result: BenchResult) -> list[str]:
    """How it was measured, in three sentences."""
    passes = sorted({len(row.times_ms) for row in result.rows})
    counted = "–".join(dict.fromkeys(f"{count}" for count in (passes[:1] + passes[-1:])))
    cpu = result.environment.get("gpu") or result.environment.get("cpu") or "this machine"
    height, width = result.imgsz
    said = [
        f"Times are medians of {counted} passes of the network alone at {height} × {width} pixels "
        f"on {cpu}, models in turn; a ratio is the baseline's time over the row's under the same "
        "conditions, with a 95 % interval, and called a change only where that leaves 1 out."
    ]
    if any(row.metrics for row in result.rows):
        where = f" of {result.data}" if result.data else ""
        said.append(
            f"AP is measured on the very file that was timed, on {plural(result.images, 'picture')}"
            f" of the {result.split or 'val'} split{where}."
        )
    else:
        said.append("AP was not measured: no data set was given.")
    if any(row.agreement is not None for row in result.rows):
        said.append(
            "Every file's outputs are held against those of the same model in torch in fp32: the "
            "largest difference, as a share of their scale."
        )
    return said


def _models(result: BenchResult) -> Part:
    """Every model with its size, its AP, and the fastest it runs."""
    base = _fastest(result, result.baseline.name, "fp32")
    rows = []
    for model in result.models:
        accuracy, fastest = _ap(result, model.name), _fastest(result, model.name)
        rows.append(
            {
                "name": model.name,
                "baseline": model.baseline,
                "params": model.params,
                "macs": model.macs,
                "share": _share(model.macs, result.baseline.macs),
                "ap": accuracy,
                "change": _minus(accuracy, _ap(result, result.baseline.name)),
                "fastest": fastest,
                "ratio": None if fastest is None or base is None
                else base.median_ms / fastest.median_ms,
            }
        )  # fmt: skip
    where = "" if base is None else _setting_words(_setting(base))
    data = {"rows": rows, "base": base, "where": where}
    return Part(name="models", title="The models", data=data, sortable=True)


def _latency(result: BenchResult) -> Part | None:
    """AP over latency, a chart for each device, batch and number of threads."""
    settings = _settings(result)
    charts = []
    for setting in settings:
        rows = [r for r in result.rows if _setting(r) == setting and r.ap is not None]
        if len(rows) > 1:
            title = _setting_words(setting)
            charts.append({"title": title, "svg": _latency_chart(result, rows, title)})
    if not charts:
        return None
    runtimes = _runtimes(result)
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
    runtimes = _runtimes(result)
    points = [_point(result, row, runtimes.index(row.runtime)) for row in rows]
    best = {(p.x, p.y) for p in frontier(points)}
    named: set[str] = set()
    shown = []
    order = sorted(range(len(points)), key=lambda at: (points[at].x, -points[at].y))
    for at in order:
        point, name = points[at], rows[at].model
        weight = 2.0 * ((point.x, point.y) in best) + 1.0 * (name not in named)
        named.add(name)
        crowded = len(points) > _LABELLED and weight == 0
        shown.append(_with(point, weight=weight, label="" if crowded else point.label))
    axes = Axes(
        x="milliseconds a pass, median", y="AP", frontier=True, log=True
    )  # fmt: skip
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


def _with(point: Point, **changes: Any) -> Point:
    from dataclasses import replace

    return replace(point, **changes)


def _macs(result: BenchResult) -> Part | None:
    """AP over multiply-adds, a point a model."""
    points = []
    for model in result.models:
        accuracy = _ap(result, model.name)
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


def _table(result: BenchResult) -> Part:
    """Every row with its ratio to the baseline."""
    rows = []
    for row in result.rows:
        base = result.row(
            result.baseline.name, row.runtime, row.precision, row.batch, row.threads, row.device
        )
        own = row.model == result.baseline.name
        rows.append(
            {
                "row": row,
                "baseline": own,
                "versus": None if own else _versus(result.versus(row)),
                "drop": None if own or base is None else _minus(row.ap, base.ap),
                "remarks": list(row.notes),
            }
        )
    known = {
        name: any(getattr(row, name) is not None for row in result.rows)
        for name in ("ap", "pre_ms", "post_ms", "peak_mb", "agreement")
    }
    varied = {
        name: len({getattr(row, name) for row in result.rows}) > 1
        for name in ("device", "batch", "threads", "precision")
    }
    same = [_settings(result)[0][index] for index in range(3)] if result.rows else []
    words = [
        text
        for name, text in zip(
            ("device", "batch", "threads"),
            (f"on {same[0]}", f"batch {same[1]}", plural(int(same[2]), "thread")) if same else (),
            strict=False,
        )
        if not varied[name]
    ]
    data = {"rows": rows, "known": known, "varied": varied, "same": ", ".join(words)}
    return Part(name="rows", title="Every row", data=data, sortable=True)


def _versus(found: Versus | None) -> dict[str, Any] | None:
    if found is None:
        return None
    faster = found.ratio > 1
    return {
        "ratio": found.ratio,
        "words": times(found.ratio) if found.clear else "no clear change",
        "verdict": ("good" if faster else "bad") if found.clear else "same",
        "interval": f"{found.low:.2f} to {found.high:.2f}",
    }


def _layers(result: BenchResult) -> list[Part]:
    """The layers of every model that has those of the baseline."""
    parts: list[Part] = []
    full = result.baseline.widths or {}
    for model in result.models:
        widths = model.widths or {}
        if model.baseline or not full or set(widths) != set(full) or widths == full:
            continue
        sides = (one_side(result.baseline.fast_path), one_side(model.fast_path))
        off = off_words(sides[1])
        layers = [
            Layer(path=path, before=width, after=widths[path], off=off.get(path, ""))
            for path, width in full.items()
            if width
        ]
        record = {"before": sides[0], "after": sides[1]} if all(sides) else None
        parts.append(_strip(model, layers, record, len(parts)))
    return parts


def _strip(
    model: BenchModel, layers: list[Layer], record: Mapping[str, Any] | None, index: int
) -> Part:
    data = {
        "svg": layer_strip(layers),
        "layers": layers,
        "widest": max(layer.before for layer in layers),
        "fast_path": fast_path(record),
        "any_off": any(layer.off for layer in layers),
        "repair": None,
    }
    return Part(
        name="layers", anchor=f"layers-{index + 1}", title=f"Layers of {model.name}", data=data,
        sortable=True,
    )  # fmt: skip


def _missing(result: BenchResult) -> Part | None:
    """What could not be measured, and why."""
    if not result.failures:
        return None
    rows = [(f"{one.model}, {one.runtime} {one.precision}", one.reason) for one in result.failures]
    return Part(name="missing", title="What could not be measured", data={"rows": rows})


def _made(result: BenchResult) -> Part:
    """The command, the machine, the versions, the files."""
    measured: dict[str, Any] = {
        "date": result.date or None,
        "input": f"{result.imgsz[0]} × {result.imgsz[1]} pixels",
        **result.environment,
        "took": f"{result.seconds:.0f} s" if result.seconds else None,
    }
    versions = {row.runtime: row.runtime_version for row in result.rows if row.runtime_version}
    files = [(model.name, [model.path]) for model in result.models]
    tables = [
        ("Models", files),
        ("Runtimes", [(name, [version]) for name, version in versions.items()]),
        ("Measured on", list(flat(measured))),
    ]
    return Part(
        name="made", title="How it was made", data={"command": result.command, "tables": tables}
    )


def _setting(row: BenchRow) -> Setting:
    return row.device, row.batch, row.threads


def _settings(result: BenchResult) -> list[Setting]:
    """In the order that they were measured."""
    return list(dict.fromkeys(map(_setting, result.rows)))


def _setting_words(setting: Setting) -> str:
    device, batch, threads = setting
    words = f"{device}, batch {batch}"
    return f"{words}, {plural(threads, 'thread')}" if device == "cpu" else words


def _runtimes(result: BenchResult) -> list[str]:
    return list(dict.fromkeys(row.runtime for row in result.rows))


def _ap(result: BenchResult, name: str) -> float | None:
    """AP of a model in fp32, torch's where it was measured."""
    rows = [
        r for r in result.rows if r.model == name and r.precision == "fp32" and r.ap is not None
    ]
    rows.sort(key=lambda row: row.runtime != "torch")
    return rows[0].ap if rows else None


def _fastest(result: BenchResult, name: str, precision: str | None = None) -> BenchRow | None:
    """The fastest row of a model under the first conditions that were measured."""
    setting = _settings(result)[:1]
    rows = [
        row for row in result.rows
        if row.model == name and _setting(row) in setting and precision in (None, row.precision)
    ]  # fmt: skip
    return min(rows, key=lambda row: row.median_ms, default=None)


def _minus(one: float | None, other: float | None) -> str | None:
    return None if one is None or other is None else signed(one - other, 3)


def _share(one: int | None, other: int | None) -> str | None:
    return None if one is None or not other else share(one / other)
