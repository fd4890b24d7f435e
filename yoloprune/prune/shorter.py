"""The stage that takes whole blocks out of a network, before any channel is chosen.

What is left is repaired against the full network at once, so that channels are chosen in a network
that works, and again after these went: each layer's target is always what the full network gives.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import nn

from yoloprune.channels.graph import ChannelGraph
from yoloprune.channels.trace import trace
from yoloprune.errors import PlanError
from yoloprune.measure.pictures import Pictures
from yoloprune.measure.size import count
from yoloprune.progress import progress
from yoloprune.prune.aligned import Aligned
from yoloprune.prune.areas import with_areas
from yoloprune.prune.blocks import Block, Blocks, find_blocks, remove_blocks, shortened_test
from yoloprune.prune.bounds import resolve
from yoloprune.prune.budget import Budget
from yoloprune.prune.calibrate import repair_on
from yoloprune.prune.cost import Cost, Costs
from yoloprune.prune.harm import Spared, least_harmful
from yoloprune.prune.repair import RepairRecord
from yoloprune.prune.selftest import SelfTest


@dataclass(frozen=True, slots=True, kw_only=True)
class Shorter:
    """A network without some of its blocks.

    Attributes:
        full: the network with them.
        graph: the channels of ``full``.
        cost: of ``full``.
        model: without the blocks, repaired where there are pictures.
        teacher: the full network, under the names of the shorter one.
        paths: path of each module of ``model`` → its path in ``full``.
        spared: the blocks that went, in the order of choice.
        names: of these, in the order of the network.
        removable: how many could have gone.
        by: what they were chosen by, in words.
        test: of the shorter network, before repair.
        repair: what was fitted anew, if anything was.
    """

    full: nn.Module
    graph: ChannelGraph
    cost: Cost
    model: nn.Module
    teacher: nn.Module
    paths: Mapping[str, str]
    spared: Sequence[Spared]
    names: tuple[str, ...]
    removable: int
    by: str
    test: SelfTest
    repair: RepairRecord | None

    @property
    def free(self) -> bool:
        """Whether all blocks that went were silent: nothing changed."""
        silencing = (name for one in self.spared for name in one.block.silencing)
        return not any(bool(self.full.get_parameter(name).any()) for name in silencing)

    def amounts(self, budget: Budget) -> Budget:
        """A budget of the full network for the shorter one: shares become amounts.

        A share of channels stays one, of the channels that the shorter network has; so does one
        of latency, for which there is no amount without measuring.
        """
        cost = self.cost
        there: dict[str, float] = {
            "macs": cost.macs, "params": cost.params, "bytes": cost.bytes[budget.precision],
        }  # fmt: skip
        limits = budget.limits
        shares = {name: limits[name] for name in there if limits.get(name, 1.0) < 1}
        found: dict[str, Any] = {name: share * there[name] for name, share in shares.items()}
        return replace(budget, **found)

    def check_ratios(self, budget: Budget, graph: ChannelGraph) -> None:
        """Let no rule for layers mean others than those that it names in the full network.

        Args:
            budget: with its ratios.
            graph: the channels of the shorter network.

        Raises:
            PlanError: layers have other names now, and a rule would go with the name.
        """
        if not budget.ratios:
            return
        before, now = (
            resolve(tuple(axis.module for axis in of.out_axes), with_areas(budget, model).ratios)
            for of, model in ((self.graph, self.full), (graph, self.model))
        )
        for axis in graph.out_axes:
            old = self.paths[axis.module]
            rules = (before.get(old), now.get(axis.module))
            patterns = [rule and rule.pattern for rule in rules]
            if patterns[0] != patterns[1]:
                told = next(pattern for pattern in patterns if pattern)
                raise PlanError(
                    f"--ratios: {told}: without the blocks {', '.join(self.names)} layer {old} is "
                    f"{axis.module}, so that the rule means others than it names. Use areas "
                    "(backbone, neck, head), or slim twice: --blocks first, then --ratios."
                )

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; ``harm`` is None where a plan named the blocks."""
        return {
            "removed": [
                {"name": s.block.name, "kind": s.block.kind, "harm": s.harm, "macs": s.macs}
                for s in self.spared
            ],
            "removable": self.removable,
            "by": self.by,
            "self_test": {"max_rel_diff": self.test.max_rel_diff, "dtype": self.test.dtype},
        }

    def notes(self) -> Iterator[str]:
        """What a reader should know, a sentence each."""
        if self.repair is None and not self.free:
            yield (
                f"{len(self.names)} live block{'s' if len(self.names) > 1 else ''} went "
                f"({', '.join(self.names)}), and nothing is repaired. Give pictures with --calib."
            )


def shorter(
    model: nn.Module,
    size: tuple[int, int],
    wanted: int | Sequence[str],
    pictures: Pictures | None,
    *,
    where: str = "--blocks",
    repair: bool,
    device: str,
) -> Shorter:
    """Take blocks out of a network: the least harmful ones, or those that are named.

    Args:
        model: the full network. Not modified.
        size: height and width of the input in pixels.
        wanted: how many blocks go, or their names.
        pictures: to choose and to repair by, without labels.
        where: what errors call the names, usually a plan's file.
        repair: fit what is left to what the full network gives, where there are pictures.
        device: where.

    Raises:
        PlanError: there are not so many blocks, or not these.
        CutError: the shorter network is not the one in which they are silent.
    """
    found = find_blocks(model, size)
    if isinstance(wanted, int):
        by = "scales" if pictures is None else "what is seen"
        images = None if pictures is None else pictures.images
        with progress("blocks") as advance:
            spared = least_harmful(model, found, wanted, images, device=device, progress=advance)
    else:
        by = "the plan"
        spared = [_named(one, found) for one in found.named(wanted, where)]
    gone = {one.block.name for one in spared}
    blocks = [block for block in found.removable if block.name in gone]
    made = remove_blocks(model, blocks)
    test = shortened_test(model, blocks, made.model)
    short, record = made.model, None
    teacher = Aligned(model, made.names)
    if pictures is not None and repair:
        graph = trace(short)
        kept = np.ones(graph.n_units, dtype=bool)
        done = repair_on(teacher, copy.deepcopy(short), graph, kept, pictures, device)
        short, record = done.model, done.record
    graph = trace(model)
    return Shorter(
        full=model,
        graph=graph,
        cost=Costs(model, graph, count(model, size)).full,
        model=short,
        teacher=teacher,
        paths=made.names,
        spared=spared,
        names=tuple(block.name for block in blocks),
        removable=len(found.removable),
        by=by,
        test=test,
        repair=record,
    )


def _named(block: Block, found: Blocks) -> Spared:
    return Spared(block=block, harm=None, macs=block.macs / found.macs)
