"""One process of a distributed run; leaves its scales after every epoch.

python -m torch.distributed.run --nproc_per_node 2 distributed_worker.py CFG DATA OUT EPOCHS
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch

from yoloprune.models.door import load
from yoloprune.prune.budget import Budget
from yoloprune.train.keeping import student_of
from yoloprune.train.options import SparsityOptions, TrainOptions
from yoloprune.train.run import train
from yoloprune.train.trainer import KeepingDetectionTrainer

STILL = dict.fromkeys(
    ("mosaic", "fliplr", "hsv_h", "hsv_s", "hsv_v", "scale", "translate", "erasing"), 0.0
)


def main(model: str, data: str, out: str, epochs: str) -> None:
    torch.set_num_threads(1)
    rank = os.environ.get("RANK", "alone")
    real = KeepingDetectionTrainer.run_callbacks

    def run_callbacks(self: Any, event: str) -> None:
        real(self, event)
        if event == "on_train_epoch_end":
            inner = student_of(self.model)
            named = {k: v.detach().clone() for k, v in inner.named_parameters()}
            zeros = self.sparsity.gammas.zero_units(inner)
            threads = type(self.model).__name__, self.world_size
            torch.save(
                {"parameters": named, "zeros": torch.from_numpy(zeros), "how": threads},
                Path(out) / f"{rank}-{self.epoch}.pt",
            )

    KeepingDetectionTrainer.run_callbacks = run_callbacks  # type: ignore[method-assign]
    Path(out).mkdir(parents=True, exist_ok=True)
    options = TrainOptions(
        data=data,
        epochs=int(epochs),
        imgsz=64,
        batch=8,
        device="cpu",
        sparsity=SparsityOptions(
            budget=Budget(percent=0.5, min_channels=2), criterion="taylor"
        ),
        extra={
            "plots": False, "verbose": False, "optimizer": "SGD", "lr0": 0.001, "nbs": 8,
            "warmup_epochs": 0, "close_mosaic": 0, **STILL,
        },
    )  # fmt: skip
    result = train(load(model)[0], Path(out) / "run", options)
    assert bool(result.files) == (rank in ("alone", "0"))


if __name__ == "__main__":
    main(*sys.argv[1:])
