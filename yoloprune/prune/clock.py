"""What a plan takes in time, told from a table that was measured once.

A network's time is the sum of its modules' times as the runtime itself tells them while whole
networks run, so that what happens between layers (a change of layout, a copy) is counted where it
arises. A module's time is a sum of a few products of how many channels it reads and writes; the
factors are fitted to networks of many widths, see :mod:`yoloprune.prune.profile`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from yoloprune.channels.graph import BoolArray, ChannelGraph, IntArray
from yoloprune.errors import PlanError
from yoloprune.files import write_bytes
from yoloprune.measure.runtimes import RuntimeOptions
from yoloprune.texts import read_text

VERSION = 1
BLOCKS = (1, 8, 16, 32)
"""Channels that a kernel computes at once: counts are rounded up to multiples of them."""
FEATURES = 3 + len(BLOCKS)
"""Of a module: one, channels read, channels written, and their products by blocks."""

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Timed:
    """One network that a table was made from.

    Attributes:
        macs: share of the full network's multiply-adds.
        ms: lower quartile of the times of a pass.
        spread: distance between the quartiles as a share of it.
        predicted: what a table made without this network says.
    """

    macs: float
    ms: float
    spread: float
    predicted: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyTable:
    """How long every module of one network takes, at any width.

    Attributes:
        model: file name of the network.
        structure: digest of the layers and their shapes; a table is of one structure.
        runtime: where and how the network ran.
        version_of: the runtime.
        machine: name of the processor or GPU.
        full: milliseconds of the full network.
        modules: path → milliseconds by each feature.
        networks: that it was made from.
        version: of the JSON form.
    """

    model: str
    structure: str
    runtime: RuntimeOptions
    version_of: str
    machine: str
    full: float
    modules: Mapping[str, tuple[float, ...]]
    networks: tuple[Timed, ...]
    version: int = VERSION

    @property
    def errors(self) -> list[float]:
        """Of networks that were not seen, as shares of what they take, ascending."""
        return sorted(abs(one.predicted / one.ms - 1) for one in self.networks)

    def write(self, path: Path) -> None:
        """As JSON; the file is there whole or not at all."""
        write_bytes(path, (json.dumps(asdict(self), indent=1) + "\n").encode())

    @staticmethod
    def read(path: Path) -> LatencyTable:
        """Read what :meth:`write` wrote; the file is not trusted.

        Raises:
            PlanError: it cannot be read, or is something else.
        """
        return _parse(read_text(path, PlanError), path)


class Clock:
    """Milliseconds of any plan of one network, by a table."""

    def __init__(self, graph: ChannelGraph, table: LatencyTable) -> None:
        """Take the network's channels, and the table.

        Raises:
            PlanError: the table is of another network.
        """
        self.table = table
        self._reader = Reader(graph)
        strange = set(table.modules) - set(self._reader.paths)
        if strange:
            raise PlanError(
                f"--latency-table: is of another network ({table.model}): this one has no "
                f"{min(strange)}."
            )
        zero = (0.0,) * FEATURES
        self._factors = np.array([table.modules.get(path, zero) for path in self._reader.paths])

    def ms(self, kept: BoolArray) -> float:
        """Of the network in which these units are kept, bool ``[n_units]``."""
        return float((self._reader.features(kept) * self._factors).sum())

    def by_module(self, kept: BoolArray) -> dict[str, float]:
        """As :meth:`ms`, of each module by itself."""
        each = (self._reader.features(kept) * self._factors).sum(1)
        return dict(zip(self._reader.paths, map(float, each), strict=True))


class Reader:
    """Reads off the features of every module under a plan.

    Attributes:
        paths: of the modules, in the order of rows.
        heavy: bool ``[modules]``: those with weights that make channels.
    """

    def __init__(self, graph: ChannelGraph) -> None:
        """Sort what there is to be counted."""
        weights = {
            (axis.module, axis.role): axis.units.ravel()
            for axis in graph.axes
            if axis.tensor.endswith(".weight")
        }
        self.paths = tuple(flow.module for flow in graph.flows)
        self.heavy = np.array([(path, "out") in weights for path in self.paths], dtype=bool)
        self._read = _Counts(_one(flow.entered) for flow in graph.flows)
        self._written = _Counts(_one(flow.left) for flow in graph.flows)
        nothing = np.zeros(0, dtype=np.int64)
        self._out = _Counts(weights.get((path, "out"), nothing) for path in self.paths)
        self._in = _Counts(
            weights.get((f.module, "in"), _one(f.entered) if heavy else nothing)
            for f, heavy in zip(graph.flows, self.heavy, strict=True)
        )

    def features(self, kept: BoolArray) -> FloatArray:
        """Float64 ``[modules, FEATURES]``."""
        kept = np.append(kept, True)  # which stands for no unit
        columns = [np.ones(len(self.paths)), self._read.of(kept), self._written.of(kept)]
        into, out = self._in.of(kept), self._out.of(kept)
        into = np.maximum(into, self.heavy)  # a picture has channels, too
        for block in BLOCKS:
            columns.append(_whole(into, block) * _whole(out, block))
        return np.stack(columns, axis=1).astype(np.float64)


class _Counts:
    """How many units of each of many lists are kept."""

    def __init__(self, lists: Iterable[IntArray]) -> None:
        found = list(lists)
        self._units = np.concatenate([*found, np.zeros(1, dtype=np.int64)])
        self._ends = np.cumsum([units.size for units in found])

    def of(self, kept: BoolArray) -> IntArray:
        running = np.concatenate(([0], np.cumsum(kept[self._units])))[self._ends]
        counts: IntArray = np.diff(running, prepend=0)
        return counts


def _one(lists: Sequence[IntArray]) -> IntArray:
    return np.concatenate(lists) if lists else np.zeros(0, dtype=np.int64)


def _whole(count: IntArray, block: int) -> IntArray:
    return -(-count // block) * block


def _parse(text: str, path: Path) -> LatencyTable:
    try:
        data: dict[str, Any] = json.loads(text)
        if data["version"] != VERSION:
            raise ValueError(f"version {data['version']}, expected {VERSION}")
        runtime = dict(data.pop("runtime"))
        height, width = runtime.pop("imgsz")
        networks = tuple(Timed(**row) for row in data.pop("networks"))
        modules = {str(k): tuple(map(float, v)) for k, v in data.pop("modules").items()}
        table = LatencyTable(
            **data, networks=networks, modules=modules,
            runtime=RuntimeOptions(**runtime, imgsz=(int(height), int(width))),
        )  # fmt: skip
        numbers = [table.full, *(n for v in modules.values() for n in v)]
        numbers += [n for one in networks for n in (one.macs, one.ms, one.spread, one.predicted)]
        if not all(np.isfinite(n) and n >= 0 for n in numbers) or not table.full:
            raise ValueError("a time is negative or not finite")
        if any(len(v) != FEATURES for v in modules.values()) or not networks:
            raise ValueError("a module has too few or too many numbers, or there is no network")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as exc:
        raise PlanError(
            f"{path}: is no latency table ({exc}). `yoloprune profile` makes one."
        ) from exc
    return table
