"""What a builder of a section sees, what it leaves, and the table of builders."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import nn

from yoloprune.darknet.cfg import Section

# Bounds that no real detector comes near: a cfg that exceeds them is a mistake, and is refused
# before memory is asked for.
MAX_CHANNELS = 1 << 16
MAX_SIDE = 1 << 14
MAX_KERNEL = 255
MAX_LAYER_WEIGHTS = 1 << 27
MAX_WEIGHTS = 1 << 30


@dataclass(frozen=True, slots=True)
class Shape:
    """What a layer gives for one image: channels, height, width."""

    channels: int
    height: int
    width: int

    def __str__(self) -> str:
        return f"{self.channels}x{self.height}x{self.width}"

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.height, self.width


@dataclass(frozen=True, slots=True)
class Context:
    """What a builder may look at.

    Attributes:
        net: shape of the network's input.
        shapes: shape of every layer before this one.
    """

    net: Shape
    shapes: Sequence[Shape]

    @property
    def before(self) -> Shape:
        """Shape of the layer just before this one."""
        return self.shapes[-1] if self.shapes else self.net

    def refer(self, section: Section, key: str, number: int) -> int:
        """Resolve a layer number, relative when negative, to an absolute one."""
        index = section.index + number if number < 0 else number
        if not 0 <= index < section.index:
            raise section.error(
                key,
                f"{key} must name layers before #{section.index}, got {number}"
                f"{f' (#{index})' if number < 0 else ''}.",
            )
        return index


@dataclass(frozen=True, slots=True)
class Built:
    """A layer as its builder leaves it.

    Attributes:
        module: takes one tensor, or a list where ``sources`` has several.
        shape: what it gives.
        sources: absolute numbers of the layers it reads; empty for the one before.
    """

    module: nn.Module
    shape: Shape
    sources: tuple[int, ...] = ()


Builder = Callable[[Section, Context], Built]
BUILDERS: dict[str, Builder] = {}


def builder(kind: str) -> Callable[[Builder], Builder]:
    """Enter a builder into the table."""

    def enter(function: Builder) -> Builder:
        if kind in BUILDERS:
            raise ValueError(f"[{kind}] has a builder already")
        BUILDERS[kind] = function
        return function

    return enter
