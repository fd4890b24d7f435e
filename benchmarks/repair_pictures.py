"""Pictures and the Markdown of what ``repair_tables.py`` measured.

python benchmarks/repair_pictures.py   # draws both tables, prints that of the trainings
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from repair_tables import NETS, RESULTS, Row, Table
from shared_data import spread

LINES = (
    ("knapsack", "repaired", "shares by a knapsack of sensitivity, repaired", "#1d3557", "-"),
    ("searched", "repaired", "searched shares, repaired", "#d1495b", "-"),
    ("searched-from-even", "repaired", "100 random changes of even ones", "#0b6e4f", "-"),
    ("measured", "repaired", "shares by measured sensitivity, repaired", "#3d5a80", "-"),
    ("recon", "repaired", "even shares by recon, repaired", "#2a9d8f", "-"),
    ("even-random", "repaired", "even shares at random, repaired", "#8ab17d", "--"),
    ("recon", "recalibrated", "recon, BatchNorms recalibrated", "#e9a03b", "-"),
    ("gamma", "repaired", "|γ|, repaired", "#b56576", "-"),
    ("gamma", "plain", "|γ|, cut only", "#6d6875", "--"),
)
"""Criterion, way, name, colour and dash of each line."""


@cache
def table(file: Path) -> list[dict[str, str]]:
    """Rows of a file, which is read once."""
    return Table(file, Row).rows


def write_cuts(out: Path) -> None:
    """AP over MACs right after the cut, a panel a network."""
    from matplotlib.figure import Figure

    rows = table(out / "repair-cuts-320px.csv")
    shares = {net: {row["share"] for row in rows if row["network"] == net} for net in NETS}
    networks = [net for net, seen in shares.items() if len(seen) >= 4]  # a line, not two points
    figure = Figure(figsize=(5.2 * len(networks) + 2.6, 4.4), dpi=110, layout="constrained")
    panels = figure.subplots(1, len(networks), squeeze=False)[0]
    for axes, network in zip(panels, networks, strict=True):
        for criterion, way, name, colour, dash in LINES:
            found = sorted(
                (float(row["macs"]), float(row["AP"]))
                for row in rows
                if (row["network"], row["criterion"], row["way"]) == (network, criterion, way)
            )
            if found:
                x, y = zip(*found, strict=True)
                axes.plot(x, y, dash, marker="o", ms=4, lw=1.8, color=colour, label=name)
        axes.set_title(network, loc="left")
        axes.set_xlabel("share of the multiply-adds")
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("AP50:95 on val, nothing trained")
    figure.legend(*panels[0].get_legend_handles_labels(), frameon=False, loc="outside right center")
    figure.savefig(out / "repair-cuts-320px.png")


WAYS = {  # colours of Okabe and Ito 2008
    "control": ("full network, trained on", "#1c2530"),
    "repaired": ("cut and repaired", "#0072b2"),
    "plain": ("cut only", "#56b4e9"),
    "auto-taylor": ("auto by Taylor", "#d55e00"),
    "random": ("that shape from random weights, the full network's epochs added", "#e69f00"),
}
POINTS = (
    ("yolov5nu-bccd", "0.5"), ("yolov5nu-bccd", "0.25"), ("yolov5nu-bccd", "0.11"),
    ("yolov8n-bccd", "0.25"), ("yolov4-tiny-bccd", "0.25"),
)  # fmt: skip
EPOCHS = (1, 5, 20, 40)


def trained(out: Path, network: str, share: str, way: str) -> dict[int, list[float]]:
    """Epochs → AP of each seed. Without training: of the cut alone."""
    found: dict[int, dict[str, float]] = {}
    for row in table(out / "repair-tunes-320px.csv"):
        mine = row["criterion"] == "knapsack" or way in ("control", "auto-taylor")
        at = "1.0" if way == "control" else share
        if (row["network"], row["share"], row["way"]) == (network, at, way) and mine:
            found.setdefault(int(row["epochs"]), {})[row["seed"]] = float(row["AP"])
    for row in table(out / "repair-cuts-320px.csv"):
        cut = "compensated" if way == "plain" else way
        if (row["network"], row["share"], row["criterion"], row["way"]) == (
            network, share, "knapsack", cut,
        ):  # fmt: skip
            found.setdefault(0, {})["0"] = float(row["AP"])
    return {epochs: list(by_seed.values()) for epochs, by_seed in sorted(found.items())}


def write_tunes(out: Path) -> None:
    """AP over the epochs of a training, each with a schedule of its own; bars span the seeds."""
    from matplotlib.figure import Figure

    points = [p for p in POINTS if trained(out, *p, "repaired").keys() - {0}]
    rows = -(-len(points) // 2)
    figure = Figure(figsize=(11.4, 3.9 * rows + 0.8), dpi=110, layout="constrained")
    grid = figure.subplots(rows, 2, squeeze=False)
    for axes in grid.flat[len(points) :]:
        axes.set_axis_off()
    for axes, (network, share) in zip(grid.flat, points, strict=False):
        for way, (name, colour) in WAYS.items():
            found = trained(out, network, share, way)
            if not found:
                continue
            x = list(found)
            mean = [sum(v) / len(v) for v in found.values()]
            low = [m - min(v) for m, v in zip(mean, found.values(), strict=True)]
            high = [max(v) - m for m, v in zip(mean, found.values(), strict=True)]
            axes.errorbar(
                x, mean, yerr=(low, high), color=colour, marker="o", ms=4.5, capsize=3, lw=1.8,
                label=name,
            )  # fmt: skip
        axes.set_title(f"{network}, {float(share):.0%} of the multiply-adds", loc="left")
        axes.set_xlabel("epochs of the training")
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in grid[:, 0]:
        axes.set_ylabel("AP50:95 on val")
    handles, names = grid.flat[0].get_legend_handles_labels()
    figure.legend(handles, names, frameon=False, loc="outside lower center", ncols=3)
    figure.savefig(out / "repair-tunes-320px.png")


def lines(out: Path) -> Iterator[str]:
    """The trainings as Markdown: mean (least to most) where there are several seeds."""
    yield f"| network | MACs | way | 0 | {' | '.join(map(str, EPOCHS))} |"
    yield "|---|---|---|---|" + "---|" * len(EPOCHS)
    for network, share in POINTS:
        for way, (name, _) in WAYS.items():
            found = trained(out, network, share, way)
            if found.keys() - {0}:
                cells = [spread(found.get(epochs, [])) for epochs in (0, *EPOCHS)]
                at = "1" if way == "control" else f"{float(share):g}"
                yield f"| {network} | {at} | {name} | {' | '.join(cells)} |"


def main() -> None:
    """Draw and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    write_cuts(args.out)
    write_tunes(args.out)
    print(*lines(args.out), sep="\n")


if __name__ == "__main__":
    main()
