"""Take each residual block out of stock networks, one by one, and see whether it is missed.

For every block: the shorter network against the full one in which the block's branch is silent, in
float64; and that the tracer takes the shorter network. Weights are random, with random BatchNorms.

    python benchmarks/block_check.py
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
from pathlib import Path

import torch
from torch import nn

from yoloprune.channels.trace import trace
from yoloprune.darknet.cfg import read_cfg
from yoloprune.darknet.network import DarknetModel
from yoloprune.measure.size import count
from yoloprune.prune.blocks import find_blocks, remove_blocks, shortened_test

ROOT = Path(__file__).parent.parent
SIDE = 64
MODELS = (
    "yolov5n", "yolov8n", "yolov10n", "yolo11n", "yolo12n", "yolo26n", "yolov3.cfg", "yolov4.cfg",
)  # fmt: skip


def network(name: str) -> nn.Module:
    """A network with random weights and BatchNorms."""
    sys.path.insert(0, str(ROOT / "tests"))
    from block_nets import randomize, stock

    if not name.endswith(".cfg"):
        return stock(name)
    torch.manual_seed(0)
    return randomize(DarknetModel(read_cfg(ROOT / "cfg" / name)))


def row(name: str) -> dict[str, object]:
    """What became of the blocks of one network."""
    start = time.perf_counter()
    model = network(name)
    found, full = find_blocks(model, SIDE), count(model, SIDE)
    worst = 0.0
    for block in found.removable:
        short = remove_blocks(model, [block]).model
        worst = max(worst, shortened_test(model, [block], short).max_rel_diff)
        trace(short)
    every = remove_blocks(model, found.removable).model
    shares = [block.macs / full.macs for block in found.removable]
    return {
        "model": name,
        "removable": len(found.removable),
        "without_identity": len(found.bound),
        "max_rel_diff": f"{worst:.1e}",
        "macs_least": f"{min(shares):.4f}",
        "macs_most": f"{max(shares):.4f}",
        "macs_all": f"{1 - count(every, SIDE).macs / full.macs:.4f}",
        "params_all": f"{1 - count(every, SIDE).params / full.params:.4f}",
        "seconds": f"{time.perf_counter() - start:.0f}",
    }


def main() -> None:
    """Write a row a network."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/block-check.csv")
    given = parser.parse_args()
    rows = []
    for name in given.models:
        rows.append(row(name))
        print(rows[-1], flush=True)
    with given.out.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
