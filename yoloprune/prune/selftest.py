"""The self-test of a cut: removing channels must equal silencing them.

In a copy of the full model everything that belongs to the removed units is set to zero, what
writes them and what reads them. The cut model must then give the same output, to rounding.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from yoloprune.channels.graph import ChannelGraph, IntArray
from yoloprune.channels.table import tensors_in
from yoloprune.channels.trace import random_input
from yoloprune.errors import CutError
from yoloprune.prune.compensate import compensate, new_bias_axes, zeroed
from yoloprune.prune.replica import replica

_STEPS, _MOST = 100, 1e-5
"""Roundings that a cut may differ by in a model that blows them up, and the most that ever passes.

A wrong cut differs by percents.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class SelfTest:
    """What a self-test found.

    Attributes:
        max_rel_diff: largest difference of any output tensor, relative to that tensor's scale
            (its largest absolute value); infinite where an output is NaN, or infinite in one
            model only.
        outputs: how many tensors were compared.
        dtype: in which precision.
        rounding: what rounding its weights and its input once more changes the full model's
            outputs by; looked at only where the difference is more than this precision explains
            of a usual model.
    """

    max_rel_diff: float
    outputs: int
    dtype: str
    rounding: float = 0.0

    @property
    def tolerance(self) -> float:
        """What rounding explains: in this precision, and in this model."""
        usual = {"torch.float64": 1e-9, "torch.float32": 1e-3}.get(self.dtype, 5e-2)
        return max(usual, min(_STEPS * self.rounding, _MOST))

    @property
    def passed(self) -> bool:
        """Whether the cut model is the silenced model."""
        return self.max_rel_diff <= self.tolerance


def self_test(
    model: nn.Module,
    graph: ChannelGraph,
    remove: IntArray,
    slim: nn.Module,
    *,
    compensated: bool = False,
    example: Tensor | None = None,
    dtype: torch.dtype = torch.float64,
) -> SelfTest:
    """Compare a cut model with the full one whose removed channels are silenced.

    Args:
        model: the full model. Not modified.
        graph: its channels.
        remove: int64, units that were removed.
        slim: what :func:`yoloprune.prune.cut.cut_units` made of it.
        compensated: whether the cut was made with compensation; the full model then gets the
            same compensation before it is silenced, so that the comparison is exact again.
        example: ``[B, ...]``; random numbers of the traced shape without it.
        dtype: precision of the comparison; both models are copied into it.

    Returns:
        The largest relative difference over all outputs.

    Raises:
        CutError: the cut model does not run, or gives other tensors.
    """
    source = compensate(model, graph, remove).model if compensated else model
    full = copy.deepcopy(silenced(source, graph, remove)).to(dtype).eval()
    cut = copy.deepcopy(slim).to(dtype).eval()
    given = random_input(full, graph.input_shape) if example is None else example.to(dtype)
    with torch.no_grad():
        expected = tensors_in(full(given.clone()))
        try:
            found = tensors_in(cut(given.clone()))
        except Exception as exc:  # whatever a broken forward pass raises
            raise CutError(f"the cut model does not run, got {exc!r}.") from exc
        result = _compare(expected, found, set(graph.carried_outputs), str(dtype))
        if result.passed:
            return result
        moved = tensors_in(_rounded_once_more(full)(given * (1 + _signs(given))))
        again = _compare(expected, moved, set(graph.carried_outputs), str(dtype))
    return replace(result, rounding=again.max_rel_diff)


def _rounded_once_more(model: nn.Module) -> nn.Module:
    """A model whose weights are each off by one rounding; those that are zero stay it."""
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point():
            tensor.data = tensor.data * (1 + _signs(tensor))
    return model


def _signs(tensor: Tensor) -> Tensor:
    """One rounding of a number near 1, up or down at random, always the same."""
    up = torch.randint(0, 2, tensor.shape, generator=torch.Generator().manual_seed(0))
    return (2 * up - 1).to(tensor) * torch.finfo(tensor.dtype).eps


def silenced(model: nn.Module, graph: ChannelGraph, remove: IntArray) -> nn.Module:
    """A replica in which everything that belongs to removed units is zero.

    Args:
        model: full size. Not modified; the replica shares its other tensors.
        graph: its channels.
        remove: int64, units.
    """
    gone = np.zeros(graph.n_units, dtype=bool)
    gone[remove] = True
    parameters = dict(model.named_parameters())
    changed: dict[str, Tensor] = {}
    for axis in (*graph.axes, *new_bias_axes(parameters, graph)):
        if axis.tensor in parameters and gone[axis.units].any():
            before = changed.get(axis.tensor, parameters[axis.tensor].detach())
            changed[axis.tensor] = zeroed(before, axis, gone)
    return replica(model, changed)


def relative_difference(a: Any, b: Any) -> float:
    """Largest difference of two (nested) model outputs, relative to each tensor's scale.

    Raises:
        CutError: they do not hold tensors of the same shapes.
    """
    return _compare(tensors_in(a), tensors_in(b), set(), "").max_rel_diff


def _compare(
    expected: list[Tensor], found: list[Tensor], carried: set[int], dtype: str
) -> SelfTest:
    if len(expected) != len(found):
        raise CutError(f"the cut model gives {len(found)} tensors, expected {len(expected)}.")
    worst, compared = 0.0, 0
    for i, (a, b) in enumerate(zip(expected, found, strict=True)):
        if i in carried:
            continue
        if a.shape != b.shape:
            raise CutError(
                f"output {i} of the cut model has shape {tuple(b.shape)}, expected "
                f"{tuple(a.shape)}."
            )
        compared += 1
        worst = max(worst, _difference(a, b))
    return SelfTest(max_rel_diff=worst, outputs=compared, dtype=dtype)


def _difference(a: Tensor, b: Tensor) -> float:
    if not a.numel():
        return 0.0
    a, b = a.double(), b.double()
    # Equal infinities are what some heads mark a place with; a NaN is equal to nothing.
    gap = torch.where(a == b, 0.0, (a - b).abs())
    finite = a[a.isfinite()].abs()
    scale = float(finite.max()) if finite.numel() else 1.0
    worst = float(gap.max())
    # A NaN, or an infinity on one side only, is a difference as large as can be.
    return worst / max(scale, 1e-12) if np.isfinite(worst) else float("inf")


def tested_cut(
    model: nn.Module, graph: ChannelGraph, remove: IntArray, thin: nn.Module, compensated: bool
) -> SelfTest:
    """The self-test of the very model that is about to be written, as :func:`self_test` does it.

    Raises:
        CutError: it failed.
    """
    result = self_test(model, graph, remove, thin, compensated=compensated)
    if result.max_rel_diff == float("inf"):
        raise CutError(
            "self-test: an output is no finite number, or only one of the cut and the uncut model "
            "gives infinity there. Nothing was written; does the model give numbers before it?"
        )
    if not result.passed:
        raise CutError(
            f"self-test: the cut changes the output by {result.max_rel_diff:.2g} of its scale, "
            f"expected at most {result.tolerance:g}. Nothing was written; please report this model."
        )
    return result
