"""What ``bench`` found, as one record that gives the JSON, the CSV and the Markdown."""

from __future__ import annotations

import base64
import binascii
import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from yoloprune.errors import MeasureError
from yoloprune.measure.bench_rows import (
    METRICS,
    BenchChange,
    BenchCount,
    BenchFailure,
    BenchModel,
    BenchRow,
    Box,
)
from yoloprune.measure.intervals import Versus, speedup
from yoloprune.plain import plain

VERSION = 1
SMALL_DROP = 0.03
"""Of AP: what the sentence on top still calls the same detector."""

__all__ = [
    "METRICS", "BenchChange", "BenchCount", "BenchFailure", "BenchModel", "BenchResult",
    "BenchRow", "Box", "Versus", "versus",
]  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchResult:
    """All that one ``bench`` measured.

    Attributes:
        models: one of them is the baseline.
        rows: what was timed.
        failures: what could not be.
        absent: runtime → why it was left out, such as ``pip install ncnn``.
        data: description of the data set, if AP was measured.
        split: of it.
        imgsz: height and width of the input in pixels; of the first model where they differ.
        images: pictures that AP was measured on.
        classes: names.
        counts: objects found, class by class and size by size, by each model but the baseline.
        changes: pictures that changed most.
        spreads: histograms of scales and weights, see :func:`yoloprune.measure.spread.spreads`.
        environment: name → version or machine.
        command: that was typed.
        date: ISO 8601, when it began.
        seconds: that it took.
    """

    models: tuple[BenchModel, ...]
    rows: tuple[BenchRow, ...]
    failures: tuple[BenchFailure, ...] = ()
    absent: Mapping[str, str] = field(default_factory=dict)
    data: str | None = None
    split: str | None = None
    imgsz: tuple[int, int]
    images: int = 0
    classes: tuple[str, ...] = ()
    counts: tuple[BenchCount, ...] = ()
    changes: tuple[BenchChange, ...] = ()
    spreads: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    command: str = ""
    date: str = ""
    seconds: float = 0.0

    def __post_init__(self) -> None:
        """Refuse names that stand twice, rows of no model and no baseline, or two."""
        names = [model.name for model in self.models]
        if len(set(names)) != len(names):
            raise MeasureError(f"bench: a model's name stands twice, got {', '.join(names)}.")
        if sum(model.baseline for model in self.models) != 1:
            raise MeasureError("bench: expected one model to be the baseline.")
        for row in self.rows:
            if row.model not in names:
                raise MeasureError(f"bench: a row is of {row.model!r}, which is no model of it.")

    @property
    def baseline(self) -> BenchModel:
        """What the others are compared with."""
        return next(model for model in self.models if model.baseline)

    def row(
        self,
        model: str,
        runtime: str,
        precision: str,
        batch: int,
        threads: int,
        device: str | None = None,
    ) -> BenchRow | None:
        """The row of that key, on the first device that has one; None where none was timed."""
        asked = (model, runtime, precision, batch, threads)
        for row in self.rows:
            key = (row.model, row.runtime, row.precision, row.batch, row.threads)
            if key == asked and device in (None, row.device):
                return row
        return None

    def versus(self, row: BenchRow) -> Versus | None:
        """A row beside the baseline's under the same conditions; None where there is none."""
        for other in self.rows:
            if other.model == self.baseline.name and other.conditions == row.conditions:
                return versus(other, row)
        return None

    def takeaway(self) -> str:
        """The fastest slim row beside the baseline in fp32 in its own best runtime, in words."""
        pair = _headline(self)
        if pair is None:
            return f"{self.baseline.name}: nothing was timed beside it."
        best, base = pair
        against = versus(base, best)
        if against.clear:
            change = f"{against.ratio:.2f} times as fast as"
        else:
            change = f"not clearly faster or slower ({against.interval}) than"
        sentence = (
            f"{best.model} in {_where(best)} is {change} {base.model} in its own best runtime in "
            f"fp32 ({base.runtime}): {best.median_ms:.1f} against {base.median_ms:.1f} ms"
            f"{f' for {best.batch} pictures' if best.batch > 1 else ' a picture'}"
        )
        if best.ap is None or base.ap is None:
            return f"{sentence}; AP was not measured."
        if abs(best.ap - base.ap) < 5e-4:
            return f"{sentence}, at the same AP ({best.ap:.3f})."
        word = "lower" if best.ap < base.ap else "higher"
        gap = abs(best.ap - base.ap)
        return f"{sentence}, at an AP {gap:.3f} {word} ({best.ap:.3f} against {base.ap:.3f})."

    def to_dict(self) -> dict[str, Any]:
        """JSON-able record; each row with what derives from it, thumbnails in base64."""
        data = {"version": VERSION, "takeaway": self.takeaway(), **asdict(self)}
        for row, written in zip(self.rows, data["rows"], strict=True):
            against = self.versus(row)
            names = ("median_ms", "iqr_ms", "p95_ms", "per_second", "noisy")
            written |= {name: getattr(row, name) for name in names}
            written["versus"] = against and {**asdict(against), "clear": against.clear}
        for change in data["changes"]:
            change["thumbnail"] = base64.b64encode(change["thumbnail"]).decode()
        return data

    @staticmethod
    def from_dict(data: object, where: str = "bench.json") -> BenchResult:
        """Read what :meth:`to_dict` gave; it is not trusted.

        Args:
            data: what ``json.loads`` made of it.
            where: what errors call it.

        Raises:
            MeasureError: another version, or a field that is missing or of the wrong type.
        """
        return _parse(data, where)

    def to_json(self) -> str:
        """The record as JSON text."""
        return json.dumps(self.to_dict(), indent=1) + "\n"

    @staticmethod
    def read(path: Path) -> BenchResult:
        """Read a ``bench.json``.

        Raises:
            MeasureError: it cannot be read, or is none.
        """
        from yoloprune.texts import read_text

        try:
            return _parse(json.loads(read_text(path, MeasureError)), str(path))
        except (ValueError, RecursionError) as exc:
            raise MeasureError(f"{path}: is no JSON ({exc}).") from exc

    def to_csv(self) -> str:
        """One line a row, under a line of names; numbers as they are, times in milliseconds."""
        text = io.StringIO()
        rows = [_flat(self, row) for row in self.rows]
        writer = csv.DictWriter(text, list(rows[0]) if rows else [], lineterminator="\n")
        if rows:
            writer.writeheader()
            writer.writerows(rows)
        return text.getvalue()

    def to_markdown(self) -> str:
        """The takeaway, the table, and what is missing from it."""
        head = ("Model", "Runtime", "Batch", "Threads", "ms", "IQR", "p95", "Pictures/s")
        lines = [_cell(self.takeaway()), "", _line((*head, "Speed-up", "AP", "MB", "Agrees to"))]
        lines.append(_line(["---"] * (len(head) + 4)))
        lines += [_line(_shown(self, row)) for row in self.rows]
        lines += [
            "",
            "Speed-ups are against the baseline in the same runtime, with 95 % intervals.",
        ]
        if any(row.noisy for row in self.rows):
            lines.append("A ! marks times whose IQR exceeds 10 % of their median.")
        lines += ["", *(f"- Not measured: {_cell(why)}" for why in _missing(self))]
        return "\n".join(lines).rstrip() + "\n"


