"""One picture of sensitivity: what each part loses at each width, and what it costs."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from yoloprune.files import write_bytes
from yoloprune.plain import plain
from yoloprune.prune.sensitivity import Sensitivity

_INK, _BAR = "#4a5663", "#8fa6b8"


def write_sensitivity_picture(path: Path, found: Sensitivity, macs: Mapping[str, float]) -> Path:
    """Draw a heat map, a row a part.

    Args:
        path: of the PNG.
        found: what was measured.
        macs: part → share of the network's multiply-adds that its layers have.

    Returns:
        ``path``.
    """
    from matplotlib.colors import PowerNorm
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(m.part for m in found.measured))
    shares = sorted({m.share for m in found.measured})
    repaired = any(m.after is not None for m in found.measured)
    sides = ("before repair", "after repair")[: 1 + repaired]
    grids = np.full((len(sides), len(names), len(shares)), np.nan)
    for m in found.measured:
        at = names.index(m.part), shares.index(m.share)
        for grid, value in zip(grids, (m.before, m.after), strict=False):
            grid[at] = np.nan if value is None else value
    height = 1.3 + 0.23 * len(names)
    figure = Figure(figsize=(3.6 + 2.5 * len(sides), height), layout="constrained", dpi=110)
    widths = [*(1.0 for _ in sides), 0.75]
    axes = figure.subplots(1, len(widths), sharey=True, width_ratios=widths)
    high = float(np.nanmax(grids)) if np.isfinite(grids).any() else 1.0
    norm = PowerNorm(0.5, 0.0, max(high, 1e-6), clip=True)
    unit = "AP lost" if found.by == "AP" else "distance of detections"
    for axis, grid, title in zip(axes, grids, sides, strict=False):
        axis.imshow(grid, aspect="auto", cmap="YlOrRd", norm=norm, interpolation="nearest")
        axis.set_title(title, fontsize=9.5, color=_INK)
        axis.set_xticks(range(len(shares)), [f"{share:.0%}" for share in shares])
        axis.set_xlabel("of its channels gone", fontsize=8.5, color=_INK)
        for row, column in np.argwhere(np.isfinite(grid)):
            value = grid[row, column]
            axis.text(
                column, row, f"{value:.3f}", ha="center", va="center", fontsize=7,
                color="white" if norm(value) > 0.72 else "black",
            )  # fmt: skip
    axes[0].set_yticks(range(len(names)), [plain(name) for name in names], fontsize=7.5)
    bars = axes[len(sides)]
    bars.barh(range(len(names)), [100 * macs.get(name, 0.0) for name in names], color=_BAR)
    bars.set_title("% of the MACs", fontsize=9.5, color=_INK)
    for axis in axes:
        axis.tick_params(length=0, labelsize=7.5, colors=_INK)
        axis.spines[:].set_visible(False)
    figure.suptitle(
        f"{plain(Path(found.model).name)}: {unit} when one part alone is pruned",
        fontsize=11, ha="left", x=0.01,
    )  # fmt: skip
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    write_bytes(path, buffer.getvalue())
    return path
