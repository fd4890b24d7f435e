"""What is wrong with a plan that a hand may have edited, by layer and channel.

:func:`check_layers` either gives the units that go, or names everything that stands against it:
layers and channels that do not exist, channels that must stay, channels that are one with others
that stay, sides that would no longer be equal, and layers that would be left empty.
"""

from __future__ import annotations

import difflib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from yoloprune.channels.graph import BoolArray, ChannelGraph, IntArray
from yoloprune.errors import PlanError

SHOWN = 3
"""Contradictions that one error tells; of more it gives the number."""
_INDICES = 8
"""Channels that are told one by one."""


def check_layers(
    graph: ChannelGraph, layers: Mapping[str, Sequence[int]], where: str = "plan"
) -> IntArray:
    """The units that go, where these output channels can go.

    Args:
        graph: the channels of the model.
        layers: path of a layer → output indices that it loses.
        where: what errors call the plan, usually its file name.

    Returns:
        int64, sorted. They can be cut: no further check is needed.

    Raises:
        PlanError: something stands against it; the first few are named, and how many more.
    """
    checked = _Checked(graph, layers)
    found = list(checked.contradictions())
    if not found:
        return np.flatnonzero(checked.gone).astype(np.int64)
    if len(found) == 1:
        raise PlanError(f"{where}: {found[0]}")
    told = " ".join(f"({i}) {text}" for i, text in enumerate(found[:SHOWN], 1))
    more = f" And {len(found) - SHOWN} more." if len(found) > SHOWN else ""
    raise PlanError(f"{where}: {len(found)} contradictions: {told}{more}")


