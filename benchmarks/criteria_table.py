"""Every criterion in every scope at half of the multiply-adds, before and after repair.

    python benchmarks/criteria_table.py            # a finished row is not made again
    python benchmarks/criteria_table.py picture

The networks of the repair table at 320 px; 64 train pictures (128 of COCO), which scores of the
loss see with what the dense network itself finds in them for labels, as ``slim --calib`` does. AP
is pycocotools' on the validation split, which nothing was chosen by. ``plain`` is the cut with
constants folded (what ``slim --no-repair`` writes), ``repaired`` the same cut repaired. ``random``
has three seeds. ``knapsack`` is ``recon`` with shares by measured sensitivity, for comparison.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from repair_tables import (
    RESULTS,
    ROOT,
    SIZE,
    Table,
    ap_of,
    at_macs,
    cut_and_repaired,
    device_name,
    here,
    opened,
    shares_of,
    work,
)

from yoloprune.measure.size import count
from yoloprune.prune.budget import Budget
from yoloprune.prune.choose import choose_scores, within, within_groups
from yoloprune.prune.cost import Costs
from yoloprune.prune.isomorphic import isomorphic_classes
from yoloprune.prune.own import find_criterion
from yoloprune.prune.planner import Planner

SHARE = 0.5
NETWORKS = ("yolov5nu-bccd", "yolov8n-bccd", "yolov5n-coco", "yolo-fastest-1.1-xl")
CRITERIA = (
    "gamma", "l1", "l2", "lamp", "fpgm", "activation", "taylor", "fisher", "hessian", "recon",
    "random",
)  # fmt: skip
SCOPES = ("local", "global", "isomorphic")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One cut."""

    network: str
    criterion: str
    scope: str
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Row(Cell):
    """What is left of AP."""

    macs: float
    params: float
    plain: float
    repaired: float
    plain50: float
    repaired50: float
    seconds: float
    device: str


def cells() -> Iterator[Cell]:
    """All of them; places within groups (``recon``) have no other scope."""
    for network in NETWORKS:
        yield Cell(network=network, criterion="knapsack", scope="local")
    for scope in SCOPES:
        for network in NETWORKS:
            for criterion in CRITERIA:
                if scope != "local" and find_criterion(criterion).ranks:
                    continue
                for seed in range(3 if criterion == "random" else 1):
                    yield Cell(network=network, criterion=criterion, scope=scope, seed=seed)


def removed(net: Any, cell: Cell, device: str, folder: Path) -> Any:
    """The units that go."""
    if cell.criterion == "knapsack":
        curves = folder / f"curves-{cell.network}.json"
        return at_macs(net, "knapsack", SHARE, device, curves)[1]
    budget = Budget(macs=SHARE)
    planner = Planner(net.graph, Costs(net.model, net.graph, count(net.model, SIZE)))
    chosen = choose_scores(
        net.model, net.graph, budget, planner=planner, criterion=cell.criterion,
        scope=cell.scope, pictures=net.pictures, device=device,  # type: ignore[arg-type]
    )  # fmt: skip
    scores = chosen.scores
    if cell.criterion == "random" and (cell.seed or cell.scope == "global"):
        scores = shuffled(scores, net, cell)  # its own seed is fixed, for plans made again
    return planner.choose(scores, chosen.budget)


def shuffled(scores: Any, net: Any, cell: Cell) -> Any:
    """Other random places, over all units, in each group, or in each class of groups."""
    drawn = np.random.default_rng(cell.seed).permutation(scores.values.size).astype(float)
    drawn[np.isnan(scores.values)] = np.nan
    fresh = replace(scores, values=drawn)
    if cell.scope == "global":
        return fresh
    if cell.scope == "local":
        return within_groups(fresh, net.graph)
    return within(fresh, isomorphic_classes(net.model, net.graph))


def rows(cell: Cell, device: str, folder: Path) -> list[Row]:
    """Cut, measured, repaired, measured."""
    start = time.perf_counter()
    net = opened(cell.network)
    remove = removed(net, cell, device, folder)
    plain, mended = cut_and_repaired(net, remove, device)
    found = [ap_of(model, cell.network, device) for model in (plain, mended)]
    return [
        Row(
            **asdict(cell),
            **shares_of(mended, cell.network),
            plain=round(found[0].AP, 4),
            repaired=round(found[1].AP, 4),
            plain50=round(found[0].AP50, 4),
            repaired50=round(found[1].AP50, 4),
            seconds=round(time.perf_counter() - start, 1),
            device=device_name(device),
        )
    ]


COLOURS = {"local": "#2a9d8f", "global": "#d1495b", "isomorphic": "#e9a03b"}


def write_picture(out: Path) -> None:
    """AP after repair, a panel a network: bars by criterion and scope, hollow before repair."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    found = Table(out / f"criteria-half-of-macs-{SIZE}px.csv", Row).rows
    networks = [n for n in NETWORKS if any(row["network"] == n for row in found)]
    names = ["knapsack", *CRITERIA]
    figure = Figure(figsize=(10.5, 2.9 * len(networks)), dpi=110, layout="constrained")
    panels = figure.subplots(len(networks), 1, squeeze=False, sharex=True)[:, 0]
    for axes, network in zip(panels, networks, strict=True):
        for i, criterion in enumerate(names):
            for j, scope in enumerate(SCOPES):
                mine = [
                    row
                    for row in found
                    if (row["network"], row["criterion"], row["scope"])
                    == (network, criterion, scope)
                ]
                if not mine:
                    continue
                after = [float(row["repaired"]) for row in mine]
                before = [float(row["plain"]) for row in mine]
                x = i + 0.27 * (j - 1)
                mean = sum(after) / len(after)
                spread = [[mean - min(after)], [max(after) - mean]] if len(after) > 1 else None
                axes.bar(x, mean, 0.24, color=COLOURS[scope], yerr=spread, capsize=2)
                axes.plot([x - 0.12, x + 0.12], [sum(before) / len(before)] * 2, color="#1c2530")
        axes.set_title(network, loc="left")
        axes.set_ylabel("AP50:95")
        axes.grid(axis="y", alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    panels[-1].set_xticks(range(len(names)), names, rotation=25)
    handles = [Patch(color=colour, label=scope) for scope, colour in COLOURS.items()]
    figure.legend(
        handles=handles, title="scope (bars: repaired; lines: cut only)", frameon=False,
        loc="outside upper right", ncols=3,
    )  # fmt: skip
    figure.savefig(out / f"criteria-half-of-macs-{SIZE}px.png")


def main() -> None:
    """Fill the table, or draw it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="?", choices=["table", "picture"], default="table")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--minutes", type=float, default=1e6)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--work", type=Path, default=ROOT / "runs/repair-tables")
    args = parser.parse_args()
    if args.what == "picture":
        write_picture(args.out)
        return
    table = Table(args.out / f"criteria-half-of-macs-{SIZE}px.csv", Row)
    todo: list[Any] = [
        (rows, (cell, args.device, args.work.resolve()))
        for cell in cells()
        if here(cell.network) and not table.has(**asdict(cell))
    ]
    work(table, todo, args)


if __name__ == "__main__":
    main()
