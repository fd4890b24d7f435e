"""The main job on an embedded default: slim the shipped network, fine-tune it, compare.

    make demo

Draws its own pictures, needs no network and no GPU, and leaves everything in ``demo/``.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from torch import nn

from yoloprune.demo_data import ShapesSpec, write_shapes
from yoloprune.files import write_bytes
from yoloprune.measure.accuracy import evaluate
from yoloprune.measure.data import Dataset, load_dataset
from yoloprune.measure.detect import DetectOptions, detect
from yoloprune.measure.images import read_image
from yoloprune.measure.latency import LatencyOptions, measure_latency
from yoloprune.measure.size import count, file_bytes
from yoloprune.models import load
from yoloprune.pipeline import SlimOptions, slim
from yoloprune.plan import Budget
from yoloprune.predict import boxes_of
from yoloprune.report.plots import Panel, detections_picture
from yoloprune.report.slim import write_slim_report
from yoloprune.show import quantity
from yoloprune.train.options import TrainOptions
from yoloprune.train.run import train

SIZE = 160
FINE_TUNE = {
    "optimizer": "AdamW",
    "lr0": 0.0005,
    "momentum": 0.9,
    "nbs": 16,
    "warmup_epochs": 0.5,
    "mosaic": 0.0,
    "plots": False,
}


def main() -> None:
    """Run the demo."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("demo"))
    parser.add_argument("--percent", type=float, default=0.6)
    parser.add_argument("--epochs", type=int, default=6, help="of fine-tuning")
    args = parser.parse_args()
    start = time.perf_counter()
    console = Console(highlight=False)

    console.print("[bold]1/4[/] drawing pictures")
    data = write_shapes(args.out / "data", ShapesSpec(images=160, val=80, size=SIZE, seed=7))
    dataset = load_dataset(data)
    dense, source = load("yoloprune-demo.cfg")

    console.print(
        f"[bold]2/4[/] slimming {source.model.name} by {args.percent:.0%} of its channels"
    )
    options = SlimOptions(
        budget=Budget(percent=args.percent), out=args.out / "slim", data=str(data)
    )
    result = slim(dense, source, options)
    write_slim_report(options.out, result.summary, result.plan, result.graph, result.scores)

    console.print(f"[bold]3/4[/] fine-tuning for {args.epochs} epochs")
    training = TrainOptions(
        data=str(data), epochs=args.epochs, imgsz=SIZE, device="cpu", extra=FINE_TUNE
    )
    tuned = train(result.model, args.out / "fine-tune", training)

    console.print("[bold]4/4[/] measuring")
    files = (source.model, source.weights)
    models = {
        "full size": (dense, file_bytes(f for f in files if f)),
        "slim": (result.model, file_bytes(result.summary["files"]["model"])),
        "slim, fine-tuned": (tuned.last, file_bytes(tuned.files[2:])),
    }
    console.print(_table(models, dataset))
    picture = args.out / "detections.png"
    write_bytes(picture, _picture(dense, tuned.last, dataset))
    for path in (picture, options.out / "report.html", *tuned.files[2:]):
        console.print(f"wrote {path}", soft_wrap=True)
    console.print(f"{time.perf_counter() - start:.0f} s")


def _table(models: dict[str, tuple[nn.Module, int]], dataset: Dataset) -> Table:
    table = Table(title=f"{len(dataset.images)} drawn pictures, {SIZE}×{SIZE}, batch 1, CPU")
    for name in ("", "AP50:95", "AP50", "params", "MACs", "bytes", "latency, ms"):
        table.add_column(name, justify="left" if not name else "right", no_wrap=True)
    times = measure_latency(
        {name: model for name, (model, _) in models.items()},
        LatencyOptions(imgsz=SIZE, repeats=100),
    )
    for name, (model, size) in models.items():
        metrics = evaluate(model, dataset, DetectOptions(imgsz=SIZE, device="cpu")).metrics
        cost = count(model, SIZE)
        sample = times[name]
        table.add_row(
            name,
            f"{metrics.AP:.3f}",
            f"{metrics.AP50:.3f}",
            quantity(cost.params),
            quantity(cost.macs),
            quantity(size),
            f"{sample.median_ms:.2f} ± {sample.iqr_ms:.2f}",
        )
    return table


def _picture(dense: nn.Module, thin: nn.Module, dataset: Dataset) -> bytes:
    """The picture with the most objects, as both models see it."""
    number = max(range(len(dataset.images)), key=lambda i: len(dataset.labels[i]))
    path = dataset.images[number]
    image = read_image(path)
    options = DetectOptions(imgsz=SIZE, conf=0.3, clip=True, progress=False)
    names: Any = dict(enumerate(dataset.names))
    return detections_picture(
        *(
            Panel(image, boxes_of(next(detect(model, [path], options)), names), title)
            for model, title in ((dense, "full size"), (thin, "slim, fine-tuned"))
        )
    )


if __name__ == "__main__":
    main()
