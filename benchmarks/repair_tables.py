"""What a cut is worth right after it, and after training: plain, recalibrated, repaired.

    python benchmarks/repair_tables.py cuts    # without training: networks x MACs x criteria x ways
    python benchmarks/repair_tables.py starts  # only makes what trainings begin with
    python benchmarks/repair_tables.py tunes   # with training, each budget its own schedule

All at equal MACs, by budgets in MACs (older rows of ``auto`` by a round percent). AP is
pycocotools', on the validation split, which nothing was chosen by: plans, strengths and schedules
come from train pictures alone. A finished row is not run again. Several processes share the work
(``--jobs``).

Ways without training:

    plain         cut
    compensated   constants of removed channels folded into what reads them
    recalibrated  BatchNorm statistics of the same pictures
    repaired      every layer fitted anew

The criterion ``measured`` is ``recon`` with shares at which every part, pruned alone, loses alike,
``knapsack`` one with shares of which the squared losses are least at these multiply-adds;
``searched`` goes on from ``measured`` for 60 trials. Rows of ``searched-from-even`` are of an older
search, which began at even shares and tried 100 random changes.

Ways with training, N epochs each (``auto``'s sparse epochs counted; the preset ``keep`` but for
sparse and random ones; seeds are of the training, the cut is one):

    control       the dense network, trained on
    plain         cut and compensated only
    repaired      cut and repaired
    auto-taylor   sparse for two fifths of the epochs, cut, trained for the rest
    auto-gamma    the same by |gamma|
    random        the shape of the repaired one from random weights, the dense epochs added
"""

from __future__ import annotations

import argparse
import csv
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from yoloprune.channels.graph import ChannelGraph, IntArray
from yoloprune.channels.trace import trace
from yoloprune.measure.accuracy import CocoMetrics, evaluate
from yoloprune.measure.copies import find_device
from yoloprune.measure.data import load_dataset
from yoloprune.measure.detect import DetectOptions
from yoloprune.measure.pictures import load_pictures
from yoloprune.measure.size import count
from yoloprune.models.door import load, save
from yoloprune.prune.budget import Budget
from yoloprune.prune.choose import choose_scores
from yoloprune.prune.cost import Costs
from yoloprune.prune.cut import cut_units, kept_units
from yoloprune.prune.knapsack import knapsack
from yoloprune.prune.planner import Planner
from yoloprune.prune.repair import RepairOptions, repair
from yoloprune.prune.search import SearchOptions, search
from yoloprune.prune.sensing import SensitivityOptions, sense
from yoloprune.prune.sensitivity import by_curves
from yoloprune.train.options import SparsityOptions, TrainOptions
from yoloprune.train.run import train

ROOT = Path(__file__).parent.parent
SHARED = Path(os.environ.get("YOLOPRUNE_SHARED", ROOT.parent / "shared"))
RESULTS = ROOT / "benchmarks/results"
SIZE = 320
BCCD, COCO = "data/bccd/bccd.yaml", "data/coco256/coco256.yaml"
TINY = ROOT / "benchmarks/runs/bccd-grid/yolov4-tiny/s0/dense/weights/last.cfg"
"""What ``python benchmarks/bccd_grid.py work --only yolov4-tiny/60/s0/dense`` trains."""
NETS = {
    "yolov5nu-bccd": ("weights/yolov5nu-bccd.pt", BCCD, 64, 40),
    "yolov8n-bccd": ("weights/yolov8n-bccd.pt", BCCD, 64, 100),
    "yolov5n-coco": ("weights/yolov5n-coco.cfg", COCO, 128, 0),
    "yolov4-tiny-bccd": (str(TINY), BCCD, 64, 60),
    "yolo-fastest-1.1-xl": ("weights/yolo-fastest-1.1-xl.cfg", COCO, 128, 0),
}
"""Network → file, data, pictures to repair with, epochs that its dense network has behind it."""
SHARES = {"yolov5n-coco": (0.9, 0.75, 0.5, 0.25), "yolo-fastest-1.1-xl": (0.9, 0.75, 0.5, 0.25)}
CRITERIA = {
    "gamma": ("gamma", "global"),
    "even-random": ("random", "local"),
    "even-l2": ("l2", "local"),
    "recon": ("recon", "local"),
    "measured": ("recon", "local"),
    "knapsack": ("recon", "local"),
    "searched": ("recon", "local"),
}
SETTINGS = {
    "plots": False, "val": False, "patience": 1000, "cache": "ram", "verbose": False,
    "amp": False, "workers": 0,
}  # fmt: skip
"""Of every training."""
FRESH = {
    "optimizer": "AdamW", "lr0": 0.0015, "momentum": 0.9, "cos_lr": True, "nbs": 16,
    "warmup_epochs": 3, "warmup_bias_lr": 0.0,
}  # fmt: skip
"""Of those from random weights, a whole cosine each."""
SPARSE = {**FRESH, "lr0": 0.0005, "warmup_epochs": 0.1}
"""Of those that become sparse."""
TRIALS = 60
"""Of a search."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One row to be."""

    network: str
    share: float
    criterion: str
    way: str
    epochs: int = 0
    seed: int = 0

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.network}-{self.share}-{self.criterion}-{self.way}-{self.epochs}-s{self.seed}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row(Cell):
    """What came of it."""

    percent: float
    macs: float
    params: float
    AP: float
    AP50: float
    seconds: float
    device: str


