"""Sensitivity: what each part of a network costs when it alone is pruned.

A part is a group of interchangeable channels, with those that a balance ties to it. Each is pruned
alone to several widths; what the network then sees is held against what it saw, before repair
(channels silenced, nothing is cut) and after it (cut and repaired). The curves that come of it can
set the shares of a cut under any budget: see :func:`by_curves`.

Reference: Li et al. 2017, Pruning Filters for Efficient ConvNets, section 3.2; the shares at equal
loss are those of PaddleSlim's ``get_ratios_by_loss``.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from yoloprune.channels.graph import BoolArray, ChannelGraph, IntArray
from yoloprune.errors import PlanError
from yoloprune.files import write_bytes
from yoloprune.prune.budget import Budget
from yoloprune.prune.cost import Costs
from yoloprune.prune.planner import Planner
from yoloprune.prune.score import Scores
from yoloprune.texts import read_text

VERSION = 1
SHARES = (0.25, 0.5, 0.75)
"""Of a part's channels that go, unless others are asked for."""
By = Literal["sight", "AP"]
"""What is measured: the distance of detections from the full network's, or AP lost."""
_MOST = 0.95
_BEYOND = 4.0
"""How much steeper a curve rises beyond what was measured."""

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Part:
    """Channels that are pruned together.

    Attributes:
        layers: paths of those that make them.
        units: int64, sorted.
    """

    layers: tuple[str, ...]
    units: IntArray

    @property
    def name(self) -> str:
        """Of its first layer."""
        return self.layers[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One part at one width.

    Attributes:
        part: its name.
        share: of its channels that was asked for.
        removed: share that went.
        macs: share of the network's multiply-adds that is left.
        before: what is lost with the channels silenced.
        after: what is lost once the cut network is repaired; None where nothing was repaired.
        seconds: that it took.
    """

    part: str
    share: float
    removed: float
    macs: float
    before: float
    after: float | None
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Sensitivity:
    """All that was measured of one network.

    Attributes:
        model: file name of the network.
        identity: of it, of the pictures and of how they were looked at.
        by: what was measured.
        full: what the full network has of it: its AP; 0 for a distance.
        criterion: that ranked channels within a part.
        measured: in the order of the network, widest cut last.
        version: of the JSON form.
    """

    model: str
    identity: str
    by: By
    full: float
    criterion: str
    measured: tuple[Measurement, ...] = ()
    version: int = VERSION

    def has(self, part: str, share: float) -> bool:
        """Whether it was measured."""
        return any(m.part == part and m.share == share for m in self.measured)

    def write(self, path: Path) -> None:
        """As JSON; the file is there whole or not at all."""
        write_bytes(path, (json.dumps(asdict(self), indent=1) + "\n").encode())

    @staticmethod
    def read(path: Path) -> Sensitivity:
        """Read what :meth:`write` wrote; the file is not trusted.

        Raises:
            PlanError: it cannot be read, or is something else.
        """
        return _parse(read_text(path, PlanError), path)


def parts(graph: ChannelGraph) -> list[Part]:
    """The parts of a network that have something to spare, in the order of its layers."""
    of_unit = np.zeros(graph.n_units, dtype=np.int64)
    for group in graph.groups:
        of_unit[group.units] = group.index
    label = np.arange(len(graph.groups))
    number = {group.index: i for i, group in enumerate(graph.groups)}
    for balance in graph.balances:
        tied = {number[int(i)] for part in balance.parts for i in np.unique(of_unit[part])}
        roots = {int(label[i]) for i in tied}
        label[np.isin(label, list(roots))] = min(roots)
    free, order = graph.prunable, {axis.module: i for i, axis in enumerate(graph.out_axes)}
    found = []
    for root in np.unique(label):
        groups = [graph.groups[i] for i in np.flatnonzero(label == root)]
        units = np.sort(np.concatenate([group.units for group in groups]))
        layers = sorted({p for group in groups for p in group.layers}, key=order.__getitem__)
        if layers and free[units].any():
            found.append(Part(tuple(layers), units))
    return sorted(found, key=lambda part: order[part.name])


def alone(
    planner: Planner, part: Part, scores: Scores, share: float, min_channels: int = 1
) -> IntArray:
    """The units that go where only one part is pruned.

    Args:
        planner: of the graph.
        part: that is pruned.
        scores: that rank its channels.
        share: of them that is to go.
        min_channels: that stay.

    Returns:
        int64, sorted; empty where floors allow nothing.
    """
    values = np.full_like(scores.values, np.nan)
    values[part.units] = scores.values[part.units]
    budget = Budget(percent=share, min_channels=min_channels, max_layer_prune=_MOST)
    return planner.choose(replace(scores, values=values), budget)


Meter = Callable[[IntArray], "tuple[float, float | None]"]
"""Takes units that go; gives what is lost before repair and after it."""


def wanted(
    graph: ChannelGraph, shares: Sequence[float], known: Sensitivity
) -> Iterator[tuple[Part, float]]:
    """What is still to be measured: all parts at the middle share first, so that half is a whole.

    Args:
        graph: the channels.
        shares: of each part.
        known: what was measured.
    """
    middle = sorted(shares, key=lambda share: (abs(share - 0.5), share))
    for share in middle:
        for part in parts(graph):
            if not known.has(part.name, share):
                yield part, share


def measure(
    planner: Planner, costs: Costs, part: Part, share: float, scores: Scores, meter: Meter
) -> Measurement | None:
    """Measure one part at one width; None where floors let nothing go.

    Args:
        planner: of the graph.
        costs: of its plans.
        part: that is pruned alone.
        share: of its channels.
        scores: that rank them.
        meter: what is lost.
    """
    start = time.perf_counter()
    remove = alone(planner, part, scores, share)
    if not remove.size:
        return None
    before, after = meter(remove)
    kept: BoolArray = np.ones(planner.graph.n_units, dtype=bool)
    kept[remove] = False
    return Measurement(
        part=part.name,
        share=share,
        removed=round(float((~kept[part.units]).mean()), 6),
        macs=costs.macs(kept) / costs.full.macs,
        before=before,
        after=after,
        seconds=round(time.perf_counter() - start, 3),
    )


def by_curves(scores: Scores, graph: ChannelGraph, found: Sensitivity) -> Scores:
    """Scores by which parts lose what costs alike: one threshold on what is lost.

    Within a part channels go in the order of ``scores``; a unit is worth what its part would lose,
    alone, were all before it and itself to go. Curves are made to rise, and rise steeply beyond
    what was measured.

    Args:
        scores: of every unit.
        graph: the channels.
        found: the curves, after repair where there are such.

    Returns:
        Scores that compare over the whole network; a part that was not measured has none.

    Raises:
        PlanError: the curves are of another network.
    """
    known: dict[str, list[Measurement]] = {}
    for one in found.measured:
        known.setdefault(one.part, []).append(one)
    there = parts(graph)
    strange = set(known) - {part.name for part in there}
    if strange:
        raise PlanError(
            f"--sensitivity: is of another network: it has no {min(strange)} that can be pruned."
        )
    values = np.full_like(scores.values, np.nan)
    for part in there:
        if part.name in known:
            x, y = _curve(known[part.name])
            for group in graph.groups:
                units = np.intersect1d(group.units, part.units)
                units = units[~np.isnan(scores.values[units])]
                order = np.argsort(scores.values[units], kind="stable")
                place = (np.arange(units.size) + 0.5) / max(units.size, 1)
                values[units[order]] = np.interp(place, x, y)
    missing = "no measured sensitivity"
    return Scores(values=values, criterion=f"sensitivity ({found.by})", missing=missing)


def _curve(measured: Sequence[Measurement]) -> tuple[FloatArray, FloatArray]:
    """Shares that go, and what is lost: rising, from nothing to all."""
    rows = sorted(measured, key=lambda m: m.removed)
    x = np.array([0.0, *(m.removed for m in rows)])
    lost = [m.before if m.after is None else m.after for m in rows]
    y = np.maximum.accumulate([0.0, *lost])
    y = y + 1e-9 * x  # so that places on a level are told apart
    slope = (y[-1] - y[-2]) / max(x[-1] - x[-2], 1e-6)
    return np.append(x, 1.0), np.append(y, y[-1] + _BEYOND * max(slope, 1e-9) * (1 - x[-1]))


def _parse(text: str, path: Path) -> Sensitivity:
    try:
        data = json.loads(text)
        if not isinstance(data, dict) or not isinstance(data.get("measured"), list):
            raise ValueError("measured: expected a list")
        rows = tuple(
            Measurement(**_checked(row, Measurement, f"measured[{i}].", _RANGES))
            for i, row in enumerate(data.pop("measured"))
        )
        known = {"version": VERSION, "measured": rows, **data}
        made = Sensitivity(**_checked(known, Sensitivity, "", {"full": (-math.inf, math.inf)}))
        if made.version != VERSION or made.by not in get_args(By):
            raise ValueError(
                f"version {made.version!r} or by {made.by!r} is none that is read here"
            )
        if not rows:
            raise ValueError("measured: holds no part, expected at least one")
    except (ValueError, RecursionError) as exc:
        raise PlanError(
            f"{path}: is no sensitivity file ({exc}). `yoloprune sensitivity` makes one."
        ) from exc
    return made


_RANGES = {
    "share": (0.0, 1.0),
    "removed": (0.0, 1.0),
    "macs": (0.0, 1.0 + 1e-9),
    "before": (-1.0, math.inf),
    "after": (-1.0, math.inf),
    "seconds": (-math.inf, math.inf),
}
"""What the numbers of a measurement can be: shares; losses, and small gains."""


def _checked(
    row: Any, kind: type, where: str, ranges: Mapping[str, tuple[float, float]]
) -> dict[str, Any]:
    """The fields of a record from a file.

    Raises:
        ValueError: one is missing, unknown, no number or out of range.
    """
    names = [field.name for field in fields(kind)]
    if not isinstance(row, dict):
        raise ValueError(f"{where.rstrip('.')}: expected an object")
    for name in names:
        if name not in row:
            raise ValueError(f"{where}{name}: is missing")
    for name, value in row.items():
        if name not in names:
            raise ValueError(f"{where}{name}: is unknown")
        if name not in ranges:
            if name in ("part", "model", "identity", "criterion") and not isinstance(value, str):
                raise ValueError(f"{where}{name}: got {value!r}, expected a text")
            continue
        low, high = ranges[name]
        if value is None and name == "after":
            continue
        fits = isinstance(value, int | float) and math.isfinite(value) and low <= value <= high
        if not fits or (value == 0 and name in ("share", "removed")):
            least = "above 0" if name in ("share", "removed") else f"from {low:g}"
            raise ValueError(f"{where}{name}: got {value!r}, expected a number {least} to {high:g}")
    return row
