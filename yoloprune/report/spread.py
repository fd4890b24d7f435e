"""Histograms of a network's numbers, as a part of a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    charts += _charts(record or {}, "before", "after")
    if not charts:
        return None
    title = "Scores, scales and weights" if scores is not None else "Scales and weights"
    return Part(name="histograms", title=title, data={"groups": [{"name": "", "charts": charts}]})


def spreads_part(record: Mapping[str, Any], baseline: str, others: Sequence[str]) -> Part | None:
    """Scales and weights of several models, each beside the baseline's.

    Args:
        record: what :func:`yoloprune.measure.spread.spreads` gave for all of them.
        baseline: name of one.
        others: names of those beside it.
    """
    groups = [{"name": name, "charts": _charts(record, baseline, name)} for name in others]
    groups = [group for group in groups if group["charts"]]
    if not groups:
        return None
    return Part(name="histograms", title="Scales and weights", data={"groups": groups})


def _charts(record: Mapping[str, Any], before: str, after: str) -> list[dict[str, Any]]:
    return [
        _chart(kind, one, before, after)
        for kind, one in record.items()
        if kind in _TITLES and before in one["counts"] and after in one["counts"]
    ]


def _chart(kind: str, record: Mapping[str, Any], old: str, new: str) -> dict[str, Any]:
    before, after = record["counts"][old], record["counts"][new]
    edges = np.linspace(record["low"], record["high"], len(before) + 1).tolist()
    series = [
        Counts(values=before, kind="before", name=old),
        Counts(values=after, kind="after", name=new),
    ]
    return {
        "title": _TITLES[kind],
        "words": (
            f"{sum(before):,} {old}, {sum(after):,} {new}. The outer bars hold all beyond them."
        ),
        "key": [(old, "before"), (new, "after")],
        "mark": None,
        "svg": histogram(edges, series, _TITLES[kind]),
    }
