"""Whole blocks: which a network can do without, and the shorter network.

A residual block gives x + f(x). Without f it gives x, and need not be there at all: exactly the
network in which f is silent. What f gave is lost; repair makes up for some of it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from yoloprune.channels.table import tensors_in
from yoloprune.channels.trace import picture
from yoloprune.darknet import shorten
from yoloprune.darknet.network import DarknetModel
from yoloprune.errors import CutError, PlanError
from yoloprune.measure.size import LayerSize, Size, count
from yoloprune.prune import bypass, residual
from yoloprune.prune.replica import replica
from yoloprune.prune.selftest import SelfTest, relative_difference

_SHOWN = 5
_ROUNDING = 1e-5
"""What weights that were added up in float32 may be off by."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A residual block that a network can do without.

    Attributes:
        name: path of its module; of its ``[shortcut]`` in a Darknet network.
        kind: class of the module that adds, or the Darknet sections.
        silencing: qualified names of the parameters that, zero, silence its branch. The network
            without the block is exactly the one in which they are zero.
        params, macs: what goes with it: parameters, and multiply-adds of one image.
    """

    name: str
    kind: str
    silencing: tuple[str, ...]
    params: int
    macs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocks:
    """What a network can do without.

    Attributes:
        removable: in the order of the network.
        bound: path of a block that cannot go → why, as what it does.
        macs: of the whole network.
    """

    removable: tuple[Block, ...]
    bound: Mapping[str, str]
    macs: int

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        rows = [asdict(block) for block in self.removable]
        for row in rows:
            row["silencing"] = list(row["silencing"])
        return {"removable": rows, "bound": dict(self.bound)}

    def named(self, names: Iterable[str], where: str = "") -> list[Block]:
        """Blocks by their names.

        Args:
            names: each once.
            where: what errors call the names, usually a plan's file; may be empty.

        Raises:
            PlanError: some are of no block that can go, or stand twice; each is named.
        """
        known = {block.name: block for block in self.removable}
        wrong, seen = [], set[str]()
        for name in names:
            if name in seen:
                wrong.append(f"{name} stands twice")
            elif name not in known:
                why = self.bound.get(name)
                wrong.append(
                    f"{name} cannot go, it {why}" if why else f"{name} is no residual block"
                )
            seen.add(name)
        if wrong:
            some = ", ".join(list(known)[:_SHOWN]) or "none"
            at = f"{where}: blocks" if where else "blocks"
            raise PlanError(f"{at}: {'; '.join(wrong)}. Those that can go begin with {some}.")
        return [known[name] for name in seen]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shortened:
    """A network without some blocks.

    Attributes:
        model: the shorter network, in the family's own classes.
        names: path of each of its modules → the path in the full network.
    """

    model: nn.Module
    names: Mapping[str, str]


def find_blocks(model: nn.Module, imgsz: int | tuple[int, int]) -> Blocks:
    """Find the residual blocks of a network of either family.

    Args:
        model: not modified.
        imgsz: side of the input, or height and width, in pixels, at which to count.
    """
    size = count(model, imgsz)
    if isinstance(model, DarknetModel):
        found, bound = shorten.residuals(model)
        blocks = [_darknet_block(model, one, size) for one in found]
        reasons = {f"model.{number}": why for number, why in bound.items()}
    else:
        residuals, reasons = residual.residuals(model)
        blocks = [_stock_block(model, one, size) for one in residuals]
    return Blocks(removable=tuple(blocks), bound=reasons, macs=size.macs)


def _darknet_block(model: DarknetModel, one: shorten.DarknetResidual, size: Size) -> Block:
    numbers = range(one.source + 1, one.shortcut + 1)
    layers = [layer for i in numbers for layer in _under(size, f"model.{i}")]
    kinds = [str(model.model[i].type) for i in numbers]
    return Block(
        name=f"model.{one.shortcut}",
        kind="+".join(f"[{kind}]" for kind in dict.fromkeys(kinds)),
        silencing=one.silencing,
        params=sum(layer.params for layer in layers),
        macs=sum(layer.macs for layer in layers),
    )


def _stock_block(model: nn.Module, one: residual.Residual, size: Size) -> Block:
    layers = list(_under(size, one.name))
    params, macs = sum(layer.params for layer in layers), sum(layer.macs for layer in layers)
    listed = residual.listed_in(model, one.name.rpartition(".")[0])
    if listed is not None:  # what reads it, joined with others, reads that much less
        conv = f"{listed[1]}.conv"
        weight = model.get_parameter(f"{conv}.weight")
        share = len(model.get_parameter(one.silencing[0])) / weight.shape[1]
        params += round(weight.numel() * share)
        macs += round(sum(layer.macs for layer in _under(size, conv)) * share)
    return Block(name=one.name, kind=one.kind, silencing=one.silencing, params=params, macs=macs)


def _under(size: Size, path: str) -> Iterable[LayerSize]:
    return (one for one in size.layers if one.name == path or one.name.startswith(f"{path}."))


def remove_blocks(model: nn.Module, blocks: Iterable[Block]) -> Shortened:
    """The network without some of its residual blocks.

    Args:
        model: not modified.
        blocks: of those that :func:`find_blocks` found in it, in any order.
    """
    gone = {block.name for block in blocks}
    if not isinstance(model, DarknetModel):
        chosen = [one for one in residual.residuals(model)[0] if one.name in gone]
        short, names = bypass.without_blocks(model, chosen)
        return Shortened(model=short, names=names)
    made, numbers = shorten.without_residuals(
        model, {int(name.removeprefix("model.")) for name in gone}
    )
    paths = {}
    for path, _ in made.named_modules():
        head, _, rest = path.removeprefix("model.").partition(".")
        if head.isdecimal():
            paths[path] = ".".join(("model", str(numbers[int(head)]), *([rest] if rest else [])))
    return Shortened(model=made, names=paths)


def silenced(model: nn.Module, blocks: Iterable[Block]) -> nn.Module:
    """A replica in which the branches of some blocks give zero; it shares all other tensors."""
    parameters = dict(model.named_parameters())
    changed: dict[str, Tensor] = {}
    for block in blocks:
        for name in block.silencing:
            changed[name] = torch.zeros_like(parameters[name])
    return replica(model, changed)


def shortened_test(
    model: nn.Module, blocks: Sequence[Block], short: nn.Module, *, side: int = 64
) -> SelfTest:
    """Compare a shorter network with the full one in which its blocks are silent.

    Both are made anew in float64, so that nothing but a mistake can differ; and the shorter
    network at hand must hold the same tensors, to the rounding of its own precision.

    Args:
        model: the full network. Not modified.
        blocks: that were removed.
        short: without them.
        side: of the random picture, in pixels.

    Returns:
        The largest relative difference, in float64.

    Raises:
        CutError: they differ, or the shorter network does not run.
    """
    full = copy.deepcopy(model).double().eval()
    exact = remove_blocks(full, blocks).model
    given = picture(full, side)
    with torch.no_grad():
        expected = tensors_in(silenced(full, blocks)(given.clone()))
        try:
            found = tensors_in(exact(given.clone()))
        except Exception as exc:  # whatever a broken forward pass raises
            raise CutError(f"the shorter network does not run, got {exc!r}.") from exc
    worst = relative_difference(expected, found)
    test = SelfTest(max_rel_diff=worst, outputs=len(found), dtype="torch.float64")
    if not test.passed or not _same_tensors(exact, short):
        raise CutError(
            f"self-test: without its blocks the network's output differs by {worst:.2g} of its "
            "scale from that of the network in which they are silent, or its tensors do. Nothing "
            "was written; please report this model."
        )
    return test


def _same_tensors(exact: nn.Module, short: nn.Module) -> bool:
    """Whether two networks hold the same numbers, to the rounding of the second."""
    ours, theirs = exact.state_dict(), short.state_dict()
    return ours.keys() == theirs.keys() and all(
        ours[name].shape == value.shape
        and torch.allclose(ours[name].to(value.dtype), value, rtol=_ROUNDING, atol=_ROUNDING)
        for name, value in theirs.items()
    )
