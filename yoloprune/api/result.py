"""What ``yoloprune.slim`` gives: the network, the plan, the numbers, and how to keep them."""

from __future__ import annotations

import html
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from yoloprune.api.wording import REPLACE, in_arguments, speaks_arguments
from yoloprune.errors import YoloPruneError
from yoloprune.files import check_writable, held, keep_results, write_bytes
from yoloprune.measure.size import file_bytes
from yoloprune.models.door import Source, save
from yoloprune.plain import plain
from yoloprune.prune.ready import stem_of
from yoloprune.report.figures import short
from yoloprune.report.sides import compare
from yoloprune.report.slim import layers_of, write_slim_page

if TYPE_CHECKING:
    from torch import nn

    from yoloprune.channels.graph import ChannelGraph
    from yoloprune.measure.changed import Changed
    from yoloprune.prune.plan import PrunePlan
    from yoloprune.prune.repair import RepairRecord
    from yoloprune.prune.score import Scores
    from yoloprune.prune.slim import SlimResult


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows to read, or to compute with.

    Attributes:
        title: what they are of.
        columns: names.
        rows: as people read them, texts.
        values: the same as numbers and texts, one mapping a row.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    values: tuple[Mapping[str, Any], ...]

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        return iter(self.values)

    def __len__(self) -> int:
        return len(self.rows)

    def __str__(self) -> str:
        shown = [self.columns, *self.rows]
        widths = [max(len(row[i]) for row in shown) for i in range(len(self.columns))]
        lines = [self.title]
        for row in shown:
            first = row[0].ljust(widths[0])
            rest = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
            lines.append("  ".join([first, *rest]).rstrip())
        return "\n".join(lines)

    def to_pandas(self) -> Any:
        """A ``pandas.DataFrame`` of :attr:`values`.

        Raises:
            YoloPruneError: pandas is not installed.
        """
        try:
            import pandas  # type: ignore[import-untyped,import-not-found,unused-ignore]
        except ImportError as exc:
            raise YoloPruneError("to_pandas: needs pandas, which is not installed.") from exc
        return pandas.DataFrame.from_records(list(self.values))

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{html.escape(name)}</th>" for name in self.columns)
        body = "".join(
            "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>"
            for row in self.rows
        )
        title = f"<caption>{html.escape(self.title)}</caption>"
        return f"<table>{title}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Slimmed:
    """A slimmed network, and how it came about.

    Attributes:
        model: the slim network, of the classes of the one that was given.
        plan: which output channels of which layers went.
        graph: the channels of the full network that they were chosen from.
        scores: what each unit was worth; NaN where it was not compared.
        repair: what was fitted anew; None where nothing was.
        record: all numbers, JSON-able, as ``yoloprune slim --json`` writes them.
        changed: what it sees beside the full network; None without labelled pictures.
    """

    model: nn.Module
    plan: PrunePlan
    graph: ChannelGraph
    scores: Scores
    repair: RepairRecord | None
    record: dict[str, Any] = field(repr=False)
    changed: Changed | None = None
    _stem: str
    _source: Source | None
    _detector: bool

    @property
    def metrics(self) -> dict[str, dict[str, float]]:
        """Numbers ``before`` and ``after``.

        ``params``, ``macs`` of one input, ``bytes`` that are held, ``latency_ms`` where it was
        timed, AP and the like (fractions) where there was data.
        """
        return {
            side: {
                key: value
                for key, value in self.record[side].items()
                if isinstance(value, int | float) and not isinstance(value, bool)
            }
            for side in ("before", "after")
        }

    @property
    def verdict(self) -> str:
        """How it stands with the slim network, in a sentence, and the next step."""
        found = self.record["verdict"]
        return in_arguments(f"the slim network {found['words']}; next: {found['next']}")

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a reader should know, a sentence each."""
        return tuple(map(in_arguments, self.record["warnings"]))

    def table(self) -> Table:
        """Before and after, a row a quantity."""
        before, after = self.metrics["before"], self.metrics["after"]
        keys = {key: key for key in before if key in after}
        rows = compare(before, after, held=True)
        return Table(
            title=f"{plain(self._stem)}: {self.plan.budget.asked}",
            columns=("", "before", "after", "change"),
            rows=tuple((row.name, row.before, row.after, row.change) for row in rows),
            values=tuple(
                {"quantity": key, "before": before[key], "after": after[key]} for key in keys
            ),
        )

    def layers(self) -> Table:
        """Output channels of every layer before and after, and why channels had to stay."""
        why = _reasons(self.graph)
        rows = [
            {"layer": w.path, "before": w.before, "after": w.after, "kept": why.get(w.path, "")}
            for w in layers_of(self.graph, self.plan, {})
        ]
        return Table(
            title=f"{plain(self._stem)}: channels",
            columns=("layer", "before", "after", "must stay because"),
            rows=tuple(tuple(plain(str(value)) for value in row.values()) for row in rows),
            values=tuple(rows),
        )

    @speaks_arguments
    def report(self, path: str | PathLike[str]) -> Path:
        """Write one HTML page that needs nothing else to be read.

        Args:
            path: the file; its folder is made where there is none, an old one is replaced.

        Raises:
            YoloPruneError: it cannot be written.
        """
        return self._page(Path(path), self.record)

    @speaks_arguments
    def save(self, folder: str | PathLike[str], *, overwrite: bool = False) -> tuple[Path, ...]:
        """Write the network, its plan and its report.

        A detector is written in its family's own format (``.cfg`` and ``.weights``, or a ``.pt``
        that Ultralytics loads); any other network as ``torch.save`` writes a module:
        ``torch.load(file, weights_only=False)`` gives it back where its classes can be imported.

        Args:
            folder: is made where there is none.
            overwrite: replace what an earlier save left there.

        Returns:
            The files, the network's first.

        Raises:
            YoloPruneError: there are results already, it cannot be written, or the network cannot
                be pickled.
        """
        place, name = Path(folder), f"{self._stem}-slim"
        check_writable(place)
        with held(place, alone=True):
            if not overwrite:
                _refuse(place, name)
            if self._detector:
                files = save(self.model, place / name)
            else:
                files = (_pickled(self.model, place / f"{name}.pt"),)
            plan, page = (
                place / f"{files[0].stem}-plan.json",
                place / f"{files[0].stem}-report.html",
            )
            self.plan.write(plan)
            record = self._saved(files)
            record["files"] = {"model": [str(f) for f in files], "plan": str(plan)}
            self._page(page, record)
        return (*files, plan, page)

    def _page(self, path: Path, record: Mapping[str, Any]) -> Path:
        return write_slim_page(path, record, self.plan, self.graph, self.scores, self.changed)

    def _saved(self, files: Sequence[Path]) -> dict[str, Any]:
        """The record with the bytes of files, where both sides have some."""
        source, record = self._source, dict(self.record)
        if source is not None and source.parameters.is_file():
            origin = (source.model, source.weights) if source.weights else (source.model,)
            record["before"] = {**record["before"], "bytes": file_bytes(origin)}
            record["after"] = {**record["after"], "bytes": file_bytes(files)}
        return record

    def __repr__(self) -> str:
        before, after = self.metrics["before"], self.metrics["after"]
        shares = [
            f"{key} {after[key] / before[key]:.1%} of {short(before[key])}"
            for key in ("params", "macs")
        ]
        ap = (
            [f"AP {before['AP']:.3f} → {after['AP']:.3f}"] if {"AP"} <= {*before} & {*after} else []
        )
        return f"<Slimmed {plain(self._stem)}: {', '.join([*shares, *ap])}>"

    def _repr_html_(self) -> str:
        return f"{self.table()._repr_html_()}<p>{html.escape(self.verdict)}</p>"


def slimmed(
    found: SlimResult, model: nn.Module, source: Source | None, *, detector: bool
) -> Slimmed:
    """The result of the pipeline as users get it."""
    return Slimmed(
        model=found.model,
        plan=found.plan,
        graph=found.graph,
        scores=found.scores,
        repair=found.repair,
        record=found.summary,
        changed=found.changed,
        _stem=stem_of(model, source),
        _source=source,
        _detector=detector,
    )


def _reasons(graph: ChannelGraph) -> dict[str, str]:
    """Layer → the first reason why one of its channels must stay."""
    found = {}
    for axis in graph.out_axes:
        why = next((r for u in axis.units.ravel() if (r := graph.frozen.get(int(u)))), None)
        if why is not None:
            found[axis.module] = why
    return found


def _refuse(folder: Path, name: str) -> None:
    ends = (".cfg", ".weights", ".names", ".pt", "-plan.json", "-report.html")
    there = (path for end in ends if (path := folder / f"{name}{end}").exists())
    keep_results(folder, there, REPLACE)


def _pickled(model: nn.Module, path: Path) -> Path:
    """A module as ``torch.save`` writes it; the file is there whole or not at all."""
    buffer = io.BytesIO()
    try:
        torch.save(model, buffer)
    except Exception as exc:  # pickling runs foreign code
        raise YoloPruneError(
            f"{type(model).__name__}: cannot be pickled, got {exc}. Keep the numbers instead: "
            "torch.save(result.model.state_dict(), file)."
        ) from exc
    write_bytes(path, buffer.getvalue())
    return path
