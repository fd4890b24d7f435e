"""Repair: every layer that is left is solved anew, so that it gives what the full network gave.

A cut changes what every later layer reads. Each is fitted by least squares to the output that the
full network has there (before its BatchNorm), from the inputs that it really gets: those of the
network whose earlier layers are repaired already. A few dozen pictures do, and no labels. Of a
detector half of the positions are drawn where it sees something on them.

How strongly a layer is pulled towards its old weights is chosen on pictures that its fit does not
see; a layer that would be worse there keeps its old weights. At the end the whole network is held
against the full one on those pictures, mirrored: where what is left over in layers that are nearer
each is blown up on its way, all keep their old weights.
"""

from __future__ import annotations

import copy
import logging
import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from yoloprune.channels.graph import BoolArray, ChannelGraph
from yoloprune.channels.trace import random_input, to_training
from yoloprune.errors import CutError, DataError
from yoloprune.measure.copies import device_of, find_device, float32_copy, structural_copy
from yoloprune.prune.apart import Seen
from yoloprune.prune.interest import find_interest
from yoloprune.prune.lanes import split
from yoloprune.prune.mend import LayerRepair, Mending, RepairOptions, kept_outputs
from yoloprune.prune.patches import LAYERS
from yoloprune.prune.targets import Targets

__all__ = ["LayerRepair", "RepairOptions", "RepairRecord", "Repaired", "repair"]

log = logging.getLogger(__name__)

_LOOKED_AT = 8
"""Pictures on which the whole network is looked at."""
_BLOWN_UP = 4.0
"""Times the error of the cut, or of giving a constant, from which on a repair is left out."""
FIXED = ("DFL",)
"""Modules whose convolution is no weight but a rule (the mean of a distribution)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RepairRecord:
    """What a repair did.

    Attributes:
        pictures: how many were used.
        held_out: how many of them chose the strengths.
        drift: how far the full network's channel means on these pictures are from those of its
            training: median over channels, in standard deviations.
        layers: in the order in which they were repaired.
        seconds: in all.
        apart: mean square error of all that the network gives on mirrored pictures that were held
            out, as a share of its variance, before and after: median over pictures, see
            :meth:`yoloprune.prune.apart.Seen.errors`; NaN where that cannot be told.
        left_out: whether all layers keep their old weights, since the whole was blown up.
    """

    pictures: int
    held_out: int
    drift: float | None
    layers: tuple[LayerRepair, ...]
    seconds: float
    apart: tuple[float, float] = (math.nan, math.nan)
    left_out: bool = False

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; an infinite pull is written as None with a note, NaN as None."""
        record = asdict(self)
        record["apart"] = [value if math.isfinite(value) else None for value in self.apart]
        for layer in record["layers"]:
            if layer["pull"] == float("inf"):
                layer |= {"pull": None, "note": "only its constant"}
        return record


@dataclass(frozen=True, slots=True, kw_only=True)
class Repaired:
    """A repaired model, and how it came about."""

    model: nn.Module
    record: RepairRecord


def repair(
    dense: nn.Module,
    slim: nn.Module,
    graph: ChannelGraph,
    kept: BoolArray,
    pictures: Tensor,
    options: RepairOptions | None = None,
) -> Repaired:
    """Repair a cut model.

    Args:
        dense: the model that was cut. Not modified.
        slim: what :func:`yoloprune.prune.cut.cut_units` made of it. Not modified.
        graph: the channels of ``dense``.
        kept: bool ``[n_units]``, which of them ``slim`` still has.
        pictures: ``[N, C, H, W]``, as the network is given them: float in 0 … 1, or uint8.
        options: how.

    Returns:
        A new model of the same shapes, and the record.

    Raises:
        DataError: there are fewer than two pictures.
    """
    options = options or RepairOptions()
    if len(pictures) < 2:
        raise DataError(f"repair: got {len(pictures)} pictures, expected at least 2, better 64.")
    start = time.perf_counter()
    device = device_of(slim) if options.device is None else find_device(options.device)
    options = replace(options, device=str(device))
    thin = copy.deepcopy(slim).to(device).float().eval()
    outputs = {path: index.to(device) for path, index in kept_outputs(graph, kept).items()}
    done: list[LayerRepair] = []
    drift = None
    seen = find_interest(float32_copy(dense, device), pictures)
    for training, layers in passes(thin, graph):
        looked = look(
            dense, graph, pictures, layers, options,
            outputs=outputs, training=training, interest=seen,
        )  # fmt: skip
        mending = Mending(thin, looked, graph, kept, layers, options)
        looked.values.clear()  # so that what a layer was held against goes when it is done
        done += mending.carry_out()
        drift = looked.drift if drift is None else drift
    made = _with_tensors(slim, thin, graph, done)
    held_out = split(len(pictures), options.held_out)[1]
    apart = _apart(dense, (slim, made), pictures[held_out[:_LOOKED_AT]], device)
    left_out = math.isfinite(apart[0]) and not apart[1] <= _BLOWN_UP * max(apart[0], 1)
    if left_out:
        made = copy.deepcopy(slim)
        done = [replace(layer, after=layer.before, pull=None) for layer in done]
    record = RepairRecord(
        pictures=len(pictures),
        held_out=len(held_out),
        drift=drift,
        layers=tuple(done),
        seconds=time.perf_counter() - start,
        apart=apart,
        left_out=left_out,
    )
    return Repaired(model=made, record=record)


