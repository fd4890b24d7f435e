"""The story in two minutes: a cut that keeps the boxes, then a recipe that makes it smaller still.

    make demo

The shipped network was trained as anyone would, so no channel of it is idle. It is cut and repaired
on pictures without labels: nothing is trained. Then a recipe makes some of what is left idle, cuts
that, and fine-tunes. Draws its own pictures, needs no network and no GPU, and leaves everything in
``demo/``.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from torch import nn

from yoloprune.files import write_bytes
from yoloprune.measure.accuracy import evaluate
from yoloprune.measure.data import load_dataset
from yoloprune.measure.demo_data import ShapesSpec, write_shapes
from yoloprune.measure.detect import DetectOptions, detect
from yoloprune.measure.images import read_image
from yoloprune.measure.latency import LatencyOptions, measure_latency
from yoloprune.measure.predict import boxes_of
from yoloprune.measure.size import count
from yoloprune.models.door import load
from yoloprune.prune.budget import Budget
from yoloprune.prune.cut import cut_units
from yoloprune.prune.slim import SlimOptions, SlimResult, slim
from yoloprune.report.figures import short
from yoloprune.report.plots import Panel, detections_picture
from yoloprune.report.slim import write_slim_page
from yoloprune.rounds.recipe import read_recipe
from yoloprune.rounds.run import run_recipe

SIZE = 160
WEIGHTS = Path(__file__).parent.parent / "weights/yoloprune-demo-dense.weights"
FULL, PLAIN, REPAIRED = "full size", "the cut alone", "cut and repaired"
RECIPE = """# yoloprune run recipe.yaml: what the repaired network went through next
model: cut/yoloprune-demo-slim.cfg
data: data/shapes.yaml
settings: {{plots: false}}
sparsify:
  epochs: {epochs}
  settings: {{optimizer: AdamW, lr0: 0.0005, momentum: 0.9, nbs: 16, warmup_epochs: 0.5, mosaic: 0}}
