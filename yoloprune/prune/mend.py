"""One way through a cut network in which every layer is fitted as soon as its input is right."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from yoloprune.channels.graph import BoolArray, ChannelGraph
from yoloprune.measure.copies import device_of
from yoloprune.prune.lanes import Handful, Lane
from yoloprune.prune.patches import groups_of, is_batched, matrix, read, weight_of
from yoloprune.prune.replay import Replayer
from yoloprune.prune.ridge import USUAL, Sums, fit
from yoloprune.prune.targets import Target, Targets, mode_of
from yoloprune.prune.trim import share_heap, trim


@dataclass(frozen=True, slots=True, kw_only=True)
class RepairOptions:
    """How to repair.

    Attributes:
        held_out: share of the pictures by which the strength of each fit is chosen.
        rows: positions of each layer's output that are looked at, over all pictures.
        memory: bytes that the activations of all pictures may take.
        seed: of the choice of positions.
        device: where; None is where the model is.
        near: layer → strength from which the best is looked for downhill; None tries them all.
        progress: called with layers done and layers in all.
    """

    held_out: float = 0.25
    rows: int = 8192
    memory: int = 700_000_000
    seed: int = 0
    device: str | None = None
    near: Mapping[str, float] | None = None
    progress: Callable[[int, int], None] = lambda done, total: None


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerRepair:
    """What became of one layer.

    Attributes:
        path: of the layer.
        before, after: mean square error on the pictures held out, as a share of the variance of
            what the layer should give there; of a layer that is called several times ``before``
            is the largest that a call found, ``after`` that of all calls together.
        pull: strength λ of the pull towards the old weights, as a share of the mean power of an
            input; infinite where only the constant was changed; None where nothing was.
        rows: positions that it was fitted to, those held out included.
        seconds: that it took, forward passes apart.
    """

    path: str
    before: float
    after: float
    pull: float | None
    rows: int
    seconds: float


_Key = tuple[str, int]
"""Path of a layer, and the number of its call in a pass."""


class Mending:
    """One way through the network, in evaluation or in training mode.

    Args:
        thin: the cut network, float32, where it is to run. It is changed.
        targets: what the full network gave, of all the outputs of its layers or of those that
            are left. Not modified.
        graph: the channels of the full network.
        kept: bool ``[n_units]``, which of them ``thin`` still has.
        layers: paths of those to repair, all of which ``targets`` looked at.
        options: how.
    """

    def __init__(
        self,
        thin: nn.Module,
        targets: Targets,
        graph: ChannelGraph,
        kept: BoolArray,
        layers: Iterable[str],
        options: RepairOptions,
    ) -> None:
        self._thin, self._looked, self._graph, self._options = thin, targets, graph, options
        self._layers = {path: thin.get_submodule(path) for path in layers}
        self._device = device_of(thin)
        self._outputs = {p: i.to(self._device) for p, i in kept_outputs(graph, kept).items()}
        self._targets = {k: t for k, t in targets.values.items() if k[1] in self._layers}
        self._handfuls = targets.handfuls
        self._done: set[_Key] = set()
        self._last = USUAL
        self._sums: dict[str, tuple[Sums, Sums]] = {}
        self._local = threading.local()

    def carry_out(self) -> list[LayerRepair]:
        """Repair, in the order of the pass."""
        for handful in self._handfuls:
            handful.calls.clear()
        with torch.no_grad(), mode_of(self._thin, self._looked.training), self._listening():
            return self._solve_in_turn()

    def _solve_in_turn(self) -> list[LayerRepair]:
        """Let the lanes come to each layer, solve it, and let them go on."""
        share_heap()
        self._lanes = [Lane(self._forward(handful)) for handful in self._handfuls]
        repaired: dict[str, LayerRepair] = {}
        total = len({(path, call) for _, path, call in self._targets})
        active = self._lanes[:2]
        try:
            while active:
                for lane in active:
                    if lane.at is None or lane.at in self._done:
                        lane.go()
                active = [lane for lane in active if lane.at is not None]
                if not active:
                    break
                key: _Key = active[0].at  # type: ignore[assignment]
                active = self._crew(active, key[0])
                repaired[key[0]] = self._solve(key, repaired.get(key[0]))
                self._done.add(key)
                self._options.progress(len(self._done), total)
                if not self._targets:  # what comes after the last one need not run
                    break
        finally:
            for lane in self._lanes:
                lane.give_up()
        return list(repaired.values())

    def _crew(self, active: list[Lane], path: str) -> list[Lane]:
        """The lanes that memory allows at this layer: some start late, some are given up."""
        crew = [self._lanes[number] for number in self._looked.crews[path]]
        for lane in active:
            if lane not in crew:
                self._give_up(lane)
        active = [lane for lane in active if lane in crew]
        return active + [lane for lane in crew if not lane.begun and lane.go() is not None]

    def _give_up(self, lane: Lane) -> None:
        """Let a lane go, and what it was to be held against."""
        lane.give_up()
        number = self._lanes.index(lane)
        for key in [key for key in self._targets if key[0] == number]:
            del self._targets[key]

    def _forward(self, handful: Handful) -> Callable[[], None]:
        def run() -> None:
            self._local.handful = handful
            with torch.no_grad(), Replayer(handful.choices):
                self._thin(self._looked.input(handful.images))

        return run

    @contextmanager
    def _listening(self) -> Iterator[None]:
        handles = []
        for path, layer in self._layers.items():

            def arrive(module: nn.Module, args: Any, path: str = path) -> None:
                self._arrive(path, module, args[0])

            handles.append(layer.register_forward_pre_hook(arrive))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _arrive(self, path: str, layer: nn.Module, x: Tensor) -> None:
        """A lane comes to a layer: it adds its rows, and waits until the layer is repaired."""
        handful: Handful = self._local.handful
        key = path, handful.calls[path]
        handful.calls[path] += 1
        target = self._targets.pop((handful.index, *key), None)
        if key in self._done or target is None or not _fits(layer, x, target):
            return
        rows = read(layer, x, target.out_shape, target.at)
        groups = groups_of(layer)
        values, chosen = target.values, self._outputs.get(path)
        if chosen is not None and not self._looked.selected:
            values = values.index_select(1, chosen)
        wanted = values.view(len(target.at), groups, -1).transpose(0, 1)
        given = torch.bmm(rows, matrix(layer, self._weight(path)))
        wanted = wanted - self._constant(path, layer).view(-1, 1, given.shape[2])
        if path not in self._sums:
            shape = groups, rows.shape[2], given.shape[2]
            self._sums[path] = (
                Sums(*shape, self._device),
                Sums(*shape, self._device, held_out=True),
            )
        self._sums[path][handful.held_out].add(rows, wanted - given, wanted)
        del rows, given, wanted, target
        self._lanes[handful.index].stop(key)

    def _constant(self, path: str, layer: nn.Module) -> Tensor:
        """What is added to a layer's output, less what the full network's BatchNorm takes off."""
        constant = torch.zeros(_outputs_of(layer), device=self._device)
        if isinstance(layer.bias, Tensor):
            constant = constant + layer.bias
        norm = self._graph.norm_of.get(path)
        if norm is not None:
            mine, theirs = (
                self._thin.get_submodule(norm).running_mean,
                self._looked.norm_means.get(norm),
            )
            if isinstance(mine, Tensor) and theirs is not None:
                chosen = self._outputs.get(path)
                constant += (theirs if chosen is None else theirs[chosen]) - mine
        return constant

    def _solve(self, key: _Key, earlier: LayerRepair | None) -> LayerRepair:
        """Fit a layer to the rows that the lanes brought, and change it."""
        path, call = key
        start = time.perf_counter()
        layer = self._layers[path]
        rows, held_out = self._sums[path]
        norm = self._graph.norm_of.get(path)
        mean = None if norm is None else self._thin.get_submodule(norm).running_mean
        shift = layer.bias if isinstance(layer.bias, Tensor) else mean
        near = self._options.near
        found = fit(
            rows,
            held_out,
            shifts=isinstance(shift, Tensor),
            near=self._last if near is None else near.get(path, USUAL),
            thorough=near is None,
        )
        if found.pull is not None and found.pull != math.inf:
            self._last = found.pull
        changed = found.pull is not None
        if changed:
            weight = self._weight(path)
            made = matrix(layer, weight) + found.change
            weight.copy_(weight_of(layer, made.float(), weight.shape))
            if isinstance(shift, Tensor):
                sign = 1 if shift is layer.bias else -1
                shift.add_(found.bias.ravel(), alpha=sign)
        if (path, call + 1) not in {(p, c) for _, p, c in self._targets}:
            del self._sums[path]
        elif changed:  # rows of its next call are held against the layer as it is now
            for seen in (rows, held_out):
                seen.explain(found.change, found.bias)
        if near is None:  # a search that repairs again and again soon wants it back
            trim()
        before, pull = found.before, found.pull
        seconds = time.perf_counter() - start
        if earlier is not None:
            before, seconds = max(before, earlier.before), seconds + earlier.seconds
            pull = earlier.pull if pull is None else pull
        return LayerRepair(
            path=path,
            before=before,
            after=found.after,
            pull=pull,
            rows=rows.n + held_out.n,
            seconds=seconds,
        )

    def _weight(self, path: str) -> nn.Parameter:
        return self._thin.get_parameter(f"{path}.weight")


def _fits(layer: nn.Module, x: Tensor, target: Target) -> bool:
    """Whether the input of a layer belongs to the output that is wanted."""
    if isinstance(layer, nn.Linear):
        return x.shape[:-1] == target.out_shape[:-1]
    return is_batched(layer, x.shape) and x.shape[0] == target.out_shape[0]


def _outputs_of(layer: nn.Module) -> int:
    return int(layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels)  # type: ignore[arg-type]


def kept_outputs(graph: ChannelGraph, kept: BoolArray) -> dict[str, Tensor]:
    """Layer → int64, which of its outputs are still there, where some are not."""
    found = {}
    for axis in graph.axes:
        name = axis.tensor.rpartition(".")[2]
        stays = kept[axis.units]
        if name == "weight" and axis.role != "in" and not stays.all():
            found[axis.module] = torch.from_numpy(np.flatnonzero(stays.ravel()))
    return found
