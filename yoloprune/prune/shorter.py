"""The stage that takes whole blocks out of a network, before any channel is chosen.

What is left is repaired against the full network at once, so that channels are chosen in a network
that works, and again after these went: each layer's target is always what the full network gives.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from yoloprune.channels.trace import trace
from yoloprune.measure.pictures import Pictures
from yoloprune.measure.progress import progress
from yoloprune.measure.size import count
from yoloprune.prune.aligned import Aligned
from yoloprune.prune.blocks import find_blocks, remove_blocks, shortened_test
from yoloprune.prune.budget import Budget
from yoloprune.prune.calibrate import repair_on
from yoloprune.prune.choose import Choice
from yoloprune.prune.cost import Costs
from yoloprune.prune.harm import Spared, least_harmful
from yoloprune.prune.plan import Origin, PrunePlan, Reached
from yoloprune.prune.repair import RepairRecord
from yoloprune.prune.score import Scores
from yoloprune.prune.selftest import SelfTest

if TYPE_CHECKING:
    from yoloprune.channels.graph import ChannelGraph

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shorter:
    """A network without some of its blocks.

    Attributes:
        model: it, repaired where there are pictures.
        teacher: the full network, under the names of the shorter one.
        spared: the blocks that went, in the order of choice.
        removable: how many could have gone.
        measured: whether they were chosen by pictures.
        test: of the shorter network, before repair.
        repair: what was fitted anew, if anything was.
        left: what channels are to go; None where nothing more is asked for.
    """

    model: nn.Module
    teacher: nn.Module
    spared: Sequence[Spared]
    removable: int
    measured: bool
    test: SelfTest
    repair: RepairRecord | None
    left: Budget | None

    @property
    def names(self) -> tuple[str, ...]:
        """Of the blocks that went, in the order of the full network."""
        return tuple(sorted((one.block.name for one in self.spared), key=_natural))

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "removed": [
                {"name": s.block.name, "kind": s.block.kind, "harm": s.harm, "macs": s.macs}
                for s in self.spared
            ],
            "removable": self.removable,
            "by": "what is seen" if self.measured else "scales",
            "self_test": {"max_rel_diff": self.test.max_rel_diff, "dtype": self.test.dtype},
        }


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in name.split(".")]


def shorter(
    model: nn.Module,
    size: tuple[int, int],
    number: int,
    budget: Budget | None,
    pictures: Pictures | None,
    *,
    repair: bool,
    device: str,
) -> Shorter:
    """Take the least harmful blocks out of a network.

    Args:
        model: the full network. Not modified.
        size: height and width of the input in pixels.
        number: how many blocks go.
        budget: of the whole cut. Shares of multiply-adds, parameters and bytes are of the full
            network's; a share of channels is of those that the shorter network has.
        pictures: to choose and to repair by, without labels.
        repair: fit what is left to what the full network gives, where there are pictures.
        device: where.

    Raises:
        PlanError: there are not so many blocks.
        CutError: the shorter network is not the one in which they are silent.
    """
    found = find_blocks(model, size)
    images = None if pictures is None else pictures.images
    with progress("blocks") as advance:
        spared = least_harmful(model, found, number, images, device=device, progress=advance)
    blocks = [one.block for one in spared]
    made = remove_blocks(model, blocks)
    test = shortened_test(model, blocks, made.model)
    short, record = made.model, None
    teacher = Aligned(model, made.names)
    if pictures is not None and repair:
        graph = trace(short)
        kept = np.ones(graph.n_units, dtype=bool)
        done = repair_on(teacher, copy.deepcopy(short), graph, kept, pictures, device)
        short, record = done.model, done.record
    else:
        log.warning("warning: --blocks: live blocks went, and nothing is repaired.")
    return Shorter(
        model=short,
        teacher=teacher,
        spared=spared,
        removable=len(found.removable),
        measured=pictures is not None,
        test=test,
        repair=record,
        left=left_of(budget, model, short, size),
    )


def left_of(
    budget: Budget | None, full: nn.Module, short: nn.Module, size: tuple[int, int]
) -> Budget | None:
    """What of a budget is left for channels, in amounts; None where blocks alone met it."""
    if budget is None or not budget.limits:
        return budget
    graph = trace(full)
    limits = Costs(full, graph, count(full, size)).limits(budget)
    graph = trace(short)
    costs = Costs(short, graph, count(short, size))
    there = costs.limited(np.ones(graph.n_units, dtype=bool), budget)
    if budget.percent is None and all(there[name] <= limit for name, limit in limits.items()):
        return None
    return replace(budget, **limits)  # type: ignore[arg-type]


def no_channels(
    model: nn.Module,
    graph: ChannelGraph,
    size: tuple[int, int],
    asked: Budget | None,
    origin: Origin,
) -> tuple[Choice, PrunePlan]:
    """The choice and the plan of a cut in which blocks alone go.

    Args:
        model: the shorter network.
        graph: its channels.
        size: height and width of the input in pixels.
        asked: the budget that blocks alone met; else what is left is written down as one.
        origin: the model file.
    """
    why = "blocks alone were asked for" if asked is None else "blocks alone met the budget"
    budget = asked or Budget(macs=float(count(model, size).macs))
    scores = Scores(values=np.full(graph.n_units, np.nan), criterion="none", missing=why)
    choice = Choice(scores=scores, scope="global", why=why, compares=False, budget=budget)
    reached = Reached(
        percent=0.0,
        channels=0,
        prunable_channels=int(graph.channels[graph.prunable].sum()),
        units=0,
        threshold=0.0,
    )
    plan = PrunePlan(criterion="none", budget=budget, reached=reached, layers={}, source=origin)
    return choice, plan
