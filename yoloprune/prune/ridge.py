"""Least squares that is pulled towards what was there, from rows or from sums over them.

What a layer is to give, less what it gives, is ``R``; what it reads is ``X``. The change of its
weights that explains most of ``R``, and is small, is ``(XᵀX + λI)⁻¹ XᵀR`` over centred rows, which
is ``Xᵀ(XXᵀ + λI)⁻¹R``, too. Rows come in any number of pieces: as long as they are few beside the
inputs they are kept, and a matrix as large as they are many is solved; from then on only their
sums are, and it is one as large as the inputs are many.

Reference: Zhang et al. 2015, Accelerating Very Deep Convolutional Networks for Classification and
Detection, section 3.2; He et al. 2017, Channel Pruning for Accelerating Very Deep Neural
Networks, section 3.1 (asymmetric: the inputs are those of the network that was cut); Saunders et
al. 1998, Ridge Regression Learning Algorithm in Dual Variables.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor

USUAL = 0.03
"""A strength λ to begin with where nothing is known."""
PULLS = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0, 3.0, 10.0)
"""Strengths λ that are tried, as shares of the mean power of an input."""
_SMALL = 600
"""Inputs up to which all strengths can be tried, in double precision."""
_FEW = 0.5
"""Rows that are kept, as a share of the inputs, where they are to be fitted …"""
_FEW_HELD_OUT = 2.0
"""… and where an error is only to be told: sums would take more room, and more time."""
EXACT = 1e-10
"""Error, as a share of the variance of the wanted output, at which nothing is to be mended."""


class Sums:
    """Rows, or sums over them, from which a fit and its error can be told.

    Args:
        groups: parts that do not see each other.
        inputs: D, of each.
        outputs: O, of each.
        device: where.
        held_out: whether the rows only tell errors.

    Attributes:
        n: how many rows.
        x: float64 ``[groups, D]``, ``X``'s and ``R``'s sums …
        r: float64 ``[groups, O]``.
        r_square: float64 ``[groups, O]``, of ``R²``.
        y: float64 ``[groups, O]``, of the wanted output …
        y_square: … and of its square.
        rows: float32 ``[groups, n, D]`` and ``[groups, n, O]``, ``X`` and ``R`` piece by piece;
            None where they are many, unless ``R`` was next to nothing so far: that is a layer
            before all cuts, whose sums will hardly be asked for.
    """

    def __init__(
        self,
        groups: int,
        inputs: int,
        outputs: int,
        device: torch.device,
        *,
        held_out: bool = False,
    ) -> None:
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(groups, *shape, dtype=torch.float64, device=device)

        self.n = 0
        self.x = zeros(inputs)
        self.r, self.r_square = zeros(outputs), zeros(outputs)
        self.y, self.y_square = zeros(outputs), zeros(outputs)
        self.rows: list[tuple[Tensor, Tensor]] | None = []
        self._most = inputs * (_FEW_HELD_OUT if held_out else _FEW)
        self._products: tuple[Tensor, ...] = ()

    def add(self, x: Tensor, r: Tensor, y: Tensor) -> None:
        """Take in rows.

        Args:
            x: float32 ``[groups, n, D]``.
            r: float32 ``[groups, n, O]``.
            y: float32 ``[groups, n, O]``.
        """
        self.n += x.shape[1]
        self.x += x.double().sum(1)
        for total, values in ((self.r, r), (self.y, y)):
            total += values.double().sum(1)
        for total, values in ((self.r_square, r), (self.y_square, y)):
            total += values.double().square().sum(1)
        if self.rows is None:
            _pour(x, r, self._products)
            return
        self.rows.append((x, r))
        if self.n > self._most and self.r_square.sum() > EXACT * self.y_square.sum():
            products = self.no_products()
            self.pour(products)
            self._products, self.rows = products, None

    def pour(self, products: tuple[Tensor, Tensor]) -> None:
        """Add ``XᵀX`` and ``XᵀR`` to float64 ``[groups, D, D]`` and ``[groups, D, O]``."""
        if self.rows is None:
            for total, more in zip(products, self._products, strict=True):
                total += more
        for x, r in self.rows or ():
            _pour(x, r, products)

    def no_products(self) -> tuple[Tensor, Tensor]:
        """Zeros, to be poured into."""
        groups, inputs = self.x.shape
        zeros = self.x.new_zeros
        return zeros(groups, inputs, inputs), zeros(groups, inputs, self.r.shape[1])

    def explain(self, change: Tensor, bias: Tensor) -> None:
        """Take from ``R`` what a change of the layer brings to the rows that are there.

        Rows of a later call then say what is left, as these do.

        Args:
            change: float64 ``[groups, D, O]``.
            bias: float64 ``[groups, O]``.
        """
        self.r_square = self.error(change, bias) * max(self.n, 1)
        self.r = self.r - (self.x[:, None] @ change)[:, 0] - self.n * bias
        if self.rows is not None:
            moved, shift = change.float(), bias.float()[:, None]
            self.rows = [(x, torch.baddbmm(r - shift, x, moved, alpha=-1)) for x, r in self.rows]
            return
        gram, cross = self._products
        self._products = gram, cross - gram @ change - self.x[:, :, None] * bias[:, None]

    def variance(self) -> Tensor:
        """Of the wanted output: float64 ``[groups, O]``."""
        n = max(self.n, 1)
        return (self.y_square / n - (self.y / n).square()).clamp_min(0)

    def error(self, change: Tensor, bias: Tensor) -> Tensor:
        """Mean square of what is left of ``R`` after a change: float64 ``[groups, O]``."""
        n = max(self.n, 1)
        if self.rows is not None:
            moved, shift = change.float(), bias.float()[:, None]
            left = (torch.baddbmm(r - shift, x, moved, alpha=-1) for x, r in self.rows)
            return sum((e.double().square().sum(1) for e in left), torch.zeros_like(bias)) / n
        gram, cross = self._products
        fitted = (change * (gram @ change)).sum(1) - 2 * (change * cross).sum(1)
        shifted = bias * (2 * ((self.x[:, None] @ change)[:, 0] - self.r) + self.n * bias)
        return ((self.r_square + fitted + shifted) / n).clamp_min(0)


def _pour(x: Tensor, r: Tensor, products: tuple[Tensor, ...]) -> None:
    """Add what rows have to ``XᵀX`` and ``XᵀR``."""
    for total, values in zip(products, (x, r), strict=True):
        total += x.mT @ values


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


def fit(
    rows: Sums, held_out: Sums, *, shifts: bool, near: float = USUAL, thorough: bool = True
) -> Fit:
    """The change that leaves least error on rows that it was not made from.

    The strength of the pull is chosen there; then all rows are used. Where nothing is to be mended
    nothing is looked for.

    Args:
        rows: to fit.
        held_out: to choose by.
        shifts: whether the layer can add a constant to its output.
        near: the strength from which the best is looked for downhill.
        thorough: try all strengths where that is quick.
    """
    scale = float(held_out.variance().sum()) or 1.0
    before = float(held_out.r_square.sum()) / max(held_out.n, 1) / scale
    made = rows.x.new_zeros(*rows.x.shape, rows.r.shape[1]), torch.zeros_like(rows.r)
    if before <= EXACT:
        return Fit(change=made[0], bias=made[1], pull=None, before=before, after=before)
    found: list[tuple[float, float | None]] = [(before, None)]
    if shifts:
        shifted = made[0], rows.r / max(rows.n, 1)
        found.append((float(held_out.error(*shifted).sum()) / scale, math.inf))
    everywhere = thorough and rows.x.shape[1] <= _SMALL
    pull, error = _least_pull(rows, held_out, shifts, near, everywhere)
    found.append((error / scale, pull))
    after, best = min(found, key=lambda pair: pair[0])
    if best is not None:
        made = made[0], (rows.r + held_out.r) / (rows.n + held_out.n)
    if best is not None and best != math.inf:
        made = _solver([rows, held_out], shifts)(best) or made
    return Fit(change=made[0], bias=made[1], pull=best, before=before, after=after)


def _least_pull(
    rows: Sums, held_out: Sums, shifts: bool, near: float, everywhere: bool
) -> tuple[float, float]:
    """The pull by which a fit to some rows does best on others, and the error there."""
    solve = _solver([rows], shifts, rough=rows.x.shape[1] > _SMALL)

    def error(pull: float) -> float:
        made = solve(pull)
        return math.inf if made is None else float(held_out.error(*made).sum())

    return _least(error, PULLS, everywhere, near)


_Solver = Callable[[float], tuple[Tensor, Tensor] | None]
"""Takes a pull; gives change and bias, or None where the matrix cannot be inverted."""


def _solver(parts: Sequence[Sums], shifts: bool, *, rough: bool = False) -> _Solver:
    """The fit to the rows of all parts, ready to be solved for any pull.

    Args:
        parts: rows.
        shifts: whether rows are taken about their mean.
        rough: solve in single precision where that can be done: twice as fast.
    """
    n = max(sum(part.n for part in parts), 1)
    x = torch.stack([part.x for part in parts]).sum(0) / n * shifts
    r = torch.stack([part.r for part in parts]).sum(0) / n * shifts
    kept = [part.rows for part in parts if part.rows is not None]
    if len(kept) == len(parts) and n <= _FEW * x.shape[1]:
        rows = [torch.cat(pieces, 1).double() for pieces in zip(*chain(*kept), strict=True)]
        rows[0] -= x[:, None]
        rows[1] -= r[:, None]
        return _by_rows(rows[0], rows[1], x, r, rough)
    gram, cross = parts[0].no_products()
    for part in parts:
        part.pour((gram, cross))
    gram.div_(n).baddbmm_(x[:, :, None], x[:, None], alpha=-1)
    cross.div_(n).baddbmm_(x[:, :, None], r[:, None], alpha=-1)
    return _by_inputs(gram, cross, x, r, rough)


def _by_inputs(gram: Tensor, cross: Tensor, x: Tensor, r: Tensor, rough: bool) -> _Solver:
    power = gram.diagonal(dim1=1, dim2=2).mean(1)

    def solve(pull: float) -> tuple[Tensor, Tensor] | None:
        change = _solved(gram, pull * power, cross, rough)
        return None if change is None else (change, r - (x[:, None] @ change)[:, 0])

    return solve


def _by_rows(rows: Tensor, wanted: Tensor, x: Tensor, r: Tensor, rough: bool) -> _Solver:
    n, inputs = rows.shape[1:]
    gram = rows @ rows.mT / n
    power = gram.diagonal(dim1=1, dim2=2).sum(1) / inputs

    def solve(pull: float) -> tuple[Tensor, Tensor] | None:
        found = _solved(gram, pull * power, wanted, rough)
        if found is None:
            return None
        change = rows.mT @ found / n
        return change, r - (x[:, None] @ change)[:, 0]

    return solve


def _solved(gram: Tensor, pull: Tensor, wanted: Tensor, rough: bool) -> Tensor | None:
    """``(gram + pull · I)⁻¹ wanted``, float64; None where there is no such thing."""
    matrix = gram.float() if rough else gram.clone()
    matrix.diagonal(dim1=1, dim2=2).add_((pull + 1e-12 * pull.max() + 1e-30)[:, None])
    factor, info = torch.linalg.cholesky_ex(matrix)
    del matrix
    if not bool(info.any()):
        return torch.cholesky_solve(wanted.to(factor.dtype), factor).double()
    return _solved(gram, pull, wanted, rough=False) if rough else None


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
