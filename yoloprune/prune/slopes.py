"""Criteria by the loss: how much a network's own training loss needs each unit.

All ask for derivatives of the loss by a gate on the unit (:mod:`yoloprune.prune.gates`), which
scales all channels that are tied into it, so that what these say is summed before it is squared.
BatchNorms are still, hence a picture's loss depends on that picture alone. A unit that no gradient
reaches has no score, and is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from yoloprune.channels.copying import copy_modules
from yoloprune.channels.graph import ChannelGraph
from yoloprune.channels.table import tensors_in
from yoloprune.errors import PlanError, typed_line
from yoloprune.measure.quantiles import FloatArray
from yoloprune.progress import progress
from yoloprune.prune.evidence import Lessons
from yoloprune.prune.gates import every_gate
from yoloprune.prune.targets import mode_of

TAYLOR_BATCH = 8
"""Pictures over which a slope is averaged before it is squared."""
PROBES = 4
"""Random directions a picture that curvature is asked along."""
_OUTPUT_PROBES = 8
"""The same at the network's outputs, which costs little."""
_STEP = 1e-2
"""By how much raw outputs are moved where their curvature is a difference of gradients."""

Batch = Mapping[str, Any]


class Slopes:
    """A private copy of a network, which tells how its loss depends on the gates of its units.

    Args:
        model: has ``loss(batch, said) -> (loss, items)``, summed over the pictures, as Ultralytics'
            models and :class:`~yoloprune.darknet.network.DarknetModel` do. Not modified.
        graph: its channels.
        device: where to run.

    Attributes:
        reached: bool ``[n_units]``, units that some gradient has reached so far.
    """

    def __init__(self, model: nn.Module, graph: ChannelGraph, device: torch.device) -> None:
        copied: Any = copy_modules(model, {}).to(device).float()
        copied.criterion, copied.args = None, _settings(getattr(model, "args", None))
        self._model: nn.Module = copied
        self._gates = every_gate(self._model, graph)
        self._units = self._gates.term_units
        if not self._units.size:
            raise PlanError("model: nothing makes a prunable channel, so there is no gate to ask.")
        self._model.requires_grad_(False)
        for tensor in self._gates.tensors(self._model):
            tensor.requires_grad_(True)
        self.reached = np.zeros(graph.n_units, dtype=bool)

    def slope(self, batch: Batch) -> FloatArray:
        """Of the mean loss of a picture, by every gate.

        Args:
            batch: as Ultralytics' losses take it.

        Returns:
            float64 ``[n_units]``; 0 for a unit that was not reached.

        Raises:
            PlanError: the loss cannot be computed, or is no finite number.
        """
        with self._still():
            self._model.zero_grad(set_to_none=True)
            self._loss(batch, self._model(batch["img"])).backward()  # type: ignore[no-untyped-call]
        return self._by_gate()

    def bend(self, batch: Batch, seed: int) -> FloatArray:
        """Second derivative of the mean loss of a picture by every gate, as the outputs bend it.

        Args:
            batch: as Ultralytics' losses take it.
            seed: of the directions.

        Returns:
            float64 ``[n_units]``, none below 0; 0 for a unit that was not reached.

        Raises:
            PlanError: as in :meth:`slope`.
        """
        total = np.zeros(len(self.reached))
        signs = torch.Generator().manual_seed(seed)
        with self._still():
            said = self._model(batch["img"])
            bent = self._bent_outputs(batch, said, signs)
            outputs, sizes = [t for t, _ in bent], [by.sqrt() for _, by in bent]
            for probe in range(PROBES):
                self._model.zero_grad(set_to_none=True)
                along = [size * _signs(size, signs) for size in sizes]
                torch.autograd.backward(outputs, along, retain_graph=probe + 1 < PROBES)
                total += self._by_gate() ** 2
        return total / PROBES

    def _bent_outputs(
        self, batch: Batch, said: Any, signs: torch.Generator
    ) -> list[tuple[Tensor, Tensor]]:
        """Outputs that the loss reads, and its second derivative by each number, where above 0."""
        outputs = [t for t in tensors_in(said) if t.requires_grad]
        leaves = [output.detach().requires_grad_() for output in outputs]
        found = self._output_slopes(batch, said, outputs, leaves, twice=True)
        read = [i for i, slope in enumerate(found) if slope is not None]
        outputs, leaves = [outputs[i] for i in read], [leaves[i] for i in read]
        slopes = [slope for slope in found if slope is not None]
        # A loss that is defined by its gradient (Darknet's) is not to be derived twice.
        derived = any(slope.requires_grad for slope in slopes)
        totals = [torch.zeros_like(leaf) for leaf in leaves]
        for _ in range(_OUTPUT_PROBES):
            z = [_signs(leaf, signs) for leaf in leaves]
            if derived:
                along = torch.stack([(s * d).sum() for s, d in zip(slopes, z, strict=True)]).sum()
                changes = _gradients(along, leaves)
            else:
                changes = self._differences(batch, said, outputs, z)
            for total, d, change in zip(totals, z, changes, strict=True):
                total += 0 if change is None else d * change / _OUTPUT_PROBES
        return [(o, total.clamp_min(0)) for o, total in zip(outputs, totals, strict=True)]

    def _output_slopes(
        self,
        batch: Batch,
        said: Any,
        outputs: list[Tensor],
        leaves: list[Tensor],
        *,
        twice: bool = False,
    ) -> tuple[Tensor | None, ...]:
        """Slopes of the loss where ``leaves`` stand in the place of ``outputs``."""
        places = {id(output): leaf for output, leaf in zip(outputs, leaves, strict=True)}
        loss = self._loss(batch, _replaced(said, places))
        return _gradients(loss, leaves, twice=twice)

    def _differences(
        self, batch: Batch, said: Any, outputs: list[Tensor], z: list[Tensor]
    ) -> tuple[Tensor | None, ...]:
        """How slopes of the loss by outputs change along ``z``, by a central difference."""
        both = []
        for step in (_STEP, -_STEP):
            moved = [o.detach() + step * d for o, d in zip(outputs, z, strict=True)]
            moved = [leaf.requires_grad_() for leaf in moved]
            both.append(self._output_slopes(batch, said, outputs, moved))
        return tuple(
            None if a is None or b is None else (a - b) / (2 * _STEP)
            for a, b in zip(*both, strict=True)
        )

    def _by_gate(self) -> FloatArray:
        """What lies on the parameters, gate by gate."""
        self.reached |= self._gates.reached(self._model)
        terms = self._gates.terms(self._model).cpu().double().numpy()
        slopes = np.bincount(self._units, terms, len(self.reached)).astype(np.float64)
        if not np.isfinite(slopes).all():
            raise PlanError(
                "--criterion: the loss has gradients that are no finite numbers. Do its labels "
                "belong to the network, and does `yoloprune val` give a sound AP?"
            )
        return slopes

    def _loss(self, batch: Batch, said: Any) -> Tensor:
        """The mean loss of a picture."""
        own: Any = self._model
        try:
            loss: Tensor = own.loss(batch, said)[0].sum() / len(batch["img"])
        except Exception as exc:  # foreign code
            raise PlanError(
                f"--criterion: the model's own loss cannot be computed: {typed_line(exc)}."
            ) from exc
        if not loss.requires_grad:
            raise PlanError("--criterion: the model's own loss depends on no gate of its units.")
        return loss

    @contextmanager
    def _still(self) -> Iterator[None]:
        """Training mode, in which a model says what its loss wants, with nothing left to chance."""
        with mode_of(self._model, True), torch.enable_grad():
            for module in self._model.modules():
                if next(module.children(), None) is None:
                    module.training = False
            yield


