"""Take residual blocks out of an Ultralytics network: stock classes stay, and they stay right."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from ultralytics.nn.modules import block as stock

from yoloprune.channels.trace import picture
from yoloprune.measure.copies import structural_copy
from yoloprune.prune.residual import HALVES, NUMBERED, Residual, listed_in

_SIDE = 64
_WIRED = ("i", "f", "type", "np")
"""What Ultralytics notes in a module that is wired by number."""


def without_blocks(
    model: nn.Module, gone: Collection[Residual]
) -> tuple[nn.Module, dict[str, str]]:
    """A shorter network.

    A block in a chain leaves it. One of several whose outputs are all joined leaves that list, and
    what read its output reads that of the one before it twice: its weights are added up. Of a
    module that adds twice, the half that is left becomes a ``Bottleneck`` (x + cv2(cv1(x))). One
    that is wired by number becomes an ``Identity``.

    Args:
        model: not modified.
        gone: what :func:`~yoloprune.prune.residual.residuals` found in it.

    Returns:
        A new model, and the path of each of its modules → the path in the old one.
    """
    widths = _widths(model)
    made = copy.deepcopy(model)
    before = dict(made.named_modules())  # kept, so that no new module gets the id of an old one
    names = {id(module): path for path, module in before.items()}
    by_module: dict[str, set[str]] = defaultdict(set)
    for block in gone:
        by_module[block.module].add(block.name.rpartition(".")[2])
    for path in sorted(by_module, key=lambda path: -path.count(".")):
        _replace(made, path, _rest(made.get_submodule(path), by_module[path]))
    _close(made, names, widths)
    paths = {path: names[id(m)] for path, m in made.named_modules() if id(m) in names}
    return made, paths


def _rest(module: Any, gone: set[str]) -> Any:
    """What stands for a module without some of what it adds."""
    halves = [half for half in HALVES.get(type(module), ()) if half not in gone]
    rest = _bottleneck(getattr(module, halves[0])) if halves else None
    if isinstance(module, stock.PSA):
        return _as_c2psa(module, rest)
    return nn.Identity() if rest is None else rest


def _bottleneck(branch: Any) -> Any:
    """X + branch(x), in a class that every version of Ultralytics has."""
    made: Any = stock.Bottleneck.__new__(stock.Bottleneck)
    nn.Module.__init__(made)
    if isinstance(branch, nn.Sequential) and len(branch) == 2:
        made.cv1, made.cv2 = branch[0], branch[1]
    else:
        made.cv1, made.cv2 = branch, nn.Identity()
    made.add = True
    return made.train(branch.training)


def _as_c2psa(module: Any, block: nn.Module | None) -> Any:
    """A ``PSA`` as the ``C2PSA`` that computes the same, with another chain of blocks."""
    made: Any = stock.C2PSA.__new__(stock.C2PSA)
    nn.Module.__init__(made)
    made.c, made.cv1, made.cv2 = module.c, module.cv1, module.cv2
    made.m = nn.Sequential(*([] if block is None else [block]))
    return made.train(module.training)


def _replace(model: nn.Module, path: str, rest: Any) -> None:
    """Put something in the place of a module; an Identity in a chain or a list goes later."""
    around, _, key = path.rpartition(".")
    old = model.get_submodule(path)
    for name in _WIRED:
        if name in vars(old):
            setattr(rest, name, vars(old)[name])
    if hasattr(rest, "np"):
        rest.np = sum(p.numel() for p in rest.parameters())
        rest.type = f"{type(rest).__module__}.{type(rest).__name__}"
    rest.training = old.training
    model.get_submodule(around).add_module(key, rest)


def _close(
    model: nn.Module, names: Mapping[int, str], widths: Mapping[str, tuple[int, int]]
) -> None:
    """Take new Identities out of chains and lists, inner ones first."""
    for path, module in reversed(list(model.named_modules())):
        if isinstance(module, nn.Sequential) and path != NUMBERED:
            for i in _new(module, names):
                del module[i]
        elif isinstance(module, nn.ModuleList):
            listed = listed_in(model, path)
            if listed is not None:
                _close_list(model, path, listed, names, widths)


def _new(module: Any, names: Mapping[int, str]) -> list[int]:
    """Places of Identities that are not of the old model, the last first."""
    found = [
        i for i, one in enumerate(module) if isinstance(one, nn.Identity) and id(one) not in names
    ]
    return found[::-1]


def _close_list(
    model: nn.Module,
    path: str,
    listed: tuple[str, str],
    names: Mapping[int, str],
    widths: Mapping[str, tuple[int, int]],
) -> None:
    """Take identities out of a list whose outputs are joined."""
    blocks: Any = model.get_submodule(path)
    new = _new(blocks, names)
    new += [i for i, m in enumerate(blocks) if isinstance(m, nn.Sequential) and not len(m)]
    if not new:
        return
    owner, reader = listed
    sizes = [widths[f"{path}.{i}"] for i in range(len(blocks))]
    tail = widths[f"{owner}.attn"][1] if f"{owner}.attn" in widths else 0
    conv: Any = model.get_submodule(reader).conv
    conv.weight = nn.Parameter(
        folded(conv.weight.detach(), sizes, new, tail), requires_grad=conv.weight.requires_grad
    )
    conv.in_channels = conv.weight.shape[1]
    for i in sorted(new, reverse=True):
        del blocks[i]


def folded(
    weight: Tensor, sizes: list[tuple[int, int]], gone: Collection[int], tail: int = 0
) -> Tensor:
    """Add the weights of outputs that go to those of the output that each of them repeats.

    Args:
        weight: ``[C_out, C_in, kH, kW]`` of what reads all outputs, joined. Not modified.
        sizes: channels that each block of the chain is given, and that it gives. The joined input
            ends with what they give, and before it stands what the first is given.
        gone: which blocks are identities.
        tail: channels that follow.

    Returns:
        New tensor ``[C_out, C_in less those of the identities, kH, kW]``.
    """
    first = weight.shape[1] - tail - sum(out for _, out in sizes)
    head, *parts, end = torch.split(weight, [first, *(out for _, out in sizes), tail], 1)
    segments = [head.clone()]
    for i, (part, (given, _)) in enumerate(zip(parts, sizes, strict=True)):
        if i in gone:
            segments[-1][:, segments[-1].shape[1] - given :] += part
        else:
            segments.append(part.clone())
    return torch.cat((*segments, end), 1)


@torch.no_grad()
def _widths(model: nn.Module) -> dict[str, tuple[int, int]]:
    """Path → channels that it is given and that it gives, of blocks in lists and what is beside."""
    runner = structural_copy(model)
    found: dict[str, tuple[int, int]] = {}
    for path, module in runner.named_modules():
        listed = isinstance(module, nn.ModuleList) and listed_in(runner, path)
        if not listed:
            continue
        beside = {f"{path}.{i}": one for i, one in module.named_children()}
        owner = runner.get_submodule(listed[0])
        if isinstance(owner, stock.C2fAttn):
            beside[f"{listed[0]}.attn"] = owner.attn
        for name, one in beside.items():

            def note(_: nn.Module, args: Any, out: Tensor, name: str = name) -> None:
                found[name] = args[0].shape[1], out.shape[1]

            one.register_forward_hook(note)
    if found or any(isinstance(m, nn.ModuleList) for m in runner.modules()):
        runner(picture(runner, _SIDE))
    return found
