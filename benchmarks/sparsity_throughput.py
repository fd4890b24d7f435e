"""What `auto` costs a training step, beside Ultralytics' own trainer: A B A B in one process.

    python benchmarks/sparsity_throughput.py

Both train YOLOv8n on the same drawn pictures, kept in memory, with the same settings; ours keeps
the structure, seeds every epoch and brings channels to zero. An epoch's time is from its start to
its end, validation and checkpoints apart.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from shared_data import write_table
from ultralytics import YOLO
from ultralytics.models.yolo.detect import DetectionTrainer

from yoloprune.demo_data import ShapesSpec, write_shapes
from yoloprune.measure.environment import environment
from yoloprune.plan import Budget
from yoloprune.train.equip import Equip
from yoloprune.train.options import SparsityOptions, TrainOptions
from yoloprune.train.trainer import KeepingDetectionTrainer

ROOT = Path(__file__).parent.parent


def epochs_of(trainer: Any, threads: int) -> list[float]:
    """Train, and give the seconds of every epoch but the first."""
    seconds: list[float] = []

    def start(trainer: Any) -> None:
        torch.set_num_threads(threads)  # Ultralytics leaves one core to other things
        trainer.started = time.perf_counter()

    def end(trainer: Any) -> None:
        seconds.append(time.perf_counter() - trainer.started)

    trainer.add_callback("on_train_epoch_start", start)
    trainer.add_callback("on_train_epoch_end", end)
    trainer.train()
    return seconds[1:]


def main() -> None:
    """Time both, in turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/runs/throughput")
    parser.add_argument("--imgsz", type=int, default=320)
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    data = write_shapes(args.out / "data", ShapesSpec(images=64, val=4, seed=5))
    settings = {
        "data": str(data), "epochs": 4, "imgsz": args.imgsz, "batch": 16, "nbs": 16,
        "device": args.device, "project": str(args.out), "exist_ok": True, "plots": False,
        "val": False, "verbose": False, "cache": "ram", "optimizer": "AdamW", "lr0": 0.001,
        "warmup_epochs": 0, "close_mosaic": 0, "workers": 0,
    }  # fmt: skip
    sparsity = SparsityOptions(budget=Budget(percent=0.6), until=1.0)
    options = TrainOptions(data=str(data), epochs=4, imgsz=args.imgsz, sparsity=sparsity)
    times: dict[str, list[float]] = {"stock": [], "auto": []}
    for _ in range(args.turns):
        for name, kind in (("stock", DetectionTrainer), ("auto", KeepingDetectionTrainer)):
            trainer: Any = kind(overrides={**settings, "model": "yolov8n.yaml", "name": name})
            trainer.model = trainer.get_model(
                cfg="yolov8n.yaml", weights=YOLO("yolov8n.yaml").model, verbose=False
            )
            if name == "auto":
                trainer.add_callback("on_pretrain_routine_end", Equip(options))
            times[name] += epochs_of(trainer, args.threads)
    median = {name: statistics.median(values) for name, values in times.items()}
    row = {
        "imgsz": args.imgsz,
        "batch": 16,
        "epochs_timed": len(times["auto"]),
        "stock_s": round(median["stock"], 3),
        "auto_s": round(median["auto"], 3),
        "fastest_stock_s": round(min(times["stock"]), 3),
        "fastest_auto_s": round(min(times["auto"]), 3),
        "throughput_ratio": round(median["stock"] / median["auto"], 4),
        "threads": args.threads,
        "device": args.device,
        "cpu": environment().cpu,
    }
    print(row)
    write_table(
        ROOT / f"benchmarks/results/sparsity-throughput-yolov8n-{args.imgsz}px-cpu.csv", [row]
    )


if __name__ == "__main__":
    main()
