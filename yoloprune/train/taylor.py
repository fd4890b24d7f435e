"""How much the loss needs each unit, told from the gradients that training has anyway."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from yoloprune.measure.quantiles import FloatArray
from yoloprune.prune.score import Scores
from yoloprune.train.gammas import Gammas

DECAY = 0.98
"""Of what earlier steps said, a step: about the last 50 count. One step alone is mostly noise."""
GATHER = 5
"""Steps whose terms wait on the model's device before they are added up on the host."""
UNKNOWN = 2.0
"""Score of a unit without a gradient (frozen layers), in units of the highest: it goes last."""


class TaylorImportance:
    """First-order change of the loss when a unit is switched off, squared, over recent steps.

    The slope of the loss by a unit's gate (:mod:`yoloprune.prune.gates`) is told from gradients
    that are read just before each optimizer step: unscaled, gathered over the batches of a
    step and averaged over devices. They are added up on the host in a fixed order, so that
    every process of a distributed run comes to the same bits.

    Reference: Molchanov et al. 2019, "Importance Estimation for Neural Network Pruning",
    section 3, there "Taylor-FO-BN"; the average over steps decays here.
    """

    def __init__(self, gammas: Gammas) -> None:
        self.gammas = gammas
        self.sums: FloatArray = np.zeros(gammas.graph.n_units)
        scales = gammas.sum_by_unit(np.ones(gammas.units.size))
        self._scored = self._trained = scales > 0
        self._units = gammas.term_units
        self._waiting: list[Tensor] = []

    def watch(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Read the gradients of ``model`` before every step of ``optimizer``."""
        self.tell_frozen(model)
        optimizer.register_step_pre_hook(lambda *_: self.gather(model))

    def tell_frozen(self, model: nn.Module) -> None:
        """See which units are trained at all: the others have no gradient, and go last."""
        trained = [weight.requires_grad for weight in self.gammas.parameters(model)]
        self._trained = self.gammas.sum_by_unit(np.repeat(trained, self.gammas.sizes)) > 0

    @torch.no_grad()
    def gather(self, model: nn.Module) -> None:
        """Take in the gradients that lie on the scales and shifts now."""
        self._waiting.append(self.gammas.terms(model))
        if len(self._waiting) >= GATHER:
            self._add_up()

    def scores(self) -> Scores:
        """One score a unit; NaN where it has no scale. Before the first step all are alike."""
        self._add_up()
        last = UNKNOWN * max(float(self.sums.max()), np.finfo(np.float64).tiny)
        values = np.where(self._trained, self.sums, last)
        values[~self._scored] = np.nan
        return Scores(values=values, criterion="taylor")

    def _add_up(self) -> None:
        if not self._waiting:
            return
        terms = torch.stack(self._waiting).cpu().double().numpy()
        self._waiting.clear()
        for row in terms:
            gate = np.bincount(self._units, row, self.gammas.graph.n_units)
            if np.isfinite(gate).all():  # else the optimizer's step is lost as well
                self.sums = DECAY * self.sums + gate**2

    def state_dict(self) -> dict[str, Any]:
        """What the steps so far said."""
        self._add_up()
        return {"sums": torch.from_numpy(self.sums.copy())}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what :meth:`state_dict` gave."""
        self.sums = state["sums"].cpu().numpy()
