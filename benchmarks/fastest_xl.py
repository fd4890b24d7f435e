"""Yolo-Fastest-1.1-xl at 10, 20 and 30 %: AP with and without compensation, and fine-tuned.

python benchmarks/fastest_xl.py --shared ../shared --out benchmarks/runs/fastest_xl
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from shared_data import link_data, write_table
from torch import nn

from yoloprune.files import write_bytes
from yoloprune.measure.accuracy import evaluate
from yoloprune.measure.data import load_dataset
from yoloprune.measure.detect import DetectOptions
from yoloprune.models.door import load
from yoloprune.prune.budget import Budget
from yoloprune.prune.options import SlimOptions
from yoloprune.prune.slim import slim
from yoloprune.train.options import TrainOptions
from yoloprune.train.run import train

ROOT = Path(__file__).parent.parent
SIZE = 320
TUNE = {
    "optimizer": "AdamW",
    "lr0": 0.0002,
    "momentum": 0.9,
    "cos_lr": True,
    "warmup_epochs": 1,
    "nbs": 16,
    "plots": False,
    "val": False,
    "patience": 1000,
}


def measured(model: nn.Module, data: Path, cache: Path) -> dict[str, float]:
    """AP and AP50 on the validation split, computed once."""
    if not cache.is_file():
        dataset = load_dataset(data)
        metrics = evaluate(model, dataset, DetectOptions(imgsz=SIZE, device="cpu")).metrics
        write_bytes(cache, json.dumps({"AP": metrics.AP, "AP50": metrics.AP50}).encode())
    record: dict[str, float] = json.loads(cache.read_text())
    return record


def main() -> None:
    """Fill the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, default=ROOT.parent / "shared")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/runs/fastest_xl")
    parser.add_argument("--epochs", type=int, default=10, help="of fine-tuning")
    args = parser.parse_args()
    data = link_data(args.shared / "data/coco256", args.out / "data")
    dense, source = load(args.shared / "weights/yolo-fastest-1.1-xl.cfg")
    rows: list[dict[str, Any]] = []

    def add(percent: int, what: str, epochs: int, model: nn.Module, cost: dict[str, Any]) -> None:
        metrics = measured(model, data, args.out / f"{percent}-{what}-{epochs}.json")
        rows.append(
            {
                "percent": percent,
                "compensation": what,
                "epochs": epochs,
                "AP": round(metrics["AP"], 4),
                "AP50": round(metrics["AP50"], 4),
                "params": cost["params"],
                "macs": cost["macs"],
            }
        )
        print(rows[-1], flush=True)

    def tuned(name: str, model: nn.Module) -> nn.Module:
        options = TrainOptions(
            data=str(data), epochs=args.epochs, imgsz=SIZE, device="cpu", resume=True, extra=TUNE
        )
        return train(model, args.out / name, options).last

    for percent in (10, 20, 30):
        results = {}
        for what, compensate in (("off", False), ("on", True)):
            options = SlimOptions(
                budget=Budget(percent=percent / 100),
                out=args.out / f"slim-{percent}-{what}",
                compensate=compensate,
                repeats=0,
            )
            results[what] = slim(dense, source, options)
        if percent == 10:
            before = results["on"].summary["before"]
            add(0, "-", 0, dense, before)
            add(0, "-", args.epochs, tuned("tuned-0", dense), before)
        for what, result in results.items():
            add(percent, what, 0, result.model, result.summary["after"])
        thin = results["on"]
        model = tuned(f"tuned-{percent}", thin.model)
        add(percent, "on", args.epochs, model, thin.summary["after"])
    write_table(ROOT / "benchmarks/results/yolo-fastest-1.1-xl-coco256-val-320px.csv", rows)


if __name__ == "__main__":
    main()
