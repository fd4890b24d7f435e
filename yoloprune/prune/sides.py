"""Both sides of a cut: size, latency in turn, and how good each is at its task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from yoloprune.measure.accuracy import Seen
from yoloprune.measure.detect import DetectOptions
from yoloprune.measure.images import InputSize
from yoloprune.measure.latency import LatencyOptions, LatencySample, measure_latency
from yoloprune.measure.size import count, file_bytes, held_bytes
from yoloprune.measure.tasks import SHOWN, measure
from yoloprune.prune.plan import PrunePlan


def cost(
    models: Mapping[str, nn.Module],
    files: Mapping[str, tuple[Path, ...]],
    imgsz: InputSize,
    *,
    batch: int,
    device: str,
    repeats: int,
) -> dict[str, dict[str, Any]]:
    """Parameters, multiply-adds, bytes and latency of models, timed in turn.

    Args:
        models: by name.
        files: of each; where there are none, what its tensors hold counts.
        imgsz: height and width of the input in pixels, or its whole shape.
        batch: pictures a pass in latency.
        device: where that is measured.
        repeats: timed passes; 0 times nothing.
    """
    times: dict[str, LatencySample] = {}
    if repeats:
        how = LatencyOptions(imgsz=imgsz, batch=batch, device=device, repeats=repeats)
        times = measure_latency(models, how)
    records = {}
    for name, model in models.items():
        size = count(model, imgsz)
        record: dict[str, Any] = {
            "params": size.params,
            "macs": size.macs,
            "bytes": file_bytes(files[name]) if files[name] else held_bytes(model),
        }
        if name in times:
            record |= {
                "latency_ms": times[name].median_ms,
                "latency_iqr_ms": times[name].iqr_ms,
                "latency": times[name].to_dict(),
            }
        records[name] = record
    return records


def quality(
    model: nn.Module,
    data: str,
    imgsz: tuple[int, int],
    *,
    split: str,
    device: str,
    seen: Seen | None = None,
) -> dict[str, Any]:
    """How good a model of its task is, and whose numbers these are."""
    options = DetectOptions(imgsz=imgsz, device=device)
    found = measure(model, data, options, split=split, seen=seen)
    metrics = found["metrics"]
    return {**{key: metrics[key] for key in SHOWN if key in metrics}, "by": found["by"]}


def account(plan: PrunePlan, before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """What was asked, what was reached, and both sides of it."""
    saved = {key: 1 - after[key] / before[key] for key in ("params", "macs")}
    return {
        "asked": plan.budget.to_dict(),
        "reached": {**asdict(plan.reached), **saved},
        "before": before,
        "after": after,
    }
