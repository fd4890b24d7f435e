"""One picture of a recipe's rounds: accuracy over cost."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from yoloprune.files import write_bytes

_INK, _LINE, _MARK, _LIMIT = "#4a5663", "#d9dee4", "#0072b2", "#d55e00"


def write_rounds_picture(
    folder: Path, rows: Sequence[Mapping[str, Any]], accepted: str, max_ap_drop: float | None
) -> Path:
    """Draw ``rounds.png``.

    Returns:
        The picture's path.
    """
    path = folder / "rounds.png"
    write_bytes(path, rounds_picture(rows, accepted, max_ap_drop))
    return path


def rounds_picture(
    rows: Sequence[Mapping[str, Any]], accepted: str, max_ap_drop: float | None
) -> bytes:
    """AP50:95 of every round over its MACs, the dense network first.

    Args:
        rows: with ``name``, ``AP`` (a fraction), ``macs``, ``params``, ``latency_ms``.
        accepted: name of the row that is the result; it is drawn filled.
        max_ap_drop: the recipe's limit, drawn where there is one.

    Returns:
        A PNG file's bytes.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.4, 4.6), layout="constrained", facecolor="white")
    axes = figure.subplots()
    macs = [row["macs"] / 1e9 for row in rows]
    aps = [100 * row["AP"] for row in rows]
    axes.plot(macs, aps, color=_MARK, linewidth=1.6, zorder=2)
    for row, x, y in zip(rows, macs, aps, strict=True):
        chosen = row["name"] == accepted
        axes.plot(
            x, y, marker="o", markersize=9 if chosen else 7, markeredgecolor=_MARK,
            markerfacecolor=_MARK if chosen else "white", markeredgewidth=1.6, zorder=3,
        )  # fmt: skip
        axes.annotate(
            f"{row['name']}\n{row['params'] / 1e6:.2f} M, {row['latency_ms']:.1f} ms", (x, y),
            xytext=(0, -12), textcoords="offset points", ha="center", va="top",
            fontsize=8.5, color=_INK, weight="bold" if chosen else "normal",
        )  # fmt: skip
    limit = aps[0] - 100 * (max_ap_drop or 0)
    if max_ap_drop is not None and limit > 0:
        axes.axhline(limit, color=_LIMIT, linewidth=1.2, linestyle=(0, (4, 3)))
        axes.annotate(
            f"limit: {max_ap_drop * 100:g} below dense", (0.01, limit), xytext=(2, 4),
            xycoords=("axes fraction", "data"), textcoords="offset points", fontsize=8.5,
            color=_LIMIT,
        )  # fmt: skip
    low, high = axes.get_ylim()
    room = max(high - low, 2.0)
    axes.set_ylim(max(low - 0.35 * room, -0.2 * room), high + 0.1 * room)
    axes.set_xlim(0, 1.1 * max(macs))
    axes.set_xlabel("GMACs")
    axes.set_ylabel("AP50:95, %")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(_LINE)
    axes.tick_params(colors=_INK, labelsize=9, length=0, pad=5)
    axes.grid(axis="y", color=_LINE, linewidth=0.8)
    axes.set_axisbelow(True)
    for axis in (axes.xaxis, axes.yaxis):
        axis.label.set_color(_INK)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=130, metadata={"Software": None})
    return file.getvalue()
