"""What the page of a cut says of its target."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from yoloprune.plain import plain


def fast_path(record: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The part of the page: how many convs leave the fast path, and each with its reason.

    Args:
        record: ``fast_path`` of a summary; None where it has none.
    """
    if record is None:
        return None
    before, after = record["before"], record["after"]
    sides = [{one["layer"]: one["reason"] for one in side["off"]} for side in (before, after)]
    layers = dict.fromkeys(name for side in sides for name in side)
    return {
        "target": plain(after["target"]),
        "path": plain(after["path"]),
        "before": f"{len(before['off'])} of {before['convs']}",
        "after": f"{len(after['off'])} of {after['convs']}",
        "exempt": plain(", ".join(after["exempt"])),
        "layers": [
            (plain(name), *(plain(side.get(name, "on it")) for side in sides)) for name in layers
        ],
    }
