"""Latency tables: whole networks at a ladder of widths, timed in the runtime they are for.

Isolated layers do not add up to a network: what lies between them costs, too, and a layer's time
depends on what its neighbours left in the caches. So whole networks are run, and each module's
share is what the runtime's own profile says of it while they do.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from yoloprune.channels.graph import BoolArray, ChannelGraph
from yoloprune.errors import MeasureError
from yoloprune.measure.environment import environment
from yoloprune.measure.runtimes import RuntimeOptions, version_of
from yoloprune.measure.sessions.base import Nodes, Profiled
from yoloprune.measure.sessions.table import opened
from yoloprune.measure.sessions.turns import time_in_turn
from yoloprune.measure.size import count
from yoloprune.prune.budget import Budget
from yoloprune.prune.clock import FEATURES, FloatArray, LatencyTable, Reader, Timed
from yoloprune.prune.cost import Costs
from yoloprune.prune.cut import cut_units, kept_units
from yoloprune.prune.planner import Planner
from yoloprune.prune.score import Scores
from yoloprune.prune.sensitivity import parts

NETWORKS = 24
"""Widths that are tried, the full ones not counted."""
_LEAST, _MOST, _APART = 0.05, 0.85, 0.3
"""Shares of the channels that go, from the widest network to the narrowest, and how far the parts
of one network are apart."""
_ROUNDS, _FOLDS = 8, 6


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileOptions:
    """How to make a table.

    Attributes:
        runtime: where and how the networks run.
        model: file name of the network, kept in the table.
        networks: how many widths are tried.
        round_to: widths are multiples of it, as those of plans will be.
        seed: of the widths.
        progress: called with how many networks are done, and of how many.
    """

    runtime: RuntimeOptions
    model: str
    networks: int = NETWORKS
    round_to: int = 8
    seed: int = 0
    progress: Callable[[int, int], None] = lambda done, total: None


def profile(model: nn.Module, graph: ChannelGraph, options: ProfileOptions) -> LatencyTable:
    """Measure a table.

    Args:
        model: the traced network. Not modified.
        graph: its channels.
        options: how.

    Raises:
        MeasureError: the runtime is not there, or does not tell where its time goes.
    """
    version = version_of(options.runtime.runtime)
    kept = [np.ones(graph.n_units, dtype=bool), *ladder(graph, options)]
    models = [model, *(cut_units(model, graph, np.flatnonzero(~k)) for k in kept[1:])]
    total = len(models) * _ROUNDS
    done = 0

    def advance(n: int) -> None:
        nonlocal done
        done += n
        options.progress(done, total)

    with opened(models, options.runtime) as sessions:
        times = time_in_turn(sessions, _ROUNDS, watched=True, advance=advance)
        nodes = [one.nodes() for one in sessions if isinstance(one, Profiled)]
    reader = Reader(graph)
    features = np.stack([reader.features(k) for k in kept])
    totals = np.array(times.usual)
    shares = spent(homes(reader.paths, reader.heavy), nodes, totals)
    costs = Costs(model, graph, count(model, options.runtime.imgsz))
    unseen = foretold(features, shares, totals)
    factors = fitted(features, shares, totals)
    return LatencyTable(
        model=options.model,
        structure=structure_of(model),
        runtime=options.runtime,
        version_of=version,
        machine=machine_of(options.runtime),
        full=float(totals[0]),
        modules={
            path: tuple(map(float, row))
            for path, row in zip(reader.paths, factors, strict=True)
            if row.any()
        },
        networks=tuple(
            Timed(
                macs=costs.macs(k) / costs.full.macs, ms=float(ms), spread=spread,
                predicted=float(said),
            )
            for k, ms, spread, said in zip(kept, totals, times.spreads, unseen, strict=True)
        ),
    )  # fmt: skip


def ladder(graph: ChannelGraph, options: ProfileOptions) -> list[BoolArray]:
    """Units that are kept in each of some networks, from wide to narrow, their parts at random."""
    random = np.random.default_rng(options.seed)
    planner, free = Planner(graph), graph.prunable
    channels = graph.channels
    found = []
    for gone in np.linspace(_LEAST, _MOST, options.networks):
        values = np.full(graph.n_units, np.nan)
        wanted = 0.0
        for part in parts(graph):
            units = part.units[free[part.units]]
            share = float(np.clip(gone + random.uniform(-_APART, _APART), 0.01, 0.95))
            place = (np.argsort(random.permutation(units.size)) + 0.5) / units.size
            values[units] = place / share
            wanted += share * float(channels[units].sum())
        scores = Scores(values=values, criterion="random", missing="no place")
        percent = min(0.95, wanted / max(float(channels[free].sum()), 1))
        budget = Budget(percent=percent, round_to=options.round_to, max_layer_prune=0.95)
        found.append(kept_units(graph, planner.choose(scores, budget)))
    return found


def homes(paths: Sequence[str], heavy: BoolArray) -> dict[str, int]:
    """Module → number of the one that its time is booked on.

    Runtimes fuse a convolution with what follows it, under the name of the one or the other. So
    a module without weights stands with the one with weights that its block is built around,
    where there is only one.
    """
    inside: dict[str, list[int]] = {path: [] for path in paths}
    for i, path in enumerate(paths):
        block = path if heavy[i] else ""
        while block:
            if block in inside:
                inside[block].append(i)
            block = block.rpartition(".")[0]
    found = {}
    for i, path in enumerate(paths):
        own, around = inside[path], inside.get(path.rpartition(".")[0], [])
        found[path] = own[0] if len(own) == 1 else around[0] if len(around) == 1 and not own else i
    return found


def spent(known: Mapping[str, int], nodes: Sequence[Nodes], totals: FloatArray) -> FloatArray:
    """Milliseconds of each module in each network: float64 ``[networks, modules]``.

    A node belongs to the innermost module that its name leads to. What the profile costs itself
    goes: each network's modules add up to what it takes unwatched.

    Args:
        known: module → number of the one that its time is booked on.
        nodes: of each network.
        totals: milliseconds of each network.

    Raises:
        MeasureError: a runtime told nothing.
    """
    found = np.zeros((len(nodes), len(known)))
    for row, times in zip(found, nodes, strict=True):
        for name, ms in times.items():
            row[known[innermost(name, known)]] += ms
    sums = found.sum(1)
    if not sums.all():
        raise MeasureError("profile: the runtime did not tell where its time goes.")
    scaled: FloatArray = found * (totals / sums)[:, None]
    return scaled


def innermost(name: str, known: Container[str]) -> str:
    """Path of the module that a node's name leads to, as far as it leads.

    ``/model.2/m.0/cv1/conv/Conv`` is in ``model.2.m.0.cv1.conv``. Where a list of layers is inside
    another, exporters name the whole way again: ``/model.22/cv2.0/cv2.0.1/conv/Conv`` is in
    ``model.22.cv2.0.1.conv``.
    """
    if name in known:
        return name
    path, before, last = "", "", ""
    for step in name.split("/"):
        inside = f"{path}.{step}" if path else step
        again = f"{before}.{step}" if before else step
        if last and step.startswith(f"{last}.") and again in known:
            path, last = again, step
        elif inside in known:
            path, before, last = inside, path, step
    return path


def fitted(features: FloatArray, shares: FloatArray, totals: FloatArray) -> FloatArray:
    """Milliseconds by each feature of each module: float64 ``[modules, FEATURES]``, none below 0.

    Least squares of what a network's prediction is off as a share of what it takes.

    Args:
        features: ``[networks, modules, FEATURES]``.
        shares: ``[networks, modules]``, in milliseconds.
        totals: ``[networks]``, in milliseconds.
    """
    from scipy.optimize import nnls  # type: ignore[import-untyped,unused-ignore]

    factors = np.zeros((features.shape[1], FEATURES))
    for i, row in enumerate(factors):
        if shares[:, i].any():
            x = features[:, i] / totals[:, None]
            size = np.maximum(np.abs(x).max(0), 1e-30)
            row[:] = nnls(x / size, shares[:, i] / totals)[0] / size
    return factors


def foretold(features: FloatArray, shares: FloatArray, totals: FloatArray) -> FloatArray:
    """Milliseconds of each network by a fit that did not see it."""
    said = np.zeros_like(totals)
    fold = np.arange(totals.size) % _FOLDS
    for i in range(_FOLDS):
        out = fold == i
        factors = fitted(features[~out], shares[~out], totals[~out])
        said[out] = (features[out] * factors).sum((1, 2))
    return said


def structure_of(model: nn.Module) -> str:
    """Digest of the layers of a network and of their shapes; trained weights do not matter."""
    parts_of = [f"{name} {tuple(t.shape)}" for name, t in sorted(model.state_dict().items())]
    kinds = [f"{path} {type(module).__name__}" for path, module in model.named_modules()]
    return hashlib.sha256("\n".join([*parts_of, *kinds]).encode()).hexdigest()


def machine_of(options: RuntimeOptions) -> str:
    """Name of the processor or GPU that networks run on."""
    device = options.device if options.device.startswith("cuda") else "cpu"
    found = environment(torch.device(device))
    return found.gpu or found.cpu
