"""What a plan is: which channels go, in a form that can be read, kept and repeated.

:mod:`yoloprune.prune.planner` makes plans; :mod:`yoloprune.prune.cut` carries them out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

from yoloprune.channels.graph import ChannelGraph, IntArray
from yoloprune.channels.producers import layers_to_remove
from yoloprune.errors import PlanError
from yoloprune.files import write_bytes
from yoloprune.prune.budget import LIMITS, Budget, is_number
from yoloprune.prune.ratios import parse_ratios
from yoloprune.texts import read_text

VERSION = 3
READS = (1, 2, 3)
"""Versions of the JSON form; 1 knew budgets in percent only, 2 none of latency."""
_SINCE = {"macs": 2, "params": 2, "bytes": 2, "latency": 3}
"""Limit of a budget → version that first knew it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """The model file that a plan was made for.

    Attributes:
        path: its name.
        sha256: hex digest of its weights, or ``None`` where there is no such file.
    """

    path: str
    sha256: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reached:
    """What a plan removes, against what was asked.

    Attributes:
        percent: removed share of the prunable channels, in [0, 1].
        channels: conv and linear output channels removed.
        prunable_channels: how many could have been.
        units: units removed.
        threshold: highest score among the removed; 0 where nothing is, or none was scored.
    """

    percent: float
    channels: int
    prunable_channels: int
    units: int
    threshold: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PrunePlan:
    """Which output channels of which layers go. No tensors: it can be read and mailed.

    Attributes:
        criterion: name of the scores that it was made from.
        budget: what was asked.
        reached: what it does.
        layers: path of each layer that loses channels → the output indices that it loses,
            ascending. Empty: the identity.
        source: the model file it was made for.
        blocks: names of whole residual blocks that go first, as the full network has them. The
            layers are those of the network without them.
        notes: what a reader should know, a sentence each: floors that held the plan back,
            channels that had no score.
        version: of the JSON form.
    """

    criterion: str
    budget: Budget
    reached: Reached
    layers: Mapping[str, tuple[int, ...]]
    source: Origin | None = None
    blocks: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    version: int = VERSION

    def remove(self, graph: ChannelGraph) -> IntArray:
        """Int64, sorted: the units of ``graph`` that go.

        Raises:
            PlanError: the plan does not fit the graph.
        """
        return layers_to_remove(graph, {path: list(out) for path, out in self.layers.items()})

    def to_json(self) -> str:
        """The plan as JSON text, one line a layer."""
        head = {
            "version": self.version,
            "source": None if self.source is None else asdict(self.source),
            "criterion": self.criterion,
            "budget": self.budget.to_dict(),
            "reached": asdict(self.reached),
            "notes": list(self.notes),
            **({"blocks": list(self.blocks)} if self.blocks else {}),
        }
        rows = (
            f"    {json.dumps(path)}: {json.dumps(list(out))}" for path, out in self.layers.items()
        )
        body = ",\n".join(rows)
        layers = f"{{\n{body}\n  }}" if body else "{}"
        return f'{json.dumps(head, indent=2)[:-2]},\n  "layers": {layers}\n}}\n'

    @staticmethod
    def from_json(text: str, where: str = "plan") -> PrunePlan:
        """Read what :meth:`to_json` wrote; the text is not trusted.

        Args:
            text: JSON.
            where: what errors call it, usually its file name.

        Raises:
            PlanError: not JSON, another version, or a field that is missing, unknown, of the
                wrong type or out of range, named by its path.
        """
        return _parse(text, where)

    def write(self, path: Path) -> None:
        """Write the JSON form; the file is there whole or not at all.

        Raises:
            YoloPruneError: the place cannot be written.
        """
        write_bytes(path, self.to_json().encode())

    @staticmethod
    def read(path: Path) -> PrunePlan:
        """Read a plan file.

        Raises:
            PlanError: it cannot be read, or is no plan.
        """
        return _parse(read_text(path, PlanError), str(path))


def _parse(text: str, where: str) -> PrunePlan:
    """As :meth:`PrunePlan.from_json`."""
    try:
        data = json.loads(text, object_pairs_hook=_without_repeats)
    except (ValueError, RecursionError) as exc:
        raise PlanError(f"{where}: is not a JSON plan ({exc}).") from exc
    root = _Fields(data, where, "")
    version = root.integer("version")
    if version not in READS:
        known = ", ".join(map(str, READS))
        raise PlanError(
            f"{where}: version: this yoloprune reads {known}, got {version}. Make the plan again."
        )
    source = root.value("source")
    layers = root.fields("layers")
    made = PrunePlan(
        source=None if source is None else _parse_origin(root.fields("source")),
        criterion=root.text("criterion"),
        budget=_parse_budget(root.fields("budget"), version),
        reached=_parse_reached(root.fields("reached")),
        notes=tuple(root.texts("notes")),
        blocks=tuple(root.texts("blocks")) if "blocks" in root.data else (),
        layers={path: layers.indices(path) for path in layers.data},
    )
    root.done()
    return made


