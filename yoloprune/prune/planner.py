"""Which channels go: scores and a budget in, a :class:`~yoloprune.prune.plan.PrunePlan` out.

The planner sees scores, never weights, and takes every decision; :mod:`yoloprune.prune.cut` takes
none. Training that prepares a cut asks the same :class:`Planner`, so that what it shrinks is
what the cut removes.

How it chooses:

1. **Bundles.** Where equal counts are asked for (:class:`~yoloprune.channels.graph.Balance`),
   the units of the parts are paired rank by rank and each pair stands or falls as one bundle.
   Whatever set of whole bundles goes, the counts stay equal, also where balances overlap.
2. **Floors.** Bundles are taken in order of score; one that would bring a layer under its
   floor, or empty any tensor, is passed over. Rules for single layers (``Budget.ratios``) come
   first: the lowest bundles of a layer that must lose a share stand before all others and go
   whatever the budget, and floors are never less than what the rules allow.
3. **Threshold.** The fewest first bundles go with which the percent is reached and every limit
   (multiply-adds, parameters, bytes) holds.
4. **Rounding.** Every group and layer takes back its best removed bundles until its count is a
   multiple of ``round_to`` or whole; the threshold moves on until all of 3 is reached again.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from yoloprune.channels.graph import BoolArray, ChannelGraph, IntArray
from yoloprune.channels.producers import remove_to_layers
from yoloprune.errors import PlanError
from yoloprune.prune.bounds import Bounds, forced
from yoloprune.prune.budget import Budget
from yoloprune.prune.bundles import (
    Bundles,
    Counts,
    Entries,
    distinct_axes,
    join,
    levels,
    mask,
    reach,
)
from yoloprune.prune.cost import Costs
from yoloprune.prune.plan import Origin, PrunePlan, Reached
from yoloprune.prune.ratios import Rule
from yoloprune.prune.score import Scores, reduce_by_label


def plan(
    graph: ChannelGraph, scores: Scores, budget: Budget, source: Origin | None = None
) -> PrunePlan:
    """Choose a network-wide share of the prunable channels, lowest score first.

    Args:
        graph: the channels of the model.
        scores: one number a unit; NaN is never pruned.
        budget: how much, and what must stay. Where the floors do not allow the percent, the
            plan removes what they allow and says so in ``notes``.
        source: the model file, kept in the plan.

    Raises:
        PlanError: the scores are of another graph, or nothing at all can be removed.
    """
    return Planner(graph).plan(scores, budget, source)


class Planner:
    """The planner of one graph, ready to be asked many times (training asks every few steps)."""

    def __init__(self, graph: ChannelGraph, costs: Costs | None = None) -> None:
        """Prepare what does not depend on scores.

        Args:
            graph: the channels.
            costs: what plans of it cost; needed where a budget sets limits to that.
        """
        self.graph, self.costs = graph, costs
        self._free = graph.prunable
        self._channels = graph.channels
        self._levels = levels(graph.balances)
        self._layers, others = distinct_axes(graph)
        self._inputs = [axis.units.ravel() for axis in graph.axes if axis.role == "in"]
        self._floors = Counts.of([*self._layers, *others])
        self._rounded: dict[int, Counts] = {}
        self._bounds: dict[tuple[Rule, ...], Bounds] = {}

    def choose(self, scores: Scores, budget: Budget) -> IntArray:
        """The units that a plan for this budget removes.

        Returns:
            int64, sorted; empty where the floors allow nothing.

        Raises:
            PlanError: the scores are of another graph.
        """
        if budget.max_drop is not None and budget.percent is None and not budget.limits:
            raise PlanError("--max-drop: is no plan's budget, only `slim` searches within it.")
        free = self._scored(scores)
        bundles = self._bundle(scores, free)
        if not bundles.score.size:
            return np.zeros(0, dtype=np.int64)
        target = math.ceil((budget.percent or 0.0) * int(self._channels[free].sum()) - 1e-9)
        least, most = self._allowed(budget)
        if least.any():
            must = forced(bundles.count(self._floors), bundles.score.size, least, most)
            bundles = bundles.led_by(must)
        order = np.flatnonzero(self._admitted(bundles, most))
        if budget.limits:
            removed = self._limited_choice(bundles, order, target, budget)
        elif budget.round_to > 1:
            removed = self._rounded_choice(bundles, order, target, budget.round_to)
        else:
            end = self._end(bundles, np.cumsum(bundles.channels[order]), target)
            removed = mask(order[:end], bundles.score.size)
        goes = np.append(removed, False)[bundles.of_unit]
        return np.flatnonzero(goes)

    def plan(
        self,
        scores: Scores,
        budget: Budget,
        source: Origin | None = None,
        *,
        asked: Budget | None = None,
        remove: IntArray | None = None,
    ) -> PrunePlan:
        """As :func:`plan`; ``asked`` is what was, where ``budget`` stands for another one.

        ``remove`` are the units that :meth:`choose` gave, where it did so before.
        """
        remove = self.choose(scores, budget) if remove is None else remove
        total = int(self._channels[self._scored(scores)].sum())
        if not remove.size:
            if budget.limits and self.costs is not None:
                there = self.costs.limited(np.ones(self.graph.n_units, dtype=bool), budget)
                if all(n <= self.costs.limits(budget)[k] for k, n in there.items()):
                    raise PlanError(f"plan: nothing is to go, the network has {budget.asked}.")
            raise PlanError(_why_nothing(scores, budget, total, self.graph))
        gone = int(self._channels[remove].sum())
        reached = Reached(
            percent=gone / max(total, 1),
            channels=gone,
            prunable_channels=total,
            units=int(remove.size),
            threshold=float(scores.values[remove].max()),
        )
        layers = remove_to_layers(self.graph, remove)
        return PrunePlan(
            criterion=scores.criterion,
            budget=asked or budget,
            reached=reached,
            layers={path: tuple(map(int, out)) for path, out in layers.items() if len(out)},
            source=source,
            notes=tuple(self._notes(scores, budget, reached, remove)),
        )

    def _scored(self, scores: Scores) -> BoolArray:
        """Bool ``[n_units]``: prunable and scored."""
        if scores.values.shape != (self.graph.n_units,):
            raise PlanError(
                f"scores: have shape {scores.values.shape}, expected ({self.graph.n_units},). "
                "Are they of another model?"
            )
        return self._free & ~np.isnan(scores.values)

    def _bundle(self, scores: Scores, free: BoolArray) -> Bundles:
        """Join units that balances tie, and rank the bundles; those with a fixed unit stay."""
        n = self.graph.n_units
        unit = np.arange(n)
        values = np.where(free, scores.values, 0.0)
        label, score, stuck = unit, values, ~free
        for level in self._levels:
            # Members of one bundle stand side by side, so nested balances pair bundle by bundle.
            rank = np.empty(n, dtype=np.int64)
            rank[np.lexsort((unit, label, score[label], stuck[label]))] = unit
            ranked = level.units[np.lexsort((rank[level.units], level.part))]
            label = join(label, ranked[level.left], ranked[level.right])
            score = reduce_by_label(values, label, n, scores.reduce)
            stuck = np.bincount(label, weights=~free, minlength=n) > 0
        heads = np.flatnonzero((label == unit) & ~stuck)
        heads = heads[np.argsort(score[heads], kind="stable")]
        rank = np.full(n, -1, dtype=np.int64)
        rank[heads] = np.arange(heads.size)
        channels = np.bincount(label, weights=self._channels, minlength=n)[heads]
        return Bundles(rank[label], score[heads], channels.astype(np.int64))

    def _allowed(self, budget: Budget) -> tuple[IntArray, IntArray]:
        """Int64 ``[sets]`` twice: channels that each counted set must lose, and may lose."""
        size = self._floors.size
        least, most = np.zeros_like(size), size - np.minimum(1, size)
        layers = slice(0, len(self._layers))
        share = np.floor(size[layers] * budget.max_layer_prune + 1e-9).astype(np.int64)
        floor = np.minimum(budget.min_channels, size[layers])
        most[layers] = np.minimum(size[layers] - floor, share)
        if budget.ratios:
            self.bounds(budget).narrow(self._layers, least, most, budget.round_to)
        return np.minimum(least, most), most

    def bounds(self, budget: Budget) -> Bounds:
        """What the ratios of a budget come to.

        Raises:
            PlanError: one matches no layer, or two contradict each other.
        """
        if budget.ratios not in self._bounds:
            self._bounds = {budget.ratios: Bounds(self.graph, budget.ratios)}
        return self._bounds[budget.ratios]

    @staticmethod
    def _end(bundles: Bundles, running: IntArray, target: int) -> int:
        """How many first bundles reach the target, and are all that must go."""
        return max(bundles.first, reach(running, target) if target else 0)

    def _admitted(self, bundles: Bundles, most: IntArray) -> BoolArray:
        """Bool ``[bundles]``: what would go if bundles were taken one by one within the floors.

        The one-by-one walk, vectorised: in each round, a bundle that fits even when all
        undecided ones before it go is in, one that does not fit beside those already in is out.
        The first undecided bundle is settled every round, and nearly always all of them are.

        Args:
            bundles: in the order in which they are taken.
            most: int64 ``[sets]``: channels that each counted set may lose.
        """
        entries = bundles.count(self._floors)
        limit = most[entries.row]
        n = bundles.score.size
        inside, out = np.zeros(n, dtype=bool), np.zeros(n, dtype=bool)
        while True:
            high = entries.running(entries.times * ~out[entries.bundle])
            inside = ~out & ~mask(entries.bundle[high > limit], n)
            low = entries.running(entries.times * inside[entries.bundle])
            own = np.where(inside[entries.bundle], 0, entries.times)
            out |= mask(entries.bundle[low + own > limit], n) & ~inside
            if (inside | out).all():
                return inside

    def _rounded_choice(
        self, bundles: Bundles, order: IntArray, target: int, round_to: int
    ) -> BoolArray:
        """Bool ``[bundles]``: the lowest threshold that reaches the target after rounding."""
        entries = bundles.count(self._counts_to_round(round_to))
        n = bundles.score.size
        running = np.cumsum(bundles.channels[order])

        def rounded(end: int) -> tuple[BoolArray, int]:
            removed = self._round_up(entries, mask(order[:end], n), round_to)
            return removed, int(bundles.channels[removed].sum())

        # The answer lies a little beyond the unrounded one: step on by what is missing until
        # it is reached, then bisect the last step.
        low, high = bundles.first, self._end(bundles, running, target)
        best, reached = rounded(high)
        while reached < target and high < order.size:
            low = high + 1
            high = max(low, reach(running, int(running[high - 1]) + target - reached))
            best, reached = rounded(high)
        while low < high and reached > target:
            middle = (low + high) // 2
            removed, channels = rounded(middle)
            if channels >= target:
                high, best, reached = middle, removed, channels
            else:
                low = middle + 1
        return best

    def _limited_choice(
        self, bundles: Bundles, order: IntArray, target: int, budget: Budget
    ) -> BoolArray:
        """Bool ``[bundles]``: the lowest threshold at which every limit holds, and the target."""
        if self.costs is None:
            raise PlanError(f"budget: {budget.asked}: what plans cost is not known here.")
        limits = self.costs.limits(budget)
        entries = bundles.count(self._counts_to_round(budget.round_to))
        n = bundles.score.size

        def taken(end: int) -> tuple[BoolArray, bool]:
            removed = self._round_up(entries, mask(order[:end], n), budget.round_to)
            kept = ~np.append(removed, False)[bundles.of_unit]
            holds = self._over(kept, limits, budget) is None
            return removed, holds and int(bundles.channels[removed].sum()) >= target

        low, high = bundles.first, order.size
        best, _ = taken(high)
        while low < high:
            middle = (low + high) // 2
            removed, enough = taken(middle)
            if enough:
                high, best = middle, removed
            else:
                low = middle + 1
        return best

    def _over(
        self, kept: BoolArray, limits: Mapping[str, float], budget: Budget
    ) -> tuple[str, int] | None:
        """A limit that does not hold, and what there is instead."""
        assert self.costs is not None
        for name, amount in self.costs.limited(kept, budget).items():
            if amount > limits[name]:
                return name, amount
        return None

    def _counts_to_round(self, round_to: int) -> Counts:
        """Every group, and after them the tensors that its groups alone do not keep in step.

        A layer, and what a layer reads (a concatenation), is a sum of groups, so it is a multiple
        where each of its groups can only be one.
        What may upset it is a group that is no multiple to begin with and stays whole, or a unit
        that stands in the tensor more than once. What a layer reads is minded where it was a
        multiple before: else it might have to stay whole, and be none for all that.
        """
        if round_to not in self._rounded:
            groups = [group.units for group in self.graph.groups]
            odd = np.zeros(self.graph.n_units, dtype=bool)
            for units in groups:
                odd[units] = units.size % round_to > 0
            read = [units for units in self._inputs if units.size % round_to == 0]
            upset = [
                units
                for units in (*self._layers, *read)
                if odd[units].any() or np.unique(units).size < units.size
            ]
            self._rounded[round_to] = Counts.of([*groups, *upset])
        return self._rounded[round_to]

    def _round_up(self, entries: Entries, removed: BoolArray, round_to: int) -> BoolArray:
        """Give bundles back, best first, until every group and layer keeps a multiple or all."""
        removed = removed.copy()
        is_group = np.arange(entries.size.size) < len(self.graph.groups)
        while True:
            lost = entries.taken(removed)
            lacks = np.where(lost > 0, np.minimum(-(entries.size - lost) % round_to, lost), 0)
            if not lacks.any():
                return removed
            # Groups have no unit in common, so all of them are settled at once; layers made of
            # several groups are looked at only when those are right.
            if lacks[is_group].any():
                lacks[~is_group] = 0
            goes = entries.times * removed[entries.bundle]
            better = lost[entries.row] - entries.running(goes)
            back = (goes > 0) & (better < lacks[entries.row])
            removed[entries.bundle[back]] = False

    def _notes(
        self, scores: Scores, budget: Budget, reached: Reached, remove: IntArray
    ) -> Iterable[str]:
        unscored = self._free & np.isnan(scores.values)
        if unscored.any():
            where = [a.module for a in self.graph.out_axes if unscored[a.units].any()]
            yield (
                f"{int(self._channels[unscored].sum())} channels are kept because they have "
                f"{scores.missing}: {_some(where)}."
            )
        wanted = budget.percent or 0.0
        if reached.channels < math.ceil(wanted * reached.prunable_channels - 1e-9):
            yield (
                f"asked for {wanted:.1%}, reached {reached.percent:.1%}: the rest is held "
                f"by {_held_by(budget)}."
            )
        if budget.ratios:
            yield from self.bounds(budget).notes(mask(remove, self.graph.n_units), _floors(budget))
        if budget.limits and self.costs is not None:
            kept = ~mask(remove, self.graph.n_units)
            over = self._over(kept, self.costs.limits(budget), budget)
            if over is not None:
                name, amount = over
                limit = self.costs.limits(budget)[name]
                yield (
                    f"asked for at most {budget.words(name, limit)}, reached "
                    f"{budget.words(name, amount)}: the rest is held by {_held_by(budget)}, or "
                    "frozen."
                )


def _held_by(budget: Budget) -> str:
    return _floors(budget) + (", --ratios" if budget.ratios else "")


def _floors(budget: Budget) -> str:
    held = f"--min-channels {budget.min_channels}, --max-layer-prune {budget.max_layer_prune:g}"
    return held + (f", --round-to {budget.round_to}" if budget.round_to > 1 else "")


def _why_nothing(scores: Scores, budget: Budget, total: int, graph: ChannelGraph) -> str:
    if total == 0:
        unscored = int(graph.prunable.sum())
        why = f"{graph.reasons()}; {scores.missing} ({unscored})" if unscored else graph.reasons()
        return f"plan: no channel is both prunable and scored: {why}. `yoloprune info` tells where."
    return (
        f"plan: none of {total} prunable channels can go, all are held by {_held_by(budget)} or "
        "by a balance. Lower these, or raise --percent."
    )


def _some(names: Sequence[str], most: int = 3) -> str:
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")
