"""Masked weights held at zero through a training, and in its averaged model.

A weight that is exactly zero when training begins gets no gradient, so that it takes no part in
clipping and no moment gathers, as under the masks of ``torch.nn.utils.prune``; and it is set to
zero after each step, for decay and sparsity work without gradients.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from yoloprune.errors import TrainError
from yoloprune.mask.targets import WEIGHT, layers_of


class KeptZeros:
    """Where the weights of convolutions and the scales of BatchNorms are to stay zero.

    Attributes:
        masks: name of a parameter → bool in its shape, true where it stays zero.

    Raises:
        TrainError: nothing is zero.
    """

    def __init__(self, model: nn.Module) -> None:
        self.masks: dict[str, Tensor] = {}
        for path, module in layers_of(model):
            zero = module.get_parameter(WEIGHT).detach() == 0
            if bool(zero.any()):
                self.masks[f"{path}.{WEIGHT}"] = zero
        if not self.masks:
            raise TrainError(
                "--keep-zeros: no weight of a convolution and no scale is exactly zero. Mask the "
                "network first: `yoloprune mask`."
            )

    @torch.no_grad()
    def stop_gradients(self, model: nn.Module) -> None:
        """Take the gradients of held weights out, before they are clipped and stepped along."""
        for parameter, mask in self._pairs(model):
            if parameter.grad is not None:
                parameter.grad.masked_fill_(mask, 0)

    @torch.no_grad()
    def hold(self, model: nn.Module) -> None:
        """Set held weights to zero, in place; ``model`` may be the averaged one."""
        for parameter, mask in self._pairs(model):
            parameter.masked_fill_(mask, 0)

    def _pairs(self, model: nn.Module) -> list[tuple[nn.Parameter, Tensor]]:
        found = []
        for name, mask in self.masks.items():
            parameter = model.get_parameter(name)
            if mask.device != parameter.device:
                mask = self.masks[name] = mask.to(parameter.device)
            found.append((parameter, mask))
        return found

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run holds, whatever else has become zero meanwhile."""
        return {name: mask.cpu() for name, mask in self.masks.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what :meth:`state_dict` gave."""
        self.masks = dict(state)
