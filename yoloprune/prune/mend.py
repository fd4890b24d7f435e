"""One way through a cut network in which every layer is fitted as soon as its input is right."""

from __future__ import annotations

import threading
import time
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from yoloprune.channels.graph import BoolArray, ChannelGraph
from yoloprune.channels.trace import to_training
from yoloprune.measure.copies import device_of
from yoloprune.prune.lanes import Handful, Lane, share_out
from yoloprune.prune.live import live_bytes
from yoloprune.prune.patches import (
    groups_of,
    is_batched,
    matrix,
    positions,
    read,
    spread,
    weight_of,
    written,
)
from yoloprune.prune.replay import Recorder, Replayer
from yoloprune.prune.ridge import Sums, fit

_EXACT = 1e-10
"""A layer that is off by less, as a share of its variance, has nothing to repair."""
_SOON = 10
"""Layers ahead at which a lane that starts must still have room."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RepairOptions:
    """How to repair.

    Attributes:
        held_out: share of the pictures by which the strength of each fit is chosen.
        rows: positions of each layer's output that are looked at, over all pictures.
        memory: bytes that the activations of all pictures may take.
        seed: of the choice of positions.
        device: where; None is where the model is.
        progress: called with layers done and layers in all.
    """

    held_out: float = 0.25
    rows: int = 8192
    memory: int = 1_500_000_000
    seed: int = 0
    device: str | None = None
    progress: Callable[[int, int], None] = lambda done, total: None


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerRepair:
    """What became of one layer.

    Attributes:
        path: of the layer.
        before, after: mean square error on the pictures held out, as a share of the variance of
            what the layer should give there.
        pull: strength λ of the pull towards the old weights, as a share of the mean power of an
            input; infinite where only the constant was changed; None where nothing was.
        rows: positions that it was fitted to, those held out included.
        seconds: that it took, forward passes apart.
        note: why it was left alone, or "".
    """

    path: str
    before: float
    after: float
    pull: float | None
    rows: int
    seconds: float
    note: str = ""


@dataclass(frozen=True, slots=True)
class _Target:
    """What a call of a layer should give at some positions of its output."""

    at: Tensor
    values: Tensor
    out_shape: tuple[int, ...]


_Key = tuple[str, int]
"""Path of a layer, and the number of its call in a pass."""


class Mending:
    """One way through the network, in evaluation or in training mode."""

    def __init__(
        self,
        full: nn.Module,
        thin: nn.Module,
        graph: ChannelGraph,
        kept: BoolArray,
        pictures: Tensor,
        layers: set[str],
        training: bool,
        options: RepairOptions,
    ) -> None:
        self._graph, self._kept, self._options = graph, kept, options
        self._full, self._thin, self._training = full, thin, training
        self._layers = {p: m for p, m in thin.named_modules() if p in layers}
        self._device = device_of(thin)
        self._outputs = {p: i.to(self._device) for p, i in _kept_outputs(graph, kept).items()}
        self._targets: dict[tuple[int, str, int], _Target] = {}
        self._means: dict[str, list[Tensor]] = defaultdict(list)
        with self._mode(full):
            one = self._input(pictures[:1])
            live = live_bytes(full, one, {p: full.get_submodule(p) for p in self._layers})
        self._live = live
        self._handfuls = share_out(
            pictures, options.held_out, most=int(options.memory // (4 * max(live[""], 1)))
        )
        self._per_picture = -(-options.rows // len(pictures))
        self._done: set[_Key] = set()
        self._sums: dict[str, tuple[Sums, Sums]] = {}
        self._local = threading.local()

    def carry_out(self) -> list[LayerRepair]:
        """Repair, in the order of the pass."""
        with torch.no_grad():
            self._look()
            with self._mode(self._thin), self._listening():
                return self._solve_in_turn()

    def drift(self) -> float | None:
        """As :class:`RepairRecord` has it."""
        shifts = []
        for path, means in self._means.items():
            norm = self._full.get_submodule(self._graph.norm_of[path])
            mean, var = norm.running_mean, norm.running_var
            assert isinstance(mean, Tensor) and isinstance(var, Tensor)
            seen = torch.stack(means).mean(0)
            shifts.append(((seen - mean).abs() / var.clamp_min(1e-12).sqrt()).cpu())
        return float(torch.cat(shifts).median()) if shifts else None

    # --- what the full network gives

    def _look(self) -> None:
        """Run the full network, and keep its outputs at some positions."""
        handles = []
        handful = self._handfuls[0]
        for path in self._layers:

            def keep(module: nn.Module, args: Any, output: Any, path: str = path) -> None:
                call = handful.calls[path]
                handful.calls[path] += 1
                if isinstance(output, Tensor) and is_batched(module, output.shape):
                    self._keep(handful, path, call, module, output)

            handles.append(self._full.get_submodule(path).register_forward_hook(keep))
        try:
            with self._mode(self._full):
                for handful in self._handfuls:
                    with Recorder(handful.choices):
                        self._full(self._input(handful.images))
                    handful.calls.clear()
        finally:
            for handle in handles:
                handle.remove()

    def _keep(
        self, handful: Handful, path: str, call: int, layer: nn.Module, output: Tensor
    ) -> None:
        wanted = self._per_picture * len(handful.images)
        seed = zlib.crc32(f"{self._options.seed} {handful.index} {path} {call}".encode())
        at = spread(positions(layer, output.shape), wanted, seed).to(output.device)
        values = written(layer, output, at)
        if path in self._graph.norm_of and not call and not self._training:
            self._means[path].append(values.mean(0))
        chosen = self._outputs.get(path)
        if chosen is not None:
            values = values.index_select(1, chosen)
        self._targets[handful.index, path, call] = _Target(at, values, tuple(output.shape))

    # --- the cut network, layer by layer

    def _solve_in_turn(self) -> list[LayerRepair]:
        """Let the lanes come to each layer, solve it, and let them go on."""
        self._lanes = [Lane(self._forward(handful)) for handful in self._handfuls]
        repaired: dict[str, LayerRepair] = {}
        total = len({(path, call) for _, path, call in self._targets})
        allowed = self._allowed()
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
                active = self._crew(active, allowed.get(key[0], 2), key)
                repaired[key[0]] = self._solve(key, repaired.get(key[0]))
                self._done.add(key)
                self._options.progress(len(self._done), total)
        finally:
            for lane in self._lanes:
                lane.give_up()
        return list(repaired.values())

    def _crew(self, active: list[Lane], allowed: int, key: _Key) -> list[Lane]:
        """As many lanes at this layer as memory allows: some start late, some are given up."""
        for lane in active[max(allowed, 2) :]:
            self._give_up(lane)
        active = active[: max(allowed, 2)]
        for lane in self._lanes:
            if len(active) < allowed and not lane.begun and lane.go() is not None:
                active.append(lane)
        return active

    def _give_up(self, lane: Lane) -> None:
        """Let a lane go, and what it was to be held against."""
        lane.give_up()
        number = self._lanes.index(lane)
        for key in [key for key in self._targets if key[0] == number]:
            del self._targets[key]

    def _allowed(self) -> dict[str, int]:
        """How many lanes may be on their way at each layer, and still may be soon after it."""
        size = max(len(handful.images) for handful in self._handfuls)
        order = list(dict.fromkeys(path for _, path, _ in self._targets))
        room = [int(self._options.memory // (max(self._live.get(p, 1), 1) * size)) for p in order]
        return {path: max(2, min(room[i : i + _SOON])) for i, path in enumerate(order)}

    def _forward(self, handful: Handful) -> Callable[[], None]:
        def run() -> None:
            self._local.handful = handful
            with torch.no_grad(), Replayer(handful.choices):
                self._thin(self._input(handful.images))

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
        wanted = target.values.view(len(target.at), groups, -1).transpose(0, 1)
        given = torch.bmm(rows, matrix(layer, self._weight(path)))
        wanted = wanted - self._constant(path, layer).view(-1, 1, given.shape[2])
        if path not in self._sums:
            shape = groups, rows.shape[2], given.shape[2]
            self._sums[path] = Sums(*shape, self._device), Sums(*shape, self._device)
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
            mine = self._thin.get_submodule(norm).running_mean
            theirs = self._full.get_submodule(norm).running_mean
            if isinstance(mine, Tensor) and isinstance(theirs, Tensor):
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
        found = fit(rows, held_out, shifts=isinstance(shift, Tensor))
        if found.before > _EXACT and found.pull is not None:
            weight = self._weight(path)
            made = matrix(layer, weight) + found.change
            weight.copy_(weight_of(layer, made.float(), weight.shape))
            if isinstance(shift, Tensor):
                sign = 1 if shift is layer.bias else -1
                shift.add_(found.bias.ravel(), alpha=sign)
        if (path, call + 1) not in {(p, c) for _, p, c in self._targets}:
            del self._sums[path]
        return LayerRepair(
            path=path,
            before=found.before,
            after=found.after if found.before > _EXACT else found.before,
            pull=found.pull if found.before > _EXACT else None,
            rows=rows.n + held_out.n,
            seconds=time.perf_counter() - start + (earlier.seconds if earlier else 0.0),
        )

    # --- both

    def _weight(self, path: str) -> nn.Parameter:
        return self._thin.get_parameter(f"{path}.weight")

    def _input(self, images: Tensor) -> Tensor:
        images = images.to(self._device)
        return images.float() / 255 if images.dtype == torch.uint8 else images.float()

    @contextmanager
    def _mode(self, model: nn.Module) -> Iterator[None]:
        """In training mode with still BatchNorms where that is the pass, else in evaluation."""
        model.eval()
        if self._training:
            to_training(model)
        try:
            yield
        finally:
            model.eval()


def _fits(layer: nn.Module, x: Tensor, target: _Target) -> bool:
    """Whether the input of a layer belongs to the output that is wanted."""
    if isinstance(layer, nn.Linear):
        return x.shape[:-1] == target.out_shape[:-1]
    return is_batched(layer, x.shape) and x.shape[0] == target.out_shape[0]


def _outputs_of(layer: nn.Module) -> int:
    return int(layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels)  # type: ignore[arg-type]


def _kept_outputs(graph: ChannelGraph, kept: BoolArray) -> dict[str, Tensor]:
    """Which outputs of the full network's layers are still there, where some are not."""
    found = {}
    for axis in graph.axes:
        name = axis.tensor.rpartition(".")[2]
        stays = kept[axis.units]
        if name == "weight" and axis.role != "in" and not stays.all():
            found[axis.module] = torch.from_numpy(np.flatnonzero(stays.ravel()))
    return found
