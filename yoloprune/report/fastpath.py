"""What a page says of a target's fast path."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def fast_path(record: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The part of a page: how many convs leave the fast path, and each with its reason.

    Args:
        record: ``fast_path`` of a summary, with ``before`` and ``after``; None where it has none.
    """
    if record is None:
        return None
    before, after = record["before"], record["after"]
    sides = [off_words(side) for side in (before, after)]
    layers = dict.fromkeys(name for side in sides for name in side)
    return {
        "target": after["target"],
        "path": after["path"],
        "before": f"{len(before['off'])} of {before['convs']}",
        "after": f"{len(after['off'])} of {after['convs']}",
        "exempt": ", ".join(after["exempt"]),
        "layers": [(name, *(side.get(name, "on it") for side in sides)) for name in layers],
    }


def off_words(side: Mapping[str, Any] | None) -> dict[str, str]:
    """Layer → why it leaves the fast path; empty where that was not looked at."""
    return {one["layer"]: str(one["reason"]) for one in (side or {}).get("off", ())}
