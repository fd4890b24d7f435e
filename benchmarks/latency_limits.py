"""Latency tables and limits to latency: what they foretell, what is measured, what it costs in AP.

    python benchmarks/latency_limits.py tables  # error of tables on 20 plans that they never saw
    python benchmarks/latency_limits.py limits  # networks slimmed to a share of their latency, and
                                                # by a limit to MACs that takes as long
    python benchmarks/latency_limits.py train   # both, trained for 20 epochs
    python benchmarks/latency_limits.py why     # where the time of the whole and of slim ones goes

Widths are multiples of 16, one thread, 320 px, on a machine that does nothing else (``spread`` says
how far quartiles were apart). A table foretells what share of its full network's time a plan takes:
``unseen_*`` are how far it is off on plans that it never saw, timed in turn with the full network,
and ``drift`` how much slower the machine ran by then than when the table was made.

``limits`` slims by measured sensitivity on 64 train pictures without labels, repairs, and trains
nothing; then ``time_files.py``, which is not part of the product, times the file beside the full
network's: in torch as stock Ultralytics opens both (Darknet networks as ``torch.export`` writes
them), in the other runtimes the ONNX files that ``yoloprune export`` writes. AP is pycocotools' on
the validation split, which nothing was chosen by. A finished row is not run again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from repair_tables import (
    NETS,
    RESULTS,
    ROOT,
    SETTINGS,
    SHARED,
    SIZE,
    Net,
    Table,
    ap_of,
    cut_and_repaired,
    data_of,
    device_name,
    opened,
    sensed,
)
from torch import nn

from yoloprune.channels.trace import trace
from yoloprune.measure.fuse import fuse
from yoloprune.measure.runtimes import PROFILED as RUNTIMES
from yoloprune.measure.runtimes import RuntimeOptions
from yoloprune.measure.sessions.base import Profiled
from yoloprune.measure.sessions.table import opened as sessions_of
from yoloprune.measure.sessions.turns import time_in_turn
from yoloprune.measure.size import count
from yoloprune.models.door import load, save
from yoloprune.models.export import ExportOptions, export_file
from yoloprune.prune.budget import Budget
from yoloprune.prune.choose import choose_scores
from yoloprune.prune.clock import Clock, LatencyTable
from yoloprune.prune.cost import Costs
from yoloprune.prune.cut import cut_units, kept_units
from yoloprune.prune.fingerprint import fingerprint
from yoloprune.prune.knapsack import knapsack
from yoloprune.prune.planner import Planner
from yoloprune.prune.profile import ProfileOptions, ladder, machine_of, profile
from yoloprune.prune.score import Scores
from yoloprune.prune.sensing import sense
from yoloprune.prune.sensitivity import by_curves
from yoloprune.prune.timing import meet
from yoloprune.train.options import TrainOptions
from yoloprune.train.run import train

LIMITED = ("yolov5nu-bccd", "yolov8n-bccd", "yolov4-tiny-bccd")
PROFILED = (*LIMITED, "yolov5n-coco")
SHARES = (0.5, 0.25)
WAYS = ("latency", "macs")
WIDTHS = 16
"""What kept counts are multiples of: the channels that AVX-512 computes at once."""
UNSEEN, ROUNDS = 20, 8
EPOCHS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """How right a table is."""

    network: str
    runtime: str
    seconds: float
    full_ms: float
    crossed_median: float
    crossed_worst: float
    unseen_median: float
    unseen_worst: float
    drift: float
    spread: float
    machine: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Met:
    """A network slimmed to a limit."""

    network: str
    runtime: str
    way: str
    share: float
    told: float
    checked: float
    full_ms: float
    ms: float
    macs: float
    params: float
    AP: float
    AP50: float
    tries: int
    spread: float
    machine: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """What one of them is worth after training."""

    network: str
    runtime: str
    way: str
    share: float
    epochs: int
    AP: float
    AP50: float
    device: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """What a place in a network takes, whole and slimmed to a share of its latency."""

    network: str
    runtime: str
    share: float
    place: str
    full_ms: float
    slim_ms: float


def how(runtime: Any) -> RuntimeOptions:
    """One thread, one picture."""
    return RuntimeOptions(runtime=runtime, imgsz=(SIZE, SIZE))


def told(network: str, runtime: str, work: Path) -> Told:
    """Make a table, and hold it against plans that it never saw."""
    model = load(str(SHARED / NETS[network][0]))[0]
    graph = trace(model)
    start = time.perf_counter()
    options = ProfileOptions(runtime=how(runtime), model=network, round_to=WIDTHS)
    table = profile(model, graph, options)
    seconds = time.perf_counter() - start
    table.write(work / f"{network}-{runtime}.json")
    unseen = ladder(graph, replace(options, networks=UNSEEN, seed=1))
    plans = [np.ones(graph.n_units, dtype=bool), *unseen]
    models = [cut_units(model, graph, np.flatnonzero(~kept)) for kept in plans]
    with sessions_of(models, how(runtime)) as sessions:
        times = time_in_turn(sessions, ROUNDS)
    clock = Clock(graph, table)
    foretold, took = np.array([clock.ms(kept) for kept in plans]), np.array(times.usual)
    gaps = np.abs(foretold / foretold[0] * took[0] / took - 1)[1:]
    return Told(
        network=network,
        runtime=f"{runtime} {table.version_of}",
        seconds=round(seconds, 1),
        full_ms=round(table.full, 2),
        crossed_median=round(float(np.median(table.errors)), 4),
        crossed_worst=round(table.errors[-1], 4),
        unseen_median=round(float(np.median(gaps)), 4),
        unseen_worst=round(float(gaps.max()), 4),
        drift=round(float(took[0]) / table.full - 1, 4),
        spread=round(float(np.median(times.spreads)), 4),
        machine=table.machine,
    )


def curves_of(net: Net, network: str, planner: Planner, work: Path) -> Scores:
    """Recon within parts, and what each part loses."""
    chosen = choose_scores(
        net.model, net.graph, Budget(macs=0.5), planner=planner, criterion="recon", scope="local",
        pictures=net.pictures,
    )  # fmt: skip
    curves = work.parent / f"repair-tables/curves-{network}.json"
    return by_curves(chosen.scores, net.graph, sense(net.model, sensed(net, curves)))


def handed_on(runtime: str, file: Path, folder: Path) -> Path:
    """A network as a user would give it to a runtime."""
    if runtime == "torch":
        return file if file.suffix == ".pt" else in_torch_alone(file, folder)
    how = ExportOptions(out=folder, imgsz=SIZE, rewritten=runtime == "onnxruntime")
    return export_file(load(str(file))[0], folder / file.name, how)


def in_torch_alone(file: Path, folder: Path) -> Path:
    """A Darknet network as torch opens it without yoloprune, BatchNorms fused."""
    example = torch.rand(1, 3, SIZE, SIZE)
    model = fuse(load(str(file))[0].float().eval(), example)
    target = folder / f"{file.stem}.pt2"
    with torch.no_grad():
        torch.export.save(torch.export.export(model, (example,)), target)
    return target


def timed_apart(runtime: str, full: Path, file: Path) -> dict[str, Any]:
    """Times of two networks by a script that knows nothing of yoloprune."""
    script = ROOT / "benchmarks/time_files.py"
    with TemporaryDirectory() as folder:
        places = [Path(folder, part) for part in ("full", "slim")]
        for place in places:
            place.mkdir()
        files = [handed_on(runtime, f, p) for f, p in zip((full, file), places, strict=True)]
        done = subprocess.run(
            [sys.executable, str(script), runtime, *map(str, files), "--imgsz", str(SIZE)],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
    return dict(json.loads(done.stdout.splitlines()[-1]))


def checked(network: str, runtime: str, model: nn.Module, folder: Path) -> dict[str, Any]:
    """Times of the full network and of a slim one, as its file is."""
    folder.mkdir(parents=True, exist_ok=True)
    return timed_apart(runtime, SHARED / NETS[network][0], save(model, folder / "slim")[0])


def met(network: str, runtime: str, share: float, work: Path) -> Iterator[Met]:
    """Slim to a limit of latency, and to the MACs whose latency is foretold to be the same."""
    net = opened(network)
    clock = Clock(net.graph, LatencyTable.read(work / f"{network}-{runtime}.json"))
    size = count(net.model, SIZE)
    costs = Costs(net.model, net.graph, size, clock)
    planner = Planner(net.graph, costs)
    scores = curves_of(net, network, planner, work)

    def at(budget: Budget) -> Scores:
        return knapsack(planner, scores, budget)

    budget = Budget(latency=share, round_to=WIDTHS)
    by, record = meet(net.model, planner, at, budget)
    last = record.tries[-1]
    for way in WAYS:
        if way == "macs":
            by = same_time(planner, at, clock, by, budget.round_to)
        remove = planner.choose(at(by), by)
        kept, model = kept_units(net.graph, remove), cut_and_repaired(net, remove)[1]
        found = checked(network, runtime, model, work / f"{network}-{runtime}-{way}-{share}")
        ap = ap_of(model, network, "cpu")
        yield Met(
            network=network, runtime=runtime, way=way, share=share,
            told=round(last.ms / last.full, 4), checked=round(found["ratio"], 4),
            full_ms=round(found["ms"][0], 2), ms=round(found["ms"][1], 2),
            macs=round(costs.macs(kept) / costs.full.macs, 4),
            params=round(costs.params(kept) / costs.full.params, 4),
            AP=round(ap.AP, 4), AP50=round(ap.AP50, 4), tries=len(record.tries),
            spread=round(found["spread"], 4), machine=machine_of(how(runtime)),
        )  # fmt: skip


def key_of(row: dict[str, str]) -> dict[str, str]:
    """What tells a row from others."""
    return {name: row[name] for name in ("network", "runtime", "way", "share")}


def left(row: dict[str, str], work: Path) -> nn.Module:
    """The network that ``limits`` left."""
    name = "-".join(key_of(row).values())
    return load(str(work / name / f"slim{Path(NETS[row['network']][0]).suffix}"))[0].float()


def trained_already(
    row: dict[str, str], rows: list[dict[str, str]], done: Table, work: Path
) -> Trained | None:
    """What became of the same network where another limit left it, as at the floor of all."""
    same = ("network", "macs", "params", "AP", "AP50")
    for other in rows:
        key = key_of(other)
        if all(other[name] == row[name] for name in same) and done.has(**key):
            models = [left(one, work) for one in (row, other)]
            if fingerprint(models[0], None) == fingerprint(models[1], None):
                found = next(r for r in done.rows if all(r[k] == v for k, v in key.items()))
                return Trained(**{**found, **key_of(row)})  # type: ignore[arg-type]
    return None


def tuned(row: dict[str, str], device: str, work: Path) -> Trained:
    """Train a network that ``limits`` left."""
    network, runtime, way = row["network"], row["runtime"], row["way"]
    name = "-".join(key_of(row).values())
    options = TrainOptions(
        data=data_of(network), imgsz=SIZE, device=device, epochs=EPOCHS, resume=True,
        preset="keep", extra=SETTINGS,
    )  # fmt: skip
    model = train(left(row, work), work / f"{name}-trained", options).last
    found = ap_of(model, network, device)
    return Trained(
        network=network, runtime=runtime, way=way, share=float(row["share"]), epochs=EPOCHS,
        AP=round(found.AP, 4), AP50=round(found.AP50, 4), device=device_name(device),
    )  # fmt: skip


def places(network: str, runtime: str, share: float, work: Path) -> list[Place]:
    """By the runtime's own profile: what takes most of what the slim network still takes."""
    row = {"network": network, "runtime": runtime, "way": "latency", "share": str(share)}
    models = [load(str(SHARED / NETS[network][0]))[0], left(row, work)]
    with sessions_of(models, how(runtime)) as sessions:
        time_in_turn(sessions, 2 * ROUNDS, watched=True)
        full, slim = (session.nodes() for session in sessions if isinstance(session, Profiled))
    found = [
        Place(
            network=network, runtime=runtime, share=share, place=place,
            full_ms=round(full.get(place, 0.0), 4), slim_ms=round(slim.get(place, 0.0), 4),
        )
        for place in full.keys() | slim.keys()
    ]  # fmt: skip
    return sorted(found, key=lambda one: (-one.slim_ms, one.place))


