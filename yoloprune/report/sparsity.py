"""One picture of a sparsity training: where the scales stood after each epoch."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from yoloprune.errors import DataError
from yoloprune.files import write_bytes
from yoloprune.train.log import LOG, read_log

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PICTURE = "sparsity.png"
_INK, _LINE, _ZERO, _BOUND = "#4a5663", "#d9dee4", "#d55e00", "#0072b2"


def write_sparsity_picture(folder: Path) -> Path:
    """Draw ``sparsity.png`` beside the log that training left in a folder.

    Returns:
        The picture's path.

    Raises:
        DataError: there is no log, or it is empty.
    """
    rows = read_log(folder / LOG)
    if not rows:
        raise DataError(f"{folder / LOG}: holds no epoch. Was the training run with --sparsity?")
    path = folder / PICTURE
    write_bytes(path, sparsity_picture(rows))
    return path


def sparsity_picture(rows: Sequence[dict[str, Any]]) -> bytes:
    """Histograms of |gamma| over the epochs, and below them the share of units at zero.

    Args:
        rows: lines of the log, in order.

    Returns:
        A PNG file's bytes.
    """
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure

    epochs = np.array([row["epoch"] for row in rows])
    counts = np.array([row["histogram"] for row in rows], dtype=float).T
    top = float(rows[0]["histogram_max"])
    figure = Figure(figsize=(9.2, 6.0), layout="constrained", facecolor="white")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[2.4, 1])
    edges = np.concatenate([epochs - 0.5, [epochs[-1] + 0.5]])
    mesh = above.pcolormesh(
        edges,
        np.linspace(0, top, counts.shape[0] + 1),
        np.where(counts > 0, counts, np.nan),
        norm=LogNorm(1, max(counts.max(), 2)),
        cmap="viridis_r",
        rasterized=True,
    )
    thresholds = [row["threshold"] for row in rows]
    if max(thresholds) > top / 100:  # a bound; a penalty's step length is no height on this axis
        above.plot(epochs, thresholds, color=_BOUND, linewidth=1.6, label="bound")
        above.legend(frameon=False, labelcolor=_INK, loc="upper right")
    above.set_ylim(0, top)
    above.set_ylabel("|γ| of prunable channels")
    bar = figure.colorbar(mesh, ax=above, pad=0.01, aspect=24)
    bar.set_label("scales", color=_INK)
    bar.outline.set_visible(False)
    share = [100 * row["zero_share"] for row in rows]
    below.plot(epochs, share, color=_ZERO, linewidth=2, marker="o", markersize=3.5)
    below.annotate(
        f"{share[-1]:.1f} %", (epochs[-1], share[-1]), xytext=(-4, 7), ha="right",
        textcoords="offset points", color=_ZERO, fontsize=10,
    )  # fmt: skip
    below.set_ylim(0, 100)
    below.set_xlim(edges[0], edges[-1])
    below.set_ylabel("units at zero, %")
    below.set_xlabel("epoch")
    for axes in (above, below):
        _plain(axes)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=130, metadata={"Software": None})
    return file.getvalue()


def _plain(axes: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(_LINE)
    axes.tick_params(colors=_INK, labelsize=9, length=0, pad=5)
    axes.grid(axis="y", color=_LINE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    for axis in (axes.xaxis, axes.yaxis):
        axis.label.set_color(_INK)
