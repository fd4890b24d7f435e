"""Sparsity on BatchNorm scales (gammas), as a step of its own after the optimizer's.

As nothing here goes through a gradient, a loss scale (AMP) or gradient accumulation cannot
change it, and every process of a distributed run takes the same step on the same scales.

Reference: Liu et al. 2017, "Learning Efficient Convolutional Networks through Network
Slimming", section 3; the proximal steps are those of Parikh & Boyd 2014, section 6.5.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from yoloprune.channels.graph import ChannelGraph
from yoloprune.errors import TrainError
from yoloprune.measure.images import InputSize
from yoloprune.measure.size import count
from yoloprune.prune.areas import with_areas
from yoloprune.prune.clock import Clock
from yoloprune.prune.cost import Costs
from yoloprune.prune.plan import Origin, PrunePlan
from yoloprune.prune.planner import Planner
from yoloprune.prune.score import Scores, score
from yoloprune.prune.timing import TimingOptions, clock_for
from yoloprune.train.criterion import settled
from yoloprune.train.gammas import Gammas
from yoloprune.train.options import SparsityOptions
from yoloprune.train.taylor import TaylorImportance

EVERY = 5
"""Optimizer steps between two choices of the planner."""
DECAYED = 0.01
"""What is left of a strength after its decay."""
HALF = 0.5
"""Share of the epochs after which a strength decays."""


class Sparsity(ABC):
    """What a trainer asks after each optimizer step.

    Attributes:
        gammas: what it works on.
        threshold: the last bound or step length, for the log.
    """

    def __init__(self, gammas: Gammas) -> None:
        self.gammas = gammas
        self.threshold = 0.0
        self._masks: dict[str, Tensor] = {}

    @abstractmethod
    def step(self, model: nn.Module, optimizer: torch.optim.Optimizer, progress: float) -> None:
        """Make ``model`` sparser, in place.

        Args:
            model: what was just stepped.
            optimizer: whose learning rates scale a penalty.
            progress: share of the training that this step completes, in (0, 1].
        """

    def watch(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:  # noqa: B027  # most need nothing
        """Be told of every gradient before ``optimizer`` steps ``model``."""

    def done(self, progress: float) -> bool:
        """Whether what is evaluated from now on has the sparsity that was asked for."""
        return True

    def follow(self, model: nn.Module, ema: nn.Module) -> None:
        """Give the averaged model the exact zeros of ``model``, in place."""
        zero = (self.gammas.read(model) == 0) & self._on("free", self.gammas.free, model)
        for beta in (False, True):
            zero = zero & (self.gammas.read(model, beta=beta) == 0)
            self.gammas.write(ema, self.gammas.read(ema, beta=beta).masked_fill(zero, 0), beta=beta)
        self.gammas.bare.follow(model, ema)

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed run needs to take the same steps: plain values and tensors."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: B027  # most have none
        """Take up what :meth:`state_dict` gave."""

    def _on(self, name: str, mask: NDArray[np.bool_], model: nn.Module) -> Tensor:
        """A mask on the model's device, copied there once a name."""
        device = model.get_parameter(self.gammas.names[0]).device
        held = self._masks.get(name)
        if held is None or held.device != device:
            held = self._masks[name] = torch.from_numpy(mask).to(device)
        return held


class _Chooser:
    """The planner's choice on present scores, renewed every few steps.

    Attributes:
        taylor: what scores; None leaves it to the scales themselves.
    """

    def __init__(
        self, gammas: Gammas, options: SparsityOptions, costs: Costs | None = None
    ) -> None:
        self.planner = Planner(gammas.graph, costs)
        self.gammas, self.budget = gammas, options.budget
        self.taylor = TaylorImportance(gammas) if options.criterion == "taylor" else None
        self.steps = 0
        self.units: NDArray[np.bool_] | None = None

    def scores(self, model: nn.Module) -> Scores:
        """Of every unit, as the criterion sees it now."""
        return score(model, self.gammas.graph) if self.taylor is None else self.taylor.scores()

    def renew(self, model: nn.Module, *, moving: bool) -> NDArray[np.bool_]:
        """Bool ``[n]``: scales whose unit a plan would remove; stays where not ``moving``."""
        if self.units is None or (moving and self.steps % EVERY == 0):
            self.units = np.zeros(self.gammas.graph.n_units, dtype=bool)
            self.units[self.planner.choose(self.scores(model), self.budget)] = True
        self.steps += 1
        goes: NDArray[np.bool_] = self.units[self.gammas.units]
        return goes

    def state_dict(self) -> dict[str, Any]:
        units = None if self.units is None else torch.from_numpy(self.units.copy())
        taylor = None if self.taylor is None else self.taylor.state_dict()
        return {"steps": self.steps, "units": units, "taylor": taylor}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps = int(state["steps"])
        self.units = None if state["units"] is None else state["units"].cpu().numpy()
        if self.taylor is not None:
            self.taylor.load_state_dict(state["taylor"])


