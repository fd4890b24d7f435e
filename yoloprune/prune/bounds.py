"""What rules for layers come to in one network: how many channels each layer may and must lose."""

from __future__ import annotations

import difflib
import fnmatch
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from yoloprune.channels.graph import BoolArray, ChannelGraph, IntArray
from yoloprune.errors import PlanError
from yoloprune.prune.bundles import Entries
from yoloprune.prune.ratios import Rule

_EPS = 1e-9


@dataclass(frozen=True, slots=True)
class Bound:
    """Of one layer.

    Attributes:
        rule: that holds for it.
        size: its channels.
        least: channels that it must lose …
        most: … and that it may lose.
        reason: why it is frozen; empty where a channel of it may go.
    """

    rule: Rule
    size: int
    least: int
    most: int
    reason: str = ""


class Bounds:
    """Rules for layers, resolved.

    Attributes:
        layers: path of each layer that a rule matches → what holds for it, in the network's order.
    """

    def __init__(self, graph: ChannelGraph, rules: tuple[Rule, ...]) -> None:
        """Resolve.

        Args:
            graph: the channels.
            rules: of which the last that matches a layer holds; areas know their globs already,
                see :func:`~yoloprune.prune.areas.with_areas`.

        Raises:
            PlanError: a rule matches no layer, or those of two tied layers contradict each other.
        """
        units = {axis.module: axis.units.ravel() for axis in graph.out_axes}
        self._groups = Counter(path for group in graph.groups for path in group.layers)
        chosen = resolve(tuple(units), rules)
        self._units = units
        self.layers: dict[str, Bound] = {
            path: _bound(rule, graph, units[path]) for path, rule in chosen.items()
        }
        _check_tied(self.layers, units)

    def narrow(
        self, layers: list[IntArray], least: IntArray, most: IntArray, round_to: int
    ) -> None:
        """Bring bounds, in place, to what the rules ask; ``most`` never rises.

        Args:
            layers: the sets of units that have bounds, as they stand in layers.
            least: int64 ``[layers]``: channels that each must lose …
            most: … and may lose.
            round_to: multiples that kept counts are rounded up to: where there is room, so much
                more goes that a floor holds after it.
        """
        row = {units.tobytes(): i for i, units in enumerate(layers)}
        for path, bound in self.layers.items():
            at = row[self._units[path].tobytes()]
            most[at] = min(most[at], bound.most)
            asked = bound.least
            if bound.rule.min:
                step = round_to * max(self._groups[path], 1)
                down = bound.size - (bound.size - asked) // step * step
                asked = down if down <= most[at] else asked
            least[at] = max(least[at], asked)

    def notes(self, gone: BoolArray, held_by: str) -> Iterator[str]:
        """What rules were not met, a sentence a rule.

        Args:
            gone: bool ``[n_units]``: units that go.
            held_by: flags that may have held layers back.
        """
        missed: dict[Rule, list[tuple[float, str]]] = {}
        whole: dict[Rule, list[str]] = {}
        many, size, gone_of = Counter[Rule](), Counter[Rule](), Counter[Rule]()
        for path, bound in self.layers.items():
            lost = int(gone[self._units[path]].sum())
            many[bound.rule] += 1
            size[bound.rule] += bound.size
            gone_of[bound.rule] += lost
            if bound.least <= lost <= bound.most:
                continue
            if bound.reason:
                whole.setdefault(bound.rule, []).append(f"{path} ({bound.reason})")
                continue
            words = f"{path} loses {lost} of {bound.size} ({lost / bound.size:.1%})"
            missed.setdefault(bound.rule, []).append((abs(lost - bound.least) / bound.size, words))
        for rule, found in missed.items():
            farthest = max(found)[1]
            told = f", farthest {farthest}" if len(found) > 1 else f": {farthest}"
            share = gone_of[rule] / size[rule]
            together = f"; its layers lose {share:.1%} together" if many[rule] > 1 else ""
            yield (
                f"ratios: {rule.words}: not met to the channel by {len(found)} of {many[rule]} "
                f"layers{told}{together}. Held by {held_by}, or by what is tied to them."
            )
        for rule, names in whole.items():
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            yield f"ratios: {rule.words}: stays whole because frozen: {names[0]}{more}."