slim: {{percent: {further}}}
finetune: {{epochs: {epochs}}}
"""


class Demo:
    """One run of it."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.out = args, args.out
        self.console = Console(highlight=False)
        self.start = time.perf_counter()
        self.rows: dict[str, tuple[dict[str, float], nn.Module]] = {}

    def tell(self, text: str) -> None:
        """A line for each step."""
        self.console.print(f"[bold]•[/] {text}")

    def wrote(self, path: Path, what: str) -> None:
        """A line for each result."""
        self.console.print(f"  {path}: {what}", soft_wrap=True)

    def run(self) -> None:
        """All steps."""
        args = self.args
        self.tell("drawing pictures of circles, squares and triangles")
        self.data = write_shapes(
            self.out / "data", ShapesSpec(images=160, val=80, size=SIZE, seed=7)
        )
        self.set = load_dataset(self.data)
        self.tell(
            f"cutting {args.percent:.0%} of the channels of a trained network, and repairing the "
            "others on 64 pictures without labels"
        )
        result = self.cut()
        self.picture()
        self.table(f"{time.perf_counter() - self.start:.0f} s, and nothing was trained")
        self.tell(
            f"a recipe: {args.further:.0%} of what is left learns to be idle and goes, the rest is "
            f"tuned, {args.epochs} epochs each"
        )
        self.recipe()
        self.table("every stage")
        self.wrote(self.out / "before-after.png", "what the networks see")
        self.wrote(self.report(result), "the cut, layer by layer")
        self.wrote(self.out / "recipe", "the small network, result.cfg, and every stage before it")
        self.close()

    def cut(self) -> SlimResult:
        """Cut and repair; beside it the same cut alone."""
        dense, source = load("yoloprune-demo.cfg", WEIGHTS)
        options = SlimOptions(
            budget=Budget(percent=self.args.percent),
            out=self.out / "cut",
            data=str(self.data),
            search=self.args.search,
            repeats=0,
        )
        result = slim(dense, source, options)
        plain = cut_units(dense, result.graph, result.plan.remove(result.graph))
        self.enter({FULL: dense, PLAIN: plain, REPAIRED: result.model})
        return result

    def recipe(self) -> None:
        """Sparse training, a cut that costs nothing, and fine-tuning."""
        path, args = self.out / "recipe.yaml", self.args
        write_bytes(path, RECIPE.format(epochs=args.epochs, further=args.further).encode())
        out = self.out / "recipe"
        tuned = run_recipe(read_recipe(path), out, overwrite=True).model
        (thin,) = (out / "round1/slim").glob("*.cfg")
        sparse = load(out / "round1/sparse/sparse.cfg")[0]
        self.enter({"made sparse": sparse, "cut again": load(thin)[0], "fine-tuned": tuned})

    def enter(self, models: dict[str, nn.Module]) -> None:
        """Measure what is not the same in every table: all but time."""
        for name, model in models.items():
            options = DetectOptions(imgsz=SIZE, device="cpu", progress=False)
            metrics = evaluate(model, self.set, options).metrics
            size = count(model, SIZE)
            row = {"AP": metrics.AP, "AP50": metrics.AP50, "params": size.params, "macs": size.macs}
            self.rows[name] = (row, model)

    def table(self, title: str) -> None:
        """A row a network, timed in turn."""
        table = Table(title=f"{title} ({len(self.set.images)} pictures of {SIZE} px, CPU)")
        for name in ("", "AP50:95", "AP50", "parameters", "MACs", "latency, ms"):
            table.add_column(name, justify="left" if not name else "right", no_wrap=True)
        models = {name: model for name, (_, model) in self.rows.items()}
        times = measure_latency(models, LatencyOptions(imgsz=SIZE, repeats=60))
        for name, (row, _) in self.rows.items():
            row["ms"] = times[name].median_ms
            table.add_row(
                name,
                f"{row['AP']:.3f}",
                f"{row['AP50']:.3f}",
                short(row["params"]),
                short(row["macs"]),
                f"{row['ms']:.2f} ± {times[name].iqr_ms:.2f}",
            )
        self.console.print(table)

    def picture(self) -> None:
        """The picture with the most objects, as the networks see it."""
        number = max(range(len(self.set.images)), key=lambda i: len(self.set.labels[i]))
        path = self.set.images[number]
        image, names = read_image(path), dict(enumerate(self.set.names))
        options = DetectOptions(imgsz=SIZE, conf=0.3, clip=True, progress=False)

        def panel(name: str) -> Panel:
            row, model = self.rows[name]
            boxes: list[Any] = boxes_of(next(detect(model, [path], options)), names)
            return Panel(image, boxes, f"{name}: {short(row['macs'])} MACs, AP {row['AP']:.2f}")

        panels = [panel(name) for name in (FULL, PLAIN, REPAIRED)]
        write_bytes(self.out / "before-after.png", detections_picture(*panels))

    def report(self, result: SlimResult) -> Path:
        """The page of the cut."""
        path: Path = self.out / "cut/yoloprune-demo-slim-report.html"
        write_slim_page(
            path, result.summary, result.plan, result.graph, result.scores, result.changed
        )
        return path

    def close(self) -> None:
        """What came of it, in a sentence."""
        full, last = self.rows[FULL][0], self.rows["fine-tuned"][0]
        less = {name: full[name] / last[name] for name in ("params", "macs", "ms")}
        self.console.print(
            f"\n[bold]{less['params']:.1f} times fewer parameters, {less['macs']:.1f} times fewer "
            f"multiply-adds, {less['ms']:.1f} times as fast; AP {full['AP']:.3f} → "
            f"{last['AP']:.3f}[/], in {time.perf_counter() - self.start:.0f} s."
        )


def main() -> None:
    """Run the demo."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("demo"))
    parser.add_argument("--percent", type=float, default=0.35, help="of the first cut")
    parser.add_argument("--search", type=float, default=12, help="seconds, for better shares")
    parser.add_argument("--further", type=float, default=0.3, help="of what the first cut left")
    parser.add_argument("--epochs", type=int, default=8, help="of sparse training, and of tuning")
    Demo(parser.parse_args()).run()


if __name__ == "__main__":
    main()
