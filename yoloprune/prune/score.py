"""How much each unit matters: one number a unit, the lowest go first.

A criterion is one entry of :data:`CRITERIA`. It sees weights, pictures or the loss; the planner
sees only its :class:`Scores`. A unit without a score (NaN) is never pruned.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

import numpy as np

from yoloprune.channels.graph import ChannelGraph, IntArray
from yoloprune.errors import PlanError
from yoloprune.measure.quantiles import FloatArray, quantiles
from yoloprune.prune.worth import bare_worth, check_finite, rows_of

if TYPE_CHECKING:
    from torch import Tensor, nn

    from yoloprune.prune.evidence import Evidence

Reduce = Literal["mean", "max", "sum", "norm"]
Looks = Literal["weights", "pictures", "loss"]
"""What a criterion looks at: weights alone, pictures, or the loss on pictures."""
Function = Callable[..., FloatArray]
"""``(model, graph, reduce) -> float64 [n_units]``; one that looks at more than weights takes an
:class:`~yoloprune.prune.evidence.Evidence` after these."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Criterion:
    """One way to score units.

    Attributes:
        function: what scores.
        missing: why a unit may get NaN from it, for people.
        looks: what it looks at.
        sizes: whether a score is the size of what a unit gives, so that one that is much smaller
            than others is of a unit that is switched off.
        ranks: whether a score is a place within its group, so that groups are not compared.
    """

    function: Function
    missing: str
    looks: Looks = "weights"
    sizes: bool = False
    ranks: bool = False


CRITERIA: dict[str, Criterion] = {}
"""Name → criterion; :mod:`yoloprune.prune.sighted` enters those that look at more than weights."""

ALIKE = 1.5
"""Scores within such a factor of each other tell no channel from another."""
NEAR_ZERO = 0.05
"""A score under this share of the kept units' median counts as switched off. A channel's part
in the next layer's input goes with gamma: at a twentieth it carries 0.25 % of the power of a
typical channel. Exact zeros of a proximal step pass whatever the scale, and so do the small
remains that a sub-gradient leaves."""

