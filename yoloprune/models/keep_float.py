"""Which parts of a network stay in float where the rest goes to 8 bits, and why.

Always those that 8 bits are known to harm for next to no time: the first layer, which reads the
picture, the last layers of the head, whose numbers are the answer, and what decodes these, for one
scale that spans boxes in pixels and scores below 1 leaves no score. Beyond them what is measured to
do most of the harm.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from yoloprune.errors import ExportError
from yoloprune.models.net_graph import NetGraph, matching, within

DECODING = "decoding"
"""Stands for what makes boxes and scores of the last layers' numbers, which is no layer."""
_ENOUGH = 0.05
"""Error of the outputs below which nothing more is kept: AP was the same within 0.002 there."""
_DOMINANT = 0.2
"""Share of the squared error of all groups that makes one stand out."""


@dataclass(frozen=True, slots=True)
class KeepFloat:
    """What the user asked to be kept.

    Attributes:
        auto: the known and the measured parts.
        patterns: layers, modules or globs besides.
    """

    auto: bool = True
    patterns: tuple[str, ...] = ()

    @property
    def nothing(self) -> bool:
        """Whether all goes to 8 bits that the runtime's tool can take there."""
        return not (self.auto or self.patterns)


def parse_keep_float(text: str) -> KeepFloat:
    """Read ``auto``, ``none``, or layers and globs with commas between, ``auto`` among them or not.

    Raises:
        ExportError: it is none of these.
    """
    words = [word.strip() for word in text.split(",")]
    if words == ["none"]:
        return KeepFloat(auto=False)
    if "" in words or "none" in words:
        raise ExportError(
            f"--keep-float: got {text!r}, expected auto, none, or layers and globs with commas "
            "between."
        )
    patterns = tuple(dict.fromkeys(word for word in words if word != "auto"))
    return KeepFloat(auto="auto" in words, patterns=patterns)


def kept_by_rule(graph: NetGraph, asked: KeepFloat) -> dict[str, str]:
    """What is kept before anything is measured: path → why.

    Raises:
        ExportError: a pattern matches no layer.
    """
    if asked.nothing:
        return {}
    kept: dict[str, str] = {}
    if asked.auto:
        kept |= dict.fromkeys(graph.first, "reads the picture")
        kept |= dict.fromkeys(graph.last, "last layer of the head")
    for pattern in asked.patterns:
        found = matching(graph.layers, pattern)
        if not found:
            raise ExportError(
                f"--keep-float: {pattern!r} matches no layer with weights, expected a layer as "
                f"`yoloprune info` prints it (such as {graph.layers[-1]}), a module or a glob."
            )
        kept |= {layer: f"asked for by {pattern}" for layer in found if layer not in kept}
    return {**kept, DECODING: "makes boxes and scores, which share no scale"}


def rest_of(graph: NetGraph, kept: Mapping[str, str]) -> tuple[str, ...]:
    """Groups that are not kept as a whole already."""
    open_layers = [layer for layer in graph.layers if not within(layer, kept)]
    return tuple(
        group for group in graph.groups if any(within(layer, [group]) for layer in open_layers)
    )


def ranked(errors: Mapping[str, float]) -> tuple[str, ...]:
    """Groups, the most harmful first."""
    return tuple(sorted(errors, key=lambda group: -errors[group]))


def dominant(errors: Mapping[str, float]) -> tuple[str, ...]:
    """Groups that do so much of the harm that they are kept, the worst first.

    Errors of groups are taken as independent: their squares add up.
    """
    left = sum(error**2 for error in errors.values())
    found = []
    for group in ranked(errors):
        share = errors[group] ** 2
        if left**0.5 <= _ENOUGH or share < _DOMINANT * left:
            break
        found.append(group)
        left -= share
    return tuple(found)


def because_of(groups: Sequence[str], errors: Mapping[str, float]) -> dict[str, str]:
    """Group → why it is kept."""
    return {group: f"alone in 8 bits: error {errors[group]:.3f} of the outputs" for group in groups}
