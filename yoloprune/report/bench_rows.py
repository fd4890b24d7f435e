"""Which rows of a bench stand for what: settings, runtimes, the fastest of a model."""

from __future__ import annotations

from typing import Any

from yoloprune.measure.bench_result import BenchResult, BenchRow
from yoloprune.report.figures import plural, share, signed

Setting = tuple[str, int, int]
"""Device, batch, threads."""


def model_rows(result: BenchResult) -> list[dict[str, Any]]:
    """Every model: its name and sizes, ``ap`` in fp32, its ``fastest`` row and its ``ratio``."""
    base = fastest_row(result, result.baseline.name, "fp32")
    full = ap_of(result, result.baseline.name)
    rows = []
    for model in result.models:
        accuracy, fastest = ap_of(result, model.name), fastest_row(result, model.name)
        rows.append(
            {
                "name": model.name,
                "baseline": model.baseline,
                "params": model.params,
                "macs": model.macs,
                "share": _share(model.macs, result.baseline.macs),
                "ap": accuracy,
                "change": minus(accuracy, full),
                "fastest": fastest,
                "ratio": base.median_ms / fastest.median_ms if base and fastest else None,
            }
        )
    return rows


def setting_of(row: BenchRow) -> Setting:
    """What a row was timed under, beside runtime and precision."""
    return row.device, row.batch, row.threads


def settings_of(result: BenchResult) -> list[Setting]:
    """In the order that they were measured."""
    return list(dict.fromkeys(map(setting_of, result.rows)))


def setting_words(setting: Setting) -> str:
    """A setting, for people."""
    device, batch, threads = setting
    words = f"{device}, batch {batch}"
    return f"{words}, {plural(threads, 'thread')}" if device == "cpu" else words


def runtimes_of(result: BenchResult) -> list[str]:
    """Names, in the order that they were measured."""
    return list(dict.fromkeys(row.runtime for row in result.rows))


def exact_row(result: BenchResult, name: str) -> BenchRow | None:
    """A model's row in fp32 with an AP, torch's where there is one."""
    rows = [row for row in result.rows if row.model == name and row.precision == "fp32"]
    rows = [row for row in rows if row.ap is not None]
    return min(rows, key=lambda row: row.runtime != "torch", default=None)


def ap_of(result: BenchResult, name: str) -> float | None:
    """AP of a model in fp32."""
    row = exact_row(result, name)
    return None if row is None else row.ap


def fastest_row(result: BenchResult, name: str, precision: str | None = None) -> BenchRow | None:
    """The fastest row of a model under the first conditions that were measured."""
    setting = settings_of(result)[:1]
    rows = [
        row for row in result.rows
        if row.model == name and setting_of(row) in setting and precision in (None, row.precision)
    ]  # fmt: skip
    return min(rows, key=lambda row: row.median_ms, default=None)


def minus(one: float | None, other: float | None) -> str | None:
    """A difference with its sign, where both are known."""
    return None if one is None or other is None else signed(one - other, 3)


def _share(one: int | None, other: int | None) -> str | None:
    return None if one is None or not other else share(one / other)