def same_time(planner: Planner, at: Any, clock: Clock, by: Budget, round_to: int) -> Budget:
    """A limit to MACs at which as much time is foretold."""
    wanted = clock.ms(kept_units(planner.graph, planner.choose(at(by), by)))
    low, high = 0.02, 0.98
    for _ in range(9):
        middle = (low + high) / 2
        budget = Budget(macs=middle, round_to=round_to)
        kept = kept_units(planner.graph, planner.choose(at(budget), budget))
        low, high = (middle, high) if clock.ms(kept) < wanted else (low, middle)
    return Budget(macs=low, round_to=round_to)


def main() -> None:
    """Fill a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["tables", "limits", "train", "why"])
    parser.add_argument("--device", default="cpu", help="of the trainings")
    parser.add_argument("--networks", nargs="+")
    parser.add_argument("--runtimes", nargs="+", default=list(RUNTIMES))
    parser.add_argument("--shares", type=float, nargs="+", default=list(SHARES))
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--work", type=Path, default=ROOT / "runs/latency-limits")
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.work.mkdir(parents=True, exist_ok=True)
    networks = args.networks or (PROFILED if args.what == "tables" else LIMITED)
    pairs = [(network, runtime) for network in networks for runtime in args.runtimes]
    if args.what == "tables":
        table = Table(args.out / f"latency-tables-{SIZE}px-cpu-1thread.csv", Told)
        there = [(row["network"], row["runtime"].split()[0]) for row in table.rows]
        for pair in pairs:
            if pair not in there:
                table.add([told(*pair, args.work)])
                print(table.rows[-1], flush=True)
        return
    table = Table(args.out / f"latency-limits-{SIZE}px-cpu-1thread.csv", Met)
    if args.what == "train":
        done = Table(args.out / f"latency-limits-trained-{SIZE}px.csv", Trained)
        for row in table.rows:
            if (row["network"], row["runtime"]) in pairs and not done.has(**key_of(row)):
                known = trained_already(row, table.rows, done, args.work)
                done.add([known or tuned(row, args.device, args.work)])
                print(done.rows[-1], flush=True)
        return
    if args.what == "why":
        where = Table(args.out / f"latency-places-{SIZE}px-cpu-1thread.csv", Place)
        for (network, runtime), share in product(pairs, args.shares):
            if not where.has(network=network, runtime=runtime, share=share):
                where.add(places(network, runtime, share, args.work))
                print(network, runtime, share, flush=True)
        return
    for share, (network, runtime) in product(args.shares, pairs):
        if not table.has(network=network, runtime=runtime, way=WAYS[-1], share=share):
            found = list(met(network, runtime, share, args.work))
            table.add(found)
            print(*found, sep="\n", flush=True)


if __name__ == "__main__":
    main()
