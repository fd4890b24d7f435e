"""What the benchmarks share: data sets through links, random pictures, and tables."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import yaml
from torch import Tensor

from yoloprune.files import write_bytes


def link_data(source: Path, target: Path) -> Path:
    """Link a data set into a folder of our own, for Ultralytics writes caches beside labels.

    Returns:
        Its YAML.
    """
    for file in source.rglob("*.*"):
        if file.suffix in (".jpg", ".png", ".txt"):
            link = target / file.relative_to(source)
            link.parent.mkdir(parents=True, exist_ok=True)
            if not link.exists():
                link.symlink_to(file.resolve())
    data = yaml.safe_load(next(source.glob("*.yaml")).read_text())
    path = target / "data.yaml"
    path.write_text(yaml.safe_dump({**data, "path": str(target.resolve())}))
    return path


def write_table(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write rows as CSV, whole or not at all."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_bytes(path, text.getvalue().encode())


def spread(values: Sequence[float]) -> str:
    """Mean of several seeds, and from least to most; empty where there is none."""
    if not values:
        return ""
    mean = f"{sum(values) / len(values):.3f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.3f}-{max(values):.3f})"


def smooth_pictures(count: int, channels: int, side: int, seed: int = 0) -> Tensor:
    """Random fields, coarse ones strongest: float32 ``[count, channels, side, side]``, 0 … 1."""
    generator = torch.Generator().manual_seed(seed)
    made = torch.zeros(count, channels, side, side)
    size = 2
    while size <= side:
        field = torch.randn(count, channels, size, size, generator=generator)
        made += F.interpolate(field, (side, side), mode="bicubic") / math.sqrt(size)
        size *= 2
    return (0.5 + 0.25 * made).clamp(0, 1)
