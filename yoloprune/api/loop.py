"""``yoloprune.Sparsity``: channels brought to zero in training loops of any kind."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from yoloprune.api.given import example_of, network
from yoloprune.api.slim import Ratios
from yoloprune.api.wording import in_arguments, speaks_arguments
from yoloprune.channels.trace import trace
from yoloprune.errors import TraceError, TrainError
from yoloprune.prune.asking import Amount, budget_of, half_if_nothing
from yoloprune.prune.plan import Origin, PrunePlan
from yoloprune.train.criterion import settled
from yoloprune.train.options import SparsityOptions
from yoloprune.train.sparsity import PlannedShrinking, sparsity_of

log = logging.getLogger(__name__)


class Sparsity:
    """Trains a network towards a cut, in a training loop of your own.

    After each step of the optimizer the planner says which channels the cut would take at this
    moment, and their BatchNorm scales and shifts are held under a bound that falls to zero. Once
    ``until`` of the steps are done they are exactly zero, and the rest of the training is the
    others' alone: the cut then changes no output.

    ```python
    sparsity = yp.Sparsity(model, example_input, macs=0.5, steps=epochs * len(loader))
    for images, targets in batches:
        criterion(model(images), targets).backward()
        optimizer.step()
        sparsity.step()
        optimizer.zero_grad()
    found = yp.slim(model, example_input, plan=sparsity.plan)
    ```

    It adds nothing to the loss, and works with mixed precision, gathered gradients and on
    several devices, each process with a ``Sparsity`` of its own. This is what ``yoloprune train``
    does with ``--percent`` or ``--macs``.

    Attributes:
        steps: of the whole training.
        taken: how many of them were taken.

    Reference: Liu et al. 2017, "Learning Efficient Convolutional Networks through Network
    Slimming", which it follows in what it makes sparse; what goes is the planner's choice.
    """

    @speaks_arguments
    def __init__(
        self,
        model: nn.Module,
        example_input: Tensor | None = None,
        *,
        steps: int,
        percent: float | None = None,
        macs: Amount = None,
        params: Amount = None,
        bytes: Amount = None,  # noqa: A002  # the name that its flag has
        precision: str | None = None,
        ratios: Ratios = None,
        min_channels: int = 8,
        max_layer_prune: float = 0.9,
        round_to: int = 8,
        criterion: str | None = None,
        until: float = 0.7,
        optimizer: torch.optim.Optimizer | None = None,
    ) -> None:
        """Trace the network; limits mean what they mean for :func:`~yoloprune.slim`.

        Args:
            model: that is trained, with BatchNorms; in memory, wrapped for several devices or
                not. Only :meth:`step` changes it.
            example_input: ``[B, ...]``, a batch as ``model`` takes it; a detector needs none.
            steps: of the optimizer, in the whole training.
            percent: share of the prunable channels that goes; half, where nothing is asked for.
            macs: multiply-adds of one input that may stay: ``0.5`` or ``"2.1G"``.
            params: parameters that may stay.
            bytes: of weights that may stay.
            precision: of these: fp32, fp16, int8.
            ratios: shares of single layers.
            min_channels: that every layer keeps at least.
            max_layer_prune: share of its channels that a layer loses at most, in (0, 1].
            round_to: kept counts are multiples of it.
            criterion: ``gamma``, the scales as they are; ``taylor``, how much the loss needs a
                channel, by its gradients; None takes ``gamma`` where the scales are sparse
                already, and ``taylor`` elsewhere.
            until: share of the steps after which the channels stand at zero, in (0, 1].
            optimizer: that steps ``model``. Where it is given, gradients are read right before
                each of its steps; else in :meth:`step`, which must then come before
                ``zero_grad()``.

        Raises:
            TraceError: ``model`` is no module, or cannot be traced.
            TrainError: it has no BatchNorm that may lose channels, or an argument is out of range.
            PlanError: nothing can go, or a limit is out of range.
        """
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
            raise TrainError(f"steps: must be a whole number, at least 1, got {steps!r}.")
        if not isinstance(model, nn.Module):
            raise TraceError(
                f"model: got {type(model).__name__}, expected the nn.Module that is trained."
            )
        given = network(model)
        self.steps, self.taken = steps, 0
        self._model, self._optimizer, self._asked = given.model, optimizer, criterion
        self._graph = trace(given.model, example_of(example_input, given))
        limits = {"macs": macs, "params": params, "bytes": bytes}
        budget = budget_of(
            half_if_nothing(percent, {**limits, "ratios": ratios}), limits, precision,
            (min_channels, max_layer_prune, round_to),
            ratios=Path(ratios) if isinstance(ratios, str | PathLike) else ratios,
        )  # fmt: skip
        asked = SparsityOptions(budget=budget, criterion=criterion, until=until)  # type: ignore[arg-type]
        self._options, why = settled(asked, given.model, self._graph)
        log.info("criterion %s, %s", self._options.criterion, why)
        self._auto = self._made()
        for note in self._auto.plan(given.model, self._origin).notes:
            log.warning("warning: %s", in_arguments(note))
        if optimizer is not None:
            self._watch(optimizer)

    def _made(self) -> PlannedShrinking:
        size = torch.Size(self._graph.input_shape)
        made = sparsity_of(self._model, self._graph, self._options, size=size)
        assert isinstance(made, PlannedShrinking)
        return made

    def _watch(self, optimizer: torch.optim.Optimizer) -> None:
        """Read gradients before every step of an optimizer."""
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        if not any(id(scale) in held for scale in self._auto.gammas.parameters(self._model)):
            raise TrainError(
                "optimizer: steps none of the model's BatchNorm scales. Is it of this model?"
            )
        optimizer.register_step_pre_hook(lambda *_: self._see())

    def _see(self) -> None:
        if not self.done:
            self._auto.see(self._model)

    @property
    def _origin(self) -> Origin:
        return Origin(path=type(self._model).__name__)

    @property
    def done(self) -> bool:
        """Whether the channels that go are at zero."""
        return self._auto.done(self._progress)

    @property
    def _progress(self) -> float:
        return min(self.taken / self.steps, 1.0)

    @speaks_arguments
    def step(self) -> None:
        """Shrink what is to go, in place: after each ``optimizer.step()``.

        Raises:
            TrainError: there are no gradients to tell by.
        """
        if self._optimizer is None and self._auto.sees_gradients and not self.done:
            scales = self._auto.gammas.parameters(self._model)
            if all(scale.grad is None for scale in scales):
                raise TrainError(
                    "step: finds no gradients on the BatchNorm scales. Call it before "
                    "optimizer.zero_grad(), or give Sparsity the optimizer."
                )
            self._see()
        self.taken += 1
        self._auto.shrink(self._model, self._progress)

    def follow(self, average: nn.Module) -> None:
        """Give an averaged copy of the model (EMA) the same exact zeros, in place.

        Args:
            average: of the same modules; after each of its updates, or once before it is cut.
        """
        self._auto.follow(self._model, network(average).model)

    @property
    @speaks_arguments
    def plan(self) -> PrunePlan:
        """The cut that changes nothing: of the channels that are at exactly zero now.

        Raises:
            TrainError: they are not there yet, or no longer.
        """
        if not self.done:
            raise TrainError(
                f"plan: the channels that go are at zero after {self._options.until:.0%} of "
                f"{self.steps} steps, got {self.taken}. Train on."
            )
        alive = self._auto.alive(self._model)
        if alive:
            raise TrainError(
                f"plan: {alive} of the channel groups that go are not at zero. Were other weights "
                "loaded, or was the optimizer stepped after the last step()?"
            )
        return self._auto.plan(self._model, self._origin)

    def state_dict(self) -> dict[str, Any]:
        """All that a restarted training needs to take the same steps: numbers, texts, tensors."""
        return {"taken": self.taken, **self._wish(), "auto": self._auto.state_dict()}

    def _wish(self) -> dict[str, Any]:
        """What a training goes on with as it was begun."""
        return {
            "steps": self.steps,
            "until": self._options.until,
            "criterion": self._options.criterion,
            "channels": self._graph.n_units,
            "budget": self._options.budget.to_dict(),
        }

    @speaks_arguments
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state_dict` gave, once the model has the weights of that moment.

        Raises:
            TrainError: it is of another network or of other arguments, or no such state.
        """
        wish = self._wish()
        missing = {"taken", "auto", *wish} - {*state}
        if missing:
            raise TrainError(
                f"state: is none of Sparsity, {', '.join(sorted(missing))} is missing."
            )
        if self._asked is None:
            wish["criterion"] = state["criterion"]  # half shrunk, scales would ask for another one
        changed = [name for name, value in wish.items() if state[name] != value]
        if changed:
            raise TrainError(
                "state: was saved by another Sparsity, changed since: "
                + "; ".join(f"{name}: {state[name]} → {wish[name]}" for name in changed)
            )
        if self._options.criterion != state["criterion"]:
            self._options = replace(self._options, criterion=state["criterion"])
            self._auto = self._made()
        self._auto.load_state_dict(state["auto"])
        self.taken = int(state["taken"])
