"""One picture of a mask: how weights and scales are spread, before and after."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from yoloprune.files import write_bytes
from yoloprune.mask.sparsity import own_tensors
from yoloprune.mask.spec import Kind
from yoloprune.mask.targets import WEIGHT, layers_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from torch import nn

_INK, _LINE, _BEFORE, _AFTER = "#4a5663", "#d9dee4", "#b9c3cd", "#0072b2"
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
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=130, metadata={"Software": None})
    return file.getvalue()


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
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(_LINE)
    axes.tick_params(colors=_INK, labelsize=9, length=0, pad=5)
    axes.grid(axis="y", color=_LINE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.minorticks_off()


def _values(model: nn.Module, kind: Kind) -> NDArray[np.float32]:
    """All weights of a kind, float32 ``[n]``."""
    found = [
        dict(own_tensors(module))[WEIGHT].detach().float().cpu().numpy().ravel()
        for _, module in layers_of(model, kind)
    ]
    return np.concatenate(found) if found else np.zeros(0, dtype=np.float32)