@dataclass(frozen=True, slots=True)
class Net:
    """A network and what belongs to it."""

    model: nn.Module
    graph: ChannelGraph
    data: str
    pictures: Tensor


def opened(name: str, images: int | None = None, seed: int = 0) -> Net:
    """Load a network and its calibration pictures."""
    file, _, wanted, _ = NETS[name]
    model, data = load(str(SHARED / file))[0], data_of(name)
    pictures = load_pictures(model, data, SIZE, count=images or wanted, seed=seed).images
    return Net(model, trace(model), data, pictures)


def sensed(net: Net, curves: Path, device: str = "cpu") -> SensitivityOptions:
    """How the sensitivity of a network's parts is measured, into a file that all tables share."""
    return SensitivityOptions(
        file=curves, model=curves.stem, shares=(0.5,), pictures=net.pictures, imgsz=(SIZE, SIZE),
        criterion="recon", device=device,
    )  # fmt: skip


def at_macs(
    net: Net, criterion: str, share: float, device: str, curves: Path | None = None
) -> tuple[float, IntArray]:
    """The share of the channels, and the units, that go so that a share of the MACs is left.

    Args:
        net: the network.
        criterion: a key of ``CRITERIA``.
        share: of the multiply-adds, at most.
        device: where.
        curves: file that keeps the sensitivity of the network's parts, for ``measured`` and
            ``knapsack``.
    """
    score, scope = CRITERIA[criterion]
    budget, size = Budget(macs=share), count(net.model, SIZE)
    planner = Planner(net.graph, Costs(net.model, net.graph, size))
    chosen = choose_scores(
        net.model, net.graph, budget, planner=planner, criterion=score,
        scope=scope, pictures=net.pictures, device=device,  # type: ignore[arg-type]
    )  # fmt: skip
    scores, by = chosen.scores, chosen.budget
    if criterion in ("measured", "knapsack"):
        assert curves is not None
        curve = sense(net.model, sensed(net, curves, device))
        scores, by = by_curves(scores, net.graph, curve), budget
        if criterion == "knapsack":
            scores = knapsack(planner, scores, by)
    elif criterion == "searched":
        found = search(
            net.model, net.graph, scores, by, net.pictures,
            SearchOptions(seconds=1e6, trials=TRIALS, patience=TRIALS, device=device),
        )  # fmt: skip
        scores, by = found.scores, found.budget
    remove = planner.choose(scores, by)
    channels, free = net.graph.channels, net.graph.prunable
    return float(channels[remove].sum() / channels[free].sum()), remove


