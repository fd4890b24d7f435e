"""AP over measured latency: our budgets beside what else a user could do, in one picture.

    pip install torch-pruning==1.6.1
    python benchmarks/latency_curve.py shapes   # the networks
    python benchmarks/latency_curve.py train    # each of them, the same epochs
    python benchmarks/latency_curve.py time     # on a machine that does nothing else
    python benchmarks/latency_curve.py picture

YOLOv8n on BCCD at 320 px, in ONNX Runtime on one thread. Ways:

    dense          the full network, trained on
    latency        `slim --latency SHARE --round-to 16 --sensitivity FILE`, repaired; by the
                   table's word alone
    percent        `slim --percent SHARE --round-to 1`: even shares by recon, widths as they fall;
                   repaired
    torch-pruning  every layer the same ratio by the norm of groups, widths multiples of 8, the
                   head left out, as its YOLOv8 example does
    stock          YOLOv8 with a smaller width multiple, from random weights: the epochs of the
                   dense network and then as many as the others have

All are trained for 20 epochs by one trainer with the preset ``keep``, ``torch-pruning`` also by the
schedule of a training from random weights (``moving``), ``stock`` only so. AP is pycocotools' on
the validation split, which nothing was chosen by; repair saw 64 train pictures without labels.
Latency is the lower quartile that ``time_files.py`` tells, beside the dense network in turn. A
finished row is not made again.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from latency_limits import WIDTHS, curves_of, timed_apart
from repair_tables import (
    FRESH,
    NETS,
    RESULTS,
    ROOT,
    SETTINGS,
    SHARED,
    SIZE,
    Net,
    Table,
    cut_and_repaired,
    data_of,
    opened,
    work,
    worth,
)
from torch import nn
from torch_pruning_ap import torch_pruned

from yoloprune.measure.environment import environment
from yoloprune.measure.size import count
from yoloprune.models.door import load, save
from yoloprune.prune.budget import Budget
from yoloprune.prune.choose import choose_scores
from yoloprune.prune.clock import Clock, LatencyTable
from yoloprune.prune.cost import Costs
from yoloprune.prune.knapsack import knapsack
from yoloprune.prune.planner import Planner
from yoloprune.train.options import TrainOptions
from yoloprune.train.run import train

NETWORK = "yolov8n-bccd"
EPOCHS = 20
SETTINGS_OF = {
    "dense": (1.0,),
    "latency": (0.8, 0.65, 0.5, 0.4, 0.33),
    "percent": (0.2, 0.35, 0.5, 0.6, 0.7),
    "torch-pruning": (0.15, 0.3, 0.45, 0.6, 0.7),
    "stock": (0.2, 0.15, 0.1),
}
"""Way → share of the latency, share of the channels that go, ratio, or width multiple."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A network to be."""

    way: str
    setting: float

    @property
    def name(self) -> str:
        """Of its file."""
        return f"{self.way}-{self.setting}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row(Shape):
    """What it is worth after so many epochs."""

    schedule: str
    epochs: int
    seed: int
    macs: float
    params: float
    AP: float
    AP50: float
    seconds: float
    device: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Time(Shape):
    """How long a picture takes; ``dense_ms`` is of the dense network in turn with it."""

    ms: float
    dense_ms: float
    ratio: float
    spread: float
    machine: str


def shapes() -> Iterator[Shape]:
    """All of them."""
    for way, settings in SETTINGS_OF.items():
        for setting in settings:
            yield Shape(way=way, setting=setting)


def made(shape: Shape, folder: Path) -> nn.Module:
    """Cut, and repaired where the way repairs."""
    file = str(SHARED / NETS[NETWORK][0])
    if shape.way == "dense":
        return load(file)[0]
    if shape.way == "torch-pruning":
        model = load(file)[0].float()
        way = "tp-group-norm"
        return torch_pruned(model, way, shape.setting, folder, data_of(NETWORK), round_to=8)
    if shape.way == "stock":
        return smaller(shape.setting)
    net = opened(NETWORK)
    remove = (by_time if shape.way == "latency" else as_it_falls)(net, shape.setting)
    return cut_and_repaired(net, remove)[1]


def shape_file(shape: Shape, folder: Path) -> Path:
    """A network's file; it is made once."""
    file = folder / "shapes" / f"{shape.name}.pt"
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        save(made(shape, folder), file.with_suffix(""))
    return file


def smaller(width: float) -> nn.Module:
    """YOLOv8 of another width multiple, random weights."""
    from ultralytics.nn.tasks import DetectionModel, yaml_model_load

    config: dict[str, Any] = yaml_model_load("yolov8n.yaml")
    config["scales"] = {"n": [0.33, width, 1024]}
    torch.manual_seed(0)
    model: Any = DetectionModel(config, nc=3, verbose=False)
    dense: Any = load(str(SHARED / NETS[NETWORK][0]))[0]
    model.names = dict(dense.names)
    return model  # type: ignore[no-any-return]


def by_time(net: Net, share: float) -> Any:
    """Units that go so that the table foretells a share of the time."""
    table = LatencyTable.read(ROOT / f"runs/latency-limits/{NETWORK}-onnxruntime.json")
    costs = Costs(net.model, net.graph, count(net.model, SIZE), Clock(net.graph, table))
    planner, budget = Planner(net.graph, costs), Budget(latency=share, round_to=WIDTHS)
    scores = curves_of(net, NETWORK, planner, ROOT / "runs/latency-limits")
    return planner.choose(knapsack(planner, scores, budget), budget)


def as_it_falls(net: Net, share: float) -> Any:
    """Units that go at even shares."""
    budget = Budget(percent=share)
    planner = Planner(net.graph)
    chosen = choose_scores(
        net.model, net.graph, budget, planner=planner, criterion="recon", scope="local",
        pictures=net.pictures,
    )  # fmt: skip
    return planner.choose(chosen.scores, chosen.budget)


