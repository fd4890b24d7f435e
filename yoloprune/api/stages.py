"""The stages one by one, for networks in memory: trace, score, plan, cut, repair."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from yoloprune.api.given import Calibration, inputs_of
from yoloprune.api.slim import Ratios
from yoloprune.api.wording import speaks_arguments
from yoloprune.channels.graph import ChannelGraph
from yoloprune.channels.trace import trace as trace_channels
from yoloprune.errors import DataError, PlanError
from yoloprune.measure.copies import device_of
from yoloprune.measure.size import count
from yoloprune.prune.areas import with_areas
from yoloprune.prune.asking import Amount, budget_of, half_if_nothing
from yoloprune.prune.choose import within_groups
from yoloprune.prune.cost import Costs
from yoloprune.prune.cut import cut_units, kept_units
from yoloprune.prune.evidence import Evidence
from yoloprune.prune.given import plan_of
from yoloprune.prune.own import find_criterion, score_by
from yoloprune.prune.plan import Origin, PrunePlan
from yoloprune.prune.planner import Planner
from yoloprune.prune.repair import Repaired, RepairOptions
from yoloprune.prune.repair import repair as repair_model
from yoloprune.prune.score import Scores, parse_reduce
from yoloprune.prune.selftest import tested_cut

Plan = PrunePlan | str | PathLike[str]
"""A plan, or its file."""


@speaks_arguments
def trace(model: nn.Module, example_input: Tensor | None = None) -> ChannelGraph:
    """Find out which channels of a network live or die together.

    Args:
        model: any module that takes one tensor; not modified.
        example_input: ``[1, ...]``, as it takes it; a picture is made up where it is None.

    Returns:
        The graph. ``graph.units`` are the sets of channels that can go, each as a whole.

    Raises:
        TraceError: the network cannot be copied, or its forward pass fails.
    """
    return trace_channels(model, example_input)


@speaks_arguments
def score(
    model: nn.Module,
    graph: ChannelGraph,
    *,
    criterion: str = "l2",
    reduce: str = "mean",
    calib: Calibration | None = None,
    within: bool | None = None,
) -> Scores:
    """Say how much each unit matters: the lowest go first.

    Args:
        model: the traced network; not modified.
        graph: of :func:`trace`.
        criterion: gamma, l1, l2, lamp, fpgm, random; with ``calib`` recon or activation; or
            ``module:function`` of your own.
        reduce: mean, max, sum, norm: how the scores of tied channels become one.
        calib: inputs as the network takes them.
        within: compare units within their groups only, so that every group loses the same share;
            None does so for all but ``gamma``.

    Returns:
        float64 ``[n_units]`` in ``.values``; NaN where the criterion has nothing to go by.

    Raises:
        PlanError: the criterion is unknown, or lacks what it looks at.
    """
    found = find_criterion(criterion)
    evidence = None
    if found.looks != "weights":
        if calib is None:
            raise PlanError(f"criterion {criterion}: looks at inputs. Give some as calib.")
        evidence = Evidence(images=_tensors(calib), device=str(device_of(model)))
    scores = score_by(model, graph, criterion, parse_reduce(reduce), evidence)
    local = criterion != "gamma" if within is None else within
    return within_groups(scores, graph) if local and not found.ranks else scores


@speaks_arguments
def plan(
    model: nn.Module,
    graph: ChannelGraph,
    scores: Scores,
    *,
    percent: float | None = None,
    macs: Amount = None,
    params: Amount = None,
    bytes: Amount = None,  # noqa: A002  # the name that its flag has
    precision: str | None = None,
    ratios: Ratios = None,
    min_channels: int = 8,
    max_layer_prune: float = 0.9,
    round_to: int = 8,
) -> PrunePlan:
    """Choose which channels go; arguments that :func:`~yoloprune.slim` has mean the same.

    Args:
        model: the traced network; not modified.
        graph: of :func:`trace`.
        scores: of :func:`score`.
        percent: share of the prunable channels that goes; half, where nothing is asked for.
        macs: multiply-adds of one input of the traced shape that may stay.
        params: parameters that may stay.
        bytes: of weights that may stay.
        precision: of these.
        ratios: shares of single layers.
        min_channels: that every layer keeps at least.
        max_layer_prune: share that a layer loses at most.
        round_to: kept counts are multiples of it.

    Raises:
        PlanError: the budget cannot be met.
    """
    limits = {"macs": macs, "params": params, "bytes": bytes}
    budget = budget_of(
        half_if_nothing(percent, {**limits, "ratios": ratios}), limits, precision,
        (min_channels, max_layer_prune, round_to),
        ratios=Path(ratios) if isinstance(ratios, str | PathLike) else ratios,
    )  # fmt: skip
    costs = None
    if budget.limits:
        from torch import Size

        costs = Costs(model, graph, count(model, Size(graph.input_shape)))
    planner = Planner(graph, costs)
    return planner.plan(scores, with_areas(budget, model), Origin(path=type(model).__name__))


@speaks_arguments
def cut(model: nn.Module, graph: ChannelGraph, plan: Plan, *, compensate: bool = True) -> nn.Module:
    """Remove the channels of a plan from a copy, and test it.

    Args:
        model: the traced network; not modified.
        graph: of :func:`trace`.
        plan: of :func:`plan`, or a file of one.
        compensate: fold the constants of removed channels into what reads them.

    Returns:
        A new network of the same classes, whose parameters are new objects: make optimizers anew.

    Raises:
        PlanError: the plan is of another network.
        CutError: what is left does not give what the network gives whose removed channels are
            silent.
    """
    remove = _removed(graph, plan)
    thin = cut_units(model, graph, remove, compensate=compensate)
    tested_cut(model, graph, remove, thin, compensate)
    return thin


@speaks_arguments
def repair(
    model: nn.Module,
    slim: nn.Module,
    graph: ChannelGraph,
    plan: Plan,
    calib: Calibration,
    *,
    device: str | None = None,
) -> Repaired:
    """Fit every layer that is left to what the full network gave, by least squares, layer by layer.

    Args:
        model: the full network; not modified.
        slim: what :func:`cut` made of it; not modified.
        graph: of :func:`trace`.
        plan: that was cut.
        calib: inputs as the network takes them, without labels; some dozens.
        device: where to work; None is where ``slim`` is.

    Returns:
        A new network as ``.model``, and what was fitted as ``.record``.

    Raises:
        DataError: there are fewer than two inputs.
    """
    kept = kept_units(graph, _removed(graph, plan))
    options = RepairOptions(device=device)
    return repair_model(model, slim, graph, kept, _tensors(calib), options)


def _removed(graph: ChannelGraph, plan: Plan) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    return plan_of(plan if isinstance(plan, PrunePlan) else Path(plan)).remove(graph)


def _tensors(calib: Calibration) -> Tensor:
    found = inputs_of(calib, None, _MOST)
    if found is None:
        raise DataError("calib: got a path, expected inputs: a tensor [N, ...], or a DataLoader.")
    return found.images


_MOST = 256
"""Inputs that are looked at."""