def start_of(cell: Cell, device: str, out: Path) -> tuple[nn.Module, float]:
    """The network that a training of cut ones begins with; it is made once."""
    way = "repaired" if cell.way == "repaired" else "plain"
    name = f"{cell.network}-{cell.share}-{cell.criterion}"
    stem = out / "starts" / f"{name}-{way}"
    suffix = Path(NETS[cell.network][0]).suffix
    if not (out / "starts" / f"{name}.txt").is_file():  # which is written last
        net = opened(cell.network)
        curves = out / f"curves-{cell.network}.json"
        percent, remove = at_macs(net, cell.criterion, cell.share, device, curves)
        plain, mended = cut_and_repaired(net, remove, device)
        stem.parent.mkdir(parents=True, exist_ok=True)
        for kind, model in (("plain", plain), ("repaired", mended)):
            save(model, out / "starts" / f"{name}-{kind}")
        (out / "starts" / f"{name}.txt").write_text(f"{percent}")
    model = load(f"{stem}{suffix}")[0]
    return model.float(), float((out / "starts" / f"{name}.txt").read_text())


def ap_of(model: nn.Module, network: str, device: str) -> CocoMetrics:
    """AP on the validation split of a network's data."""
    how = DetectOptions(imgsz=SIZE, device=device, progress=False)
    return evaluate(model, load_dataset(data_of(network)), how).metrics


def device_name(device: str) -> str:
    """Of a GPU, or ``cpu``."""
    place = find_device(device)
    return torch.cuda.get_device_name(place) if place.type == "cuda" else "cpu"


def shares_of(model: nn.Module, network: str) -> dict[str, Any]:
    """Multiply-adds and parameters, as shares of the dense network's."""
    size, dense = (count(m, SIZE) for m in (model, load(str(SHARED / NETS[network][0]))[0]))
    return {
        "macs": round(size.macs / dense.macs, 4),
        "params": round(size.params / dense.params, 4),
    }


def worth(model: nn.Module, network: str, device: str) -> dict[str, Any]:
    """What every table says of a network: its size, its AP, and where that was measured."""
    found = ap_of(model, network, device)
    return {
        **shares_of(model, network),
        "AP": round(found.AP, 4),
        "AP50": round(found.AP50, 4),
        "device": device_name(device),
    }


def cut_and_repaired(
    net: Net, remove: IntArray, device: str = "cpu"
) -> tuple[nn.Module, nn.Module]:
    """A network after a cut, and after the repair of it."""
    plain, kept = cut_units(net.model, net.graph, remove), kept_units(net.graph, remove)
    how = RepairOptions(device=device)
    return plain, repair(net.model, plain, net.graph, kept, net.pictures, how).model


def measured(cell: Cell, model: nn.Module, percent: float, device: str, start: float) -> Row:
    """AP and size."""
    found = worth(model, cell.network, device)
    seconds = round(time.perf_counter() - start, 1)
    return Row(**asdict(cell), percent=round(percent, 4), seconds=seconds, **found)


def recalibrated(model: nn.Module, pictures: Tensor, device: str) -> nn.Module:
    """A model with BatchNorm statistics of these pictures."""
    import copy

    made = copy.deepcopy(model).to(find_device(device)).float()
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None
            module.train()
    with torch.no_grad():
        for part in pictures.split(16):
            made(part.to(find_device(device)).float() / 255)
    return made.eval()


def cut_rows(network: str, share: float, criterion: str, device: str, out: Path) -> list[Row]:
    """All ways without training, at one point."""
    start = time.perf_counter()
    net = opened(network)
    curves = out / f"curves-{network}.json"
    percent, remove = at_macs(net, criterion, share, device, curves)
    kept = kept_units(net.graph, remove)
    plain = cut_units(net.model, net.graph, remove, compensate=False)
    folded = cut_units(net.model, net.graph, remove)
    ways = {
        "plain": lambda: plain,
        "compensated": lambda: folded,
        "recalibrated": lambda: recalibrated(folded, net.pictures, device),
        "repaired": lambda: (
            repair(
                net.model, folded, net.graph, kept, net.pictures, RepairOptions(device=device)
            ).model
        ),
    }
    rows = []
    for way, make in ways.items():
        cell = Cell(network=network, share=share, criterion=criterion, way=way)
        rows.append(measured(cell, make(), percent, device, start))
        start = time.perf_counter()
    return rows


