"""Before and after: every quantity that both sides have, in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from yoloprune.measure.latency import is_clear
from yoloprune.report.figures import milliseconds, number, quantity, signed, times

SIZES = {
    "params": "Parameters",
    "macs": "MACs",
    "bytes": "File size",
    "latency_ms": "Latency",
}
HELD = "Bytes held"
"""What stands for the file size of networks that are in memory only."""
METRICS = {
    "AP": "AP",
    "AP50": "AP50",
    "AP75": "AP75",
    "APs": "AP small",
    "APm": "AP medium",
    "APl": "AP large",
    "AR100": "AR",
    "mask_AP": "AP of masks",
    "keypoint_AP": "AP of key points",
    "rotated_AP": "AP of turned boxes",
    "top1": "top-1",
}

TILES = (*SIZES, "AP")
"""What a page shows first, and largest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the before/after table, ready to be read.

    Attributes:
        key: of the record.
        name: the quantity.
        before: its value before, with unit.
        after: its value after.
        change: relative change, or difference for a metric.
        headline: the change in a few words.
        verdict: ``good``, ``bad`` or ``same``.
        left: value after as a share of that before.
        spread: how far single measurements of either side lie apart; empty if not measured.
        hint: what a reader must know to judge it; may be empty.
    """

    key: str
    name: str
    before: str
    after: str
    change: str
    headline: str
    verdict: str
    left: float
    spread: tuple[str, str] = ("", "")
    hint: str = ""


def compare(
    before: Mapping[str, Any], after: Mapping[str, Any], *, held: bool = False
) -> list[Row]:
    """The rows of the before/after table: every quantity that both sides have.

    Args:
        before: record of one side.
        after: of the other.
        held: bytes are those of tensors in memory, and of no files.
    """
    rows = []
    names = SIZES | ({"bytes": HELD} if held else {}) | METRICS
    for key, name in names.items():
        old, new = before.get(key), after.get(key)
        if old is None or new is None:
            continue
        if key in METRICS:
            rows.append(_metric_row(key, name, float(old), float(new)))
        else:
            iqr_key = key.replace("_ms", "_iqr_ms")
            timed = iqr_key != key
            spread = (before.get(iqr_key), after.get(iqr_key)) if timed else (None, None)
            rows.append(_size_row(key, name, float(old), float(new), spread))
    return rows


def takeaway(name: str, rows: list[Row]) -> str:
    """What came of a cut, in a sentence with figures; ``name`` is what it begins with."""
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
    return f"{name}: {', '.join(said)}."


def _size_row(
    key: str, name: str, old: float, new: float, spread: tuple[float | None, float | None]
) -> Row:
    ratio = old / new if new else float("inf")
    verdict = "good" if ratio > 1 else "bad" if ratio < 1 else "same"
    factor = max(ratio, 1 / ratio) if ratio else float("inf")
    words = ("faster", "slower") if key == "latency_ms" else ("smaller", "larger")
    if key in ("params", "macs"):
        words = ("fewer", "more")
    headline = "unchanged"
    if ratio != 1:
        headline = f"{times(factor)} {words[ratio < 1]}"
    hint = ""
    if not is_clear(old, new, *spread):
        hint, verdict = "The difference is within the spread of the measurement.", "same"
        headline = "no clear change"
    before, after = ("" if iqr is None else f"IQR {number(iqr)}" for iqr in spread)
    return Row(
        key=key,
        name=name,
        before=_amount(key, old),
        after=_amount(key, new),
        change=f"{signed((new - old) / old * 100, 1)} %" if old else "–",
        headline=headline,
        verdict=verdict,
        left=new / old if old else 0.0,
        spread=(before, after),
        hint=hint,
    )


def _metric_row(key: str, name: str, old: float, new: float) -> Row:
    difference = signed(new - old, 3)
    verdict = "same" if abs(new - old) < 0.0005 else "good" if new > old else "bad"
    return Row(
        key=key, name=name, before=f"{old:.3f}", after=f"{new:.3f}", change=difference,
        headline=difference, verdict=verdict, left=new / old if old else 0.0,
    )  # fmt: skip


def _amount(key: str, value: float) -> str:
    if key == "latency_ms":
        return milliseconds(value)
    return quantity(value, "B" if key == "bytes" else "")
