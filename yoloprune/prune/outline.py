"""What a plan would do, layer by layer and in all, before anything is cut."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from yoloprune.channels.graph import BoolArray, ChannelGraph, IntArray
from yoloprune.measure.size import Size
from yoloprune.prune.budget import Budget
from yoloprune.prune.clock import Clock
from yoloprune.prune.cost import Cost, Costs
from yoloprune.prune.patches import LAYERS
from yoloprune.prune.plan import PrunePlan

if TYPE_CHECKING:
    from torch import nn

Milliseconds = Callable[[str, BoolArray], float | None]
"""Path of a layer, bool ``[n_units]`` of the units that are kept → its milliseconds; None where
they are not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One layer with weights.

    Attributes:
        layer: its path.
        type: name of its class.
        before, after: output channels.
        macs_before, macs_after: multiply-adds of one image.
        frozen: how many of its output channels must stay.
        why: reasons for that → how many channels each keeps, the commonest first.
        ms_before, ms_after: milliseconds, where somebody knows them.
    """

    layer: str
    type: str
    before: int
    after: int
    macs_before: int
    macs_after: int
    frozen: int
    why: Mapping[str, int]
    ms_before: float | None = None
    ms_after: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """What a budget asks for, and what there is.

    Attributes:
        name: ``percent`` (share of the prunable channels that goes, at least), ``macs``,
            ``params``, ``bytes`` or ``latency`` in microseconds (that stay, at most).
        asked: the amount.
        reached: what the plan comes to.
    """

    name: str
    asked: float
    reached: float

    @property
    def holds(self) -> bool:
        """Whether it is met."""
        if self.name == "percent":
            return self.reached >= self.asked - 1e-9
        return self.reached <= self.asked


@dataclass(frozen=True, slots=True, kw_only=True)
class Outline:
    """A plan beside the network that it is for.

    Attributes:
        lines: of every layer with weights, in network order.
        before, after: cost of the whole network, exactly.
        elsewhere: multiply-adds before and after of what is no layer with weights (products of
            activations in attention).
        limits: what was asked for.
    """

    lines: tuple[Line, ...]
    before: Cost
    after: Cost
    elsewhere: tuple[int, int]
    limits: tuple[Limit, ...]

    def to_dict(self) -> dict[str, Any]:
        """The record as JSON-able data."""
        layers = []
        for line in self.lines:
            row = {**asdict(line), "why": dict(line.why)}
            if line.ms_before is None and line.ms_after is None:
                del row["ms_before"], row["ms_after"]
            layers.append(row)
        return {
            "layers": layers,
            "before": _cost(self.before),
            "after": _cost(self.after),
            "elsewhere": {"macs_before": self.elsewhere[0], "macs_after": self.elsewhere[1]},
            "limits": [{**asdict(limit), "holds": limit.holds} for limit in self.limits],
        }


def outline(
    model: nn.Module,
    graph: ChannelGraph,
    plan: PrunePlan,
    size: Size,
    milliseconds: Milliseconds | None = None,
    clock: Clock | None = None,
    budget: Budget | None = None,
) -> Outline:
    """Lay out what a plan does.

    Args:
        model: full size.
        graph: its channels.
        plan: which of them go.
        size: of the model, layer by layer.
        milliseconds: of a layer at a width, if somebody knows; the clock's, if there is one.
        clock: what plans take; a limit to latency is left out without it.
        budget: the plan's, where its shares are not of ``model``; None for the plan's own.

    Raises:
        PlanError: the plan does not fit the graph.
    """
    costs = Costs(model, graph, size, clock)
    full = np.ones(graph.n_units, dtype=bool)
    kept = full.copy()
    kept[plan.remove(graph)] = False
    widths = _widths(model, graph)
    if milliseconds is None and clock is not None:
        before_ms, after_ms = clock.by_module(full), clock.by_module(kept)

        def milliseconds(path: str, units: BoolArray) -> float | None:
            return (before_ms if units is full else after_ms).get(path)

    lines = []
    for layer in size.layers:
        units = widths.get(layer.name)
        if units is None:
            continue
        why = Counter(graph.frozen[int(u)] for u in units if int(u) in graph.frozen)
        lines.append(
            Line(
                layer=layer.name,
                type=layer.type,
                before=units.size,
                after=int(np.count_nonzero(kept[units])),
                macs_before=costs.layer(layer.name, full),
                macs_after=costs.layer(layer.name, kept),
                frozen=why.total(),
                why=dict(why.most_common()),
                ms_before=None if milliseconds is None else milliseconds(layer.name, full),
                ms_after=None if milliseconds is None else milliseconds(layer.name, kept),
            )
        )
    before, after = costs.full, costs.of(kept)
    elsewhere = (
        before.macs - sum(line.macs_before for line in lines),
        after.macs - sum(line.macs_after for line in lines),
    )
    return Outline(
        lines=tuple(lines),
        before=before,
        after=after,
        elsewhere=elsewhere,
        limits=_limits(plan, budget or plan.budget, costs, kept),
    )


def _widths(model: nn.Module, graph: ChannelGraph) -> dict[str, IntArray]:
    """Path of each convolution or linear layer → the unit of each of its outputs."""
    found = {axis.module: axis.units.ravel() for axis in graph.out_axes}
    for axis in graph.axes:  # a depthwise one creates no channels, it passes them on
        weight = axis.role == "affine" and axis.tensor.endswith(".weight")
        if weight and isinstance(model.get_submodule(axis.module), LAYERS):
            found.setdefault(axis.module, axis.units.ravel())
    return found


def _limits(plan: PrunePlan, budget: Budget, costs: Costs, kept: BoolArray) -> tuple[Limit, ...]:
    found = []
    if budget.percent is not None:
        found.append(Limit(name="percent", asked=budget.percent, reached=plan.reached.percent))
    if costs.clock is None and budget.latency is not None:
        budget = replace(budget, latency=None, percent=0.5)  # a budget is never empty
    there = costs.limited(kept, budget)
    for name, asked in costs.limits(budget).items():
        found.append(Limit(name=name, asked=asked, reached=there[name]))
    return tuple(found)


def _cost(cost: Cost) -> dict[str, Any]:
    return {"macs": cost.macs, "params": cost.params, "tensor_bytes": dict(cost.bytes)}