def _replaced(said: Any, places: Mapping[int, Tensor]) -> Any:
    """What a model said, with other tensors in the place of some."""
    if isinstance(said, Tensor):
        return places.get(id(said), said)
    if isinstance(said, Mapping):
        return {key: _replaced(value, places) for key, value in said.items()}
    if isinstance(said, list | tuple):
        return type(said)([_replaced(value, places) for value in said])
    return said


def _gradients(of: Tensor, by: list[Tensor], *, twice: bool = False) -> tuple[Tensor | None, ...]:
    """None where there is none; what they are taken of may be asked again."""
    return torch.autograd.grad(of, by, create_graph=twice, retain_graph=True, allow_unused=True)


def _signs(like: Tensor, generator: torch.Generator) -> Tensor:
    """Each number 1 or -1, at random."""
    made = torch.randint(0, 2, like.shape, generator=generator) * 2 - 1
    return made.to(like.device, like.dtype)


def taylor(
    model: nn.Module, graph: ChannelGraph, lessons: Lessons, device: torch.device
) -> FloatArray:
    """Squared first-order change of the loss of a batch when a unit goes, averaged over batches.

    Args:
        model: the traced model. Not modified.
        graph: its channels.
        lessons: pictures and labels, taken :data:`TAYLOR_BATCH` at a time.
        device: where to run.

    Returns:
        float64 ``[n_units]``; NaN where no gradient arrives.

    Reference: Molchanov et al. 2019, Importance Estimation for Neural Network Pruning, section 3,
    there "Taylor-FO-BN".
    """
    return _mean(model, graph, lessons, device, TAYLOR_BATCH, lambda s, b, _: s.slope(b) ** 2)


