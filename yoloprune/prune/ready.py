"""A network that plans can be made of, what it is run on, and what its files are called."""

from __future__ import annotations

import glob
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from yoloprune.channels.graph import ChannelGraph
from yoloprune.measure.pictures import Pictures
from yoloprune.models.door import Source, digest, input_size_of
from yoloprune.prune.budget import Budget
from yoloprune.prune.choose import Choice
from yoloprune.prune.plan import Origin
from yoloprune.prune.shorter import Shorter

Shape = tuple[int, int] | torch.Size
"""Height and width of a picture in pixels; or, as torch's own type, a whole shape ``[1, ...]``."""
_PICTURE, _COLOURS = 4, 3
"""Axes of a batch of pictures, and their channels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """A network that plans can be made of, as many as there are budgets.

    Attributes:
        model: full size, its grouped routes split where that was asked for, and without the whole
            blocks that go.
        source: its files; None for a network in memory.
        graph: its channels.
        size: height and width of its input in pixels, or its whole shape.
        pictures: to calibrate on, if there are any.
        shorter: the blocks that went, if any did.
        known: scores that later plans of the same options share; whether they were those of
            switched-off channels → what was chosen.
    """

    model: nn.Module
    source: Source | None
    graph: ChannelGraph
    size: Shape
    pictures: Pictures | None
    shorter: Shorter | None = None
    known: dict[bool, Choice] = field(default_factory=dict)

    @property
    def full(self) -> nn.Module:
        """The network with all of its blocks."""
        return self.model if self.shorter is None else self.shorter.full


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What a network in memory is run on, where no file of its own says it.

    Attributes:
        example: ``[1, ...]``, one input as the network takes it; None for a picture of its size.
        pictures: to calibrate on, as it takes them; None reads those that options name.
    """

    example: torch.Tensor | None = None
    pictures: Pictures | None = None

    def size(self, model: nn.Module, imgsz: int | tuple[int, int] | None) -> Shape:
        """Of the input: a picture's height and width, or the whole shape of another one."""
        if self.example is None:
            return input_size_of(model, imgsz)
        shape = self.example.shape
        picture = len(shape) == _PICTURE and shape[1] == _COLOURS
        return (int(shape[2]), int(shape[3])) if picture else shape


def origin_of(model: nn.Module, source: Source | None) -> Origin:
    """What a plan says that it was made for: a file, or the class of a network in memory."""
    if source is None:
        return Origin(path=type(model).__name__)
    return Origin(path=source.parameters.name, sha256=digest(source))


def stem_of(model: nn.Module, source: Source | None) -> str:
    """What files of a network are called by."""
    return type(model).__name__ if source is None else source.model.stem


def search_log(out: Path, stem: str, budget: Budget | None = None) -> Path:
    """Where a search keeps its trials until the cut is saved; each cut of several its own."""
    each = "" if budget is None or budget.max_drop is None else f"-{budget.macs:.5f}"
    return out / f"{stem}-search{each}.json"


def forget_searches(out: Path, stem: str) -> None:
    """Remove what searches kept."""
    for path in out.glob(f"{glob.escape(stem)}-search*.json"):
        path.unlink(missing_ok=True)
