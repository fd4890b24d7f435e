"""What a network gives before anything that a cut touches: computed once, then given again.

Where a cut begins deep in a network, all blocks before it give on the same pictures what they gave
in the full network. Whoever holds many such cuts against the same pictures need not compute that
again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from yoloprune.measure.copies import device_of, structural_copy
from yoloprune.measure.images import InputSize, input_shape
from yoloprune.measure.size import count
from yoloprune.prune.replay import Recorder

ROOM = 2**30
"""Bytes that may be kept."""


@dataclass(slots=True, eq=False)
class _Block:
    path: str
    ended: int
    macs: int
    given: list[Tensor] = field(default_factory=list)
    held: int = 0

    @property
    def worth(self) -> float:
        """Multiply-adds that a byte saves."""
        return self.macs / max(self.held, 1)


class Prefix:
    """The blocks of a network, and what they give batch by batch.

    Blocks are what the longest list of modules in the network holds: the layers of a Darknet
    network, the sequence of an Ultralytics one. Those that run more than once a pass, give anything
    but one tensor, or come after a choice that depends on the picture (``topk``) always run; so do
    all where a later block writes into what an earlier one gave.

    Args:
        model: the full network, where it is to run. Not modified, and to be left as it is.
        imgsz: height and width of its input in pixels, or the input's whole shape.
        room: bytes that may be kept; blocks that compute least for what they would take are
            forgotten.
    """

    def __init__(self, model: nn.Module, imgsz: InputSize, room: int = ROOM) -> None:
        self._model, self._room = model, room
        self._began, ended = _one_pass(model, imgsz)
        macs = {layer.name: layer.macs for layer in count(model, imgsz).layers}
        self._blocks = [
            _Block(path, at, sum(n for name, n in macs.items() if _within(name, path)))
            for path, at in ended.items()
        ]

    def take_down(self, model: nn.Module) -> None:
        """Have a copy of the full network keep what its blocks give, from now on.

        Args:
            model: that copy; it is given hooks.
        """
        for block in self._blocks:
            model.get_submodule(block.path).register_forward_hook(self._keeper(block))

    def give_again(self, model: nn.Module) -> list[str]:
        """Have a cut network start where it differs from the full one.

        It must then see the batches that the network saw that was taken down, once, in that order.

        Args:
            model: with tensors of its own or the full network's; its ``forward`` methods are
                replaced.

        Returns:
            Paths of the blocks that do not run any more.
        """
        first = self._first_change(model)
        spared = [block for block in self._blocks if block.ended < first and block.given]
        for block in spared:
            model.get_submodule(block.path).forward = _giver(block.given)
        return [block.path for block in spared]

    def _keeper(self, block: _Block) -> Callable[[nn.Module, Any, Any], None]:
        def keep(module: nn.Module, given: Any, output: Any) -> None:
            if block in self._blocks:
                block.given.append(output)
                block.held += output.nbytes
                while sum(one.held for one in self._blocks) > self._room:
                    filled = (one for one in self._blocks if one.held)
                    self._blocks.remove(min(filled, key=lambda one: one.worth))

        return keep

    def _first_change(self, model: nn.Module) -> float:
        """When, in a pass, the first module runs whose tensors are not the full network's."""
        full = dict(self._model.named_modules())
        first = math.inf
        for path, module in model.named_modules():
            if path not in full or not _same(module, full[path]):
                while path not in self._began:  # what reads it is some module around it
                    path = path.rpartition(".")[0]
                first = min(first, self._began[path])
        return first


def _one_pass(model: nn.Module, imgsz: InputSize) -> tuple[dict[str, int], dict[str, int]]:
    """When modules begin, and when blocks end that can be kept, in the order of a pass."""
    runner = structural_copy(model)
    kinds = nn.Sequential | nn.ModuleList
    lists = [(path, m) for path, m in runner.named_modules() if isinstance(m, kinds)]
    around, blocks = max(lists, key=lambda one: len(one[1]), default=("", nn.ModuleList()))
    began: dict[str, int] = {"": 0}
    ended: dict[str, list[int]] = {}
    gave: list[tuple[Any, Any]] = []
    clock, choices = iter(range(1, 10**9)), list[Tensor]()

    def begin(path: str) -> Callable[..., None]:
        def note(module: nn.Module, given: Any) -> None:
            began.setdefault(path, next(clock))

        return note

    def end(path: str) -> Callable[..., None]:
        def note(module: nn.Module, given: Any, output: Any) -> None:
            ended.setdefault(path, []).append(next(clock))
            fit = isinstance(output, Tensor) and not choices
            gave.append((output, output.clone() if fit else None))
            if not fit:
                ended[path].append(0)

        return note

    for path, module in runner.named_modules():
        module.register_forward_pre_hook(begin(path))
    for name, module in blocks.named_children():
        module.register_forward_hook(end(f"{around}.{name}".lstrip(".")))
    shape = input_shape(imgsz)
    example = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), Recorder(choices):
        runner(example.to(device_of(model)))
    if any(kept is not None and not torch.equal(kept, output) for output, kept in gave):
        return began, {}
    return began, {path: times[0] for path, times in ended.items() if len(times) == 1}


def _within(name: str, path: str) -> bool:
    return name == path or name.startswith(f"{path}.")


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters(recurse=False)
    yield from module.named_buffers(recurse=False)


def _same(module: nn.Module, other: nn.Module) -> bool:
    here, there = dict(_tensors(module)), dict(_tensors(other))
    return here.keys() == there.keys() and all(
        a.shape == there[name].shape and torch.equal(a, there[name]) for name, a in here.items()
    )


def _giver(given: list[Tensor]) -> Callable[..., Tensor]:
    """A ``forward`` that gives what it has, one batch after the other."""
    left = iter(given)
    return lambda *args, **kwargs: next(left)
