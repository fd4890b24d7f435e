"""Least squares that is pulled towards what was there, from sums over rows.

What a layer is to give, less what it gives, is ``R``; what it reads is ``X``. The change of its
weights that explains most of ``R``, and is small, is ``(XᵀX + λI)⁻¹ XᵀR`` over centred rows. The
sums hold all that is needed, so rows come in any number of pieces and none is kept.

Reference: Zhang et al. 2015, Accelerating Very Deep Convolutional Networks for Classification and
Detection, section 3.2; He et al. 2017, Channel Pruning for Accelerating Very Deep Neural
Networks, section 3.1 (asymmetric: the inputs are those of the network that was cut).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

PULLS = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0, 3.0, 10.0)
"""Strengths λ that are tried, as shares of the mean power of an input."""
_SMALL = 600
"""Inputs up to which every strength is tried; beyond, the best is looked for downhill …"""
USUAL = 0.03
"""… from here."""


class Sums:
    """Sums over rows, from which a fit and its error can be told.

    Attributes:
        n: how many rows.
        gram: float64 ``[groups, D, D]``, ``XᵀX``.
        cross: float64 ``[groups, D, O]``, ``XᵀR``.
        x: float64 ``[groups, D]``, ``R``'s and ``X``'s sums …
        r: float64 ``[groups, O]``.
        r_square: float64 ``[groups, O]``, of ``R²``.
        y: float64 ``[groups, O]``, of the wanted output …
        y_square: … and of its square.
    """

    def __init__(self, groups: int, inputs: int, outputs: int, device: torch.device) -> None:
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(groups, *shape, dtype=torch.float64, device=device)

        self.n = 0
        self.gram, self.cross, self.x = zeros(inputs, inputs), zeros(inputs, outputs), zeros(inputs)
        self.r, self.r_square = zeros(outputs), zeros(outputs)
        self.y, self.y_square = zeros(outputs), zeros(outputs)

    def add(self, x: Tensor, r: Tensor, y: Tensor) -> None:
        """Take in rows.

        Args:
            x: float32 ``[groups, n, D]``.
            r: float32 ``[groups, n, O]``.
            y: float32 ``[groups, n, O]``.
        """
        self.n += x.shape[1]
        self.gram += x.mT @ x
        self.cross += x.mT @ r
        self.x += x.double().sum(1)
        for total, values in ((self.r, r), (self.y, y)):
            total += values.double().sum(1)
        for total, values in ((self.r_square, r), (self.y_square, y)):
            total += values.double().square().sum(1)

    def __add__(self, other: Sums) -> Sums:
        """The sums over the rows of both."""
        both = object.__new__(Sums)
        for name, value in vars(self).items():
            setattr(both, name, value + getattr(other, name))
        return both

    def variance(self) -> Tensor:
        """Of the wanted output: float64 ``[groups, O]``."""
        n = max(self.n, 1)
        return (self.y_square / n - (self.y / n).square()).clamp_min(0)

    def error(self, change: Tensor, bias: Tensor) -> Tensor:
        """Mean square of what is left of ``R`` after a change: float64 ``[groups, O]``."""
        fitted = (change * (self.gram @ change)).sum(1) - 2 * (change * self.cross).sum(1)
        shifted = bias * (2 * ((self.x[:, None] @ change)[:, 0] - self.r) + self.n * bias)
        return ((self.r_square + fitted + shifted) / max(self.n, 1)).clamp_min(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """A change of a layer.

    Attributes:
        change: float64 ``[groups, D, O]``, to be added to the layer's matrix.
        bias: float64 ``[groups, O]``, to be added to its output.
        pull: λ, as a share of the mean power of an input; infinite where only the bias changes,
            None where nothing does.
        before, after: mean square error on the rows held out, as a share of the variance that the
            output should have there, mean over outputs weighted by that variance.
    """

    change: Tensor
    bias: Tensor
    pull: float | None
    before: float
    after: float


def fit(rows: Sums, held_out: Sums, *, shifts: bool, near: float | None = None) -> Fit:
    """The change that leaves least error on rows that it was not made from.

    The strength of the pull is chosen there; then all rows are used.

    Args:
        rows: to fit.
        held_out: to choose by.
        shifts: whether the layer can add a constant to its output.
        near: the strength from which the best is looked for downhill; None tries all where that
            is quick.
    """
    scale = float(held_out.variance().sum()) or 1.0
    unchanged = torch.zeros_like(rows.cross), torch.zeros_like(rows.r)
    before = float(held_out.error(*unchanged).sum()) / scale
    best, best_pull = before, None
    if shifts:
        shifted = unchanged[0], rows.r / max(rows.n, 1)
        after = float(held_out.error(*shifted).sum()) / scale
        if after < best:
            best, best_pull = after, float("inf")
    centred = _Centred(rows, shifts)

    def error(pull: float) -> float:
        made = centred.solve(pull)
        return float("inf") if made is None else float(held_out.error(*made).sum()) / scale

    everywhere = near is None and rows.x.shape[1] <= _SMALL
    pull, after = _least(error, PULLS, everywhere, USUAL if near is None else near)
    if after < best:
        best, best_pull = after, pull
    if best_pull is None:
        return Fit(change=unchanged[0], bias=unchanged[1], pull=None, before=before, after=before)
    both = rows + held_out
    made = unchanged[0], both.r / max(both.n, 1)
    if best_pull != float("inf"):
        made = _Centred(both, shifts).solve(best_pull) or made
    return Fit(change=made[0], bias=made[1], pull=best_pull, before=before, after=best)


class _Centred:
    """Sums about the mean, ready to be solved for any pull."""

    def __init__(self, sums: Sums, shifts: bool) -> None:
        n = max(sums.n, 1)
        self._shifts = shifts
        self._x, self._r = sums.x / n, sums.r / n
        self._gram, self._cross = sums.gram / n, sums.cross / n
        if shifts:
            self._gram = self._gram - self._x[:, :, None] * self._x[:, None]
            self._cross = self._cross - self._x[:, :, None] * self._r[:, None]
        self._power = self._gram.diagonal(dim1=1, dim2=2).mean(1)

    def solve(self, pull: float) -> tuple[Tensor, Tensor] | None:
        """Change and bias; None where the matrix cannot be inverted."""
        added = (pull * self._power + 1e-12 * self._power.max() + 1e-30)[:, None]
        matrix = self._gram.clone()
        matrix.diagonal(dim1=1, dim2=2).add_(added)
        factor, info = torch.linalg.cholesky_ex(matrix)
        if bool(info.any()):
            return None
        change = torch.cholesky_solve(self._cross, factor)
        bias = self._r - (self._x[:, None] @ change)[:, 0]
        return change, bias if self._shifts else torch.zeros_like(bias)


def _least(
    error: Callable[[float], float], pulls: Sequence[float], everywhere: bool, start: float
) -> tuple[float, float]:
    """The pull of least error, and that error."""
    found: dict[int, float] = {}

    def at(index: int) -> float:
        if index not in found:
            found[index] = error(pulls[index])
        return found[index]

    if everywhere:
        for index in range(len(pulls)):
            at(index)
    else:
        here = min(range(len(pulls)), key=lambda i: abs(pulls[i] - start))
        while True:
            beside = [i for i in (here - 1, here, here + 1) if 0 <= i < len(pulls)]
            best = min(beside, key=at)
            if best == here:
                break
            here = best
    best = min(found, key=lambda i: found[i])
    return pulls[best], found[best]