def _apart(
    dense: nn.Module, models: tuple[nn.Module, nn.Module], pictures: Tensor, device: torch.device
) -> tuple[float, float]:
    """How far what each of two networks gives is from what the full one gives, on new pictures."""
    mirrored = pictures.flip(-1) if pictures.ndim == 4 else pictures
    seen = Seen(float32_copy(dense, device), mirrored)
    before, after = (seen.errors(float32_copy(model, device)).quantile(0.5) for model in models)
    return float(before), float(after)


def _with_tensors(
    slim: nn.Module, thin: nn.Module, graph: ChannelGraph, done: Sequence[LayerRepair]
) -> nn.Module:
    """A copy of a model with the tensors of repaired layers."""
    made = copy.deepcopy(slim)
    with torch.no_grad():
        for layer in done:
            if layer.pull is None:
                continue
            for path in (layer.path, graph.norm_of.get(layer.path)):
                if path is not None:
                    new = thin.get_submodule(path).state_dict()
                    for name, value in made.get_submodule(path).state_dict().items():
                        value.copy_(new[name])
    return made


def _repairable(model: nn.Module) -> set[str]:
    """Layers whose weights are products with their input, and nobody else's too."""
    owners = Counter(
        id(p) for m in model.modules() for p in m.parameters(recurse=False)
    )  # fmt: skip
    found = set()
    for path, module in model.named_modules():
        fixed = path and type(model.get_submodule(path.rpartition(".")[0])).__name__ in FIXED
        if isinstance(module, LAYERS) and not fixed and owners[id(module.weight)] == 1:
            found.add(path)
    return found


def passes(model: nn.Module, graph: ChannelGraph) -> list[tuple[bool, set[str]]]:
    """The ways through a network that reach layers to repair, and what each is the first to reach.

    Args:
        model: a cut network, or the full one: both have the same layers.
        graph: the channels of the full one.

    Returns:
        Whether it is a pass in training mode, and paths of layers.

    Raises:
        CutError: the model does not run.
    """
    found, open_ = [], _repairable(model)
    for training in (False, True):
        layers = _called(model, graph, training) & open_
        open_ -= layers
        if layers:
            found.append((training, layers))
    return found


def look(
    full: nn.Module,
    graph: ChannelGraph,
    pictures: Tensor,
    layers: set[str],
    options: RepairOptions,
    *,
    outputs: Mapping[str, Tensor] | None = None,
    training: bool = False,
    interest: Tensor | None = None,
) -> Targets:
    """What the full network gives on pictures, as :class:`Mending` needs it."""
    place = device_of(full) if options.device is None else find_device(options.device)
    runner = float32_copy(full, place)
    return Targets(
        runner,
        pictures,
        [path for path, _ in runner.named_modules() if path in layers],
        graph.norm_of,
        outputs=outputs,
        training=training,
        held_out=options.held_out,
        rows=options.rows,
        memory=options.memory,
        seed=options.seed,
        interest=interest,
    )


def _called(model: nn.Module, graph: ChannelGraph, training: bool) -> set[str]:
    """Layers that a forward pass calls."""
    called: set[str] = set()
    probe = structural_copy(model)
    if training:
        to_training(probe)
    for path, module in probe.named_modules():
        if isinstance(module, LAYERS):
            module.register_forward_pre_hook(lambda m, a, path=path: called.add(path))
    try:
        with torch.no_grad():
            probe(random_input(probe, graph.input_shape))
    except Exception as exc:  # foreign code
        if not training:
            raise CutError(f"the cut model does not run, got {exc!r}.") from exc
        log.info("repair: no pass in training mode (%s)", exc)  # the trace has told of it
        return set()
    return called
