"""The whole loop on BCCD: dense → sparse → slim → fine-tune, beside a dense control.

Sparsity comes by L1 of a fixed strength, and by the planner (``auto``); all ways have the same
epochs behind them in the end.

Every stage is kept in ``--out`` and is not run again; an interrupted one goes on where it was.

    python benchmarks/bccd_loop.py --data ../shared/data/bccd --out benchmarks/runs/bccd
"""

from __future__ import annotations

import argparse
import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from yoloprune.files import write_bytes
from yoloprune.measure.accuracy import evaluate
from yoloprune.measure.data import load_dataset
from yoloprune.measure.detect import DetectOptions
from yoloprune.measure.environment import environment
from yoloprune.measure.latency import LatencyOptions, measure_latency
from yoloprune.measure.size import count, file_bytes
from yoloprune.models import Source, load
from yoloprune.pipeline import SlimOptions, slim
from yoloprune.plan import Budget
from yoloprune.train.run import TrainOptions, train

ROOT = Path(__file__).parent.parent
SIZE = 320
COMMON = {"nbs": 8, "plots": False, "patience": 1000}
DENSE = {"optimizer": "AdamW", "lr0": 0.0015, "momentum": 0.9, "cos_lr": True}
L1 = {"optimizer": "AdamW", "lr0": 0.002, "lrf": 1.0, "momentum": 0.9, "warmup_epochs": 1}
AUTO = {"optimizer": "AdamW", "lr0": 0.001, "momentum": 0.9, "cos_lr": True, "warmup_epochs": 1}
TUNE = {"optimizer": "AdamW", "lr0": 0.001, "momentum": 0.9, "cos_lr": True, "warmup_epochs": 1}


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A model of the loop, with the files it lives in and the epochs that it has behind it."""

    name: str
    model: nn.Module
    files: tuple[Path, ...]
    epochs: int


def link_data(source: Path, target: Path) -> Path:
    """Link a data set into a folder of our own, for Ultralytics writes caches beside labels."""
    for file in source.rglob("*.*"):
        if file.suffix in (".jpg", ".png", ".txt"):
            link = target / file.relative_to(source)
            link.parent.mkdir(parents=True, exist_ok=True)
            if not link.exists():
                link.symlink_to(file.resolve())
    data = yaml.safe_load(next(source.glob("*.yaml")).read_text())
    path = target / "data.yaml"
    path.write_text(yaml.safe_dump({**data, "path": str(target.resolve())}))
    return path


class Loop:
    """The stages, each trained from the one before."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.out: Path = args.out
        self.data = link_data(args.data, self.out / "data")

    def trained(
        self, name: str, start: Stage | nn.Module, epochs: int, settings: dict[str, Any],
        sparsity: float | Budget | None = None, *, keep: str = "best",
    ) -> Stage:  # fmt: skip
        """Train one stage, or take up what is there of it."""
        before = start.epochs if isinstance(start, Stage) else 0
        model = start.model if isinstance(start, Stage) else start
        options = TrainOptions(
            data=str(self.data),
            epochs=epochs,
            imgsz=SIZE,
            batch=8,
            device="cpu",
            seed=self.args.seed,
            sparsity=sparsity,
            resume=True,
            extra={**COMMON, **settings},
        )
        result = train(model, self.out / name, options)
        first = 0 if keep == "best" else len(result.files) // 2
        files = result.files[first : first + len(result.files) // 2]
        return Stage(name=name, model=getattr(result, keep), files=files, epochs=before + epochs)

    def run(self) -> list[Stage]:
        """All stages, in the order of the table."""
        args = self.args
        torch.manual_seed(args.seed)
        fresh, _ = load(ROOT / "cfg/yolov4-tiny.cfg", scratch=True)
        dense = self.trained("dense", fresh, args.dense, DENSE)
        control = self.trained("dense control", dense, args.sparse + args.tune, TUNE)
        budget = Budget(percent=args.percent)
        return [
            dense,
            control,
            *self.slimmed("l1", dense, L1, args.sparsity, budget),
            *self.slimmed("auto", dense, AUTO, budget, budget),
        ]

    def slimmed(
        self,
        method: str,
        dense: Stage,
        settings: dict[str, Any],
        sparsity: float | Budget,
        budget: Budget,
    ) -> list[Stage]:
        """Sparse, slim and fine-tuned, by one way to sparsity."""
        args = self.args
        name = f"{method} sparse"
        sparse = self.trained(name, dense, args.sparse, settings, sparsity, keep="last")
        options = SlimOptions(budget=budget, out=self.out / f"{method} slim", imgsz=SIZE, repeats=0)
        cut = slim(sparse.model, Source(*sparse.files), options)
        record = json.dumps(cut.summary, indent=2).encode()
        write_bytes(self.out / f"{method} slim.json", record)
        files = tuple(Path(file) for file in cut.summary["files"]["model"])
        thin = Stage(name=f"{method} slim", model=cut.model, files=files, epochs=sparse.epochs)
        tuned = self.trained(f"{method} fine-tuned", thin, args.tune, TUNE)
        return [sparse, thin, tuned]

    def table(self, stages: list[Stage]) -> list[dict[str, Any]]:
        """Measure every stage; the latencies in turn, in one process."""
        dataset = load_dataset(self.data)
        models = {stage.name: stage.model for stage in stages}
        times = measure_latency(models, LatencyOptions(imgsz=SIZE, repeats=50))
        rows = []
        for stage in stages:
            metrics = evaluate(
                stage.model, dataset, DetectOptions(imgsz=SIZE, device="cpu")
            ).metrics
            size = count(stage.model, SIZE)
            rows.append(
                {
                    "stage": stage.name,
                    "epochs": stage.epochs,
                    "AP": round(metrics.AP, 4),
                    "AP50": round(metrics.AP50, 4),
                    "AP75": round(metrics.AP75, 4),
                    "params": size.params,
                    "macs": size.macs,
                    "bytes": file_bytes(stage.files),
                    "latency_ms": round(times[stage.name].median_ms, 2),
                    "latency_iqr_ms": round(times[stage.name].iqr_ms, 2),
                    "threads": times[stage.name].threads,
                    "cpu": environment().cpu,
                }
            )
        return rows


def write_table(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows as CSV, whole or not at all."""
    import io

    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_bytes(path, text.getvalue().encode())


def main() -> None:
    """Run the loop and write its table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared/data/bccd")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/runs/bccd")
    parser.add_argument("--dense", type=int, default=60, help="epochs")
    parser.add_argument("--sparse", type=int, default=20, help="epochs")
    parser.add_argument("--tune", type=int, default=20, help="epochs of fine-tuning")
    parser.add_argument("--sparsity", type=float, default=0.8, help="strength of l1")
    parser.add_argument("--percent", type=float, default=0.6)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    loop = Loop(args)
    rows = loop.table(loop.run())
    percent = round(args.percent * 100)
    write_table(ROOT / f"benchmarks/results/bccd-yolov4-tiny-{SIZE}px-{percent}pct.csv", rows)
    for row in rows:
        print(row)


if __name__ == "__main__":
    main()