def resolve(
    layers: tuple[str, ...], rules: tuple[Rule, ...], said: str = "ratios"
) -> dict[str, Rule]:
    """The rule of each layer that one matches: the last that does.

    A pattern matches a layer's whole path, ``*`` standing for any text with dots in it, too, or
    the path of a module that the layer is in. ``said`` is what errors call the rules.

    Raises:
        PlanError: a rule matches none.
    """
    found: dict[str, Rule] = {}
    for rule in rules:
        matched = [path for path in layers if _matches(path, rule)]
        if not matched:
            raise PlanError(_no_layer(rule, layers, said))
        found |= dict.fromkeys(matched, rule)
    return {path: found[path] for path in layers if path in found}


def forced(entries: Entries, bundles: int, least: IntArray, most: IntArray) -> BoolArray:
    """Bool ``[bundles]``: those that go so that every set loses what it must, lowest score first.

    Args:
        entries: channels of each set that each bundle takes.
        bundles: how many there are.
        least: int64 ``[sets]``: channels that each set must lose …
        most: … and may lose, which no bundle is to exceed.
    """
    goes = np.zeros(bundles, dtype=bool)
    wanted = np.zeros(bundles, dtype=bool)
    wanted[entries.bundle[least[entries.row] > 0]] = True
    mine = np.flatnonzero(wanted[entries.bundle])
    mine = mine[np.argsort(entries.bundle[mine], kind="stable")]
    starts = np.flatnonzero(np.diff(entries.bundle[mine], prepend=-1))
    lost = np.zeros(least.size, dtype=np.int64)
    for part in np.split(mine, starts[1:]) if mine.size else ():
        rows, times = entries.row[part], entries.times[part]
        if (lost[rows] < least[rows]).any() and (lost[rows] + times <= most[rows]).all():
            goes[entries.bundle[part[0]]] = True
            lost[rows] += times
    return goes


def _matches(path: str, rule: Rule) -> bool:
    return any(
        fnmatch.fnmatchcase(path, glob) or fnmatch.fnmatchcase(path, f"{glob}.*")
        for glob in rule.globs or (rule.pattern,)
    )


def _no_layer(rule: Rule, layers: tuple[str, ...], said: str) -> str:
    """What to say of a rule that matches none, with what may have been meant."""
    modules = {path.rsplit(".", cut)[0]: None for path in layers for cut in (0, 1, 2, 3)}
    bare = rule.pattern.replace("*", "").strip(".")
    near = difflib.get_close_matches(bare, [name for name in modules if name], n=3, cutoff=0.4)
    hint = f"Near are {', '.join(near)}" if near else f"The first is {layers[0]}" if layers else ""
    return (
        f"{said}: {rule.pattern}: matches no layer. {hint}; `yoloprune info` prints all."
        if hint
        else f"{said}: {rule.pattern}: matches no layer, the network has none."
    )


def _bound(rule: Rule, graph: ChannelGraph, units: IntArray) -> Bound:
    """What a rule is in channels: exact shares to the nearest, floors and ceilings rounded in."""
    size = int(units.size)
    if rule.share is not None:
        least = most = math.ceil(rule.share * size - 0.5 - _EPS)
    else:
        least = math.ceil((rule.min or 0.0) * size - _EPS)
        most = math.floor((1.0 if rule.max is None else rule.max) * size + _EPS)
        if rule.keep is not None:
            most = min(most, max(size - rule.keep, 0))
        if least > most and rule.keep is None:  # no whole number is between
            least = most
    reasons = [graph.frozen.get(unit) for unit in np.unique(units).tolist()]
    reason = reasons[0] if reasons and all(reasons) else ""
    return Bound(rule, size, least, most, reason or "")


def _check_tied(layers: Mapping[str, Bound], units: Mapping[str, IntArray]) -> None:
    """Refuse two rules of which one asks more of the same channels than the other allows.

    Raises:
        PlanError: there are such.
    """
    paths = [path for path, bound in layers.items() if not bound.reason]
    owners: dict[int, list[str]] = {}
    for path in paths:
        for unit in np.unique(units[path]).tolist():
            owners.setdefault(unit, []).append(path)
    tied = {(a, b) for found in owners.values() for a in found for b in found if a != b}
    place = {path: i for i, path in enumerate(paths)}
    for a, b in sorted(tied, key=lambda pair: (place[pair[0]], place[pair[1]])):
        asks, allows = layers[a], layers[b]
        if allows.rule.caps:
            continue
        apart = int((~np.isin(units[a], units[b])).sum())
        if asks.least - apart > allows.most:
            raise PlanError(
                f"ratios: {a} and {b} share channels: {asks.rule.words!r} takes {asks.least} of "
                f"{asks.size}, {allows.rule.words!r} allows {allows.most} of {allows.size}. Give "
                "both one ratio, or the second a mere max."
            )
