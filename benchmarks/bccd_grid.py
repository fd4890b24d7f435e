"""What each way to a slim network is worth, on BCCD at 320 px, with equal epochs for all.

    python benchmarks/bccd_grid.py work            # as many at once as there are cores
    python benchmarks/bccd_grid.py latency         # when they are done, on an idle machine
    python benchmarks/bccd_grid.py summary         # means and spreads over the seeds, and a picture

Every way has the same epochs behind it in the end, and one cut:

    dense    nothing more
    control  dense, trained on for ALL epochs
    direct   cut, then fine-tuned for ALL epochs
    auto     `--sparsity auto` for SPARSE epochs, cut, fine-tuned for the rest
    auto+kd  the same, both with the dense network as teacher (`--distil output`)
    auto-steady+kd   … whose weight does not fade
    auto-feature+kd  … by Ultralytics' own distillation of features
    auto-taylor      auto that chooses by what the loss needs (`--criterion taylor`)
    auto-early       auto in EARLY epochs, at zero after half of them
    auto-flat        auto with the learning rate and the mosaics of the middle of a long training
    l1       `--sparsity l1` of one strength for SPARSE epochs, cut by a global threshold, the rest
    scratch  the shape that auto found, from random weights: the dense epochs and ALL

Always the averaged weights of the last epoch are measured, none is chosen on the validation
pictures. A finished run is a row in ``benchmarks/results/bccd-grid-320px.csv`` and is not run
again; one that was interrupted goes on where it was. Several workers share the work by locks.
"""

from __future__ import annotations

import argparse
import csv
import fcntl
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from shared_data import link_data, spread, write_table
from torch import nn

