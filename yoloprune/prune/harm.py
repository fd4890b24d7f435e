"""Which blocks a network can spare: those whose silence changes least of what it sees."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from yoloprune.errors import PlanError
from yoloprune.measure.copies import device_of, find_device, float32_copy
from yoloprune.prune.apart import Seen
from yoloprune.prune.blocks import Block, Blocks, silenced

_PICTURES = 32
"""That are looked at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spared:
    """A block that goes.

    Attributes:
        block: it.
        harm: how much farther from the full network's is what the network sees without it, see
            :meth:`yoloprune.prune.apart.Seen.apart`; without pictures its mean last scale; None
            where it was named, not chosen.
        macs: share of the network's multiply-adds that go with it.
    """

    block: Block
    harm: float | None
    macs: float


def least_harmful(
    model: nn.Module,
    blocks: Blocks,
    number: int,
    pictures: Tensor | None,
    *,
    device: str | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Spared]:
    """Choose blocks one by one, each with the least harm for the multiply-adds that it saves.

    After each choice those that are left are measured anew, with the chosen ones silent. Without
    pictures the scales that end a branch stand for its harm; these say little, for the scale of
    a branch means something only beside that of what it is added to.

    Args:
        model: the full network. Not modified.
        blocks: what :func:`~yoloprune.prune.blocks.find_blocks` found in it.
        number: how many are to go.
        pictures: ``[N, C, H, W]`` without labels, or None.
        device: where to run it.
        progress: called with measurements done and measurements in all.

    Raises:
        PlanError: there are fewer.
    """
    there = len(blocks.removable)
    if not 0 < number <= there:
        why = next(iter(blocks.bound.values()), "it has no residual blocks")
        some = f" Others cannot go: {why}." if not there else ""
        raise PlanError(f"--blocks: the network can spare {there} blocks, got {number}.{some}")
    if pictures is None:
        scales = {one.name: _scale(model, one) for one in blocks.removable}
        chosen = sorted(blocks.removable, key=lambda one: scales[one.name])[:number]
        return [
            Spared(block=one, harm=scales[one.name], macs=one.macs / blocks.macs) for one in chosen
        ]
    place = device_of(model) if device is None else find_device(device)
    runner = float32_copy(model, place)
    seen = Seen(runner, pictures[:_PICTURES])
    total = sum(there - i for i in range(number))
    found: list[Spared] = []
    before, done = 0.0, 0
    while len(found) < number:
        gone = [one.block for one in found]
        trials: list[tuple[float, Block]] = []
        for one in blocks.removable:
            if one not in gone:
                harm = seen.apart(silenced(runner, [*gone, one])) - before
                trials.append((harm, one))
                done += 1
                progress(done, total)
        harm, best = min(trials, key=lambda one: (max(one[0], 0.0) / one[1].macs, -one[1].macs))
        before += harm
        found.append(Spared(block=best, harm=harm, macs=best.macs / blocks.macs))
    return found


def _scale(model: nn.Module, block: Block) -> float:
    """Mean absolute value of the last scales of a branch, or of its last weights."""
    return float(model.get_parameter(block.silencing[0]).detach().abs().mean())
