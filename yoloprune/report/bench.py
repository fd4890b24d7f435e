"""The page and the model card of one ``bench``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from yoloprune.measure.bench_result import BenchResult
from yoloprune.measure.intervals import Versus
from yoloprune.report.bench_charts import latency_part, macs_part
from yoloprune.report.bench_rows import (
    exact_row,
    fastest_row,
    minus,
    model_rows,
    setting_of,
    setting_words,
    settings_of,
)
from yoloprune.report.card import Card, write_card
from yoloprune.report.charts import Layer
from yoloprune.report.conditions import flat, machine
from yoloprune.report.fastpath import off_words
from yoloprune.report.figures import (
    UNKNOWN,
    milliseconds,
    plural,
    quantity,
    times,
)
from yoloprune.report.layers import layers_part
from yoloprune.report.page import Head, Part, write_page
from yoloprune.report.pictures import changed_part
from yoloprune.report.spread import spreads_part

if TYPE_CHECKING:
    pass


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
        latency_part(result),
        macs_part(result),
        _table(result),
        changed_part(result.counts, result.changes, result.classes, result.images, "the baseline"),
        *_layers(result),
        spreads_part(
            result.spreads,
            result.baseline.name,
            [model.name for model in result.models if not model.baseline],
        ),
        _missing(result),
        _made(result),
    ]
    return write_page(target, _head(result), [part for part in parts if part])


def write_bench_card(target: Path, result: BenchResult) -> Path:
    """Write the model card of what was benched.

    Args:
        target: the file.
        result: what was measured.

    Returns:
        The file that was written.

    Raises:
        YoloPruneError: the folder cannot be written to.
    """
    others = [model.name for model in result.models if not model.baseline]
    table = [("model", "AP", "MACs", "parameters", "fastest", "in", "speed-up")]
    metrics = {}
    for row in model_rows(result):
        fastest, best = row["fastest"], exact_row(result, row["name"])
        ratio = row["ratio"]
        table.append(
            (
                f"{row['name']} (baseline)" if row["baseline"] else row["name"],
                UNKNOWN if row["ap"] is None else f"{row['ap']:.3f}",
                UNKNOWN if row["macs"] is None else quantity(row["macs"]),
                quantity(row["params"]),
                UNKNOWN if fastest is None else milliseconds(fastest.median_ms),
                UNKNOWN if fastest is None else f"{fastest.runtime} {fastest.precision}",
                UNKNOWN if ratio is None else times(ratio),
            )
        )
        if best is not None:
            known = {key: value for key, value in (best.metrics or {}).items() if value is not None}
            metrics[row["name"]] = known
    card = Card(
        name=", ".join(others) or result.baseline.name,
        origin=result.baseline.path,
        takeaway=result.takeaway(),
        files=[],
        figures=table,
        method=_method(result),
        command=result.command,
        date=result.date,
        metrics=metrics,
        data=result.data,
        split=result.split,
    )
    return write_card(target, card)


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
    height, width = result.imgsz
    said = [
        f"Times are medians of {counted} passes of the network alone at {height} × {width} pixels "
        f"on {machine(result.environment)}, models in turn; a ratio is the baseline's time over "
        "the row's under the same conditions, with a 95 % interval, and called a change only where "
        "that leaves 1 out."
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
    base = fastest_row(result, result.baseline.name, "fp32")
    where = "" if base is None else setting_words(setting_of(base))
    data = {"rows": model_rows(result), "base": base, "where": where}
    return Part(name="models", title="The models", data=data, sortable=True)


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
                "drop": None if own or base is None else minus(row.ap, base.ap),
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
    same = [settings_of(result)[0][index] for index in range(3)] if result.rows else []
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


def _layers(result: BenchResult) -> list[Part | None]:
    """The layers of every model that has those of the baseline."""
    parts: list[Part | None] = []
    full = result.baseline.widths or {}
    for model in result.models:
        widths = model.widths or {}
        if model.baseline or not full or set(widths) != set(full) or widths == full:
            continue
        off = off_words((model.fast_path or {}).get("after"))
        layers = [
            Layer(path=path, before=width, after=widths[path], off=off.get(path, ""))
            for path, width in full.items()
            if width
        ]
        anchor = f"layers-{len(parts) + 1}"
        parts.append(
            layers_part(layers, f"Layers of {model.name}", off=model.fast_path, anchor=anchor)
        )
    return parts


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
