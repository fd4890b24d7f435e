"""How much of a network is to go, in whatever the user counts, and what must stay."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from yoloprune.errors import PlanError
from yoloprune.prune.ratios import Rule, to_mapping

Precision = Literal["fp32", "fp16", "int8"]
"""How numbers are kept: in 4 bytes each, in 2, or in 1 for weights and in 4 for the rest."""
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
LIMITS = {
    "macs": "multiply-adds",
    "params": "parameters",
    "bytes": "bytes",
    "latency": "microseconds",
}
"""Flag of what may have a limit → its name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """How much is to go, and what must stay. Of several limits all hold.

    Attributes:
        percent: share of the prunable channels to remove over the whole network, in (0, 1).
        macs: multiply-adds that may stay at most: below 1 a share of the full network's, else so
            many.
        params: parameters, in the same way.
        bytes: of parameters and BatchNorm statistics, in the same way.
        precision: that ``bytes`` are counted in.
        latency: time of a pass, in the same way, amounts in microseconds; what it is measured in
            is no part of a budget.
        min_channels: every layer keeps at least so many channels (a narrower layer keeps all).
        max_layer_prune: no layer loses more than this share of its channels, in (0, 1].
        round_to: kept counts become multiples of this; what was no multiple may stay whole.
        max_drop: AP (top-1 of classifiers) that a cut may lose after repair, in [0, 1);
            ``slim`` searches the smallest cut that keeps to it.
        ratios: layers with shares of their own, which hold whatever else is asked for.
        blocks: whole residual blocks that go before any channel. Limits that are shares are of
            the network with them.

    Raises:
        PlanError: nothing is asked for, or a value is out of its range.
    """

    percent: float | None = None
    macs: float | None = None
    params: float | None = None
    bytes: float | None = None
    precision: Precision = "fp32"
    latency: float | None = None
    min_channels: int = 8
    max_layer_prune: float = 0.9
    round_to: int = 1
    max_drop: float | None = None
    ratios: tuple[Rule, ...] = ()
    blocks: int = 0

    def __post_init__(self) -> None:
        """Check every range."""
        blocks = self.blocks
        if isinstance(blocks, bool) or not isinstance(blocks, int) or blocks < 0:
            raise PlanError(f"--blocks: must be a whole number, at least 0, got {blocks}.")
        if not blocks and not self.takes_channels and self.max_drop is None:
            words = "takes nothing: --ratios sets bounds only" if self.ratios else "is empty"
            raise PlanError(
                f"budget: {words}. Give --percent, --macs, --params, --bytes or --latency."
            )
        drop = self.max_drop
        if drop is not None and not (is_number(drop) and 0 <= drop < 1):
            raise PlanError(f"--max-drop: must be at least 0 and below 1, got {drop}.")
        if self.percent is not None and not (is_number(self.percent) and 0 < self.percent < 1):
            raise PlanError(f"--percent: must be above 0 and below 1, got {self.percent}.")
        for name, limit in self.limits.items():
            if not is_number(limit) or limit <= 0 or limit == 1:
                raise PlanError(
                    f"--{name}: must be a share between 0 and 1, or an amount, got {limit}."
                )
        if self.precision not in PRECISIONS:
            raise PlanError(
                f"--precision: unknown, got {self.precision!r}, expected {', '.join(PRECISIONS)}."
            )
        if not is_number(self.max_layer_prune) or not 0 < self.max_layer_prune <= 1:
            raise PlanError(
                f"--max-layer-prune: must be above 0 and at most 1, got {self.max_layer_prune}."
            )
        for flag, value in (("min-channels", self.min_channels), ("round-to", self.round_to)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise PlanError(f"--{flag}: must be a whole number, at least 1, got {value}.")

    @property
    def takes_channels(self) -> bool:
        """Whether channels are to go by what a planner can count."""
        rules = any(rule.takes for rule in self.ratios)
        return self.percent is not None or bool(self.limits) or rules

    @property
    def limits(self) -> dict[str, float]:
        """Those that are set, by name."""
        found = {name: getattr(self, name) for name in LIMITS}
        return {name: limit for name, limit in found.items() if limit is not None}

    @property
    def asked(self) -> str:
        """In words."""
        parts = [] if self.percent is None else [f"{self.percent:.1%} of the channels gone"]
        for name, limit in self.limits.items():
            parts.append(f"at most {self.words(name, limit)}")
        if self.max_drop is not None:
            parts.append(f"at most {self.max_drop:g} of AP lost")
        if self.blocks:
            parts.insert(0, f"{self.blocks} block{'s' if self.blocks > 1 else ''} gone")
        if self.ratios:
            many = len(self.ratios)
            parts.append(f"ratios of {many} rule{'s' if many > 1 else ''}")
        return ", ".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; ``max_drop``, ``blocks`` and ``ratios`` only where they are set."""
        record = asdict(self)
        del record["ratios"], record["max_drop"], record["blocks"]
        if self.max_drop is not None:
            record["max_drop"] = self.max_drop
        if self.blocks:
            record["blocks"] = self.blocks
        return record | ({"ratios": to_mapping(self.ratios)} if self.ratios else {})

    def words(self, name: str, limit: float) -> str:
        """A limit, or what is held against it, in words."""
        if name == "latency":
            return f"{limit:.1%} of the latency" if limit < 1 else f"{limit / 1000:.4g} ms"
        what = f"{self.precision} bytes" if name == "bytes" else LIMITS[name]
        return f"{limit:.1%} of the {what}" if limit < 1 else f"{limit:,.0f} {what}"


def is_number(value: object) -> bool:
    """Whether it is one, and finite."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
