"""What `auto` costs a training step, beside Ultralytics' own trainer: in turn in one process.

    python benchmarks/sparsity_throughput.py

All train YOLOv8n on the same drawn pictures, kept in memory, with the same settings; ours keeps
the structure, seeds every epoch and brings channels to zero, chosen by gamma or by Taylor. An
epoch's time is from its start to its end, validation and checkpoints apart.
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

from yoloprune.measure.demo_data import ShapesSpec, write_shapes
from yoloprune.measure.environment import environment
from yoloprune.prune.budget import Budget
from yoloprune.train.equip import Equip
from yoloprune.train.options import Importance, SparsityOptions, TrainOptions
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
    """Time all, in turn."""
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
    names: tuple[Importance, ...] = ("gamma", "taylor")
    options = {
        name: TrainOptions(
            data=str(data),
            epochs=4,
            imgsz=args.imgsz,
            sparsity=SparsityOptions(budget=Budget(percent=0.6), criterion=name, until=1.0),
        )
        for name in names
    }
    times: dict[str, list[float]] = {"stock": [], **{name: [] for name in names}}
    for _ in range(args.turns):
        for name, seconds in times.items():
            kind: Any = KeepingDetectionTrainer if name in options else DetectionTrainer
            trainer = kind(overrides={**settings, "model": "yolov8n.yaml", "name": name})
            trainer.model = trainer.get_model(
                cfg="yolov8n.yaml", weights=YOLO("yolov8n.yaml").model, verbose=False
            )
            if name in options:
                trainer.add_callback("on_pretrain_routine_end", Equip(options[name]))
            seconds += epochs_of(trainer, args.threads)
    stock = statistics.median(times["stock"])
    rows = [
        {
            "way": name,
            "imgsz": args.imgsz,
            "batch": 16,
            "epochs_timed": len(seconds),
            "median_s": round(statistics.median(seconds), 3),
            "fastest_s": round(min(seconds), 3),
            "throughput_ratio": round(stock / statistics.median(seconds), 4),
            "threads": args.threads,
            "device": args.device,
            "cpu": environment().cpu,
        }
        for name, seconds in times.items()
    ]
    print(*rows, sep="\n")
    write_table(
        ROOT / f"benchmarks/results/sparsity-throughput-yolov8n-{args.imgsz}px-cpu.csv", rows
    )


if __name__ == "__main__":
    main()
