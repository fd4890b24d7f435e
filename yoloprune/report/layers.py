"""The layers of a network before and after, as a part of a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from yoloprune.report.charts import Layer, layer_strip
from yoloprune.report.fastpath import fast_path
from yoloprune.report.page import Part


def layers_part(
    layers: Sequence[Layer],
    title: str,
    *,
    off: Mapping[str, Any] | None = None,
    repair: Mapping[str, Any] | None = None,
    anchor: str = "",
) -> Part | None:
    """A strip of all layers, and a table of them.

    Args:
        layers: in network order.
        title: of the part.
        off: ``fast_path`` of a record, with ``before`` and ``after``, if there is one.
        repair: ``repair`` of a record, if there is one.
        anchor: of the part.

    Returns:
        None where there is no layer.
    """
    if not layers:
        return None
    data = {
        "svg": layer_strip(layers),
        "layers": layers,
        "widest": max(layer.before for layer in layers),
        "fast_path": fast_path(off),
        "any_off": any(layer.off for layer in layers),
        "repair": repair and {
            "pictures": repair["pictures"],
            "held_out": repair["held_out"],
            "seconds": f"{repair['seconds']:.0f}",
            "left_out": repair.get("left_out", False),
        },
    }  # fmt: skip
    return Part(name="layers", anchor=anchor, title=title, data=data, sortable=True)