def versus(before: BenchRow, after: BenchRow) -> Versus:
    """How many times as fast ``after`` is as ``before``."""
    return speedup(before.times_ms, after.times_ms, (before.turns, after.turns))


def _headline(result: BenchResult) -> tuple[BenchRow, BenchRow] | None:
    """The row to name, and the baseline's that it is held against."""
    name = result.baseline.name
    pairs = []
    for row in (row for row in result.rows if row.model != name):
        place = (row.device, row.batch, row.threads)
        bases = [
            base
            for base in result.rows
            if base.model == name
            and base.precision == "fp32"
            and (base.device, base.batch, base.threads) == place
        ]
        if bases:
            pairs.append((row, min(bases, key=lambda base: base.median_ms)))
    close = [
        (row, base)
        for row, base in pairs
        if row.ap is not None and base.ap is not None and base.ap - row.ap <= SMALL_DROP
    ]
    fastest = sorted(close or pairs, key=lambda pair: pair[0].median_ms / pair[1].median_ms)
    return fastest[0] if fastest else None


def _where(row: BenchRow) -> str:
    threads = f", {row.threads} thread{'s' if row.threads > 1 else ''}"
    where = "" if row.device == "cpu" else f" on {row.device}"
    return f"{row.runtime} {row.precision}{where}{threads if row.device == 'cpu' else ''}"