from yoloprune.files import write_bytes
from yoloprune.measure.accuracy import evaluate
from yoloprune.measure.data import load_dataset
from yoloprune.measure.detect import DetectOptions
from yoloprune.measure.environment import environment
from yoloprune.measure.latency import LatencyOptions, measure_latency
from yoloprune.measure.size import count
from yoloprune.models.door import Source, load
from yoloprune.prune.budget import Budget
from yoloprune.prune.options import SlimOptions
from yoloprune.prune.slim import slim
from yoloprune.train.options import (
    Distil,
    DistillOptions,
    Importance,
    SparsityOptions,
    TrainOptions,
)
from yoloprune.train.run import train

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks/results/bccd-grid-320px.csv"
SHARED = ROOT.parent / "shared"
SIZE = 320
ALL, SPARSE, EARLY = 40, 16, 8
READ = (0, 5, 20)
"""Epochs of fine-tuning after which AP is read, beside the last."""
DENSE_EPOCHS = {"yolov8n": 100, "yolov4-tiny": 60}
L1_STRENGTH = 5.0
SETTINGS = {
    "optimizer": "AdamW",
    "lr0": 0.001,
    "momentum": 0.9,
    "cos_lr": True,
    "warmup_epochs": 1,
    "nbs": 16,
    "plots": False,
    "patience": 1000,
    "val": False,
    "cache": "ram",
    "verbose": False,
}
FLAT = {**SETTINGS, "cos_lr": False, "lrf": 1.0, "close_mosaic": 0}
"""Of the sparse stage of auto-flat: as in the middle of one long training, not to its end."""
SCRATCH = {**SETTINGS, "lr0": 0.0015, "warmup_epochs": 3}


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One way, for one network, share and seed."""

    family: str
    percent: int
    seed: int
    way: str

    @property
    def folder(self) -> Path:
        """Where it keeps its models, below the folder of all runs."""
        whole = self.way in ("dense", "control")
        share = [] if whole else [str(self.percent)]
        return Path(self.family, *share, f"s{self.seed}", self.way)


def runs() -> list[Run]:
    """All of them, what matters most first."""
    ways = ("control", "direct", "auto", "auto+kd", "l1")
    grid = [("yolov8n", 60, seed, way) for seed in (0, 1, 2) for way in ways]
    grid += [("yolov8n", 60, seed, "auto-taylor") for seed in (0, 1, 2)]
    grid += [("yolov8n", 80, seed, "auto-taylor") for seed in (0, 1, 2)]
    grid += [("yolov4-tiny", 60, 0, "auto-taylor")]
    variants = ("auto-early", "auto-flat", "auto-steady+kd", "auto-feature+kd")
    grid += [("yolov8n", 60, 0, way) for way in variants]
    grid += [("yolov8n", 60, seed, "auto-flat") for seed in (1, 2)]
    grid += [("yolov4-tiny", 60, 0, way) for way in ("dense", *ways)]
    grid += [("yolov8n", percent, 0, way) for percent in (80, 40) for way in ways[1:]]
    grid += [("yolov8n", 60, seed, "scratch") for seed in (0, 1, 2)]
    grid += [("yolov8n", 60, 0, "dense"), ("yolov4-tiny", 60, 0, "scratch")]
    return [Run(family=f, percent=p, seed=s, way=w) for f, p, s, w in grid]


class Grid:
    """The runs' common ground: data, folders, results."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.data = link_data(SHARED / "data/bccd", out / "data")

    def work(self, only: str) -> None:
        """Run whatever is neither finished nor in another worker's hands, until nothing is left."""
        for run in runs():
            if only in f"{run.family}/{run.percent}/s{run.seed}/{run.way}":
                with self.mine(run) as free:
                    done = finished(run)
                    if free and not (done and self.kept(run)):
                        print("running", run, flush=True)
                        rows = getattr(self, re.split("[-+]", run.way)[0])(run)
                        enter([] if done else rows)

    def kept(self, run: Run) -> bool:
        """Whether what others begin with is still there: the dense network, where we train it."""
        trained = run.way == "dense" and run.family != "yolov8n"
        return not trained or (self.out / run.folder / "weights/last.cfg").is_file()

    @contextmanager
    def mine(self, run: Run) -> Iterator[bool]:
        """Whether no other worker is at it; until the block ends, none will be."""
        folder = self.out / run.folder
        folder.mkdir(parents=True, exist_ok=True)
        with (folder.parent / f".{folder.name}.lock").open("w") as lock:  # trainings lock folders
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                yield False
            else:
                yield True

    def start(self, run: Run) -> tuple[nn.Module, Source]:
        """The dense network."""
        if run.family == "yolov8n":
            return load(SHARED / "weights/yolov8n-bccd.pt")
        return load(self.out / run.family / "s0/dense/weights/last.cfg")

    def dense(self, run: Run) -> list[dict[str, Any]]:
        """The given network, or one from random weights."""
        if run.family == "yolov8n":
            return [self.row(run, self.start(run)[0], 0, 0)]
        torch.manual_seed(run.seed)
        fresh, _ = load(f"{run.family}.cfg", scratch=True)
        model = self.trained(run, "", fresh, DENSE_EPOCHS[run.family], SCRATCH)
        return [self.row(run, model, 0, 0)]

    def control(self, run: Run) -> list[dict[str, Any]]:
        """The dense network, trained on."""
        self.trained(run, "", self.start(run)[0], ALL, SETTINGS)
        return self.read(run, "", self.start(run)[0], ALL, 0)

    def direct(self, run: Run) -> list[dict[str, Any]]:
        """Cut first, train after."""
        return self.tuned(run, *self.start(run), 0)

    def auto(self, run: Run) -> list[dict[str, Any]]:
        """Sparse by the planner, with a teacher or without."""
        until = 0.5 if "early" in run.way else 0.7
        budget = Budget(percent=run.percent / 100)
        criterion: Importance = "taylor" if "taylor" in run.way else "gamma"
        how = SparsityOptions(budget=budget, criterion=criterion, until=until)
        return self.sparse(run, how)

    def l1(self, run: Run) -> list[dict[str, Any]]:
        """Sparse by a sub-gradient of one strength."""
        budget = Budget(percent=run.percent / 100)
        return self.sparse(run, SparsityOptions(budget=budget, method="l1", strength=L1_STRENGTH))

    def sparse(self, run: Run, how: SparsityOptions) -> list[dict[str, Any]]:
        """Sparsify, cut, fine-tune."""
        model, _ = self.start(run)
        settings = FLAT if "flat" in run.way else SETTINGS
        epochs = sparse_epochs(run.way)
        self.trained(run, "sparse", model, epochs, settings, how)
        suffix = ".cfg" if run.family == "yolov4-tiny" else ".pt"
        sparse = load(self.out / run.folder / f"sparse/weights/last{suffix}")
        before = self.row(run, sparse[0], 0, epochs) | {"tuned": "before the cut"}
        return [before, *self.tuned(run, *sparse, epochs)]

    def tuned(
        self, run: Run, model: nn.Module, source: Source, behind: int
    ) -> list[dict[str, Any]]:
        """Cut, and fine-tune for what is left of the epochs."""
        thin = self.cut(run, model, source)
        self.trained(run, "tune", thin, ALL - behind, SETTINGS)
        return self.read(run, "tune", thin, ALL - behind, behind)

    def cut(self, run: Run, model: nn.Module, source: Source) -> nn.Module:
        """The plan that auto prepares."""
        budget = Budget(percent=run.percent / 100)
        options = SlimOptions(
            budget=budget, out=self.out / run.folder / "slim", imgsz=SIZE, repeats=0
        )
        return slim(model, source, options).model

    def scratch(self, run: Run) -> list[dict[str, Any]]:
        """The shape that auto found, from random weights."""
        shape = Run(family=run.family, percent=run.percent, seed=run.seed, way="auto")
        suffix = ".cfg" if run.family == "yolov4-tiny" else ".pt"
        found = next((self.out / shape.folder / "slim").glob(f"*{suffix}"), None)
        if found is None:
            print(f"{run}: waits for {shape}", flush=True)
            return []
        model, _ = load(found, scratch=suffix == ".cfg")
        if suffix == ".pt":
            forget(model, run.seed)
        epochs = DENSE_EPOCHS[run.family] + ALL
        trained = self.trained(run, "", model, epochs, SCRATCH)
        return [self.row(run, trained, ALL, ALL)]

    def trained(
        self, run: Run, stage: str, model: nn.Module, epochs: int, settings: dict[str, Any],
        sparsity: SparsityOptions | None = None,
    ) -> nn.Module:  # fmt: skip
        """Train one stage, or take up what is there of it."""
        teacher = None
        if run.way.endswith("+kd"):
            (path,) = (self.start(run)[1].model,)
            mode: Distil = "feature" if "feature" in run.way else "output"
            teacher = DistillOptions(teacher=str(path), mode=mode, fade="steady" not in run.way)
        options = TrainOptions(
            data=str(self.data),
            epochs=epochs,
            imgsz=SIZE,
            batch=16,
            device="cpu",
            seed=run.seed,
            sparsity=sparsity,
            distil=teacher,
            snapshots=READ,
            resume=True,
            extra=settings,
        )
        model = model.to(memory_format=torch.channels_last)
        return train(model, self.out / run.folder / stage, options).last

    def read(
        self, run: Run, stage: str, start: nn.Module, epochs: int, behind: int
    ) -> list[dict[str, Any]]:
        """AP after each of the epochs that are read."""
        weights = self.out / run.folder / stage / "weights"
        suffix = ".cfg" if run.family == "yolov4-tiny" else ".pt"
        rows = [self.row(run, start, 0, behind)]
        for epoch in (*(e for e in READ if 0 < e < epochs), epochs):
            name = "last" if epoch == epochs else f"epoch{epoch}"
            model, _ = load(weights / f"{name}{suffix}")
            rows.append(self.row(run, model, epoch, behind + epoch))
        return rows

    def row(self, run: Run, model: nn.Module, tuned: int, epochs: int) -> dict[str, Any]:
        """Measure a model."""
        metrics = evaluate(
            model, load_dataset(self.data), DetectOptions(imgsz=SIZE, device="cpu", progress=False)
        ).metrics
        size = count(model, SIZE)
        return {
            "family": run.family,
            "percent": 0 if run.way in ("dense", "control") else run.percent,
            "way": run.way,
            "seed": run.seed,
            "tuned": tuned,
            "epochs": epochs,
            "AP": round(metrics.AP, 4),
            "AP50": round(metrics.AP50, 4),
            "AP75": round(metrics.AP75, 4),
            "params": size.params,
            "macs": size.macs,
        }

    def latency(self) -> list[dict[str, Any]]:
        """Time the shapes that direct and both autos found, seed 0, in turn, in one process."""
        rows = []
        for family in DENSE_EPOCHS:
            base = Run(family=family, percent=0, seed=0, way="dense")
            models = {"dense 0": self.start(base)[0]}
            for run in runs():
                suffix = ".cfg" if family == "yolov4-tiny" else ".pt"
                found = sorted((self.out / run.folder / "slim").glob(f"*{suffix}"))
                if (
                    run.family == family
                    and run.seed == 0
                    and run.way in ("direct", "auto", "auto-taylor")
                    and found
                ):
                    models[f"{run.way} {run.percent}"] = load(found[0])[0]
            times = measure_latency(models, LatencyOptions(imgsz=SIZE, repeats=50))
            for name, sample in times.items():
                way, percent = name.split()
                rows.append(
                    {
                        "family": family,
                        "way": way,
                        "percent": percent,
                        "latency_ms": round(sample.median_ms, 2),
                        "latency_iqr_ms": round(sample.iqr_ms, 2),
                        "threads": sample.threads,
                        "cpu": environment().cpu,
                    }
                )
        return rows


