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
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import repair_tables
from repair_tables import (
    NETS,
    RESULTS,
    ROOT,
    SETTINGS,
    SHARED,
    SIZE,
    Table,
    ap_of,
    data_of,
    device_name,
    here,
    one_thread,
    start_of,
    work,
)

from yoloprune.measure.data import load_dataset
from yoloprune.models.door import load
from yoloprune.train.options import DistillOptions, TrainOptions
from yoloprune.train.run import train
from yoloprune.train.unlabelled import learning_rate

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


def rows(cell: Cell, device: str, out: Path) -> list[Row]:
    """One training."""
    point = repair_tables.Cell(
        network=cell.network, share=cell.share, criterion="recon", way="repaired"
    )
    model, data = start_of(point, device, out)[0], data_of(cell.network)
    pictures = len(load_dataset(data, split="train").images)
    a_pass = math.ceil(pictures / BATCH)
    epochs = math.ceil(cell.asked / a_pass)
    start = time.perf_counter()
    if epochs:
        model = train(model, out / cell.name, options_of(cell, epochs, device)).last
    seconds = time.perf_counter() - start
    found, place = ap_of(model, cell.network, device), device_name(device)
    return [
        Row(
            **asdict(cell),
            steps=epochs * a_pass,
            AP=round(found.AP, 4),
            AP50=round(found.AP50, 4),
            seconds=round(seconds, 1),
            device="cpu, 1 thread" if place == "cpu" else place,
        )
    ]


def options_of(cell: Cell, epochs: int, device: str) -> TrainOptions:
    """The same for both ways, but for what is learnt from."""
    data, dense = data_of(cell.network), SHARED / NETS[cell.network][0]
    common: dict[str, Any] = {
        "imgsz": SIZE, "batch": BATCH, "device": device, "seed": cell.seed, "resume": True,
        "preset": "keep", "epochs": epochs,
    }  # fmt: skip
    if cell.way == "teacher-only":
        teacher = DistillOptions(teacher=str(dense))
        return TrainOptions(pictures=data, distil=teacher, extra=SETTINGS, **common)
    rate = learning_rate(len(load(str(dense))[0].names), epochs)
    return TrainOptions(data=data, extra={**SETTINGS, "lr0": rate}, **common)


def cells(wanted: list[int]) -> Iterator[Cell]:
    """What decides first."""
    for steps in wanted:
        for network, share in POINTS:
            for way in ("teacher-only", "labelled")[: 1 if steps == 0 else 2]:
                yield Cell(network=network, share=share, way=way, asked=steps)


def main() -> None:
    """Run what is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, nargs="+", default=STEPS)
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
        for cell in cells(args.steps)
        if here(cell.network) and not table.has(**asdict(cell))
    ]
    work(table, todo, args)


if __name__ == "__main__":
    main()
