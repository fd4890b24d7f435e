"""The pictures that changed most: what one network found and another lost, or invented."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from yoloprune.measure.bench_rows import BenchChange, BenchCount, Box
from yoloprune.measure.changed import CONFIDENCE, OVERLAP, same_object
from yoloprune.plain import plain
from yoloprune.report.figures import plural
from yoloprune.report.page import Part

if TYPE_CHECKING:
    from markupsafe import Markup

_MOST_BYTES = 1_500_000
"""Of thumbnails on a page; a page is to stay small."""


def changed_part(
    counts: Sequence[BenchCount],
    changes: Sequence[BenchChange],
    classes: Sequence[str],
    images: int,
    baseline: str,
) -> Part | None:
    """Counts and pictures of every model that was held against a baseline.

    Args:
        counts: of all models.
        changes: of all models, each one's most changed picture first.
        classes: names, to tell boxes by.
        images: pictures that were looked at.
        baseline: what the other side is called.

    Returns:
        None where nothing was compared.
    """
    models = list(dict.fromkeys([*(c.model for c in counts), *(c.model for c in changes)]))
    if not models:
        return None
    shown = _affordable(changes, models)
    told = [
        {
            "name": model,
            "counts": [_counted(one) for one in counts if one.model == model],
            "pictures": [_figure(one, classes) for one in shown if one.model == model],
        }
        for model in models
    ]
    data = {
        "models": told, "images": images, "baseline": baseline,
        "confidence": CONFIDENCE, "iou": OVERLAP,
    }  # fmt: skip
    return Part(name="changed", title="Pictures that changed most", data=data)


def _affordable(changes: Sequence[BenchChange], models: Sequence[str]) -> list[BenchChange]:
    """As many pictures as there is room for, each model's first ones before anybody's second."""
    by_model = [[one for one in changes if one.model == model] for model in models]
    depth = max(map(len, by_model), default=0)
    ranked = [side[rank] for rank in range(depth) for side in by_model if rank < len(side)]
    kept, room = [], float(_MOST_BYTES)
    for one in ranked:
        room -= 4 / 3 * len(one.thumbnail)
        if room < 0:
            break
        kept.append(one)
    return kept


def _counted(one: BenchCount) -> dict[str, Any]:
    return {
        "by": one.by, "name": one.name, "truths": one.truths, "baseline": one.baseline,
        "found": one.found, "change": one.found - one.baseline,
    }  # fmt: skip


def _figure(change: BenchChange, classes: Sequence[str]) -> Mapping[str, Any]:
    words = []
    if change.lost:
        words.append(f"{plural(change.lost, 'object')} lost")
    if change.found:
        words.append(f"{change.found:,} invented")
    return {"svg": _drawn(change, classes), "image": change.image, "words": ", ".join(words)}


def _drawn(change: BenchChange, classes: Sequence[str]) -> Markup:
    """A picture with the boxes of both sides, those of one side alone on top."""
    from markupsafe import Markup, escape

    before, after = change.boxes_before, change.boxes_after
    sides = [("both", box) for box, known in _known(after, before) if known]
    sides += [("lost", box) for box, known in _known(before, after) if not known]
    sides += [("new", box) for box, known in _known(after, before) if not known]
    words = {"both": "seen by both", "lost": "no longer seen", "new": "newly seen"}
    shapes = []
    for kind, (x1, y1, x2, y2, class_id, score) in sides:
        name = classes[class_id] if 0 <= class_id < len(classes) else f"class {class_id}"
        title = escape(plain(f"{name} {score:.2f}, {words[kind]}"))
        shapes.append(
            f'<rect class="box {kind}" x="{x1:.1f}" y="{y1:.1f}" width="{max(x2 - x1, 0):.1f}" '
            f'height="{max(y2 - y1, 0):.1f}"><title>{title}</title></rect>'
        )
    picture = base64.b64encode(change.thumbnail).decode()
    label = escape(plain(f"{change.image} with the boxes of both networks"))
    return Markup(
        f'<svg viewBox="0 0 {change.width:d} {change.height:d}" role="img" aria-label="{label}">'
        f'<image href="data:image/jpeg;base64,{picture}" width="{change.width:d}" '
        f'height="{change.height:d}" preserveAspectRatio="none"/>{"".join(shapes)}</svg>'
    )


def _known(boxes: Sequence[Box], others: Sequence[Box]) -> list[tuple[Box, bool]]:
    return list(zip(boxes, same_object(boxes, others), strict=True))
