"""Cuts of one network, each repaired and held against what the full one sees."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from yoloprune.channels.graph import BoolArray, ChannelGraph, IntArray
from yoloprune.measure.copies import device_of, find_device, float32_copy
from yoloprune.measure.size import count
from yoloprune.prune.apart import Seen
from yoloprune.prune.budget import Budget
from yoloprune.prune.cost import Costs
from yoloprune.prune.cut import cut_units
from yoloprune.prune.mend import LayerRepair, Mending, RepairOptions
from yoloprune.prune.planner import Planner
from yoloprune.prune.repair import look, passes
from yoloprune.prune.score import Scores
from yoloprune.prune.sensitivity import parts
from yoloprune.prune.stages import Stage, stages

_NEAR = 2e-3
"""Share by which the multiply-adds of a cut may miss those that it should have."""
_FAR = 1e-2
"""The same, where floors let it come no nearer."""
_LESS = 5e-2
"""The share by which it may have fewer, where no cut comes nearer, as in layers of few channels."""
_STEPS = 16


@dataclass(frozen=True, slots=True)
class Candidate:
    """A cut to try.

    Attributes:
        scores: by which it is chosen.
        budget: with the percent that brings it to the multiply-adds.
        remove: int64, the units that go.
    """

    scores: Scores
    budget: Budget
    remove: IntArray


class Trials:
    """A network, ready to be cut many times at the same multiply-adds.

    Args:
        model: the traced model. Not modified.
        graph: its channels.
        scores: each unit's place in its group, in (0, 1).
        budget: whose even shares set the multiply-adds.
        pictures: ``[N, C, H, W]``, to repair each cut on.
        options: of that repair.

    Attributes:
        graph, budget: as given.
        full: the network, float32, where trials run.
        planner: of its graph.
        parts: of the network that can have shares of their own.
        stages: runs of neighbouring ones, of which a record tells.
        even: the cut in which all have the same.
    """

    def __init__(
        self,
        model: nn.Module,
        graph: ChannelGraph,
        scores: Scores,
        budget: Budget,
        pictures: Tensor,
        options: RepairOptions,
    ) -> None:
        self.graph, self._scores, self.budget, self._options = graph, scores, budget, options
        place = device_of(model) if options.device is None else find_device(options.device)
        self.full = float32_copy(model, place)
        size = count(model, pictures.shape)
        costs = Costs(model, graph, size)
        self._cost, self.planner = costs, Planner(graph, costs)
        self.stages: list[Stage] = stages(model, graph, size)
        self.parts = parts(graph)
        # What only training reaches does not change what is seen.
        self._layers = next(layers for training, layers in passes(self.full, graph) if not training)
        self._looked = look(self.full, graph, pictures, self._layers, options)
        self._near: dict[str, float] | None = None
        self.even = Candidate(scores, budget, self.planner.choose(scores, budget))
        self._target = self._cost.macs(self._kept(self.even.remove))

    @property
    def limit(self) -> Budget:
        """The budget by its limits: to multiply-adds where it has none."""
        if self.budget.limits:
            return self.budget
        return replace(self.budget, percent=None, macs=float(max(self._target, 2)))

    def seen(self, pictures: Tensor) -> Seen:
        """What the full network sees on pictures."""
        return Seen(self.full, pictures)

    def begin_at(self, scores: Scores) -> None:
        """Have candidates be shifted from these scores, places in (0, 1) over all groups."""
        self._scores = scores

    def candidate(self, shifts: NDArray[np.float64]) -> Candidate | None:
        """The cut in which parts are spared by so much more than others.

        Args:
            shifts: float64 ``[parts]``, shares of a group; above 0 spares, below 0 takes more.

        Returns:
            The cut with the multiply-adds of the even one, or, where the budget has limits, the
            one with which these hold; None where floors do not let it be.
        """
        values = self._scores.values.copy()
        for part, shift in zip(self.parts, shifts.tolist(), strict=True):
            values[part.units] += shift
        scores = replace(self._scores, values=values)
        if self.budget.limits:  # which the planner meets by itself
            remove = self.planner.choose(scores, self.budget)
            held = self._costs_held(remove)
            return Candidate(scores, self.budget, remove) if held else None
        low, high = 0.0, 1.0
        best, gap = None, math.inf
        under, less = None, _LESS
        for _ in range(_STEPS):
            middle = (low + high) / 2
            budget = replace(self.budget, percent=middle)
            remove = self.planner.choose(scores, budget)
            over = self._cost.macs(self._kept(remove)) / self._target - 1
            if abs(over) < gap:
                best, gap = Candidate(scores, budget, remove), abs(over)
            if gap < _NEAR:
                break
            if 0 <= -over < less:
                under, less = Candidate(scores, budget, remove), -over
            low, high = (middle, high) if over > 0 else (low, middle)
        return best if gap < _FAR else under

    def _costs_held(self, remove: IntArray) -> bool:
        there = self._cost.limited(self._kept(remove), self.budget)
        limits = self._cost.limits(self.budget)
        return all(there[name] <= limit for name, limit in limits.items())

    def mended(self, remove: IntArray) -> nn.Module:
        """A cut, repaired in the layers alone that read what went, in a fraction of the time."""
        thin = cut_units(self.full, self.graph, remove).eval()
        kept = self._kept(remove)
        layers = {
            axis.module
            for axis in self.graph.axes
            if axis.role == "in" and not kept[axis.units].all()
        }
        self._mend(thin, kept, layers & self._layers, {})
        return thin

    def repaired(self, candidate: Candidate) -> nn.Module:
        """A cut, repaired; the first one finds out how strongly each layer is to be pulled."""
        thin = cut_units(self.full, self.graph, candidate.remove).eval()
        kept = self._kept(candidate.remove)
        done = self._mend(thin, kept, self._from_the_cut_on(thin), self._near)
        if self._near is None:
            self._near = {
                layer.path: layer.pull
                for layer in done
                if layer.pull is not None and math.isfinite(layer.pull)
            }
        return thin

    def _mend(
        self, thin: nn.Module, kept: BoolArray, layers: set[str], near: dict[str, float] | None
    ) -> list[LayerRepair]:
        options = replace(self._options, near=near)
        return Mending(thin, self._looked, self.graph, kept, layers, options).carry_out()

    def _from_the_cut_on(self, thin: nn.Module) -> set[str]:
        """All layers but those that are called once, before all that is cut: they are exact."""
        again = {path for _, path, call in self._looked.values if call}
        before = set()
        for path in self._looked.crews:  # in the order of their first calls
            old, new = (model.get_parameter(f"{path}.weight") for model in (self.full, thin))
            if old.shape != new.shape:
                break
            before.add(path)
        return self._layers - (before - again)

    def _kept(self, remove: IntArray) -> BoolArray:
        kept = np.ones(self.graph.n_units, dtype=bool)
        kept[remove] = False
        return kept