def fisher(
    model: nn.Module, graph: ChannelGraph, lessons: Lessons, device: torch.device
) -> FloatArray:
    """Diagonal of the empirical Fisher information by gates: half the mean squared slope.

    As :func:`taylor`, but slopes are squared picture by picture, so that pictures that pull in
    opposite directions do not cancel: near a minimum it stands for the second derivative.

    Reference: Theis et al. 2018, Faster gaze prediction with dense networks and Fisher pruning,
    section 2.1; Liu et al. 2021, Group Fisher Pruning, section 3.2 (tied channels are summed
    before they are squared; without its division by memory).
    """
    return _mean(model, graph, lessons, device, 1, lambda s, b, _: s.slope(b) ** 2 / 2)


def hessian(
    model: nn.Module, graph: ChannelGraph, lessons: Lessons, device: torch.device
) -> FloatArray:
    """Half the second derivative of the mean loss by each gate, in Gauss and Newton's form.

    With J the derivative of the raw outputs by the gates, and D how the loss bends by each number
    of the outputs, it is the diagonal of Jᵀ D J, told by random signs s at the outputs: the mean
    of (Jᵀ √D s)². D is told in the same way, from second derivatives of the loss alone, or from
    differences of its gradients where it is defined by these (Darknet's). The curvature of the
    network itself is left out, as in optimal brain damage, so that no estimate is below 0.

    Hutchinson's method on gates, z · Hz, was tried and is not usable: two draws of 24 directions
    had a rank correlation of 0.03 on YOLOv8n, for rows of H off the diagonal are far larger than
    the diagonal, and labels that change hands with z are taken for curvature.

    Reference: LeCun et al. 1990, Optimal Brain Damage, section 2.2 and appendix; Dangel et al.
    2020, BackPACK, section 3 ("DiagGGN-MC"); Bekas et al. 2007, An estimator for the diagonal of
    a matrix.
    """
    return _mean(model, graph, lessons, device, 1, lambda s, b, k: s.bend(b, k) / 2)


def _mean(
    model: nn.Module,
    graph: ChannelGraph,
    lessons: Lessons,
    device: torch.device,
    at_once: int,
    ask: Callable[[Slopes, Batch, int], FloatArray],
) -> FloatArray:
    """The mean over batches of what is asked of each; NaN where no gradient arrives."""
    slopes = Slopes(model, graph, device)
    starts = range(0, len(lessons.images), at_once)
    total = np.zeros(graph.n_units)
    with progress("criterion") as advance:
        for number, start in enumerate(starts):
            total += ask(slopes, lessons.batch(start, at_once, device), number)
            advance(number + 1, len(starts))
    return np.where(slopes.reached, total / len(starts), np.nan)


def _settings(args: Any) -> SimpleNamespace:
    """What a loss is weighed by: the model's own settings, Ultralytics' where it has none."""
    from ultralytics.utils import DEFAULT_CFG_DICT, IterableSimpleNamespace

    own = args if isinstance(args, Mapping) else vars(args) if args is not None else {}
    return IterableSimpleNamespace(**{**DEFAULT_CFG_DICT, **own})
