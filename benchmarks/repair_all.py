"""Every configuration of both families, cut by measured error and repaired on random pictures.

All YAMLs of the installed Ultralytics at their smallest scale, and every Darknet cfg of the shared
data: random weights, BatchNorms with random scales and the statistics of random pictures, 30 % of
the channels gone. The pictures are sums of smooth random fields. Each configuration is a process
of its own; rows are written as they come, and a second run goes on with what is missing or failed.

``before`` and ``after`` are of the pictures held out, a mean over the layers that were off;
``worst_ratio`` is after / before of the layer that gained least; ``outputs_before`` and ``…_after``
are the error of what the network gives, on four more pictures that repair never saw.

    python benchmarks/repair_all.py
    python benchmarks/repair_all.py --only yolov4
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import resource
import subprocess
import sys
import time
import traceback
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))
from repair_tables import RESULTS, SHARED
from shared_data import smooth_pictures, write_table
from ultralytics_table import awake, build, every_yaml

from yoloprune.channels.graph import ChannelGraph
from yoloprune.channels.table import tensors_in
from yoloprune.channels.trace import trace
from yoloprune.darknet.cfg import read_cfg
from yoloprune.darknet.network import DarknetModel
from yoloprune.prune.budget import Budget
from yoloprune.prune.cut import cut_units, kept_units, self_test
from yoloprune.prune.planner import Planner
from yoloprune.prune.recon import removal_order
from yoloprune.prune.repair import RepairRecord, repair

PERCENT = 0.3
LEAST_SIDE = 128
"""Of the pictures; more where a network cannot be traced at that."""
PICTURES, FRESH = 12, 4
LEAST = 1e-10
"""Error under which a layer has nothing to repair."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What repair did to one configuration."""

    configuration: str
    side: int
    params: int
    params_left: float
    self_test: float
    layers: int
    off: int
    repaired: int
    before: float
    after: float
    worst_ratio: float
    outputs_before: float
    outputs_after: float
    finite: bool
    seconds: float
    peak_gib: float
    note: str = ""


def configurations() -> list[str]:
    """Of both families."""
    return [*every_yaml(), *(path.name for path in sorted((SHARED / "darknet-cfg").glob("*.cfg")))]


def network(configuration: str) -> nn.Module:
    """A configuration with random weights, alive on pictures like those that repair gets."""
    if configuration.endswith(".yaml"):
        model = build(configuration)[0]
    else:
        torch.manual_seed(0)
        model = DarknetModel(read_cfg(SHARED / "darknet-cfg" / configuration))
    channels = next(m.in_channels for m in model.modules() if isinstance(m, nn.Conv2d))
    return awake(model, pictures=smooth_pictures(PICTURES, channels, LEAST_SIDE, seed=1))


def output_error(model: nn.Module, other: nn.Module, graph: ChannelGraph, given: Tensor) -> float:
    """Mean square difference of outputs as a share of their variance, mean over tensors."""
    with torch.no_grad():
        pairs = list(zip(*(tensors_in(m.eval()(given)) for m in (model, other)), strict=True))
    errors = [
        float((a - b).square().mean() / a.var())
        for i, (a, b) in enumerate(pairs)
        if i not in graph.carried_outputs and a.is_floating_point() and a.numel() > 1
    ]
    return sum(errors) / len(errors)


def row_of(configuration: str) -> tuple[Row, RepairRecord, nn.Module]:
    """Cut and repair one configuration.

    Returns:
        Its row, the record of all layers, and the repaired model.
    """
    model = network(configuration)
    graph = trace(model)
    side = max(LEAST_SIDE, graph.input_shape[-1])
    pictures = smooth_pictures(PICTURES + FRESH, graph.input_shape[1], side)
    seen, fresh = pictures[:PICTURES], pictures[PICTURES:]
    start = time.perf_counter()
    remove = Planner(graph).choose(removal_order(model, graph, seen), Budget(percent=PERCENT))
    slim = cut_units(model, graph, remove)
    done = repair(model, slim, graph, kept_units(graph, remove), seen)
    seconds = time.perf_counter() - start
    off = [layer for layer in done.record.layers if layer.before > LEAST]
    before, after = (sum(getattr(la, k) for la in off) / len(off) for k in ("before", "after"))
    sizes = [sum(p.numel() for p in m.parameters()) for m in (model, done.model)]
    row = Row(
        configuration=configuration,
        side=side,
        params=sizes[0],
        params_left=round(sizes[1] / sizes[0], 4),
        self_test=self_test(model, graph, remove, slim, compensated=True).max_rel_diff,
        layers=len(done.record.layers),
        off=len(off),
        repaired=sum(layer.pull is not None for layer in done.record.layers),
        before=float(f"{before:.4g}"),
        after=float(f"{after:.4g}"),
        worst_ratio=round(max(layer.after / layer.before for layer in off), 4),
        outputs_before=float(f"{output_error(model, slim, graph, fresh):.4g}"),
        outputs_after=float(f"{output_error(model, done.model, graph, fresh):.4g}"),
        finite=all(bool(p.isfinite().all()) for p in done.model.state_dict().values()),
        seconds=round(seconds, 1),
        peak_gib=round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
    )
    return row, done.record, done.model


def alone(configuration: str) -> dict[str, Any]:
    """The row of one configuration, from a process of its own; a note where it fails."""
    command = [sys.executable, __file__, "--one", configuration]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    lines = done.stdout.splitlines()
    if done.returncode == 0 and lines:
        found: dict[str, Any] = json.loads(lines[-1])
        return found
    empty = dict.fromkeys((field.name for field in fields(Row)), "")
    failed = lines[-1] if lines else f"the process ended with {done.returncode}"
    return {**empty, "configuration": configuration, "note": failed}


def one(configuration: str) -> None:
    """Print one row as JSON, or what went wrong."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    try:
        print(json.dumps(asdict(row_of(configuration)[0])))
    except Exception as exc:
        traceback.print_exc()
        print(f"{type(exc).__name__}: {exc}".replace("\n", " ")[:300])
        raise SystemExit(1) from exc


def main() -> None:
    """Fill the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="part of a configuration's name")
    parser.add_argument("--out", type=Path, default=RESULTS / "repair-all-configurations.csv")
    parser.add_argument("--one", metavar="CONFIGURATION", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        one(args.one)
        return
    rows: dict[str, dict[str, Any]] = {}
    if args.out.is_file():
        with args.out.open(newline="", encoding="utf-8") as file:
            rows = {row["configuration"]: dict(row) for row in csv.DictReader(file)}
    for configuration in configurations():
        done = configuration in rows and not rows[configuration]["note"]
        if done or args.only not in configuration:
            continue
        rows[configuration] = alone(configuration)
        print(rows[configuration], flush=True)
        write_table(args.out, [rows[c] for c in configurations() if c in rows])


if __name__ == "__main__":
    main()