def tune_rows(cell: Cell, device: str, out: Path) -> list[Row]:
    """One training."""
    start = time.perf_counter()
    torch.manual_seed(cell.seed)
    model, percent, epochs = load(str(SHARED / NETS[cell.network][0]))[0], 0.0, cell.epochs
    if cell.way.startswith("auto"):
        model, percent = sparse(cell, model, device, out)
        epochs -= sparse_epochs(cell)
    elif cell.way != "control":
        model, percent = start_of(cell, device, out)
        if cell.way == "random":
            reset(model)
            epochs += NETS[cell.network][3]
    if epochs:
        model = trained(model, cell, epochs, device, out / cell.name)
    return [measured(cell, model, percent, device, start)]


def made(cell: Cell, device: str, out: Path) -> list[Row]:
    """What trainings of it begin with."""
    start_of(cell, device, out)
    return []


def sparse_epochs(cell: Cell) -> int:
    """Of ``auto``: two fifths."""
    return max(1, round(0.4 * cell.epochs))


def sparse(cell: Cell, dense: nn.Module, device: str, out: Path) -> tuple[nn.Module, float]:
    """Train by ``auto`` and cut; also the share of the channels that went."""
    criterion: Any = cell.way.partition("-")[2]
    wish = SparsityOptions(budget=Budget(macs=cell.share), criterion=criterion)
    folder = out / f"{cell.name}-sparse"
    model = trained(dense, cell, sparse_epochs(cell), device, folder, wish)
    graph = trace(model)
    planner = Planner(graph, Costs(model, graph, count(model, SIZE)))
    scores = choose_scores(model, graph, wish.budget, criterion="gamma").scores
    remove = planner.choose(scores, wish.budget)
    channels, free = graph.channels, graph.prunable
    share = float(channels[remove].sum() / channels[free].sum())
    return cut_units(model, graph, remove), share


def reset(model: nn.Module) -> None:
    """Random weights, but for what is a rule and no weight (the mean of a distribution)."""
    for path, module in model.named_modules():
        if hasattr(module, "reset_parameters") and "dfl" not in path.split("."):
            module.reset_parameters()
    head: Any = list(model.model)[-1]  # type: ignore[arg-type]
    if hasattr(head, "bias_init"):
        head.bias_init()


def trained(
    model: nn.Module,
    cell: Cell,
    epochs: int,
    device: str,
    folder: Path,
    sparsity: SparsityOptions | None = None,
) -> nn.Module:
    """The averaged weights after the last epoch."""
    fresh = cell.way == "random"
    own = SPARSE if sparsity is not None else FRESH if fresh else {}
    options = TrainOptions(
        data=data_of(cell.network),
        epochs=epochs,
        imgsz=SIZE,
        device=device,
        seed=cell.seed,
        preset="stock" if own else "keep",
        sparsity=sparsity,
        resume=True,
        extra={**SETTINGS, **own},
    )
    model = model.to(memory_format=torch.channels_last)  # a fifth quicker on a CPU
    return train(model, folder, options).last


def cut_cells() -> Iterator[tuple[str, float, str]]:
    """What decides first."""
    for network in NETS:
        for share in SHARES.get(network, (0.75, 0.5, 0.25, 0.11)):
            for criterion in (
                "knapsack",
                "measured",
                "recon",
                "gamma",
                "even-l2",
                "even-random",
                "searched",
            ):
                yield network, share, criterion


