"""What each part of a network costs when it alone is pruned, as a part of a page."""

from __future__ import annotations

from typing import Any

from yoloprune.prune.plan import PrunePlan
from yoloprune.prune.sensitivity import Measurement, Sensitivity
from yoloprune.report.figures import share
from yoloprune.report.page import Part


def sensitivity_part(found: Sensitivity, plan: PrunePlan) -> Part | None:
    """A row a part, a column a share of its channels; the darker, the more is lost.

    Args:
        found: what was measured.
        plan: the cut, whose layers tell what went of each part in the end.

    Returns:
        None where nothing was measured.
    """
    if not found.measured:
        return None
    shares = sorted({one.share for one in found.measured})
    known = {(one.part, one.share): _lost(one) for one in found.measured}
    most = max(max(known.values()), 1e-9)
    rows = []
    for name in dict.fromkeys(one.part for one in found.measured):
        values = [known.get((name, at)) for at in shares]
        rows.append(
            {
                "name": name,
                "cells": [_cell(value, most) for value in values],
                "removed": len(plan.layers.get(name, ())),
            }
        )
    data = {
        "unit": "AP lost" if found.by == "AP" else "distance of what it sees from the full network",
        "repaired": any(one.after is not None for one in found.measured),
        "shares": [share(at) for at in shares],
        "rows": rows,
    }
    return Part(name="sensitivity", title="Sensitivity", data=data, sortable=True)


def _lost(one: Measurement) -> float:
    """After repair, where there was one."""
    return one.before if one.after is None else one.after


def _cell(value: float | None, most: float) -> dict[str, Any]:
    """A figure, and how dark it stands: by the root, so that small losses are told apart."""
    if value is None:
        return {"text": "–", "value": "", "dark": "0"}
    dark = (max(value, 0.0) / most) ** 0.5
    return {"text": f"{value:.4f}", "value": value, "dark": f"{min(dark, 1.0):.2f}"}
