"""Histograms of a network's numbers, as a part of a page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from yoloprune.report.charts import Counts, histogram
from yoloprune.report.page import Part

_TITLES = {"gamma": "Scales of the BatchNorms, |γ|", "weights": "Weights of the convolutions"}


def spread_part(
    record: Mapping[str, Any] | None, scores: Mapping[str, Any] | None = None
) -> Part | None:
    """Scores, scales and weights, whichever there are.

    Args:
        record: what :func:`yoloprune.measure.spread.spreads` gave for ``before`` and ``after``.
        scores: a chart of the scores that decided.
    """
    charts = [dict(scores)] if scores is not None else []
    charts += [_chart(kind, one) for kind, one in (record or {}).items() if kind in _TITLES]
    if not charts:
        return None
    title = "Scores, scales and weights" if scores is not None else "Scales and weights"
    return Part(name="histograms", title=title, data={"charts": charts})


def _chart(kind: str, record: Mapping[str, Any]) -> dict[str, Any]:
    before, after = record["counts"]["before"], record["counts"]["after"]
    edges = np.linspace(record["low"], record["high"], len(before) + 1).tolist()
    series = [
        Counts(values=before, kind="before", name="before"),
        Counts(values=after, kind="after", name="after"),
    ]
    return {
        "title": _TITLES[kind],
        "words": (
            f"{sum(before):,} before, {sum(after):,} after. The outer bars hold all beyond them."
        ),
        "key": [("before", "before"), ("after", "after")],
        "mark": None,
        "svg": histogram(edges, series, _TITLES[kind]),
    }