class PlannedShrinking(Sparsity):
    """``auto``: brings exactly the units that a plan would remove to zero.

    Every few steps the planner itself chooses on the present scores, with all its floors,
    balances and rounding. The gammas of what it chose are held under a bound that falls
    linearly to zero; all others are free. Then the rest of the epochs train the survivors. A
    sparsifier that chose by another rule would zero whole layers, and the plan, which may not,
    would remove live channels in their place.

    Their betas go the same way: a channel whose gamma alone is zero still says act(beta), a
    constant that the next convolution sees everywhere but in its padding. Without it the cut
    changes nothing at all. And so do the rows of layers without a BatchNorm that make the same
    channels, see :mod:`yoloprune.train.bare`.
    """

    _BOUNDS = ("top", "beta_top", "row_top", "shift_top")

    def __init__(
        self,
        model: nn.Module,
        gammas: Gammas,
        options: SparsityOptions,
        costs: Costs | None = None,
    ) -> None:
        super().__init__(gammas)
        self.until = options.until
        self._chooser = _Chooser(gammas, options, costs)
        scores = score(model, gammas.graph)
        may_go = np.flatnonzero(gammas.graph.prunable & np.isfinite(scores.values))
        if options.criterion == "gamma":
            may_go = self._chooser.planner.choose(scores, options.budget)
        self.top = float(scores.values[may_go].max()) if may_go.size else 0.0
        betas = gammas.read(model, beta=True).abs().cpu().numpy()[np.isin(gammas.units, may_go)]
        self.beta_top = float(betas.max()) if betas.size else 0.0
        rows = np.isin(gammas.bare.units, may_go)
        self.row_top = float(gammas.bare.norms(model)[rows].max(initial=0.0))
        self.shift_top = float(gammas.bare.biases(model)[rows].max(initial=0.0))

    def watch(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Let the criterion see the gradients, if it asks for them."""
        if self._chooser.taylor is not None:
            self._chooser.taylor.watch(model, optimizer)

    @property
    def sees_gradients(self) -> bool:
        """Whether the criterion asks for them."""
        return self._chooser.taylor is not None

    def see(self, model: nn.Module) -> None:
        """Take in the gradients that lie on ``model`` now, as :meth:`watch` does by itself."""
        if self._chooser.taylor is not None:
            self._chooser.taylor.tell_frozen(model)
            self._chooser.taylor.gather(model)

    def step(self, model: nn.Module, optimizer: torch.optim.Optimizer, progress: float) -> None:
        """As :meth:`shrink`, which no optimizer has a part in."""
        self.shrink(model, progress)

    @torch.no_grad()
    def shrink(self, model: nn.Module, progress: float) -> None:
        """Choose anew now and then, and hold the chosen under the bound, in place."""
        left = max(0.0, 1.0 - progress / self.until)
        self.threshold = self.top * left
        before = self._chooser.units
        chosen = self._chooser.renew(model, moving=left > 0)
        if self._chooser.units is not before:
            self._masks.pop("chosen", None)
        held = self._on("chosen", chosen, model)
        for beta, top in ((False, self.top), (True, self.beta_top)):
            values = self.gammas.read(model, beta=beta)
            bounded = values.clamp(-top * left, top * left)
            self.gammas.write(model, torch.where(held, bounded, values), beta=beta)
        if self.gammas.bare.layers and self._chooser.units is not None:
            units = self._chooser.units
            self.gammas.bare.hold(model, units, self.row_top * left, self.shift_top * left)

    def done(self, progress: float) -> bool:
        """From when the bound is zero."""
        return progress >= self.until

    def plan(self, model: nn.Module, source: Origin) -> PrunePlan:
        """The cut of what was chosen last; before the first step, of what would be.

        Raises:
            PlanError: nothing can go.
        """
        planner, budget = self._chooser.planner, self._chooser.budget
        units = self._chooser.units
        goes = None if units is None else np.flatnonzero(units)
        return planner.plan(self._chooser.scores(model), budget, source, remove=goes)

    def alive(self, model: nn.Module) -> int:
        """How many of the units that were chosen last are not at exactly zero in ``model``."""
        if self._chooser.units is None:
            return 0
        alive: NDArray[np.bool_] = self.gammas.bare.alive_units(model)
        for beta in (False, True):
            alive[self.gammas.units[self.gammas.read(model, beta=beta).cpu().numpy() != 0]] = True
        return int(np.count_nonzero(alive & self._chooser.units))

    def state_dict(self) -> dict[str, Any]:
        """Where the bounds start, and the last choice."""
        bounds = {name: getattr(self, name) for name in self._BOUNDS}
        return {**bounds, **self._chooser.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what :meth:`state_dict` gave."""
        for name in self._BOUNDS:
            setattr(self, name, float(state[name]))
        self._chooser.load_state_dict(state)
        self._masks.pop("chosen", None)


class Penalty(Sparsity):
    """A penalty of given strength on the gammas of prunable channels.

    Its step length is the strength times the learning rate of the gamma's parameter group, so
    that layers without one (frozen ones) are left alone.
    """

    def __init__(
        self,
        model: nn.Module,
        gammas: Gammas,
        options: SparsityOptions,
        costs: Costs | None = None,
    ) -> None:
        super().__init__(gammas)
        self.strength, self.decay = options.strength, options.decay
        self._chooser = _Chooser(gammas, options, costs)

    @torch.no_grad()
    def step(self, model: nn.Module, optimizer: torch.optim.Optimizer, progress: float) -> None:
        """Shrink every prunable gamma towards zero."""
        values = self.gammas.read(model)
        amount = self._rates(model, optimizer).to(values) * self.strength
        amount = amount * self._on("free", self.gammas.free, model)
        if self.decay != "none" and progress > HALF:
            amount = amount * self._decayed(model).to(values)
        self.threshold = float(amount.max()) if amount.numel() else 0.0
        self.gammas.write(model, self.shrunk(values, amount))

    @abstractmethod
    def shrunk(self, values: Tensor, amount: Tensor) -> Tensor:
        """The scales one step further; both ``[n]``, ``amount`` at least 0."""

    def _rates(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> Tensor:
        rates = {
            id(p): float(group["lr"]) for group in optimizer.param_groups for p in group["params"]
        }
        of_layer = [
            rates.get(id(weight), 0.0) if weight.requires_grad else 0.0
            for weight in self.gammas.parameters(model)
        ]
        return torch.from_numpy(np.repeat(of_layer, self.gammas.sizes))

    def _decayed(self, model: nn.Module) -> Tensor:
        if self.decay == "half":
            return torch.tensor(DECAYED)
        goes = self._chooser.renew(model, moving=True)
        return torch.from_numpy(np.where(goes, 1.0, DECAYED))

    def state_dict(self) -> dict[str, Any]:
        """The last choice."""
        return self._chooser.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what :meth:`state_dict` gave."""
        self._chooser.load_state_dict(state)


class SubgradientL1(Penalty):
    """``l1``: a step along the sub-gradient of ``strength · |gamma|``; zeros are only neared.

    Reference: Liu et al. 2017, section 3; there it enters the optimizer's gradient, which for
    SGD without momentum is the same.
    """

    def shrunk(self, values: Tensor, amount: Tensor) -> Tensor:
        """``gamma - amount · sign(gamma)``."""
        return values - amount * values.sign()


class ProximalL1(Penalty):
    """``prox``: the exact proximal operator of ``strength · |gamma|``, a soft threshold."""

    def shrunk(self, values: Tensor, amount: Tensor) -> Tensor:
        """``sign(gamma) · max(|gamma| - amount, 0)``."""
        return values.sign() * (values.abs() - amount).clamp(min=0)


class GroupLasso(Penalty):
    """``group``: tied gammas of a unit shrink by one factor, and reach zero together.

    The proximal operator of ``strength · sqrt(n) · ||gammas of the unit||``.

    Reference: Yuan & Lin 2006, "Model selection and estimation in regression with grouped
    variables".
    """

    def shrunk(self, values: Tensor, amount: Tensor) -> Tensor:
        """Scale each unit's gammas by ``max(0, 1 - sqrt(n) · amount / norm)``."""
        unit = torch.from_numpy(self.gammas.units).to(values.device)
        zeros = values.new_zeros(self.gammas.graph.n_units)
        size = zeros.index_add(0, unit, torch.ones_like(values)).clamp(min=1)
        norm = zeros.index_add(0, unit, values.square()).sqrt()
        step = zeros.index_add(0, unit, amount) / size
        factor = (1 - size.sqrt() * step / norm.clamp(min=torch.finfo(norm.dtype).tiny)).clamp(0)
        return torch.where(amount > 0, values * factor[unit], values)


METHODS: dict[str, type[PlannedShrinking | Penalty]] = {
    "auto": PlannedShrinking,
    "l1": SubgradientL1,
    "prox": ProximalL1,
    "group": GroupLasso,
}
"""Name of a method → its class."""


def sparsity_of(
    model: nn.Module, graph: ChannelGraph, options: SparsityOptions, *, size: InputSize = 640
) -> Sparsity:
    """The method that options name, for a model.

    Args:
        model: to be trained.
        graph: its channels.
        options: how.
        size: of the input, on which a limit to multiply-adds holds.

    Raises:
        TrainError: the model has no prunable BatchNorm.
        PlanError: the ratios of the budget are not of this model.
    """
    options = replace(options, budget=with_areas(options.budget, model))
    options, _ = settled(options, model, graph)
    costs = None
    if options.budget.limits:
        costs = Costs(model, graph, count(model, size), _clock(model, graph, options))
    return METHODS[options.method](model, Gammas(model, graph), options, costs)


def _clock(model: nn.Module, graph: ChannelGraph, options: SparsityOptions) -> Clock | None:
    """What plans take, where time is limited: as a table foretells it."""
    if options.budget.latency is None:
        return None
    if options.runtime is None:
        raise TrainError("--latency: is meant in some runtime. Say which with --runtime.")
    table = None if options.table is None else Path(options.table)
    how = TimingOptions(
        runtime=options.runtime, table=table, round_to=options.budget.round_to
    )  # fmt: skip
    return clock_for(model, graph, how)
