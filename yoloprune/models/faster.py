"""Operations of stock modules in the form that runtimes run fastest; their results are the same."""

from __future__ import annotations

from types import MethodType
from typing import Any

from torch import Tensor, nn


def rewrite(model: nn.Module) -> None:
    """Let modules of a model compute what they compute in another way, in place.

    The head's distributions over distances (``DFL``): stock code takes their softmax over an axis
    that is not the last, which ONNX Runtime does by turning everything around, and their mean by a
    convolution. YOLOv5nu at 320 px, one thread of a Xeon: 21.3 ms so, 19.2 ms rewritten. OpenVINO
    gains nothing (22.0 and 22.4 ms).

    Args:
        model: about to be exported; never one that is trained or saved.
    """
    for module in model.modules():
        if type(module).__name__ == "DFL":
            module.forward = MethodType(_distances, module)


def _distances(self: Any, x: Tensor) -> Tensor:
    """Mean of each side's distribution.

    Args:
        self: the module; ``c1`` bins, whose values are the weights of ``conv``.
        x: ``[B, 4 · c1, A]``, of every anchor the logits of left, top, right and bottom.

    Returns:
        ``[B, 4, A]``, in cells.
    """
    batch, _, anchors = x.shape
    chances = x.view(batch, 4, self.c1, anchors).transpose(2, 3).softmax(-1)
    means: Tensor = chances @ self.conv.weight.view(self.c1, 1)
    return means.squeeze(-1)
