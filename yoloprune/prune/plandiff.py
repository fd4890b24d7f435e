"""Two plans side by side: what both remove, and what only one does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from yoloprune.prune.budget import Budget
from yoloprune.prune.plan import PrunePlan


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerDiff:
    """One layer that at least one of two plans cuts.

    Attributes:
        layer: its path.
        both: output channels that both remove, ascending.
        only_a, only_b: those that one alone removes.
    """

    layer: str
    both: tuple[int, ...]
    only_a: tuple[int, ...]
    only_b: tuple[int, ...]

    @property
    def overlap(self) -> float:
        """Share of the channels that either removes which both do, in [0, 1]."""
        return len(self.both) / max(len(self.both) + len(self.only_a) + len(self.only_b), 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class BlocksDiff:
    """Whole residual blocks that two plans take out.

    Attributes:
        both: names, in the first plan's order.
        only_a, only_b: those that one alone takes.
    """

    both: tuple[str, ...] = ()
    only_a: tuple[str, ...] = ()
    only_b: tuple[str, ...] = ()

    @property
    def same(self) -> bool:
        """Whether both take the same: if not, a layer's name may mean two."""
        return not self.only_a and not self.only_b


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanDiff:
    """Two plans.

    Attributes:
        same_model: whether both were made for one file by its digest; None where one of them
            does not say.
        settings: what differs of criterion, budget and source → both values.
        layers: those that at least one of them cuts, in the first plan's order, and then those
            of the second alone.
        blocks: whole blocks that go before any channel.
    """

    same_model: bool | None
    settings: Mapping[str, tuple[Any, Any]]
    layers: tuple[LayerDiff, ...]
    blocks: BlocksDiff = field(default_factory=BlocksDiff)

    @property
    def same_cut(self) -> bool:
        """Whether both remove the same blocks and channels."""
        return self.blocks.same and not any(layer.only_a or layer.only_b for layer in self.layers)

    @property
    def total(self) -> LayerDiff:
        """As if all layers were one: how many channels each removes; ``layer`` is empty."""
        rows = [(layer.both, layer.only_a, layer.only_b) for layer in self.layers]
        both, only_a, only_b = ([i for part in side for i in part] for side in _turned(rows))
        return LayerDiff(layer="", both=tuple(both), only_a=tuple(only_a), only_b=tuple(only_b))

    def to_dict(self) -> dict[str, Any]:
        """The record as JSON-able data."""
        total = self.total
        return {
            "same_model": self.same_model,
            "same_cut": self.same_cut,
            "blocks": asdict(self.blocks),
            "settings": {key: {"a": a, "b": b} for key, (a, b) in self.settings.items()},
            "layers": [{**asdict(layer), "overlap": layer.overlap} for layer in self.layers],
            "totals": {
                "both": len(total.both),
                "only_a": len(total.only_a),
                "only_b": len(total.only_b),
                "overlap": total.overlap,
            },
        }


def diff_plans(a: PrunePlan, b: PrunePlan) -> PlanDiff:
    """Compare two plans; neither model is needed.

    Args:
        a: one.
        b: the other.
    """
    return PlanDiff(
        same_model=_same_model(a, b),
        settings=dict(_settings(a, b)),
        layers=tuple(
            _layer(path, set(a.layers.get(path, ())), set(b.layers.get(path, ())))
            for path in dict.fromkeys((*a.layers, *b.layers))
        ),
        blocks=BlocksDiff(
            both=tuple(name for name in a.blocks if name in b.blocks),
            only_a=tuple(name for name in a.blocks if name not in b.blocks),
            only_b=tuple(name for name in b.blocks if name not in a.blocks),
        ),
    )


def _same_model(a: PrunePlan, b: PrunePlan) -> bool | None:
    first, second = (plan.source and plan.source.sha256 for plan in (a, b))
    return first == second if first and second else None


def _settings(a: PrunePlan, b: PrunePlan) -> Iterator[tuple[str, tuple[Any, Any]]]:
    """What differs beside the channels, by the name that the plan file has for it."""
    if a.criterion != b.criterion:
        yield "criterion", (a.criterion, b.criterion)
    for each in fields(Budget):
        values = getattr(a.budget, each.name), getattr(b.budget, each.name)
        if values[0] != values[1]:
            yield f"budget.{each.name}", values
    for key in ("path", "sha256"):
        sources = tuple(plan.source and getattr(plan.source, key) for plan in (a, b))
        if sources[0] != sources[1]:
            yield f"source.{key}", (sources[0], sources[1])
    for key in ("percent", "channels", "prunable_channels", "units"):
        reached = getattr(a.reached, key), getattr(b.reached, key)
        if reached[0] != reached[1]:
            yield f"reached.{key}", reached


def _layer(path: str, a: set[int], b: set[int]) -> LayerDiff:
    parts = (a & b, a - b, b - a)
    both, only_a, only_b = (tuple(sorted(part)) for part in parts)
    return LayerDiff(layer=path, both=both, only_a=only_a, only_b=only_b)


def _turned(rows: Sequence[Sequence[tuple[int, ...]]]) -> list[list[tuple[int, ...]]]:
    return [[row[i] for row in rows] for i in range(3)]
