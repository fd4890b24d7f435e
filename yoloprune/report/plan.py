"""One picture of a plan: what each layer keeps and loses, and where the multiply-adds are."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from yoloprune.files import write_bytes
from yoloprune.plain import plain
from yoloprune.prune.outline import Outline

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_INK, _LINE = "#4a5663", "#dfe5ea"
# Okabe and Ito 2008: told apart by colour-blind readers too.
_KEPT, _FROZEN, _GONE, _BEFORE = "#0072b2", "#7f8c97", "#e69f00", "#f3d08a"
_ROW, _HEAD = 0.19, 1.5
"""Inches of a layer, and of all around them."""


def write_plan_picture(path: Path, found: Outline, title: str) -> Path:
    """Draw a row a layer: its channels kept, frozen and removed; its multiply-adds, both sides.

    Args:
        path: of the PNG.
        found: what the plan does.
        title: stands above it.

    Returns:
        ``path``.
    """
    from matplotlib.figure import Figure

    timed = any(line.ms_before is not None for line in found.lines)
    panels = 3 if timed else 2
    height = _HEAD + _ROW * len(found.lines)
    figure = Figure(figsize=(6.2 + 2.4 * panels, height), layout="constrained", dpi=110)
    figure.set_facecolor("white")
    axes = figure.subplots(1, panels, sharey=True, width_ratios=[1.25, *(1,) * (panels - 1)])
    _draw_widths(axes[0], found)
    total = max(found.before.macs, 1)
    _draw_sides(
        axes[1],
        [100 * line.macs_before / total for line in found.lines],
        [100 * line.macs_after / total for line in found.lines],
        "multiply-adds, % of the full network's",
    )
    if timed:
        before = [line.ms_before or 0.0 for line in found.lines]
        after = [line.ms_after or 0.0 for line in found.lines]
        _draw_sides(axes[2], before, after, "milliseconds")
    names = [plain(line.layer) for line in found.lines]
    axes[0].set_yticks(range(len(names)), names, fontsize=7.5, parse_math=False)
    axes[0].set_ylim(len(names) - 0.4, -0.6)
    figure.suptitle(plain(title), fontsize=11, ha="left", x=0.01, color="#1c2530", parse_math=False)
    file = io.BytesIO()
    figure.savefig(file, format="png", metadata={"Software": None})
    write_bytes(path, file.getvalue())
    return path


def _draw_widths(axes: Axes, found: Outline) -> None:
    """Channels: free ones that stay, frozen ones, those that go."""
    rows = np.arange(len(found.lines))
    frozen = np.array([line.frozen for line in found.lines])
    after = np.array([line.after for line in found.lines])
    before = np.array([line.before for line in found.lines])
    axes.barh(rows, after - frozen, height=0.78, color=_KEPT, label="kept")
    axes.barh(rows, frozen, left=after - frozen, height=0.78, color=_FROZEN, label="frozen")
    axes.barh(rows, before - after, left=after, height=0.78, color=_GONE, label="removed")
    widest = float(before.max(initial=1))
    for row, (old, new) in enumerate(zip(before, after, strict=True)):
        text = f"{new}" if new == old else f"{new} of {old}"
        axes.text(old + 0.012 * widest, row, text, va="center", fontsize=6.5, color=_INK)
    axes.set_xlim(0, 1.16 * widest)
    _style(axes, "output channels")


def _draw_sides(axes: Axes, before: list[float], after: list[float], name: str) -> None:
    """A quantity before, pale, and after, over it."""
    rows = np.arange(len(before))
    axes.barh(rows, before, height=0.78, color=_BEFORE, label="before")
    axes.barh(rows, after, height=0.78, color=_KEPT, label="after")
    _style(axes, name)


def _style(axes: Axes, name: str) -> None:
    axes.set_xlabel(name, fontsize=8.5, color=_INK)
    axes.tick_params(length=0, labelsize=7.5, colors=_INK)
    axes.spines[:].set_visible(False)
    axes.grid(axis="x", color=_LINE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.legend(
        loc="lower left", bbox_to_anchor=(0, 1), ncols=3, fontsize=7.5, frameon=False,
        labelcolor=_INK, handlelength=1, columnspacing=1.2, borderpad=0.1,
    )  # fmt: skip