def _parse_origin(fields: _Fields) -> Origin:
    sha256 = fields.value("sha256")
    origin = Origin(
        path=fields.text("path"), sha256=None if sha256 is None else fields.text("sha256")
    )
    fields.done()
    return origin


def _parse_budget(fields: _Fields, version: int) -> Budget:
    values: dict[str, Any] = {
        name: None if fields.value(name) is None else fields.number(name)
        for name in ("percent", *(name for name in LIMITS if version >= _SINCE[name]))
    }
    if version > 1:
        values["precision"] = fields.text("precision")
    values |= {
        "min_channels": fields.integer("min_channels"),
        "max_layer_prune": fields.number("max_layer_prune"),
        "round_to": fields.integer("round_to"),
    }
    if "blocks" in fields.data:  # these three are there only where they were asked for
        values["blocks"] = fields.integer("blocks")
    if "max_drop" in fields.data:
        values["max_drop"] = fields.number("max_drop")
    if "ratios" in fields.data:
        at = f"{fields.where}: budget.ratios"
        values["ratios"] = parse_ratios(fields.value("ratios"), at)
    fields.done()
    try:
        return Budget(**values)
    except PlanError as exc:
        raise PlanError(f"{fields.where}: budget: {exc}") from exc


def _parse_reached(fields: _Fields) -> Reached:
    reached = Reached(
        percent=fields.number("percent"),
        channels=fields.integer("channels"),
        prunable_channels=fields.integer("prunable_channels"),
        units=fields.integer("units"),
        threshold=fields.number("threshold"),
    )
    fields.done()
    return reached


class _Fields:
    """Typed access to one JSON object; every error names the path of what is wrong."""

    def __init__(self, data: object, where: str, path: str) -> None:
        self.where, self._path, self._seen = where, path, set[str]()
        if not isinstance(data, dict):
            self._wrong(path or "plan", data, "an object")
        self.data: dict[str, Any] = data

    def value(self, key: str) -> Any:
        if key not in self.data:
            raise PlanError(f"{self.where}: {self._at(key)}: is missing.")
        self._seen.add(key)
        return self.data[key]

    def fields(self, key: str) -> _Fields:
        return _Fields(self.value(key), self.where, self._at(key))

    def text(self, key: str) -> str:
        value = self.value(key)
        return value if isinstance(value, str) else self._wrong(self._at(key), value, "text")

    def texts(self, key: str) -> list[str]:
        value = self.value(key)
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            self._wrong(self._at(key), value, "a list of texts")
        return list(value)

    def number(self, key: str) -> float:
        value = self.value(key)
        if not is_number(value):
            self._wrong(self._at(key), value, "a finite number")
        return float(value)

    def integer(self, key: str) -> int:
        value = self.value(key)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            self._wrong(self._at(key), value, "a whole number, at least 0")
        return int(value)

    def indices(self, key: str) -> tuple[int, ...]:
        value = self.value(key)
        at = self._at(key)
        if not isinstance(value, list) or not value:
            self._wrong(at, value, "a list of output indices")
        last = -1
        for i, index in enumerate(value):
            if isinstance(index, bool) or not isinstance(index, int) or index <= last:
                self._wrong(f"{at}[{i}]", index, f"an index above {last}")
            last = index
        return tuple(value)

    def done(self) -> None:
        """Refuse what nobody asked for: it may be of a later version, or misspelt."""
        for key in self.data:
            if key not in self._seen:
                raise PlanError(f"{self.where}: {self._at(key)}: is unknown.")

    def _at(self, key: str) -> str:
        return f"{self._path}.{key}" if self._path else key

    def _wrong(self, at: str, value: object, expected: str) -> NoReturn:
        shown = repr(value)
        shown = shown if len(shown) <= 40 else f"{shown[:37]}..."
        raise PlanError(f"{self.where}: {at}: got {shown}, expected {expected}.")


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data: dict[str, Any] = {}
    for key, value in pairs:
        if key in data:
            raise ValueError(f"{key} stands twice in one object")
        data[key] = value
    return data