def _flat(result: BenchResult, row: BenchRow) -> dict[str, Any]:
    model = next(model for model in result.models if model.name == row.model)
    against = result.versus(row)
    return {
        "model": plain(row.model), "baseline": model.baseline, "file": plain(row.file),
        "bytes": row.bytes, "params": model.params, "macs": model.macs,
        "runtime": row.runtime, "runtime_version": row.runtime_version, "device": row.device,
        "precision": row.precision, "batch": row.batch, "threads": row.threads,
        "median_ms": row.median_ms, "iqr_ms": row.iqr_ms, "p95_ms": row.p95_ms,
        "per_second": row.per_second, "noisy": row.noisy, "passes": len(row.times_ms),
        "pre_ms": row.pre_ms, "post_ms": row.post_ms, "peak_mb": row.peak_mb,
        **{name: row.metrics and row.metrics.get(name) for name in METRICS},
        "agreement": row.agreement,
        **{name: against and getattr(against, name) for name in ("ratio", "low", "high", "clear")},
        "kept_float": " ".join(row.kept_float), "notes": plain(" ".join(row.notes)),
    }  # fmt: skip


def _shown(result: BenchResult, row: BenchRow) -> list[str]:
    against = result.versus(row)
    own = row.model == result.baseline.name
    device = "" if row.device == "cpu" else f" ({row.device})"
    return [
        f"{row.model} (baseline)" if own else row.model,
        f"{row.runtime} {row.precision}{device}",
        str(row.batch),
        str(row.threads) if row.device == "cpu" else "",
        f"{row.median_ms:.2f}{' !' if row.noisy else ''}",
        f"{row.iqr_ms:.2f}",
        f"{row.p95_ms:.2f}",
        f"{row.per_second:.1f}",
        "" if own or against is None else against.words,
        "" if row.ap is None else f"{row.ap:.3f}",
        f"{row.bytes / 1e6:.2f}",
        "" if row.agreement is None else f"{row.agreement:.1g}",
    ]


def _missing(result: BenchResult) -> list[str]:
    failed = [
        f"{one.model} in {one.runtime} {one.precision}: {one.reason}" for one in result.failures
    ]
    return failed + [f"{runtime}: {why}" for runtime, why in result.absent.items()]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(map(_cell, cells))} |"


def _cell(text: str) -> str:
    return plain(text).replace("|", "\\|").replace("<", "&lt;")


def _parse(data: object, where: str) -> BenchResult:
    from pydantic import TypeAdapter, ValidationError

    if not isinstance(data, dict):
        raise MeasureError(f"{where}: expected an object, got {type(data).__name__}.")
    if data.get("version") != VERSION:
        raise MeasureError(
            f"{where}: version: this yoloprune reads {VERSION}, got {data.get('version')!r}."
        )
    try:
        made = TypeAdapter(BenchResult).validate_python(data)
        changes = tuple(
            replace(one, thumbnail=base64.b64decode(one.thumbnail, validate=True))
            for one in made.changes
        )
    except ValidationError as exc:
        first = exc.errors()[0]
        at = ".".join(map(str, first["loc"]))
        raise MeasureError(f"{where}: {at}: {plain(first['msg'])}.") from exc
    except binascii.Error as exc:
        raise MeasureError(f"{where}: changes: a thumbnail is no base64 ({exc}).") from exc
    return replace(made, changes=changes)