def tune_cells() -> Iterator[Cell]:
    """What decides first."""

    def cells(network: str, share: float, seed: int, epochs: int, ways: str) -> Iterator[Cell]:
        for way in ways.split():
            by, _, what = way.rpartition(":")
            yield Cell(
                network=network, share=1.0 if what == "control" else share,
                criterion=by or "knapsack", way=what, epochs=epochs, seed=seed,
            )  # fmt: skip

    main = "random repaired control plain auto-taylor"
    rest = "repaired control plain auto-taylor"
    five, eight, tiny = "yolov5nu-bccd", "yolov8n-bccd", "yolov4-tiny-bccd"
    lengths = (40, 20, 5)
    for epochs in lengths:
        yield from cells(five, 0.25, 0, epochs, main)
    for epochs in lengths:
        yield from cells(five, 0.25, 0, epochs, "recon:repaired gamma:repaired auto-gamma")
        yield from cells(eight, 0.25, 0, epochs, rest)
        yield from cells(tiny, 0.25, 0, epochs, main)
        yield from cells(five, 0.5, 0, epochs, "repaired plain auto-taylor")
        yield from cells(five, 0.11, 0, epochs, "repaired plain auto-taylor")
    yield from cells(five, 0.25, 0, 1, "repaired control")
    for seed in (1, 2):
        for epochs in lengths:
            yield from cells(five, 0.25, seed, epochs, rest)
    for seed in (1, 2):
        for epochs in lengths:
            yield from cells(five, 0.25, seed, epochs, "random")
    for epochs in lengths:
        yield from cells(five, 0.5, 0, epochs, "random")
        yield from cells(five, 0.11, 0, epochs, "random")
        yield from cells(eight, 0.25, 0, epochs, "random")


def here(network: str) -> bool:
    """Whether its file is there: one of them is trained by another script."""
    return (SHARED / NETS[network][0]).is_file()


def data_of(network: str) -> str:
    """Its data set."""
    return str(SHARED / NETS[network][1])


class Table:
    """Rows of a CSV file, written as they come."""

    def __init__(self, path: Path, kind: type[Any]) -> None:
        self.path, self._names = path, [field.name for field in fields(kind)]
        self.rows: list[dict[str, str]] = []
        if path.is_file():
            with path.open(newline="", encoding="utf-8") as file:
                self.rows = list(csv.DictReader(file))

    def has(self, **wanted: object) -> bool:
        """Whether such a row is there."""
        return any(all(row[k] == str(v) for k, v in wanted.items()) for row in self.rows)

    def add(self, rows: list[Any]) -> None:
        """Add rows, and write them all."""
        self.rows += [{name: str(getattr(row, name)) for name in self._names} for row in rows]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, self._names)
            table.writeheader()
            table.writerows(self.rows)


def one_thread() -> None:
    """Of every worker."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))


def work(
    table: Table, tasks: list[tuple[Callable[..., list[Row]], tuple[Any, ...]]], args: Any
) -> None:
    """Carry tasks out in several processes, as long as there is time."""
    end = time.monotonic() + 60 * args.minutes
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["yoloprune.train.trainer", "pycocotools.cocoeval"])
    with ProcessPoolExecutor(args.jobs, mp_context=context, initializer=one_thread) as pool:
        waiting = iter(tasks)
        running = {}

        def more() -> None:
            task = next(waiting, None) if time.monotonic() < end else None
            if task is not None:
                running[pool.submit(task[0], *task[1])] = task

        for _ in range(args.jobs):
            more()
        while running:
            done = next(as_completed(running))
            task = running.pop(done)
            try:
                rows = done.result()
                table.add(rows)
                for row in rows:
                    print(row, flush=True)
            except Exception as exc:
                print(f"{task[1]}: {exc!r}"[:500], flush=True)
            more()


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["cuts", "starts", "tunes"])
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--minutes", type=float, default=1e6)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--work", type=Path, default=ROOT / "runs/repair-tables")
    args = parser.parse_args()
    if args.what == "cuts":
        table = Table(args.out / "repair-cuts-320px.csv", Row)
        todo: list[Any] = [
            (cut_rows, (net, share, by, args.device, args.work.resolve()))
            for net, share, by in cut_cells()
            if here(net) and not table.has(network=net, share=share, criterion=by)
        ]
    elif args.what == "starts":
        table, folder = Table(args.work / "starts.csv", Row), args.work.resolve()
        every = (c for c in tune_cells() if c.share < 1 and here(c.network))
        cells = {(c.network, c.share, c.criterion): c for c in every}
        todo = [(made, (cell, args.device, folder)) for cell in cells.values()]
    else:
        table = Table(args.out / "repair-tunes-320px.csv", Row)
        todo = [
            (tune_rows, (cell, args.device, args.work.resolve()))
            for cell in tune_cells()
            if here(cell.network) and not table.has(**asdict(cell))
        ]
    work(table, todo, args)


if __name__ == "__main__":
    main()
