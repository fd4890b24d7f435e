"""How a network suits a target: what leaves its fast path, and which of its operations hurt."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from yoloprune.measure.deployed import deployed
from yoloprune.measure.images import InputSize
from yoloprune.measure.targets import DEFAULT, Target, find_target


def examine(model: nn.Module, target: Target, imgsz: InputSize) -> dict[str, Any]:
    """Hold a network against a target.

    Args:
        model: a detector; not modified.
        target: of the table.
        imgsz: side of the square input, or ``(height, width)``, in pixels; or its whole shape.

    Returns:
        JSON-able: ``target``; ``path`` (what is meant by its fast path); ``convs`` (how many);
        ``off`` (``layer`` and ``reason`` of those that leave it); ``exempt`` (layers that read
        the picture, whose channels are not counted); ``avoid`` (``op``, ``layers``, ``why`` and
        ``source`` of what it has that the target does badly).

    Raises:
        MeasureError: the model does not run on such an input.
    """
    seen = deployed(model, imgsz)
    reasons = [(conv.layer, target.rule(conv)) for conv in seen.convs]
    avoid = []
    for item in target.avoid:
        layers = [op.layer for op in seen.ops if op.kind == item.op and op.size > item.above]
        if layers:
            avoid.append(
                {
                    "op": item.name,
                    "layers": list(dict.fromkeys(layers)),
                    "why": item.fact.says,
                    "source": item.fact.source,
                }
            )
    return {
        "target": target.name,
        "path": target.path,
        "convs": len(seen.convs),
        "off": [{"layer": layer, "reason": why} for layer, why in reasons if why is not None],
        "exempt": [conv.layer for conv in seen.convs if conv.reads_picture],
        "avoid": avoid,
    }


def compared(
    before: nn.Module, after: nn.Module, target: str | None, imgsz: InputSize
) -> dict[str, Any]:
    """Both sides of a cut, each as :func:`examine` has it; ``target`` None is the default one."""
    found = find_target(target or DEFAULT)
    return {
        "before": examine(before, found, imgsz),
        "after": examine(after, found, imgsz),
    }


def notes(
    model: nn.Module,
    target: str | None,
    imgsz: InputSize,
    round_to: int | None = None,
) -> list[str]:
    """What a user should know who named a target; nothing where none was.

    Args:
        model: about to be cut.
        target: its name, if any.
        imgsz: as in :func:`examine`.
        round_to: what kept counts will be multiples of, if anything is to be said of that.
    """
    if target is None:
        return []
    found = find_target(target)
    texts = avoid_lines(examine(model, found, imgsz))
    if round_to is not None and found.round_to is not None and round_to % found.round_to:
        texts.append(
            f"{found.name}: wants multiples of {found.round_to}, --round-to {round_to} gives others"
        )
    return texts


def off_line(record: Mapping[str, Any], most: int = 3) -> str:
    """What leaves the fast path, in a line."""
    off = record["off"]
    named = some([f"{one['layer']} {one['reason']}" for one in off], most, "; ")
    return (
        f"{record['target']}: {len(off) or 'none'} of {record['convs']} convs "
        f"{'leaves' if len(off) < 2 else 'leave'} {record['path']}" + (f": {named}" if off else "")
    )


def change_line(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """Both sides of a cut, in a line."""
    text = f"{after['target']}: convs that leave {after['path']}: {len(before['off'])} → "
    off = after["off"]
    named = some([f"{one['layer']} {one['reason']}" for one in off], 3, "; ")
    return f"{text}{len(off)} of {after['convs']}" + (f": {named}" if off else "")


def avoid_lines(record: Mapping[str, Any]) -> list[str]:
    """A sentence for each kind of operation that the target does badly."""
    return [
        f"{record['target']}: this network has {one['op']} in {len(one['layers'])} "
        f"{'layer' if len(one['layers']) == 1 else 'layers'} ({some(one['layers'])}): "
        f"{one['why']}. {one['source']}"
        for one in record["avoid"]
    ]


def some(names: Iterable[str], most: int = 3, between: str = ", ") -> str:
    """The first of some names, and how many more there are."""
    every = list(names)
    rest = len(every) - most
    return between.join(every[:most]) + (f" and {rest} more" if rest > 0 else "")
