"""YOLOv8n trained on BCCD, slimmed without fine-tuning: AP with and without compensation.

The model was never trained for sparsity: its |gamma| lie between 0.94 and 1.23, so that every
removed channel still carries its signal. Compensation folds what a channel gives at gamma = 0,
act(beta), which is little of that.

Scored by pycocotools on the validation split at 320 pixels: letterbox, confidence above 0.001,
NMS at 0.7, at most 300 boxes.

    python benchmarks/bccd_yolov8n_compensation.py --shared ../shared
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from shared_data import write_table
from torch import nn

from yoloprune.channels import trace
from yoloprune.measure.accuracy import evaluate
from yoloprune.measure.data import load_dataset
from yoloprune.measure.detect import DetectOptions
from yoloprune.measure.size import count
from yoloprune.models.door import load
from yoloprune.prune.budget import Budget
from yoloprune.prune.cut import cut_units, self_test
from yoloprune.prune.planner import plan
from yoloprune.prune.score import gamma_quantiles, score

ROOT = Path(__file__).parent.parent
SIZE = 320
DETECT = DetectOptions(imgsz=SIZE, conf=0.001, iou=0.7, max_det=300, letterbox=True, device="cpu")


def main() -> None:
    """Fill the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shared", type=Path, default=ROOT.parent / "shared")
    name = "yolov8n-bccd-val-320px-compensation.csv"
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results" / name)
    args = parser.parse_args()
    torch.set_num_threads(1)
    dataset = load_dataset(args.shared / "data/bccd/bccd.yaml")
    dense, _ = load(args.shared / "weights/yolov8n-bccd.pt")
    graph = trace(dense)
    rows: list[dict[str, Any]] = []

    def add(percent: int, criterion: str, how: str, model: nn.Module, off: str) -> None:
        metrics = evaluate(model, dataset, DETECT).metrics
        size = count(model, SIZE)
        rows.append(
            {
                "percent": percent,
                "criterion": criterion,
                "compensation": how,
                "AP": round(metrics.AP, 4),
                "AP50": round(metrics.AP50, 4),
                "params": size.params,
                "macs": size.macs,
                "self_test": off,
            }
        )
        print(rows[-1], flush=True)

    print("|gamma|", gamma_quantiles(dense, graph))
    add(0, "-", "-", dense, "-")
    for percent in (10, 20, 30):
        for criterion in ("gamma", "l1"):
            chosen = plan(
                graph, score(dense, graph, criterion=criterion), Budget(percent=percent / 100)
            )
            remove = chosen.remove(graph)
            for how, compensate in (("off", False), ("on", True)):
                slim = cut_units(dense, graph, remove, compensate=compensate)
                test = self_test(dense, graph, remove, slim, compensated=compensate)
                add(percent, criterion, how, slim, f"{test.max_rel_diff:.1e}")
    write_table(args.out, rows)


if __name__ == "__main__":
    main()
