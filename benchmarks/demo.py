"""The main job on an embedded default: cut the shipped network and repair it, then the whole loop.

    make demo

The network was trained as anyone would, so no channel of it is idle. First it is cut to a share of
its multiply-adds and repaired on pictures without labels: nothing is trained. Then what is left is
made sparse, cut again and fine-tuned. Draws its own pictures, needs no network and no GPU, and
leaves everything in ``demo/``.
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
from yoloprune.measure.size import count
from yoloprune.models.door import Source, load
from yoloprune.prune.budget import Budget
from yoloprune.prune.slim import SlimOptions, SlimResult, slim
from yoloprune.report.plots import Panel, detections_picture
from yoloprune.report.slim import write_slim_page
from yoloprune.report.sparsity import write_sparsity_picture
from yoloprune.train.options import SparsityOptions, TrainOptions
from yoloprune.train.run import TrainResult, train

SIZE = 160
WEIGHTS = Path(__file__).parent.parent / "weights/yoloprune-demo-dense.weights"
SPARSE = {
    "optimizer": "AdamW",
    "lr0": 0.0005,
    "momentum": 0.9,
    "nbs": 16,
    "warmup_epochs": 0.5,
    "mosaic": 0.0,
}
"""Of the training that makes sparse."""


class Demo:
    """One run of it."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.out = args, args.out
        self.console = Console(highlight=False)
        self.start = time.perf_counter()
        self.pages: list[Path] = []

    def tell(self, text: str) -> None:
        """A line for each step."""
        self.console.print(f"[bold]•[/] {text}")

    def run(self) -> None:
        """All steps."""
        args = self.args
        self.tell("drawing pictures")
        spec = ShapesSpec(images=160, val=80, size=SIZE, seed=7)
        self.data = write_shapes(self.out / "data", spec)
        self.set = load_dataset(self.data)
        dense, source = load("yoloprune-demo.cfg", WEIGHTS)
        self.tell(
            f"cutting {args.percent:.0%} of the channels, and repairing the others on 64 pictures "
            "without labels"
        )
        first = self.cut(dense, source, args.percent, search=args.search)
        self.show({"full size": dense, "cut, repaired": first.model})
        took = time.perf_counter() - self.start
        self.tell(f"so far nothing was trained, and {took:.0f} s went by")
        self.tell(f"bringing {args.further:.0%} of the rest to zero, {args.epochs} epochs")
        sparse = self.trained(first.model, "sparse", SparsityOptions(budget=self.further))
        self.tell("cutting these, too: they are zero, so nothing changes")
        second = self.cut(*load(sparse.files[2]), args.further)
        self.tell(f"fine-tuning for {args.epochs} epochs")
        tuned = self.trained(second.model, "fine-tune", None)
        self.show(
            {
                "full size": dense,
                "cut, repaired": first.model,
                "cut again": second.model,
                "fine-tuned": tuned.last,
            }
        )
        self.pictures(dense, first.model, tuned.last)
        for path in (write_sparsity_picture(sparse.folder), *self.pages, *tuned.files[2:]):
            self.console.print(f"wrote {path}", soft_wrap=True)
        self.console.print(f"{time.perf_counter() - self.start:.0f} s")

    @property
    def further(self) -> Budget:
        """Of the second cut."""
        return Budget(percent=self.args.further)

    def cut(
        self, model: nn.Module, origin: Source, percent: float, *, search: float = 0.0
    ) -> SlimResult:
        """Cut, repair, measure, and write the page."""
        options = SlimOptions(
            budget=Budget(percent=percent),
            out=self.out / f"slim{len(self.pages) + 1}",
            data=str(self.data),
            search=search,
            repeats=0,
        )
        result = slim(model, origin, options)
        report = options.out / f"{origin.model.stem}-slim-report.html"
        write_slim_page(
            report, result.summary, result.plan, result.graph, result.scores, result.changed
        )
        self.pages.append(report)
        return result

    def trained(self, model: nn.Module, name: str, sparsity: SparsityOptions | None) -> TrainResult:
        """Train: towards a cut, or after one."""
        options = TrainOptions(
            data=str(self.data),
            epochs=self.args.epochs,
            imgsz=SIZE,
            device="cpu",
            sparsity=sparsity,
            preset="keep" if sparsity is None else "stock",
            overwrite=True,
            extra={"plots": False, **({} if sparsity is None else SPARSE)},
        )
        return train(model, self.out / name, options)

    def show(self, models: dict[str, nn.Module]) -> None:
        """A row a network, timed in turn."""
        images = len(self.set.images)
        table = Table(title=f"{images} drawn pictures, {SIZE}×{SIZE}, batch 1, CPU")
        for name in ("", "AP50:95", "AP50", "params", "MACs", "latency, ms"):
            table.add_column(name, justify="left" if not name else "right", no_wrap=True)
        times = measure_latency(models, LatencyOptions(imgsz=SIZE, repeats=100))
        for name, model in models.items():
            options = DetectOptions(imgsz=SIZE, device="cpu", progress=False)
            metrics = evaluate(model, self.set, options).metrics
            cost, sample = count(model, SIZE), times[name]
            table.add_row(
                name,
                f"{metrics.AP:.3f}",
                f"{metrics.AP50:.3f}",
                quantity(cost.params),
                quantity(cost.macs),
                f"{sample.median_ms:.2f} ± {sample.iqr_ms:.2f}",
            )
        self.console.print(table)

    def pictures(self, dense: nn.Module, repaired: nn.Module, tuned: nn.Module) -> None:
        """What they see, side by side."""
        for name, thin, title in (
            ("repaired.png", repaired, "cut and repaired, nothing trained"),
            ("fine-tuned.png", tuned, "cut twice, fine-tuned"),
        ):
            picture = self.out / name
            write_bytes(picture, _picture(dense, thin, title, self.set))
            self.console.print(f"wrote {picture}", soft_wrap=True)


def _picture(dense: nn.Module, thin: nn.Module, title: str, dataset: Dataset) -> bytes:
    """The picture with the most objects, as both models see it."""
    number = max(range(len(dataset.images)), key=lambda i: len(dataset.labels[i]))
    path = dataset.images[number]
    image = read_image(path)
    options = DetectOptions(imgsz=SIZE, conf=0.3, clip=True, progress=False)
    names: Any = dict(enumerate(dataset.names))
    return detections_picture(
        *(
            Panel(image, boxes_of(next(detect(model, [path], options)), names), what)
            for model, what in ((dense, "full size"), (thin, title))
        )
    )


def main() -> None:
    """Run the demo."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("demo"))
    parser.add_argument("--percent", type=float, default=0.35, help="of the first cut")
    parser.add_argument("--search", type=float, default=15, help="seconds, for better shares")
    parser.add_argument("--further", type=float, default=0.3, help="of what the first cut left")
    parser.add_argument("--epochs", type=int, default=10, help="of auto, and of fine-tuning")
    Demo(parser.parse_args()).run()


if __name__ == "__main__":
    main()
