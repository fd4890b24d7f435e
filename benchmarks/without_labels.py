"""Learning from a teacher alone, without labels, beside the labelled fine-tune of equal steps.

    python benchmarks/without_labels.py

Cut by recon at a share of the MACs, repaired, then trained: AP over steps, on the validation split,
which nothing was chosen by. Each budget has a schedule of its own; both ways have the same one, the
same pictures, augmentations and seed. A finished row is not run again, so that the table can be
made in parts (``--minutes``); ``seconds`` is the training alone, cut and repair not counted.

Ways:

    teacher-only  the dense network's outputs and features are the loss, no label is read
    labelled      the labels are, as in every fine-tune
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from repair_tables import (
    NETS,
    RESULTS,
    ROOT,
    SETTINGS,
    SHARED,
    SIZE,
    Table,
    at_macs,
    data_of,
    one_thread,
    opened,
    work,
)
from torch import nn

from yoloprune.measure.accuracy import evaluate
from yoloprune.measure.copies import find_device
from yoloprune.measure.data import load_dataset
from yoloprune.measure.detect import DetectOptions
from yoloprune.models.door import load, save
from yoloprune.prune.cut import cut_units, kept_units
from yoloprune.prune.repair import RepairOptions, repair
from yoloprune.train.options import DistillOptions, TrainOptions
from yoloprune.train.run import train

BATCH = 16
POINTS = (("yolov8n-bccd", 0.25), ("yolov5n-coco", 0.75))
"""Networks, and the share of the MACs that is left of each."""
STEPS = (0, 100, 400, 200, 800)
"""What is asked for; a row says how many there were, which are whole passes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One row to be."""

    network: str
    share: float
    way: str
    asked: int
    seed: int = 0

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.network}-{self.share}-{self.way}-{self.asked}-s{self.seed}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row(Cell):
    """What came of it."""

    steps: int
    AP: float
    AP50: float
    seconds: float
    device: str


def started(cell: Cell, device: str, out: Path) -> nn.Module:
    """The slim network before any step, made once."""
    suffix = Path(NETS[cell.network][0]).suffix
    file = out / f"{cell.network}-{cell.share}-s{cell.seed}{suffix}"
    if not file.is_file():
        net = opened(cell.network, seed=cell.seed)
        _, remove = at_macs(net, "recon", cell.share, device)
        folded = cut_units(net.model, net.graph, remove)
        kept = kept_units(net.graph, remove)
        options = RepairOptions(device=device)
        mended = repair(net.model, folded, net.graph, kept, net.pictures, options).model
        save(mended, file)
    return load(str(file))[0]


def rows(cell: Cell, device: str, out: Path) -> list[Row]:
    """One training."""
    model, data = started(cell, device, out), data_of(cell.network)
    pictures = len(load_dataset(data, split="train").images)
    a_pass = math.ceil(pictures / BATCH)
    epochs = math.ceil(cell.asked / a_pass)
    start = time.perf_counter()
    if epochs:
        model = train(model, out / cell.name, options_of(cell, epochs, device)).last
    seconds = time.perf_counter() - start
    found = evaluate(
        model, load_dataset(data), DetectOptions(imgsz=SIZE, device=device, progress=False)
    ).metrics
    place = find_device(device)
    return [
        Row(
            **{field.name: getattr(cell, field.name) for field in fields(Cell)},
            steps=epochs * a_pass,
            AP=round(found.AP, 4),
            AP50=round(found.AP50, 4),
            seconds=round(seconds, 1),
            device=torch.cuda.get_device_name(place) if place.type == "cuda" else "cpu, 1 thread",
        )
    ]


def options_of(cell: Cell, epochs: int, device: str) -> TrainOptions:
    """The same for both ways, but for what is learnt from."""
    data = data_of(cell.network)
    extra: dict[str, Any] = {
        **SETTINGS,
        "lr0": 0.0005,
        "warmup_epochs": min(1.0, 0.1 * epochs),
        "close_mosaic": math.ceil(0.4 * epochs),
    }
    common: dict[str, Any] = {
        "imgsz": SIZE, "batch": BATCH, "device": device, "seed": cell.seed, "resume": True,
        "extra": extra, "epochs": epochs,
    }  # fmt: skip
    if cell.way == "labelled":
        return TrainOptions(data=data, **common)
    teacher = DistillOptions(teacher=str(SHARED / NETS[cell.network][0]))
    return TrainOptions(pictures=data, distil=teacher, **common)


def cells() -> Iterator[Cell]:
    """What decides first."""
    for steps in STEPS:
        for network, share in POINTS:
            for way in ("teacher-only", "labelled")[: 1 if steps == 0 else 2]:
                yield Cell(network=network, share=share, way=way, asked=steps)


def main() -> None:
    """Run what is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--minutes", type=float, default=1e6)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--work", type=Path, default=ROOT / "runs/without-labels")
    args = parser.parse_args()
    one_thread()
    table = Table(args.out / "without-labels-320px.csv", Row)
    todo: list[Any] = [
        (rows, (cell, args.device, args.work.resolve()))
        for cell in cells()
        if (SHARED / NETS[cell.network][0]).is_file()
        and not table.has(**{f.name: getattr(cell, f.name) for f in fields(Cell)})
    ]
    work(table, todo, args)


if __name__ == "__main__":
    main()