def rows(shape: Shape, schedule: str, epochs: int, device: str, folder: Path) -> list[Row]:
    """Trained and measured."""
    start = time.perf_counter()
    torch.manual_seed(0)
    model = load(shape_file(shape, folder))[0].float()
    if epochs:
        own = FRESH if schedule == "moving" else {}
        options = TrainOptions(
            data=data_of(NETWORK), imgsz=SIZE, device=device, resume=True,
            epochs=epochs + (NETS[NETWORK][3] if shape.way == "stock" else 0),
            preset="stock" if own else "keep", extra={**SETTINGS, **own},
        )  # fmt: skip
        model = train(model, folder / f"{shape.name}-{schedule}-{epochs}", options).last
    found = worth(model, NETWORK, device)
    seconds = round(time.perf_counter() - start, 1)
    return [
        Row(**asdict(shape), schedule=schedule, epochs=epochs, seed=0, seconds=seconds, **found)
    ]


def timed(shape: Shape, folder: Path) -> Time:
    """What a script says that knows nothing of yoloprune."""
    found = timed_apart("onnxruntime", SHARED / NETS[NETWORK][0], shape_file(shape, folder))
    return Time(
        **asdict(shape), ms=round(found["ms"][1], 2),
        dense_ms=round(found["ms"][0], 2), ratio=round(found["ratio"], 4),
        spread=round(found["spread"], 4), machine=environment().cpu,
    )  # fmt: skip


def trainings() -> Iterator[tuple[Shape, str, int]]:
    """Shape, schedule and epochs: first what is cheap and decides."""
    for shape in shapes():
        yield shape, "none", 0
    for shape in shapes():
        if shape.way != "stock":
            yield shape, "keep", EPOCHS
    for shape in shapes():
        if shape.way in ("stock", "torch-pruning"):
            yield shape, "moving", EPOCHS


LINES = (
    ("latency", "keep", 20, "our latency budget", "#1d3557", "-"),
    ("percent", "keep", 20, "percent, widths as they fall", "#2a9d8f", "-"),
    ("torch-pruning", "keep", 20, "Torch-Pruning, round_to 8", "#d1495b", "-"),
    ("torch-pruning", "moving", 20, "Torch-Pruning, larger steps", "#d1495b", "--"),
    ("stock", "moving", 20, "smaller stock shapes, 120 epochs", "#e9a03b", "-"),
    ("latency", "none", 0, "our latency budget, not trained", "#1d3557", ":"),
    ("percent", "none", 0, "percent, not trained", "#2a9d8f", ":"),
)
"""Way, schedule, epochs, name, colour and dash of each line."""


def write_picture(out: Path) -> None:
    """AP over milliseconds."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    found = Table(out / f"latency-curve-{SIZE}px.csv", Row).rows
    times = {
        (row["way"], row["setting"]): float(row["ms"])
        for row in Table(out / f"latency-curve-{SIZE}px-cpu-1thread.csv", Time).rows
    }
    figure = Figure(figsize=(9.6, 4.4), dpi=110, layout="constrained")
    axes = figure.subplots()
    for way, schedule, epochs, name, colour, dash in LINES:
        points = sorted(
            (times[row["way"], row["setting"]], float(row["AP"]))
            for row in found
            if (row["way"], row["schedule"], row["epochs"]) == (way, schedule, str(epochs))
            and (row["way"], row["setting"]) in times
        )
        if points:
            axes.plot(
                *zip(*points, strict=True), dash, marker="o", ms=4.5, lw=1.8, color=colour,
                label=name,
            )  # fmt: skip
    for row in found:
        if row["way"] == "dense" and (row["way"], row["setting"]) in times:
            axes.plot(times["dense", row["setting"]], float(row["AP"]), "*", ms=11, color="#444")
    axes.set_xlabel("milliseconds a picture, ONNX Runtime, one thread, 320 px")
    axes.set_ylabel("AP50:95 on val")
    axes.set_title(
        "YOLOv8n on BCCD, 20 epochs; stars: the full network, before and after", loc="left"
    )
    axes.set_ylim(0.36, 0.62)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(frameon=False, loc="outside right upper", fontsize=9)
    figure.savefig(out / f"latency-curve-{SIZE}px.png")


def main() -> None:
    """Do what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["shapes", "train", "time", "picture"])
    parser.add_argument("--ways", nargs="+", choices=SETTINGS_OF, default=list(SETTINGS_OF))
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--minutes", type=float, default=1e6)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--work", type=Path, default=ROOT / "runs/latency-curve")
    args = parser.parse_args()
    torch.set_num_threads(1)
    folder = args.work.resolve()
    if args.what == "shapes":
        for shape in shapes():
            if shape.way in args.ways:
                shape_file(shape, folder)
                print(shape, flush=True)
    elif args.what == "train":
        table = Table(args.out / f"latency-curve-{SIZE}px.csv", Row)
        todo: list[Any] = [
            (rows, (shape, schedule, epochs, args.device, folder))
            for shape, schedule, epochs in trainings()
            if not table.has(**asdict(shape), schedule=schedule, epochs=epochs)
        ]
        work(table, todo, args)
    elif args.what == "time":
        times = Table(args.out / f"latency-curve-{SIZE}px-cpu-1thread.csv", Time)
        for shape in shapes():
            if shape.way in args.ways and not times.has(**asdict(shape)):
                times.add([timed(shape, folder)])
                print(times.rows[-1], flush=True)
    else:
        write_picture(args.out)


if __name__ == "__main__":
    main()
