"""Convolutions as runtimes see them, and the rules by which their fast paths take them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Conv:
    """One convolution of a network.

    Attributes:
        layer: path of its module.
        inputs, outputs: channels that it reads and gives.
        groups: of the convolution; 1 is a dense one.
        kernel: height and width.
        transposed: whether it is a transposed one.
        reads_picture: whether its input is the network's own, whose channels nobody can choose.
    """

    layer: str
    inputs: int
    outputs: int
    groups: int = 1
    kernel: tuple[int, int] = (3, 3)
    transposed: bool = False
    reads_picture: bool = False

    @property
    def depthwise(self) -> bool:
        """Whether every channel is filtered alone."""
        return self.groups > 1 and self.groups == self.inputs == self.outputs


Rule = Callable[[Conv], str | None]
"""Why a convolution leaves the fast path; None where it does not."""


def nchwc(block: int) -> Rule:
    """ONNX Runtime's blocked layout on an x86 CPU, for a block of so many channels.

    Reference: ``TransformConv`` of ``onnxruntime/core/optimizer/nchwc_transformer.cc``; the tests
    compare it with what the installed ONNX Runtime does.
    """
    part = 4  # what its reordering of inputs is written for, whatever the block

    def rule(conv: Conv) -> str | None:
        if conv.transposed:
            return "is transposed, which has no blocked kernel"
        if conv.groups == 1:
            if conv.inputs < block or conv.inputs % part == 0:
                return None
            return f"reads {conv.inputs} channels, no multiple of {part}"
        if conv.outputs % part:
            return (
                f"has {conv.groups} groups and gives {conv.outputs} channels, no multiple of {part}"
            )
        if conv.depthwise:
            return None
        reads, gives = conv.inputs // conv.groups, conv.outputs // conv.groups
        if reads % block or gives % block:
            return (
                f"reads {reads} and gives {gives} channels a group, not both multiples of {block}"
            )
        return None

    return rule


def every(**rules: Rule) -> Rule:
    """Where all of several rules, by name, take a convolution; the name is told with the reason."""

    def rule(conv: Conv) -> str | None:
        whys = {name: why for name, one in rules.items() if (why := one(conv)) is not None}
        if not whys:
            return None
        if len(whys) == len(rules) and len(set(whys.values())) == 1:
            return next(iter(whys.values()))
        return "; ".join(f"{why} ({name.replace('_', '-')})" for name, why in whys.items())

    return rule


def multiples(*, inputs: int, outputs: int) -> Rule:
    """Tensors whose channels fill whole blocks; 1 where any number does.

    The channels of the picture are exempt: they are what they are.
    """

    def rule(conv: Conv) -> str | None:
        whys = []
        if conv.inputs % inputs and not conv.reads_picture:
            whys.append(f"reads {_channels(conv.inputs)}, no multiple of {inputs}")
        if conv.outputs % outputs:
            whys.append(f"gives {_channels(conv.outputs)}, no multiple of {outputs}")
        return " and ".join(whys) or None

    return rule


def anything(conv: Conv) -> str | None:
    """No widths are known to be slower than others."""
    return None


def _channels(count: int) -> str:
    return f"{count} channel" + ("" if count == 1 else "s")
