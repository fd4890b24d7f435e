"""What enters the heads of a network, and how far a slimmer one's is from its teacher's."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from yoloprune.darknet.network import DarknetModel

ATTENTION = 500.0
"""Weight of attention transfer: half of the paper's β = 1000, for a mean over positions."""
RIDGE = 1e-4
"""Of the fit from student to teacher, relative to the mean square of the student's channels."""


class HeadInputs:
    """Watches what enters the heads of a network: ``[B, C, H, W]`` a level.

    Args:
        model: a Darknet network, where it is what enters the convolution before a head, or an
            Ultralytics one that ends in ``Detect``.
    """

    def __init__(self, model: nn.Module) -> None:
        layers: Any = model.model
        self._held: dict[int, list[Tensor]] = {}
        watched = [layers[i - 1] for i in model.heads] if isinstance(model, DarknetModel) else [
            layers[-1]
        ]  # fmt: skip
        for number, layer in enumerate(watched):
            layer.register_forward_pre_hook(_Catch(self._held, number))

    def take(self) -> list[Tensor]:
        """Those of the last forward pass, which are forgotten here."""
        found = [level for number in sorted(self._held) for level in self._held[number]]
        self._held.clear()
        return found


class _Catch:
    """Forward hook that keeps a layer's input."""

    def __init__(self, held: dict[int, list[Tensor]], number: int) -> None:
        self.held, self.number = held, number

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        first = inputs[0]
        self.held[self.number] = [first] if isinstance(first, Tensor) else list(first)


def widened(x: Tensor) -> Tensor:
    """At least float32, whatever autocast made of it: in half, 1 - 1e-6 is 1."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def attention_transfer(ours: Tensor, theirs: Tensor) -> Tensor:
    """How differently two features of any widths attend to the places of a picture.

    Args:
        ours: ``[B, C, H, W]``.
        theirs: ``[B, C', H, W]``.

    Returns:
        Scalar: ``ATTENTION`` times the mean squared difference of the normalised maps of energy.

    Reference: Zagoruyko & Komodakis 2017, "Paying More Attention to Attention", section 3.1.
    """
    maps = [F.normalize(widened(x).square().mean(1).flatten(1)) for x in (ours, theirs)]
    return ATTENTION * (maps[0] - maps[1]).square().mean()


def unexplained(ours: Tensor, theirs: Tensor) -> Tensor:
    """Share of a teacher's feature that no linear map of a student's gives, at the same places.

    The map is the least-squares one of these very places, with a bias, solved anew each time and
    not learnt: so there is nothing to initialise, to tune or to keep, and widths may differ. Its
    gradient is left out, which changes nothing where it is the best one.

    Args:
        ours: ``[B, C, H, W]``.
        theirs: ``[B, C', H, W]``.

    Returns:
        Scalar in [0, 1]: the residual's sum of squares over that of the centred teacher.
    """
    with torch.autocast(ours.device.type, enabled=False):
        x, y = (widened(f).movedim(1, -1).flatten(0, -2) for f in (ours, theirs))
        x, y = x - x.mean(0), y - y.mean(0)
        with torch.no_grad():
            gram = x.T @ x
            floor = RIDGE * gram.diagonal().mean() + torch.finfo(gram.dtype).tiny
            gram.diagonal().add_(floor)
            fit = torch.cholesky_solve(x.T @ y, torch.linalg.cholesky_ex(gram).L)
        return (y - x @ fit).square().sum() / y.square().sum().clamp(min=torch.finfo(y.dtype).tiny)