SPARSE_SHARE = 0.9
"""Share of the channels to be removed that must be switched off, else there is a warning."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """What one criterion says of every unit.

    Attributes:
        values: float64 ``[n_units]``; NaN where the criterion has nothing to go by.
        criterion: its name in :data:`CRITERIA`.
        reduce: how several channels of a unit, or several units, become one number.
        missing: why a value is NaN, for people.
    """

    values: FloatArray
    criterion: str
    reduce: Reduce = "mean"
    missing: str = "no score"


def criterion(name: str, **about: Any) -> Callable[[Function], Function]:
    """Enter a function into :data:`CRITERIA` under ``name``.

    Args:
        name: what ``--criterion`` is given.
        about: the other fields of :class:`Criterion`.

    Raises:
        ValueError: the name is taken.
    """

    def enter(function: Function) -> Function:
        if name in CRITERIA:
            taken = CRITERIA[name].function.__name__
            raise ValueError(f"criterion {name!r} is already taken by {taken}")
        CRITERIA[name] = Criterion(function=function, **about)
        return function

    return enter


def score(
    model: nn.Module,
    graph: ChannelGraph,
    *,
    criterion: str = "gamma",
    reduce: Reduce = "mean",
    evidence: Evidence | None = None,
) -> Scores:
    """Score every unit of a model.

    Args:
        model: the traced model. Not modified.
        graph: its channels.
        criterion: a name in :data:`CRITERIA`; see :mod:`yoloprune.prune.own` for others.
        reduce: what one unit's channels in several layers become: ``mean``, ``max``, ``sum``,
            ``norm``. Criteria by the loss sum what tied channels say before they square it.
        evidence: pictures, for criteria that look at them, with lessons for those by the loss.

    Returns:
        One float64 a unit; NaN where the criterion does not apply.

    Raises:
        PlanError: the criterion or ``reduce`` is unknown, it lacks what it looks at, or the model
            has nothing to score.
    """
    reduce = parse_reduce(reduce)
    if criterion not in CRITERIA:
        raise PlanError(f"--criterion: unknown, got {criterion!r}, expected {_one_of(CRITERIA)}.")
    found = CRITERIA[criterion]
    if found.looks == "weights":
        values = found.function(model, graph, reduce)
    elif evidence is None or (found.looks == "loss" and evidence.lessons is None):
        raise PlanError(f"--criterion {criterion}: looks at pictures. Name some with --calib.")
    else:
        values = found.function(model, graph, reduce, evidence)
    return Scores(values=values, criterion=criterion, reduce=reduce, missing=found.missing)


def parse_reduce(text: str) -> Reduce:
    """The way to aggregate that a text names.

    Raises:
        PlanError: it names none.
    """
    for known in get_args(Reduce):
        if text == known:
            return cast(Reduce, known)
    raise PlanError(f"--reduce: unknown, got {text!r}, expected {_one_of(get_args(Reduce))}.")


def reduce_by_label(
    values: FloatArray, labels: IntArray, n_labels: int, reduce: Reduce
) -> FloatArray:
    """Aggregate values that carry the same label.

    Args:
        values: float64 ``[n]``.
        labels: int64 ``[n]``, in ``[0, n_labels)``.
        n_labels: how many results there are.
        reduce: ``mean``, ``max``, ``sum`` or ``norm`` (the root of the summed squares).

    Returns:
        float64 ``[n_labels]``; NaN for a label that never occurs.
    """
    count = np.bincount(labels, minlength=n_labels)
    if reduce == "norm":
        total = np.sqrt(np.bincount(labels, weights=np.square(values), minlength=n_labels))
    elif reduce == "max":
        total = np.full(n_labels, -np.inf)
        np.maximum.at(total, labels, values)
    else:
        total = np.bincount(labels, weights=values, minlength=n_labels)
    result = np.full(n_labels, np.nan)
    divisor = np.maximum(count, 1) if reduce == "mean" else np.ones(n_labels, dtype=np.int64)
    np.divide(total, divisor, out=result, where=count > 0)
    return result


@criterion("gamma", missing="no BatchNorm scale", sizes=True)
def _gamma(model: nn.Module, graph: ChannelGraph, reduce: Reduce) -> FloatArray:
    """|BatchNorm weight| over every BatchNorm channel of a unit.

    Where a layer without a BatchNorm makes the unit, too (the convs of ``CBLinear``, a plain conv
    before a shortcut), the unit is worth at least what that one gives, see :func:`bare_worth`.

    Reference: Liu et al. 2017, Learning Efficient Convolutional Networks through Network
    Slimming, section 3.
    """
    gammas, units = _gammas(model, graph)
    values = reduce_by_label(np.abs(gammas), units, graph.n_units, reduce)
    return np.where(np.isfinite(values), np.maximum(values, bare_worth(model, graph)), values)


@criterion("l1", missing="no layer that creates it", sizes=True)
def _l1(model: nn.Module, graph: ChannelGraph, reduce: Reduce) -> FloatArray:
    """L1 norm of the weights that make a channel, relative to the mean of its layer.

    Works on fused models too, which have no BatchNorm scale left.

    Reference: Li et al. 2017, Pruning Filters for Efficient ConvNets, section 3.1; there it is
    compared within a layer only, here over all.
    """
    return _by_rows(model, graph, reduce, lambda rows: rows.abs().sum(1))


@criterion("l2", missing="no layer that creates it", sizes=True)
def _l2(model: nn.Module, graph: ChannelGraph, reduce: Reduce) -> FloatArray:
    """L2 norm of the weights that make a channel, relative to the mean of its layer."""
    return _by_rows(model, graph, reduce, lambda rows: rows.square().sum(1).sqrt())


@criterion("lamp", missing="no layer that creates it")
def _lamp(model: nn.Module, graph: ChannelGraph, reduce: Reduce) -> FloatArray:
    """Squared L2 norm of a channel's weights, over that of all in its layer that are not smaller.

    The largest of each layer has 1, so that one threshold over all layers leaves none of them
    empty.

    Reference: Lee et al. 2021, Layer-adaptive Sparsity for the Magnitude-based Pruning, section 3;
    there of single weights, here of the rows that make channels.
    """
    return _by_rows(model, graph, reduce, _lamps, relative=False)


def _lamps(rows: Tensor) -> Tensor:
    power, order = rows.double().square().sum(1).sort(descending=True)
    lamps = power.new_empty(power.shape)
    lamps[order] = power / power.cumsum(0).clamp_min(1e-300)
    return lamps


@criterion("fpgm", missing="no layer that creates it")
def _fpgm(model: nn.Module, graph: ChannelGraph, reduce: Reduce) -> FloatArray:
    """Summed distance to all other filters of its layer, relative to the layer's mean.

    A filter near the geometric median says what the others already say.

    Reference: He et al. 2019, Filter Pruning via Geometric Median, section 3.4.
    """
    return _by_rows(model, graph, reduce, _distances)


@criterion("random", missing="no score")
def _random(model: nn.Module, graph: ChannelGraph, reduce: Reduce) -> FloatArray:
    """Uniform in [0, 1), the same in every run: what any other criterion must beat."""
    return np.random.default_rng(0).random(graph.n_units)


def _distances(rows: Tensor) -> Tensor:
    import torch

    return torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist").sum(1)


def _by_rows(
    model: nn.Module,
    graph: ChannelGraph,
    reduce: Reduce,
    size: Callable[[Tensor], Tensor],
    *,
    relative: bool = True,
) -> FloatArray:
    """Score each unit by the weights of the layers that create it.

    Args:
        model: the traced model.
        graph: its channels.
        reduce: how a unit's channels become one score.
        size: rows ``[C_out, weights]`` → one number a row ``[C_out]``.
        relative: divide by the mean of each layer.
    """
    import torch

    found = []
    axes = list(graph.out_axes)
    for axis in axes:
        values = size(rows_of(model, axis))
        if relative:  # wide layers have longer rows: else whole narrow ones would go first
            values = values / values.mean().clamp_min(torch.finfo(values.dtype).tiny)
        found.append(values)
    if not found:
        raise PlanError("model: no layer creates channels, so there is nothing to rank by.")
    scores = torch.cat(found).to("cpu", torch.float64).numpy()
    check_finite(scores, axes)
    units = np.concatenate([axis.units.ravel() for axis in axes])
    return reduce_by_label(scores, units, graph.n_units, reduce)


def gamma_quantiles(model: nn.Module, graph: ChannelGraph) -> dict[str, float]:
    """Quantiles of |gamma| over every BatchNorm channel that may be pruned.

    Returns:
        ``min, p05, p25, p50, p75, p95, max``.

    Raises:
        PlanError: the model has no BatchNorm scales, or none of them may be pruned.
    """
    gammas, units = _gammas(model, graph)
    free = np.abs(gammas[graph.prunable[units]])
    if free.size == 0:
        raise PlanError("model: every channel with a BatchNorm scale is frozen. See `info`.")
    return quantiles(free)


def _gammas(model: nn.Module, graph: ChannelGraph) -> tuple[FloatArray, IntArray]:
    """Every BatchNorm scale of a model and the unit that it belongs to, both ``[n]``."""
    # Lazy: the command line imports this module before it knows whether it needs torch.
    import torch
    from torch.nn.modules.batchnorm import _BatchNorm

    weights, axes = [], []
    for axis in graph.axes:
        if axis.role != "affine" or axis.tensor.rpartition(".")[2] != "weight":
            continue
        module = model.get_submodule(axis.module)
        if isinstance(module, _BatchNorm):
            weight = module.weight.detach()
            if weight.numel() != axis.units.size:
                raise PlanError(
                    f"{axis.tensor}: holds {weight.numel()} scales, expected the "
                    f"{axis.units.size} of its channel graph. Trace the model again."
                )
            weights.append(weight)
            axes.append(axis)
    if not weights:
        raise PlanError(
            "model: no BatchNorm scale in any traced layer, so there is nothing to rank by. "
            "Was it fused? Give the weights as they were before that, or rank by --criterion l1."
        )
    # One copy to the host: on a GPU a copy a layer would wait for the device each time.
    gammas = torch.cat(weights).to("cpu", torch.float64).numpy()
    check_finite(gammas, axes)
    return gammas, np.concatenate([axis.units for axis in axes])


def _one_of(names: Iterable[str]) -> str:
    return ", ".join(names)