def sparse_epochs(way: str) -> int:
    """Epochs that a way spends before its cut."""
    if "early" in way:
        return EARLY
    return SPARSE if way.startswith(("auto", "l1")) else 0


def forget(model: nn.Module, seed: int) -> None:
    """Random weights in place of what a model has learnt, as PyTorch and Ultralytics start."""
    torch.manual_seed(seed)
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.BatchNorm2d)):
            module.reset_parameters()
    head: Any = model.model[-1]  # type: ignore[index]
    head.bias_init()
    dfl = head.dfl.conv.weight
    dfl.data[:] = torch.arange(dfl.shape[1], dtype=dfl.dtype).view(1, -1, 1, 1)


DRAWN = {  # colours of Okabe and Ito 2008
    "control": "#1c2530",
    "direct": "#0072b2",
    "l1": "#e69f00",
    "auto": "#009e73",
    "auto+kd": "#cc79a7",
    "auto-taylor": "#d55e00",
    "scratch": "#56b4e9",
}
"""Ways in the picture; the variants of auto are in the table alone."""


def summary() -> None:
    """Print the means over the seeds as Markdown, with their least and most, and draw them."""
    groups: dict[tuple[str, str, str], dict[str, list[float]]] = {}
    sizes = {}
    for row in sorted(table(), key=lambda row: (row["family"], int(row["percent"]), row["way"])):
        key = (row["family"], row["percent"], row["way"])
        groups.setdefault(key, {}).setdefault(row["tuned"], []).append(float(row["AP"]))
        if row["tuned"] != "before the cut":
            sizes[key] = f"{int(row['params']) / 1e6:.2f} | {int(row['macs']) / 1e9:.2f}"
    print("| network | gone | way | M parameters | GMACs | seeds | after 0 | 5 | 20 | all |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for (family, percent, way), aps in groups.items():
        last = max((k for k in aps if k.isdigit()), key=int)
        cells = [spread(aps.get(k, [])) for k in ("0", "5", "20")]
        cells.append(spread(aps[last]) + ("" if last == "40" else f" ({last})"))
        seeds = len(aps[last])
        size = sizes[family, percent, way]
        print(f"| {family} | {percent} % | {way} | {size} | {seeds} | {' | '.join(cells)} |")
    write_bytes(RESULTS.with_suffix(".png"), picture(groups))


def picture(groups: dict[tuple[str, str, str], dict[str, list[float]]]) -> bytes:
    """AP over all epochs behind a network, a panel a network and share; bars span the seeds."""
    from matplotlib.figure import Figure

    panels = sorted({(f, p) for f, p, _ in groups if p != "0"}, key=lambda x: (x[0], int(x[1])))
    rows = -(-len(panels) // 2)
    figure = Figure(figsize=(12.4, 4.6 * rows), layout="constrained", facecolor="white")
    grid = figure.subplots(rows, 2, squeeze=False, sharey=True)
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()
    for axes, (family, percent) in zip(grid.flat, panels, strict=False):
        for way, colour in DRAWN.items():
            aps = groups.get((family, percent, way)) or (
                groups.get((family, "0", way)) if way == "control" else None
            )
            if not aps:
                continue
            behind = sparse_epochs(way)
            points = sorted((int(k) + behind, v) for k, v in aps.items() if k.isdigit())
            x = [epoch for epoch, _ in points]
            mean = [sum(v) / len(v) for _, v in points]
            low = [m - min(v) for m, (_, v) in zip(mean, points, strict=True)]
            high = [max(v) - m for m, (_, v) in zip(mean, points, strict=True)]
            axes.errorbar(
                x, mean, yerr=(low, high), color=colour, marker="o" if len(x) > 1 else "D",
                markersize=4.5, capsize=3, linewidth=1.8, label=f"{way} ({len(points[-1][1])})",
            )  # fmt: skip
        axes.set_title(f"{family}, {percent} % of the channels gone", fontsize=11, loc="left")
        axes.set_xlabel("epochs behind it")
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.grid(axis="y", color="#d9dee4", linewidth=0.8)
        axes.tick_params(length=0)
        axes.legend(frameon=False, title="way (seeds)", loc="lower right", fontsize=9)
    for axes in grid[:, 0]:
        axes.set_ylabel("AP50:95")
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110, metadata={"Software": None})
    return file.getvalue()


def finished(run: Run) -> bool:
    """Whether the results hold it."""
    percent = 0 if run.way in ("dense", "control") else run.percent
    wanted = (run.family, str(percent), run.way, str(run.seed))
    return wanted in {(r["family"], r["percent"], r["way"], r["seed"]) for r in table()}


def table() -> list[dict[str, str]]:
    """The results so far."""
    if not RESULTS.is_file():
        return []
    return list(csv.DictReader(RESULTS.read_text().splitlines()))


def enter(rows: list[dict[str, Any]]) -> None:
    """Add a run's rows to the results."""
    with (RESULTS.parent / ".bccd-grid.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        write_table(RESULTS, [*table(), *rows])


def main() -> None:
    """Work, or time what the work left."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("work", "latency", "summary"))
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/runs/bccd-grid")
    parser.add_argument("--only", default="", help="part of family/percent/sSEED/way")
    args = parser.parse_args()
    if args.what == "summary":
        summary()
        return
    torch.set_num_threads(1)
    grid = Grid(args.out)
    if args.what == "work":
        grid.work(args.only)
    else:
        write_table(RESULTS.with_name("bccd-grid-320px-latency.csv"), grid.latency())


if __name__ == "__main__":
    main()
