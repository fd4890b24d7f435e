"""Pictures of masks: how weights and scales are spread, and what rounds of masks cost."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from yoloprune.files import write_bytes
from yoloprune.mask.sparsity import own_tensors
from yoloprune.mask.spec import Kind
from yoloprune.mask.targets import WEIGHT, layers_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import nn

_INK, _LINE, _BEFORE, _AFTER, _LIMIT = "#4a5663", "#d9dee4", "#b9c3cd", "#0072b2", "#d55e00"
_BINS = 121
_SHOWN = 0.998
"""Share of the values that the axis reaches; what is beyond stands in the outer bars."""


def write_masks_picture(path: Path, before: nn.Module, after: nn.Module) -> Path:
    """Draw the histograms of two networks of one structure.

    Returns:
        The picture's path.
    """
    titles: dict[Kind, str] = {"conv": "weights of convolutions", "bn": "γ of BatchNorms"}
    parts = [(title, _values(before, kind), _values(after, kind)) for kind, title in titles.items()]
    write_bytes(path, masks_picture([part for part in parts if part[1].size]))
    return path


def masks_picture(
    parts: Sequence[tuple[str, NDArray[np.float32], NDArray[np.float32]]],
) -> bytes:
    """Histograms before and after, one panel a part.

    Args:
        parts: title, and float32 ``[n]`` before and after, of each.

    Returns:
        A PNG file's bytes.
    """
    from matplotlib.figure import Figure

    height = 2.9 * len(parts) + 0.3
    figure = Figure(figsize=(9.2, height), layout="constrained", facecolor="white")
    panels = figure.subplots(len(parts), 1, squeeze=False)[:, 0]
    for axes, (title, before, after) in zip(panels, parts, strict=True):
        _panel(axes, before, after)
        axes.set_title(title, loc="left", fontsize=10.5, color=_INK, weight="bold")
    panels[0].legend(frameon=False, labelcolor=_INK, loc="upper right", fontsize=9)
    return _png(figure)


def write_rounds_of_masks(
    path: Path,
    rows: Sequence[Mapping[str, Any]],
    key: str,
    accepted: str,
    limit: float | None = None,
) -> Path:
    """Draw what each round of masks cost, before and after it was fine-tuned.

    Args:
        path: of the picture.
        rows: the dense network first; with ``name``, ``sparsity`` and ``key``, and what it was
            before fine-tuning as ``untrained``.
        key: what a network is judged by, such as ``AP``.
        accepted: name of the row that is the result; it is drawn filled.
        limit: what ``key`` may not fall below, if it was limited.

    Returns:
        The picture's path.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.4, 4.4), layout="constrained", facecolor="white")
    axes = figure.subplots()
    x = [100 * row["sparsity"]["overall"] for row in rows]
    y = [row[key] for row in rows]
    axes.plot(x, y, color=_AFTER, linewidth=1.6, zorder=2, label="fine-tuned, zeros kept")
    cut = [
        (at, row["untrained"][key]) for at, row in zip(x, rows, strict=True) if "untrained" in row
    ]
    if cut:
        axes.plot(*zip(*cut, strict=True), "v", color=_BEFORE, markersize=7, label="just masked")
    for row, at, value in zip(rows, x, y, strict=True):
        chosen = row["name"] == accepted
        axes.plot(
            at, value, marker="o", markersize=9 if chosen else 7, markeredgecolor=_AFTER,
            markerfacecolor=_AFTER if chosen else "white", markeredgewidth=1.6, zorder=3,
        )  # fmt: skip
        axes.annotate(
            row["name"], (at, value), xytext=(6, 6), textcoords="offset points",
            fontsize=9, color=_INK, weight="bold" if chosen else "normal",
        )  # fmt: skip
    axes.set_ylim(0, 1.15 * max(y) or 1.0)
    axes.margins(x=0.09)
    if limit is not None and limit > 0:
        axes.axhline(limit, color=_LIMIT, linewidth=1.2, linestyle=(0, (4, 3)), label="limit")
    axes.set_xlabel("zeros in all parameters, %", color=_INK, fontsize=9.5)
    axes.set_ylabel(key.replace("_", " "), color=_INK, fontsize=9.5)
    axes.legend(frameon=False, labelcolor=_INK, fontsize=9, loc="lower left")
    _styled(axes)
    write_bytes(path, _png(figure))
    return path


def _panel(axes: Axes, before: NDArray[np.float32], after: NDArray[np.float32]) -> None:
    """What is left stands over what was; exact zeros are told in words, for they dwarf all else."""
    top = float(np.quantile(np.abs(before), _SHOWN)) or 1.0
    low = -top if before.min() < 0 else 0.0
    edges = np.linspace(low, top, _BINS + 1)
    for values, colour, name in ((before, _BEFORE, "before"), (after, _AFTER, "after")):
        counts, _ = np.histogram(values[values != 0].clip(low, top), edges)
        axes.stairs(counts, edges, fill=True, color=colour, label=name)
    zeros = [float((values == 0).mean()) for values in (before, after)]
    axes.text(
        0.01, 0.97, f"exactly zero: {zeros[0]:.1%} → {zeros[1]:.1%}", transform=axes.transAxes,
        va="top", fontsize=9.5, color=_INK,
    )  # fmt: skip
    axes.set_yscale("log")
    axes.set_ylim(0.8, axes.get_ylim()[1] * 3)
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylabel("values (log scale)", color=_INK, fontsize=9.5)
    _styled(axes)


def _styled(axes: Axes) -> None:
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(_LINE)
    axes.tick_params(colors=_INK, labelsize=9, length=0, pad=5)
    axes.grid(axis="y", color=_LINE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.minorticks_off()


def _png(figure: Figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=130, metadata={"Software": None})
    return file.getvalue()


def _values(model: nn.Module, kind: Kind) -> NDArray[np.float32]:
    """All weights of a kind, float32 ``[n]``."""
    found = [
        dict(own_tensors(module))[WEIGHT].detach().float().cpu().numpy().ravel()
        for _, module in layers_of(model, kind)
    ]
    return np.concatenate(found) if found else np.zeros(0, dtype=np.float32)
