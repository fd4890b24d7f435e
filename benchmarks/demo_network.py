"""Make the shipped demo network, on generated pictures: trained as anyone would, then sparse.

    python benchmarks/demo_network.py --out benchmarks/runs/demo_network

Writes ``weights/yoloprune-demo-dense.weights`` and ``weights/yoloprune-demo.weights``, both of the
shipped cfg. Stages that are done are kept.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from yoloprune.files import write_bytes
from yoloprune.measure.demo_data import ShapesSpec, write_shapes
from yoloprune.models.door import load
from yoloprune.prune.budget import Budget
from yoloprune.train.options import SparsityOptions, TrainOptions
from yoloprune.train.run import train

ROOT = Path(__file__).parent.parent
SETTINGS = {
    "nbs": 16,
    "plots": False,
    "patience": 1000,
    "hsv_h": 0.1,
    "degrees": 20.0,
    "flipud": 0.5,
    "warmup_epochs": 1,
}
DENSE = {"optimizer": "AdamW", "lr0": 0.002, "momentum": 0.9, "cos_lr": True}
SPARSE = {"optimizer": "AdamW", "lr0": 0.001, "momentum": 0.9, "cos_lr": True}


def main() -> None:
    """Train both stages and put the weights into place."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/runs/demo_network")
    parser.add_argument("--epochs", type=int, default=60, help="of the dense stage")
    parser.add_argument("--sparse-epochs", type=int, default=30)
    parser.add_argument("--percent", type=float, default=0.6, help="of channels to go to zero")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    data = write_shapes(args.out / "data", ShapesSpec(images=600, val=100, seed=1))
    torch.manual_seed(0)
    model, _ = load(ROOT / "cfg/yoloprune-demo.cfg", scratch=True)
    sparsity = SparsityOptions(budget=Budget(percent=args.percent), criterion="gamma")
    stages = (
        ("dense", args.epochs, None, DENSE, "yoloprune-demo-dense"),
        ("sparse", args.sparse_epochs, sparsity, SPARSE, "yoloprune-demo"),
    )
    for name, epochs, sparse, settings, shipped in stages:
        if not epochs:
            continue
        options = TrainOptions(
            data=str(data),
            epochs=epochs,
            imgsz=160,
            batch=16,
            device=args.device,
            sparsity=sparse,
            resume=True,
            extra={**SETTINGS, **settings},
        )
        model = train(model, args.out / name, options).last
        weights = args.out / name / "weights" / "last.weights"
        write_bytes(ROOT / f"weights/{shipped}.weights", weights.read_bytes())


if __name__ == "__main__":
    main()