class _Checked:
    """The rows of a plan beside the channels of a network.

    Attributes:
        gone: bool ``[n_units]``: units that at least one row names.
    """

    def __init__(self, graph: ChannelGraph, layers: Mapping[str, Sequence[int]]) -> None:
        self._graph, self._rows = graph, layers
        self._units = {axis.module: axis.units.ravel() for axis in graph.out_axes}
        self.gone = np.zeros(graph.n_units, dtype=bool)
        self._named: dict[str, BoolArray] = {}
        for path, units in self._units.items():
            self._named[path] = np.zeros(units.size, dtype=bool)
            inside = [i for i in layers.get(path, ()) if 0 <= i < units.size]
            self._named[path][inside] = True
            self.gone[units[inside]] = True

    def contradictions(self) -> Iterator[str]:
        """Each in a sentence or two that begins with a layer of the plan, where one is meant."""
        for path, indices in self._rows.items():
            yield from self._row(path, indices)
        yield from self._ties()
        yield from self._emptied()
        yield from self._unequal()

    def _row(self, path: str, indices: Sequence[int]) -> Iterator[str]:
        """What one row says that cannot be, whatever the others say."""
        units = self._units.get(path)
        if units is None:
            yield f"{path}: {self._unknown(path)}"
            return
        wrong = [i for i in indices if not 0 <= i < units.size]
        if wrong:
            yield (
                f"{path}: has no output channel {_some(wrong)}, expected 0 to {units.size - 1}. "
                "Was the plan made for another model?"
            )
        by_reason: defaultdict[str, list[int]] = defaultdict(list)
        for i in np.flatnonzero(self._named[path]):
            reason = self._graph.frozen.get(int(units[i]))
            if reason is not None:
                by_reason[reason].append(int(i))
        for reason, stay in by_reason.items():
            yield f"{path}: {_channels(stay)} must stay ({reason}). Take out [{_some(stay)}]."

    def _unknown(self, path: str) -> str:
        """What to say of a layer that creates no channels."""
        passed = [axis.units for axis in self._graph.axes if axis.module == path]
        if passed:
            makers = self._made_by(np.unique(np.concatenate([units.ravel() for units in passed])))
            return (
                f"creates no channels that could go, it takes those of {makers}. Name these "
                "instead."
            )
        under = [name for name in self._units if name.startswith(f"{path}.")]
        near = under or difflib.get_close_matches(path, self._units, n=1, cutoff=0.5)
        hint = f"Is {near[0]} meant?" if near else "Was the plan made for another model?"
        return f"no layer of this model has this name. {hint}"

    def _ties(self) -> Iterator[str]:
        """Channels that are one with some that go, but are not named themselves."""
        free = self._graph.prunable
        by: dict[int, tuple[str, int]] = {}
        for path, units in self._units.items():
            for i in np.flatnonzero(self._named[path]):
                by.setdefault(int(units[i]), (path, int(i)))
        for path, units in self._units.items():
            kept = np.flatnonzero(self.gone[units] & free[units] & ~self._named[path])
            pairs: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
            for i in kept:
                other, j = by[int(units[i])]
                pairs[other].append((int(i), j))
            for other, both in pairs.items():
                stay, go = [i for i, _ in both], [j for _, j in both]
                add = (
                    f"Add [{_some(stay)}] to {path}"
                    if path in self._rows
                    else f'Add "{path}": [{_some(stay)}]'
                )
                yield (
                    f"{other}: {_channels(go)} can only go together with {_channels(stay)} of "
                    f"{path}, which the plan keeps. {add}, or take [{_some(go)}] out of {other}."
                )

    def _emptied(self) -> Iterator[str]:
        """Layers, and parts of tensors, of which nothing would be left."""
        empty = np.zeros(self._graph.n_units, dtype=bool)
        for path, units in self._units.items():
            if units.size and self.gone[units].all() and not empty[units].all():
                empty[units] = True
                yield (
                    f"{self._culprit(units)}: all {units.size} output channels of {path} would "
                    "go. Take at least one back."
                )
        others = [(axis.module, axis.units) for axis in self._graph.axes]
        others += [(item.module, item.units) for item in self._graph.fields]
        for module, rows in others:
            for units in np.atleast_2d(rows):
                if units.size and self.gone[units].all() and not empty[units].all():
                    empty[units] = True
                    yield (
                        f"{self._culprit(units)}: nothing would be left of the {units.size} "
                        f"channels that {module} takes ({self._made_by(units)}). Take at least "
                        "one back."
                    )

    def _unequal(self) -> Iterator[str]:
        """Sides that must keep equal numbers, and would not."""
        told = set()
        for balance in self._graph.balances:
            counts = [int(np.count_nonzero(~self.gone[part])) for part in balance.parts]
            if len(set(counts)) == 1:
                continue
            sides = [
                f"{count} of {part.size} ({self._made_by(part)})"
                for count, part in zip(counts, balance.parts, strict=True)
            ]
            text = (
                f"{self._culprit(np.concatenate(balance.parts))}: equal numbers must stay on the "
                f"{len(sides)} sides of {balance.reason}, the plan keeps {' against '.join(sides)}."
            )
            if text not in told:
                told.add(text)
                yield text

    def _culprit(self, units: IntArray) -> str:
        """The first layer whose row removes any of these units."""
        there = np.zeros(self._graph.n_units, dtype=bool)
        there[units] = True
        for path in self._rows:
            if path in self._named and there[self._units[path][self._named[path]]].any():
                return path
        raise AssertionError

    def _made_by(self, units: IntArray) -> str:
        """The layers that create these channels, and which of theirs they are."""
        open_ = np.zeros(self._graph.n_units, dtype=bool)
        open_[units] = True
        found = []
        for path, made in self._units.items():
            here = np.flatnonzero(open_[made])
            if here.size:
                found.append(f"{path} {_ranges(here)}")
                open_[made] = False
        shown = ", ".join(found[:2])
        return shown + (f" and {len(found) - 2} more layers" if len(found) > 2 else "")


def _channels(indices: Sequence[int]) -> str:
    return f"channel{'s' if len(indices) > 1 else ''} {_some(indices)}"


def _some(indices: Iterable[int]) -> str:
    """A few of them, and how many more."""
    every = list(indices)
    rest = len(every) - _INDICES
    return ", ".join(map(str, every[:_INDICES])) + (f" … ({rest} more)" if rest > 0 else "")


def _ranges(indices: IntArray) -> str:
    """``0–15, 20`` for ascending indices."""
    runs = np.split(indices, np.flatnonzero(np.diff(indices) != 1) + 1)
    told = [f"{run[0]}–{run[-1]}" if run.size > 1 else f"{run[0]}" for run in runs]
    return ", ".join(told[:3]) + (" …" if len(told) > 3 else "")
