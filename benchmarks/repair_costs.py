"""How many pictures repair wants, and how much time and memory it takes.

    python benchmarks/repair_costs.py pictures   # AP over 4, 16, 64 and all 205 train pictures
    python benchmarks/repair_costs.py costs      # seconds and memory, small networks to large ones

``pictures`` are networks trained on BCCD, cut by ``recon`` to a share of the MACs and repaired,
both on the same pictures, drawn anew for each seed; AP is pycocotools' on the validation split.

``costs`` are of random weights on random pictures, 30 % of the channels gone, each row a process of
its own: wall and CPU seconds of choosing (``recon``) and of repair; the largest resident size in
either, and before them, with the network loaded. Strengths end up high on random weights, which
makes their search longer than on trained ones.

A finished row is not run again.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))
from repair_tables import (
    RESULTS,
    SHARED,
    SIZE,
    Table,
    ap_of,
    at_macs,
    cut_and_repaired,
    opened,
    shares_of,
    work,
)
from shared_data import smooth_pictures
from ultralytics_table import awake

from yoloprune.channels.trace import trace
from yoloprune.darknet.cfg import read_cfg
from yoloprune.darknet.network import DarknetModel
from yoloprune.prune.budget import Budget
from yoloprune.prune.cut import cut_units, kept_units
from yoloprune.prune.planner import Planner
from yoloprune.prune.recon import removal_order
from yoloprune.prune.repair import repair

ALL = 205
PERCENT = 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A row of ``pictures`` to be."""

    network: str
    share: float
    pictures: int
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureRow(Picture):
    """What came of it."""

    percent: float
    macs: float
    AP: float
    AP50: float
    choose_s: float
    repair_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """A row of ``costs`` to be."""

    network: str
    side: int
    pictures: int
    threads: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CostRow(Cost):
    """What came of it; memory in GiB."""

    params: int
    choose_s: float
    choose_cpu_s: float
    choose_gib: float
    repair_s: float
    repair_cpu_s: float
    repair_gib: float
    loaded_gib: float


def pictures() -> Iterator[Picture]:
    """What decides first."""
    for seed in range(3):
        for network in ("yolov5nu-bccd", "yolov8n-bccd"):
            for share in (0.5, 0.25):
                for many in (4, 16, 64, ALL):
                    if not (seed and many == ALL):
                        yield Picture(network=network, share=share, pictures=many, seed=seed)


def costs(threads: int) -> Iterator[Cost]:
    """Small ones first."""
    for network, side, many in (
        ("yolov8n", 320, 4), ("yolov8n", 320, 16), ("yolov8n", 320, 64), ("yolov8n", 640, 64),
        ("yolov4-tiny", 416, 64), ("yolov4", 416, 64), ("yolov4", 608, 64),
        ("yolov8x", 640, 16), ("yolov8x", 640, 64),
    ):  # fmt: skip
        yield Cost(network=network, side=side, pictures=many, threads=threads)


def picture_rows(cell: Picture, device: str) -> list[PictureRow]:
    """Cut and repair a trained network on so many pictures."""
    net = opened(cell.network, cell.pictures, cell.seed)
    start = time.perf_counter()
    percent, remove = at_macs(net, "recon", cell.share, device)
    middle = time.perf_counter()
    done = cut_and_repaired(net, remove, device)[1]
    end = time.perf_counter()
    found = ap_of(done, cell.network, device)
    return [
        PictureRow(
            **asdict(cell),
            percent=round(percent, 4),
            macs=shares_of(done, cell.network)["macs"],
            AP=round(found.AP, 4),
            AP50=round(found.AP50, 4),
            choose_s=round(middle - start, 1),
            repair_s=round(end - middle, 1),
        )
    ]


def random_network(name: str) -> nn.Module:
    """A Darknet cfg of the shared data, else a model of Ultralytics."""
    seen = smooth_pictures(8, 3, 128, seed=1)
    torch.manual_seed(0)
    cfg = SHARED / "darknet-cfg" / f"{name}.cfg"
    if cfg.is_file():
        return awake(DarknetModel(read_cfg(cfg)), pictures=seen)
    from ultralytics.nn.tasks import DetectionModel

    return awake(DetectionModel(f"{name}.yaml", verbose=False), pictures=seen)


def taken(stage: Callable[[], Any]) -> tuple[Any, float, float, float]:
    """What a stage gives, its wall and CPU seconds, and the most memory in it."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    wall, cpu = time.perf_counter(), time.process_time()
    made = stage()
    return made, time.perf_counter() - wall, time.process_time() - cpu, _gib("VmHWM")


def _gib(what: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(what)).split()[1]) / 2**20


def cost_row(cell: Cost) -> CostRow:
    """Choose and repair, and take the time."""
    torch.set_num_threads(cell.threads)
    model = random_network(cell.network)
    graph = trace(model)
    given = (255 * smooth_pictures(cell.pictures, 3, cell.side)).round().to(torch.uint8)
    loaded = _gib("VmRSS")
    scores, *choosing = taken(lambda: removal_order(model, graph, given))
    remove = Planner(graph).choose(scores, Budget(percent=PERCENT))
    slim, kept = cut_units(model, graph, remove), kept_units(graph, remove)
    _, *repairing = taken(lambda: repair(model, slim, graph, kept, given))
    names = [f"{stage}_{what}" for stage in ("choose", "repair") for what in ("s", "cpu_s", "gib")]
    found = dict(zip(names, (round(v, 2) for v in (*choosing, *repairing)), strict=True))
    params = sum(p.numel() for p in model.parameters())
    return CostRow(**asdict(cell), params=params, loaded_gib=round(loaded, 2), **found)


def alone(cell: Cost) -> CostRow:
    """The row from a process of its own."""
    command = [sys.executable, __file__, "costs", "--one", json.dumps(asdict(cell))]
    threads = {"OMP_NUM_THREADS": str(cell.threads)}
    done = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, check=True, env={**os.environ, **threads}
    )
    return CostRow(**json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """Fill a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["pictures", "costs"])
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2, help="of costs")
    parser.add_argument("--device", default="cpu", help="of pictures")
    parser.add_argument("--minutes", type=float, default=1e6)
    parser.add_argument("--only", default="", help="part of a network's name")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(asdict(cost_row(Cost(**json.loads(args.one))))))
        return
    if args.what == "pictures":
        table = Table(args.out / f"repair-pictures-{SIZE}px.csv", PictureRow)
        todo: list[Any] = [
            (picture_rows, (cell, args.device))
            for cell in pictures()
            if args.only in cell.network and not table.has(**asdict(cell))
        ]
        work(table, todo, args)
        return
    table = Table(args.out / "repair-costs-cpu.csv", CostRow)
    for cell in costs(args.threads):
        if args.only in cell.network and not table.has(**asdict(cell)):
            row = alone(cell)
            table.add([row])
            print(row, flush=True)


if __name__ == "__main__":
    main()
