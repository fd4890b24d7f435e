"""The main job on an embedded default: cut the shipped network, make the rest sparse, cut again.

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

from yoloprune.cli.tables import quantity
from yoloprune.files import write_bytes
from yoloprune.measure.accuracy import evaluate
from yoloprune.measure.data import Dataset, load_dataset
from yoloprune.measure.demo_data import ShapesSpec, write_shapes
from yoloprune.measure.detect import DetectOptions, detect
from yoloprune.measure.images import read_image
from yoloprune.measure.latency import LatencyOptions, measure_latency
from yoloprune.measure.predict import boxes_of
from yoloprune.measure.size import count, file_bytes
from yoloprune.models.door import Source, load
from yoloprune.prune.plan import Budget
from yoloprune.prune.slim import SlimOptions, SlimResult, slim
from yoloprune.report.plots import Panel, detections_picture
from yoloprune.report.slim import write_slim_report
from yoloprune.report.sparsity import write_sparsity_picture
from yoloprune.train.options import SparsityOptions, TrainOptions
from yoloprune.train.run import TrainResult, train

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
    parser.add_argument("--percent", type=float, default=0.6, help="of the first cut")
    parser.add_argument("--further", type=float, default=0.3, help="of what the first cut left")
    parser.add_argument("--epochs", type=int, default=12, help="of auto, and of fine-tuning")
    args = parser.parse_args()
    start = time.perf_counter()
    console = Console(highlight=False)
    steps = iter(
        (
            "drawing pictures",
            f"cutting {args.percent:.0%} of the channels, which stand at zero since training",
            f"bringing {args.further:.0%} of the rest to zero by auto, {args.epochs} epochs",
            "cutting these, too",
            f"fine-tuning for {args.epochs} epochs",
            "measuring",
        )
    )

    def tell() -> None:
        console.print(f"[bold]•[/] {next(steps)}")

    tell()
    data = write_shapes(args.out / "data", ShapesSpec(images=160, val=80, size=SIZE, seed=7))
    dataset = load_dataset(data)
    dense, source = load("yoloprune-demo.cfg")
    budgets = [Budget(percent=share) for share in (args.percent, args.further)]

    pages: list[Path] = []

    def cut(model: nn.Module, origin: Source, number: int) -> SlimResult:
        tell()
        options = SlimOptions(
            budget=budgets[number], out=args.out / f"slim{number + 1}", data=str(data)
        )
        result = slim(model, origin, options)
        report = options.out / f"{origin.model.stem}-slim-report.html"
        write_slim_report(report, result.summary, result.plan, result.graph, result.scores)
        pages.append(report)
        return result

    def trained(model: nn.Module, name: str, sparsity: SparsityOptions | None) -> TrainResult:
        tell()
        options = TrainOptions(
            data=str(data), epochs=args.epochs, imgsz=SIZE, device="cpu", sparsity=sparsity,
            overwrite=True, extra=FINE_TUNE,
        )  # fmt: skip
        return train(model, args.out / name, options)

    first = cut(dense, source, 0)
    sparse = trained(first.model, "sparse", SparsityOptions(budget=budgets[1]))
    second = cut(*load(sparse.files[2]), 1)
    tuned = trained(second.model, "fine-tune", None)

    tell()
    models = {
        "full size": (dense, file_bytes(f for f in (source.model, source.weights) if f)),
        "cut": (first.model, file_bytes(first.summary["files"]["model"])),
        "cut again": (second.model, file_bytes(second.summary["files"]["model"])),
        "fine-tuned": (tuned.last, file_bytes(tuned.files[2:])),
    }
    console.print(_table(models, dataset))
    picture = args.out / "detections.png"
    write_bytes(picture, _picture(dense, tuned.last, dataset))
    for path in (picture, write_sparsity_picture(sparse.folder), *pages, *tuned.files[2:]):
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
            for model, title in ((dense, "full size"), (thin, "cut twice, fine-tuned"))
        )
    )


if __name__ == "__main__":
    main()
